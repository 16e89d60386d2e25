"""What a save tells of itself."""

import threading
import time
from typing import Any

import pytest

from lmplay_tui.run.events import CheckpointSaved
from tests.train.runs import PLAN, stop_after, write_plan

SLOW_S = 0.05  # that a part of a save takes here, slept: what counts it must say at least as much


def slowly(real, *args: Any, **kwargs: Any) -> Any:
    time.sleep(SLOW_S)
    return real(*args, **kwargs)


@pytest.mark.parametrize("part", ["state to save", "copy to save", "write a checkpoint"])
def test_what_a_stop_waits_for_is_counted(place, seams, part):
    """The state, its copy, and here also the write."""
    seams.around(part, slowly)
    events = stop_after(1, training_plan=write_plan(place), model="m.lmp")
    saved = next(event for event in events if isinstance(event, CheckpointSaved))
    assert saved.blocked_s >= SLOW_S
    assert saved.seconds >= SLOW_S


def test_a_save_that_the_next_one_waits_for_counts_it(place, seams):
    waited_for = threading.Event()

    def written(real, *args: Any, **kwargs: Any) -> int:
        waited_for.wait(60)
        return slowly(real, *args, **kwargs)

    def waiting(saver) -> None:
        if saver.busy:
            waited_for.set()

    seams.around("write a checkpoint", written)
    seams.watch("wait for a save", waiting)
    plan = write_plan(place, PLAN.replace("log_interval = 2\n", "log_interval = 2\nsave_interval = 1\n"))
    events = stop_after(2, training_plan=plan, model="m.lmp")
    first = next(e for e in events if isinstance(e, CheckpointSaved))
    assert first.reason == "interval"
    assert first.blocked_s >= SLOW_S / 2  # told just before the wait began
