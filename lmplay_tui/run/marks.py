"""What is marked on the curves: kind and text of each event that one would look for beside a loss."""

from collections.abc import Callable, Mapping
from typing import Any

from lmplay_tui.run.journal import number
from lmplay_tui.run.telling import told
from lmplay_tui.text import one_line

Record = Mapping[str, Any]


def _sentence(record: Record) -> str:
    """What the log says of it."""
    sentence = told(record)
    return sentence[1] if sentence else ""


def _spike(record: Record) -> str:
    first, last = (int(number(record.get(key, 0))) for key in ("first_row", "last_row"))
    jump = f"{number(record.get('loss')):.3f} after {number(record.get('usual_loss')):.3f}"
    return f"spike {jump}, rows {first}–{last}"


_MARKS: dict[str, tuple[str, Callable[[Record], str]]] = {
    "RunStarted": ("resume", lambda r: f"resumed at step {r['resumed_from']}"),
    "StageStarted": ("stage", lambda r: f"stage {one_line(r.get('stage', ''), 40)}"),
    "CheckpointSaved": ("save", lambda _: "saved"),
    "LearningRateChanged": ("lr", lambda r: f"learning rate x {number(r.get('factor', 1)):g}"),
    "OptionChanged": ("plan", _sentence),
    "PlanChanged": ("plan", lambda _: "plan changed"),
    "Bookmarked": ("bookmark", lambda r: str(r.get("note", ""))),
    "Warned": ("warning", lambda r: str(r.get("message", ""))),
    "LossSpiked": ("spike", _spike),
    "Stalled": ("warning", _sentence),
    "TextLeftOut": ("warning", _sentence),
    "RunFailed": ("warning", lambda r: str(r.get("message", ""))),
}


def mark_of(record: Record) -> tuple[str, str] | None:
    """Kind and text of the mark that an event leaves; None for one that leaves none."""
    event = record.get("event")
    if event == "RunStarted" and not isinstance(record.get("resumed_from"), int):
        return None
    known = _MARKS.get(str(event))
    return None if known is None else (known[0], one_line(known[1](record)))
