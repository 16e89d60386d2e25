"""`lmplay-tui` without a command: the dashboard, or headless where there is no terminal for it."""

import gc
import os
import sys
from collections.abc import Sequence

from lmplay_tui.options import Launch, TrainOptions

DESCRIPTION = """\
Train small language models under a dashboard in the terminal.

Without options it opens the launcher. With --training-plan, --model, --resume FILE or --start it starts at once.
Without a terminal it trains headless.

commands, each with --help:
"""
EPILOG = "Try: lmplay-tui --training-plan demo"


def main(arguments: Sequence[str], prog: str) -> int:
    """Parse the line, choose between dashboard and headless, run. Raises `UserError`."""
    launch = _parsed(arguments, prog) if arguments else Launch(prog=prog)
    dashboard = wants_dashboard(launch.options)
    launcher = dashboard and not names_a_run(launch) and not launch.options.start
    if not launcher and not names_a_run(launch):
        launch = launch.with_options(training_plan="demo")
    if not dashboard:
        from lmplay_tui.commands.train import run_headless

        return run_headless(launch)
    gc.disable()  # what is imported stays; searching it for garbage takes a tenth of the time to the first frame
    from lmplay_tui.ui.run_app import run_dashboard

    if launch.options.detach and not launcher:
        from lmplay_tui.train.launch import start_detached

        return run_dashboard(launch, attach=start_detached(launch)[0])
    return run_dashboard(launch, launcher=launcher)


def _parsed(arguments: Sequence[str], prog: str) -> Launch:
    """Only where there is something to parse: the bare launcher needs nothing of a run before its first frame."""
    from lmplay_tui.command_line import command_list
    from lmplay_tui.commands.train import parse

    return parse(arguments, prog, DESCRIPTION + command_list(), EPILOG)


def names_a_run(launch: Launch) -> bool:
    """Whether the line says what to train: a plan, a model, or the checkpoint to go on from."""
    options = launch.options
    return options.training_plan is not None or options.model is not None or launch.resumes_from is not None


def wants_dashboard(options: TrainOptions) -> bool:
    """Whether there is a terminal that can show a screen, and nothing asks for plain lines."""
    if options.headless or options.json_lines:
        return False
    if options.exp == "list" or options.describe or options.save_datasets:
        return False
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
