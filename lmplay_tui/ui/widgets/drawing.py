"""A chart as rows of cells: plotext draws lines and axes, we lay marks, references and the cursor over them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmplay_tui.run.history import Floats
from lmplay_tui.ui.widgets.lines import Piece, Row
from lmplay_tui.ui.widgets.raster import BRAILLE, raster

LABEL_CELLS = 7  # y labels; the axis follows them

Cell = tuple[str, str]

_STYLES = ("", "ghost", "raw", "train", "val", "eval", "accent")  # plotext's colour numbers stand for these, from 1
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


def nice_step(span: float, parts: int) -> float:
    """The step of 1, 2, 2.5 or 5 times a power of ten that cuts `span` into at most about `parts`."""
    if not span > 0 or not math.isfinite(span):
        return 1.0
    rough = span / max(parts, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 2.5, 5, 10):
        if factor * power >= rough * 0.999:
            return factor * power
    return 10 * power


def ticks(low: float, high: float, parts: int, *, whole: bool = False) -> list[float]:
    """At most about `parts` round numbers from `low` to `high`; `whole`: of things that are counted."""
    step = nice_step(high - low, parts)
    if whole and step != int(step):
        step = 5.0 if step > 2 else 1.0
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, min(last, first + 50) + 1)]


def short_number(value: float) -> str:
    """A number in at most seven characters."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if size == 0:
        return "0"
    for scale, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if size >= scale:
            number = value / (scale if unit != "k" else 1e3)
            return f"{number:.4g}{unit}" if abs(number) < 1e4 else f"{number:.1e}"
    if size >= 1e-3:
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"
    return f"{value:.1e}".replace("e-0", "e-")


def short_time(seconds: float) -> str:
    """Seconds of training as an axis says them: `45s`, `3m20`, `2h05`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}" if whole % 60 else f"{whole // 60}m"
    if whole < 48 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}" if whole % 3600 >= 60 else f"{whole // 3600}h"
    return f"{whole / 86400:.3g}d"


def rounded_up(value: float) -> float:
    """A little above `value`, at few places: the axis seldom moves while a run grows."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    for factor in (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.4, 8, 10):
        if value <= factor * power * (1 + 1e-9):
            return float(factor * power)
    return 10 * power


def rounded_range(low: float, high: float) -> tuple[float, float]:
    """A range around the values whose ends seldom move."""
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
        pad = abs(high) * 0.1 or 1.0
        return low - pad, high + pad
    step = nice_step(high - low, 10)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def draw(chart: Chart, width: int, height: int) -> list[Row]:
    """The chart in `height` rows: canvas, x axis with its labels, and a row of signs where there are notes."""
    canvas_width = width - LABEL_CELLS - 1
    sign_rows = 1 if chart.notes and chart.signs else 0
    plot_height = height - sign_rows
    if canvas_width < 8 or plot_height < 4:
        return []
    grid = _plotted(chart, width, plot_height)
    canvas_height = plot_height - 2
    _lay_over(grid, chart, canvas_width, canvas_height)
    rows = [_row(cells) for cells in grid]
    if sign_rows:
        rows.append(_signs(chart, canvas_width))
    return rows


