"""The runs there are, as rows of a list, and what is known of how long a plan takes here."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmplay_tui.plan.schema import Plan
from lmplay_tui.run.folder import RunFolder, list_runs, output_folder
from lmplay_tui.run.journal import number
from lmplay_tui.text import one_line
from lmplay_tui.ui.widgets.lines import Row, fitted, right

ABOUT_ROWS = {  # what the hub's pages say, rounded: for an estimate before anything is downloaded
    "wikipedia": 6_400_000, "wikipedia:en": 6_400_000, "wikipedia:es": 1_840_000, "wikitext": 1_800_000,
    "wikitext:2": 36_700, "fineweb-edu": 9_670_000, "tinystories": 2_120_000, "openorca": 4_230_000,
    "orcamath": 200_000, "smoltalk": 1_040_000, "cosmopedia": 39_100_000, "pydocs": 3_500,
}  # fmt: skip
_SIGNS = {"running": ("●", "good"), "paused": ("‖", "warn"), "finished": ("✓", "good"), "failed": ("✗", "bad")}


@dataclass(frozen=True)
class RunEntry:
    """A run as a list shows it."""

    folder: RunFolder
    state: str  # running, paused, stopped, finished, failed, dead, empty
    status: dict[str, Any]
    age_s: float

    @property
    def alive(self) -> bool:
        return self.state in ("running", "paused")


def find_runs(out_dir: str | None) -> list[RunEntry]:
    """The runs in the working folder and the output folder, newest first."""
    entries = []
    for folder in list_runs(Path(), output_folder(out_dir)):
        status = folder.status()
        said = str(status.get("state", ""))
        if folder.alive():
            state = "paused" if said == "paused" else "running"
        elif said in ("stopped", "finished", "failed"):
            state = said
        else:
            state = "dead" if status else "empty"
        newest = number(status.get("heartbeat"))
        entries.append(RunEntry(folder, state, status, time.time() - newest if math.isfinite(newest) else math.nan))
    return entries


def shown_age(seconds: float) -> str:
    """`just now`, `5 min ago`, `3 h ago`, `2 d ago`."""
    if not math.isfinite(seconds):
        return ""
    for limit, scale, unit in ((90, 0, ""), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / scale:.0f} {unit} ago" if scale else "just now"
    return f"{seconds / 86400:.0f} d ago"


def run_rows(entries: Sequence[RunEntry], width: int) -> list[Row]:
    """Name, state, how far, last loss, age."""
    name_cells = max(min(width - 46, 40), 12)
    rows: list[Row] = []
    for entry in entries:
        sign, style = _SIGNS.get(entry.state, ("■", "dim"))
        loss = number(entry.status.get("val_loss", entry.status.get("train_loss")))
        step = number(entry.status.get("step"))
        rows.append(
            (
                (fitted(one_line(entry.folder.name), name_cells), "strong" if entry.alive else ""),
                (f" {sign} {entry.state:<9}", style),
                (right(f"{step:,.0f}" if math.isfinite(step) else "–", 10), ""),
                (right(f"{loss:.3f}" if math.isfinite(loss) else "–", 8), "train"),
                (right(shown_age(entry.age_s), 12), "dim"),
            )
        )
    return rows


@dataclass(frozen=True)
class Estimate:
    """Rows and seconds of a stage or a plan, as far as they can be guessed; NaN where not."""

    rows: float
    seconds: float


def estimate_stage_rows(plan: Plan, name: str) -> float:
    """About how many rows a stage reads, by what is known of its datasets."""
    stage = plan.stage(name)
    known = [ABOUT_ROWS.get(spec.name, ABOUT_ROWS.get(spec.path, math.nan)) for spec in stage.datasets]
    return stage.epochs * sum(known)


def estimate(plan: Plan, entries: Sequence[RunEntry]) -> Estimate:
    """The whole plan: from an earlier run of it here if there is one, else from its datasets and a run's speed."""
    names = [stage.name for stage in plan.stages]
    for entry in entries:
        stages = entry.status.get("stages") or []
        totals = [stage.get("rows_total") for stage in stages if isinstance(stage, dict)]
        rows = [total for total in totals if isinstance(total, int)]
        same = [stage.get("name") for stage in stages if isinstance(stage, dict)] == names
        if same and entry.folder.name.endswith(plan.name) and len(rows) == len(names):
            return Estimate(float(sum(rows)), sum(rows) / _rows_per_s(entry))
    return Estimate(sum(estimate_stage_rows(plan, name) for name in names), math.nan)


def _rows_per_s(entry: RunEntry) -> float:
    tokens, samples = number(entry.status.get("tokens")), number(entry.status.get("samples"))
    speed = number(entry.status.get("tokens_per_s"))
    rate = speed * samples / tokens if tokens and tokens > 0 else math.nan
    return rate if rate > 0 else math.nan
