"""`--mini-batch-size auto`: the size that trains fastest among those that fit, found by trying."""

import dataclasses
import time
from collections.abc import Iterator

import psutil
import torch

from lmplay_tui.run.events import ActivityChanged, Event, LogLine
from lmplay_tui.train.compiling import rehearse
from lmplay_tui.train.state import TrainState
from lmplay_tui.train.steps import StepSettings

WORTH_IT = 1.03  # a larger mini-batch takes more memory: it must be faster by more than what measuring is off by


def probe(state: TrainState, settings: StepSettings, batch_size: int) -> Iterator[Event]:
    """Time one mini-batch of the longest samples at sizes 1, 2, 4, ... and set the fastest, of those that fit.

    What was found stands in the progress: a resumed run keeps it. Weights and random numbers stay as they are.
    """
    length = state.model_args["context_len"]
    best_size, best_s = 1, float("inf")
    before_bytes = psutil.Process().memory_info().rss
    for size in _sizes(batch_size):
        yield ActivityChanged("probing", f"mini-batches of {size}")
        tried = dataclasses.replace(settings, mini_batch_size=size)
        try:
            rehearse(state, tried, length)  # the first one also allocates
            begun = time.perf_counter()
            rehearse(state, tried, length)
            seconds = (time.perf_counter() - begun) / size
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if seconds * WORTH_IT < best_s:
            best_size, best_s = size, seconds
        elif size > 2 * best_size:
            break  # twice in a row nothing was gained
        grown_bytes = psutil.Process().memory_info().rss - before_bytes
        if state.device.type == "cpu" and psutil.virtual_memory().available < 3 * grown_bytes:
            break  # the next would take twice as much again; a processor's memory gives no warning
    state.progress.probed_mini_batch_size = settings.mini_batch_size = best_size
    yield LogLine(f"--mini-batch-size auto: {best_size}, {best_s * 1000:.0f} ms a sample of {length} tokens")
    yield ActivityChanged("training")


def _sizes(batch_size: int) -> Iterator[int]:
    size = 1
    while size < batch_size:
        yield size
        size *= 2
    yield batch_size
