"""How fast a run is, and when it will be done: measured over the last minutes, all that happens in between included."""

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmplay_tui.formats import format_percent

if TYPE_CHECKING:
    from lmplay_tui.run.series import Floats


class Pace:
    """Rows and tokens a second, from marks of (seconds, rows, tokens) at least a second apart."""

    def __init__(self, window_s: float = 600.0, short_s: float = 20.0) -> None:
        self._marks: deque[tuple[float, float, float]] = deque()
        self._window_s = window_s
        self._short_s = short_s
        self._last: tuple[float, float, float] | None = None
        self._told: tuple[float, float] | None = None

    def clear(self) -> None:
        """Forget the past: a pause, a new stage or a resume would falsify the rates."""
        self._marks.clear()
        self._last = self._told = None

    def tell(self, rows_per_s: float, tokens_per_s: float) -> None:
        """What the trainer itself has measured: it holds before what a reader of its journals can. NaN: not known."""
        self._told = (rows_per_s, tokens_per_s)

    def mark(self, at_s: float, rows: float, tokens: float) -> None:
        """Note how far the run is at `at_s`."""
        self._last = (at_s, rows, tokens)
        if not self._marks or at_s - self._marks[-1][0] >= 1.0:
            self._marks.append(self._last)
            while self._marks[0][0] < at_s - self._window_s:
                self._marks.popleft()

    def mark_many(self, at_s: Sequence[float], rows: Sequence[float], tokens: Sequence[float]) -> None:
        """`mark` for many places of a run's past, in their order."""
        newest = self._marks[-1][0] if self._marks else -math.inf
        for i, each_s in enumerate(at_s):
            if each_s - newest >= 1.0:
                newest = each_s
                self.mark(each_s, rows[i], tokens[i])
        if at_s:
            self.mark(at_s[-1], rows[-1], tokens[-1])

    def _rate(self, column: int, window_s: float) -> float:
        if self._told is not None and math.isfinite(told := self._told[column - 1]):
            return told
        if self._last is None or not self._marks:
            return math.nan
        since = self._last[0] - window_s
        first = self._marks[0]
        if first[0] < since:  # look from the end, where a short window begins
            first = self._marks[-1]
            for mark in reversed(self._marks):
                if mark[0] < since:
                    break
                first = mark
        seconds = self._last[0] - first[0]
        return (self._last[column] - first[column]) / seconds if seconds > 0.2 else math.nan

    @property
    def rows_per_s(self) -> float:
        """Over the whole window: validation, evaluation and saving included. NaN where not known yet."""
        return self._rate(1, self._window_s)

    @property
    def tokens_per_s(self) -> float:
        """Over the last seconds. NaN where not known yet."""
        return self._rate(2, self._short_s)

    def seconds_for(self, rows: float) -> float:
        """How long so many rows will take; NaN where not known yet."""
        rate = self.rows_per_s
        return max(rows, 0) / rate if rate > 0 else math.nan


PARTS = ("data", "forward", "backward", "reduce", "optimizer", "other", "validate", "save")

_ADVICE = {
    "data": "waiting for data: the processor cuts and tokenizes more slowly than the device trains",
    "forward": "in the forward pass",
    "backward": "in the backward pass",
    "reduce": "waiting for other ranks, and summing the gradients",
    "optimizer": "in the optimizer",
    "other": "between the passes: word accuracy, logging, the screen",
    "validate": "validating and evaluating: longer intervals would help",
    "save": "saving checkpoints: a longer --save-interval would help",
}


class StepTime:
    """Where the time of the last some hundred steps went."""

    def __init__(self, memory_steps: float = 200.0) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._keep = 1.0 - 1.0 / memory_steps

    def step(self, whole_s: float, parts: dict[str, float], steps: int = 1) -> None:
        """Add `steps` steps of `whole_s` seconds each; what `parts` leave of it is "other"."""
        kept = self._keep**steps
        for name in PARTS:
            self._seconds[name] *= kept
        known = 0.0
        for name, seconds in parts.items():
            if seconds > 0:
                self._seconds[name] += seconds * steps
                known += seconds
        self._seconds["other"] += max(whole_s - known, 0.0) * steps

    def step_many(self, whole_s: "Floats", parts: "dict[str, Floats]", steps: "Floats") -> None:
        """`step` for many lines of a run's past, in their order; sums differ by rounding alone."""
        import numpy as np

        later = np.cumsum(steps[::-1])[::-1] - steps
        weight = steps * self._keep**later
        kept = self._keep ** float(steps.sum())
        for name in PARTS:
            self._seconds[name] *= kept
        known = np.zeros(len(steps))
        for name, seconds in parts.items():
            positive = np.maximum(seconds, 0.0)
            self._seconds[name] += float(positive @ weight)
            known += positive
        self._seconds["other"] += float(np.maximum(whole_s - known, 0.0) @ weight)

    def add(self, part: str, seconds: float) -> None:
        """Add time between steps: validating, saving."""
        if seconds > 0:
            self._seconds[part] += seconds

    def shares(self) -> dict[str, float]:
        """The share of each part, in their order; empty where nothing is known."""
        total = sum(self._seconds.values())
        return {name: seconds / total for name, seconds in self._seconds.items()} if total > 0 else {}

    def sentence(self) -> str:
        """What takes most of the time, or what takes time that it should not."""
        shares = self.shares()
        if not shares:
            return ""
        wasted = [name for name in ("data", "reduce", "save", "validate") if shares[name] >= 0.15]
        name = wasted[0] if wasted else max(shares, key=lambda part: shares[part])
        return f"{format_percent(shares[name])} of the time {_ADVICE[name]}"
