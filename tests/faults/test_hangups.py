"""A line that is lost, stalls or comes back, in real terminals: the run goes on, and can be looked at."""

import os
import random
import signal
import time

import pytest

from lmplay_tui.cli import main
from lmplay_tui.commands.train import main as trainer_main
from lmplay_tui.run.folder import RunFolder, status_of
from tests.faults.programs import (
    LINE,
    assert_stopped_in_order,
    dashboard,
    headless,
    saved_step,
    steps_in_journal,
    stop_and_wait,
    trains,
)  # fmt: skip
from tests.faults.terminals import Terminal, until
from tests.journals import read_journal

SLOW = pytest.mark.slow


def test_a_hang_up_stops_the_dashboard_if_that_is_asked_for(long_run):
    with Terminal(dashboard("--on-hangup", "stop")) as terminal:
        until(trains(long_run))
        terminal.hang_up()
        assert terminal.wait() == 0
    assert saved_step(long_run) == steps_in_journal(long_run)


@pytest.mark.long
@pytest.mark.parametrize("gone", ["signalled", "silently"])
def test_a_hang_up_while_nobody_reads(long_run, gone):
    """A connection freezes and is given up; the dashboard may be stuck in a write. Or it is in another session."""

    def of_another_session() -> int:
        if (pid := os.fork()) > 0:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.setsid()
        os._exit(dashboard()())

    with Terminal(dashboard() if gone == "signalled" else of_another_session) as terminal:
        until(trains(long_run))
        if gone == "signalled":
            terminal.stall()
            until(trains(long_run, steps_in_journal(long_run) + 30))
        terminal.hang_up()
        assert terminal.wait() in (0, -signal.SIGHUP)
        until(lambda: [e for e in read_journal(long_run.events) if e["event"] == "HandedOver"])
    try:
        handed = next(e for e in read_journal(long_run.events) if e["event"] == "HandedOver")
        until(trains(long_run, handed["step"] + 1))
        assert resumed_from(long_run) == handed["step"]
    finally:
        stop_and_wait(long_run)


def resumed_from(run: RunFolder) -> int | None:
    """Where the newest process of a run has gone on."""
    return [e["resumed_from"] for e in read_journal(run.events) if e["event"] == "RunStarted"][-1]


def test_a_hang_up_hands_the_run_over(long_run, count):
    """The line is lost: the dashboard saves and leaves, a process of its own session goes on at the next step."""
    with Terminal(dashboard()) as terminal:
        until(trains(long_run))
        terminal.hang_up()
        lost = time.monotonic()
        assert terminal.wait() == 0
        left_s = time.monotonic() - lost
    try:
        assert long_run.alive(), "a process holds the run without a gap"
        events = read_journal(long_run.events)
        handed = next(e for e in events if e["event"] == "HandedOver")
        assert saved_step(long_run) >= handed["step"] >= 3
        until(lambda: steps_in_journal(long_run) > handed["step"] + 3)
        again_s = time.monotonic() - lost
        assert resumed_from(long_run) == handed["step"], "not one step is trained twice"
        status = status_of(long_run)
        assert status["state"] == "running"
        assert status["pid"] == handed["pid"] != terminal.pid
        assert os.getsid(handed["pid"]) == handed["pid"], "a session of its own"
    finally:
        stop_and_wait(long_run)
    assert saved_step(long_run) == steps_in_journal(long_run)
    count(f"hang-up: left after {left_s:.1f} s, training again after {again_s:.1f} s")


@pytest.mark.long
def test_an_ignored_hang_up_is_honoured(long_run):
    """Under nohup the signal is ignored from the start, and stays so."""

    def under_nohup() -> int:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return trainer_main(LINE, "lmp_trainer")

    with Terminal(under_nohup) as terminal:
        until(trains(long_run))
        terminal.send(signal.SIGHUP)
        terminal.hang_up()
        then = steps_in_journal(long_run)
        until(trains(long_run, then + 3))
        terminal.send(signal.SIGTERM)
        assert terminal.wait() == 0
    assert saved_step(long_run) == steps_in_journal(long_run)


