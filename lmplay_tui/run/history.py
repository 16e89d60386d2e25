"""Every curve of a run in memory, and many of its lines at once.

NumPy comes with the first point (`series`), not before: a first frame has none.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmplay_tui.run.axes import At, Axis

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lmplay_tui.run.series import Floats, Series

MOST_STEPS = 1e9  # of a line: what more it says is no count of ours
MAX_METRICS = 300  # a journal that invents names shall not fill the memory


class History:
    """Every metric of a run by its name in the journal."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self.version = 0

    def add(self, metric: str, at: At, value: float, steps: float = 1) -> None:
        """Append a point that stands for so many steps."""
        series = self._series(metric)
        if series is not None:
            series.add(at, value, steps)
            self.version += 1

    def add_many(self, metric: str, at: "Floats", values: "Floats", steps: "Floats") -> None:
        """`add` for each row of `at`, its value and its steps; NaN where there is no value."""
        series = self._series(metric)
        if series is not None:
            series.add_many(at, values, steps)
            self.version += 1

    def _series(self, metric: str) -> "Series | None":
        """The metric's own; None where there are too many to take another."""
        series = self.series.get(metric)
        if series is None and len(self.series) < MAX_METRICS:
            from lmplay_tui.run.series import Series

            series = self.series[metric] = Series()
        return series

    def drop_beyond(self, step: float, scores: bool | None = None) -> None:
        """Forget what came after `step`: validation and evaluation alone, or all but them, where `scores` says so."""
        for name, series in self.series.items():
            if scores is None or scores == name.startswith(("val/", "eval/")):
                series.drop_beyond(step)
        self.version += 1

    def replace_beyond(self, step: float, metrics: Iterable[str]) -> None:
        """Forget these metrics' points after `step`: one that stands for all of them comes next."""
        for name in metrics:
            if (series := self.series.get(name)) is not None:
                series.drop_beyond(step)

    def __contains__(self, metric: object) -> bool:
        return metric in self.series

    def get(self, metric: str) -> "Series | None":
        return self.series.get(metric)

    def locate(self, step: float, axis: Axis) -> float:
        """Where `step` lies on another axis, between its neighbours on the longest curve; NaN where unknown."""
        return self.locate_all([step], axis)[0]

    def locate_all(self, steps: Sequence[float], axis: Axis) -> list[float]:
        """`locate` for many steps at once."""
        if axis == "step" or not steps:
            return [float(step) for step in steps]
        longest = max(self.series.values(), key=len, default=None)
        if longest is None or not len(longest):
            return [math.nan] * len(steps)
        import numpy as np

        found: list[float] = np.interp(steps, longest.points("step").x, longest.points(axis).x).tolist()
        return found


@dataclass(frozen=True, eq=False)
class MetricRows:
    """Lines in a row, all of one stage. Arrays are as long as there are lines."""

    at: "Floats"  # lines x (step, rows, tokens, seconds), all finite
    steps: "Floats"  # that a line says it stands for; NaN where it does not, as in older journals
    of_steps: "NDArray[np.bool_]"  # which of them stand for steps; the others hold scores alone
    metrics: Mapping[str, "tuple[Floats, int]"]  # values, NaN where there is none, and how many lines have one
    last: Mapping[str, Any] | None  # the last line that stands for steps; None: none does

    def __len__(self) -> int:
        return len(self.at)

    def steps_since(self, step_before: float) -> "Floats":
        """How many steps each line stands for, as `steps_of` says of one; 1 where it holds scores alone."""
        import numpy as np

        steps = np.ones(len(self.at))
        at = self.at[self.of_steps, 0]
        since = np.trunc(np.diff(at, prepend=step_before))
        said = np.where(np.isfinite(self.steps), self.steps, 0.0)[self.of_steps]
        found = np.where((said >= 1) & (said <= MOST_STEPS), said, since)
        steps[self.of_steps] = np.where((found >= 1) & (found <= MOST_STEPS), found, 1.0)
        return steps

    def values(self, metric: str) -> "Floats":
        """The metric of each line of steps; 0 where no line knows it, as a line says it that is read alone."""
        found = self.metrics.get(metric)
        return (0.0 * self.at[:, 0] if found is None else found[0])[self.of_steps]
