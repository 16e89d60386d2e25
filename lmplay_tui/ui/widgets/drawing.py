"""A chart as rows of cells: plotext makes axes and labels; curves, marks, references and cursor are laid into it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmplay_tui.run.series import Floats
from lmplay_tui.ui.widgets.lines import Row
from lmplay_tui.ui.widgets.raster import BRAILLE_SIGNS, raster
from lmplay_tui.ui.widgets.scales import LABEL_CELLS, column_of, short_number, short_time, ticks

STYLES = ("", "ghost", "raw", "train", "val", "eval", "accent", "axis", "label", "dim", "good", "warn", "bad")
_COLOUR = re.compile(r"\x1b\[([0-9;]*)m")


@dataclass(frozen=True, eq=False)
class Curve:
    """Points to draw. `marker`: `line`, or the character of each point."""

    x: Floats
    y: Floats
    style: str
    marker: str = "line"


@dataclass(frozen=True)
class Note:
    """Something at an x: a sign below the axis and, where `line`, a dotted line through the chart."""

    x: float
    sign: str
    style: str
    line: bool = False


@dataclass(frozen=True, eq=False)
class Chart:
    """What to draw. y values are already logarithms where `log`."""

    curves: Sequence[Curve]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log: bool = False
    time_axis: bool = False
    notes: Sequence[Note] = ()
    signs: bool = True
    references: Sequence[tuple[float, str]] = field(default=())  # y and its label
    cursor: float | None = None
    ascii_only: bool = False


def draw(chart: Chart, width: int, height: int) -> list[Row]:
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


def _framed(chart: Chart, width: int, height: int) -> Grid:
    """Axes and labels, nothing drawn yet."""
    low, high = chart.y_range
    first, last = chart.x_range
    y_ticks = ticks(low, high, max((height - 2) // 2, 3)) or [low]
    x_ticks = ticks(first, last, max((width - LABEL_CELLS) // 14, 2), whole=not chart.time_axis)
    return _frame(
        width, height, chart.x_range, chart.y_range,
        tuple((x, short_time(x) if chart.time_axis else short_number(x)) for x in x_ticks),
        tuple((y, _y_label(y, chart.log).rjust(LABEL_CELLS)) for y in y_ticks),
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


def _paint(canvas: Grid, chart: Chart) -> None:
    """The curves as dots of cells, later ones before earlier ones; points of their own before all lines."""
    height, width = canvas.signs.shape
    (first, last), (low, high) = chart.x_range, chart.y_range
    points = []
    for curve in chart.curves:
        if curve.marker == "line" and len(curve.x) > 1:
            dots = raster(curve.x, np.clip(curve.y, low, high), chart.x_range, chart.y_range, width, height)
            filled = dots > 0
            canvas.put(filled, "*" if chart.ascii_only else BRAILLE_SIGNS[dots[filled]], curve.style)
        else:
            points.append(curve)
    for curve in points:
        inside = np.isfinite(curve.y) & (curve.x >= first) & (curve.x <= last)
        columns = np.rint((curve.x[inside] - first) / (last - first) * (width - 1)).astype(np.int64)
        rows = np.rint((high - np.clip(curve.y[inside], low, high)) / (high - low) * (height - 1)).astype(np.int64)
        canvas.put((rows, columns), "●" if curve.marker == "line" else curve.marker, curve.style)


def _y_label(value: float, log: bool) -> str:
    return short_number(float(10.0**value) if log else value)


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


def _note_signs(chart: Chart, canvas_width: int) -> list[Row]:
    grid = Grid.blank(1, LABEL_CELLS + 1 + canvas_width)
    for note in chart.notes:
        column = column_of(note.x, chart.x_range, canvas_width)
        if column is not None:
            grid.put((0, LABEL_CELLS + 1 + column), note.sign, note.style)
    return grid.rows()