@pytest.mark.long
@pytest.mark.parametrize("program", [pytest.param(headless, marks=SLOW), dashboard])
def test_a_terminal_that_does_not_read_holds_nothing_up(long_run, program):
    """A frozen connection: training goes on, and SIGTERM still saves and ends."""
    with Terminal(program("--verbose")) as terminal:
        until(trains(long_run))
        terminal.stall()
        then = steps_in_journal(long_run)
        until(trains(long_run, then + 60))
        terminal.send(signal.SIGTERM)
        assert terminal.wait() == 0
    assert saved_step(long_run) == steps_in_journal(long_run)


def test_ctrl_z_gives_the_shell_its_terminal_and_fg_comes_back(long_run):
    with Terminal(dashboard()) as terminal:
        until(trains(long_run))
        terminal.type("\x1a")
        until(lambda: terminal.suspended)
        until(lambda: terminal.restored)  # its last words may still be on their way
        then, drawn = steps_in_journal(long_run), len(terminal.output)
        terminal.send(signal.SIGCONT)
        until(lambda: b"\x1b[?1049h" in terminal.output[drawn:])
        until(trains(long_run, then + 3))
        terminal.send(signal.SIGTERM)
        assert_stopped_in_order(terminal, long_run)


def resize_at_random(terminal: Terminal, times: int) -> None:
    dice = random.Random(0)
    for _ in range(times):
        terminal.resize(dice.randint(2, 60), dice.randint(2, 200))
        time.sleep(0.002)


@pytest.mark.long
def test_stopped_from_outside_and_resized(long_run):
    """SIGSTOP and SIGCONT, and a hundred resizes: the run goes on."""
    with Terminal(dashboard()) as terminal:
        until(trains(long_run))
        resize_at_random(terminal, 100)
        terminal.send(signal.SIGSTOP)
        time.sleep(0.1)
        terminal.send(signal.SIGCONT)
        then = steps_in_journal(long_run)
        until(trains(long_run, then + 3))
        terminal.send(signal.SIGTERM)
        assert_stopped_in_order(terminal, long_run)


@pytest.mark.long
def test_resizes_while_nobody_reads(long_run):
    """A window manager drags a window whose connection is frozen; then the line comes back."""
    with Terminal(dashboard()) as terminal:
        until(trains(long_run))
        terminal.stall()
        resize_at_random(terminal, 100)
        then = steps_in_journal(long_run)
        until(trains(long_run, then + 20))
        terminal.go_on()
        until(trains(long_run, then + 30))
        terminal.send(signal.SIGTERM)
        assert_stopped_in_order(terminal, long_run)


def test_the_reader_of_a_pipe_leaves(long_run):
    """`lmp_trainer | head`: nobody reads any more, so the run is saved and ends."""

    def piped() -> int:
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(writer)
        os.close(reader)
        return trainer_main(LINE, "lmp_trainer")

    with Terminal(piped) as terminal:
        assert terminal.wait() == 0
    assert saved_step(long_run) == steps_in_journal(long_run) if long_run.model.exists() else True
    ends = [e for e in read_journal(long_run.events) if e["event"] == "RunStopped"]
    assert ends[-1]["reason"] == "standard output is closed"


@pytest.mark.long
def test_attach_leaves_and_the_run_stays(long_run, count):
    """A viewer is signalled, hung up, killed: the run does not notice."""
    with Terminal(headless("--on-hangup", "continue")) as trainer:
        until(trains(long_run))
        for way in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL, None):
            begun = time.monotonic()
            with Terminal(lambda: main(["attach", "m.lmp"])) as viewer:
                until(lambda: b"stories" in viewer.output)
                shown_s = time.monotonic() - begun
                if way is None:
                    viewer.hang_up()
                else:
                    viewer.send(way)
                assert viewer.wait() == (-signal.SIGKILL if way == signal.SIGKILL else 0)
                assert way == signal.SIGKILL or way is None or viewer.restored
        then = steps_in_journal(long_run)
        until(trains(long_run, then + 2))
        trainer.send(signal.SIGTERM)
        assert_stopped_in_order(trainer, long_run)
    count(f"attach: five viewers came and went, the last saw the run after {shown_s:.1f} s")
