"""A curve's points made few enough to be drawn, and smooth enough to be read."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from lmplay_tui.run.series import Floats, Points

_FORGOTTEN_SPANS = 64  # so many spans ago a value weighs e^-64: nothing, in a sum of floats


def smoothed(points: Points, span: float) -> Floats:
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


def smoothed_at(points: Points, span: float, x: float | None = None) -> float:
    """`smoothed` at one place alone: at `x`, or at the newest point. NaN before the first point or beyond the last."""
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
    start = max(int(np.searchsorted(points.x, first, "left")) - 1, 0)
    end = int(np.searchsorted(points.x, last, "right")) + 1
    before = np.cumsum(points.count[:start][::-1])
    start -= min(int(np.searchsorted(before, 8 * span)) + 1, start) if span > 1 else 0
    part = slice(start, end)
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
