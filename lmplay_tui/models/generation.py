"""Text from a model, one token at a time: greedy or sampled, with a key-value cache where the model has one.

Axes: B = 1 text, T tokens, V vocabulary.
"""

from collections.abc import Callable, Generator, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from lmplay_tui.errors import UserError
from lmplay_tui.models.body import body_of
from lmplay_tui.models.probing import general_position, kept

_ROUNDINGS = 200  # of the number format's step: what sums in two orders may differ by


class Reading(Enum):
    """How a growing text is read; the value says it."""

    BODY = "by hidden and head with a cache"
    CACHE = "by forward with a cache"
    FORWARD = "by forward without a cache"


def choose_reading(model: nn.Module, context_len: int) -> tuple[Reading, str | None]:
    """The fastest way to read that gives what `forward` gives, tried on a few tokens; and how a faster one differs.

    Weights, buffers and mode are afterwards bit by bit those of before.
    """
    if not callable(getattr(model, "new_cache", None)):
        return Reading.FORWARD, None
    problem: str | None = None
    for reading in (Reading.CACHE,) if body_of(model) is None else (Reading.BODY, Reading.CACHE):
        with kept(model):
            model.eval()
            difference = _reading_differs(model, context_len, reading)
        if difference is None:
            return reading, problem
        problem = problem or difference
    return Reading.FORWARD, problem


def _reading_differs(model: nn.Module, context_len: int, reading: Reading) -> str | None:
    ids = [0, 1, 2, 1, 0, 2][: max(context_len - 1, 1)]
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    most = 0.02 if first.device.type != "cpu" else min(_ROUNDINGS * torch.finfo(first.dtype).eps, 0.1)
    try:
        with general_position(model):
            reader = _Reader(model, context_len, reading)
            if len(ids) > 1:
                reader.next_logits(ids[:-1])
            found, expected = reader.next_logits(ids), _Reader(model, context_len, Reading.FORWARD).next_logits(ids)
    except Exception as error:  # whatever the model's own code raises
        return f"new_cache cannot be used ({type(error).__name__}: {error})"
    if found.shape != expected.shape:
        return f"with new_cache there are {len(found)} logits instead of {len(expected)}"
    size, difference = (float(x.square().mean().sqrt()) for x in (expected, found - expected))
    if difference <= most * size:
        return None
    return f"with new_cache the logits differ by {100 * difference / max(size, 1e-30):.2g} %"


