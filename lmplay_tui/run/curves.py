"""Recorded curves as arrays: read from statistics files, named apart, smoothed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from lmplay_tui.errors import UserError
from lmplay_tui.run.statistics_files import COLUMNS, SUFFIX, StatisticsFile, read_statistics
from lmplay_tui.text import one_line

Metric = Literal["loss", "accuracy"]
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

    def values(self, metric: Metric) -> Array:
        """The column of that name."""
        return self.loss if metric == "loss" else self.accuracy


def statistics_in(folder: Path) -> list[Path]:
    """The statistics files in `folder`, newest first. Raises `UserError` if it cannot be read."""
    try:
        paths = [path for path in folder.iterdir() if path.name.endswith(SUFFIX) and not path.name.startswith(".")]
        return sorted(paths, key=lambda path: (-path.stat().st_mtime, path.name))
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
    rows = np.array(content.history, dtype=np.float64).reshape(-1, len(COLUMNS))
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
    )


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


def smoothed(values: Array, count: int) -> Array:
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
