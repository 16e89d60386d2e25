"""`lmplay-tui` without a command: the dashboard, or headless where there is no terminal for it."""

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

DESCRIPTION = """\
Train small language models under a dashboard in the terminal.

Without options it opens the launcher. With --training-plan, --model, --resume FILE or --start it starts at once.
Without a terminal it trains headless.
Commands: attach, ctl, status, runs, check, plot, generate, export; each has --help."""
EPILOG = "Try: lmplay-tui --training-plan demo"


def main(arguments: Sequence[str], prog: str) -> int:
    """Parse the line, choose between dashboard and headless, run. Raises `UserError`."""
    given = _parsed(arguments, prog) if arguments else {}
    dashboard = wants_dashboard(given)
    launcher = dashboard and not names_a_run(given) and not given.get("start")
    if not launcher and not names_a_run(given):
        given["training_plan"] = "demo"
    if not dashboard:
        from lmplay_tui.commands.train import run_headless

        return run_headless(given, prog)
    gc.disable()  # what is imported stays; searching it for garbage takes a tenth of the time to the first frame
    from lmplay_tui.ui.run_app import run_dashboard

    if given.get("detach") and not launcher:
        from lmplay_tui.train.launch import start_detached

        return run_dashboard(given, attach=start_detached(given)[0])
    return run_dashboard(given, launcher=launcher)


def names_a_run(given: Mapping[str, Any]) -> bool:
    """Whether the line says what to train: a plan, a model, or the checkpoint to go on from."""
    return bool(given.keys() & {"training_plan", "model"}) or given.get("resume", "auto") not in ("auto", "none")


def _parsed(arguments: Sequence[str], prog: str) -> dict[str, Any]:
    """Only where there is something to parse: the options come with pydantic, which the bare launcher needs later."""
    from lmplay_tui.commands.train import parse, parser

    return parse(arguments, parser(prog, DESCRIPTION, EPILOG))


def wants_dashboard(given: Mapping[str, Any]) -> bool:
    """Whether there is a terminal that can show a screen, and nothing asks for plain lines."""
    if given.get("headless") or given.get("json_lines"):
        return False
    if given.get("exp") == "list" or given.get("describe") or given.get("save_datasets"):
        return False
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
