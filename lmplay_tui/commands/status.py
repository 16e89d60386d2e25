"""`lmplay-tui status`: how a run is, once, or until it ends."""

import argparse
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from lmplay_tui.command_line import new_parser, parse_line
from lmplay_tui.commands.columns import cut, line_width
from lmplay_tui.errors import EXIT_OK
from lmplay_tui.formats import format_duration, format_lr, format_rate
from lmplay_tui.options import home_path
from lmplay_tui.run.folder import RunFolder, find_run, fraction_done, status_of
from lmplay_tui.run.journal import number
from lmplay_tui.run.upkeep import about
from lmplay_tui.text import one_line

DESCRIPTION = """\
Say how a run is, from its files; the run is not touched.

RUN: a name, a .lmp file, or a run folder; the newest run where left out."""
WATCH_EVERY_S = 1.0  # as often as a run says how it is
HANDED_OVER_S = 2.0  # until then another process has taken it
QUIET_S = 30.0  # a run that says nothing for longer is in a long step, or stuck
EPILOG = "For a tmux status bar: set -g status-right '#(lmplay-tui status --line)'"


def main(arguments: Sequence[str], prog: str) -> int:
    """Print the state of a run. Raises `UserError` if there is none."""
    line = parse_line(parser(prog), arguments)
    run = find_run(line.run, line.out_dir)
    if line.watch:
        return _watch(run, line)
    print(_said(run, status_of(run), line))
    return EXIT_OK


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `status`."""
    made = new_parser(prog, DESCRIPTION, EPILOG)
    made.add_argument("run", type=home_path, nargs="?", default=None, metavar="RUN", help="which run")
    made.add_argument("--json", action="store_true", default=False, help="one JSON object")
    made.add_argument("--line", action="store_true", default=False, help="one short line")
    made.add_argument(
        "--watch",
        action="store_true",
        default=False,
        help="go on until the run ends: in a terminal in place, elsewhere a line a change",
    )
    made.add_argument("--out-dir", type=home_path, default=None, metavar="DIR", help="folder to look in, too")
    return made


def _said(run: RunFolder, status: Mapping[str, Any], line: argparse.Namespace) -> str:
    """How the run is, in the form that was asked for."""
    if line.json:
        return json.dumps(status)
    return short_line(status, fraction_done(run)) if line.line else "\n".join(full_lines(run, status))


def _watch(run: RunFolder, line: argparse.Namespace) -> int:
    """Look once a second until the run ends. What is no terminal gets a line a change, with the time of day."""
    width = line_width() if os.environ.get("TERM", "dumb") != "dumb" else None
    in_place = width is not None and not line.json
    line.line = line.line or not in_place
    before, looks_dead = "", 0
    while True:
        status = status_of(run)
        said = _said(run, status, line)
        if said != before:
            if in_place:
                rows = [cut(row, line_width()) for row in said.split("\n")]
                back = f"\x1b[{before.count(chr(10)) + 1}A\r\x1b[J" if before else ""
                print(back + "\n".join(rows), flush=True)
            else:
                print(said if line.json else f"{datetime.now().astimezone():%H:%M:%S}  {said}", flush=True)
        before = said
        looks_dead = looks_dead + 1 if status["state"] == "dead" else 0  # for an instant, where a run is handed over
        if status["state"] in ("stopped", "finished", "failed") or looks_dead > HANDED_OVER_S / WATCH_EVERY_S:
            return EXIT_OK
        time.sleep(WATCH_EVERY_S)


def short_line(status: Mapping[str, Any], fraction: float | None) -> str:
    """`demo 41 % step 1,200 loss 3.41 9.1k tok/s 3 min 05 s left`; the state instead of the pace where it stands."""
    state = status["state"]
    parts = [
        one_line(status["name"], 40),
        "" if state == "running" else state,
        f"{100 * fraction:.0f} %" if fraction is not None else "",
        f"step {status['step']:,}" if _known(status["step"]) else "",
        f"loss {status['train_loss']:.2f}" if _known(status["train_loss"]) else "",
    ]
    if state == "running":
        rate, left = status["tokens_per_s"], status["eta_s"]
        parts.append(f"{format_rate(rate)} tok/s" if _known(rate) else one_line(status["activity"] or "", 40))
        parts.append(f"{format_duration(left)} left" if _known(left) else "")
    return " ".join(part for part in parts if part)


def full_lines(run: RunFolder, status: Mapping[str, Any]) -> list[str]:
    """One line a figure that is known."""
    fraction = fraction_done(run)
    saved = status["checkpoint"] if isinstance(status["checkpoint"], dict) else {}
    saved_at = one_line(saved.get("step", "?"), 20)
    said, own = run.status(), about(run)
    heartbeat = number(said.get("heartbeat"))
    silent_s = time.time() - heartbeat if status["state"] == "running" and heartbeat > 0 else 0.0
    figures = {
        "state": f"{status['state']} ({one_line(status['activity'])})" if status["activity"] else status["state"],
        "process": f"{status['pid']} on {one_line(said.get('host') or '?')}" if _known(status["pid"]) else None,
        "last word": f"{format_duration(silent_s)} ago" if silent_s > QUIET_S else None,
        "why": one_line(said["message"], 400) if status["state"] == "failed" and said.get("message") else None,
        "done": f"{100 * fraction:.1f} %" if fraction is not None else None,
        "stage": one_line(status["stage"]) if status["stage"] else None,
        "step": f"{status['step']:,}" if _known(status["step"]) else None,
        "rows": f"{status['samples']:,}" if _known(status["samples"]) else None,
        "tokens": f"{status['tokens']:,}" if _known(status["tokens"]) else None,
        "train loss": f"{status['train_loss']:.4f}" if _known(status["train_loss"]) else None,
        "val loss": f"{status['val_loss']:.4f}" if _known(status["val_loss"]) else None,
        "learning rate": format_lr(status["lr"]) if _known(status["lr"]) else None,
        "tokens/s": format_rate(status["tokens_per_s"]) if _known(status["tokens_per_s"]) else None,
        "left": format_duration(status["eta_s"]) if _known(status["eta_s"]) else None,
        "checkpoint": f"{one_line(saved.get('path', '?'), 400)}, step {saved_at}" if saved else None,
        "tags": own.words or None,
        "note": own.note or None,
    }
    width = max(len(name) for name in figures)
    lines = [f"{name:<{width}}  {value}" for name, value in figures.items() if value is not None]
    return [one_line(status["name"]), *lines]


def _known(value: object) -> bool:
    """A number: `run.json` may have been written by any program."""
    return math.isfinite(number(value))
