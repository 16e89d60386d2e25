"""Many lines of `metrics.jsonl` at once, as columns: a run of a million steps opens in about a second.

What is not as the trainer writes it (another type, a missing place, a line that is no object) is left to be read line
by line: the columns never say anything else than the lines do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmplay_tui.run.journal import Tail

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lmplay_tui.run.series import Floats

FROM_BYTES = 1 << 18  # less does not pay for importing pyarrow, and none of it is imported before a first frame


@dataclass(frozen=True, eq=False)
class MetricRows:
    """Lines in a row, all of one stage. Arrays are as long as there are lines."""

    at: "Floats"  # lines x (step, rows, tokens, seconds), all finite
    of_steps: "NDArray[np.bool_]"  # which of them stand for steps; the others hold scores alone
    metrics: Mapping[str, "tuple[Floats, int]"]  # values, NaN where there is none, and how many lines have one
    last: Mapping[str, Any] | None  # the last line that stands for steps; None: none does

    def __len__(self) -> int:
        return len(self.at)

    def values(self, metric: str) -> "Floats":
        """The metric of each line of steps; 0 where no line knows it, as a line says it that is read alone."""
        found = self.metrics.get(metric)
        return (0.0 * self.at[:, 0] if found is None else found[0])[self.of_steps]


class MetricsTail(Tail):
    """A `Tail` that gives long stretches of lines as columns."""

    def read_rows(self, limit_bytes: int = 1 << 22) -> list[MetricRows | dict[str, Any]]:
        """As `read`, in the file's order."""
        data = self._take(limit_bytes)
        if len(data) < FROM_BYTES or self._seen_step >= 0:
            return [*self._records(data)]
        from lmplay_tui.run.metric_columns import in_columns

        items: list[MetricRows | dict[str, Any]] = []
        for part in in_columns(data):
            if isinstance(part, MetricRows):
                self._last_step = max(self._last_step, int(part.at[:, 0].max()))
                items.append(part)
            else:
                items.extend(self._records(part))
        return items
