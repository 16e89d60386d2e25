"""What a run's charts hold: lines smoothed and not, points, a ghost, marks, and a title that reads the newest values.

It calculates with numpy, for which a first frame, that has no points yet, does not wait.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmplay_tui.run.reducing import in_bins, smoothed, smoothed_at, to_columns, value_range
from lmplay_tui.run.series import Floats, Points
from lmplay_tui.run.view import RunView
from lmplay_tui.run.view_parts import Mark
from lmplay_tui.ui.widgets.curve_window import CurveWindow, Group
from lmplay_tui.ui.widgets.drawing import Chart, Curve, Note, draw
from lmplay_tui.ui.widgets.lines import Piece, Row, fitted, spread
from lmplay_tui.ui.widgets.scales import LABEL_CELLS, rounded_range, short_number

MARKS = {  # kind -> sign below the axis, style, whether a line is drawn through the chart
    "stage": ("▶", "accent", True),
    "save": ("▪", "dim", False),
    "lr": ("λ", "warn", False),
    "plan": ("✎", "accent", False),
    "resume": ("↻", "dim", False),
    "warning": ("!", "warn", False),
    "spike": ("▲", "bad", False),
    "bookmark": ("⚑", "good", False),
}
_LEGEND = {"train": "━", "val": "•", "eval": "◆"}
_GHOST_SPAN = 20  # values: two lines that are not smoothed hide one another


def notes_of(places: Sequence[tuple[float, Mark]]) -> list[Note]:
    """The marks, at their places on the axis, as they are drawn."""
    notes = []
    for x, mark in places:
        sign, style, line = MARKS.get(mark.kind, ("·", "dim", False))
        notes.append(Note(x, sign, style, line))
    return notes


@dataclass(frozen=True, eq=False)
class Charts:
    """Makes the charts of one picture: they share the run, the axis with its marks, and their width."""

    view: RunView
    window: CurveWindow
    x_range: tuple[float, float]
    width: int
    notes: Sequence[Note]
    ghost: tuple[str, RunView] | None = None  # an earlier run's name, and the run
    ascii_only: bool = False

    def rows(self, group: Group, height: int, *, selected: bool, signs: bool, right: Sequence[Piece]) -> list[Row]:
        """A title, which ends with `right`, and the chart. `signs`: those of the marks, below it."""
        curves: list[Curve] = []
        legend: list[Piece] = []
        if self.ghost is not None:
            self._add_ghost(*self.ghost, group.metrics[0], curves, legend)
        for metric in group.metrics:
            series = self.view.history.get(metric)
            if series is None or not len(series):
                continue
            style, sign = _look(metric, group)
            points = series.points(self.window.axis)
            if sign == "━":
                self._add_line(points, style, curves)
            else:
                curves.append(Curve(*_dots(points, *self.x_range, self._columns), style, sign))
            name = f"{metric.split('/', maxsplit=1)[0]} " if len(group.metrics) > 1 else ""
            value = smoothed_at(points, self.window.span if sign == "━" else 1, self.window.cursor)
            legend += [(f"{sign} ", style), (name, "dim"), (f"{short_number(value)}  ", style)]
        title: list[Piece] = [("▸ " if selected else "  ", "accent"), (group.title, "strong"), ("  ", ""), *legend]
        return [
            spread(title, right, self.width),
            *draw(self._assembled(group, curves, signs), self.width, height - 1),
        ]

    @property
    def _columns(self) -> int:
        return max(self.width - LABEL_CELLS - 1, 1)

    def _add_line(self, points: Points, style: str, curves: list[Curve], span: float = 0) -> None:
        """A line, smoothed; what was smoothed stands behind it."""
        span = span or self.window.span
        first, last = self.x_range
        columns = 2 * self._columns
        if span > 1 and style != "ghost":
            curves.append(Curve(*to_columns(points, first, last, columns), "raw"))
        if span > 1:
            bins = in_bins(points, first, last, columns, span)
            curves.append(Curve(bins.x, smoothed(bins, span), style))
        else:
            curves.append(Curve(*to_columns(points, first, last, columns), style))

    def _add_ghost(self, name: str, ghost: RunView, metric: str, curves: list[Curve], legend: list[Piece]) -> None:
        """The earlier run's metric, and how far we are from it at the same place."""
        theirs, ours = ghost.history.get(metric), self.view.history.get(metric)
        if theirs is None or not len(theirs):
            return
        points = theirs.points(self.window.axis)
        span = max(self.window.span, _GHOST_SPAN)
        self._add_line(points, "ghost", curves, span)
        name = f"┈ {fitted(name, min(len(name), 16))}"
        own = ours.points(self.window.axis) if ours is not None else None
        if own is None or not len(own):
            return
        x = float(own.x[-1]) if self.window.cursor is None else self.window.cursor
        difference = smoothed_at(own, span, x) - smoothed_at(points, span, x)
        legend.append((f"{name} {difference:+.3f}  " if math.isfinite(difference) else f"{name}  ", "ghost"))

    def _assembled(self, group: Group, curves: list[Curve], signs: bool) -> Chart:
        log = self.window.log
        if log:
            curves = [_logarithm(curve) for curve in curves]
        span = value_range(curve.y[np.isfinite(curve.y)] for curve in curves)
        references = []
        stage = self.view.stage
        if group.title == "loss" and stage is not None and stage.unigram_entropy > 0:
            entropy = math.log10(stage.unigram_entropy) if log else stage.unigram_entropy
            references.append((entropy, "unigram entropy"))
        return Chart(
            curves, self.x_range, rounded_range(*span) if span else (0.0, 1.0), log=log,
            time_axis=self.window.axis == "time", notes=self.notes, signs=signs, references=references,
            cursor=self.window.cursor, ascii_only=self.ascii_only,
        )  # fmt: skip


def _look(metric: str, group: Group) -> tuple[str, str]:
    split = metric.split("/", maxsplit=1)[0]
    if len(group.metrics) == 1 and split not in ("val", "eval"):
        return "train", "━"
    return (split, _LEGEND[split]) if split in _LEGEND else ("train", "━")


def _dots(points: Points, first: float, last: float, columns: int) -> tuple[Floats, Floats]:
    """One point a column, the mean of what lies there."""
    part = points.between(first, last)
    if not len(part) or last <= first:
        return np.empty(0), np.empty(0)
    inside = (part.x >= first) & (part.x <= last)
    x, mean, count = part.x[inside], part.mean[inside], part.count[inside]
    column = np.minimum(((x - first) / (last - first) * columns).astype(np.int64), columns - 1)
    weight = np.bincount(column, count, minlength=columns)
    used = np.flatnonzero(weight)
    return (
        np.bincount(column, x * count, minlength=columns)[used] / weight[used],
        np.bincount(column, mean * count, minlength=columns)[used] / weight[used],
    )


def _logarithm(curve: Curve) -> Curve:
    positive = curve.y > 0
    return Curve(curve.x[positive], np.log10(curve.y[positive]), curve.style, curve.marker)
