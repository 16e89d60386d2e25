"""What applying an edited plan would change: stage by stage, in rows, time and cost, or why the run would refuse it."""

import contextlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from lmplay_tui.formats import format_cost, format_duration
from lmplay_tui.options import OPTIONS, OnResume, resolve
from lmplay_tui.plan.editing import Begun, Change, change_problems, list_changes
from lmplay_tui.plan.problems import PlanError, Problem
from lmplay_tui.plan.reading import parse_plan
from lmplay_tui.plan.schema import Plan, Stage
from lmplay_tui.run.learning_rate import StageRate, rate_jump
from lmplay_tui.run.status import StageView
from lmplay_tui.run.view import RunView
from lmplay_tui.text import one_line
from lmplay_tui.ui.widgets.lines import Piece, Row, wrapped


def refusals(old_text: str, new_text: str, view: RunView, folder: Path) -> Sequence[Problem]:
    """Why the run would refuse the change: by the same function that the run asks."""
    plans = _both(old_text, new_text, folder)
    begun = {stage.name: Begun(stage.rows_done, _rows_per_epoch(stage)) for stage in view.stages if stage.begun}
    return change_problems(*plans, begun) if plans is not None else ()


def effect_rows(
    old_text: str, new_text: str, view: RunView, folder: Path, price: float | None, *, width: int = 200
) -> list[Row]:
    """One row a change, their sum, and what the command line overrules, in lines of `width`.

    Nothing where the texts are the same or one is no plan.
    """
    plans = _both(old_text, new_text, folder)
    if plans is None:
        return []
    rows: list[Row] = []
    total, summed = 0.0, 0
    overruled: dict[str, None] = {}  # each once, in the plan's order
    for change in list_changes(*plans):
        if change.option in view.on_line:
            overruled[change.option] = None
            continue
        if change.stage is not None:
            overruled |= dict.fromkeys(name for name in _of_new_stage(change.stage, *plans) if name in view.on_line)
        cost: list[Piece] = []
        if change.stage is not None:
            added = _added_rows(change.stage, *plans, view)
            cost = _cost(added, view, price)
            total, summed = total + added, summed + 1
        rows.append((*_said(change), *cost))
    if not rows:
        rows.append(((" nothing that trains changes", "dim"),))
    if summed > 1 and math.isfinite(total):
        rows.append(((" all together  ", "dim"), *(_cost(total, view, price) or [("as many rows as before", "")])))
    warnings = _rate_jumps(*plans, view) + [_why_nothing(name, view.on_line[name]) for name in overruled]
    for warning in warnings:
        lines = wrapped(warning, max(width - 4, 20))
        rows += [((" ! " if i == 0 else "   ", "warn"), (line, "")) for i, line in enumerate(lines)]
    return rows


def _rate_jumps(old: Plan, new: Plan, view: RunView) -> list[str]:
    """What other rows of a stage under way, or of one that has ended, do to its learning rate."""
    on_line = {name: words.rpartition(" ")[2] for name, words in view.on_line.items() if name in ("lr", "lr_schedule")}
    jumps = []
    for stage in new.stages:
        before, seen = _named(stage.name, old.stages), _named(stage.name, view.stages)
        per_epoch = _rows_per_epoch(seen) if seen is not None else None
        if seen is None or before is None or not per_epoch or not seen.begun:
            continue
        after = stage.rows_total(per_epoch)
        if after <= seen.rows_done:  # nothing of it is left
            continue
        options = resolve(stage.options, new.train)
        rows = seen.rows_done, before.rows_total(per_epoch), after
        with contextlib.suppress(ValueError):  # a journal may say any words of the command line
            lr = float(on_line.get("lr", options.lr))
            rate = StageRate(stage.name, lr, on_line.get("lr_schedule", options.lr_schedule))
            jump = rate_jump(rate, *rows, factor=view.lr_factor)
            jumps += [jump] if jump is not None else []
    return jumps


def _of_new_stage(name: str, old: Plan, new: Plan) -> list[str]:
    """The options of a stage that is not in `old`."""
    stage = _named(name, new.stages)
    return [*stage.options] if stage is not None and _named(name, old.stages) is None else []


def _why_nothing(name: str, words: str) -> str:
    """Why an edit has no effect: the command line comes before any plan, and the checkpoint keeps some of it."""
    option = OPTIONS[name]
    if option.on_resume is OnResume.KEPT:
        holds = f"holds, after a resume too; this edit changes nothing: only another {option.flag} at a start does"
    else:
        holds = "holds; this edit changes nothing until a start without it"
    return f"{name}: the command line's {one_line(words, 80)} {holds}"


def _both(old_text: str, new_text: str, folder: Path) -> tuple[Plan, Plan] | None:
    """The two plans; None where the texts are the same or one is no plan."""
    if old_text == new_text:
        return None
    try:
        old = parse_plan(old_text, name="plan", file="plan", folder=folder)
        return old, parse_plan(new_text, name="plan", file="plan", folder=folder)
    except PlanError:
        return None


def _said(change: Change) -> list[Piece]:
    """`~ docstrings  epochs 1 -> 2`."""
    sign, style = {"removed": ("−", "warn"), "new": ("+", "good")}.get(change.what.partition(",")[0], ("~", "accent"))
    place = change.place.removeprefix("stage ")
    return [(f" {sign} ", style), (place, "strong"), (f" {change.what}  ", "dim")]


def _added_rows(name: str, old: Plan, new: Plan, view: RunView) -> float:
    """How many rows more a stage reads; NaN where that is not known before its data are opened."""
    before, after, seen = _named(name, old.stages), _named(name, new.stages), _named(name, view.stages)
    if before is None or seen is None or seen.rows_total is None:
        return math.nan
    if after is None:
        return -float(seen.rows_total)
    per_epoch = _rows_per_epoch(seen)
    if per_epoch is None or before.datasets != after.datasets:
        return math.nan
    return float(after.rows_total(per_epoch) - seen.rows_total)


_Stage = TypeVar("_Stage", Stage, StageView)


def _named(name: str, stages: Iterable[_Stage]) -> _Stage | None:
    return next((stage for stage in stages if stage.name == name), None)


def _rows_per_epoch(stage: StageView) -> int | None:
    """As the run recorded it; where it has recorded only the whole stage, a part of that."""
    if stage.rows_per_epoch is None and stage.rows_total and stage.epochs:
        rows = stage.rows_total / stage.epochs
        return round(rows) if abs(rows) < 2**63 else None  # a journal may hold any epochs, NaN too
    return stage.rows_per_epoch


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
        pieces.append((f"  {sign}{format_duration(seconds)}", ""))
        if price is not None:
            pieces.append((f"  {sign}{format_cost(price, seconds)}", ""))
    return pieces
