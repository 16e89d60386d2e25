"""Pictures of charts by matplotlib: no window, no display, no global state.

A run draws those beside its statistics files itself, at its end, in a process of its own.
"""

import io
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lmplay_tui.errors import UserError
from lmplay_tui.files import write_whole
from lmplay_tui.formats import format_tokens
from lmplay_tui.process import own_command, own_environment
from lmplay_tui.run.charts import METRICS, Chart, Curve, Line, PlotOptions, level_chart, load_curves, statistics_in
from lmplay_tui.text import one_line

PICTURE_TYPES = ("png", "jpg", "svg", "pdf")

# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow that white paper swallows.
# With the line styles they make 28 looks; the label at each line's end carries both.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))

_DPI = 120
_LABEL_CHARS = 40
_LEFT, _PLOT_WIDTH = 0.95, 7.4  # inches
_GREY = "#666666"


def colour(line: Line) -> str:
    return COLOURS[line.index % len(COLOURS)]


def _style(line: Line) -> Any:
    return STYLES[line.index // len(COLOURS) % len(STYLES)]


def draw_combined(chart: Chart, path: Path) -> None:
    """One chart with a label at the end of each line, in the order of the last values. Raises `OSError`."""
    labels = [_label(chart, line) for line in chart.lines]
    width = _LEFT + _PLOT_WIDTH + 0.85 + 0.07 * max(len(label) for label in labels)
    height = max(5.6, 1.6 + 0.2 * len(labels))
    figure = _figure(width, height)
    axes = figure.add_axes((_LEFT / width, 0.62 / height, _PLOT_WIDTH / width, (height - 1.4) / height))
    _draw_axes(axes, chart)
    for line in reversed(chart.lines):  # the best lie on top
        if chart.show_raw:
            _draw_raw(axes, line, colour(line))
        axes.plot(line.tokens, line.trend, color=colour(line), linestyle=_style(line),
                  linewidth=1.8 if len(chart.lines) <= 7 else 1.3, zorder=3)  # fmt: skip
    _label_ends(axes, chart, labels)
    _head(figure, chart.title, chart.note, width, height)
    _save(figure, path)


def draw_own(curve: Curve, options: PlotOptions, path: Path) -> bool:
    """The picture beside a statistics file, loss above accuracy, raw points behind the trend. Raises `OSError`.

    False if the curve knows neither, so that there is nothing to draw.
    """
    options = replace(options, plot_raw=True)
    found = [level_chart([curve], metric, options) for metric in METRICS]
    charts = [chart for chart in found if chart is not None]
    if not charts:
        return False
    width, height = 9.55, 0.9 + 3.0 * len(charts)
    figure = _figure(width, height)
    for place, chart in enumerate(charts):
        bottom = height - 0.7 - 3.0 * (place + 1) + 0.55
        axes = figure.add_axes((_LEFT / width, bottom / height, _PLOT_WIDTH / width, 2.3 / height))
        _draw_axes(axes, chart, x_label=place == len(charts) - 1)
        line = chart.lines[0]
        _draw_raw(axes, line, COLOURS[4])
        axes.plot(line.tokens, line.trend, color=COLOURS[0], linewidth=1.8, zorder=3)
        _label_ends(axes, chart, [chart.figure_text(line)])
    _head(figure, curve_title(curve), charts[0].note.partition(" · ")[2], width, height)
    _save(figure, path)
    return True


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, facecolor="white")


def _head(figure: Any, title: str, note: str, width: float, height: float) -> None:
    left = _LEFT / width
    figure.text(left, 1 - 0.3 / height, title, fontsize=13, fontweight="bold", va="center", parse_math=False)
    figure.text(left, 1 - 0.54 / height, note, fontsize=8.5, color=_GREY, va="center", parse_math=False)


