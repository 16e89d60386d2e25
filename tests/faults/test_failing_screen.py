"""The screen fails, or cannot leave: the run, the terminal and what was typed are none the worse for it."""

import asyncio
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from lmplay_tui.cli import main
from lmplay_tui.errors import EXIT_BUG
from lmplay_tui.ui import app as app_module
from lmplay_tui.ui import session
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.screens.dashboard import Dashboard
from lmplay_tui.ui.widgets.state_line import StateLine
from tests.faults.programs import (
    LINE,
    dashboard,
    goes_on_elsewhere,
    saved_step,
    steps_in_journal,
    stop_and_wait,
    trains,
)
from tests.faults.terminals import Terminal, until
from tests.journals import read_journal
from tests.ui.terminal_screen import ScreenTerminal


def failing(*options: str):
    """A dashboard that fails at the key `b`, in a widget's drawing."""

    def fails(*_: object) -> None:
        raise ValueError("\x1b[31mno such pane")

    def broken(screen: Dashboard) -> None:
        StateLine.show = fails  # type: ignore[assignment, method-assign]
        screen.refresh_now()

    def work() -> int:
        Dashboard.action_bookmark = broken  # type: ignore[assignment, method-assign]
        return main([*LINE, "--refresh-hz", "10", *options])

    return work


def edit_the_plan(terminal: ScreenTerminal) -> None:
    """Type into the plan, and do not apply it."""
    terminal.shows("stories", "training")
    terminal.type("e")
    terminal.shows("ctrl+s apply")
    terminal.type("# mine ")
    terminal.shows("# mine [train]", "edited")


@pytest.mark.long
@pytest.mark.parametrize("goes_on", [True, False], ids=["continue", "stop"])
def test_a_screen_that_fails_says_so_and_the_run_goes_on(long_run, goes_on):
    """It goes on in a process of its own; with `--on-hangup stop` it is saved and ended."""
    with ScreenTerminal(failing("--on-hangup", "continue" if goes_on else "stop"), (100, 30)) as terminal:
        until(trains(long_run))
        edit_the_plan(terminal)
        terminal.type("\x1b")
        terminal.shows("metric")
        terminal.type("b")
        try:
            assert terminal.wait() == 1, terminal.output[-2000:]
            assert terminal.restored, terminal.output[-500:]
            said = terminal.output.rpartition(b"\x1b[?1049l")[2].decode()
            assert "the dashboard has failed: ValueError: ␛[31mno such pane; traceback in m.run/log.txt\r\n" in said
            assert "\x1b[31m" not in said
            assert (long_run.folder / "plan.draft.toml").read_text(encoding="utf-8").startswith("# mine")
            log = long_run.log.read_text(encoding="utf-8")
            assert "Traceback (most recent call last)" in log
            assert "refresh_now" in log
            ends = [e for e in read_journal(long_run.events) if e["event"] in ("HandedOver", "RunStopped")]
            assert ends[0]["event"] == ("HandedOver" if goes_on else "RunStopped")
            if goes_on:
                assert f"goes on in process {ends[0]['pid']}" in said
                until(trains(long_run, ends[0]["step"] + 3))
            else:
                assert "go on with: " in said
                assert not long_run.alive()
        finally:
            stop_and_wait(long_run)
    assert saved_step(long_run) == steps_in_journal(long_run)


@pytest.mark.long
def test_a_draft_outlives_the_working_folder(long_run):
    """It is kept beside the run; and what became of the run is said."""

    def work() -> int:
        Path("work").mkdir()
        os.chdir("work")
        line = ["--training-plan", "../plan.toml", "--model", str(long_run.model)]
        return main([*line, "--device", "cpu", "--refresh-hz", "10"])

    with ScreenTerminal(work, (100, 30)) as terminal:
        until(trains(long_run))
        edit_the_plan(terminal)
        (long_run.model.parent / "work").rmdir()
        terminal.send(signal.SIGTERM)
        assert terminal.wait() == 0, terminal.output[-2000:]
        assert terminal.restored, terminal.output[-500:]
    said = terminal.output.rpartition(b"\x1b[?1049l")[2].decode()
    assert f"it is kept in {long_run.folder}/plan.draft.toml" in said
    assert "go on with: " in said
    assert (long_run.folder / "plan.draft.toml").read_text(encoding="utf-8").startswith("# mine")
    assert saved_step(long_run) == steps_in_journal(long_run)


def in_the_thread_that_reads(app: LmplayApp) -> None:
    def fails(_: object) -> None:
        raise ValueError("no such key")

    app._driver.process_message = fails  # type: ignore[union-attr, method-assign]


def in_a_handler_of_the_loop(app: LmplayApp) -> None:
    asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)


def by_itself(app: LmplayApp) -> None:
    app._close_messages_no_wait()


@pytest.mark.long
@pytest.mark.parametrize("breaks", [in_the_thread_that_reads, in_a_handler_of_the_loop, by_itself])
def test_whatever_ends_the_screen_the_run_goes_on(long_run, breaks):
    def work() -> int:
        def broken(screen: Dashboard) -> None:
            breaks(screen.app)

        Dashboard.action_bookmark = broken  # type: ignore[assignment, method-assign]
        return main([*LINE, "--refresh-hz", "10"])

    try:
        with ScreenTerminal(work, (100, 30)) as terminal:
            until(trains(long_run))
            terminal.shows("stories", "training")
            terminal.type("b")
            while not terminal.ended:  # what is read next fails
                terminal.type_ahead(b"t")
                time.sleep(0.2)
            assert terminal.wait() == EXIT_BUG, terminal.output[-2000:]
            assert b"the dashboard has failed" in terminal.output
            assert b"goes on in process" in terminal.output
        goes_on_elsewhere(long_run)
    finally:
        stop_and_wait(long_run)


def test_a_screen_that_cannot_leave_gives_the_terminal_back(long_run):
    """The watchdog ends the process when the run is saved: no shell shall be left on the alternate screen."""

    def stuck() -> int:
        app_module.LmplayApp.exit = lambda *_, **__: None  # type: ignore[method-assign]
        session.end_anyway = partial(session.end_anyway, seconds=0.1)
        return dashboard()()

    with Terminal(stuck) as terminal:
        until(trains(long_run))
        until(lambda: b"stories" in terminal.output)  # keys reach its screen
        terminal.type("x\r")
        assert terminal.wait() == 0
        assert terminal.restored, terminal.output[-500:]
    assert saved_step(long_run) == steps_in_journal(long_run)
