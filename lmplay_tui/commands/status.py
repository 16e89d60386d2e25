"""`lmplay-tui status`: how a run is, once, or until it ends."""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime

from lmplay_tui.command_line import new_parser, parse_line
from lmplay_tui.commands.terminal_tables import cut, line_width
from lmplay_tui.errors import EXIT_OK
from lmplay_tui.formats import format_duration, format_lr, format_moment, format_percent, format_rate
from lmplay_tui.options import home_path
from lmplay_tui.run.folder import RunFolder, find_run, saved_status
from lmplay_tui.run.journal import number
from lmplay_tui.run.ranks import Ranks, RankState
from lmplay_tui.run.status import SavedStatus
from lmplay_tui.run.upkeep import about
from lmplay_tui.text import one_line

DESCRIPTION = """\
Say how a run is, from its files; the run is not touched.

RUN: a name, a .lmp file, or a run folder; the newest run where left out."""
WATCH_EVERY_S = 1.0  # as often as a run says how it is
HANDED_OVER_S = 2.0  # until then another process has taken it
MOST_RANKS = 8  # that have a line each
QUIET_S = 30.0  # a run that says nothing for longer is in a long step, or stuck
EPILOG = "For a tmux status bar: set -g status-right '#(lmplay-tui status --line)'"


def main(arguments: Sequence[str], prog: str) -> int:
    """Print the state of a run. Raises `UserError` if there is none."""
    line = parse_line(parser(prog), arguments)
    run = find_run(line.run, line.out_dir)
    for refused in run.refused():
        print(refused, file=sys.stderr)
    if line.watch:
        return _watch(run, line)
    print(_said(run, saved_status(run), line))
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


def _said(run: RunFolder, status: SavedStatus, line: argparse.Namespace) -> str:
    """How the run is, in the form that was asked for."""
    if line.json:
        return json.dumps({"name": run.name, **status.fields()})
    return short_line(run.name, status) if line.line else "\n".join(full_lines(run, status))


def _watch(run: RunFolder, line: argparse.Namespace) -> int:
    """Look once a second until the run ends. What is no terminal gets a line a change, with the time of day."""
    width = line_width() if os.environ.get("TERM", "dumb") != "dumb" else None
    in_place = width is not None and not line.json
    line.line = line.line or not in_place
    before, looks_dead = "", 0
    while True:
        status = saved_status(run)
        said = _said(run, status, line)
        if said != before:
            if in_place:
                rows = [cut(row, line_width()) for row in said.split("\n")]
                back = f"\x1b[{before.count(chr(10)) + 1}A\r\x1b[J" if before else ""
                print(back + "\n".join(rows), flush=True)
            else:
                print(said if line.json else f"{datetime.now().astimezone():%H:%M:%S}  {said}", flush=True)
        before = said
        looks_dead = looks_dead + 1 if status.state == "dead" else 0  # for an instant, where a run is handed over
        if status.state in ("stopped", "finished", "failed") or looks_dead > HANDED_OVER_S / WATCH_EVERY_S:
            return EXIT_OK
        time.sleep(WATCH_EVERY_S)


def short_line(name: str, status: SavedStatus) -> str:
    """`demo 41 % step 1,200 loss 3.41 9.1k tok/s 3 min 05 s left`; the state instead of the pace where it stands."""
    parts = [
        one_line(name, 40),
        "" if status.state == "running" else status.state,
        format_percent(status.fraction_done) if status.stages else "",
        f"step {status.at.step:,.0f}" if status.is_placed else "",
        f"loss {status.train_loss:.2f}" if _known(status.train_loss) else "",
    ]
    if status.state == "running":
        rate, left = status.tokens_per_s, status.eta_s
        parts.append(f"{format_rate(rate)} tok/s" if _known(rate) else status.activity)
        parts.append(f"{format_duration(left)} left" if _known(left) else "")
    return " ".join(part for part in parts if part)


def full_lines(run: RunFolder, status: SavedStatus) -> list[str]:
    """One line a figure that is known."""
    own = about(run)
    saved, places = status.checkpoint, status.at._asdict() if status.is_placed else {}
    silent_s = time.time() - status.heartbeat if status.state == "running" and status.heartbeat > 0 else 0.0
    figures = {
        "state": f"{status.state} ({status.activity})" if status.activity else status.state,
        "process": f"{status.pid} on {status.host}" if status.pid is not None else None,
        "last word": f"{format_duration(silent_s)} ago" if silent_s > QUIET_S else None,
        "why": status.message or None,
        "done": format_percent(status.fraction_done, 1) if status.stages else None,
        "stage": status.stage.name if status.stage else None,
        **{place: f"{places[place]:,.0f}" for place in ("step", "rows", "tokens") if _known(places.get(place))},
        "train loss": f"{status.train_loss:.4f}" if _known(status.train_loss) else None,
        "val loss": f"{status.val_loss:.4f}" if _known(status.val_loss) else None,
        "val accuracy": f"{status.val_accuracy:.3f}" if _known(status.val_accuracy) else None,
        "val character accuracy": f"{status.val_character_accuracy:.3f}"
        if _known(status.val_character_accuracy)
        else None,
        "learning rate": format_lr(status.lr) if _known(status.lr) else None,
        "tokens/s": format_rate(status.tokens_per_s) if _known(status.tokens_per_s) else None,
        "left": format_duration(status.eta_s) if status.state == "running" and _known(status.eta_s) else None,
        **(_rank_figures(status.ranks) if status.ranks is not None else {}),
        "checkpoint": f"{one_line(saved.path, 400)}, step {saved.step:,}" if saved is not None else None,
        "tags": own.words or None,
        "note": own.note or None,
    }
    known = {label: value for label, value in figures.items() if value is not None}
    width = max(map(len, known))
    return [one_line(run.name), *(f"{label:<{width}}  {value}" for label, value in known.items())]


def _rank_figures(ranks: Ranks) -> dict[str, str | None]:
    """A line a rank, or for many of them how they are together; and the one that all wait for."""
    figures: dict[str, str | None] = {"straggler": ranks.straggler.sentence() if ranks.straggler is not None else None}
    if len(ranks.ranks) <= MOST_RANKS:
        return figures | {f"rank {state.rank}": _of_rank(state) for state in ranks.ranks}
    own, waits = ([value for value in values if _known(value)] for values in (
        (state.compute_s for state in ranks.ranks), (state.wait_s for state in ranks.ranks),
    ))  # fmt: skip
    said = f"{len(ranks.ranks)}"
    if own:
        last = max((state for state in ranks.ranks if _known(state.compute_s)), key=lambda state: state.compute_s)
        said += f", own work {format_moment(min(own))} to {format_moment(max(own))} a step (rank {last.rank})"
    if waits:
        said += f", waiting {format_moment(math.fsum(waits) / len(waits))}"
    return figures | {"ranks": said}


def _of_rank(state: RankState) -> str:
    known = [
        ", ".join(part for part in (state.host, state.device_name) if part),
        state.phase,
        f"own work {format_moment(state.compute_s)}" if _known(state.compute_s) else "",
        f"waiting {format_moment(state.wait_s)}" if _known(state.wait_s) else "",
        f"{state.memory_bytes / 2**30:.1f} GiB" if _known(state.memory_bytes) else "",
        f"busy {format_percent(state.utilisation)}" if _known(state.utilisation) else "",
    ]
    return ", ".join(part for part in known if part)


def _known(value: object) -> bool:
    return math.isfinite(number(value))
