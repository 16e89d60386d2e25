"""Many lines of `metrics.jsonl` at once, as columns: a run of a million steps opens in about a second.

What is not as the trainer writes it (another type, a missing place, a line that is no object) is left to be read line
by line: the columns never say anything else than the lines do.
"""

from typing import Any

from lmplay_tui.run.history import MetricRows
from lmplay_tui.run.journal import Tail

FROM_BYTES = 1 << 18  # less does not pay for importing pyarrow, and none of it is imported before a first frame


class MetricsTail(Tail):
    """A `Tail` that gives long stretches of lines as columns."""

    def read_rows(self, limit_bytes: int = 1 << 22) -> list[MetricRows | dict[str, Any]]:
        """As `read`, in the file's order."""
        data = self._take(limit_bytes)
        if len(data) < FROM_BYTES or self._seen_step >= 0:
            return [*self._records(data)]
        items: list[MetricRows | dict[str, Any]] = []
        from lmplay_tui.run.metric_columns import in_columns

        for part in in_columns(data):
            if isinstance(part, MetricRows):
                self._last_step = max(self._last_step, int(part.at[:, 0].max()))
                items.append(part)
            else:
                items.extend(self._records(part))
        return items
