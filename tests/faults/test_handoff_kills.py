"""Handing over more than once, and kill -9 in the midst of it: the run is held, or free, never lost."""

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from lmplay_tui.cli import main
from lmplay_tui.run.control_files import leave_command
from lmplay_tui.run.controls import Controls, HandOver
from lmplay_tui.run.events import CheckpointSaved, StepDone
from lmplay_tui.run.folder import RunFolder, status_of
from lmplay_tui.train import checkpoint as checkpoints
from lmplay_tui.train import launch
from lmplay_tui.train.checkpoint import newest_checkpoint
from lmplay_tui.train.checkpointer import strays
from lmplay_tui.train.launch import run_events
from tests.faults.forks import Child
from tests.faults.programs import dashboard, saved_step, steps_in_journal, stop_and_wait, trains
from tests.faults.terminals import Terminal, until
from tests.journals import read_journal
from tests.train.runs import given, stop_after


def of_kind(run: RunFolder, kind: str) -> list[dict]:
    return [event for event in read_journal(run.events) if event["event"] == kind]


def processes_in(folder: Path) -> set[int]:
    """The processes that work in a folder, this one left out: all of a run's own, readers of data among them."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder):
                found.add(process.pid)
    return found


@contextmanager
def never_free(run: RunFolder) -> Iterator[None]:
    """While this lasts, a process holds the run at every look."""
    over, free = threading.Event(), []

    def look() -> None:
        while not over.wait(0.005):
            if not run.alive():
                free.append(time.monotonic())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()
    assert not free, "no process held the run"


def handed_over(run: RunFolder, times: int) -> dict:
    """Wait for that many hand-overs; the last one."""
    until(lambda: len(of_kind(run, "HandedOver")) >= times)
    return of_kind(run, "HandedOver")[-1]


def goes_on(run: RunFolder, handed: dict) -> None:
    """Wait until the process that took over trains, from where the one before it had stopped."""
    saved = of_kind(run, "CheckpointSaved")[-1]["step"]
    assert handed["step"] in (saved, 0), "0: it had not yet read the checkpoint"
    until(lambda: [e for e in of_kind(run, "RunStarted") if e["pid"] == handed["pid"]])
    until(trains(run, saved + 3))
    assert of_kind(run, "RunStarted")[-1]["resumed_from"] == saved
    status = status_of(run)
    assert (status["state"], status["pid"]) == ("running", handed["pid"])


@pytest.mark.long
def test_handed_over_again_and_again(long_run):
    """The line is lost; the process that goes on hands over too; the one after that before it has trained a step."""
    with Terminal(dashboard()) as terminal:
        until(trains(long_run))
        with never_free(long_run):
            terminal.hang_up()
            assert terminal.wait() == 0
            try:
                goes_on(long_run, handed_over(long_run, 1))
                os.kill(status_of(long_run)["pid"], signal.SIGHUP)  # it has no line that could be lost
                asked = [leave_command(long_run, HandOver())]
                handed_over(long_run, 2)
                asked.append(leave_command(long_run, HandOver()))
                goes_on(long_run, handed_over(long_run, 3))
                answers = {e["id"]: e for e in of_kind(long_run, "Answered")}
                assert [answers[identity]["ok"] for identity in asked] == [True, True]
                *gone, newest = (e["pid"] for e in of_kind(long_run, "HandedOver"))
                until(lambda: processes_in(long_run.model.parent) & {terminal.pid, *gone} == set())
                assert os.getsid(newest) == newest
            except BaseException:
                stop_and_wait(long_run)
                raise
        stop_and_wait(long_run)
    steps = [row["step"] for row in read_journal(long_run.metrics) if "step" in row]
    assert steps == list(range(1, len(steps) + 1)), "each step once"
    assert saved_step(long_run) == len(steps)
    until(lambda: not processes_in(long_run.model.parent))


@pytest.mark.long
def test_a_resumed_run_is_handed_over_again(long_run):
    """Hung up, ended from a shell, resumed in a dashboard, hung up again before it has trained: all in order."""
    with Terminal(dashboard()) as terminal:
        until(trains(long_run))
        terminal.hang_up()
        assert terminal.wait() == 0
    try:
        goes_on(long_run, handed_over(long_run, 1))
        assert main(["ctl", "m", "stop"]) == 0
        until(lambda: not long_run.alive())
        with Terminal(lambda: main(["--model", "m.lmp", "--refresh-hz", "10"])) as terminal:
            until(lambda: b"\x1b[?1049h" in terminal.output and long_run.alive())
            terminal.hang_up()
            assert terminal.wait() == 0
        goes_on(long_run, handed_over(long_run, 2))
    finally:
        stop_and_wait(long_run)
    assert saved_step(long_run) == steps_in_journal(long_run)


# ---------------------------------------------------------------------------- kill -9 in the midst of it


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before_the_rename() -> None:
    """The bytes lie in a temporary file."""
    setattr(checkpoints, "damage_of", die)  # noqa: B010  (a name that it imports)


def before_the_start() -> None:
    """All is saved, and nobody has been told to go on."""
    setattr(launch, "start_process", die)  # noqa: B010


def after_the_start() -> None:
    """The other process exists, and nobody has been told of it."""
    real = getattr(launch, "start_process")  # noqa: B009

    def start(*args, **kwargs) -> None:
        real(*args, **kwargs)
        die()

    setattr(launch, "start_process", start)  # noqa: B010


def hands_over(moment, report) -> None:
    """Train until something is saved, then hand over; `moment` prepares this process's death in the midst of that."""
    controls, options = Controls(), {} if Path("m.lmp").exists() else {"training_plan": "plan.toml"}
    saved = handing_over = False
    for event in run_events(given(model="m.lmp", save_interval=18, log_interval=1, **options), controls):
        if isinstance(event, CheckpointSaved):
            report(("saved", event.step))
            saved = True
        if isinstance(event, StepDone) and saved and not handing_over:
            handing_over = True
            if moment is not None:
                moment()
            report(("handing over", event.step))
            controls.send(HandOver())


