"""`--max-hours`: a run's own wish to stop, when its time is up."""

import os
import time
from collections.abc import Callable

from lmplay_tui.run.controls import Command, Stop

SPENT = "LMPLAY_TUI_SPENT_S"  # environment: seconds that the processes before this one have spent on the same start


class TimeLimit:
    """A source of commands: it asks once for a stop. Time counts from the start, loading and pauses included."""

    def __init__(self, hours: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = None if hours is None else hours * 3600
        self._clock = clock
        self._begun = clock() - _spent_before()
        self._asked = False

    @property
    def spent_s(self) -> float:
        """Since the start, in this process and in those that handed the run over to it."""
        return self._clock() - self._begun

    def __call__(self) -> list[Command]:
        if self._asked or self._limit_s is None or self.spent_s < self._limit_s:
            return []
        self._asked = True
        return [Stop(reason="--max-hours")]


def _spent_before() -> float:
    try:
        return max(float(os.environ.pop(SPENT, "0")), 0.0)
    except ValueError:
        return 0.0
