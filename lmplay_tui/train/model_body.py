"""Which ways of computing a model are what its `forward` says: the faster ones are compared with it at the start.

A class may offer parts (docs/experiments.md), or inherit them and change `forward`; hooks, softcaps and learned scales
stand beside them. Where a part gives other numbers, other gradients or leaves a hook out, the plain way is taken, and
a line says so.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from lmplay_tui.data.samples import Sample
from lmplay_tui.models.body import Packable, body_of, trunk_of
from lmplay_tui.models.generation import Reading, choose_reading
from lmplay_tui.models.probing import Kept, general_position, kept, small_parameters
from lmplay_tui.text import one_line
from lmplay_tui.train.collate import MiniBatch, collate, pack
from lmplay_tui.train.device import Precision, restore_rng, rng_state
from lmplay_tui.train.gradients import Gradients, StepConfig
from lmplay_tui.train.loss import logits_by_rows

LONGEST = 16  # positions of a compared sample: where packed ones begin, so that the same dropout is drawn
# What two orders of summing may differ by, as a multiple of the number format's step: measured 1 to 8 (float32).
_ROUNDINGS = 200
_TF32 = 0.02  # a GPU's float32 products with 10 bits
_HALF_PRECISION = 0.1  # a GPU's packed attention: far coarser, so only the loss's number is compared
_SMALL_GRADIENT = 0.01  # of the largest: below it a gradient may be the rounding of a sum that is zero
_BY_FORWARD = "trained by forward alone, without the faster hidden and head"
_COMPARED = StepConfig(mini_batch_size=2, normalization="tokens", include_prompts=True, grad_clip=None)


@dataclass(frozen=True)
class Ways:
    """How a model is computed, and why not faster.

    `hidden` None: by `forward` alone. `trunk`: its body for packed samples. `notes`: a line each.
    """

    hidden: Callable[[Tensor], Tensor] | None = None
    trunk: Callable[[Tensor, Tensor], Tensor] | None = None
    reading: Reading = Reading.FORWARD
    notes: tuple[str, ...] = ()


def choose_ways(model: nn.Module, precision: Precision, *, vocab_size: int, context_len: int) -> Ways:
    """The fastest ways that compute what `forward` computes: tried on a few tokens, in both modes, with gradients.

    Tried where the model lies: one that will lie in parts on `precision`'s device lies on the processor until then.
    Weights, gradients, buffers, modes and random numbers are afterwards bit by bit those of before.
    """
    notes: list[str] = []
    hidden = body_of(model)
    if hidden is None and callable(getattr(model, "hidden", None)):
        notes.append(f"{_BY_FORWARD}: forward is of a later class")
    trunk = trunk_of(model, precision.device, precision.dtype) if hidden is not None else None
    if hidden is None and not callable(getattr(model, "new_cache", None)):
        return Ways(notes=tuple(notes))
    where = next((p.device for p in model.parameters()), precision.device)
    rng = rng_state(where)
    try:
        with kept(model) as buffers:
            if hidden is not None:
                compared = _Comparison(model, replace(precision, device=where), buffers, vocab_size, context_len)
                of_hidden, of_trunk = compared.differences(hidden, trunk)
                if of_hidden is not None:
                    notes.append(f"{_BY_FORWARD}: {one_line(of_hidden)}")
                    hidden = trunk = None
                elif of_trunk is not None:
                    notes.append(f"samples are padded, not packed by trunk: {one_line(of_trunk)}")
                    trunk = None
        reading, difference = choose_reading(model, context_len)
    finally:
        restore_rng(rng, where)
    if difference is not None:
        notes.append(f"generation is slower, {reading.value}: {one_line(difference)}")
    return Ways(hidden, trunk, reading, tuple(notes))


@dataclass(frozen=True)
class _Pass:
    """What a pass over a few tokens gave."""

    loss: float
    gradients: dict[str, Tensor]
    hooked: set[str]  # modules with hooks that were called


class _Comparison:
    """Runs the code of a training step itself: by `forward` alone, and by faster ways."""

    def __init__(
        self, model: nn.Module, precision: Precision, buffers: Kept, vocab_size: int, context_len: int
    ) -> None:
        self._model = model
        self._device = precision.device
        self._exact = Precision(precision.device)  # the weights' own format shows more than mixed precision
        self._mixed = replace(precision, grad_scale=False)
        self._rng = rng_state(precision.device)
        self._buffers = buffers
        long = max(min(LONGEST, context_len - 1), 1)
        rng = np.random.default_rng(0)
        ids = [rng.integers(0, vocab_size, n + 1, dtype=np.int32) for n in (long, max(long // 2, 1), max(long // 5, 1))]
        self._long, *self._shorter = (Sample("", "", tokens[:1], tokens[1:], 0) for tokens in ids)
        self._draws_alike = long == LONGEST

    def differences(
        self, hidden: Callable[[Tensor], Tensor], trunk: Callable[[Tensor, Tensor], Tensor] | None
    ) -> tuple[str | None, str | None]:
        """How `hidden` with `head` differs from `forward`, and how `trunk` does; None where they do not.

        At weights where terms show; at the model's own where the loss is not finite there.
        """
        head = getattr(self._model, "head", None)
        if type(head) is nn.Linear and (name := _with_hook(head)) is not None:
            return f"the hook of head.{name} would not be called", None
        try:
            with general_position(self._model):
                expected = self._pass(self._exact)
                if math.isfinite(expected.loss):
                    return self._compared(expected, hidden, trunk)
            expected = self._pass(self._exact)
            if math.isfinite(expected.loss):
                return self._compared(expected, hidden, trunk)
            return "the loss that forward gives for a few tokens is not finite", None
        except Exception as error:  # whatever the model's own code raises; the first step says it where it matters
            return f"a few tokens cannot be computed ({type(error).__name__}: {error})", None

    def _compared(
        self, expected: _Pass, hidden: Callable[[Tensor], Tensor], trunk: Callable[[Tensor, Tensor], Tensor] | None
    ) -> tuple[str | None, str | None]:
        tolerance = self._tolerance()
        mini = collate(self._shorter, include_prompts=True, device=self._device)
        logits_NV = self._logits(None, mini)
        of_hidden = _relative("the logits", self._logits(hidden, mini), logits_NV, tolerance)
        of_hidden = of_hidden or _differ(self._pass(self._exact, hidden), expected, tolerance)
        if of_hidden is not None or trunk is None:
            return of_hidden, None
        try:
            return None, self._trunk_differs(expected, logits_NV, hidden, trunk)
        except Exception as error:
            return None, f"a few tokens cannot be computed by it ({type(error).__name__}: {error})"

    def _trunk_differs(
        self, expected: _Pass, logits_NV: Tensor, hidden: Callable[[Tensor], Tensor],
        trunk: Callable[[Tensor, Tensor], Tensor],
    ) -> str | None:  # fmt: skip
        """Samples of two lengths without dropout, then a step over a single one with it.

        A GPU packs in half precision only, and is compared in it: gradients then by which there are.
        """
        if (name := _with_hook(self._model)) is not None:
            return f"the hook of {name} might not be called"
        in_half = self._device.type != "cpu" and self._mixed.dtype is not None
        tolerance = _HALF_PRECISION if in_half else self._tolerance()
        precision = self._mixed if in_half else self._exact
        packed = pack(self._shorter, include_prompts=True, device=self._device)
        model = cast(Packable, self._model)
        assert packed.positions_P is not None and packed.offsets is not None
        self._begin(training=False)
        with torch.no_grad(), precision.autocast():
            x_PC = trunk(model.embed(packed.ids, packed.positions_P), packed.offsets)
            found_NV = self._model.get_submodule("head")(x_PC.index_select(0, packed.index_N))
        if (difference := _relative("the logits", found_NV, logits_NV, tolerance)) is not None:
            return difference
        # Packed or not, 16 positions draw the same numbers for dropout; fewer do not.
        if in_half or not self._draws_alike:
            expected = self._pass(precision, training=self._draws_alike)
        found = self._pass(precision, hidden, trunk, training=self._draws_alike)
        return _differ(found, expected, tolerance, gradients=not in_half)

    def _tolerance(self) -> float:
        dtype = next((p.dtype for p in self._model.parameters() if p.is_floating_point()), torch.float32)
        if self._device.type != "cpu" and torch.get_float32_matmul_precision() != "highest":
            return _TF32
        return min(_ROUNDINGS * torch.finfo(dtype).eps, _HALF_PRECISION)

    def _begin(self, *, training: bool) -> None:
        """Each pass begins with the same buffers and random numbers."""
        self._buffers.restore()
        restore_rng(self._rng, self._device)
        self._model.train(training)

    @torch.no_grad()
    def _logits(self, hidden: Callable[[Tensor], Tensor] | None, mini: MiniBatch) -> Tensor:
        """Evaluation's way, in which the head is called as a module."""
        self._begin(training=False)
        return torch.cat([part for _, part in logits_by_rows(self._model, hidden, mini.ids, mini.index_N)])

    def _pass(
        self,
        precision: Precision,
        hidden: Callable[[Tensor], Tensor] | None = None,
        trunk: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        training: bool = True,
    ) -> _Pass:
        """A step's forward and backward pass, of the long sample; without dropout of the two shorter ones."""
        model = self._model
        self._begin(training=training)
        model.zero_grad(set_to_none=True)
        small = small_parameters(model)
        for parameter in model.parameters():
            # A large matrix shows in the numbers; its gradient would take as long as all else.
            parameter.requires_grad_(parameter in small)
        with _called_with_hooks(model) as hooked:
            samples = [self._long] if training else self._shorter
            gradients_of = Gradients(model, precision, hidden=hidden, trunk=trunk)
            result = gradients_of.accumulate(samples, _COMPARED, want_argmax=False)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return _Pass(result.loss, gradients, hooked)


