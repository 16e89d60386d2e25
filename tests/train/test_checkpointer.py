"""A save is what its moment was, however much training goes on beside it."""

import math
import threading
import time
from pathlib import Path

import pytest
import torch

from lmplay_tui.run.events import CheckpointSaved, RunDone, Warned
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.checkpointer import is_better
from tests.examples import some
from tests.train.runs import PLAN, differences, last, state_of, stop_after, train, write_plan
from tests.train.test_own_experiments import Shaped

SAVES_OFTEN = PLAN.replace("validation_interval = 5\n", "save_interval = 1\n").replace("eval_interval = 12", "keep = 4")


class CountsPasses(Shaped):
    """A buffer that a forward pass changes, as running means do."""

    def put_in(self) -> None:
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def hidden(self, ids_BT, cache=None):
        if self.training:
            self.passes += 1
        return super().hidden(ids_BT, cache)


@pytest.fixture
def late(seams):
    """Copies that begin long after a step could have been trained."""

    def copied(tree, buffers, path=""):
        if path == "model":
            time.sleep(0.03)  # a step takes a few milliseconds: without waiting it would be over

    seams.watch("copy to save", copied)


def assert_each_is_of_its_own_step(place: Path, **options) -> None:
    """Each numbered checkpoint is what a run leaves that is stopped there."""
    events = train(model="whole/m.lmp", out_dir="whole", **options)
    assert isinstance(last(events), RunDone), last(events)
    kept = sorted((place / "whole").glob("m.step-*.lmp"))
    assert len(kept) == 4
    for path in some(kept[:-1], 3):  # the last is of the plan's end
        step = load_checkpoint(path)["runner"]["state"]["progress"]["step"]
        stop_after(step, model=f"{step}/m.lmp", out_dir=str(step), **options)
        assert not list(differences(state_of(path), state_of(place / f"{step}/m.lmp")))


@pytest.mark.sampled
def test_a_late_copy(place: Path, late):
    assert_each_is_of_its_own_step(place, training_plan=write_plan(place, SAVES_OFTEN))


@pytest.mark.long
def test_a_late_copy_of_buffers(place: Path, late):
    mine = "from tests.train.test_checkpointer import CountsPasses\n"
    (place / "mine.py").write_text(mine, encoding="utf-8")
    plan = write_plan(place, SAVES_OFTEN.replace('exp = "test_runner"\n', ""))
    assert_each_is_of_its_own_step(place, training_plan=plan, exp="mine.py:CountsPasses")


@pytest.mark.long
def test_waiting_for_the_copy_is_counted(place: Path, late):
    saves = [e for e in train(training_plan=write_plan(place, SAVES_OFTEN)) if isinstance(e, CheckpointSaved)]
    assert max(e.blocked_s for e in saves) > 0.02


def test_a_system_without_threads_to_give_costs_a_save(place: Path, monkeypatch):
    real, refused = threading.Thread.start, iter([True])

    def start(thread: threading.Thread) -> None:
        if thread.name == "checkpoint" and next(refused, False):
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    events = train(training_plan=write_plan(place, SAVES_OFTEN), model="m.lmp")
    assert isinstance(last(events), RunDone), last(events)
    said = [event.message for event in events if isinstance(event, Warned)]
    assert said == ["m.lmp: not saved: can't start new thread; training goes on, the next save tries again"]


@pytest.mark.parametrize(
    ("loss", "best", "is_best"),
    [(2.0, None, True), (2.0, 3.0, True), (3.0, 2.0, False), (2.0, 2.0, False), (None, None, False),
     (math.nan, None, False), (math.nan, 2.0, False), (-math.inf, 2.0, False)],
)  # fmt: skip
def test_the_best_is_the_lowest_of_the_finite_losses(loss, best, is_best):
    assert is_better(loss, best) is is_best
