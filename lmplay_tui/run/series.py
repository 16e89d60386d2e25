"""One metric in memory, bounded for a run of any length, no extreme ever lost; its points reduced and smoothed.

A `Series` keeps its last points exactly and folds what is older into buckets of mean, least and greatest value. A
bucket's width doubles when there are too many, so a million steps cost what some thousand cost.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmplay_tui.run.axes import AXES, At, Axis

Floats = NDArray[np.float64]

RECENT = 2048  # points that are kept exactly, at least
BUCKETS = 4096

# Columns behind a point's places. An exact point ends with its count; a bucket goes on.
_VALUE, _COUNT, _LEAST, _GREATEST = len(AXES), len(AXES) + 1, len(AXES) + 2, len(AXES) + 3


@dataclass(frozen=True, eq=False)
class Points:
    """A metric as arrays of one length, `x` rising: mean, least and greatest over `count` steps each."""

    x: Floats
    mean: Floats
    least: Floats
    greatest: Floats
    count: Floats

    def __len__(self) -> int:
        return len(self.x)

    def between(self, first: float, last: float) -> "Points":
        """The points from `first` to `last`, with one neighbour at either side, so that a line reaches the edges."""
        part = self.part_between(first, last)
        return Points(self.x[part], self.mean[part], self.least[part], self.greatest[part], self.count[part])

    def part_between(self, first: float, last: float) -> slice:
        """Which points `between` takes."""
        start = max(int(np.searchsorted(self.x, first, "left")) - 1, 0)
        return slice(start, int(np.searchsorted(self.x, last, "right")) + 1)


class Series:
    """One metric over the run. Adding a point is O(1) on average; memory is fixed."""

    def __init__(self) -> None:
        self._recent = np.empty((2 * RECENT, _COUNT + 1))
        self._num_recent = 0
        self._old = np.empty((BUCKETS, _GREATEST + 1))
        self._num_old = 0
        self._width = 1  # points a new bucket takes
        self.version = 0

    def __len__(self) -> int:
        return self._num_recent + self._num_old

    def add(self, at: At, value: float, count: float = 1) -> None:
        """Append a point that stands for `count` steps; what is not finite leaves a gap."""
        if not math.isfinite(value):
            return
        if self._num_recent == len(self._recent):
            self._fold()
        self._recent[self._num_recent] = (*at, value, count)
        self._num_recent += 1
        self.version += 1

    def add_many(self, at: Floats, values: Floats, counts: Floats) -> None:
        """`add` for each row of `at`, its value and its count, with the same result."""
        finite = np.isfinite(values)
        if not finite.all():
            at, values, counts = at[finite], values[finite], counts[finite]
        begin = 0
        while begin < len(values):
            if self._num_recent == len(self._recent):
                self._fold()
            count = min(len(values) - begin, len(self._recent) - self._num_recent)
            free = self._recent[self._num_recent : self._num_recent + count]
            part = slice(begin, begin + count)
            free[:, :_VALUE], free[:, _VALUE], free[:, _COUNT] = at[part], values[part], counts[part]
            self._num_recent += count
            begin += count
        self.version += len(values)

    def _fold(self) -> None:
        """Move the older half of the exact points into buckets."""
        while self._num_old + RECENT // self._width > BUCKETS:
            self._merge_pairs()
        groups = self._recent[:RECENT].reshape(-1, self._width, _COUNT + 1)
        values, counts = groups[:, :, _VALUE], groups[:, :, _COUNT]
        total = counts.sum(axis=1)
        buckets = np.column_stack((groups[:, -1, :_VALUE], (values * counts).sum(axis=1) / total, total,
                                   values.min(axis=1), values.max(axis=1)))  # fmt: skip
        self._old[self._num_old : self._num_old + len(buckets)] = buckets
        self._num_old += len(buckets)
        self._recent[:RECENT] = self._recent[RECENT:]
        self._num_recent = RECENT

    def _merge_pairs(self) -> None:
        paired = self._num_old // 2 * 2
        first, second = self._old[0:paired:2].copy(), self._old[1:paired:2].copy()
        count = first[:, _COUNT] + second[:, _COUNT]
        second[:, _VALUE] = (first[:, _VALUE] * first[:, _COUNT] + second[:, _VALUE] * second[:, _COUNT]) / count
        second[:, _COUNT] = count
        second[:, _LEAST] = np.minimum(first[:, _LEAST], second[:, _LEAST])
        second[:, _GREATEST] = np.maximum(first[:, _GREATEST], second[:, _GREATEST])
        left_over = self._old[paired : self._num_old].copy()
        self._num_old = len(second) + len(left_over)
        self._old[: self._num_old] = np.concatenate((second, left_over))
        self._width = min(self._width * 2, RECENT)

    def drop_beyond(self, step: float) -> None:
        """Forget what came after `step`: a resume from there makes it anew."""
        kept = self._recent[: self._num_recent, 0] <= step
        self._num_recent = int(kept.sum())
        if self._num_recent == 0:
            self._num_old = int((self._old[: self._num_old, 0] <= step).sum())
        self.version += 1

    def points(self, axis: Axis = "step") -> Points:
        """The whole metric: old buckets, then exact points."""
        column = AXES.index(axis)
        old, recent = self._old[: self._num_old], self._recent[: self._num_recent]
        values = recent[:, _VALUE]
        return Points(
            np.concatenate((old[:, column], recent[:, column])),
            np.concatenate((old[:, _VALUE], values)),
            np.concatenate((old[:, _LEAST], values)),
            np.concatenate((old[:, _GREATEST], values)),
            np.concatenate((old[:, _COUNT], recent[:, _COUNT])),
        )

    def last(self) -> float:
        """The newest value; NaN without any."""
        if self._num_recent:
            return float(self._recent[self._num_recent - 1, _VALUE])
        return float(self._old[self._num_old - 1, _VALUE]) if self._num_old else math.nan

    def recent_mean(self, steps: float) -> float:
        """The mean over the last `steps` steps; NaN without any. A point stands for at least one."""
        recent = self._recent[max(self._num_recent - math.ceil(steps), 0) : self._num_recent]
        return _last_mean(recent[:, _VALUE], recent[:, _COUNT], steps)


def moving_mean(points: Points, steps: float) -> Floats:
    """The mean over the last `steps` steps, fewer where there are no more, at each point.

    A point stands for `count` steps, all of its mean; the window may begin inside one. Up to one step: as it is.
    """
    if steps <= 1 or not len(points):
        return points.mean.copy()
    end = np.cumsum(points.count)
    begin = np.maximum(end - steps, 0.0)
    first = np.searchsorted(end, begin, "right")  # the point in which the window begins; the rest lie in it as a whole
    here = np.arange(len(points))
    partly = np.where(first < here, end[first] - begin, np.minimum(points.count, steps))
    # Each window is summed by itself: running sums would carry one huge value's rounding into all that follow.
    total = np.append(points.mean * points.count, 0.0)
    edges = np.column_stack((first + 1, np.maximum(here, first) + 1)).ravel()
    whole = np.where(first < here, np.add.reduceat(total, edges)[::2], 0.0)
    result: Floats = (points.mean[first] * partly + whole) / np.minimum(end, steps)
    return result


def moving_mean_at(points: Points, steps: float, x: float | None = None) -> float:
    """`moving_mean` at `x` alone, or at the newest point. NaN before the first point or beyond the last."""
    end = len(points) if x is None else int(np.searchsorted(points.x, x, "right"))
    if end == 0 or (x is not None and x > points.x[-1]):
        return math.nan
    part = slice(max(end - max(math.ceil(steps), 1), 0), end)
    return _last_mean(points.mean[part], points.count[part], steps)


def _last_mean(values: Floats, counts: Floats, steps: float) -> float:
    """The mean over the last `steps` steps of points in their order; the last value where that is up to one step."""
    if not len(values) or steps <= 1:
        return float(values[-1]) if len(values) else math.nan
    later = np.cumsum(counts[::-1])[::-1] - counts  # steps after each point
    weight = np.clip(steps - later, 0.0, counts)
    return float(values @ weight / weight.sum())


def in_bins(points: Points, first: float, last: float, bins: int, steps: float) -> Points:
    """The points from `first` to `last` in at most about `bins` equal parts, means weighed by count.

    Enough parts lie before `first` for a mean over the last `steps` steps.
    """
    if not len(points) or last <= first:
        return points.between(1, 0)
    shown = points.part_between(first, last)
    start = shown.start
    before = np.cumsum(points.count[:start][::-1])
    start -= min(int(np.searchsorted(before, steps)) + 1, start) if steps > 1 else 0
    part = slice(start, shown.stop)
    x, count = points.x[part], points.count[part]
    column = np.floor((x - first) / (last - first) * bins)
    starts = _starts(column)
    total = np.add.reduceat(count, starts)
    return Points(
        np.add.reduceat(x * count, starts) / total,
        np.add.reduceat(points.mean[part] * count, starts) / total,
        np.minimum.reduceat(points.least[part], starts),
        np.maximum.reduceat(points.greatest[part], starts),
        total,
    )


def to_columns(points: Points, first: float, last: float, columns: int) -> tuple[Floats, Floats]:
    """Reduce to what `columns` columns from `first` to `last` can show: least and greatest of each.

    Gives x and y of a line to draw, at most two points a column; a spike of one step is still there.
    """
    points = points.between(first, last)
    if not len(points) or last <= first:
        return np.empty(0), np.empty(0)
    column = np.clip(((points.x - first) / (last - first) * columns).astype(np.int64), -1, columns)
    starts = _starts(column)
    least = np.minimum.reduceat(points.least, starts)
    greatest = np.maximum.reduceat(points.greatest, starts)
    x = points.x[starts]
    # Enter a column at the end that is nearer to where the line comes from, so that it does not cross itself.
    rises = np.empty(len(starts), dtype=bool)
    rises[0] = True
    middle = (least + greatest) / 2
    rises[1:] = middle[1:] >= middle[:-1]
    ys = np.column_stack((np.where(rises, least, greatest), np.where(rises, greatest, least))).ravel()
    xs = np.repeat(x, 2)
    keep = np.ones(len(xs), dtype=bool)
    keep[1::2] = least != greatest
    return xs[keep], ys[keep]


def _starts(column: NDArray[np.generic]) -> NDArray[np.intp]:
    """Where each stretch of equal values begins."""
    begins = np.ones(len(column), dtype=bool)
    np.not_equal(column[1:], column[:-1], out=begins[1:])
    return np.flatnonzero(begins)


def value_range(parts: Iterable[Floats]) -> tuple[float, float] | None:
    """Least and greatest over all arrays; None where there is nothing."""
    filled = [part for part in parts if len(part)]
    if not filled:
        return None
    return min(float(part.min()) for part in filled), max(float(part.max()) for part in filled)
