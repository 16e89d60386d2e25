"""What deserves a toast, the bell, or a word in the terminal's title."""

import math
from dataclasses import dataclass
from typing import Literal

from lmplay_tui.run.telling import shown_seconds
from lmplay_tui.run.view import RunView

Severity = Literal["information", "warning", "error"]

_TITLES: dict[str, tuple[str, Severity, bool]] = {  # event -> title, severity, whether it rings
    "CheckpointSaved": ("saved", "information", False),
    "StageDone": ("stage done", "information", True),
    "Warned": ("warning", "warning", False),
    "LossSpiked": ("loss spike", "warning", True),
    "Stalled": ("stalled", "warning", True),
    "RunDone": ("finished", "information", True),
    "RunFailed": ("failed", "error", True),
    "PlanChanged": ("plan changed", "information", False),
    "LearningRateChanged": ("learning rate", "information", False),
}


OLD_S = 30.0  # what is older was read from a journal


@dataclass(frozen=True)
class Notice:
    title: str
    text: str
    severity: Severity
    rings: bool
    seconds: float


class News:
    """Remembers what has been told already."""

    def __init__(self) -> None:
        self._told = 0

    def of(self, view: RunView) -> list[Notice]:
        """Notices for the log's newest lines, at most five at a time."""
        new, self._told = view.log_count - self._told, view.log_count
        notices = []
        for entry in list(view.log)[-min(new, 5) :] if new else ():
            known = _TITLES.get(entry.event)
            if known is not None and entry.at > view.now() - OLD_S:
                title, severity, rings = known
                notices.append(Notice(title, entry.text, severity, rings, 4 if severity == "information" else 8))
        return notices


def terminal_title(view: RunView) -> str:
    """`41 % 3.21 ETA 3 h 20 · name`: what one wants to know from the window list."""
    words = []
    if view.over:
        words.append(view.state)
    elif view.stages:
        words.append(f"{view.fraction_done:.0%}".replace("%", " %"))
        loss = view.stage.loss if view.stage else math.nan
        if math.isfinite(loss):
            words.append(f"{loss:.2f}")
        left = view.seconds_left()
        if math.isfinite(left):
            words.append(f"ETA {shown_seconds(left)}")
    words.append(("· " if words else "") + (view.name or "lmplay-tui"))
    return " ".join(words)
