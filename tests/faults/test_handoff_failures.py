"""A run that goes on in another process: its lock, its command line, what it was asked, and where that fails."""

import errno
import itertools
import os
import time
from collections import deque

import pytest

from lmplay_tui.run.control_files import ControlFiles
from lmplay_tui.run.controls import Controls, HandOver, SaveNow, Stop
from lmplay_tui.run.events import (
    HandedOver,
    RunDone,
    StageStarted,
    StepDone,
    Warned,
)
from lmplay_tui.run.folder import RunFolder, RunLock, status_of
from lmplay_tui.train.handoff import command_of
from lmplay_tui.train.launch import run_events
from tests.faults.forks import Child
from tests.seams import Seams, for_a_while
from tests.train.runs import answers, given, last, losses, stop_after, train, write_plan


def test_a_lock_is_handed_down_without_a_gap(tmp_path):
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    lock = RunLock(run)
    lock.take()

    def next_trainer(report) -> None:
        os.environ["LMPLAY_TUI_LOCK"] = f"{lock.descriptor}:{run.lock_path.resolve()}"
        inherited = RunLock(run)
        inherited.take()
        report(inherited.inherited)
        time.sleep(600)

    with Child(next_trainer) as child:
        assert next(child.reports()) is True
        lock.release()
        assert run.alive()
        with pytest.raises(Exception, match="is training this run"):
            RunLock(run).take()
        child.kill()
    assert not run.alive()


@pytest.mark.parametrize("value", ["", "7", "x:y", "999:PATH", "0:PATH", "-1:PATH"])
def test_a_foreign_descriptor_is_no_lock(tmp_path, monkeypatch, value):
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    run.lock_path.touch()
    monkeypatch.setenv("LMPLAY_TUI_LOCK", value.replace("PATH", str(run.lock_path.resolve())))
    lock = RunLock(run)
    lock.take()
    assert not lock.inherited
    assert run.alive()
    lock.release()


# ---------------------------------------------------------------------------- handing over


def test_the_process_that_goes_on_is_told_what_the_checkpoint_does_not_know(tmp_path):
    run = RunFolder(tmp_path / "m.lmp")
    line = given(
        training_plan="plan.toml", model="m.lmp", out_dir="out", lr=0.1, amp=True, keep=3, reset_history=True,
        ascii=True, start=True, detach=True, exp="file.py:Mine",
    )  # fmt: skip
    resumed = command_of(run, line, resumes=True)
    assert resumed[1:4] == ["-P", "-m", "lmplay_tui.cli"]
    words = set(resumed)
    assert words >= {"--headless", "--on-hangup", "continue", "--amp", "--keep", "file.py:Mine", "--out-dir"}
    assert not words & {"--reset-history", "--training-plan", "--lr", "--ascii", "--start", "--detach"}
    fresh = set(command_of(run, line, resumes=False))
    assert fresh >= {"--training-plan", "--lr", "--reset-history", "--headless"}
    assert not fresh & {"--detach", "--start", "--ascii"}


def hand_over_at(step: int, plan: str, seams: Seams, start) -> list:
    seams.put("start a process", start)
    bus, events = Controls(), []
    for event in run_events(given(training_plan=plan, model="m.lmp"), bus):
        events.append(event)
        if isinstance(event, StepDone) and event.step == step:
            bus.send(HandOver(id="h"))
    return events


def test_handing_over_saves_first(place):
    with for_a_while() as seams:
        events = hand_over_at(3, write_plan(place), seams, lambda *_, **__: 4711)
    assert last(events) == HandedOver(3, 4711)
    assert answers(events)["h"].ok
    assert status_of(RunFolder(place / "m.lmp"))["state"] == "dead", "nobody took it: this test's process is none"
    assert isinstance(last(train(model="m.lmp")), RunDone)


def test_a_hand_over_while_a_run_is_loaded_says_the_step_it_stands_at(place, seams):
    stop_after(3, training_plan=write_plan(place), model="m.lmp")
    seams.put("start a process", lambda *_, **__: 4711)
    bus = Controls()
    bus.send(HandOver())
    assert list(run_events(given(model="m.lmp"), bus))[-1] == HandedOver(3, 4711)


def test_a_save_asked_for_before_a_step_is_handed_over(place, seams):
    """There is nothing to save yet: the process that goes on answers it."""
    seams.put("start a process", lambda *_, **__: 4711)
    bus, events = Controls(), []
    for event in run_events(given(training_plan=write_plan(place), model="m.lmp"), bus):
        events.append(event)
        if isinstance(event, StageStarted):
            bus.send(SaveNow(id="s"))
            bus.send(HandOver(id="h"))
    assert last(events) == HandedOver(0, 4711)
    assert set(answers(events)) == {"h"}
    assert [(type(c).__name__, c.id) for c in ControlFiles(RunFolder(place / "m.lmp"))()] == [("SaveNow", "s")]


@pytest.mark.long_after(1)
@pytest.mark.parametrize("fails", ["save", "start"])
def test_where_handing_over_fails_this_process_goes_on(place, seams, fails):
    """Nothing is lost and nothing changes: the losses are those of an undisturbed run."""
    plan = write_plan(place)
    whole = train(training_plan=plan, model="whole.lmp")

    def start(*_: object, **__: object) -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    if fails == "save":
        from tests.faults.test_failing_saves import failing

        with failing(1):
            events = hand_over_at(3, plan, seams, lambda *_, **__: pytest.fail("nothing is saved"))
    else:
        events = hand_over_at(3, plan, seams, start)
    assert isinstance(last(events), RunDone)
    assert losses(events) == losses(whole)
    assert [e for e in events if isinstance(e, Warned) and "goes on in this process" in e.message]
    assert not answers(events)["h"].ok


def test_a_stop_beats_a_hand_over():
    bus = Controls()
    bus.send(HandOver())
    assert bus.hands_over
    bus.send(Stop())
    assert not bus.hands_over
    bus.stay()
    assert bus.stop_now
    bus = Controls()
    bus.send(HandOver())
    bus.stay()
    assert not bus.stop_now


@pytest.mark.parametrize("at", [1, 2])
def test_a_stop_that_comes_while_a_hand_over_is_forgotten_holds(at):
    """A signal comes between any two lines: also just after a look that has found nobody who wants to leave."""
    bus = Controls()
    looks = itertools.count(1)

    class Looked(deque):
        def __bool__(self) -> bool:
            found = len(self) > 0
            if not found and next(looks) == at:
                bus.send(Stop(reason="SIGTERM"))
            return found

    bus._leaving = Looked()
    bus.send(HandOver(reason="the line was lost"))
    bus.stay()
    assert next(looks) > at
    assert bus.stop_now
    assert bus.stop_reason == "SIGTERM"


# ---------------------------------------------------------------------------- journals, clock, places