def follow(child: Child) -> tuple[int, int]:
    """Hear a child to its end: the last announced save, and the step at which it began to hand over."""
    said = dict(child.reports())
    return said.get("saved", 0), said["handing over"]


def assert_free_and_whole(run: RunFolder, announced: int) -> int:
    """Nobody holds the run, nothing is left running, and its newest checkpoint is no older; its step."""
    # What is killed ends thread by thread: the last one lets go of the run.
    until(lambda: not processes_in(run.model.parent) and not run.alive())
    assert status_of(run)["state"] == "dead"
    found = newest_checkpoint(run, pytest.fail)
    assert found is not None
    step = int(found[0]["runner"]["state"]["progress"]["step"])
    assert step >= announced
    return step


def assert_resumes(run: RunFolder, step: int) -> None:
    stop_after(step + 2, model="m.lmp", log_interval=1)
    assert of_kind(run, "RunStarted")[-1]["resumed_from"] == step
    assert saved_step(run) == step + 2
    assert not strays(run)


@pytest.mark.parametrize("moment", [before_the_rename, before_the_start])
def test_kill_9_of_the_process_that_hands_over(long_run, moment):
    with Child(partial(hands_over, moment)) as child:
        announced, at = follow(child)
        assert child.wait() == -signal.SIGKILL
    assert announced > 0
    assert bool(strays(long_run)) is (moment is before_the_rename)
    step = assert_free_and_whole(long_run, announced)
    assert step == at if moment is before_the_start else step < at
    assert_resumes(long_run, step)


@pytest.mark.long
def test_kill_9_when_the_other_process_has_just_begun(long_run):
    """Nobody has been told of it, but it holds the run and goes on."""
    with Child(partial(hands_over, after_the_start)) as child, never_free_once_held(long_run):
        _, at = follow(child)
        assert child.wait() == -signal.SIGKILL
        try:
            until(trains(long_run, at + 3))
            assert not of_kind(long_run, "HandedOver")
            assert of_kind(long_run, "RunStarted")[-1]["resumed_from"] == at
            assert status_of(long_run)["state"] == "running"
        except BaseException:
            stop_and_wait(long_run)
            raise
    stop_and_wait(long_run)
    assert saved_step(long_run) == steps_in_journal(long_run)
    until(lambda: not processes_in(long_run.model.parent))


@contextmanager
def never_free_once_held(run: RunFolder) -> Iterator[None]:
    until(run.alive)
    with never_free(run):
        yield


def loads(run: RunFolder, pid: int) -> bool:
    """Whether the new process has said its first word, and has not begun."""
    return run.status().get("pid") == pid and run.status().get("activity") != "handing over"


@pytest.mark.long_after(1)
@pytest.mark.parametrize("moment", ["at once", "loading", "begun"])
def test_kill_9_of_the_process_that_takes_over(long_run, moment):
    with Child(partial(hands_over, None)) as child:
        announced, at = follow(child)
        assert child.wait() == 0
    [handed] = of_kind(long_run, "HandedOver")
    assert handed["step"] == at == announced
    pid = handed["pid"]
    if moment == "loading":
        until(lambda: loads(long_run, pid))
    elif moment == "begun":
        until(lambda: [e for e in of_kind(long_run, "RunStarted") if e["pid"] == pid])
    os.kill(pid, signal.SIGKILL)
    until(lambda: not long_run.alive())
    step = assert_free_and_whole(long_run, max(e["step"] for e in of_kind(long_run, "CheckpointSaved")))
    assert step >= at
    assert_resumes(long_run, step)


def gone(pids: set[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def check_kills_at_random(run: RunFolder, times: int, count) -> None:
    """Either process, or both, at any time between the request and a second after the other one has begun to train."""
    dice = random.Random(3)
    fell: dict[str, int] = {"old": 0, "new": 0, "both": 0}
    announced = at = survived = 0
    for number in range(times):
        who = dice.choice(list(fell))
        with Child(partial(hands_over, None)) as child:
            said = dict(itertools.takewhile(lambda each: each[0] != "handing over", child.reports()))
            announced = max(announced, said.get("saved", 0))
            time.sleep(dice.choice([dice.uniform(0.0, 0.1), dice.uniform(0.0, 6.0)]))
            others = processes_in(run.model.parent) - {child.pid}
            victims = {"old": {child.pid}, "new": others, "both": {child.pid, *others}}[who]
            for pid in victims:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            announced = max([announced, *(step for kind, step in child.reports() if kind == "saved")])
            fell[who] += child.wait() != 0 or (who != "old" and bool(others))
        # What is killed ends thread by thread, and holds the run until the last one is gone.
        until(partial(gone, victims))
        at = steps_in_journal(run)
        survived += run.alive()
        if run.alive():
            until(lambda: [e for e in of_kind(run, "RunStarted") if e["pid"] == run.status().get("pid")])
            stop_and_wait(run)
            assert saved_step(run) == steps_in_journal(run)
        until(lambda: not processes_in(run.model.parent) and not run.alive())
        found = newest_checkpoint(run, pytest.fail)
        step = int(found[0]["runner"]["state"]["progress"]["step"]) if found else 0
        assert step >= announced, (number, who, at)
    count(f"kill -9 in the midst of handing over: {times}, {fell} hit, {survived} went on; 0 older than announced")
    assert sum(fell.values()) >= times / 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kill_9_while_handing_over_40(long_run, count):
    check_kills_at_random(long_run, 40, count)