def _differ(found: _Pass, expected: _Pass, tolerance: float, *, gradients: bool = True) -> str | None:
    """How a faster way's pass differs; `gradients`: their numbers too, not only which there are."""
    if not abs(found.loss - expected.loss) <= tolerance * abs(expected.loss):
        return f"a loss of {found.loss:.6g} instead of {expected.loss:.6g} for a few tokens"
    if left_out := expected.hooked - found.hooked:
        return f"the hook of {min(left_out)} would not be called"
    if lacking := [name for name in expected.gradients if name not in found.gradients]:
        return f"no gradient for {_listed(lacking)}"
    if more := [name for name in found.gradients if name not in expected.gradients]:
        return f"a gradient for {_listed(more)}, which forward gives none"
    return _gradients_differ(found, expected, tolerance) if gradients else None


def _gradients_differ(found: _Pass, expected: _Pass, tolerance: float) -> str | None:
    sizes = {name: float(g.square().mean().sqrt()) for name, g in expected.gradients.items()}
    least = _SMALL_GRADIENT * max(sizes.values(), default=0.0)
    for name, gradient in expected.gradients.items():
        difference = _relative(f"the gradients of {name}", found.gradients[name], gradient, tolerance, least)
        if difference is not None:
            return difference
    return None


def _relative(what: str, found: Tensor, expected: Tensor, tolerance: float, least: float = 0.0) -> str | None:
    """Root mean squares are compared: a single number may be near zero. `least`: what a difference is measured by."""
    if found.shape != expected.shape:
        return f"{what} have the shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
    size = max(float(expected.float().square().mean().sqrt()), least)
    difference = float((found - expected).float().square().mean().sqrt())
    if difference <= tolerance * size:
        return None
    return f"{what} differ by {100 * difference / size:.2g} %" if size else f"{what} differ"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _with_hook(module: nn.Module) -> str | None:
    """A parameter whose gradient a hook looks at; gradients that are added by hand pass it by."""
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return name
    return None


@contextmanager
def _called_with_hooks(model: nn.Module) -> Iterator[set[str]]:
    """The names of the modules with hooks of their own that are called meanwhile."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    watched = {
        id(module): name or type(module).__name__
        for name, module in model.named_modules()
        if any(getattr(module, kind, None) for kind in kinds)
    }
    called: set[str] = set()
    if not watched:
        yield called
        return

    def note(module: nn.Module, _arguments: object) -> None:
        if id(module) in watched:
            called.add(watched[id(module)])

    handle = register_module_forward_pre_hook(note)
    try:
        yield called
    finally:
        handle.remove()