def _draw_axes(axes: Any, chart: Chart, *, x_label: bool = True) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    if chart.log_x:
        axes.set_xscale("log")
    if chart.log_y:
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(chart.x_ticks(most=9)))
    axes.yaxis.set_major_locator(FixedLocator(chart.y_ticks(most=8)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_tokens(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: chart.tick_text(value)))
    axes.set_xlim(*chart.x_limits)
    axes.set_ylim(*chart.y_limits)
    axes.set_ylabel(chart.y_label + (" (log)" if chart.log_y else ""), fontsize=9.5)
    if x_label:
        axes.set_xlabel("tokens trained on" + (" (log)" if chart.log_x else ""), fontsize=9.5)
    axes.tick_params(labelsize=9, color=_GREY)
    axes.grid(visible=True, color="#E3E3E3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#AAAAAA")
    if chart.signed:
        axes.axhline(0, color=_GREY, linewidth=0.8, zorder=2)


def _draw_raw(axes: Any, line: Line, raw_colour: str) -> None:
    # Thousands of points make a cloud, a handful must be seen one by one.
    num = len(line.raw)
    axes.plot(line.tokens, line.raw, ".", markersize=6 if num <= 500 else 3.5, color=raw_colour, markeredgewidth=0,
              alpha=float(np.clip(1000 / num, 0.2, 0.6)), zorder=1)  # fmt: skip


def _label_ends(axes: Any, chart: Chart, labels: Sequence[str]) -> None:
    """Names at the right edge, each joined to the end of its line; moved apart where they would overlap."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = []
    for line in chart.lines:
        known = np.isfinite(line.trend)
        x, y = to_axes.transform((line.tokens[known][-1], line.trend[known][-1]))
        ends.append((min(x, 1.0), min(max(y, 0.0), 1.0)))
    height_inches = axes.get_position().height * axes.figure.get_size_inches()[1]
    places = spread([y for _, y in ends], gap=0.17 / height_inches)
    for line, label, (x, y), place in zip(chart.lines, labels, ends, places, strict=True):
        look = {"transform": axes.transAxes, "color": colour(line), "clip_on": False}
        if x < 0.995 and 0 < y < 1:  # it ended before the longest: a dot there, and a hint of a line on to its name
            axes.plot([x], [y], "o", markersize=3.5, zorder=4, **look)
            axes.plot([x, 1.0], [y, y], linewidth=0.5, alpha=0.35, zorder=2, **look)
        axes.plot([1.0, 1.025], [y, place], linewidth=0.7, alpha=0.6, **look)
        axes.plot([1.03, 1.075], [place, place], linestyle=_style(line), linewidth=1.8, **look)
        axes.text(1.083, place, label, transform=axes.transAxes, fontsize=9, va="center", color="#222222",
                  parse_math=False)  # fmt: skip


def spread(places: Sequence[float], gap: float) -> list[float]:
    """`places` moved as little as needed to lie `gap` apart and within 0 to 1 (closer where there is no room).

    Groups that touch share their shift, as in a pool-adjacent-violators fit of the ordered places.
    """
    if not places:
        return []
    gap = min(gap, 1.0 / max(len(places) - 1, 1))
    order = sorted(range(len(places)), key=lambda index: places[index])
    groups: list[tuple[float, int]] = []  # mean of the lowest place that each member asks for, members
    for rank, index in enumerate(order):
        wanted, members = places[index] - rank * gap, 1
        while groups and groups[-1][0] > wanted:
            mean, others = groups.pop()
            wanted, members = (wanted * members + mean * others) / (members + others), members + others
        groups.append((wanted, members))
    bases = [min(max(mean, 0.0), 1.0 - (len(places) - 1) * gap) for mean, members in groups for _ in range(members)]
    result = [0.0] * len(places)
    for rank, index in enumerate(order):
        result[index] = bases[rank] + rank * gap
    return result


def _label(chart: Chart, line: Line) -> str:
    name = line.label
    if len(name) > _LABEL_CHARS:  # what tells runs apart stands at either end of a name
        half = (_LABEL_CHARS - 1) // 2
        name = f"{name[:half]}…{name[-half:]}"
    return f"{name}  {chart.end_text(line)}"


def curve_title(curve: Curve) -> str:
    """What a run's own picture is called."""
    split = {"train": "training", "validate": "validation"}.get(curve.split, curve.split)
    return f"{curve.label} · {one_line(split, 40)}"


def _save(figure: Any, path: Path) -> None:
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a name in a script that the font has not
        figure.savefig(data, format=path.suffix.removeprefix("."))
    write_whole(path, data.getvalue())


def curves_of(folder: Path, name: str) -> tuple[list[Curve], list[str]]:
    """The curves of the run `name` whose statistics lie in `folder`, and one line for each file that cannot be used.

    Raises `UserError` if the folder cannot be read.
    """
    curves, problems = load_curves(path for path in statistics_in(folder) if path.name.startswith(f"{name}_"))
    return [curve for curve in curves if curve.name == name], problems


def draw_own_pictures(curves: Sequence[Curve], options: PlotOptions, picture_type: str) -> list[Path]:
    """Draw each curve into a picture beside its file and return the pictures' paths. Raises `OSError`."""
    pictures = []
    for curve in curves:
        picture = curve.path.with_suffix(f".{picture_type}")
        if draw_own(curve, options, picture):
            pictures.append(picture)
    return pictures


def write_pngs(folder: Path, name: str) -> threading.Thread | None:
    """Start a process that draws the run's pictures, and return at once; nothing that goes wrong there comes back here.

    The process lives on if this one ends; the thread returned ends with it. None: it could not be started.
    """
    try:
        process = subprocess.Popen(
            own_command(__spec__.name, str(folder), name), env=own_environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    except OSError:
        return None
    thread = threading.Thread(target=process.wait, name="pictures", daemon=True)  # takes the ended process off the list
    thread.start()
    return thread


def main(arguments: Sequence[str]) -> int:
    """Draw the pictures of one run: the process that `write_pngs` starts."""
    folder, name = arguments
    os.nice(10)  # the machine's next run matters more
    try:
        curves, _ = curves_of(Path(folder), name)
        draw_own_pictures(curves, PlotOptions(), "png")
    except (UserError, OSError):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
