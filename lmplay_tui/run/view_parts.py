"""The parts of a run's view: a stage, a mark on the curves, a line of the log, a prediction."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmplay_tui.run.telling import Level


@dataclass
class StageView:
    """A stage as the curriculum shows it. Losses are NaN where not known."""

    name: str
    datasets: tuple[str, ...] = ()
    epochs: float = 1.0
    rows_total: int | None = None
    rows_done: int = 0
    rows_per_epoch: int | None = None
    state: str = "waiting"  # waiting, running, done
    loss: float = math.nan
    eval_at_end: float = math.nan  # its own evaluation set, when it was done
    eval_now: float = math.nan  # the same set, when last scored
    unigram_entropy: float = math.nan
    tokens_per_s: float = math.nan
    seconds: float = math.nan
    text_shown: float = math.nan  # share of the characters read that reached a sample
    rows_without_sample: int = 0

    def follow_text(self, text_shown: object, rows_without_sample: object) -> None:
        """Take what a step or a line says of the text left out; older journals say nothing."""
        if isinstance(text_shown, int | float):
            self.text_shown = float(text_shown)
        if isinstance(rows_without_sample, int):
            self.rows_without_sample = rows_without_sample

    @property
    def begun(self) -> bool:
        """Whether rows of it have been trained: a changed plan then keeps it where it is."""
        return self.rows_done > 0 or self.state == "done"

    @property
    def fraction(self) -> float:
        return min(self.rows_done / self.rows_total, 1.0) if self.rows_total else 0.0

    @property
    def rows_left(self) -> float:
        """Rows still to read; NaN where the stage's rows are not known yet."""
        if self.state == "done":
            return 0.0
        return math.nan if self.rows_total is None else float(max(self.rows_total - self.rows_done, 0))


@dataclass(frozen=True)
class Mark:
    """Something that happened, to be drawn on the curves."""

    kind: str  # stage, save, lr, plan, resume, warning, spike, bookmark
    step: int
    text: str


@dataclass(frozen=True)
class LogEntry:
    at: float  # seconds since 1970
    level: Level
    text: str
    event: str = ""
    reason: str = ""  # why, where the event says so: a save was asked for, or came by itself


@dataclass(frozen=True, eq=False)
class PredictionSeen:
    """A prediction, where it was made and its number in the order of arrival."""

    number: int
    step: int
    stage: str
    values: Mapping[str, Any]  # as events.Prediction names them


_BY_TOKEN = ("truth_tokens", "truth_p", "top5")


def without_tokens(values: Mapping[str, Any]) -> dict[str, Any]:
    """A prediction without what is known of each of its tokens."""
    return {key: value for key, value in values.items() if key not in _BY_TOKEN}


def sound_tokens(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A prediction as it is, or without its tokens where another hand has spoilt them in the journal."""
    tokens, chances, tops = (values.get(key) or () for key in _BY_TOKEN)
    if not all(isinstance(each, list | tuple) for each in (tokens, chances, tops)):
        return without_tokens(values)
    sound = len(tokens) == len(chances) >= len(tops) and all(isinstance(token, str) for token in tokens)
    return values if sound and all(_is_top(top) for top in tops) else without_tokens(values)


def _is_top(top: object) -> bool:
    """Pairs of a token and its probability."""
    return isinstance(top, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in top)
