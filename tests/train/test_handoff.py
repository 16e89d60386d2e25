"""What a process that goes on is given: commands not carried out yet, the command line, the address for messages."""

import errno
import itertools
import os
from types import SimpleNamespace

import pytest

from lmplay_tui.errors import TrainingError
from lmplay_tui.run import controls as asked
from lmplay_tui.run.control_files import ControlFiles
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import (
    Answered,
    CheckpointSaved,
    HandedOver,
    Paused,
    RunStarted,
    RunStopped,
    StepDone,
    Warned,
)
from lmplay_tui.run.folder import LOCK_FROM, RunFolder, take_run
from lmplay_tui.run.notify import NOTIFY_URL
from lmplay_tui.train import handoff, launch
from lmplay_tui.train.handoff import command_of
from lmplay_tui.train.launch import run_events
from tests.seams import raising
from tests.train.runs import given, last, progress_of, stop_after, train, write_plan


def handed_over(seams, *commands: asked.Command, after: int, **options) -> list[dict]:
    """Send the commands after a step (0: before the first), then hand over; how processes were started."""
    started: list[dict] = []

    def start(run, line, lock, *, resumes, spent_s):
        left = ControlFiles(run)()
        started.append({"words": command_of(run, line, resumes=resumes), "left": left})
        return 4711

    seams.put("start a process", start)
    controls, events = Controls(), []
    for event in run_events(given(**options), controls):
        events.append(event)
        reached = event.step == after if isinstance(event, StepDone) else isinstance(event, RunStarted) and not after
        if reached:
            for command in commands or (asked.HandOver(),):
                controls.send(command)
        if getattr(event, "activity", "") == "paused":
            controls.send(asked.HandOver())
    assert isinstance(last(events), HandedOver), last(events)
    return started


def test_a_pause_and_a_stop_to_come_are_handed_down(place, seams):
    commands = (asked.Stop(when="stage_end"), asked.Pause())
    started = handed_over(seams, *commands, after=2, training_plan=write_plan(place), model="m.lmp")
    left = started[0]["left"]
    assert [type(command).__name__ for command in left] == ["Pause", "Stop"]
    assert left[1].when == "stage_end"


def test_what_is_not_carried_out_yet_is_handed_down(place):
    """A step that is dropped half-way looks at nothing but the hand-over."""
    run, controls = RunFolder(place / "m.lmp"), Controls()
    run.create()
    for command in (asked.HandOver(), asked.Pause(), asked.SetLearningRate(factor=0.5, id="17-from-a-file")):
        controls.send(command)
    events = list(handoff.hand_over(run, 2, controls, lambda: 4711))
    assert [type(event).__name__ for event in events] == ["HandedOver"]
    left = {type(command).__name__: command for command in ControlFiles(run)()}
    assert left.keys() == {"Pause", "SetLearningRate"}
    assert left["SetLearningRate"].id == "17-from-a-file", "who has asked hears of it"


def test_what_is_asked_of_a_new_run_is_in_a_checkpoint_when_it_is_handed_over(place, seams):
    commands = (asked.SetLearningRate(factor=0.5), asked.Pause())
    words = handed_over(seams, *commands, after=0, training_plan=write_plan(place), model="m.lmp")[0]["words"]
    assert progress_of("m.lmp")["lr_factor"] == 0.5
    assert "--training-plan" not in words


