"""The mathematics of one optimizer step.

Axes: B samples of a mini-batch, T tokens, C width, V vocabulary, N positions in the loss (flat over B and T).

How long the parts of a step take, on processors and on GPUs that work behind the program's back.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from lmplay_tui.data.samples import Sample
from lmplay_tui.train.collate import FewShapes, MiniBatch, collate, mini_batches, pack
from lmplay_tui.train.loss import HeadLoss, loss_and_argmax


class StepClock:
    """Adds up the seconds of a step's parts.

    With CUDA the parts' ends are marks in the GPU's queue: they are read where the step waits for the device anyway,
    and what has not been reached by then (the optimizer) is counted at the next reading.
    With MPS, reading such marks would be another wait. There the processor's clock tells when work was put into the
    queue, and when the device had done it: what it does of both passes ends with that wait and belongs to `backward`
    (`waited`); what it does of the optimizer falls into the next step's `backward`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()
        self._marks: list[tuple[str, torch.cuda.Event]] = []

    def mark(self, part: str = "") -> None:
        """The time since the last mark belongs to `part`; to none without a name."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
            self._marks.append((part, event))
            return
        now = time.perf_counter()
        self._add(part, now - self._last)
        self._last = now

    def waited(self) -> None:
        """The device has just been waited for, after a backward pass."""
        if self._device.type == "mps":
            self.mark("backward")

    def read(self) -> dict[str, float]:
        """Seconds by part since the last reading, of what the device has finished."""
        while len(self._marks) > 1 and self._marks[1][1].query():  # type: ignore[no-untyped-call]
            (_, begun), (part, ended) = self._marks[0], self._marks[1]
            self._add(part, begun.elapsed_time(ended) / 1000)
            del self._marks[0]
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _add(self, part: str, seconds: float) -> None:
        if part:
            self._seconds[part] = self._seconds.get(part, 0.0) + seconds


class Packable(Protocol):
    """A model that reads samples one behind the other: P positions without padding."""

    def can_pack(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether `trunk` runs there."""

    def embed(self, ids_P: Tensor, positions_P: Tensor) -> Tensor:
        """What goes into `trunk`, (P, C), without a graph."""

    def embed_backward(self, grad_PC: Tensor, ids_P: Tensor, positions_P: Tensor) -> None:
        """Add what the gradient of `embed`'s output gives to its parameters."""

    def trunk(self, x_PC: Tensor, offsets: Tensor) -> Tensor:
        """What goes into the head, (P, C); `offsets`: where each sample begins, and P."""


class StopRequested(Exception):
    """Somebody asked to stop between two mini-batches; the step did not happen."""


def num_loss_tokens(samples: Sequence[Sample], *, include_prompts: bool) -> int:
    """Tokens that count in the loss of `samples`."""
    if include_prompts:
        return sum(len(s.prompt_ids) + len(s.truth_ids) - 1 for s in samples)
    return sum(len(s.truth_ids) for s in samples)


@dataclass
class StepResult:
    """What one step measured. Reading `loss` waits for the device."""

    loss_on_device: Tensor | float = float("nan")
    grad_norm: float = float("nan")
    num_samples: int = 0
    num_tokens: int = 0
    num_positions: int = 0  # computed, padding included
    num_loss_tokens: int = 0
    skipped: bool = False  # the float16 scaler met an overflow: no update, smaller scale
    samples: list[tuple[Sample, slice]] = field(default_factory=list)  # with their places in `argmax_N`
    argmax_N: Tensor | None = None  # on the processor; of all mini-batches
    seconds: dict[str, float] = field(default_factory=dict)  # by part; a GPU's optimizer: the step before's

    @property
    def loss(self) -> float:
        """Nats a token, over the batch."""
        self.loss_on_device = float(self.loss_on_device)
        return self.loss_on_device

    @loss.setter
    def loss(self, value: float) -> None:
        self.loss_on_device = value

    def predictions(self) -> Iterator[tuple[Sample, list[int]]]:
        """Each sample with the likeliest token at each of its truth positions; nothing where they were not wanted."""
        if self.argmax_N is not None:
            tokens = self.argmax_N.tolist()
            for sample, place in self.samples:
                yield sample, tokens[place]


