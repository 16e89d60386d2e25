"""The gradients of a batch, mini-batch by mini-batch, and the one update that they make.

Axes: B samples of a mini-batch, T tokens, C width, V vocabulary, N positions in the loss (flat over B and T), P
positions of packed samples.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lmplay_tui.data.samples import Sample
from lmplay_tui.models.body import Packable
from lmplay_tui.models.probing import undisturbed
from lmplay_tui.options import TrainOptions
from lmplay_tui.run.controls import StopRequested
from lmplay_tui.train.collate import (
    FewShapes,
    MiniBatch,
    collate,
    mini_batches,
    mini_batches_of_like_work,
    num_positions,
    pack,
    rank_of,
)
from lmplay_tui.train.device import Precision
from lmplay_tui.train.loss import HeadLoss, loss_and_argmax

if TYPE_CHECKING:
    from lmplay_tui.train.sharding import Sharding


@dataclass(frozen=True)
class StepConfig:
    """How a batch becomes a gradient. `normalization` and `include_prompts` say which; all else changes rounding.

    `head_work`: of a position in the loss, where the body's work of a position is 1: packed mini-batches are then made
    of like work. None: those share one that are of like length.
    """

    mini_batch_size: int
    normalization: str  # tokens or samples
    include_prompts: bool
    grad_clip: float | None
    longest: int | None = None  # positions that the model can read
    width_multiple: int = 1
    least_rows: int = 1
    graphs: bool = False  # mini-batches run as recorded CUDA graphs
    head_work: float | None = None

    @classmethod
    def of(cls, options: TrainOptions, mini_batch_size: int, longest: int) -> "StepConfig":
        """What `options` say."""
        return cls(mini_batch_size, options.loss_normalization, options.include_prompts, options.grad_clip, longest)

    @property
    def few_shapes(self) -> FewShapes | None:
        """What packed samples are filled up to; None: nothing asks for it."""
        if self.width_multiple == 1 or self.longest is None:
            return None
        return FewShapes(self.mini_batch_size, self.width_multiple * self.mini_batch_size, self.longest)


@dataclass
class StepResult:
    """What one step measured. Reading `loss` waits for the device."""

    loss_on_device: Tensor | float = float("nan")
    grad_norm: float = float("nan")
    num_samples: int = 0
    num_tokens: int = 0
    num_positions: int = 0  # computed, padding included
    num_loss_tokens: int = 0
    losses: dict[int, Tensor] = field(default_factory=dict)  # scalars on the device, of each mini-batch by its number
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

    @property
    def is_finite(self) -> bool:
        """Whether training may go on after this step."""
        return bool(np.isfinite(self.loss) and (self.skipped or np.isfinite(self.grad_norm)))

    def predictions(self) -> Iterator[tuple[Sample, list[int]]]:
        """Each sample with the likeliest token at each of its truth positions; nothing where they were not wanted."""
        if self.argmax_N is not None:
            tokens = self.argmax_N.tolist()
            for sample, place in self.samples:
                yield sample, tokens[place]


def num_loss_tokens(samples: Sequence[Sample], *, include_prompts: bool) -> int:
    """Tokens that count in the loss of `samples`."""
    if include_prompts:
        return sum(len(s.prompt_ids) + len(s.truth_ids) - 1 for s in samples)
    return sum(len(s.truth_ids) for s in samples)


# For a pass whose gradient counts nothing.
_NOTHING = Sample("", "", np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.int32), 0)


@dataclass(frozen=True)
class Share:
    """The mini-batches of a batch that one process computes, by their numbers in it; and what the whole batch has."""

    mini_batches: Mapping[int, Sequence[Sample]]
    num_mini_batches: int
    num_samples: int
    num_loss_tokens: int

    @classmethod
    def of_batch(cls, samples: Sequence[Sample], config: StepConfig) -> "Share":
        """All of a batch."""
        size, head_work, by_tokens = config.mini_batch_size, config.head_work, config.normalization == "tokens"
        if by_tokens and head_work is not None:
            parts = mini_batches_of_like_work(
                samples, size,
                lambda s: num_positions(s) + head_work * num_loss_tokens([s], include_prompts=config.include_prompts),
            )  # fmt: skip
        else:
            parts = mini_batches(samples, size, by_length=by_tokens)
        counted = num_loss_tokens(samples, include_prompts=config.include_prompts)
        dealt = dict(enumerate(parts))
        return cls(dealt, len(dealt), len(samples), counted)

    def of_rank(self, rank: int, world_size: int) -> "Share":
        """What one of several processes computes of it."""
        dealt = {i: part for i, part in self.mini_batches.items() if rank_of(i, world_size) == rank}
        return replace(self, mini_batches=dealt)


class StepClock:
    """Adds up the seconds of a step's parts.

    With CUDA the parts' ends are marks in the GPU's queue: they are read where the step waits for the device anyway,
    and what has not been reached by then (the optimizer) is counted at the next reading.
    With MPS, reading such marks would be another wait. There the processor's clock tells when work was put into the
    queue, and when the device had done it: what it does of both passes ends with that wait and belongs to `backward`
    (`waited`); what it does of the optimizer falls into the next step's `backward`.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._now = now
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self._seconds: dict[str, float] = {}
        self._last = self._now()
        self._marks: list[tuple[str, torch.cuda.Event]] = []

    def mark(self, part: str = "") -> None:
        """The time since the last mark belongs to `part`; to none without a name."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
            self._marks.append((part, event))
            return
        now = self._now()
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


class Gradients:
    """A model as steps compute it, and all that its gradients take: head loss, float16's scaler, clock.

    `hidden`: the model's body where body and head are apart. `trunk`: the body for packed samples, without padding.
    Both, and `network` for a model that has neither, are what steps call: compiled programs where that was asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        precision: Precision,
        *,
        hidden: Callable[[Tensor], Tensor] | None = None,
        trunk: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.model = model
        self.network = model
        self.hidden = hidden
        self.trunk = trunk
        self.scaler = precision.scaler()
        self.clock = StepClock(precision.device)
        self.head_loss = HeadLoss()
        self.sharding: Sharding | None = None  # where the model's parameters lie in parts on several ranks
        self._precision = precision
        self.device = precision.device
        # What the losses of a batch are summed in.
        self._exact = torch.float32 if precision.device.type == "mps" else torch.float64

    def accumulate(
        self,
        samples: Sequence[Sample],
        config: StepConfig,
        should_stop: Callable[[], bool] = lambda: False,
        *,
        want_argmax: bool = True,
        begin_mini_batch: Callable[[int], None] = lambda _: None,
    ) -> StepResult:
        """Add the gradient of a batch's loss to the parameters' `grad`, mini-batch by mini-batch.

        See `accumulate_share`: this is the share of the one process that there is.
        """
        share = Share.of_batch(samples, config)
        result = self.accumulate_share(
            share, config, should_stop, want_argmax=want_argmax, begin_mini_batch=begin_mini_batch
        )
        # In the order of their numbers, so that it is the same sum wherever they were computed.
        loss = torch.zeros((), dtype=self._exact, device=self.device)
        for each in result.losses.values():
            loss += each
        result.loss_on_device = loss
        return result

    def accumulate_share(
        self,
        share: Share,
        config: StepConfig,
        should_stop: Callable[[], bool],
        *,
        want_argmax: bool,
        begin_mini_batch: Callable[[int], None],
    ) -> StepResult:
        """Add the gradient of what a process computes of a batch's loss; that loss itself stays in its parts.

        `begin_mini_batch`: called before each with its number.

        `tokens`: loss = (sum over all loss tokens) / (their number in the batch).
        `samples`: each mini-batch's mean over its tokens, weighted by its share of the samples (the user's document).
        Raises `StopRequested` between mini-batches.
        """
        by_tokens = config.normalization == "tokens"
        self.head_loss.begin_step()
        if self.sharding is not None:
            self.sharding.begin_step()
        result = StepResult(num_samples=share.num_samples, num_loss_tokens=share.num_loss_tokens)
        argmaxes: list[Tensor] = []
        begin = 0
        for number, part in share.mini_batches.items():
            if self.sharding is None and should_stop():  # sharded, all ranks make all of their passes
                raise StopRequested
            begin_mini_batch(number)
            if config.graphs:  # torch guesses where a run begins, wrongly where a pass ended before its backward
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            mini = self._mini_batch(part, config)
            if by_tokens:
                # Divide by the whole batch's tokens, not the mini-batch's: a mean of means depends on the cut.
                scale = 1.0 / share.num_loss_tokens
            else:
                scale = len(part) / share.num_samples / mini.num_loss_tokens
            loss_sum, argmax_N = self._forward_and_backward(mini, config, scale=scale, want_argmax=want_argmax)
            result.losses[number] = loss_sum * scale
            result.num_tokens += mini.num_tokens
            result.num_positions += mini.ids.numel()
            if argmax_N is not None:
                argmaxes.append(argmax_N)
                result.samples += [
                    (sample, slice(begin + rows.start, begin + rows.stop))
                    for sample, rows in zip(mini.samples, mini.truth_rows, strict=True)
                ]
                begin += len(argmax_N)
        if self.sharding is not None:  # parameters are gathered by all ranks together, for as many passes
            self._fill_up(-(-share.num_mini_batches // self.sharding.world_size) - len(share.mini_batches), config)
        if argmaxes:
            result.argmax_N = self.to_processor(torch.cat(argmaxes))
        return result

    def _fill_up(self, passes: int, config: StepConfig) -> None:
        """So many passes whose gradient is zero, and which leave the model as it is."""
        if passes <= 0:
            return
        assert self.sharding is not None
        self.sharding.counts = False
        with undisturbed(self.model):
            for _ in range(passes):
                self._forward_and_backward(self._mini_batch([_NOTHING], config), config, scale=0.0, want_argmax=False)
        self.sharding.counts = True

    def reached(self) -> list[bool]:
        """Of each parameter: whether the share that was computed last has given it a gradient."""
        if self.sharding is not None:
            return self.sharding.reached()
        return [parameter.grad is not None for parameter in self.model.parameters()]

    def losses_of(self, result: StepResult) -> list[float]:
        """The losses of a share's mini-batches by their numbers, in nats. Waits for the device."""
        if not result.losses:
            return []
        exact: list[float] = torch.stack([each.to(self._exact) for each in result.losses.values()]).tolist()
        return exact

    def _mini_batch(self, samples: Sequence[Sample], config: StepConfig) -> MiniBatch:
        """Samples on the device: padded, or packed where the model has a body for that."""
        if self.trunk is None:
            return collate(
                samples, include_prompts=config.include_prompts, device=self.device,
                multiple=config.width_multiple, most=config.longest, least_rows=config.least_rows,
            )  # fmt: skip
        return pack(samples, include_prompts=config.include_prompts, device=self.device, few_shapes=config.few_shapes)

    def _forward_and_backward(
        self, mini: MiniBatch, config: StepConfig, *, scale: float, want_argmax: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Add the gradients of `scale` times the summed loss to the parameters.

        Gives the summed loss and the likeliest tokens, None where they are not wanted.

        Most of the arithmetic of a small model with a large vocabulary is in its head: so only positions that count
        meet it, where the model has body and a linear `head` apart.
        """
        clock, scaler, model, hidden = self.clock, self.scaler, self.network, self.hidden
        head = getattr(model, "head", None)
        clock.mark()
        embedded_PC = None
        with self._precision.autocast():
            factor = torch.full((), scale, dtype=self._exact, device=self.device)
            if scaler is not None:
                factor = scaler.scale(factor)
            if hidden is not None and type(head) is nn.Linear:
                if self.trunk is None:
                    x = hidden(mini.ids).flatten(0, 1)
                elif self.sharding is not None:
                    assert (
                        self.sharding.packed is not None and mini.positions_P is not None and mini.offsets is not None
                    )
                    x = self.sharding.packed(mini.ids, mini.positions_P, mini.offsets)
                else:
                    assert mini.positions_P is not None and mini.offsets is not None
                    embedded_PC = cast(Packable, model).embed(mini.ids, mini.positions_P).requires_grad_()
                    x = self.trunk(embedded_PC, mini.offsets)
                x_NC = x.index_select(0, mini.index_N)
                loss_sum, argmax_N, grad_x_NC = self.head_loss(
                    head, x_NC, mini.targets_N, factor, want_argmax=want_argmax, mark=clock.mark
                )
                if self.sharding is not None:
                    self.sharding.note_reached()
            else:
                loss_sum, argmax_N = loss_and_argmax(
                    model, hidden, mini.ids, mini.index_N, mini.targets_N, want_argmax=want_argmax
                )
                x_NC, grad_x_NC = loss_sum, factor
        clock.mark("forward")
        if grad_x_NC is not None:
            fresh = [p for p in model.parameters() if p.grad is None] if config.graphs else []
            _backward_from(x_NC, grad_x_NC.to(x_NC.dtype))
            # Autograd keeps a parameter's first gradient without a copy. A graph's lies in memory that its next run
            # overwrites: mini-batches would replace each other instead of adding up.
            for parameter in fresh:
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.clone()
        if embedded_PC is not None:
            assert embedded_PC.grad is not None and mini.positions_P is not None
            cast(Packable, model).embed_backward(embedded_PC.grad, mini.ids, mini.positions_P)
        clock.mark("backward")
        return loss_sum.detach(), argmax_N

    def update(
        self, optimizer: torch.optim.Optimizer, result: StepResult, *, lr: float, grad_clip: float | None = None
    ) -> None:
        """Take the norm, look at the numbers; where they are finite clip, and let the optimizer move the weights.

        Fills `grad_norm`, `seconds`, `skipped`. With a loss or norm that is not finite no parameter changes and
        `result` says so; a float16 overflow is the scaler's daily business and only marks the step as skipped.
        """
        clock, scaler = self.clock, self.scaler
        clock.mark()
        if scaler is not None:
            scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # Without a limit the norm is still wanted: it is shown, and it guards the update.
        limit = grad_clip if grad_clip is not None else float("inf")
        total_norm = nn.utils.get_total_norm if self.sharding is None else self.sharding.total_norm
        norm = total_norm([p.grad for p in parameters if p.grad is not None])
        self.wait_for_numbers(result, norm)
        clock.waited()
        finite = np.isfinite(result.loss) and np.isfinite(result.grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = lr
        if finite and result.grad_norm > limit:
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        if finite:
            optimizer.step()
        if scaler is not None:
            # Neither its `step` nor its scale is asked whether a gradient overflowed: each would wait for the device
            # once more. The norm shows it: it is finite only where all of them are.
            result.skipped = not np.isfinite(result.grad_norm)
            scaler.update()
        clock.mark("optimizer")
        result.seconds = clock.read()

    @staticmethod
    def to_processor(tensor: Tensor) -> Tensor:
        """The tensor on the processor, there when the device has been waited for."""
        if tensor.device.type != "cuda":
            return tensor.cpu()
        return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)

    @staticmethod
    def wait_for_numbers(result: StepResult, norm: Tensor) -> None:
        """Read loss and gradient norm together: the one time in a step that the program waits for the device."""
        if isinstance(result.loss_on_device, Tensor):
            exact = result.loss_on_device.dtype
            norm = norm.to(
                result.loss_on_device.device, exact
            )  # where no parameter has a gradient it is on the processor
            result.loss, result.grad_norm = torch.stack((result.loss_on_device, norm)).tolist()
        else:
            result.grad_norm = float(norm)


class _KnownGradient(torch.autograd.Function):
    """A zero whose backward pass gives a tensor the gradient that is known already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grad_x: Tensor) -> Tensor:
        ctx.save_for_backward(grad_x)
        return x.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_grad_outputs: Any) -> tuple[Tensor, None]:
        (grad_x,) = ctx.saved_tensors
        return grad_x, None


def _backward_from(x: Tensor, grad_x: Tensor) -> None:
    """`torch.autograd.backward(x, grad_x)`, which would import sympy (half a second) to compare the two shapes."""
    _KnownGradient.apply(x, grad_x).backward()  # type: ignore[no-untyped-call]
