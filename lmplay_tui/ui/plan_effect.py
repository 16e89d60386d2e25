"""What applying an edited plan would change: stage by stage, in rows, time and cost."""

import math
from pathlib import Path

from lmplay_tui.plan.problems import PlanError
from lmplay_tui.plan.reading import parse_plan
from lmplay_tui.plan.schema import Plan, Stage
from lmplay_tui.run.telling import shown_seconds
from lmplay_tui.run.view import RunView
from lmplay_tui.run.view_parts import StageView
from lmplay_tui.ui.widgets.lines import Piece, Row


def effect_rows(old_text: str, new_text: str, view: RunView, folder: Path, price: float | None) -> list[Row]:
    """One row a stage that changes, and their sum. Nothing where nothing changes or a text is no plan."""
    if old_text == new_text:
        return []
    try:
        old = parse_plan(old_text, name="plan", file="plan", folder=folder)
        new = parse_plan(new_text, name="plan", file="plan", folder=folder)
    except PlanError:
        return []
    rows: list[Row] = []
    total = 0.0
    for name in dict.fromkeys([s.name for s in old.stages] + [s.name for s in new.stages]):
        change = _change(name, _stage(old, name), _stage(new, name), view)
        if change is not None:
            row, added = change
            total += added
            rows.append((*row, *_cost(added, view, price)))
    if not rows:
        return [((" nothing that trains changes", "dim"),)]
    if len(rows) > 1 and math.isfinite(total):
        rows.append(((" all together  ", "dim"), (f"{total:+,.0f} rows", "strong"), *_cost(total, view, price)))
    return rows


def _stage(plan: Plan, name: str) -> Stage | None:
    return next((stage for stage in plan.stages if stage.name == name), None)


def _change(name: str, old: Stage | None, new: Stage | None, view: RunView) -> tuple[list[Piece], float] | None:
    """The row of a stage and the rows that it adds; None where it stays as it is."""
    seen = next((stage for stage in view.stages if stage.name == name), None)
    begun = seen is not None and seen.rows_done > 0
    if new is None:
        if begun:
            return [(" ✗ ", "bad"), (f"{name} has begun and cannot be removed", "bad")], 0.0
        return [(" − ", "warn"), (name, "strong"), (" removed  ", "dim")], -float(
            seen.rows_total or 0
        ) if seen else math.nan
    if old is None:
        return [(" + ", "good"), (name, "strong"), (f" new, {new.epochs:g} epochs  ", "dim")], math.nan
    if old == new:
        return None
    if begun and old.datasets != new.datasets:
        return [(" ✗ ", "bad"), (f"{name} has begun: its datasets stay", "bad")], 0.0
    pieces: list[Piece] = [(" ~ ", "accent"), (name, "strong")]
    if old.epochs == new.epochs:
        return [*pieces, (" other options, from the next batch", "dim")], 0.0
    pieces.append((f" {old.epochs:g} → {new.epochs:g} epochs  ", "dim"))
    per_epoch = _rows_per_epoch(seen, old)
    if math.isnan(per_epoch) or seen is None:
        return pieces, math.nan
    after = new.rows_total(round(per_epoch))
    if after < seen.rows_done:
        least = seen.rows_done / per_epoch
        return [(" ✗ ", "bad"), (f"{name}: {least:.4g} epochs are done already", "bad")], 0.0
    return pieces, float(after - (seen.rows_total or 0))


def _rows_per_epoch(seen: StageView | None, old: Stage) -> float:
    if seen is None or not seen.rows_total or not old.epochs:
        return math.nan
    return seen.rows_total / old.epochs


def _cost(rows: float, view: RunView, price: float | None) -> list[Piece]:
    """So many rows more or fewer, as rows, time and money at the pace of the last minutes."""
    if not math.isfinite(rows):
        return [("rows are counted when it is applied", "dim")]
    if rows == 0:
        return []
    pieces: list[Piece] = [(f"{rows:+,.0f} rows", "")]
    seconds = view.pace.seconds_for(abs(rows))
    if math.isfinite(seconds):
        sign = "+" if rows > 0 else "−"
        pieces.append((f"  {sign}{shown_seconds(seconds)}", ""))
        if price is not None:
            pieces.append((f"  {sign}{price * seconds / 3600:.2f}", ""))
    return pieces
