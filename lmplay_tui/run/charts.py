"""What a plot shows, before anything is drawn: lines, limits and words, the same for a picture and for a terminal.

It is made of recorded curves: arrays that are read from statistics files, named apart and smoothed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from lmplay_tui.errors import UserError
from lmplay_tui.options import nearest
from lmplay_tui.run.statistics import COLUMNS, SUFFIX, StatisticsFile, read_statistics
from lmplay_tui.scales import log_ticks, ticks
from lmplay_tui.text import one_line

Metric = Literal["loss", "accuracy", "character_accuracy"]
METRICS: tuple[Metric, ...] = get_args(Metric)
_WORDS: dict[Metric, str] = {
    "loss": "loss (nats per token)", "accuracy": "word accuracy", "character_accuracy": "character accuracy",
}  # fmt: skip
Array = np.ndarray[tuple[int], np.dtype[np.float64]]

# A window reaches so many points to either side at first, and then a share of those so far: the early fall stays.
_FIRST_REACH, _GROWTH = 2, 0.2
_LARGEST = 1e9


@dataclass(frozen=True, eq=False)
class Curve:
    """One statistics file to be drawn. Arrays are parallel, tokens ascend; what is unknown or not finite is NaN."""

    label: str
    path: Path
    name: str
    stage: str | None
    split: str
    tokens: Array
    loss: Array
    accuracy: Array
    character_accuracy: Array
    figures: Mapping[str, float] = field(default_factory=dict)  # by metric: where the run stands, as all screens say it

    def values(self, metric: Metric) -> Array:
        """The column of that name."""
        values: Array = getattr(self, metric)
        return values


def statistics_in(folder: Path) -> list[Path]:
    """The statistics files in `folder`, newest first. Raises `UserError` if it cannot be read."""
    try:
        paths = [path for path in folder.iterdir() if path.name.endswith(SUFFIX) and not path.name.startswith(".")]
        return sorted(paths, key=lambda path: (-path.lstat().st_mtime, path.name))
    except OSError as error:
        raise UserError(f"{one_line(folder)}: cannot be read: {error.strerror}") from error


def load_curves(paths: Iterable[Path]) -> tuple[list[Curve], list[str]]:
    """The curves in `paths` that hold points, named apart, and one line for each file that cannot be used."""
    curves: list[Curve] = []
    problems: list[str] = []
    for path in paths:
        try:
            curve = _curve(path, read_statistics(path))
        except UserError as error:
            problems.append(str(error))
            continue
        if len(curve.tokens):
            curves.append(curve)
    return _named_apart(curves), problems


def _curve(path: Path, content: StatisticsFile) -> Curve:
    history = [(*row, None)[: len(COLUMNS) + 1] for row in content.history]  # without the last column where it lacks
    rows = np.array(history, dtype=np.float64).reshape(-1, len(COLUMNS) + 1)
    rows[~np.isfinite(rows)] = np.nan
    tokens = rows[:, COLUMNS.index("tokens")]
    rows = rows[tokens > 0]
    rows = rows[np.argsort(rows[:, COLUMNS.index("tokens")], kind="stable")]
    label = content.name if content.stage is None else f"{content.name} · {content.stage}"
    return Curve(
        label=one_line(label, 80),
        path=path,
        name=content.name,
        stage=content.stage,
        split=content.split,
        tokens=rows[:, COLUMNS.index("tokens")],
        loss=rows[:, COLUMNS.index("loss")],
        accuracy=rows[:, COLUMNS.index("accuracy")],
        character_accuracy=rows[:, len(COLUMNS)],
        figures=_figures(content),
    )


def _figures(content: StatisticsFile) -> dict[str, float]:
    """What the statistics say of the end: the train loss over the last steps, and of validations the newest alone."""
    said = {
        "loss": content.averages.get("loss" if content.split == "train" else "last_loss"),
        "accuracy": content.averages.get("accuracy") if content.split == "train" else None,
    }
    return {name: value for name, value in said.items() if value is not None and np.isfinite(value)}


def _named_apart(curves: Sequence[Curve]) -> list[Curve]:
    """Curves of one name and split get their folder's name, and a number where that is the same too."""
    named = list(curves)
    for rename in (lambda curve, _: f"{one_line(curve.path.parent.name, 40)}/{curve.label}", _numbered):
        groups: dict[tuple[str, str], list[int]] = {}
        for index, curve in enumerate(named):
            groups.setdefault((curve.label, curve.split), []).append(index)
        for group in groups.values():
            for place, index in enumerate(group if len(group) > 1 else []):
                named[index] = replace(named[index], label=rename(named[index], place))
    return named


