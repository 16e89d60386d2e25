"""The charts of `run/charts.py` as text, by plotext: for a shell without a way to look at pictures."""

import string
import textwrap
from types import ModuleType

import numpy as np

from lmplay_tui.formats import format_tokens
from lmplay_tui.run.charts import Array, Chart, Line
from lmplay_tui.text import one_line

# Of the sixteen colours that every terminal has; each line also carries its letter.
_COLOURS = ("cyan+", "orange", "green+", "magenta+", "blue+", "red+", "white")
_LETTERS = string.ascii_lowercase + string.ascii_uppercase + string.digits
_ASCII = str.maketrans("│─┌┐└┘├┤┬┴┼·…", "|-+++++++++.~")
_Y_LABEL_COLUMNS = 10  # what plotext takes for the axis, about


def terminal_chart(chart: Chart, width: int, height: int, *, colours: bool, unicode: bool) -> str:
    """The chart and below it the names of its lines, best first, in at most `width` columns and `height` + names rows.

    Each line ends in its letter; without `unicode` it is drawn in letters and the frame in ASCII.
    """
    import plotext

    width, height = max(width, 30), max(height, 8)
    plotext.clear_figure()
    plotext.plotsize(width, height)
    plotext.theme("clear")
    plotext.title(one_line(chart.title, width - 4))
    for line in reversed(chart.lines):  # the best lie on top
        _draw_line(plotext, chart, line, width - _Y_LABEL_COLUMNS, unicode=unicode)
    _draw_axes(plotext, chart, width)
    drawn: str = plotext.build()
    plotext.clear_figure()
    if not colours:
        drawn = plotext.uncolorize(drawn)
    names = _names(chart, width, colours=colours)
    note = textwrap.wrap(chart.note, width - 2, initial_indent="  ", subsequent_indent="  ")
    text = "\n".join([*(line.rstrip() for line in drawn.splitlines()), *note, *names])
    return text if unicode else text.translate(_ASCII)


def _letter(line: Line) -> str:
    return _LETTERS[line.index % len(_LETTERS)]


def _colour(line: Line) -> str:
    return _COLOURS[line.index % len(_COLOURS)]


def _draw_line(plotext: ModuleType, chart: Chart, line: Line, columns: int, *, unicode: bool) -> None:
    known = np.isfinite(line.trend)
    tokens, trend = line.tokens[known], line.trend[known]
    # Two points a column are all that shows, and plotext's time goes with the number of points.
    grid = _grid(chart, tokens, 2 * columns)
    x, y = _scaled(chart, grid, np.interp(grid, tokens, trend))
    low, high = (_y(chart, limit) for limit in chart.y_limits)
    inside = (y >= low) & (y <= high)
    if chart.show_raw:
        _draw_raw(plotext, chart, line, columns, unicode=unicode)
    if not inside.any():
        return
    # plotext walks a line cell by cell, also where it is far off the scale: there it ends one height away.
    y = np.clip(y, 2 * low - high, 2 * high - low)
    plotext.plot(x.tolist(), y.tolist(), marker="braille" if unicode else _letter(line), color=_colour(line))
    last = int(np.flatnonzero(inside)[-1])
    plotext.text(_letter(line), x=float(x[last]), y=float(y[last]), color=_colour(line), alignment="center")


def _grid(chart: Chart, tokens: Array, num: int) -> Array:
    begin, end = max(tokens[0], chart.x_limits[0]), min(tokens[-1], chart.x_limits[1])
    if begin >= end:
        return np.array([tokens[-1]])
    return np.geomspace(begin, end, num) if chart.log_x else np.linspace(begin, end, num)


def _draw_raw(plotext: ModuleType, chart: Chart, line: Line, columns: int, *, unicode: bool) -> None:
    """The lowest and the highest raw point of each column."""
    low, high = chart.y_limits
    shown = (line.raw >= low) & (line.raw <= high)
    shown &= (line.tokens >= chart.x_limits[0]) & (line.tokens <= chart.x_limits[1])
    if not shown.any():
        return
    x, y = _scaled(chart, line.tokens[shown], line.raw[shown])
    column = np.floor((x - x[0]) / max(float(x[-1] - x[0]), 1e-300) * columns)
    starts = np.flatnonzero(np.diff(column, prepend=-1.0))
    xs = x[starts].tolist() * 2
    ys = np.minimum.reduceat(y, starts).tolist() + np.maximum.reduceat(y, starts).tolist()
    plotext.scatter(xs, ys, marker="·" if unicode else ".", color=_colour(line))


def _scaled(chart: Chart, x: Array, y: Array) -> tuple[Array, Array]:
    positive = np.maximum(y, chart.y_limits[0] * 1e-3) if chart.log_y else y
    return (np.log10(x) if chart.log_x else x), (np.log10(positive) if chart.log_y else y)


def _y(chart: Chart, value: float) -> float:
    return float(np.log10(value)) if chart.log_y else value


def _x(chart: Chart, value: float) -> float:
    return float(np.log10(value)) if chart.log_x else value


def _draw_axes(plotext: ModuleType, chart: Chart, width: int) -> None:
    plotext.xlim(*(_x(chart, value) for value in chart.x_limits))
    plotext.ylim(*(_y(chart, value) for value in chart.y_limits))
    x_ticks, y_ticks = chart.x_ticks(most=width // 11), chart.y_ticks(most=6)
    plotext.xticks([_x(chart, tick) for tick in x_ticks], [format_tokens(tick) for tick in x_ticks])
    plotext.yticks([_y(chart, tick) for tick in y_ticks], [chart.tick_text(tick) for tick in y_ticks])
    plotext.xlabel("tokens trained on")
    if chart.signed:
        plotext.hline(0)


def _names(chart: Chart, width: int, *, colours: bool) -> list[str]:
    """The letters' meaning, best first, in as many columns as fit, read downwards."""
    entries = [one_line(f"{_letter(line)} {line.label} {chart.end_text(line)}", width - 4) for line in chart.lines]
    widest = max(len(entry) for entry in entries)
    columns = max((width - 2) // (widest + 3), 1)
    rows = -(-len(entries) // columns)
    cells = [_coloured(line, entry.ljust(widest), colours) for line, entry in zip(chart.lines, entries, strict=True)]
    return ["  " + "   ".join(cells[row::rows]).rstrip() for row in range(rows)]


def _coloured(line: Line, entry: str, colours: bool) -> str:
    if not colours:
        return entry
    import plotext

    return f"{plotext.colorize(entry[0], _colour(line))}{entry[1:]}"
