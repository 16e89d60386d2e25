"""What is tried on samples that are thrown away, before a run's first step: compiling, and sizes of a mini-batch.

torch.compile takes the two parts that a step spends its time in: the model's body and the rows of the loss.
`--mini-batch-size auto` is the size that trains fastest among those that fit.
"""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from lmplay_tui.data.samples import Sample
from lmplay_tui.run.controls import StopRequested
from lmplay_tui.run.events import ActivityChanged, Event, LogLine, Warned
from lmplay_tui.text import one_line
from lmplay_tui.train.device import fits, give_memory_back, restore_rng, rng_state
from lmplay_tui.train.gradients import Gradients, StepConfig
from lmplay_tui.train.loss import Kernel, softmax_gradient, traced_softmax_gradient
from lmplay_tui.train.state import TrainState

WORTH_IT = 1.03  # a larger mini-batch takes more memory: it must be faster by more than what measuring is off by
GRAPH_WIDTHS = 4  # CUDA graphs are recorded for each shape: few of them
_PASSES_OF_GRAPHS = 3  # they are recorded in the second, and run in the third
_WITH_GRAPHS = ("reduce-overhead", "max-autotune")


class Compilation:
    """What `--compile-model` asks for. The modules are untouched, so the names in their state stay what they are."""

    def __init__(self, backend: str | None, mode: str | None, device: torch.device) -> None:
        """`backend`, `mode`: None: torch's own."""
        self.backend, self.mode = backend, mode
        recorded = mode in _WITH_GRAPHS or backend == "cudagraphs"
        self._graphs = device.type == "cuda" and recorded
        # One program for all lengths: it is the same whichever batch comes first, and so a resumed run computes the
        # same bits. CUDA graphs need fixed shapes instead.
        self._how: dict[str, Any] = {
            "backend": backend or "inductor",
            "mode": None if mode in (None, "default") else mode,
            "dynamic": not self._graphs,
        }
        self.is_proved = self._failed = False

    def shaped(self, config: StepConfig) -> StepConfig:
        """`config` with mini-batches of the shapes that compiled programs ask for; after a failure of their own.

        Lengths of few kinds where graphs are recorded, and never a single row, which would be a program of its own.
        """
        graphs = self._graphs and not self._failed
        return replace(
            config,
            graphs=graphs,
            width_multiple=max(64, (config.longest or 1) // GRAPH_WIDTHS) if graphs else 1,
            least_rows=1 if self._failed else min(config.mini_batch_size, 2),
        )

    def prepare(
        self, gradients: Gradients, config: StepConfig, rows: int, step: int,
        agreed: Callable[[str], str] = lambda why: why,
    ) -> Iterator[Event]:  # fmt: skip
        """Compile, and train on `rows` samples that are thrown away: what fails, fails here; the run goes on without.

        `agreed`: given why it failed here, or nothing, says why it failed on any of several processes: none goes on
        compiled then. A step asks for the shapes of all, and only what runs a recorded graph knows how to treat it.
        `shaped` then gives the shapes of plain programs. Neither weights nor random numbers are changed by it. The
        first samples' shape may show in the program, so a resumed run must begin with the same.
        """
        if self.is_proved:
            return
        self.is_proved = True
        yield ActivityChanged("compiling")
        plain = gradients.network, gradients.hidden, gradients.trunk
        why = ""
        try:
            self._compile(gradients)
            for _ in range(_PASSES_OF_GRAPHS if config.graphs else 1):
                # Where memory lacks, the step will meet it, and knows what to do.
                fits(lambda: rehearse(gradients, replace(config, mini_batch_size=rows)))
        except Exception as error:  # whatever the compiler or its toolchain throws: training goes on without
            why = f"{type(error).__name__}: {one_line(error, 100)}"
        if why := agreed(why):
            gradients.network, gradients.hidden, gradients.trunk = plain
            gradients.head_loss.kernel = softmax_gradient
            self._failed = True
            yield Warned(f"torch.compile failed ({why}); going on without it", step)
        yield ActivityChanged("training")

    def _compile(self, gradients: Gradients) -> None:
        if gradients.hidden is None:
            gradients.network = cast(nn.Module, torch.compile(gradients.network, **self._how))
            return
        if gradients.trunk is not None:
            gradients.trunk = torch.compile(gradients.trunk, **self._how)
        else:
            gradients.hidden = torch.compile(gradients.hidden, **self._how)
        gradients.head_loss.kernel = self._kernel()

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


def rehearse(gradients: Gradients, config: StepConfig, length: int | None = None) -> None:
    """Forward and backward of one mini-batch of long samples, without a trace in weights, buffers, random numbers."""
    model, device = gradients.model, gradients.device
    rng = rng_state(device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    try:
        model.train()
        assert config.longest is not None
        gradients.accumulate(long_samples(config.mini_batch_size, length or config.longest - 8), config)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    finally:
        gradients.clock.reset()
        model.zero_grad(set_to_none=True)
        model.train(was_training)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        restore_rng(rng, device)


def long_samples(count: int, length: int) -> list[Sample]:
    """Samples of `length` tokens, all of them truth but the first: what takes the most memory and time."""
    ids = np.zeros(max(length, 2), dtype=np.int32)
    return [Sample("", "", ids[:1], ids[1:], 0) for _ in range(count)]


def probe(
    state: TrainState, config: StepConfig, batch_size: int, should_stop: Callable[[], bool]
) -> Generator[Event, None, StepConfig]:
    """Time one mini-batch of the longest samples at sizes 1, 2, 4, ...; gives `config` with the fastest that fits.

    What was found stands in the progress: a resumed run keeps it. Weights and random numbers stay as they are.
    Raises `StopRequested` between two sizes; nothing has been found then.
    """
    length = state.model_args["context_len"]
    best_size, best_s = 1, float("inf")
    before_bytes = psutil.Process().memory_info().rss
    for size in _sizes(batch_size):
        yield ActivityChanged("probing", f"mini-batches of {size}")
        if should_stop():
            raise StopRequested
        tried = replace(config, mini_batch_size=size)
        _, seconds_all = fits(lambda: _timed(state.gradients, tried, length))  # noqa: B023  (called at once)
        if seconds_all is None:
            give_memory_back(state.device)
            break
        seconds = seconds_all / size
        if seconds * WORTH_IT < best_s:
            best_size, best_s = size, seconds
        elif size > 2 * best_size:
            break  # twice in a row nothing was gained
        grown_bytes = psutil.Process().memory_info().rss - before_bytes
        if state.device.type == "cpu" and psutil.virtual_memory().available < 3 * grown_bytes:
            break  # the next would take twice as much again; a processor's memory gives no warning
    state.progress.probed_mini_batch_size = best_size
    yield LogLine(f"--mini-batch-size auto: {best_size}, {best_s * 1000:.0f} ms a sample of {length} tokens")
    yield ActivityChanged("training")
    return replace(config, mini_batch_size=best_size)


def _timed(gradients: Gradients, config: StepConfig, length: int) -> float:
    """Seconds of a mini-batch, the second time: the first one also allocates."""
    rehearse(gradients, config, length)
    begun = time.perf_counter()
    rehearse(gradients, config, length)
    return time.perf_counter() - begun


def _sizes(batch_size: int) -> Iterator[int]:
    size = 1
    while size < batch_size:
        yield size
        size *= 2
    yield batch_size
