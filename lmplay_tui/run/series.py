"""One metric in memory: bounded for a run of any length, and no extreme is ever lost.

It keeps its last points exactly and folds what is older into buckets of mean, least and greatest value. A bucket's
width doubles when there are too many, so a million steps cost what some thousand cost.
"""

import math
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
        start = max(int(np.searchsorted(self.x, first, "left")) - 1, 0)
        end = int(np.searchsorted(self.x, last, "right")) + 1
        part = slice(start, end)
        return Points(self.x[part], self.mean[part], self.least[part], self.greatest[part], self.count[part])


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
