"""The runs there are: as rows of a list, and one of them in detail."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.cells import cell_len

from lmplay_tui.formats import format_age, format_count, format_loss, format_percent, format_rate
from lmplay_tui.run.folder import RunFolder, list_runs, output_folder, saved_status
from lmplay_tui.run.journal import number
from lmplay_tui.run.status import SavedStatus, StageView
from lmplay_tui.run.upkeep import About, about
from lmplay_tui.text import one_line
from lmplay_tui.ui.legend import STATES
from lmplay_tui.ui.widgets.lines import Piece, Row, bar, fitted, right, wrapped


@dataclass(frozen=True)
class RunEntry:
    """A run as a list shows it."""

    folder: RunFolder
    state: str  # its status's, or "empty" where it has said nothing yet
    status: SavedStatus
    age_s: float  # NaN where it has never said anything
    about: About = field(default_factory=About)

    @property
    def alive(self) -> bool:
        return self.state in ("running", "paused")


def find_runs(out_dir: str | None) -> list[RunEntry]:
    """The runs in the working folder and the output folder, newest first."""
    entries = []
    for folder in list_runs(Path(), output_folder(out_dir)):
        status = saved_status(folder)
        state = "empty" if status.is_empty and status.state == "dead" else status.state
        entries.append(RunEntry(folder, state, status, time.time() - status.heartbeat, about(folder)))
    return entries


def run_table(entries: Sequence[RunEntry], width: int) -> tuple[Row, list[Row]]:
    """The columns' titles, and name, state, how far, losses and age of each run.

    Names have their whole length before there are other columns; of these the age is missed most.
    """
    cells = [_run_cells(entry) for entry in entries]
    longest = max((cell_len(one_line(entry.folder.name)) for entry in entries), default=0)
    needed = max((cell_len(row["age"][0]) for row in cells), default=0) + _SIGN_CELLS + 2
    widths = {"run": min(max(longest, 4), max(width - needed, 12)), "sign": _SIGN_CELLS}
    room = width - sum(widths.values())
    for column in ("age", "state", "val_loss", "train_loss", "step"):
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
_LOSSES = {"train_loss": "train loss", "val_loss": "val loss"}
_TITLES = {"run": "run", "sign": "", "state": "state", "step": "step", **_LOSSES, "age": ""}


def _placed(column: str, text: str, cells: int) -> str:
    """Words begin at the left of their column, figures end at its right."""
    return fitted(text, cells) if column in ("run", "sign", "state") else right(text, cells)


def _run_cells(entry: RunEntry) -> dict[str, Piece]:
    sign, style, _ = STATES.get(entry.state, STATES["stopped"])
    status = entry.status
    return {
        "run": (f"{one_line(entry.folder.name)} {entry.about.words}".rstrip(), "strong" if entry.alive else ""),
        "sign": (f" {sign}", style),
        "state": (entry.state, style),
        "step": (f"{status.at.step:,.0f}" if status.is_placed else "–", ""),
        "train_loss": (format_loss(number(status.train_loss)), "train"),
        "val_loss": (format_loss(number(status.val_loss)), "val"),
        "age": (format_age(entry.age_s), "dim"),
    }


def run_detail(entry: RunEntry, width: int) -> list[Row]:
    """What is known of a run, from its status alone: stages, losses, checkpoint, and what went wrong."""
    status = entry.status
    rows: list[Row] = [((f" {line}", "bad"),) for line in wrapped(status.message, width)] if status.message else []
    rows += [_stage_row(stage, width) for stage in status.stages]
    figures: dict[str, str] = {"tags": entry.about.words, "note": entry.about.note}
    figures = {label: text for label, text in figures.items() if text}
    for name, label in _LOSSES.items():
        if math.isfinite(value := number(getattr(status, name))):
            figures[label] = format_loss(value)
    if status.is_placed and math.isfinite(status.at.tokens):
        figures["tokens"] = format_count(status.at.tokens)
    if math.isfinite(status.tokens_per_s):
        figures["speed"] = f"{format_rate(status.tokens_per_s)} tok/s on {one_line(status.device or '?', 20)}"
    if status.checkpoint is not None:
        figures["saved"] = f"step {status.checkpoint.step:,}, {one_line(status.checkpoint.path, 200)}"
    if rows and figures:
        rows.append(())
    rows += [((f" {label:<11}", "label"), (fitted(text, max(width - 12, 1)), "")) for label, text in figures.items()]
    return rows or [((" nothing is known of this run yet", "dim"),)]


def _stage_row(stage: StageView, width: int) -> Row:
    rows = f"{format_count(stage.rows_done)}/{format_count(stage.rows_total)}" if stage.rows_total else "–"
    filled, left = bar(stage.fraction, max(width - 34, 4))
    percent = format_percent(stage.fraction)
    return (
        (" " + fitted(stage.name, 14), "strong"), (filled, "done"), (left, "todo"),
        (right(percent, 6), ""), (right(rows, 13), "dim"),
    )  # fmt: skip
