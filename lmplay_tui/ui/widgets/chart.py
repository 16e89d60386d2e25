"""A chart as rows of cells, in three steps, each above the one that needs it.

`raster` turns a line into braille dots, two by four a cell, with numpy: many times faster than point by point. `draw`
lays traces, marks, references and the cursor into axes and labels, which plotext makes. `ChartBuilder` chooses what a
run's chart holds: lines smoothed and not, points, a ghost, marks, and a title that reads the newest values.

numpy comes with this module: a first frame, which has no points yet, does not wait for it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len

from lmplay_tui.formats import format_elapsed, format_number
from lmplay_tui.run.metric_names import OF_STEPS, RECENT_LOSS, RECENT_STEPS, SMOOTHED
from lmplay_tui.run.series import (
    Floats,
    Points,
    in_bins,
    moving_mean,
    moving_mean_at,
    to_columns,
    value_range,
)
from lmplay_tui.run.view import Mark, RunView
from lmplay_tui.scales import LABEL_CELLS, column_of, log_ticks, rounded_range, tick_texts, ticks, time_ticks
from lmplay_tui.text import plain_signs
from lmplay_tui.ui.legend import CURVES, MARKS, VAL_SPAN, Sign
from lmplay_tui.ui.widgets.curve_window import CurveWindow, Group
from lmplay_tui.ui.widgets.lines import Piece, Row, fitted, row_width, spread

_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint8)
_HAIR = 1e-6  # of a dot: what lies between two falls on the same one, whatever the last bit of its float is
BRAILLE_SIGNS = np.array([chr(0x2800 + bits) for bits in range(256)])


def raster(  # noqa: PLR0917
    x: Floats, y: Floats, x_range: tuple[float, float], y_range: tuple[float, float], width: int, height: int
) -> NDArray[np.uint8]:
    """The line through the points, in `height` x `width` cells: each cell's braille dots as bits.

    `x` rises. All points of a dot column become one vertical stroke, so that no extreme is lost.
    """
    (first, last), (low, high) = x_range, y_range
    columns, rows = 2 * width, 4 * height
    inside = np.isfinite(x) & np.isfinite(y)
    column = np.rint((x[inside] - first) / (last - first) * (columns - 1)).astype(np.int64)
    values = y[inside]
    seen = (column >= 0) & (column < columns)
    if not seen.any():
        return np.zeros((height, width), np.uint8)
    least = np.full(columns, np.inf)
    greatest = np.full(columns, -np.inf)
    np.minimum.at(least, column[seen], values[seen])
    np.maximum.at(greatest, column[seen], values[seen])
    _join(least, greatest)
    scale = (rows - 1) / (high - low)
    top = np.clip(np.rint((high - greatest) * scale + _HAIR), 0, rows - 1)
    bottom = np.clip(np.rint((high - least) * scale + _HAIR), 0, rows - 1)
    row = np.arange(rows)[:, None]
    dots = (row >= top) & (row <= bottom) & np.isfinite(greatest)
    bits = dots.view(np.uint8).reshape(height, 4, columns) * np.tile(_BITS, width)
    by_column = np.bitwise_or.reduce(bits, axis=1)
    packed: NDArray[np.uint8] = by_column[:, 0::2] | by_column[:, 1::2]
    return packed


def _join(least: Floats, greatest: Floats) -> None:
    """Fill the columns between points along a straight line, and let neighbours touch; in place."""
    used = np.flatnonzero(np.isfinite(greatest))
    between = np.arange(used[0], used[-1] + 1)
    low = np.interp(between, used, least[used])
    high = np.interp(between, used, greatest[used])
    # Where a column lies wholly above or below its neighbour, both reach out to the middle of the gap.
    up = np.maximum(low[1:] - high[:-1], 0) / 2
    down = np.maximum(low[:-1] - high[1:], 0) / 2
    high[:-1] += up
    low[1:] -= up
    low[:-1] -= down
    high[1:] += down
    least[between], greatest[between] = low, high


_X_LABEL_CELLS = 14
_DISTANCE = 2  # cells between signs of what comes often
STYLES = ("", "ghost", "raw", "train", "val", "eval", "accent", "axis", "label", "dim", "good", "warn", "bad")
_COLOUR = re.compile(r"\x1b\[([0-9;]*)m")


@dataclass(frozen=True, eq=False)
class Trace:
    """A line or points to draw. `marker`: `line`, or the character of each point."""

    x: Floats
    y: Floats
    style: str
    marker: str = "line"


@dataclass(frozen=True)
class Note:
    """Something at an x: a sign below the axis and, where `line`, a dotted line through the chart.

    Where signs crowd, that of the lower `rank` stands, and those that come `often` keep their distance.
    """

    x: float
    sign: str
    style: str
    line: bool = False
    rank: int = 0
    often: bool = False


@dataclass(frozen=True, eq=False)
class Drawing:
    """What to draw. y values are already logarithms where `log`."""

    curves: Sequence[Trace]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log: bool = False
    time_axis: bool = False
    notes: Sequence[Note] = ()
    signs: bool = True
    references: Sequence[tuple[float, str]] = field(default=())  # y and its label
    cursor: float | None = None
    ascii_only: bool = False


def draw(chart: Drawing, width: int, height: int) -> list[Row]:
    """The chart in `height` rows: canvas, x axis with its labels, and a row of signs where there are notes."""
    canvas_width = width - LABEL_CELLS - 1
    sign_rows = 1 if chart.notes and chart.signs else 0
    plot_height = height - sign_rows
    if canvas_width < 8 or plot_height < 4:
        return []
    grid = _framed(chart, width, plot_height)
    canvas = grid.part(plot_height - 2, LABEL_CELLS + 1)
    _paint(canvas, chart)
    for y, label in chart.references:
        _lay_reference(canvas, chart.y_range, y, label)
    for note in chart.notes:
        if note.line:
            _lay_column(canvas, column_of(note.x, chart.x_range, canvas_width), "┊", "axis")
    if chart.cursor is not None:
        _lay_column(canvas, column_of(chart.cursor, chart.x_range, canvas_width), "│", "accent")
    return grid.rows() + (_note_signs(chart, canvas_width) if sign_rows else [])


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells as arrays of rows and columns: a character each, and the number of its style in `STYLES`."""

    signs: NDArray[np.str_]
    styles: NDArray[np.int8]

    @classmethod
    def blank(cls, height: int, width: int) -> "Grid":
        return cls(np.full((height, width), " "), np.zeros((height, width), np.int8))

    def copy(self) -> "Grid":
        return Grid(self.signs.copy(), self.styles.copy())

    def part(self, rows: int, first_column: int) -> "Grid":
        """The same cells above and right of there."""
        return Grid(self.signs[:rows, first_column:], self.styles[:rows, first_column:])

    def put(self, where: Any, signs: Any, style: str) -> None:
        self.signs[where] = signs
        self.styles[where] = STYLES.index(style)

    def rows(self) -> list[Row]:
        """As pieces of text: neighbours of one style are one; a blank belongs to what stands before it."""
        width = self.signs.shape[1]
        seen = np.where(self.signs == " ", 0, np.arange(width))
        styles = np.take_along_axis(self.styles, np.maximum.accumulate(seen, axis=1), axis=1)
        lines = self.signs.view(f"U{width}").ravel().tolist()  # what lies one behind the other is a string already
        return [
            _row(line, numbers, np.flatnonzero(changes).tolist())
            for line, numbers, changes in zip(lines, styles.tolist(), styles[:, 1:] != styles[:, :-1], strict=True)
        ]