def _numbered(curve: Curve, place: int) -> str:
    return f"{curve.label} ({place + 1})"


def trend_of(values: Array, count: int) -> Array:
    """`values` as a trend: at each point a straight line fitted to up to `count` neighbours, twice over.

    Windows are small at the start and grow to `count`, so that a steep beginning is not washed out. At the end they
    lie on one side, no smaller; the fitted line keeps the last value from lagging behind. NaN is passed over.
    """
    if count <= 1 or not np.isfinite(values).any():
        return values.copy()
    # Running sums would carry the rounding errors of a run that blew up into all that follows.
    trend = _fitted(_fitted(np.clip(values, -_LARGEST, _LARGEST), count), max(count // 2, 1))
    known = values[np.isfinite(values)]
    clipped: Array = np.clip(trend, known.min(), known.max())
    return clipped


def _fitted(values: Array, count: int) -> Array:
    """Local linear regression over the index, uniform weights, in linear time by running sums."""
    num = len(values)
    index = np.arange(num, dtype=np.float64)
    reach = np.minimum((_FIRST_REACH + index * _GROWTH).astype(np.int64), count // 2)
    end = np.minimum(np.arange(num) + reach + 1, num)
    begin = np.maximum(end - 2 * reach - 1, 0)
    known = np.isfinite(values)
    y = np.where(known, values, 0.0)

    def sums(terms: Array) -> Array:
        running = np.concatenate([[0.0], np.cumsum(terms)])
        within: Array = running[end] - running[begin]
        return within

    weight = sums(known.astype(np.float64))
    x_1 = sums(known * index)
    x_2 = sums(known * index**2)
    y_1 = sums(y)
    xy = sums(y * index)
    # The same moments about each point itself.
    xy -= index * y_1
    x_2 += index * (index * weight - 2 * x_1)
    x_1 -= index * weight
    spread = weight * x_2 - x_1**2
    with np.errstate(divide="ignore", invalid="ignore"):
        line = (x_2 * y_1 - x_1 * xy) / spread
        mean = y_1 / weight
    enough = spread > 0.5  # a whole number: zero where fewer than two points are known
    return np.where(enough, line, mean)


AVERAGE_COUNT = 300
MIN_SHOW = 0.99
_OFF_SCALE = 3.0  # a run that reaches so many times higher than the others does not set the scale
_SPLIT_WORDS = {"train": "training", "validate": "validation"}


@dataclass(frozen=True)
class PlotOptions:
    """What `lmp_plotstats` may be asked for."""

    average_count: int = AVERAGE_COUNT  # points that a smoothed value is made of, at most
    min_show: float = MIN_SHOW  # share of the shortest run that is shown, from its end
    plot_raw: bool = False
    target: str | None = None  # label of the run that differences are taken from; None: the longest


@dataclass(frozen=True, eq=False)
class Line:
    """One run in a chart. `index`: its place among all runs, the same in every chart (colour and style hang on it)."""

    label: str
    index: int
    tokens: Array
    trend: Array
    raw: Array
    figure: float | None = None  # where the run stands, as all screens say it; None: not known, or a difference

    def last(self) -> float:
        """The trend's last known value; NaN if there is none."""
        known = self.trend[np.isfinite(self.trend)]
        return float(known[-1]) if len(known) else float("nan")


@dataclass(frozen=True, eq=False)
class Chart:
    """Lines over tokens, best last value first."""

    title: str
    note: str
    y_label: str
    lines: list[Line]
    x_limits: tuple[float, float]
    y_limits: tuple[float, float]
    log_x: bool
    log_y: bool
    signed: bool = False  # values are differences: shown with their sign
    show_raw: bool = False
    reference: str | None = field(default=None)  # whose line zero is

    def value_text(self, value: float) -> str:
        """A value of this chart as it is printed."""
        sign = "+" if self.signed else ""
        return f"{value:{sign}.3f}" if abs(value) < 1000 else f"{value:{sign}.3g}"

    def end_text(self, line: Line) -> str:
        """What stands behind a line's name: where it ended."""
        if line.label == self.reference:
            return "(compared with)"
        trend = line.last()
        if not self.y_limits[0] <= trend <= self.y_limits[1]:
            return f"{self.figure_text(line)}, off the scale"
        return self.figure_text(line) + (f" (trend {self.value_text(trend)})" if line.figure is not None else "")

    def figure_text(self, line: Line) -> str:
        """Where a run stands: the figure that every screen shows, or where its line ends."""
        return self.value_text(line.last() if line.figure is None else line.figure)

    def tick_text(self, value: float) -> str:
        """A value on the axis."""
        return f"{value:+.4g}" if self.signed and value else f"{value:.4g}"

    def x_ticks(self, most: int) -> list[float]:
        """Round numbers of tokens, at most about `most`."""
        return log_ticks(*self.x_limits, most) if self.log_x else ticks(*self.x_limits, most)

    def y_ticks(self, most: int) -> list[float]:
        """Round values, at most about `most`."""
        return log_ticks(*self.y_limits, most) if self.log_y else ticks(*self.y_limits, most)


def level_chart(curves: Sequence[Curve], metric: Metric, options: PlotOptions) -> Chart | None:
    """The metric itself, smoothed; None if no curve knows it."""
    lines = []
    for index, curve in enumerate(curves):
        values = curve.values(metric)
        trend = trend_of(values, options.average_count)
        lines.append(Line(curve.label, index, curve.tokens, trend, values, curve.figures.get(metric)))
    lines = _drawable(lines)
    if not lines:
        return None
    x_limits = _x_limits(lines, options.min_show)
    y_limits = _level_limits(lines, x_limits, metric, with_raw=options.plot_raw)
    return Chart(
        title=_title(metric.replace("_", " ").capitalize(), curves),
        note=_note(options, "lower is better" if metric == "loss" else "higher is better", lines, x_limits),
        y_label=_WORDS[metric],
        lines=_best_first(lines, metric),
        x_limits=x_limits,
        y_limits=y_limits,
        log_x=x_limits[1] / x_limits[0] >= 10,
        log_y=metric == "loss" and y_limits[0] > 0 and y_limits[1] / y_limits[0] >= 1.5,
        show_raw=options.plot_raw,
    )


def difference_chart(curves: Sequence[Curve], metric: Metric, options: PlotOptions) -> Chart | None:
    """Each curve minus the target's, where both have been; None without another curve that knows the metric.

    Raises `UserError` if `options.target` names none of them.
    """
    target = _target(curves, metric, options.target)
    if target is None:
        return None
    known = np.isfinite(target.values(metric))
    target_tokens = target.tokens[known]
    target_trend = trend_of(target.values(metric), options.average_count)[known]
    lines = []
    for index, curve in enumerate(curves):
        both = (curve.tokens >= target_tokens[0]) & (curve.tokens <= target_tokens[-1])
        at_target = np.interp(curve.tokens, target_tokens, target_trend)[both]
        values = curve.values(metric)
        trend = trend_of(values, options.average_count)[both] - at_target  # of the target itself: zeros
        lines.append(Line(curve.label, index, curve.tokens[both], trend, values[both] - at_target))
    lines = _drawable(lines)
    if len(lines) < 2:
        return None
    x_limits = _x_limits(lines, options.min_show)
    return Chart(
        title=_title(f"{metric.replace('_', ' ').capitalize()} compared with {target.label}", curves),
        note=_note(options, "below 0 is better" if metric == "loss" else "above 0 is better", lines, x_limits),
        y_label=f"difference in {_WORDS[metric]}",
        lines=_best_first(lines, metric),
        x_limits=x_limits,
        y_limits=_difference_limits(lines, x_limits, float(np.abs(target_trend).max())),
        # What counts is the end of the curves: a log axis, only so that short runs are not squeezed beside long ones.
        log_x=x_limits[1] >= 4 * min(line.tokens[-1] for line in lines),
        log_y=False,
        signed=True,
        show_raw=options.plot_raw,
        reference=target.label,
    )


def _target(curves: Sequence[Curve], metric: Metric, wanted: str | None) -> Curve | None:
    able = [curve for curve in curves if np.isfinite(curve.values(metric)).any()]
    if wanted is None:
        return max(able, key=lambda curve: curve.tokens[-1], default=None)
    exact = [curve for curve in able if wanted in (curve.label, curve.name, str(curve.path))]
    by_start = [curve for curve in able if curve.label.startswith(wanted)]
    if exact or by_start:
        return (exact or by_start)[0]
    labels = [curve.label for curve in curves]
    if any(label.startswith(wanted) for label in labels):
        return None
    raise UserError(f"--target: no run called {one_line(wanted, 60)} among those plotted{nearest(wanted, labels)}")


def _title(what: str, curves: Sequence[Curve]) -> str:
    splits = {curve.split for curve in curves}
    return f"{what} ({_SPLIT_WORDS.get(splits.pop(), 'other')})" if len(splits) == 1 else what


def _note(options: PlotOptions, better: str, lines: Sequence[Line], x_limits: tuple[float, float]) -> str:
    parts = [better]
    if options.average_count > 1:
        parts.append(f"smoothed over up to {options.average_count} points")
    if any(line.tokens[0] < x_limits[0] for line in lines):
        whose = "run" if len(lines) == 1 else "shortest run"
        parts.append(f"the first {100 * (1 - options.min_show):.3g} % of the {whose} left out")
    return " · ".join(parts)


def _drawable(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if np.isfinite(line.trend).any()]


def _best_first(lines: Sequence[Line], metric: Metric) -> list[Line]:
    return sorted(lines, key=lambda line: (line.last() if metric == "loss" else -line.last(), line.label))


def _x_limits(lines: Sequence[Line], min_show: float) -> tuple[float, float]:
    shortest = min(line.tokens[-1] for line in lines)
    first = min(line.tokens[0] for line in lines)
    longest = max(line.tokens[-1] for line in lines)
    begin = shortest * (1 - min_show)
    if begin < first:  # all is shown: with a little room before it
        begin = max(first - 0.02 * (longest - first), 0.9 * first)
    return (begin, longest) if begin < longest else (longest * 0.9, longest * 1.1)


def _shown(line: Line, x_limits: tuple[float, float]) -> Array:
    """The trend's known values within the limits; the last one where there is none."""
    values = line.trend[(line.tokens >= x_limits[0]) & np.isfinite(line.trend)]
    return values if len(values) else np.array([line.last()])


def _level_limits(
    lines: Sequence[Line], x_limits: tuple[float, float], metric: Metric, *, with_raw: bool
) -> tuple[float, float]:
    shown = [_shown(line, x_limits) for line in lines]
    lows = [float(values.min()) for values in shown]
    highs = [float(values.max()) for values in shown]
    if with_raw:
        for line in lines:
            raw = line.raw[(line.tokens >= x_limits[0]) & np.isfinite(line.raw)]
            if len(raw):
                low, high = np.quantile(raw, [0.01, 0.99])
                lows.append(float(low))
                highs.append(float(high))
    low, high = min(lows), _highest(highs) if metric == "loss" else max(highs)
    return _padded(low, high, keep_positive=low > 0)


def _difference_limits(
    lines: Sequence[Line], x_limits: tuple[float, float], target_level: float
) -> tuple[float, float]:
    """Limits that hold zero and the differences, but for those of a run that has blown up or collapsed."""
    # The very first points of a difference swing widely and say little: they do not set the scale.
    tails = [values[len(values) // 10 :] for values in (_shown(line, x_limits) for line in lines)]
    low = -_usual([-float(tail.min()) for tail in tails], target_level)
    high = _usual([float(tail.max()) for tail in tails], target_level)
    return _padded(low, high, keep_positive=False)


def _usual(tops: Sequence[float], target_level: float) -> float:
    """The largest difference, at least 0; a few beyond half the target's level are left out of account."""
    usual = [top for top in tops if top <= target_level / 2]
    if 3 * (len(tops) - len(usual)) <= len(tops):
        return max([0.0, *usual])
    return min(max(tops), target_level)


def _highest(tops: Sequence[float]) -> float:
    """The highest of the runs' tops, without those of runs that went off the scale of the others."""
    positive = sorted(top for top in tops if top > 0)
    if not positive:
        return max(tops)
    usual = positive[(len(positive) - 1) // 2]
    return max(top for top in positive if top <= _OFF_SCALE * usual)


def _padded(low: float, high: float, *, keep_positive: bool) -> tuple[float, float]:
    if high - low <= 1e-12 * max(abs(high), abs(low), 1e-300):
        margin = abs(high) * 0.05 or 0.05
    else:
        margin = (high - low) * 0.05
    bottom = low - margin
    return (low * 0.97 if keep_positive and bottom <= 0 else bottom), high + margin
