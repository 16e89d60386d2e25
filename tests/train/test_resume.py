"""A run stopped anywhere and resumed leaves the same bits as one that was never stopped."""

import gc
import weakref
from pathlib import Path

import pytest
import torch

from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import CheckpointSaved, RunDone, RunFailed, RunStopped, StepDone, Warned
from lmplay_tui.train import checkpoint
from lmplay_tui.train.hosting import run_events
from tests.train.runs import (
    StopsAtLook,
    differences,
    given,
    last,
    losses,
    state_of,
    statistics_of,
    stop_after,
    train,
    write_plan,
)


def test_what_was_loaded_is_not_kept(place, monkeypatch):
    """A checkpoint is as large as model and optimizer together: training shall not lack that memory."""
    plan = write_plan(place)
    stop_after(2, training_plan=plan, model="m.lmp")
    loaded: list[weakref.ref[torch.Tensor]] = []
    real = checkpoint.load_archive

    def load(path):
        archive = real(path)
        loaded.extend(weakref.ref(tensor) for tensor in archive["model"]["state"].values())
        return archive

    monkeypatch.setattr(checkpoint, "load_archive", load)
    alive = []
    for event in run_events(given(model="m.lmp"), Controls()):
        if isinstance(event, StepDone):
            gc.collect()
            alive = [ref for ref in loaded if ref() is not None]
            break
    assert loaded
    assert not alive


@pytest.fixture
def undisturbed(place: Path):
    """A run to its end: its steps, its checkpoint, its statistics."""
    plan = write_plan(place)
    events = train(training_plan=plan, model="whole/m.lmp", out_dir="whole")
    assert isinstance(last(events), RunDone), last(events)
    return plan, losses(events), state_of(place / "whole/m.lmp"), statistics_of(place / "whole")


def assert_same_end(place: Path, folder: str, undisturbed) -> None:
    _, _, state, statistics = undisturbed
    assert not list(differences(state, state_of(place / folder / "m.lmp")))
    assert statistics == statistics_of(place / folder)


def test_every_step(place, undisturbed):
    plan, whole, _, _ = undisturbed
    steps = [step for step, *_ in whole]
    assert steps == list(range(1, len(steps) + 1))
    assert len({stage for _, stage, *_ in whole}) == 3
    for k in steps:
        folder = f"run{k}"
        first = stop_after(k, training_plan=plan, model=f"{folder}/m.lmp", out_dir=folder)
        assert isinstance(last(first), RunStopped | RunDone)
        assert losses(first) == whole[:k]
        second = train(model=f"{folder}/m.lmp", out_dir=folder)
        assert isinstance(last(second), RunDone), last(second)
        assert losses(second) == whole[k:]
        assert_same_end(place, folder, undisturbed)


def test_between_mini_batches_and_inside_validation(place, undisturbed):
    plan, whole, _, _ = undisturbed
    seen = set()
    for look in range(1, 1000, 7):
        folder = f"look{look}"
        first = train(StopsAtLook(look), training_plan=plan, model=f"{folder}/m.lmp", out_dir=folder)
        done = losses(first)
        if isinstance(last(first), RunDone):
            break
        assert isinstance(last(first), RunStopped)
        assert done == whole[: len(done)]
        seen.add(len(done))
        options = {"training_plan": plan} if not done else {}
        second = train(model=f"{folder}/m.lmp", out_dir=folder, **options)
        assert done + losses(second) == whole
        assert_same_end(place, folder, undisturbed)
    assert len(seen) > 5, "the looks must fall into different steps"


def test_stopped_many_times(place, undisturbed):
    plan, whole, _, _ = undisturbed
    options = {"training_plan": plan}
    done = []
    for _ in range(len(whole) + 1):
        events = stop_after(len(done) + 2, model="often/m.lmp", out_dir="often", **options)
        done += losses(events)
        options = {}
        if isinstance(last(events), RunDone):
            break
    assert done == whole
    assert_same_end(place, "often", undisturbed)


def test_finished_run_trains_nothing(place, undisturbed):
    events = train(model="whole/m.lmp", out_dir="whole")
    end = last(events)
    assert isinstance(end, RunDone)
    assert end.already
    assert not losses(events)
    assert_same_end(place, "whole", undisturbed)


def test_a_finished_run_is_extended(place, undisturbed):
    """The plan's last stage goes on; the plan that the run keeps from then on says so."""
    whole = undisturbed[1]
    events = train(model="whole/m.lmp", out_dir="whole", extend=0.2)
    assert isinstance(last(events), RunDone)
    assert not last(events).already
    assert {stage for _, stage, *_ in losses(events)} == {"both"}
    assert losses(events)[0][0] == whole[-1][0] + 1
    assert any("stage both: epochs 0.2 -> 0.4" in e.message for e in events if isinstance(e, Warned))
    assert last(train(model="whole/m.lmp", out_dir="whole")).already, "it is not extended once more"


def test_there_must_be_a_run_to_extend(place):
    end = last(train(training_plan=write_plan(place), model="none/m.lmp", extend=1.0))
    assert isinstance(end, RunFailed)
    assert (end.exit_code, "--extend: none/m.lmp is not there" in end.message) == (2, True)


def test_stop_before_the_first_step_saves_nothing(place):
    plan = write_plan(place)
    events = train(StopsAtLook(1), training_plan=plan, model="none/m.lmp")
    end = last(events)
    assert isinstance(end, RunStopped)
    assert end.path is None
    assert not list((place / "none").glob("*.lmp"))


def test_a_resume_that_is_stopped_at_once_keeps_the_checkpoint(place):
    plan = write_plan(place)
    stop_after(3, training_plan=plan, model="m.lmp")
    before = (place / "m.lmp").read_bytes()
    events = train(StopsAtLook(1), model="m.lmp")
    assert isinstance(last(events), RunStopped)
    assert not [e for e in events if isinstance(e, CheckpointSaved | StepDone)]
    assert (place / "m.lmp").read_bytes() == before
