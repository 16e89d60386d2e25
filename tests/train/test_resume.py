"""A run stopped anywhere and resumed leaves the same bits as one that was never stopped."""

import gc
import weakref
from pathlib import Path

import pytest
import torch

from lmplay_tui.run.controls import Controls, Stop
from lmplay_tui.run.events import (
    Answered,
    CheckpointSaved,
    Event,
    RunDone,
    RunFailed,
    RunStopped,
    StageDone,
    StepDone,
    Warned,
)
from lmplay_tui.train.launch import run_events
from tests.train.runs import (
    PLAN,
    StopsAtLook,
    Undisturbed,
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
    real = torch.load

    def load(*args, **kwargs):
        archive = real(*args, **kwargs)
        loaded.extend(weakref.ref(tensor) for tensor in archive["model"]["state"].values())
        return archive

    monkeypatch.setattr(torch, "load", load)
    alive = []
    for event in run_events(given(model="m.lmp"), Controls()):
        if isinstance(event, StepDone):
            gc.collect()
            alive = [ref for ref in loaded if ref() is not None]
            break
    assert loaded
    assert not alive


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, _one_thread: None) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"), PLAN)


@pytest.fixture
def place(run: Undisturbed, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the run was trained to its end."""
    monkeypatch.chdir(run.again())
    return run.place


@pytest.fixture
def undisturbed(run: Undisturbed):
    """A run to its end: its steps, its checkpoint, its statistics."""
    return run.plan, run.losses, run.state, run.statistics


def assert_same_end(place: Path, folder: str, undisturbed) -> None:
    _, _, state, statistics = undisturbed
    assert not list(differences(state, state_of(place / folder / "m.lmp")))
    assert statistics == statistics_of(place / folder)


@pytest.mark.long
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


@pytest.mark.long
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


def stop_behind(step: int, events_later: int, **options) -> list[Event]:
    """Train, and stop so many events after the one that says that `step` is done."""
    controls, events, since = Controls(), [], None
    for event in run_events(given(**options), controls):
        events.append(event)
        if since is not None or (isinstance(event, StepDone) and event.step == step):
            since = 0 if since is None else since + 1
            if since == events_later:
                controls.send(Stop())
    return events


@pytest.mark.long
def test_a_stage_that_ends_just_when_the_stop_comes_is_not_trained_again(place):
    """A stop at each event between the last step of a stage and the first one of the next."""
    two_stages = PLAN.partition("[stages.both]")[0]
    plan = write_plan(place, two_stages.replace("epochs = 0.4", "epochs = 0.1").replace("epochs = 1.2", "epochs = 0.5"))
    events = train(training_plan=plan, model="two/m.lmp", out_dir="two")
    assert isinstance(last(events), RunDone), last(events)
    whole, state = losses(events), state_of(place / "two/m.lmp")
    step = max(step for step, stage, *_ in whole if stage == "stories")
    ended_before_the_stop = set()
    for later in range(100):
        folder = f"later{later}"
        first = stop_behind(step, later, training_plan=plan, model=f"{folder}/m.lmp", out_dir=folder)
        if len(losses(first)) > step:
            break
        assert isinstance(last(first), RunStopped)
        second = train(model=f"{folder}/m.lmp", out_dir=folder)
        assert losses(first) + losses(second) == whole
        ends = [[e.stage for e in events if isinstance(e, StageDone)] for events in (first, second)]
        assert ends[0] + ends[1] == ["stories", "pairs"], "each stage ends once"
        ended_before_the_stop.add("stories" in ends[0])
        assert not list(differences(state, state_of(place / folder / "m.lmp")))
    assert ended_before_the_stop == {True, False}


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


@pytest.mark.long
def test_finished_run_trains_nothing(place, undisturbed):
    events = train(model="whole/m.lmp", out_dir="whole")
    end = last(events)
    assert isinstance(end, RunDone)
    assert end.already
    assert not losses(events)
    assert_same_end(place, "whole", undisturbed)


@pytest.mark.long
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


@pytest.mark.parametrize(("optimizer", "said"), [("adamw", []), ("sgd", ["sgd, the checkpoint's adamw"])])
def test_a_resume_with_another_optimizer_says_that_its_state_begins_anew(place, optimizer, said):
    stop_after(2, training_plan=write_plan(place), model="m.lmp")
    warned = [e.message for e in stop_after(3, model="m.lmp", optimizer=optimizer) if isinstance(e, Warned)]
    assert [message for message in warned if "optimizer" in message] == [
        f"stage stories: its optimizer is {each}: the optimizer's state begins anew" for each in said
    ]


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
    controls = StopsAtLook(1)
    controls.send(Stop(id="s"))
    events = train(controls, model="m.lmp")
    end = last(events)
    assert isinstance(end, RunStopped)
    assert (end.step, end.path, end.saved) == (3, "m.lmp", False), "where it stands, though it was still loading"
    [answer] = [e.message for e in events if isinstance(e, Answered)]
    assert answer == "stopped at step 3, nothing had been trained"
    assert not [e for e in events if isinstance(e, CheckpointSaved | StepDone)]
    assert (place / "m.lmp").read_bytes() == before