@dataclass
class StepSettings:
    """How a step is done on this device; changes nothing in what it computes but rounding."""

    device: torch.device
    mini_batch_size: int
    normalization: str  # tokens or samples
    include_prompts: bool
    grad_clip: float | None
    autocast: Callable[[], torch.autocast]
    scaler: torch.amp.GradScaler | None = None
    width_multiple: int = 1
    longest: int | None = None  # positions that the model can read
    least_rows: int = 1
    graphs: bool = False  # mini-batches run as recorded CUDA graphs
    want_argmax: bool = True
    head_loss: HeadLoss = field(default_factory=HeadLoss)
    clock: StepClock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = StepClock(self.device)

    @property
    def few_shapes(self) -> FewShapes | None:
        """What packed samples are filled up to; None: nothing asks for it."""
        if self.width_multiple == 1 or self.longest is None:
            return None
        return FewShapes(self.mini_batch_size, self.width_multiple * self.mini_batch_size, self.longest)

    @property
    def exact(self) -> torch.dtype:
        """What the losses of a batch are summed in."""
        return torch.float32 if self.device.type == "mps" else torch.float64


def accumulate_gradients(
    model: nn.Module,
    hidden: Callable[[Tensor], Tensor] | None,
    samples: Sequence[Sample],
    settings: StepSettings,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    trunk: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> StepResult:
    """Add the gradient of a batch's loss to the parameters' `grad`, mini-batch by mini-batch.

    `hidden`: the model's body where body and head are apart. `trunk`: the body for packed samples, without padding.
    `tokens`: loss = (sum over all loss tokens) / (their number in the batch).
    `samples`: each mini-batch's mean over its tokens, weighted by its share of the samples (the user's document).
    Raises `StopRequested` between mini-batches.
    """
    by_tokens = settings.normalization == "tokens"
    batch_loss_tokens = num_loss_tokens(samples, include_prompts=settings.include_prompts)
    settings.head_loss.begin_step()
    result = StepResult(num_samples=len(samples), num_loss_tokens=batch_loss_tokens)
    loss = torch.zeros((), dtype=settings.exact, device=settings.device)
    argmaxes: list[Tensor] = []
    begin = 0
    for part in mini_batches(samples, settings.mini_batch_size, by_length=by_tokens):
        if should_stop():
            raise StopRequested
        if settings.graphs:  # torch guesses where a run begins, wrongly where a pass ended before its backward
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        if trunk is None:
            mini = collate(
                part, include_prompts=settings.include_prompts, device=settings.device,
                multiple=settings.width_multiple, most=settings.longest, least_rows=settings.least_rows,
            )  # fmt: skip
        else:
            mini = pack(
                part, include_prompts=settings.include_prompts, device=settings.device,
                few_shapes=settings.few_shapes,
            )  # fmt: skip
        if by_tokens:
            # Divide by the whole batch's tokens, not the mini-batch's: a mean of means depends on the cut.
            scale = 1.0 / batch_loss_tokens
        else:
            scale = len(part) / len(samples) / mini.num_loss_tokens
        loss_sum, argmax_N = _forward_and_backward(mini, model, hidden, trunk, scale=scale, settings=settings)
        loss += loss_sum * scale
        result.num_tokens += mini.num_tokens
        result.num_positions += mini.ids.numel()
        if argmax_N is not None:
            argmaxes.append(argmax_N)
            result.samples += [
                (sample, slice(begin + rows.start, begin + rows.stop))
                for sample, rows in zip(mini.samples, mini.truth_rows, strict=True)
            ]
            begin += len(argmax_N)
    if argmaxes:
        result.argmax_N = _to_processor(torch.cat(argmaxes))
    result.loss_on_device = loss
    return result


def _forward_and_backward(
    mini: MiniBatch,
    model: nn.Module,
    hidden: Callable[[Tensor], Tensor] | None,
    trunk: Callable[[Tensor, Tensor], Tensor] | None,
    *,
    scale: float,
    settings: StepSettings,
) -> tuple[Tensor, Tensor | None]:
    """Add the gradients of `scale` times the summed loss to the parameters; gives the summed loss and the argmax.

    The argmax is None where the settings want none.

    Most of the arithmetic of a small model with a large vocabulary is in its head: so only positions that count meet
    it, where the model has body and a linear `head` apart.
    """
    clock, scaler, head = settings.clock, settings.scaler, getattr(model, "head", None)
    clock.mark()
    embedded_PC = None
    with settings.autocast():
        factor = torch.full((), scale, dtype=settings.exact, device=settings.device)
        if scaler is not None:
            factor = scaler.scale(factor)
        if hidden is not None and type(head) is nn.Linear:
            if trunk is None:
                x = hidden(mini.ids).flatten(0, 1)
            else:
                embedded_PC = cast(Packable, model).embed(mini.ids, _there(mini.positions_P)).requires_grad_()
                x = trunk(embedded_PC, _there(mini.offsets))
            x_NC = x.index_select(0, mini.index_N)
            loss_sum, argmax_N, grad_x_NC = settings.head_loss(
                head, x_NC, mini.targets_N, factor, want_argmax=settings.want_argmax
            )
        else:
            loss_sum, argmax_N = loss_and_argmax(
                model, hidden, mini.ids, mini.index_N, mini.targets_N, want_argmax=settings.want_argmax
            )
            x_NC, grad_x_NC = loss_sum, factor
    clock.mark("forward")
    if grad_x_NC is not None:
        fresh = [p for p in model.parameters() if p.grad is None] if settings.graphs else []
        torch.autograd.backward(x_NC, grad_x_NC.to(x_NC.dtype))
        # Autograd keeps a parameter's first gradient without a copy. A graph's lies in memory that its next run
        # overwrites: mini-batches would replace each other instead of adding up.
        for parameter in fresh:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.clone()
    if embedded_PC is not None:
        cast(Packable, model).embed_backward(_there(embedded_PC.grad), mini.ids, _there(mini.positions_P))
    clock.mark("backward")
    return loss_sum.detach(), argmax_N


def _there(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _to_processor(tensor: Tensor) -> Tensor:
    """The tensor on the processor, there when the device has been waited for."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def apply_update(optimizer: torch.optim.Optimizer, result: StepResult, settings: StepSettings, lr: float) -> None:
    """Clip, look at the numbers, and let the optimizer move the weights, in place of an update where they are bad.

    Fills `grad_norm`, `seconds`, `skipped`. With a loss or norm that is not finite no parameter changes and
    `result` says so; a float16 overflow is the scaler's daily business and only marks the step as skipped.
    """
    clock, scaler = settings.clock, settings.scaler
    clock.mark()
    if scaler is not None:
        scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    # Without a limit the norm is still wanted: it is shown, and it guards the update.
    limit = settings.grad_clip if settings.grad_clip is not None else float("inf")
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    _wait_for_numbers(result, norm)
    clock.waited()
    finite = np.isfinite(result.loss) and np.isfinite(result.grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    if finite and result.grad_norm > limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    if finite:
        optimizer.step()
    if scaler is not None:
        # Neither its `step` nor its scale is asked whether a gradient overflowed: each would wait for the device once
        # more. The norm has said it: it is finite only where all of them are.
        result.skipped = not np.isfinite(result.grad_norm)
        scaler.update()
    clock.mark("optimizer")
    result.seconds = clock.read()


def _wait_for_numbers(result: StepResult, norm: Tensor) -> None:
    """Read loss and gradient norm together: the one time in a step that the program waits for the device."""
    if isinstance(result.loss_on_device, Tensor):
        exact = result.loss_on_device.dtype
        norm = norm.to(result.loss_on_device.device, exact)  # where no parameter has a gradient it is on the processor
        result.loss, result.grad_norm = torch.stack((result.loss_on_device, norm)).tolist()
    else:
        result.grad_norm = float(norm)


def is_finite(result: StepResult) -> bool:
    """Whether training may go on after this step."""
    if result.skipped:
        return bool(np.isfinite(result.loss))
    return bool(np.isfinite(result.loss) and np.isfinite(result.grad_norm))
