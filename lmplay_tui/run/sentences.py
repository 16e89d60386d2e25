"""Events as sentences for a log: one line each, the same live and from a journal.

What is marked on the curves: kind and text of each event that one would look for beside a loss.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any, Literal

from lmplay_tui.formats import format_bytes, format_duration, format_parameters, format_percent
from lmplay_tui.run.controls import rate_sentence
from lmplay_tui.run.journal import number
from lmplay_tui.text import one_line

Level = Literal["info", "good", "warning", "error"]
Record = Mapping[str, Any]

LEAST_TEXT_SHOWN = 0.9  # share of a text's characters: where less reaches a sample, that is warned of


def _text(record: Record, key: str) -> str:
    return one_line(record.get(key, "") or "")


def _step(record: Record) -> str:
    return f"step {_count(record.get('step'))}"


def _count(value: object) -> str:
    return f"{int(value):,}" if isinstance(value, int | float) and math.isfinite(value) else "?"


def _scores(record: Record) -> str:
    said = f"loss {number(record.get('loss')):.3f}"
    accuracy = record.get("accuracy")
    return said if accuracy is None else f"{said}, accuracy {number(accuracy):.3f}"


def _run_started(record: Record) -> str:
    resumed = record.get("resumed_from")
    start = "training anew" if resumed is None else f"resumed at step {_count(resumed)}"
    size = format_parameters(number(record.get("num_parameters")))
    note = _text(record, "note")
    return f"{_text(record, 'name')}: {start} on {_text(record, 'device')}, {size}" + (f"; {note}" if note else "")


def _evaluated(record: Record) -> str:
    sets = record.get("sets")
    sets = sets if isinstance(sets, Mapping) else {}
    told = ", ".join(
        f"{one_line(name, 40)} {number(scores.get('loss')):.3f}"
        for name, scores in sets.items()
        if isinstance(scores, Mapping)
    )
    return f"evaluated at {_step(record)}: loss {told}"


def _saved(record: Record) -> str:
    return (
        f"saved {one_line(record.get('path', ''), 400)} ({_step(record)}, "
        f"{format_bytes(number(record.get('size_bytes')))}, {format_duration(number(record.get('seconds')))}, "
        f"{_text(record, 'reason')})"
    )


def _stopped(record: Record) -> str:
    path = record.get("path")
    if path is None:
        return "stopped before the first step: nothing was saved"
    if record.get("saved") is False:
        return f"stopped at {_step(record)} before anything was trained: {one_line(path, 400)} is as it was"
    return f"stopped at {_step(record)}, saved {one_line(path, 400)}"


def _plan_changed(record: Record) -> str:
    changes = record.get("what")
    changes = changes if isinstance(changes, list | tuple) else ()
    told = "; ".join(one_line(change) for change in changes) or "nothing that trains, only its text"
    return f"plan changed at {_step(record)}: {told}"


def _learning_rate_changed(record: Record) -> str:
    lr, factor = number(record.get("lr")), number(record.get("factor"))
    if not math.isfinite(lr):  # as versions before wrote it
        return f"learning rate x {factor:g} of the schedule from {_step(record)}"
    step = number(record.get("step"))
    follows = one_line(record.get("outlook") or "", 1000)
    return rate_sentence(lr, factor, int(step) if math.isfinite(step) else 0, follows)


def _option_changed(record: Record) -> str:
    return f"{_text(record, 'option')}: {_text(record, 'before')} -> {_text(record, 'after')} from {_step(record)} on"


def _bookmarked(record: Record) -> str:
    note = _text(record, "note")
    return f"bookmark at {_step(record)}" + (f": {note}" if note else "")


def _spiked(record: Record) -> str:
    return (
        f"loss spike at {_step(record)}: {number(record.get('loss')):.3f} after "
        f"{number(record.get('usual_loss')):.3f} (rows {_count(record.get('first_row'))} to "
        f"{_count(record.get('last_row'))} of stage {_text(record, 'stage')})"
    )


def _stalled(record: Record) -> str:
    took = format_duration(number(record.get("seconds")))
    if record.get("what") == "data":
        return f"no batch for {took} after {_step(record)}: the data (disk, network, cutting) are late"
    took = f"has not ended after {took}" if record.get("lasts") is True else f"took {took}"
    return f"{_step(record)} {took}, the steps before it {format_duration(number(record.get('usual_s')))}"


def _pins_changed(record: Record) -> str:
    pinned = record.get("pinned")
    count = len(pinned) if isinstance(pinned, list | tuple) else 0
    if not count:
        return "no prompt is pinned any more"
    return f"{count} pinned prompt{'s' if count > 1 else ''}: answered at each evaluation from {_step(record)}"


def _dataset_opened(record: Record) -> str:
    return f"dataset {_text(record, 'dataset')}: columns: {one_line(record.get('columns', ''), 4000)}"


def _more_of_dataset(record: Record) -> Iterator[str]:
    """What is said of an opened dataset besides its columns."""
    name = _text(record, "dataset")
    notes = record.get("notes")
    for note in notes if isinstance(notes, list | tuple) else ():
        yield f"dataset {name}: {one_line(note, 1000)}"
    if number(record.get("rows_without_sample", 0)) > 0:
        looked_at, without = _count(record.get("rows_looked_at")), _count(record.get("rows_without_sample"))
        yield f"dataset {name}: {without} of its first {looked_at} rows give no sample: there are no words in them"


def _text_left_out(record: Record) -> str:
    rows = "row" if record.get("rows") == 1 else f"{_count(record.get('rows'))} rows"
    shown = format_percent(number(record.get("text_shown")), 1)
    return (
        f"stage {_text(record, 'stage')}, dataset {_text(record, 'dataset')}: about "
        f"{shown} of its text would be shown (by its first {rows}): a full "
        "batch leaves out the rest of its last row; continue_rows = true keeps it for the next batch, a larger "
        "batch_size or context_len leaves out less"
    )


def _stage_done(record: Record) -> str:
    said = f"stage {_text(record, 'stage')} done at {_step(record)}, {format_duration(number(record.get('seconds')))}"
    share = record.get("text_shown")
    if isinstance(share, int | float) and share < 0.9995:
        said += f", text shown {format_percent(share, 1)}"
    without = number(record.get("rows_without_sample", 0))
    return said + (f", {_count(without)} rows without a sample" if without > 0 else "")


_SENTENCES: dict[str, tuple[Level, Callable[[Record], str]]] = {
    "RunStarted": ("good", _run_started),
    "DatasetOpened": ("info", _dataset_opened),
    "TextLeftOut": ("warning", _text_left_out),
    "StageStarted": ("info", lambda r: f"stage {_text(r, 'stage')} begins, {_count(r.get('rows_total'))} rows"),
    "Validated": ("info", lambda r: f"validated at {_step(r)}: {_scores(r)}"),
    "Evaluated": ("info", _evaluated),
    "CheckpointSaved": ("good", _saved),
    "LearningRateChanged": ("info", _learning_rate_changed),
    "OptionChanged": ("info", _option_changed),
    "PlanChanged": ("info", _plan_changed),
    "Bookmarked": ("info", _bookmarked),
    "Paused": ("info", lambda r: f"paused at {_step(r)}"),
    "Resumed": ("info", lambda r: f"goes on at {_step(r)}"),
    "Warned": ("warning", lambda r: one_line(r.get("message", ""), 1000)),
    "LossSpiked": ("warning", _spiked),
    "Stalled": ("warning", _stalled),
    "PinsChanged": ("info", _pins_changed),
    "HandedOver": ("good", lambda r: f"handed over to process {_count(r.get('pid'))} at {_step(r)}"),
    "StageDone": ("good", _stage_done),
    "RunStopped": ("good", _stopped),
    "RunFailed": ("error", lambda r: "failed: " + one_line(r.get("message", ""), 1000)),
    "RunDone": ("good", lambda r: f"the plan is done at {_step(r)}, saved {one_line(r.get('path', ''), 400)}"),
    "LogLine": ("info", lambda r: one_line(r.get("message", ""), 1000)),
}


def told(record: Record) -> tuple[Level, str] | None:
    """The event as (level, sentence); None for one that a log does not tell."""
    known = _SENTENCES.get(str(record.get("event")))
    if known is None:
        return None
    level, sentence = known
    if record.get("event") == "LogLine" and record.get("level") in ("warning", "error"):
        level = record["level"]
    return level, sentence(record)


def told_in_lines(record: Record) -> list[tuple[Level, str]]:
    """The event as lines of a log: one, but for a dataset that was opened, of which there may be more to say."""
    sentence = told(record)
    if sentence is None:
        return []
    more = _more_of_dataset(record) if record.get("event") == "DatasetOpened" else ()
    return [sentence, *(("info", line) for line in more)]


def file_name(path: object) -> str:
    """The last part of a path, fit for a screen."""
    return one_line(PurePath(str(path)).name, 80)


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