def _row(line: str, styles: list[int], changes: list[int]) -> Row:
    """One row's pieces; `changes`: the last cell before each other style."""
    starts = [0, *(cell + 1 for cell in changes)]
    ends = [*starts[1:], len(line)]
    return tuple((line[start:end], STYLES[styles[start]]) for start, end in zip(starts, ends, strict=True))


def _framed(chart: Drawing, width: int, height: int) -> Grid:
    """Axes and labels, nothing drawn yet."""
    low, high = chart.y_range
    y_most, x_most = max((height - 2) // 2, 3), max((width - LABEL_CELLS) // _X_LABEL_CELLS, 2)
    if chart.log:
        values = log_ticks(10.0**low, 10.0**high, y_most)
        y_texts = [(math.log10(value), text) for value, text in tick_texts(values, format_number, LABEL_CELLS)]
    else:
        y_texts = tick_texts(ticks(low, high, y_most), format_number, LABEL_CELLS)
    x_ticks = time_ticks(*chart.x_range, x_most) if chart.time_axis else ticks(*chart.x_range, x_most, whole=True)
    form = format_elapsed if chart.time_axis else format_number
    return _frame(
        width, height, chart.x_range, chart.y_range,
        tuple(tick_texts(x_ticks, form, _X_LABEL_CELLS - 1)),
        tuple((y, text.rjust(LABEL_CELLS)) for y, text in y_texts) or ((low, " " * LABEL_CELLS),),
    ).copy()  # fmt: skip


Labels = tuple[tuple[float, str], ...]


@lru_cache(maxsize=64)
def _frame(  # noqa: PLR0917
    width: int, height: int, x_range: tuple[float, float], y_range: tuple[float, float], x_labels: Labels,
    y_labels: Labels,
) -> Grid:  # fmt: skip
    """plotext's axes, to be copied. They take ten times what the curves take, and change when a range does."""
    from textual_plotext.plot import Plot  # 50 ms at first use: not before the first frame

    plot: Any = Plot()
    plot._limit_size(False, False)  # it takes COLUMNS, or 80, for the width that there is
    plot._set_size(width, height)
    plot.plotsize(width, height)
    plot.theme("clear")
    plot.xaxes(True, False)
    plot.yaxes(True, False)
    plot.xlim(*x_range)
    plot.ylim(*y_range)
    plot.xticks([x for x, _ in x_labels], [label for _, label in x_labels])
    plot.yticks([y for y, _ in y_labels], [label for _, label in y_labels])
    plot.scatter([x_range[0]], [y_range[0]], marker=" ")
    grid = Grid.blank(height, width)
    for row, line in zip(grid.signs, _COLOUR.sub("", plot.build()).split("\n"), strict=False):
        row[: len(line)] = list(line[:width])
    grid.styles[:, :LABEL_CELLS] = grid.styles[-1] = STYLES.index("label")
    grid.styles[:-2, LABEL_CELLS] = grid.styles[-2] = STYLES.index("axis")
    return grid


def _paint(canvas: Grid, chart: Drawing) -> None:
    """The curves as dots of cells, later ones before earlier ones; points of their own before all lines."""
    height, width = canvas.signs.shape
    (first, last), (low, high) = chart.x_range, chart.y_range
    points = []
    for curve in chart.curves:
        if curve.marker == "line" and len(curve.x) > 1:
            dots = raster(curve.x, np.clip(curve.y, low, high), chart.x_range, chart.y_range, width, height)
            filled = dots > 0
            canvas.put(filled, _plain(curve.style) if chart.ascii_only else BRAILLE_SIGNS[dots[filled]], curve.style)
        else:
            points.append(curve)
    for curve in points:
        inside = np.isfinite(curve.y) & (curve.x >= first) & (curve.x <= last)
        columns = np.rint((curve.x[inside] - first) / (last - first) * (width - 1)).astype(np.int64)
        rows = np.rint((high - np.clip(curve.y[inside], low, high)) / (high - low) * (height - 1)).astype(np.int64)
        canvas.put((rows, columns), "●" if curve.marker == "line" else curve.marker, curve.style)


def _plain(style: str) -> str:
    """What a line is drawn with in ASCII: its legend's sign, or where that is of points, another between these."""
    return "-" if style in ("val", "eval") else plain_signs(CURVES[style].sign)


def _lay_reference(canvas: Grid, y_range: tuple[float, float], y: float, label: str) -> None:
    low, high = y_range
    if not low <= y <= high:
        return
    height, width = canvas.signs.shape
    row = min(round((high - y) / (high - low) * (height - 1)), height - 1)
    canvas.put((row, canvas.signs[row] == " "), "┄", "axis")
    start = width - len(label) - 1
    if start > width // 2 and _free(canvas.signs[row, start:]).all():
        canvas.put((row, slice(start, None)), list(label + " "), "dim")


def _lay_column(canvas: Grid, column: int | None, sign: str, style: str) -> None:
    if column is not None and column < canvas.signs.shape[1]:
        canvas.put((_free(canvas.signs[:, column]), column), sign, style)


def _free(signs: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Where neither a curve nor a mark stands."""
    free: NDArray[np.bool_] = (signs == " ") | (signs == "┄")
    return free


def _note_signs(chart: Drawing, canvas_width: int) -> list[Row]:
    """The signs below the axis, the most important first: each where one still has room."""
    grid = Grid.blank(1, LABEL_CELLS + 1 + canvas_width)
    taken = bytearray(canvas_width)
    for note in sorted(chart.notes, key=lambda note: note.rank):
        column = column_of(note.x, chart.x_range, canvas_width)
        if column is None:
            continue
        reach = _DISTANCE if note.often else 0
        if not any(taken[max(column - reach, 0) : column + reach + 1]):
            taken[column] = 1
            grid.put((0, LABEL_CELLS + 1 + column), note.sign, note.style)
    return grid.rows()


_RANKS = list(MARKS)
_UNKNOWN = Sign("·", "dim", "")  # of a journal that is newer than this program
_VAL_DOTS = 3  # columns that share a dot beside that line


def notes_of(places: Sequence[tuple[float, Mark]]) -> list[Note]:
    """The marks, at their places on the axis, as they are drawn."""
    notes = []
    for x, mark in places:
        sign = MARKS.get(mark.kind, _UNKNOWN)
        rank = _RANKS.index(mark.kind) if mark.kind in MARKS else len(_RANKS)
        line, often = mark.kind == "stage", mark.kind == "save"
        notes.append(Note(x, sign.sign, sign.style, line=line, rank=rank, often=often))
    return notes


@dataclass(frozen=True, eq=False)
class ChartBuilder:
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
        curves: list[Trace] = []
        legend: list[_Figure] = []
        if self.ghost is not None:
            self._add_ghost(*self.ghost, group.metrics[0], curves, legend)
        for metric in group.metrics:
            series = self.view.history.get(metric)
            if series is None or not len(series):
                continue
            look = _look(metric)
            points = series.points(self.window.axis)
            if look == "train":
                self._add_line(points, look, curves, self._span_of(metric))
            else:
                self._add_dots(points, look, curves)
            name = metric.split("/", maxsplit=1)[0] if len(group.metrics) > 1 else ""
            value = format_number(self._value(metric, points))
            legend.append(_Figure(CURVES[look].sign, look, name, value))
        return [
            _headline(group.title, legend, right, self.width, selected=selected, read=self.window.cursor is not None),
            *draw(self._assembled(group, curves, signs), self.width, height - 1),
        ]

    @property
    def _columns(self) -> int:
        return max(self.width - LABEL_CELLS - 1, 1)

    def _span_of(self, metric: str) -> int:
        """Over how many steps a metric is smoothed."""
        return self.window.span if metric in SMOOTHED else 1

    def _value(self, metric: str, points: Points) -> float:
        """What the legend says of a metric, at the cursor or now: as its line; where that is the run's train loss, the
        figure that all others show, and not what its points would make of it."""
        span, cursor = self._span_of(metric), self.window.cursor
        if metric == OF_STEPS and span == RECENT_STEPS and (recorded := self.view.history.get(RECENT_LOSS)):
            value = moving_mean_at(recorded.points(self.window.axis), 1, cursor)
            if math.isfinite(value):  # else a journal of an older version
                return value
        return moving_mean_at(points, span, cursor)

    def _add_line(self, points: Points, style: str, curves: list[Trace], span: float) -> None:
        """A line, smoothed; what was smoothed stands behind it."""
        first, last = self.x_range
        columns = 2 * self._columns
        if span > 1 and style != "ghost":
            curves.append(Trace(*to_columns(points, first, last, columns), "raw"))
        if span > 1:
            bins = in_bins(points, first, last, columns, span)
            curves.append(Trace(bins.x, moving_mean(bins, span), style))
        else:
            curves.append(Trace(*to_columns(points, first, last, columns), style))

    def _add_dots(self, points: Points, style: str, curves: list[Trace]) -> None:
        """A dot for each validation or evaluation; through those of many validations a line that is smoothed."""
        columns, sign = self._columns, CURVES[style].sign
        if style == "val" and self.window.span > 1 and len(points) > VAL_SPAN:
            bins = in_bins(points, *self.x_range, 2 * columns, VAL_SPAN)
            curves.append(Trace(bins.x, moving_mean(bins, VAL_SPAN), style))
            columns = max(columns // _VAL_DOTS, 1)
        curves.append(Trace(*_dots(points, *self.x_range, columns), style, sign))

    def _add_ghost(self, name: str, ghost: RunView, metric: str, curves: list[Trace], legend: "list[_Figure]") -> None:
        """The earlier run's metric, and how far we are from it at the same place."""
        theirs, ours = ghost.history.get(metric), self.view.history.get(metric)
        if theirs is None or not len(theirs):
            return
        points = theirs.points(self.window.axis)
        span = max(self._span_of(metric), RECENT_STEPS if metric in SMOOTHED else 1)  # raw lines hide one another
        self._add_line(points, "ghost", curves, span)
        own = ours.points(self.window.axis) if ours is not None else None
        sign = CURVES["ghost"].sign
        if own is None or not len(own):
            legend.append(_Figure(sign, "ghost", name, ""))
            return
        x = float(own.x[-1]) if self.window.cursor is None else self.window.cursor
        difference = moving_mean_at(own, span, x) - moving_mean_at(points, span, x)
        legend.append(_Figure(sign, "ghost", name, f"{difference:+.3f}" if math.isfinite(difference) else ""))

    def _assembled(self, group: Group, curves: list[Trace], signs: bool) -> Drawing:
        log = self.window.log
        if log:
            curves = [_logarithm(curve) for curve in curves]
        span = value_range(curve.y[np.isfinite(curve.y)] for curve in curves)
        references = []
        stage = self.view.stage
        if group.title == "loss" and stage is not None and stage.unigram_entropy > 0:
            entropy = math.log10(stage.unigram_entropy) if log else stage.unigram_entropy
            references.append((entropy, "token counts alone"))
        bounds = (-math.inf, math.inf)
        if span and not log and span[0] >= 0:
            bounds = (0.0, 1.0 if group.is_share and span[1] <= 1 else math.inf)
        return Drawing(
            curves, self.x_range, rounded_range(*span, bounds) if span else (0.0, 1.0), log=log,
            time_axis=self.window.axis == "time", notes=self.notes, signs=signs, references=references,
            cursor=self.window.cursor, ascii_only=self.ascii_only,
        )  # fmt: skip


class _Figure(NamedTuple):
    """A curve in the headline: its sign, a word for it, and its newest value."""

    sign: str
    style: str
    word: str
    value: str


def _headline(
    title: str, legend: Sequence[_Figure], right: Sequence[Piece], width: int, *, selected: bool, read: bool
) -> Row:
    """The title, each curve's newest value, and `right`, which stays where the cursor is `read`.

    Where room is short words are cut before any figure.
    """
    for words, most, end in (
        (True, 16, right), (False, 16, right), (False, 8, right), (False, 5, right), (False, 0, right),
        (False, 0, right if read else ()),
    ):  # fmt: skip
        room = width - row_width(end) - 4
        figures: list[Piece] = []
        for sign, style, word, value in legend:
            if value or most:
                figures.append((f"{sign} ", style))
            if word and (words or style == "ghost") and most:
                figures.append((f"{fitted(word, min(cell_len(word), most))} ", "dim"))
            if value:
                figures.append((f"{value}  ", style))
        title_cells = min(cell_len(title), max(room - row_width(figures), 3))
        if title_cells == cell_len(title) or (not most and title_cells + row_width(figures) <= room):
            break
    head: list[Piece] = [("▸ " if selected else "  ", "accent"), (fitted(title, title_cells), "strong"), ("  ", "")]
    return spread([*head, *figures], end, width)


def _look(metric: str) -> str:
    """Which of `CURVES` it is drawn as."""
    split = metric.split("/", maxsplit=1)[0]
    return split if split in ("val", "eval") else "train"


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


def _logarithm(curve: Trace) -> Trace:
    positive = curve.y > 0
    return Trace(curve.x[positive], np.log10(curve.y[positive]), curve.style, curve.marker)