def test_what_cannot_be_handed_down_keeps_the_run_here(place, seams):
    seams.put("leave a command", raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    seams.put("start a process", lambda *_, **__: pytest.fail("a process was started"))
    controls, events = Controls(), []
    for event in run_events(given(training_plan=write_plan(place), model="m.lmp"), controls):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 2:
            for command in (asked.HandOver(), asked.Pause()):
                controls.send(command)
        if getattr(event, "activity", "") == "paused":
            controls.send(asked.Stop())
    assert isinstance(last(events), RunStopped)
    assert [e for e in events if isinstance(e, Warned) and "cannot be handed down" in e.message]
    assert [e for e in events if isinstance(e, Paused)], "what was asked for is done here"


def test_a_validation_and_a_prompt_that_nobody_came_to_are_handed_down(place, seams):
    """With their identities: who waits for the answer hears it from the process that goes on."""
    commands = (asked.ValidateNow(id="v"), asked.Ask("The mill", id="a"), asked.HandOver())
    started = handed_over(seams, *commands, after=2, training_plan=write_plan(place), model="m.lmp")
    assert sorted((type(c).__name__, c.id) for c in started[0]["left"]) == [("Ask", "a"), ("ValidateNow", "v")]


def waiting(place) -> tuple[RunFolder, Controls]:
    """A run that is to be handed over, and what it has not carried out yet."""
    run, controls = RunFolder(place / "m.lmp"), Controls()
    run.create()
    controls.sources.append(ControlFiles(run, clock=itertools.count(0, 10).__next__))
    for command in (asked.HandOver(id="h"), asked.Pause(id="1"), asked.Bookmark(id="2"), asked.SaveNow(id="3")):
        controls.send(command)
    return run, controls


def test_what_cannot_be_handed_down_is_still_to_be_done_here(place, seams):
    """A disk that is full after the first command: that one lies there, the others are given back; each once."""
    run, controls = waiting(place)

    def leave(run, command):
        if command.id == "2":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    seams.watch("leave a command", leave)
    events = list(handoff.hand_over(run, 2, controls, lambda: pytest.fail("a process was started")))
    assert [(e.id, e.ok) for e in events if isinstance(e, Answered)] == [("h", False)]
    assert not controls.wants_stop()
    assert sorted(command.id for command in controls.decide()) == ["1", "2", "3"]
    assert not controls.decide()


def test_where_no_process_could_be_started_what_was_left_for_it_is_found_here(place):
    def start() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    run, controls = waiting(place)
    events = list(handoff.hand_over(run, 2, controls, start))
    assert [(e.id, e.ok) for e in events if isinstance(e, Answered)] == [("h", False)]
    assert [command.id for command in controls.decide()] == ["1", "2", "3"]
    assert not controls.decide()


def test_a_save_under_way_is_waited_for_where_nothing_was_trained(place):
    stop_after(3, training_plan=write_plan(place), model="m.lmp")
    controls, events = Controls(), []
    for event in run_events(given(model="m.lmp"), controls):
        events.append(event)
        if isinstance(event, RunStarted):
            controls.send(asked.SaveNow())
        if getattr(event, "activity", "") == "saving":
            controls.send(asked.Stop())
    end = last(events)
    assert [e.step for e in events if isinstance(e, CheckpointSaved)] == [3]
    assert isinstance(end, RunStopped)
    assert end.saved


def test_a_detached_start_finds_no_command_that_was_meant_for_another(place, seams):
    run = RunFolder(place / "m.lmp")
    run.create()
    (run.control / "stop").touch()
    found: list[list[str]] = []

    def start(run, line, lock, *, resumes):
        found.append([path.name for path in run.control.iterdir()])
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    seams.put("start a process", start)
    with pytest.raises(TrainingError):
        launch.start_detached(given(training_plan=write_plan(place), model="m.lmp"))
    assert found == [[]]


@pytest.mark.long
def test_before_a_save_the_whole_command_line_is_handed_down(place, seams):
    train(training_plan=write_plan(place), model="m.lmp", save_interval=6, keep=20)
    older = str(RunFolder(place / "m.lmp").numbered_checkpoints()[0])
    words = handed_over(seams, after=0, resume=older, lr=0.5)[0]["words"]
    assert words[words.index("--resume") + 1] == older
    assert words[words.index("--lr") + 1] == "0.5"
    step = progress_of(older)["step"]
    words = handed_over(seams, after=step + 1, resume=older, lr=0.5)[0]["words"]
    assert not {"--resume", "--lr"} & set(words)


def addresses(seams) -> list[str]:
    """Where messages would be sent to; none is."""
    heard: list[str] = []
    seams.put("post", lambda url, *_: heard.append(url))
    return heard


def test_the_address_for_messages_stands_in_no_command_line(place, seams, monkeypatch):
    url = "http://127.0.0.1:1/s3cret"
    words = command_of(RunFolder(place / "m.lmp"), given(model="m.lmp", notify_url=url), resumes=False)
    assert not [word for word in words if "s3cret" in word]
    heard = addresses(seams)
    monkeypatch.setenv(NOTIFY_URL, url)
    stop_after(1, training_plan=write_plan(place), model="m.lmp")
    assert heard == [], "only a run that was handed down has it from there"
    assert NOTIFY_URL not in os.environ


@pytest.mark.long_after(1)
@pytest.mark.parametrize("resumes", [True, False])
def test_the_address_for_messages_reaches_the_process_that_goes_on(place, seams, monkeypatch, resumes):
    """By its environment: everybody on the machine can read a command line."""
    url, begun = "http://127.0.0.1:1/s3cret", []
    run = RunFolder(place / "m.lmp")
    lock = take_run(run)

    def start(words, **how):
        begun.append((words, how["env"]))
        return SimpleNamespace(pid=4711, returncode=None)

    monkeypatch.setattr("subprocess.Popen", start)
    given_here = given(training_plan=write_plan(place), model="m.lmp", notify_url=url)
    assert handoff.start_process(run, given_here, lock, resumes=resumes) == 4711
    [(words, environment)] = begun
    assert not [word for word in words if "s3cret" in word or "notify" in word]
    assert environment[NOTIFY_URL] == url
    assert NOTIFY_URL not in os.environ, "this process's own children have nothing to do with it"
    monkeypatch.undo()
    monkeypatch.chdir(place)

    # The process that goes on, with the lock in its hands: it has a descriptor of its own.
    heard = addresses(seams)
    monkeypatch.setenv(NOTIFY_URL, environment[NOTIFY_URL])
    monkeypatch.setenv(LOCK_FROM, environment[LOCK_FROM].replace(str(lock.descriptor), str(os.dup(lock.descriptor)), 1))
    lock.release()
    stop_after(1, training_plan="plan.toml", model="m.lmp")
    assert heard == [url]
    assert NOTIFY_URL not in os.environ
