"""The dashboard as a program: the app in a terminal, and what is said and done when its screen is gone."""

import contextlib
import os
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING

from lmplay_tui.errors import EXIT_BUG, EXIT_LEFT_AT_ONCE
from lmplay_tui.files import is_folder
from lmplay_tui.formats import time_zone
from lmplay_tui.options import Launch
from lmplay_tui.process import leave
from lmplay_tui.text import one_line, plain_signs, printable
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.tty.painting import use_our_output
from lmplay_tui.ui.tty.signals import Signals, StrayPrints, give_back_terminal, terminal_settings

if TYPE_CHECKING:
    from lmplay_tui.run.folder import RunFolder
    from lmplay_tui.ui.session import LiveSource
    from lmplay_tui.ui.source import RunSource


SWITCH_INTERVAL_S = 1e-4  # the interpreter's: a refresh holds up the trainer a fiftieth of what it did with 5 ms


def run_dashboard(launch: Launch, *, attach: "RunFolder | None" = None, launcher: bool = False) -> int:
    """Show the dashboard until it is left; the process's exit status.

    Raises `UserError` where an option cannot be meant.
    """
    time_zone(launch.options.tz)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    line, settings = use_our_output(), terminal_settings()
    source = None if launcher else _source(launch, attach)
    stray = StrayPrints()
    app = LmplayApp(
        launch,
        source=source,
        launcher=launcher,
        stray=stray,
        line=line,
        give_back=partial(give_back_terminal, settings),
    )
    signals = Signals(app.stop_by_signal, app.line_lost, app.save_by_signal, settings)
    signals.install()
    with stray.caught():
        status = _show(app)
        app.keep_prints(stray.last_lines())
    if app.crashed is not None:
        _print_lines(_crash_lines(app.crashed, app.trainer), app)
    if app.unsaved_plan is not None:
        from lmplay_tui.ui.ending import keep_draft

        _print_lines([keep_draft(app.unsaved_plan, app.source.folder if app.source is not None else None)], app)
    code = app.return_code if status is None else status
    if app.crashed is not None:
        code = EXIT_BUG
    if app.trainer is not None:
        code = _end_of_run(app, app.trainer) or code
    else:
        _print_lines(app.last_lines, app)
        if app.source is not None:
            from lmplay_tui.ui.ending import left_lines

            _print_lines(left_lines(app.source.view), app)
    signals.restore()
    if attach is not None and app.trainer is None:  # nothing is left to do, but what pyarrow's threads are at
        leave(int(code or 0))
    return int(code or 0)


def _show(app: LmplayApp) -> int | None:
    """Run the app. However it fails, its run is looked after: only a user ends it."""
    try:
        status = app.run(mouse=not app.launch.options.no_mouse)
    except Exception as error:
        app.note_bug(error)
        return None
    if not app.leave_wanted:
        app.note_bug(RuntimeError("the screen has ended by itself"))
    return status


def _source(launch: Launch, attach: "RunFolder | None") -> "RunSource":
    from lmplay_tui.ui.session import LiveSource
    from lmplay_tui.ui.source import FolderSource

    return LiveSource(launch) if attach is None else FolderSource(attach)


def _end_of_run(app: LmplayApp, source: "LiveSource") -> int:
    """Say what became of the run, and wait for its trainer; the run's exit status."""
    from lmplay_tui.ui.ending import ending_lines

    if app.left_at_once:
        _print_lines(["left at once; the last checkpoint stands", *ending_lines(source.view)], app)
        os._exit(EXIT_LEFT_AT_ONCE)
    if source.alive:  # the screen ended before the trainer: nothing that was trained shall be lost
        _let_go(app, source, goes_on=app.crashed is not None and app.launch.options.on_hangup != "stop")
    while source.poll():
        pass
    _print_lines(ending_lines(source.view), app)
    return source.exit_status


def _let_go(app: LmplayApp, source: "LiveSource", *, goes_on: bool) -> None:
    """Have the run saved, and wait for that. `goes_on`: in a process of its own, as after a hang-up."""
    if goes_on:
        source.hand_over("the dashboard has failed")
    else:
        source.stop("the dashboard has ended")
    _print_lines(["saving what has been trained ..." + (" the run then goes on by itself" if goes_on else "")], app)
    while not source.wait(0.5):
        if not source.controls.stop_now:  # it could not be handed over
            source.stop("the dashboard has ended")


def _crash_lines(error: Exception, source: "LiveSource | None") -> list[str]:
    """What has failed, in one line; the traceback is in the run's log, or else here."""
    said = f"the dashboard has failed: {type(error).__name__}: {one_line(error)}"
    lines = [printable(line) for line in "".join(traceback.format_exception(error)).splitlines()]
    if source is None or source.folder is None or not is_folder(source.folder.folder):
        return [*lines, said]
    from lmplay_tui.run.folder import utc_now
    from lmplay_tui.run.recorder import LogFile

    log, stamp = LogFile(source.folder.log), utc_now()
    for line in lines:
        log.write(f"{stamp} error   {line}")
    return [f"{said}; traceback in {one_line(source.folder.log, 400)}"]


def _print_lines(lines: list[str], app: LmplayApp) -> None:
    """To the shell, in the signs that the screen had."""
    with contextlib.suppress(OSError, ValueError):  # the line may be gone
        for line in lines:
            sys.stdout.write((plain_signs(line) if app.ascii_only else line) + "\n")
        sys.stdout.flush()
