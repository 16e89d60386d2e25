"""A signal at each moment of a run: while data load, while it compiles, validates, saves, hands over."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest

from lmplay_tui.run.controls import Command, Controls
from lmplay_tui.run.folder import RunFolder
from tests.faults.programs import (
    assert_stopped_in_order,
    dashboard,
    headless,
    saved_step,
    steps_in_journal,
    stop_and_wait,
    trains,
)
from tests.faults.terminals import Terminal, until
from tests.journals import read_journal

# What torch's compiler warns of in its own code.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
Moment = Callable[[], None]  # patches the program in its own process


def hold_until(*kinds: str) -> Callable[[], None]:
    """Something that lasts until a command of one of these kinds has been left for the trainer, in this process."""
    real, asked = Controls.send, set[str]()

    def send(controls: Controls, command: Command) -> None:
        real(controls, command)
        asked.add(type(command).__name__)

    def hold() -> None:
        while not asked & set(kinds):
            time.sleep(0.01)  # an event's lock could be held by what a signal's handler has interrupted

    setattr(Controls, "send", send)  # noqa: B010
    return hold


def loading() -> None:
    """Data that never come."""
    from lmplay_tui.train import dataloader

    setattr(dataloader, "open_stage", lambda *_, **__: threading.Event().wait(600))  # noqa: B010  (a name that it imports)


def compiling() -> None:
    """A compiler that takes its time."""
    import torch

    hold = hold_until("Stop")

    def slow(module, inputs):
        hold()
        return module.forward

    torch._dynamo.register_backend(name="slow", compiler_fn=slow)


def validating() -> None:
    from lmplay_tui.train import evaluation

    real = getattr(evaluation, "collate")  # noqa: B009  (a name that it imports)
    hold = hold_until("Stop", "HandOver")

    def slow(*args, **kwargs):
        hold()
        return real(*args, **kwargs)

    setattr(evaluation, "collate", slow)  # noqa: B010


def _slow_disk(hold: Callable[[], None]) -> None:
    from lmplay_tui.train import checkpointer

    real = getattr(checkpointer, "write_checkpoint")  # noqa: B009

    def slow(*args, **kwargs):
        hold()
        return real(*args, **kwargs)

    setattr(checkpointer, "write_checkpoint", slow)  # noqa: B010


def saving() -> None:
    """A disk that takes its time."""
    _slow_disk(hold_until("Stop", "HandOver"))


def saving_until_stopped() -> None:
    """A disk that takes its time also while the run is handed over."""
    _slow_disk(hold_until("Stop"))


def saving_for_ever() -> None:
    _slow_disk(lambda: time.sleep(600))


OPTIONS: dict[Moment, list[str]] = {
    loading: [],
    compiling: ["--compile-model", "--compile-backend", "slow"],
    validating: ["--validation-interval", "6"],
    saving: ["--save-interval", "12"],
}
MOMENTS = list(OPTIONS)
OPTIONS |= {saving_until_stopped: OPTIONS[saving], saving_for_ever: OPTIONS[saving]}


def at(moment: Moment, program) -> Callable[[], int]:
    def work() -> int:
        moment()
        status: int = program(*OPTIONS[moment])()
        return status

    return work


def is_at(run: RunFolder, moment: Moment) -> Callable[[], bool]:
    """Whether the run is in the midst of it. A save is written beside the training: it is, once there was a step."""
    if moment is saving:
        return lambda: steps_in_journal(run) >= 4
    return lambda: run.status().get("activity") == moment.__name__


@pytest.mark.long_after(2)
@pytest.mark.parametrize("program", [headless, dashboard])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stop(long_run, moment, program):
    """It ends in order, soon, and every finished step is saved."""
    with Terminal(at(moment, program)) as terminal:
        until(is_at(long_run, moment))
        terminal.send(signal.SIGTERM)
        assert_stopped_in_order(terminal, long_run)
    if moment in (loading, compiling):
        assert not long_run.model.exists(), "nothing was trained, nothing is saved"


@pytest.mark.long
@pytest.mark.parametrize("moment", [saving, validating])
def test_a_hang_up(long_run, moment):
    """Handed over, from the last finished step."""
    with Terminal(at(moment, dashboard)) as terminal:
        until(is_at(long_run, moment))
        terminal.hang_up()
        assert terminal.wait() == 0
    try:
        events = read_journal(long_run.events)
        handed = next(e for e in events if e["event"] == "HandedOver")
        until(trains(long_run, handed["step"] + 2))
        started = [e for e in read_journal(long_run.events) if e["event"] == "RunStarted"]
        assert [e["resumed_from"] for e in started] == [None, handed["step"]]
    finally:
        stop_and_wait(long_run)
    assert saved_step(long_run) == steps_in_journal(long_run)


def test_a_stop_beats_a_hang_up_that_is_under_way(long_run):
    """A logout sends SIGHUP, and SIGTERM soon after: the second one holds, while the first is still saving."""
    with Terminal(at(saving_until_stopped, dashboard)) as terminal:
        until(trains(long_run))
        terminal.send(signal.SIGHUP)
        terminal.send(signal.SIGHUP)
        until(lambda: long_run.status().get("activity") in ("handing over", "saving"))
        terminal.send(signal.SIGTERM)
        assert terminal.wait() == 0
    assert not long_run.alive()
    ends = [e["event"] for e in read_journal(long_run.events) if e["event"] in ("HandedOver", "RunStopped")]
    assert ends == ["RunStopped"]
    assert saved_step(long_run) == steps_in_journal(long_run)


@pytest.mark.parametrize("program", [headless, dashboard])
def test_a_warning_of_the_cluster_saves(long_run, program):
    """SIGUSR1: a checkpoint now, and training goes on."""
    with Terminal(program()) as terminal:
        until(trains(long_run))
        terminal.send(signal.SIGUSR1)
        until(long_run.model.exists)
        until(trains(long_run, steps_in_journal(long_run) + 3))
        assert saved_step(long_run) < steps_in_journal(long_run)
        terminal.send(signal.SIGTERM)
        assert_stopped_in_order(terminal, long_run)


@pytest.mark.long_after(2)
@pytest.mark.parametrize("keys", ["\x03", "q\x03", "l\x03", "g\x03", "x\x03", "\x10\x03", "?\x03"])
def test_ctrl_c_whatever_is_open(long_run, keys):
    """Also while a dialog, the palette or the help has the keyboard."""
    with Terminal(dashboard()) as terminal:
        until(trains(long_run))
        for key in keys:
            terminal.type(key)
            time.sleep(0.5)  # time for it to open; it ends in order if it has not
        assert_stopped_in_order(terminal, long_run)


def test_two_interrupts_from_outside_leave_the_dashboard_at_once(long_run):
    with Terminal(at(saving_for_ever, dashboard)) as terminal:
        until(trains(long_run))
        assert terminal.interrupt_until_it_leaves() == 130
        assert terminal.restored


@pytest.mark.long_after(1)
@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, "\x03", "q", "\x11"])
def test_the_launcher_leaves(place, way):
    """Nothing runs yet: every way out is at once, with the terminal as it was."""
    from lmplay_tui.cli import main

    with Terminal(lambda: main([])) as terminal:
        until(lambda: b"demo" in terminal.output)
        if isinstance(way, str):
            terminal.type(way)
        else:
            terminal.send(way)
        assert terminal.wait() == 0
        assert terminal.restored


@pytest.mark.long
def test_a_program_without_standard_streams(long_run):
    """Cron jobs and daemons close them: the next file that is opened must not become where lines are printed."""

    def closed() -> int:
        for descriptor in (0, 1, 2):
            os.close(descriptor)
        words = ["-m", "lmplay_tui.cli", "--headless", "--training-plan", "plan.toml", "--model", "m.lmp"]
        os.execv(sys.executable, [sys.executable, *words, "--save-interval", "6", "--device", "cpu"])

    with Terminal(closed) as terminal:
        until(trains(long_run, 6))
        terminal.send(signal.SIGTERM)
        assert terminal.wait() == 0
    assert saved_step(long_run) == steps_in_journal(long_run)
    assert not [line for line in read_journal(long_run.events) if "event" not in line and "resumed_from" not in line]
    assert long_run.lock_path.stat().st_size == 0