def generate(
    model: nn.Module, prompt_ids: Sequence[int], *, max_tokens: int, context_len: int, eot: int | None,
    temperature: float = 0.0, top_k: int | None = None, top_p: float | None = None, repetition_penalty: float = 1.0,
    generator: torch.Generator | None = None, stop: Callable[[], bool] | None = None, reading: Reading | None = None,
) -> Generator[int, None, None]:  # fmt: skip
    """Yield the tokens that follow `prompt_ids`, at most `max_tokens`; ends before an `eot`, which is not yielded.

    `temperature` 0 takes the likeliest token; above, tokens are drawn by `generator` (one of the CPU gives the same
    text on every device; None: a fresh one, seeded by the system), so that the global random state is never touched.
    `stop` is asked before each token.
    `reading`: what `choose_reading` gave for the model; None: chosen here.
    At most `context_len - 1` tokens are read: a sample's last token is only ever predicted, so the last position of
    the context has never been trained. Beyond that the text's beginning is forgotten, see `window_start`.
    The model is in evaluation mode until the iterator ends or is closed, then in the mode it had.
    Raises `ValueError` for an empty prompt and `UserError` if the model's numbers are not finite.
    """
    ids = list(prompt_ids)
    if not ids:
        raise ValueError("generation needs at least one token to begin with")
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    reader = _Reader(model, context_len, choose_reading(model, context_len)[0] if reading is None else reading)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for _ in range(max_tokens):
            if stop is not None and stop():
                return
            logits_V = reader.next_logits(ids)
            if not torch.isfinite(logits_V.max()):  # the maximum of anything with a NaN is NaN
                raise UserError("the model's numbers are not finite (NaN); use an earlier checkpoint")
            logits_V = penalize(logits_V, ids, repetition_penalty)
            if temperature <= 0:
                token = int(logits_V.argmax())
            else:
                token = draw(logits_V, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
            if token == eot:
                return
            ids.append(token)
            yield token
    finally:
        for module in training:
            module.training = True


def window_start(length: int, most: int) -> int:
    """Index of the first of `length` tokens that the model still reads, of which there are at most `most`.

    Once that is full, half of it is forgotten at a time: learned positions make everything in a cache stale
    as soon as the window moves, so it moves seldom.
    """
    if length <= most:
        return 0
    stride = max(most // 2, 1)
    return -(-(length - most) // stride) * stride


class _Reader:
    """Feeds a growing text to a model and gives the logits after its last token, on the CPU."""

    def __init__(self, model: nn.Module, context_len: int, reading: Reading) -> None:
        self._model = model
        self._most = max(context_len - 1, 1)  # tokens read at a time
        self._reading = reading
        first = next(model.parameters(), None)
        self._device = first.device if first is not None else torch.device("cpu")
        self._cache: Any = None
        self._cache_start = -1
        self._num_read = 0  # tokens of the text that the cache holds or has forgotten

    @torch.no_grad()
    def next_logits(self, ids: Sequence[int]) -> Tensor:
        start = window_start(len(ids), self._most)
        if self._reading is Reading.FORWARD:
            logits_BTV = self._model(self._tensor(ids[start:]))
        else:
            if start != self._cache_start:
                new_cache: Callable[[int], Any] = self._model.new_cache  # type: ignore[assignment]
                self._cache, self._cache_start, self._num_read = new_cache(1), start, start
            logits_BTV = self._last_logits(self._tensor(ids[self._num_read :]))
            self._num_read = len(ids)
        logits_V: Tensor = logits_BTV[0, -1].float().cpu()
        return logits_V

    def _last_logits(self, ids_BT: Tensor) -> Tensor:
        """Logits with the cache; of the last position alone where body and head are apart."""
        if self._reading is Reading.BODY:
            model: Any = self._model
            last: Tensor = model.head(model.hidden(ids_BT, self._cache)[:, -1:])
            return last
        logits_BTV: Tensor = self._model(ids_BT, self._cache)
        return logits_BTV

    def _tensor(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([ids], dtype=torch.int64, device=self._device)


def penalize(logits_V: Tensor, ids: Sequence[int], penalty: float) -> Tensor:
    """Make tokens of the text so far less likely by a `penalty` above 1 (Keskar et al. 2019, section 4.1).

    Positive logits are divided by it, negative ones multiplied, so that both fall.
    """
    if penalty == 1.0:
        return logits_V
    seen = torch.tensor(sorted(set(ids)), dtype=torch.int64)
    of_seen = logits_V[seen]
    return logits_V.index_put((seen,), torch.where(of_seen > 0, of_seen / penalty, of_seen * penalty))


def draw(
    logits_V: Tensor, *, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator
) -> int:
    """Draw a token from the softmax of logits / temperature, cut to the likeliest.

    `top_k`: among the k likeliest. `top_p`: among the fewest whose probabilities reach p together
    (Holtzman et al. 2019, section 3.1); the likeliest always stays.
    """
    # Shifted before it is divided: the softmax is the same, and a tiny temperature cannot overflow.
    values, tokens = ((logits_V - logits_V.max()) / temperature).sort(descending=True, stable=True)
    if top_k is not None:
        values, tokens = values[:top_k], tokens[:top_k]
    p = values.softmax(dim=0)
    if top_p is not None:
        kept = p.cumsum(dim=0) - p < top_p  # what lies before a token has not reached top_p yet
        kept[0] = True  # also where top_p is too small for float32
        p = torch.where(kept, p, 0.0)
    return int(tokens[int(torch.multinomial(p.to(generator.device), 1, generator=generator))])
