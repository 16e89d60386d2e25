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

_VALUE, _COUNT, _LEAST, _GREATEST = len(AXES), len(AXES) + 1, len(AXES) + 2, len(AXES) + 3


@dataclass(frozen=True, eq=False)
class Points:
    """A metric as arrays of one length, `x` rising: mean, least and greatest of `count` values each."""

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
        self._recent = np.empty((2 * RECENT, len(AXES) + 1))
        self._num_recent = 0
        self._old = np.empty((BUCKETS, len(AXES) + 4))
        self._num_old = 0
        self._width = 1  # points a new bucket takes
        self.version = 0

    def __len__(self) -> int:
        return self._num_recent + self._num_old

    def add(self, at: At, value: float) -> None:
        """Append a point; what is not finite leaves a gap."""
        if not math.isfinite(value):
            return
        if self._num_recent == len(self._recent):
            self._fold()
        self._recent[self._num_recent] = (*at, value)
        self._num_recent += 1
        self.version += 1

    def add_many(self, at: Floats, values: Floats) -> None:
        """`add` for each row of `at` and its value, with the same result."""
        finite = np.isfinite(values)
        if not finite.all():
            at, values = at[finite], values[finite]
        begin = 0
        while begin < len(values):
            if self._num_recent == len(self._recent):
                self._fold()
            count = min(len(values) - begin, len(self._recent) - self._num_recent)
            free = self._recent[self._num_recent : self._num_recent + count]
            free[:, :-1], free[:, -1] = at[begin : begin + count], values[begin : begin + count]
            self._num_recent += count
            begin += count
        self.version += len(values)

    def _fold(self) -> None:
        """Move the older half of the exact points into buckets."""
        while self._num_old + RECENT // self._width > BUCKETS:
            self._merge_pairs()
        groups = self._recent[:RECENT].reshape(-1, self._width, len(AXES) + 1)
        values = groups[:, :, -1]
        self._append_buckets(
            np.column_stack((groups[:, -1], np.full(len(groups), self._width), values.min(axis=1), values.max(axis=1))),
            means=values.mean(axis=1),
        )
        self._recent[:RECENT] = self._recent[RECENT:]
        self._num_recent = RECENT

    def _append_buckets(self, buckets: Floats, means: Floats) -> None:
        buckets[:, _VALUE] = means
        self._old[self._num_old : self._num_old + len(buckets)] = buckets
        self._num_old += len(buckets)

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
        values = recent[:, -1]
        return Points(
            np.concatenate((old[:, column], recent[:, column])),
            np.concatenate((old[:, _VALUE], values)),
            np.concatenate((old[:, _LEAST], values)),
            np.concatenate((old[:, _GREATEST], values)),
            np.concatenate((old[:, _COUNT], np.ones(len(values)))),
        )

    def last(self) -> float:
        """The newest value; NaN without any."""
        return float(self._recent[self._num_recent - 1, -1]) if self._num_recent else math.nan

    def last_at(self, axis: Axis) -> float:
        """Where the newest value stands; NaN without any."""
        return float(self._recent[self._num_recent - 1, AXES.index(axis)]) if self._num_recent else math.nan

    def recent_mean(self, count: int) -> float:
        """The mean of the last `count` values; NaN without any."""
        values = self._recent[max(self._num_recent - count, 0) : self._num_recent, -1]
        return float(values.mean()) if len(values) else math.nan


_FORGOTTEN_SPANS = 64  # so many spans ago a value weighs e^-64: nothing, in a sum of floats


def exponential_mean(points: Points, span: float) -> Floats:
    """The debiased exponential mean over about `span` values, at each point.

    `m = b*m + (1-b)*y`, divided by `1 - b^n` so that the first values are not pulled to zero (Kingma & Ba 2015,
    section 3); a point that stands for `k` values counts `k` times.
    """
    if span <= 1 or not len(points):
        return points.mean.copy()
    keep = 1.0 - 1.0 / span
    result = np.empty(len(points))
    total = weight = 0.0
    for i, (value, kept) in enumerate(zip(points.mean.tolist(), (keep**points.count).tolist(), strict=True)):
        total = kept * total + (1.0 - kept) * value
        weight = kept * weight + (1.0 - kept)
        result[i] = total / weight
    return result


def exponential_mean_at(points: Points, span: float, x: float | None = None) -> float:
    """`exponential_mean` at `x` alone, or at the newest point. NaN before the first point or beyond the last."""
    end = len(points) if x is None else int(np.searchsorted(points.x, x, "right"))
    if end == 0 or (x is not None and x > points.x[-1]):
        return math.nan
    if span <= 1:
        return float(points.mean[end - 1])
    keep = 1.0 - 1.0 / span
    begin = max(end - math.ceil(_FORGOTTEN_SPANS * span), 0)
    count = points.count[begin:end]
    after = np.cumsum(count[::-1])[::-1] - count  # values that came later
    weight = (1.0 - keep**count) * keep**after
    return float((weight * points.mean[begin:end]).sum() / weight.sum())


def in_bins(points: Points, first: float, last: float, bins: int, span: float) -> Points:
    """The points from `first` to `last` in at most about `bins` equal parts, means weighed by count.

    Enough parts lie before `first` for a smoothing over `span` values to have forgotten how it began.
    """
    if not len(points) or last <= first:
        return points.between(1, 0)
    shown = points.part_between(first, last)
    start = shown.start
    before = np.cumsum(points.count[:start][::-1])
    start -= min(int(np.searchsorted(before, 8 * span)) + 1, start) if span > 1 else 0
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
