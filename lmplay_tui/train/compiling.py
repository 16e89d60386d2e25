"""torch.compile for the two parts that a step spends its time in: the model's body and the rows of the loss."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lmplay_tui.data.samples import Sample
from lmplay_tui.options import TrainOptions
from lmplay_tui.run.events import ActivityChanged, Event, Warned
from lmplay_tui.text import one_line
from lmplay_tui.train.loss import Kernel, softmax_gradient, traced_softmax_gradient
from lmplay_tui.train.memory import fits
from lmplay_tui.train.state import TrainState, restore_rng, rng_state
from lmplay_tui.train.steps import StepSettings, accumulate_gradients

GRAPH_WIDTHS = 4  # CUDA graphs are recorded for each shape: few of them
_PASSES_OF_GRAPHS = 3  # they are recorded in the second, and run in the third
_WITH_GRAPHS = ("reduce-overhead", "max-autotune")


class Compilation:
    """What `--compile-model` asks for. The modules are untouched, so the names in their state stay what they are."""

    def __init__(self, options: TrainOptions, device: torch.device) -> None:
        recorded = options.compile_mode in _WITH_GRAPHS or options.compile_backend == "cudagraphs"
        self._graphs = device.type == "cuda" and recorded
        # One program for all lengths: it is the same whichever batch comes first, and so a resumed run computes the
        # same bits. CUDA graphs need fixed shapes instead.
        self._how: dict[str, Any] = {
            "backend": options.compile_backend or "inductor",
            "mode": None if options.compile_mode in (None, "default") else options.compile_mode,
            "dynamic": not self._graphs,
        }
        self._proved = self._failed = False

    def shape(self, settings: StepSettings) -> None:
        """Have mini-batches come in the shapes that compiled programs ask for; after a failure in those of their own.

        Lengths of few kinds where graphs are recorded, and never a single row, which would be a program of its own.
        """
        context_len = settings.longest or 1
        settings.graphs = self._graphs and not self._failed
        settings.width_multiple = max(64, context_len // GRAPH_WIDTHS) if settings.graphs else 1
        settings.least_rows = 1 if self._failed else min(settings.mini_batch_size, 2)

    def prepare(self, state: TrainState, settings: StepSettings, rows: int) -> Iterator[Event]:
        """Compile, and train on `rows` samples that are thrown away: what fails, fails here; the run goes on without.

        Neither weights nor random numbers are changed by it. The first samples' shape may show in the program, so a
        resumed run must begin with the same.
        """
        if self._proved:
            return
        self._proved = True
        yield ActivityChanged("compiling")
        hidden, trunk = state.hidden, state.trunk
        try:
            self._compile(state)
            for _ in range(_PASSES_OF_GRAPHS if settings.graphs else 1):
                # Where memory lacks, the step will meet it, and knows what to do.
                fits(lambda: rehearse(state, replace(settings, mini_batch_size=rows)))
        except Exception as error:  # whatever the compiler or its toolchain throws: training goes on without
            state.hidden, state.trunk, state.network = hidden, trunk, state.model
            state.head_loss.kernel = softmax_gradient
            self._failed = True
            self.shape(settings)
            said = f"{type(error).__name__}: {one_line(error, 100)}"
            yield Warned(f"torch.compile failed ({said}); going on without it", state.progress.step)
        yield ActivityChanged("training")

    def _compile(self, state: TrainState) -> None:
        if state.hidden is None:
            state.network = cast(nn.Module, torch.compile(state.model, **self._how))
            return
        if state.trunk is not None:
            state.trunk = torch.compile(state.trunk, **self._how)
        else:
            state.hidden = torch.compile(state.hidden, **self._how)
        state.head_loss.kernel = self._kernel()

    def _kernel(self) -> Kernel:
        """The loss's rows, compiled; a single one, which torch would compile for itself, as it is."""
        compiled = torch.compile(traced_softmax_gradient, **self._how | {"mode": None, "dynamic": True})

        def kernel(
            logits_nV: Tensor, targets_n: Tensor, factor: Tensor, want_argmax: bool
        ) -> tuple[Tensor, Tensor | None]:
            if len(targets_n) == 1:
                return softmax_gradient(logits_nV, targets_n, factor, want_argmax)
            return compiled(logits_nV, targets_n, factor)

        return kernel


def rehearse(state: TrainState, settings: StepSettings, length: int | None = None) -> None:
    """Forward and backward of one mini-batch of long samples, without a trace in weights, buffers, random numbers."""
    rng = rng_state(state.device)
    buffers = {name: buffer.clone() for name, buffer in state.model.named_buffers()}
    was_training = state.model.training
    try:
        state.model.train()
        samples = long_samples(settings.mini_batch_size, length or state.model_args["context_len"] - 8)
        accumulate_gradients(state.network, state.hidden, samples, settings, trunk=state.trunk)
        if state.device.type == "cuda":
            torch.cuda.synchronize(state.device)
    finally:
        state.model.zero_grad(set_to_none=True)
        state.model.train(was_training)
        with torch.no_grad():
            for name, buffer in state.model.named_buffers():
                buffer.copy_(buffers[name])
        restore_rng(rng, state.device)


def long_samples(count: int, length: int) -> list[Sample]:
    """Samples of `length` tokens, all of them truth but the first: what takes the most memory and time."""
    ids = np.zeros(max(length, 2), dtype=np.int32)
    return [Sample("", "", ids[:1], ids[1:], 0) for _ in range(count)]
