"""The runs there are: as rows of a list, and one of them in detail."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from lmplay_tui.formats import format_age, format_count, format_percent, format_rate
from lmplay_tui.run.folder import RunFolder, list_runs, output_folder, stages_of, state_of
from lmplay_tui.run.journal import number
from lmplay_tui.run.upkeep import About, about
from lmplay_tui.text import one_line
from lmplay_tui.ui.legend import STATES
from lmplay_tui.ui.widgets.lines import Piece, Row, bar, fitted, right, wrapped


@dataclass(frozen=True)
class RunEntry:
    """A run as a list shows it."""

    folder: RunFolder
    state: str  # running, paused, stopped, finished, failed, dead, empty
    status: dict[str, Any]
    age_s: float
    about: About = field(default_factory=About)

    @property
    def alive(self) -> bool:
        return self.state in ("running", "paused")


def find_runs(out_dir: str | None) -> list[RunEntry]:
    """The runs in the working folder and the output folder, newest first."""
    entries = []
    for folder in list_runs(Path(), output_folder(out_dir)):
        status = folder.status()
        alive = folder.alive()
        state = state_of(status, alive=alive) if status or alive else "empty"
        newest = number(status.get("heartbeat"))
        entries.append(
            RunEntry(folder, state, status, time.time() - newest if math.isfinite(newest) else math.nan, about(folder))
        )
    return entries


def run_table(entries: Sequence[RunEntry], width: int) -> tuple[Row, list[Row]]:
    """The columns' titles, and name, state, how far, loss and age of each run.

    Names have their whole length before there are other columns; of these the age is missed most.
    """
    cells = [_run_cells(entry) for entry in entries]
    longest = max((cell_len(one_line(entry.folder.name)) for entry in entries), default=0)
    needed = max((cell_len(row["age"][0]) for row in cells), default=0) + _SIGN_CELLS + 2
    widths = {"run": min(max(longest, 4), max(width - needed, 12)), "sign": _SIGN_CELLS}
    room = width - sum(widths.values())
    for column in ("age", "state", "loss", "step"):
        wanted = max(len(_TITLES[column]), *(cell_len(row[column][0]) for row in cells), 0) + 2
        if wanted <= room:
            widths[column] = wanted
            room -= wanted
    widths["run"] += room
    order = [column for column in _TITLES if column in widths]
    head = tuple((_placed(column, _TITLES[column], widths[column]), "label") for column in order)
    return head, [
        tuple((_placed(column, row[column][0], widths[column]), row[column][1]) for column in order) for row in cells
    ]


_SIGN_CELLS = 3
_TITLES = {"run": "run", "sign": "", "state": "state", "step": "step", "loss": "loss", "age": ""}


def _placed(column: str, text: str, cells: int) -> str:
    """Words begin at the left of their column, figures end at its right."""
    return fitted(text, cells) if column in ("run", "sign", "state") else right(text, cells)


def _run_cells(entry: RunEntry) -> dict[str, Piece]:
    sign, style, _ = STATES.get(entry.state, STATES["stopped"])
    loss = number(entry.status.get("val_loss", entry.status.get("train_loss")))
    step = number(entry.status.get("step"))
    return {
        "run": (f"{one_line(entry.folder.name)} {entry.about.words}", "strong" if entry.alive else ""),
        "sign": (f" {sign}", style),
        "state": (entry.state, style),
        "step": (f"{step:,.0f}" if math.isfinite(step) else "–", ""),
        "loss": (f"{loss:.3f}" if math.isfinite(loss) else "–", "train"),
        "age": (format_age(entry.age_s), "dim"),
    }


def run_detail(entry: RunEntry, width: int) -> list[Row]:
    """What is known of a run, from its status alone: stages, losses, checkpoint, and what went wrong."""
    status = entry.status
    said = status.get("message") if entry.state == "failed" else None
    rows: list[Row] = [((f" {line}", "bad"),) for line in wrapped(one_line(said, 400), width)] if said else []
    rows += [_stage_row(stage, width) for stage in stages_of(status)]
    figures: dict[str, str] = {"tags": entry.about.words, "note": entry.about.note}
    figures = {label: text for label, text in figures.items() if text}
    for label, key, form in (("train loss", "train_loss", ".3f"), ("val loss", "val_loss", ".3f")):
        if math.isfinite(value := number(status.get(key))):
            figures[label] = format(value, form)
    if math.isfinite(tokens := number(status.get("tokens"))):
        figures["tokens"] = format_count(tokens)
    if math.isfinite(speed := number(status.get("tokens_per_s"))):
        figures["speed"] = f"{format_rate(speed)} tok/s on {one_line(status.get('device', '?'), 20)}"
    checkpoint = status.get("checkpoint")
    if isinstance(checkpoint, dict):
        step = number(checkpoint.get("step"))
        figures["saved"] = f"step {step:,.0f}, {one_line(checkpoint.get('path', ''), 200)}"
    if rows and figures:
        rows.append(())
    rows += [((f" {label:<11}", "label"), (fitted(text, max(width - 12, 1)), "")) for label, text in figures.items()]
    return rows or [((" nothing is known of this run yet", "dim"),)]


def _stage_row(stage: Mapping[str, Any], width: int) -> Row:
    done, total = number(stage.get("rows_done")), number(stage.get("rows_total"))
    known = math.isfinite(done) and 0 < total < math.inf
    share = done / total if known else 0.0
    rows = f"{format_count(done)}/{format_count(total)}" if known else "–"
    filled, left = bar(share, max(width - 34, 4))
    percent = format_percent(share)
    return (
        (" " + fitted(one_line(stage.get("name", "")), 14), "strong"), (filled, "done"), (left, "todo"),
        (right(percent, 6), ""), (right(rows, 13), "dim"),
    )  # fmt: skip
