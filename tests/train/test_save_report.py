"""What a save tells of itself."""

import threading
import time
from typing import Any

import pytest

from lmplay_tui.run.events import CheckpointSaved
from lmplay_tui.train import checkpointer
from lmplay_tui.train.state import TrainState
from tests.train.runs import PLAN, stop_after, write_plan

SLOW_S = 0.05  # that a part of a save takes here, slept: what counts it must say at least as much


def slowly(real):
    def work(*args: Any, **kwargs: Any):
        time.sleep(SLOW_S)
        return real(*args, **kwargs)

    return work


@pytest.mark.parametrize(
    ("part", "name"), [(TrainState, "checkpoint"), (checkpointer, "cpu_copy"), (checkpointer, "write_checkpoint")]
)
def test_what_a_stop_waits_for_is_counted(place, monkeypatch, part, name):
    """The state, its copy, and here also the write."""
    monkeypatch.setattr(part, name, slowly(getattr(part, name)))
    events = stop_after(1, training_plan=write_plan(place), model="m.lmp")
    saved = next(event for event in events if isinstance(event, CheckpointSaved))
    assert saved.blocked_s >= SLOW_S
    assert saved.seconds >= SLOW_S


def test_a_save_that_the_next_one_waits_for_counts_it(place, monkeypatch):
    waited_for = threading.Event()
    write, wait = checkpointer.write_checkpoint, checkpointer.CheckpointWriter.wait

    def written(*args: Any, **kwargs: Any) -> int:
        waited_for.wait(60)
        time.sleep(SLOW_S)
        return write(*args, **kwargs)

    def waiting(saver: checkpointer.CheckpointWriter) -> checkpointer.Outcome | None:
        if saver.busy:
            waited_for.set()
        return wait(saver)

    monkeypatch.setattr(checkpointer, "write_checkpoint", written)
    monkeypatch.setattr(checkpointer.CheckpointWriter, "wait", waiting)
    plan = write_plan(place, PLAN.replace("log_interval = 2\n", "log_interval = 2\nsave_interval = 1\n"))
    events = stop_after(2, training_plan=plan, model="m.lmp")
    first = next(e for e in events if isinstance(e, CheckpointSaved))
    assert first.reason == "interval"
    assert first.blocked_s >= SLOW_S / 2  # told just before the wait began
