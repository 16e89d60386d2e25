"""The plans that can be started: as rows of a list, and one of them in detail."""

import math

from lmplay_tui.plan.schema import Plan
from lmplay_tui.text import one_line
from lmplay_tui.ui.plan_estimate import Estimate, about_rows
from lmplay_tui.ui.widgets.curriculum import short_count
from lmplay_tui.ui.widgets.lines import Row, fitted, right, wrapped

NAME_CELLS = 18
_COLUMNS = {"stages": 8, "rows": 9, "time here": 11}


def roughly(seconds: float) -> str:
    """A duration that is only guessed, in one unit: `40 s`, `3 min`, `11 h`, `5 d`, `3 y`."""
    if not math.isfinite(seconds):
        return "–"
    for limit, scale, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h"), (63_072_000, 86_400, "d")):
        if seconds < limit:
            return f"{seconds / scale:.0f} {unit}"
    return f"{seconds / 31_536_000:.0f} y"


def rows_text(rows: float, *, measured: bool = False) -> str:
    """A number of rows: as it was counted, or guessed, in two figures: `~4,900`, `~3.3M`."""
    if not math.isfinite(rows):
        return "–"
    if measured:
        return short_count(rows)
    guessed = float(f"{rows:.2g}")
    return f"~{guessed / 1e6:g}M" if guessed >= 1e6 else f"~{guessed:,.0f}"


def _purpose_cells(width: int) -> int:
    return max(width - NAME_CELLS - sum(_COLUMNS.values()), 0)


def plan_head(width: int) -> Row:
    """The titles of `plan_row`'s columns."""
    titles = "".join(right(title, cells) for title, cells in _COLUMNS.items())
    return ((fitted("plan", NAME_CELLS), "label"), (fitted("", _purpose_cells(width)), ""), (titles, "label"))


def plan_row(name: str, plan: Plan, about: Estimate, width: int) -> Row:
    """Name, purpose, stages, rows and time."""
    took = ("" if about.measured or not math.isfinite(about.seconds) else "~") + roughly(about.seconds)
    cells = (str(len(plan.stages)), rows_text(about.rows, measured=about.measured), took)
    figures = "".join(right(text, wide) for text, wide in zip(cells, _COLUMNS.values(), strict=True))
    return (
        (fitted(one_line(name, 40), NAME_CELLS), "strong"),
        (fitted(plan.title or plan.purpose, _purpose_cells(width)), "dim"),
        (figures, ""),
    )


def broken_row(name: str, problem: str, width: int) -> Row:
    """A plan that cannot be read, and why."""
    return (
        (fitted(one_line(name, 40), NAME_CELLS), ""),
        (" ✗ ", "bad"),
        (fitted(one_line(problem), max(width - NAME_CELLS - 3, 0)), "bad"),
    )


def plan_detail(plan: Plan, about: Estimate, width: int) -> list[Row]:
    """What a plan is for, its stages, and where the estimate is from."""
    rows: list[Row] = [((f" {line}", ""),) for line in wrapped(plan.purpose or plan.title or "", width - 1)]
    rows.append(())
    for stage in plan.stages:
        datasets = " + ".join(spec.name for spec in stage.datasets)
        rows.append(
            (
                (" " + fitted(stage.name, 14), "strong"),
                (fitted(datasets, max(width - 39, 6)), ""),
                (f" ×{stage.epochs:<5g}", "dim"),
                (right(f"{rows_text(about_rows(stage))} rows", 16), "dim"),
            )
        )
    if math.isfinite(about.seconds):
        said = "as an earlier run of it took" if about.measured else "guessed by the device's speed"
        rows += [(), ((" time here  ", "label"), (roughly(about.seconds), "strong"), (f", {said}", "dim"))]
    return rows
