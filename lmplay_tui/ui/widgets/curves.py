"""The curves: every metric of the run, with marks, a cursor, and an earlier run as a ghost."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from rich.cells import cell_len
from textual import events
from textual.actions import SkipAction
from textual.binding import Binding, BindingType

from lmplay_tui.run.history import Points, in_bins, smoothed, smoothed_at, to_columns, value_range
from lmplay_tui.run.view import RunView
from lmplay_tui.run.view_parts import Mark
from lmplay_tui.text import one_line
from lmplay_tui.ui.widgets.curve_window import CurveWindow, Group, groups_of
from lmplay_tui.ui.widgets.drawing import (
    LABEL_CELLS,
    Chart,
    Curve,
    Note,
    draw,
    rounded_range,
    short_number,
    short_time,
    x_of,
)
from lmplay_tui.ui.widgets.lines import Lines, Piece, Row, fitted, row_width, spread
from lmplay_tui.ui.widgets.titles import set_titles

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


@dataclass(frozen=True, eq=False)
class Ghost:
    """An earlier run to compare with."""

    name: str
    view: RunView


class Curves(Lines):
    """As many charts as fit, the chosen one first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "sideways(-1)", "metric", key_display="←→", tooltip="the chart before, or a step back"),
        Binding("right", "sideways(1)", "metric", show=False, tooltip="the next chart, or a step on"),
        Binding("up", "view(1)", "view", key_display="↑↓", tooltip="full, this stage, recent"),
        Binding("down", "view(-1)", "view", show=False, tooltip="recent, this stage, full"),
        Binding("plus,equals_sign", "zoom(1)", "zoom", key_display="+/-", tooltip="zoom in"),
        Binding("minus", "zoom(-1)", "zoom out", show=False),
        Binding("shift+left,comma", "pan(1)", "earlier", show=False, tooltip="look earlier"),
        Binding("shift+right,full_stop", "pan(-1)", "later", show=False, tooltip="look later"),
        Binding("y", "log_scale", "log", tooltip="logarithmic scale"),
        Binding("m", "smoothing", "smooth", tooltip="smoothing"),
        Binding("enter", "cursor", "cursor", tooltip="cursor: read the values"),
        Binding("a", "axis", "x axis", tooltip="x axis: step, rows, tokens, time"),
        Binding("left_square_bracket", "event(-1)", "event", key_display="[ ]", tooltip="the event before"),
        Binding("right_square_bracket", "event(1)", "next event", show=False),
        Binding("escape", "leave_cursor", "back", show=False, tooltip="put the cursor away"),
    ]

    def __init__(self, *, ascii_only: bool = False) -> None:
        super().__init__(id="curves", classes="pane")
        set_titles(self, "2 curves")
        self.window = CurveWindow()
        self._ascii_only = ascii_only
        self._view: RunView | None = None
        self._ghost: Ghost | None = None
        self._drawn: tuple[object, ...] = ()
        self._x_range = (0.0, 1.0)
        self._chart_width = 0
        self._num_charts = 1
        self._mark: Mark | None = None  # the one at the cursor
        self._notes: list[Note] = []
        self._signs = True  # below the chart that is being drawn

    # ---- data

    def show(self, view: RunView, ghost: Ghost | None = None) -> None:
        """Draw what has changed since the last call."""
        self._view, self._ghost = view, ghost
        signature = (
            view,
            view.history.version,
            len(view.marks),
            ghost,
            ghost and ghost.view.history.version,
            self.size,
        )
        if signature != self._drawn:
            self._drawn = signature
            self._redraw()

    def filter(self, pattern: str) -> None:
        """Show only the charts whose names hold these words."""
        self.window.pattern = pattern
        self.window.selected = 0
        self._redraw()

    def on_resize(self) -> None:
        self._redraw()

    # ---- drawing

    def _redraw(self) -> None:
        view = self._view
        width, height = self.size
        if view is None or width < 20 or height < 4:
            return
        self._titles()
        groups = groups_of(view.history.series, self.window.pattern)
        if not view.history.series:
            self.show_rows([((" the first step draws the first point", "dim"),)])
            return
        if not groups:
            self.show_rows([((f" no metric matches {self.window.pattern}; / to change the filter", "dim"),)])
            return
        self.window.selected = min(self.window.selected, len(groups) - 1)
        self._x_range = self.window.x_range(view)
        self._notes = self._notes_of(view)
        columns = 2 if width >= 130 else 1
        down = max(min(height // 11, 4), 1)
        self._num_charts = columns * down
        shown = self._shown(groups, columns * down)
        if len(shown) <= down:
            columns = 1
        self._chart_width = (width - (columns - 1) * 2) // columns
        rows: list[Row] = []
        for line in range(down):
            cells = shown[line * columns : (line + 1) * columns]
            if cells:
                chart_height = height * (line + 1) // down - height * line // down
                self._signs = line == down - 1 or (line + 1) * columns >= len(shown)
                rows += _beside([self._chart(view, g, groups, chart_height) for g in cells], self._chart_width)
        self.show_rows(rows)

    def _shown(self, groups: list[Group], count: int) -> list[Group]:
        """The chosen chart and those after it; at the list's end those before it, so that the room is used."""
        start = min(self.window.selected, max(len(groups) - count, 0))
        return groups[start : start + count]

    def _titles(self) -> None:
        window = self.window
        words = [window.view, f"by {window.axis}"]
        if window.zoom:
            words.append(f"zoom ×{2**window.zoom}")
        if window.log:
            words.append("log")
        words.append(f"smoothed over {window.span}" if window.span > 1 else "not smoothed")
        if window.pattern:
            words.append(f"/{one_line(window.pattern, 40)}")
        set_titles(self, subtitle=" · ".join(words))

    def _chart(self, view: RunView, group: Group, groups: list[Group], height: int) -> list[Row]:
        curves: list[Curve] = []
        legend: list[Piece] = []
        selected = groups.index(group) == self.window.selected and len(groups) > 1
        first, last = self._x_range
        columns = max(self._chart_width - LABEL_CELLS - 1, 1)
        if self._ghost is not None:
            self._add_ghost(self._ghost, view, group.metrics[0], curves, legend)
        for metric in group.metrics:
            series = view.history.get(metric)
            if series is None or not len(series):
                continue
            style, sign = self._look(metric, group)
            points = series.points(self.window.axis)
            if sign == "━":
                self._add_line(points, style, columns, curves)
            else:
                curves.append(Curve(*_dots(points, first, last, columns), style, sign))
            name = f"{metric.split('/', maxsplit=1)[0]} " if len(group.metrics) > 1 else ""
            value = smoothed_at(points, self.window.span if sign == "━" else 1, self.window.cursor)
            legend += [(f"{sign} ", style), (name, "dim"), (f"{short_number(value)}  ", style)]
        chart = self._assembled(view, group, curves)
        title: list[Piece] = [("▸ " if selected else "  ", "accent"), (group.title, "strong"), ("  ", ""), *legend]
        return [
            spread(title, self._at_cursor(view, group, groups), self._chart_width),
            *draw(chart, self._chart_width, height - 1),
        ]

    def _places(self, view: RunView) -> list[tuple[float, Mark]]:
        """The marks and where they lie on the axis, in that order."""
        marks = list(view.marks)
        xs = view.history.locate_all([mark.step for mark in marks], self.window.axis)
        return sorted(((x, mark) for x, mark in zip(xs, marks, strict=True) if math.isfinite(x)), key=lambda p: p[0])

    def _notes_of(self, view: RunView) -> list[Note]:
        notes = []
        for x, mark in self._places(view):
            sign, style, line = MARKS.get(mark.kind, ("·", "dim", False))
            notes.append(Note(x, sign, style, line))
        return notes

    @staticmethod
    def _look(metric: str, group: Group) -> tuple[str, str]:
        split = metric.split("/", maxsplit=1)[0]
        if len(group.metrics) == 1 and split not in ("val", "eval"):
            return "train", "━"
        return (split, _LEGEND[split]) if split in _LEGEND else ("train", "━")

    def _add_line(self, points: Points, style: str, columns: int, curves: list[Curve], span: float = 0) -> None:
        """A line, smoothed; what was smoothed stands behind it."""
        span = span or self.window.span
        first, last = self._x_range
        if span > 1 and style != "ghost":
            curves.append(Curve(*to_columns(points, first, last, 2 * columns), "raw"))
        if span > 1:
            bins = in_bins(points, first, last, 2 * columns, span)
            curves.append(Curve(bins.x, smoothed(bins, span), style))
        else:
            curves.append(Curve(*to_columns(points, first, last, 2 * columns), style))

    def _add_ghost(self, ghost: Ghost, view: RunView, metric: str, curves: list[Curve], legend: list[Piece]) -> None:
        """The earlier run's metric, and how far we are from it at the same place."""
        columns = max(self._chart_width - LABEL_CELLS - 1, 1)
        theirs, ours = ghost.view.history.get(metric), view.history.get(metric)
        if theirs is None or not len(theirs):
            return
        points = theirs.points(self.window.axis)
        span = max(self.window.span, 20)
        self._add_line(points, "ghost", columns, curves, span)
        name = f"┈ {fitted(ghost.name, min(len(ghost.name), 16))}"
        own = ours.points(self.window.axis) if ours is not None else None
        if own is None or not len(own):
            return
        x = float(own.x[-1]) if self.window.cursor is None else self.window.cursor
        difference = smoothed_at(own, span, x) - smoothed_at(points, span, x)
        legend.append((f"{name} {difference:+.3f}  " if math.isfinite(difference) else f"{name}  ", "ghost"))

    def _assembled(self, view: RunView, group: Group, curves: list[Curve]) -> Chart:
        log = self.window.log
        if log:
            curves = [_logarithm(curve) for curve in curves]
        span = value_range(curve.y[np.isfinite(curve.y)] for curve in curves)
        references = []
        stage = view.stage
        if group.title == "loss" and stage is not None and stage.unigram_entropy > 0:
            entropy = math.log10(stage.unigram_entropy) if log else stage.unigram_entropy
            references.append((entropy, "unigram entropy"))
        return Chart(
            curves, self._x_range, rounded_range(*span) if span else (0.0, 1.0), log=log,
            time_axis=self.window.axis == "time", notes=self._notes, signs=self._signs, references=references,
            cursor=self.window.cursor, ascii_only=self._ascii_only,
        )  # fmt: skip

    def _at_cursor(self, view: RunView, group: Group, groups: list[Group]) -> list[Piece]:
        x = self.window.cursor
        if x is None:
            position = f" {groups.index(group) + 1}/{len(groups)} " if len(groups) > self._num_charts else ""
            return [(position, "dim")]
        where = short_time(x) if self.window.axis == "time" else f"{x:,.0f}"
        text = f"{self.window.axis} {where}"
        if self._mark is not None:
            room = max(self._chart_width * 3 // 4 - len(text), 12)  # the title and its newest value stay
            text = f"{fitted(self._mark.text, min(cell_len(self._mark.text), room))} · {text}"
        return [(f" {text} ", "accent")]

    # ---- keys

    def action_sideways(self, by: int) -> None:
        view = self._view
        if view is None:
            return
        if self.window.cursor is None:
            count = len(groups_of(view.history.series, self.window.pattern))
            self.window.selected = (self.window.selected + by) % max(count, 1)
        else:
            first, last = self._x_range
            step = (last - first) / max(self._chart_width - LABEL_CELLS - 2, 1)
            self._set_cursor(min(max(self.window.cursor + by * step, first), last))
        self._redraw()

    def action_view(self, by: int) -> None:
        self.window.next_view(by)
        self._redraw()

    def action_zoom(self, by: int) -> None:
        self.window.zoom = min(max(self.window.zoom + by, 0), 12)
        if not self.window.zoom:
            self.window.pan = 0.0
        self._redraw()

    def action_pan(self, by: int) -> None:
        self.window.pan = min(max(self.window.pan + by * 0.25, 0.0), 2.0**self.window.zoom)
        self._redraw()

    def action_log_scale(self) -> None:
        self.window.log = not self.window.log
        self._redraw()

    def action_smoothing(self) -> None:
        self.window.next_span()
        self._redraw()

    def action_axis(self) -> None:
        if self._view is not None:
            self.window.next_axis(self._view)
            self._redraw()

    def action_cursor(self) -> None:
        """Put the cursor at the newest point, or take it away."""
        if self.window.cursor is not None:
            self.action_leave_cursor()
        elif self._view is not None:
            self._set_cursor(min(self.window.now(self._view), self._x_range[1]))
            self._redraw()

    def action_leave_cursor(self) -> None:
        if self.window.cursor is None:
            raise SkipAction  # the screen's own way back
        self.window.cursor = self._mark = None
        self._redraw()

    def action_event(self, by: int) -> None:
        """Put the cursor at the next mark."""
        view = self._view
        if view is None:
            return
        places = self._places(view)
        if not places:
            return
        current = next((n for n, (_, mark) in enumerate(places) if mark is self._mark), None)
        if current is None:
            x = self.window.cursor if self.window.cursor is not None else math.inf
            before = sum(1 for place in places if place[0] < x)
            chosen = before - 1 if by < 0 else before
        else:
            chosen = current + by
        x, self._mark = places[min(max(chosen, 0), len(places) - 1)]
        self.window.cursor = x
        first, last = self._x_range
        if not first <= x <= last:
            self.window.view, self.window.zoom, self.window.pan = "full", 0, 0.0
        self._redraw()

    def _set_cursor(self, x: float) -> None:
        self.window.cursor, self._mark = x, None

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where the mouse is."""
        if self._chart_width:
            offset = event.get_content_offset(self)
            if offset is not None:
                column = offset.x % (self._chart_width + 2) - LABEL_CELLS - 1
                self._set_cursor(x_of(column, self._x_range, self._chart_width - LABEL_CELLS - 1))
                self._redraw()


def _dots(points: Points, first: float, last: float, columns: int) -> tuple[np.ndarray, np.ndarray]:
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


def _beside(charts: list[list[Row]], width: int) -> list[Row]:
    """Charts side by side."""
    if len(charts) == 1:
        return charts[0]
    rows = []
    for y in range(max(len(chart) for chart in charts)):
        row: list[Piece] = []
        for chart in charts:
            part = chart[y] if y < len(chart) else ()
            if row:
                row.append(("  ", ""))
            row += [*part, (" " * (width - row_width(part)), "")]
        rows.append(tuple(row))
    return rows
