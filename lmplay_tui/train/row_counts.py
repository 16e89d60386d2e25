"""The rows of stages to come, counted beside the training: without them nobody knows when the plan will be done."""

import threading
from collections.abc import Callable, Iterable

from lmplay_tui.plan.schema import Stage


class RowCounts:
    """What `count(stage)` gives for stages that have not been opened yet."""

    def __init__(self, count: Callable[[Stage], int | None]) -> None:
        self._count = count
        self._found: dict[str, tuple[Stage, int | None]] = {}  # by name; of the stage as the plan then had it
        self._thread: threading.Thread | None = None
        self._has_news = False

    def begin(self, stages: Iterable[Stage]) -> None:
        """Count what has not been counted, in a thread that nothing waits for: the hub may be silent."""
        wanted = [stage for stage in stages if stage.name not in self._found or self._found[stage.name][0] != stage]
        if wanted and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._run, args=(wanted,), name="counting", daemon=True)
            self._thread.start()

    def _run(self, stages: list[Stage]) -> None:
        for stage in stages:
            self._found[stage.name] = stage, self._count(stage)
        self._has_news = True

    def take_news(self) -> bool:
        """Whether something has been counted since the last time."""
        news, self._has_news = self._has_news, False
        return news

    def of(self, stage: Stage) -> int | None:
        """The rows of a stage over all its epochs, if they have been counted."""
        known = self._found.get(stage.name)
        return known[1] if known is not None and known[0] == stage else None