def _plotted(chart: Chart, width: int, height: int) -> list[list[Cell]]:
    from textual_plotext.plot import Plot  # 50 ms at first use: not before the first frame

    low, high = chart.y_range
    first, last = chart.x_range
    plot: Any = Plot()
    plot._limit_size(False, False)  # it takes COLUMNS, or 80, for the width that there is
    plot._set_size(width, height)
    plot.plotsize(width, height)
    plot.theme("clear")
    plot.xaxes(True, False)
    plot.yaxes(True, False)
    plot.xlim(first, last)
    plot.ylim(low, high)
    y_ticks = ticks(low, high, max((height - 2) // 2, 3))
    plot.yticks(y_ticks, [_y_label(y, chart.log).rjust(LABEL_CELLS) for y in y_ticks])
    x_ticks = ticks(first, last, max((width - LABEL_CELLS) // 14, 2), whole=not chart.time_axis)
    plot.xticks(x_ticks, [short_time(x) if chart.time_axis else short_number(x) for x in x_ticks])
    if not y_ticks:
        plot.yticks([low], [_y_label(low, chart.log).rjust(LABEL_CELLS)])
    columns, rows, markers, colours = _painted(chart, width - LABEL_CELLS - 1, height - 2)
    if columns:
        # plotext puts each sign into the cell of its x and y: the middle of that cell is sure to be inside.
        xs = [first + column * (last - first) / (width - LABEL_CELLS - 2) for column in columns]
        ys = [high - row * (high - low) / (height - 3) for row in rows]
        plot.scatter(xs, ys, marker=markers, color=colours)
    else:
        plot.scatter([first], [low], marker=" ")
    return _cells(plot.build(), width, height)


def _painted(chart: Chart, width: int, height: int) -> tuple[list[int], list[int], list[str], list[int]]:
    """Column, row, sign and colour of each cell that the curves fill; later curves stand before earlier ones."""
    bits = np.zeros((height, width), np.uint8)
    style = np.zeros((height, width), np.int64)
    points: dict[tuple[int, int], tuple[str, int]] = {}
    (first, last), (low, high) = chart.x_range, chart.y_range
    for curve in chart.curves:
        colour = _STYLES.index(curve.style)
        if curve.marker == "line" and len(curve.x) > 1:
            dots = raster(curve.x, np.clip(curve.y, low, high), chart.x_range, chart.y_range, width, height)
            bits[dots > 0] = dots[dots > 0]
            style[dots > 0] = colour
            continue
        inside = np.isfinite(curve.y) & (curve.x >= first) & (curve.x <= last)
        columns = np.rint((curve.x[inside] - first) / (last - first) * (width - 1)).astype(np.int64)
        rows = np.rint((high - np.clip(curve.y[inside], low, high)) / (high - low) * (height - 1)).astype(np.int64)
        sign = "●" if curve.marker == "line" else curve.marker
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            points[row, column] = (sign, colour)
    filled = [(r, c) for r, c in np.argwhere(bits > 0).tolist() if (r, c) not in points]
    signs = [chr(BRAILLE + int(bits[r, c])) for r, c in filled] if not chart.ascii_only else ["*"] * len(filled)
    return (
        [c for _, c in filled] + [c for _, c in points],
        [r for r, _ in filled] + [r for r, _ in points],
        signs + [sign for sign, _ in points.values()],
        [int(style[r, c]) for r, c in filled] + [colour for _, colour in points.values()],
    )


def _y_label(value: float, log: bool) -> str:
    return short_number(float(10.0**value) if log else value)


def _cells(built: str, width: int, height: int) -> list[list[Cell]]:
    """plotext's text with its colour codes as a grid of cells."""
    grid = []
    for line in built.split("\n")[:height]:
        cells: list[Cell] = []
        style = ""
        pieces = _COLOUR.split(line)
        for i, piece in enumerate(pieces):
            if i % 2:
                code = piece.rsplit(";", 1)[-1]
                style = _STYLES[int(code)] if piece.startswith("38;5;") and int(code) < len(_STYLES) else ""
            else:
                cells.extend((char, style) for char in piece)
        del cells[width:]
        cells.extend([(" ", "")] * (width - len(cells)))
        grid.append(cells)
    while len(grid) < height:
        grid.append([(" ", "")] * width)
    return grid


def _lay_over(grid: list[list[Cell]], chart: Chart, canvas_width: int, canvas_height: int) -> None:
    for row in grid[:canvas_height]:
        for x in range(LABEL_CELLS):
            row[x] = (row[x][0], "label")
        row[LABEL_CELLS] = (row[LABEL_CELLS][0], "axis")
    for row, style in zip(grid[canvas_height:], ("axis", "label"), strict=False):
        row[:] = [(char, style) for char, _ in row]
    for y, label in chart.references:
        _lay_reference(grid[:canvas_height], chart.y_range, y, label)
    for note in chart.notes:
        if note.line:
            _lay_column(grid, column_of(note.x, chart.x_range, canvas_width), canvas_height, "┊", "axis")
    if chart.cursor is not None:
        _lay_column(grid, column_of(chart.cursor, chart.x_range, canvas_width), canvas_height, "│", "accent")


def _lay_reference(canvas: list[list[Cell]], y_range: tuple[float, float], y: float, label: str) -> None:
    low, high = y_range
    if not low <= y <= high:
        return
    row = canvas[min(round((high - y) / (high - low) * (len(canvas) - 1)), len(canvas) - 1)]
    for x in range(LABEL_CELLS + 1, len(row)):
        if row[x][0] == " ":
            row[x] = ("┄", "axis")
    start = len(row) - len(label) - 1
    if start > (LABEL_CELLS + len(row)) // 2 and all(char in " ┄" for char, _ in row[start:]):
        row[start:] = [(char, "dim") for char in label + " "]


def _lay_column(grid: list[list[Cell]], column: int | None, canvas_height: int, sign: str, style: str) -> None:
    if column is None:
        return
    x = LABEL_CELLS + 1 + column
    for row in grid[:canvas_height]:
        if x < len(row) and row[x][0] in " ┄":
            row[x] = (sign, style)


def column_of(x: float, x_range: tuple[float, float], canvas_width: int) -> int | None:
    """The canvas column of an x; None outside."""
    first, last = x_range
    if not first <= x <= last or last <= first:
        return None
    return min(round((x - first) / (last - first) * (canvas_width - 1)), canvas_width - 1)


def x_of(column: int, x_range: tuple[float, float], canvas_width: int) -> float:
    """The x of a canvas column."""
    first, last = x_range
    return first + min(max(column, 0), canvas_width - 1) / max(canvas_width - 1, 1) * (last - first)


def _signs(chart: Chart, canvas_width: int) -> Row:
    cells: list[Cell] = [(" ", "")] * (LABEL_CELLS + 1 + canvas_width)
    for note in chart.notes:
        column = column_of(note.x, chart.x_range, canvas_width)
        if column is not None:
            cells[LABEL_CELLS + 1 + column] = (note.sign, note.style)
    return _row(cells)


def _row(cells: Sequence[Cell]) -> Row:
    """Neighbours of one style as one piece; blanks at the end left out."""
    pieces: list[Piece] = []
    for char, style in cells:
        if pieces and (pieces[-1][1] == style or char == " "):
            pieces[-1] = (pieces[-1][0] + char, pieces[-1][1])
        else:
            pieces.append((char, style))
    return tuple(pieces)
