"""`lmplay-tui status`: how a run is, once."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lmplay_tui.command_line import new_parser, parse_line
from lmplay_tui.errors import EXIT_OK
from lmplay_tui.formats import format_duration, format_lr, format_rate
from lmplay_tui.options import home_path
from lmplay_tui.run.folder import RunFolder, find_run, fraction_done, status_of
from lmplay_tui.run.journal import number
from lmplay_tui.text import one_line

DESCRIPTION = """\
Say how a run is, from its files; the run is not touched.

RUN: a name, a .lmp file, or a run folder; the newest run where left out."""
QUIET_S = 30.0  # a run that says nothing for longer is in a long step, or stuck
EPILOG = "For a tmux status bar: set -g status-right '#(lmplay-tui status --line)'"


def main(arguments: Sequence[str], prog: str) -> int:
    """Print the state of a run. Raises `UserError` if there is none."""
    parser = new_parser(prog, DESCRIPTION, EPILOG)
    parser.add_argument("run", type=home_path, nargs="?", default=None, metavar="RUN", help="which run")
    parser.add_argument("--json", action="store_true", default=False, help="one JSON object")
    parser.add_argument("--line", action="store_true", default=False, help="one short line")
    parser.add_argument("--out-dir", type=home_path, default=None, metavar="DIR", help="folder to look in, too")
    line = parse_line(parser, arguments)
    run = find_run(line.run, line.out_dir)
    for refused in run.refused():
        print(refused, file=sys.stderr)
    status = status_of(run)
    if line.json:
        print(json.dumps(status))
    elif line.line:
        print(short_line(status, fraction_done(run)))
    else:
        print("\n".join(full_lines(run, status)))
    return EXIT_OK


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
    said = run.status()
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
    }
    width = max(len(name) for name in figures)
    lines = [f"{name:<{width}}  {value}" for name, value in figures.items() if value is not None]
    return [one_line(status["name"]), *lines]


def _known(value: object) -> bool:
    """A number: `run.json` may have been written by any program."""
    return math.isfinite(number(value))
