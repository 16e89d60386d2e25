"""Text from a model, one token at a time: greedy or sampled, with a key-value cache where the model has one.

Axes: B = 1 text, T tokens, V vocabulary.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lmplay_tui.errors import UserError


def generate(
    model: nn.Module, prompt_ids: Sequence[int], *, max_tokens: int, context_len: int, eot: int | None,
    temperature: float = 0.0, top_k: int | None = None, top_p: float | None = None, repetition_penalty: float = 1.0,
    generator: torch.Generator | None = None, stop: Callable[[], bool] | None = None,
) -> Generator[int, None, None]:  # fmt: skip
    """Yield the tokens that follow `prompt_ids`, at most `max_tokens`; ends before an `eot`, which is not yielded.

    `temperature` 0 takes the likeliest token; above, tokens are drawn by `generator` (one of the CPU gives the same
    text on every device; None: a fresh one, seeded by the system), so that the global random state is never touched.
    `stop` is asked before each token.
    Beyond the context the text's beginning is forgotten, see `window_start`.
    The model is in evaluation mode until the iterator ends or is closed, then in the mode it had.
    Raises `ValueError` for an empty prompt and `UserError` if the model's numbers are not finite.
    """
    ids = list(prompt_ids)
    if not ids:
        raise ValueError("generation needs at least one token to begin with")
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    reader = _Reader(model, context_len)
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


def window_start(length: int, context_len: int) -> int:
    """Index of the first of `length` tokens that the model still reads.

    Once the context is full, half of it is forgotten at a time: learned positions make everything in a cache stale
    as soon as the window moves, so it moves seldom.
    """
    if length <= context_len:
        return 0
    stride = max(context_len // 2, 1)
    return -(-(length - context_len) // stride) * stride


class _Reader:
    """Feeds a growing text to a model and gives the logits after its last token, on the CPU."""

    def __init__(self, model: nn.Module, context_len: int) -> None:
        self._model = model
        self._context_len = context_len
        first = next(model.parameters(), None)
        self._device = first.device if first is not None else torch.device("cpu")
        self._new_cache = getattr(model, "new_cache", None)
        self._cache: Any = None
        self._cache_start = -1
        self._num_read = 0  # tokens of the text that the cache holds or has forgotten

    @torch.no_grad()
    def next_logits(self, ids: Sequence[int]) -> Tensor:
        start = window_start(len(ids), self._context_len)
        if self._new_cache is None:
            logits_BTV = self._model(self._tensor(ids[start:]))
        else:
            if start != self._cache_start:
                self._cache, self._cache_start, self._num_read = self._new_cache(1), start, start
            logits_BTV = self._last_logits(self._tensor(ids[self._num_read :]))
            self._num_read = len(ids)
        logits_V: Tensor = logits_BTV[0, -1].float().cpu()
        return logits_V

    def _last_logits(self, ids_BT: Tensor) -> Tensor:
        """Logits with the cache; of the last position alone where the model has body and head apart."""
        hidden, head = getattr(self._model, "hidden", None), getattr(self._model, "head", None)
        if callable(hidden) and isinstance(head, nn.Module):
            last: Tensor = head(hidden(ids_BT, self._cache)[:, -1:])
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
