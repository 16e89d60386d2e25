"""Which curves there are, and which part of them is looked at: plain state behind the keys."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lmplay_tui.run.axes import AXES, Axis
from lmplay_tui.run.metric_names import RECENT_LOSS, RECENT_STEPS, is_share
from lmplay_tui.run.view import RunView
from lmplay_tui.scales import grown_end

VIEWS = ("full", "stage", "recent")
SPANS = (1, RECENT_STEPS, 200, 1000)  # steps that the smoothing averages over; 1: off
RECENT_VIEW = 400  # steps
_SPLITS = ("train", "val", "eval")
_ORDER = ("loss", "accuracy", "character_accuracy", "bits_per_byte", "lr", "grad_norm")
# Of metrics that stand alone; those of other names come before.
_FOLDERS = ("perf", "time", "ranks", "memory", "sys", "data")


@dataclass(frozen=True)
class Group:
    """Metrics that share a chart: the same value of training, validation and evaluation, or one metric alone."""

    title: str
    metrics: tuple[str, ...]

    @property
    def is_share(self) -> bool:
        """Whether it measures a share of a whole, 0 to 1."""
        return any(is_share(metric) for metric in self.metrics)


def groups_of(metrics: Iterable[str], pattern: str = "") -> list[Group]:
    """The charts there are for these metrics; `pattern`: words to look for.

    What training, validation and evaluation measure comes first, loss and accuracy before all; what the machine and the
    data are like comes last.
    """
    shared: dict[str, list[str]] = {"loss": [], "accuracy": []}
    alone = []
    for name in sorted(metrics):
        if name == RECENT_LOSS:  # the loss's own line, smoothed
            continue
        split, _, value = name.partition("/")
        if split in _SPLITS:
            shared.setdefault(value, []).append(name)
        else:
            alone.append(name)
    ordered = sorted(shared, key=lambda value: (_ORDER.index(value) if value in _ORDER else len(_ORDER), value))
    if "character_accuracy" in shared and not shared["accuracy"]:  # no text of this run is measured by words
        ordered.remove("accuracy")
    groups = [
        Group(value.replace("_", " "), tuple(sorted(shared[value], key=lambda n: _SPLITS.index(n.split("/")[0]))))
        for value in ordered
    ]
    alone.sort(key=lambda name: (_FOLDERS.index(folder) + 1 if (folder := name.split("/")[0]) in _FOLDERS else 0, name))
    groups += [Group(name, (name,)) for name in alone]
    return [group for group in groups if matches(pattern, (group.title, *group.metrics))]


def matches(pattern: str, texts: Sequence[str]) -> bool:
    """Whether each word of the pattern is found in one of the texts; a word may be a regular expression."""
    joined = "\n".join(texts)
    for word in pattern.split():
        try:
            found = re.search(word, joined, re.IGNORECASE)
        except re.error:
            found = None if word.lower() not in joined.lower() else re.match("", "")
        if not found:
            return False
    return True


class CurveWindow:
    """View, zoom, pan, axis and cursor."""

    def __init__(self) -> None:
        self.view = "full"
        self.axis: Axis = "step"
        self.log = False
        self.span = RECENT_STEPS
        self.zoom = 0  # halvings of the window
        self.pan = 0.0  # window widths to the left
        self.cursor: float | None = None  # on the axis
        self.pattern = ""
        self.selected = 0

    def next_view(self, by: int) -> None:
        self.view = VIEWS[(VIEWS.index(self.view) + by) % len(VIEWS)]
        self.zoom, self.pan = 0, 0.0

    def next_axis(self, view: RunView) -> None:
        """Go to the next axis; the cursor stays at its place in the run."""
        step = self._cursor_step(view)
        self.axis = AXES[(AXES.index(self.axis) + 1) % len(AXES)]
        self.cursor = None if step is None else view.history.locate(step, self.axis)
        self.zoom, self.pan = 0, 0.0

    def next_span(self) -> None:
        self.span = SPANS[(SPANS.index(self.span) + 1) % len(SPANS)]

    def _cursor_step(self, view: RunView) -> float | None:
        if self.cursor is None:
            return None
        if self.axis == "step":
            return self.cursor
        longest = max(view.history.series.values(), key=len, default=None)
        if longest is None:
            return None
        points, steps = longest.points(self.axis), longest.points("step")
        return float(steps.x[min(int(points.x.searchsorted(self.cursor)), len(points) - 1)]) if len(points) else None

    def x_range(self, view: RunView) -> tuple[float, float]:
        """The part of the axis that is shown. It ends where the run is, in hops, so that the picture seldom shifts."""
        now = self.now(view)
        first, last = 0.0, grown_end(now)
        if self.view == "stage":
            starts = [mark.step for mark in view.marks if mark.kind == "stage"]
            first = view.history.locate(starts[-1], self.axis) if starts else 0.0
            first = 0.0 if math.isnan(first) else first
            last = first + grown_end(now - first)
        elif self.view == "recent":
            back = view.history.locate(max(view.at.step - RECENT_VIEW, 0), self.axis)
            width = grown_end(now - (0.0 if math.isnan(back) else back))
            last = math.ceil(now / (width / 32) - 1e-9) * width / 32
            first = max(last - width, 0.0)
        return self._zoomed(first, last, now)

    def now(self, view: RunView) -> float:
        """Where the run stands on the axis."""
        return {"step": view.at.step, "rows": view.at.rows, "tokens": view.at.tokens, "time": view.at.time}[self.axis]

    def _zoomed(self, first: float, last: float, now: float) -> tuple[float, float]:
        if not self.zoom and not self.pan:
            return first, last
        width = (last - first) / 2**self.zoom
        if self.cursor is not None and self.zoom:
            start = self.cursor - width / 2
        else:
            start = min(now, last) - width * 0.95 if self.zoom else first
        start -= self.pan * width
        start = min(max(start, 0.0), max(last - width * 0.1, 0.0))
        return start, start + width
