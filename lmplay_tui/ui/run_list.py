"""The runs there are: as rows of a list, and one of them in detail."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmplay_tui.formats import format_age, format_count, format_loss, format_percent, format_rate
from lmplay_tui.run.folder import RunFolder, list_runs, output_folder
from lmplay_tui.run.journal import number
from lmplay_tui.run.status import SavedStatus, StageView
from lmplay_tui.text import one_line
from lmplay_tui.ui.widgets.lines import Row, bar, fitted, right, wrapped

_SIGNS = {"running": ("●", "good"), "paused": ("‖", "warn"), "finished": ("✓", "good"), "failed": ("✗", "bad")}


@dataclass(frozen=True)
class RunEntry:
    """A run as a list shows it."""

    folder: RunFolder
    state: str  # its status's, or "empty" where it has said nothing yet
    status: SavedStatus
    age_s: float  # NaN where it has never said anything

    @property
    def alive(self) -> bool:
        return self.state in ("running", "paused")


def find_runs(out_dir: str | None) -> list[RunEntry]:
    """The runs in the working folder and the output folder, newest first."""
    entries = []
    for folder in list_runs(Path(), output_folder(out_dir)):
        record, alive = folder.status(), folder.alive()
        status = SavedStatus(record, alive=alive)
        entries.append(
            RunEntry(folder, status.state if record or alive else "empty", status, time.time() - status.heartbeat)
        )
    return entries


def run_head(width: int) -> Row:
    """The titles of `run_rows`' columns."""
    losses = [right(title, _LOSS_CELLS) for title, _ in _losses(width)]
    texts = (fitted("run", _name_cells(width)), f" {'state':<11}", right("step", 10), *losses, right("", 12))
    return tuple((text, "label") for text in texts)


_LOSS_CELLS = 12
_LOSSES = (("train loss", "train_loss", "train"), ("val loss", "val_loss", "val"))


def _losses(width: int) -> list[tuple[str, str]]:
    """The losses that have room, each under its name: title and attribute."""
    return [(title, name) for title, name, _ in _LOSSES[: 2 if width >= 72 else 1]]


def _name_cells(width: int) -> int:
    return max(min(width - 38 - _LOSS_CELLS * len(_losses(width)), 40), 12)


def run_rows(entries: Sequence[RunEntry], width: int) -> list[Row]:
    """Name, state, how far, losses, age."""
    rows: list[Row] = []
    for entry in entries:
        sign, style = _SIGNS.get(entry.state, ("■", "dim"))
        status = entry.status
        losses = [
            (right(format_loss(number(getattr(status, name))), _LOSS_CELLS), style_of_loss)
            for (_, name), (*_, style_of_loss) in zip(_losses(width), _LOSSES, strict=False)
        ]
        rows.append(
            (
                (fitted(one_line(entry.folder.name), _name_cells(width)), "strong" if entry.alive else ""),
                (f" {sign} {entry.state:<9}", style),
                (right(f"{status.at.step:,.0f}" if status.is_placed else "–", 10), ""),
                *losses,
                (right(format_age(entry.age_s), 12), "dim"),
            )
        )
    return rows


def run_detail(entry: RunEntry, width: int) -> list[Row]:
    """What is known of a run, from its status alone: stages, losses, checkpoint, and what went wrong."""
    status = entry.status
    rows: list[Row] = [((f" {line}", "bad"),) for line in wrapped(status.message, width)] if status.message else []
    rows += [_stage_row(stage, width) for stage in status.stages]
    figures: dict[str, str] = {}
    for label, name, _ in _LOSSES:
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
