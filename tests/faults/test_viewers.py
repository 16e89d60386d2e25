"""Viewers of a run that is killed or handed over, and viewers that are killed themselves, each in a real terminal."""

import re
import signal

import pytest

from lmplay_tui.cli import main
from lmplay_tui.run.control_files import leave_command
from lmplay_tui.run.controls import Bookmark
from lmplay_tui.run.folder import RunFolder
from tests.faults.programs import (
    assert_stopped_in_order,
    dashboard,
    goes_on_elsewhere,
    headless,
    saved_step,
    steps_in_journal,
    stop_and_wait,
    trains,
)
from tests.faults.terminals import Terminal, until
from tests.journals import read_journal
from tests.ui.terminal_screen import ScreenTerminal


def viewer_of(run: RunFolder) -> ScreenTerminal:
    """Opened as soon as there is a run to look at."""
    until(trains(run))
    return ScreenTerminal(lambda: main(["attach", "m.lmp"]), (100, 30))


def shown_step(terminal: ScreenTerminal) -> int:
    """The step that stands in the state line; 0 if none does."""
    found = re.search(r"step ([\d,]+)", terminal.screen.partition("\n")[0])
    return int(found[1].replace(",", "")) if found else 0


def after_the_screen(terminal: Terminal) -> bytes:
    """What the shell shows when the dashboard is gone."""
    return bytes(terminal.output).rpartition(b"\x1b[?1049l")[2]


@pytest.mark.long
def test_a_run_that_is_killed_while_it_is_looked_at(long_run):
    """Its viewer says so and how to go on, and stays; it follows the run once that is resumed."""
    with Terminal(headless("--save-interval", "12")) as trainer, viewer_of(long_run) as looking:
        until(long_run.model.exists)
        looking.shows("training", "attached")
        trainer.send(signal.SIGKILL)
        assert trainer.wait() == -signal.SIGKILL
        looking.shows("✗ dead")
        looking.type("6z")  # a toast would go, the log stays
        looking.shows("its process has ended without a word; go on with: lmplay-tui --model m.lmp")
        then = saved_step(long_run)
        with Terminal(lambda: main(["--headless", "--model", "m.lmp", "--device", "cpu"])) as resumed:
            until(lambda: b'"resumed_from"' in long_run.metrics.read_bytes())  # what lay beyond the checkpoint is void
            until(trains(long_run, then + 3))
            until(lambda: shown_step(looking) > then)
            looking.shows("● ", "attached")
            resumed.send(signal.SIGTERM)
            assert_stopped_in_order(resumed, long_run)
        looking.shows("■ stopped")
        looking.type("q")
        assert looking.wait() == 0
        assert looking.restored, looking.output[-500:]
        assert b"Traceback" not in looking.output
        assert b"stopped at step" in after_the_screen(looking)
        assert b"go on with: " in after_the_screen(looking)


def test_several_viewers_of_which_one_is_killed(long_run):
    """The run and the other viewers do not notice."""
    with (
        Terminal(headless()) as trainer,
        viewer_of(long_run) as first,
        viewer_of(long_run) as second,
        viewer_of(long_run) as third,
    ):
        for each in (first, second, third):
            each.shows("training", "attached")
        second.send(signal.SIGKILL)
        assert second.wait() == -signal.SIGKILL
        then = steps_in_journal(long_run)
        until(lambda: min(shown_step(first), shown_step(third)) > then)
        first.type("q")
        assert first.wait() == 0
        assert first.restored, first.output[-500:]
        then = steps_in_journal(long_run)
        until(lambda: shown_step(third) > then)
        assert not [e for e in read_journal(long_run.events) if e["event"] == "Answered"]
        assert not list(long_run.control.iterdir())
        trainer.send(signal.SIGTERM)
        assert_stopped_in_order(trainer, long_run)
        third.shows("■ stopped")
        third.send(signal.SIGTERM)
        assert third.wait() == 0
        assert third.restored, third.output[-500:]


@pytest.mark.long
def test_viewers_leave_alone_what_the_run_is_told(long_run):
    """What is left in the control folder is the run's, however many look on: each command is answered by it."""
    with Terminal(headless()) as trainer, viewer_of(long_run) as first, viewer_of(long_run) as second:
        for each in (first, second):
            each.shows("training", "attached")
        for number in range(6):
            identity = leave_command(long_run, Bookmark(f"note {number}"))
            until(lambda identity=identity: identity in answered(long_run))
        for each in (first, second):
            each.type("6z")
            each.shows("note 5")
        trainer.send(signal.SIGTERM)
        assert_stopped_in_order(trainer, long_run)


def answered(run: RunFolder) -> set[str]:
    """The identities of the commands that the run has answered."""
    return {event["id"] for event in read_journal(run.events) if event["event"] == "Answered"}


@pytest.mark.long
def test_a_viewer_follows_a_run_that_is_handed_over(long_run):
    """The dashboard's line is lost; who looks from elsewhere sees it go on, and never a run without a process."""
    with Terminal(dashboard()) as terminal, viewer_of(long_run) as looking:
        looking.shows("training", "attached")
        terminal.hang_up()
        assert terminal.wait() == 0
        try:
            step = goes_on_elsewhere(long_run)
            until(lambda: shown_step(looking) > step)
            looking.shows("attached")
            looking.type("q")
            assert looking.wait() == 0
            assert looking.restored, looking.output[-500:]
            for said in ("dead", "died"):
                assert said.encode() not in looking.output
            assert long_run.alive(), "a viewer that leaves stops nothing"
        finally:
            stop_and_wait(long_run)
    assert saved_step(long_run) == steps_in_journal(long_run)
