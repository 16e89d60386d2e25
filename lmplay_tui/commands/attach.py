"""`lmplay-tui attach`: the dashboard on a run of another process."""

import argparse
import gc
import sys
from collections.abc import Sequence

from lmplay_tui.command_line import given_options, new_parser, parse_line
from lmplay_tui.errors import UserError
from lmplay_tui.options import Launch, home_path
from lmplay_tui.process import typed
from lmplay_tui.run.folder import find_run

DESCRIPTION = """\
Look at a run of another process, or at one that is over; quitting never touches the run.

RUN: a name, a .lmp file, or a run folder; the newest run where left out."""


def main(arguments: Sequence[str], prog: str) -> int:
    """Show the dashboard on a run. Raises `UserError` if there is none, or no terminal."""
    line = parse_line(parser(prog), arguments)
    launch = Launch(given_options(line), prog.partition(" ")[0])  # for what the launcher behind it may start
    run = find_run(line.run, launch.options.out_dir)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(f"attach: needs a terminal; without one see: {typed('lmplay-tui status')}")
    gc.disable()  # until the first frame stands, as for a run of one's own
    from lmplay_tui.ui.run_app import run_dashboard

    return run_dashboard(launch, attach=run)


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `attach`."""
    made = new_parser(prog, DESCRIPTION)
    made.add_argument("run", type=home_path, nargs="?", default=None, metavar="RUN", help="which run")
    made.add_argument("--out-dir", type=home_path, metavar="DIR", help="folder to look in, too")
    made.add_argument("--ascii", action="store_true", help="draw with ASCII only")
    made.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal")
    made.add_argument("--tz", metavar="ZONE", help="time zone of clock times")
    made.add_argument("--price-per-hour", metavar="X", help="price of the machine, for the cost")
    made.add_argument("--refresh-hz", metavar="X", help="screen refreshes a second [2.0]")
    return made
