"""`--mini-batch-size auto`: the size that trains fastest among those that fit, found by trying."""

import dataclasses
import time
from collections.abc import Callable, Iterator

import psutil

from lmplay_tui.run.events import ActivityChanged, Event, LogLine
from lmplay_tui.train.compiling import rehearse
from lmplay_tui.train.memory import fits, give_memory_back
from lmplay_tui.train.state import TrainState
from lmplay_tui.train.steps import StepSettings, StopRequested

WORTH_IT = 1.03  # a larger mini-batch takes more memory: it must be faster by more than what measuring is off by


def probe(
    state: TrainState, settings: StepSettings, batch_size: int, should_stop: Callable[[], bool]
) -> Iterator[Event]:
    """Time one mini-batch of the longest samples at sizes 1, 2, 4, ... and set the fastest, of those that fit.

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
        tried = dataclasses.replace(settings, mini_batch_size=size)
        _, seconds_all = fits(lambda: _timed(state, tried, length))  # noqa: B023  (called at once)
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
    state.progress.probed_mini_batch_size = settings.mini_batch_size = best_size
    yield LogLine(f"--mini-batch-size auto: {best_size}, {best_s * 1000:.0f} ms a sample of {length} tokens")
    yield ActivityChanged("training")


def _timed(state: TrainState, settings: StepSettings, length: int) -> float:
    """Seconds of a mini-batch, the second time: the first one also allocates."""
    rehearse(state, settings, length)
    begun = time.perf_counter()
    rehearse(state, settings, length)
    return time.perf_counter() - begun


def _sizes(batch_size: int) -> Iterator[int]:
    size = 1
    while size < batch_size:
        yield size
        size *= 2
    yield batch_size
