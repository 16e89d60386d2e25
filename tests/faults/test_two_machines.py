"""Two machines on one folder: each has a name of its own, and on some shares neither sees the other's lock.

A machine is a process with a host name of its own (a name space of the kernel's); where locks are kept apart, taking
one always succeeds in it, as on a share that is mounted with locks of its own.
"""

import ctypes
import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import RunDone, RunFailed, StepDone
from lmplay_tui.run.folder import HEARTBEAT_S, RunFolder
from lmplay_tui.train.launch import run_events
from tests.faults.forks import Child, no_locks
from tests.faults.terminals import until
from tests.train.runs import given, last, train, write_plan

_NEW_USER, _NEW_NAMES = 0x10000000, 0x04000000  # sched.h


def is_named(name: str) -> bool:
    """Give this process a machine's name of its own; False where this machine does not allow that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_USER | _NEW_NAMES) or libc.sethostname(name.encode(), len(name)):
        return False
    return socket.gethostname() == name


def locks_of_its_own(*_: object) -> None:
    """No other's is seen."""


LOCKS: dict[str, Callable[..., None] | None] = {"shared": None, "none": no_locks, "kept apart": locks_of_its_own}


def train_there(name: str, locks: str, plan: str | None, report: Callable[[Any], None], *, holds: bool) -> None:
    if not is_named(name):
        report("not allowed here")
        return
    if (replaced := LOCKS[locks]) is not None:
        fcntl.flock = replaced
    more = {} if plan is None else {"training_plan": plan}
    for event in run_events(given(model="m.lmp", **more), Controls()):
        if isinstance(event, StepDone) and event.step == 2:
            report("trains")
            if holds:
                time.sleep(600)
    report(event)


@pytest.mark.long
@pytest.mark.parametrize("locks", LOCKS)
def test_the_second_machine_is_refused_and_goes_on_when_the_first_is_gone(place, locks):
    plan, run = write_plan(place), RunFolder(Path("m.lmp"))
    with Child(lambda report: train_there("first", locks, plan, report, holds=True)) as first:
        if next(first.reports()) == "not allowed here":
            pytest.skip("no name spaces here")
        with Child(lambda report: train_there("second", locks, plan, report, holds=False)) as second:
            *trained, end = second.reports()
            assert not trained, "two train one run"
        assert isinstance(end, RunFailed)
        assert end.exit_code == 2
        assert f"process {first.pid} on first is training this run" in end.message
        assert run.alive()
        first.kill()
    before = time.time() - 100  # as if the second start came so much later
    os.utime(run.lock_path, (before, before))
    assert not run.alive()
    with Child(lambda report: train_there("second", locks, plan, report, holds=False)) as second:
        assert isinstance([*second.reports()][-1], RunDone)
    assert not list(place.glob("*.apart.lmp"))


@pytest.mark.long
def test_a_run_is_taken_over_at_once_from_a_machine_that_has_died(place, monkeypatch):
    """Its last heartbeat is young, and no other comes: that is looked for, for some seconds."""
    plan, run = write_plan(place), RunFolder(Path("m.lmp"))
    with Child(lambda report: train_there("first", "shared", plan, report, holds=True)) as first:
        if next(first.reports()) == "not allowed here":
            pytest.skip("no name spaces here")
        began = run.lock_path.stat().st_mtime
        until(lambda: run.lock_path.stat().st_mtime > began)
        first.kill()
    assert time.time() - run.lock_path.stat().st_mtime < 10 * HEARTBEAT_S
    assert isinstance(last(train(training_plan=plan, model="m.lmp")), RunDone)
