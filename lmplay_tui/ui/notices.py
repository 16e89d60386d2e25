"""What deserves a toast, the bell, or a word in the terminal's title."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

from lmplay_tui.formats import format_duration, format_percent
from lmplay_tui.run.view import LogEntry, RunView

Severity = Literal["information", "warning", "error"]

_TITLES: dict[str, tuple[str, Severity, bool]] = {  # event -> title, severity, whether it rings
    "CheckpointSaved": ("saved", "information", False),
    "StageDone": ("stage done", "information", True),
    "Warned": ("warning", "warning", False),
    "TextLeftOut": ("text left out", "warning", False),
    "LossSpiked": ("loss spike", "warning", True),
    "Stalled": ("stalled", "warning", True),
    "RunDone": ("finished", "information", True),
    "RunFailed": ("failed", "error", True),
    "Died": ("died", "error", True),
    "PlanChanged": ("plan changed", "information", False),
    "LearningRateChanged": ("learning rate", "information", False),
}


_ENDS = ("RunDone", "RunFailed", "Died")
OLD_S = 30.0  # what is older was read from a journal
MOST = 5  # notices at a time
RINGS_EVERY_S = 10.0  # a run whose loss spikes at each step shall not ring at each


@dataclass(frozen=True)
class Notice:
    title: str
    text: str
    severity: Severity
    rings: bool
    seconds: float


class News:
    """The notices of a run, each given once."""

    def __init__(self) -> None:
        self._count = 0
        self._newest: LogEntry | None = None  # that was seen and stays: a validation gives way to the next
        self._rang_at = -math.inf

    def of(self, view: RunView) -> list[Notice]:
        """Notices for the log's new lines, the newest five of those that deserve one."""
        if view.log_count == self._count:
            return []
        new = list(itertools.takewhile(lambda entry: entry is not self._newest, reversed(view.log)))
        self._count = view.log_count
        self._newest = next((entry for entry in new if entry.event != "Validated"), self._newest)
        worth = [entry for entry in new if _deserves_one(entry) and entry.at > view.now() - OLD_S]
        return [self._notice(entry, view.now()) for entry in reversed(worth[:MOST])]

    def _notice(self, entry: LogEntry, now: float) -> Notice:
        title, severity, rings = _TITLES[entry.event]
        rings = rings and (entry.event in _ENDS or now - self._rang_at >= RINGS_EVERY_S)
        if rings:
            self._rang_at = now
        return Notice(title, entry.text, severity, rings, 4 if severity == "information" else 8)


def _deserves_one(entry: LogEntry) -> bool:
    """A save by schedule is in the log and a mark on the curves: it covers no pane."""
    return entry.event in _TITLES and (entry.event != "CheckpointSaved" or entry.reason == "asked")


def terminal_title(view: RunView) -> str:
    """`41 % 3.21 ETA 3 h 20 · name`: what one wants to know from the window list."""
    words = []
    if view.over:
        words.append(view.state)
    elif view.stages:
        words.append(format_percent(view.fraction_done))
        loss = view.stage.loss if view.stage else math.nan
        if math.isfinite(loss):
            words.append(f"{loss:.2f}")
        left = view.seconds_left()
        if math.isfinite(left):
            words.append(f"ETA {format_duration(left)}")
    words.append(("· " if words else "") + (view.name or "lmplay-tui"))
    return " ".join(words)
