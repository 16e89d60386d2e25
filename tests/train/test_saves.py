"""What a save tells of itself."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from lmplay_tui.run.events import CheckpointSaved
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train import saving
from lmplay_tui.train.saves import Saves
from lmplay_tui.train.saving import Outcome, SaveRequest
from lmplay_tui.train.state import TrainState
from tests.train.runs import stop_after, write_plan

SLOW_S = 0.05


def slowly(real):
    def work(*args: Any, **kwargs: Any):
        time.sleep(SLOW_S)
        return real(*args, **kwargs)

    return work


@pytest.mark.parametrize(
    ("part", "name"), [(TrainState, "checkpoint"), (saving, "cpu_copy"), (saving, "write_checkpoint")]
)
def test_what_a_stop_waits_for_is_counted(place, monkeypatch, part, name):
    """The state, its copy, and here also the write."""
    monkeypatch.setattr(part, name, slowly(getattr(part, name)))
    events = stop_after(1, training_plan=write_plan(place), model="m.lmp")
    saved = next(event for event in events if isinstance(event, CheckpointSaved))
    assert saved.blocked_s >= SLOW_S
    assert saved.seconds >= SLOW_S


def test_a_save_that_the_next_one_waits_for_counts_it(tmp_path):
    saves = Saves(SimpleNamespace(run=RunFolder(tmp_path / "m.lmp")), tmp_path)
    request = SaveRequest(step=3, rows=6, stage="a", reason="interval", keep=0, is_best=False)
    saved = CheckpointSaved(
        path="m.lmp", step=3, rows=6, size_bytes=1, seconds=9.0, blocked_s=1.0, reason="interval"
    )  # fmt: skip
    outcomes = [Outcome(request, saved)]
    saves._saver.wait = slowly(outcomes.pop)
    (event,) = saves.close()
    assert isinstance(event, CheckpointSaved)
    assert event.blocked_s >= 1.0 + SLOW_S
