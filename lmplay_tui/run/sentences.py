"""Events in words: the lines of a log, one or more an event, and the marks on the curves.

Everything that is foreign in an event (names, paths, messages) is made fit for a terminal here.
"""

import math
from typing import Literal, NamedTuple

from lmplay_tui.formats import counted, format_bytes, format_duration, format_parameters, format_percent
from lmplay_tui.run import events
from lmplay_tui.run.learning_rate import rate_sentence
from lmplay_tui.text import one_line, printable

Level = Literal["info", "good", "warning", "error"]


class Sentence(NamedTuple):
    """A line of a log."""

    level: Level
    text: str


LEAST_TEXT_SHOWN = 0.9  # share of a text's characters: where less reaches a sample, that is warned of


def sentences_of(event: events.Event) -> list[Sentence]:
    """The event as lines of a log: one, or none, or several: of a dataset, of a start with several problems."""
    if isinstance(event, events.RunFailed):
        first, *others = reasons(event)
        return [Sentence("error", f"failed: {first}"), *(Sentence("error", line) for line in others)]
    sentence = sentence_of(event)
    if sentence is None:
        return []
    more = _more_of_dataset(event) if isinstance(event, events.DatasetOpened) else []
    return [sentence, *(Sentence("info", line) for line in more)]


def reasons(event: events.RunFailed) -> list[str]:
    """Why a run has failed, a line each: one, or all that is wrong with a plan."""
    return [one_line(line, 1000) for line in printable(event.message).splitlines()] or ["no reason was given"]


def sentence_of(event: events.Event) -> Sentence | None:
    """The event as one line of a log; None for one of which a log says nothing."""
    level, text = _words(event)
    return Sentence(level, text) if text is not None else None


def _words(event: events.Event) -> tuple[Level, str | None]:  # noqa: PLR0912  (one case an event)
    match event:
        case events.Validated():
            accuracy = "" if event.accuracy is None else f", accuracy {event.accuracy:.3f}"
            if event.character_accuracy is not None:
                accuracy += f", character accuracy {event.character_accuracy:.3f}"
            return "info", f"validated at {_at(event.step)}: loss {event.loss:.3f}{accuracy}"
        case events.Evaluated():
            losses = ", ".join(f"{one_line(name, 40)} {scores.loss:.3f}" for name, scores in event.sets.items())
            return "info", f"evaluated at {_at(event.step)}: loss {losses}"
        case events.CheckpointSaved():
            return "good", _saved(event)
        case events.RunStarted():
            return "good", _run_started(event)
        case events.DatasetOpened():
            return "info", f"dataset {one_line(event.dataset)}: columns: {one_line(event.columns, 4000)}"
        case events.TextLeftOut():
            return "warning", _text_left_out(event)
        case events.StageStarted():
            return "info", f"stage {one_line(event.stage)} begins, {counted(event.rows_total, 'row')}"
        case events.StageDone():
            return "good", _stage_done(event)
        case events.LearningRateChanged():
            return "info", _learning_rate_changed(event)
        case events.OptionChanged():
            change = f"{one_line(event.before)} -> {one_line(event.after)}"
            return "info", f"{one_line(event.option)}: {change} from {_at(event.step)} on"
        case events.PlanChanged():
            changes = "; ".join(one_line(change) for change in event.what) or "nothing that trains, only its text"
            return "info", f"plan changed at {_at(event.step)}: {changes}"
        case events.Bookmarked():
            note = one_line(event.note)
            return "info", f"bookmark at {_at(event.step)}" + (f": {note}" if note else "")
        case events.Paused():
            return "info", f"paused at {_at(event.step)}"
        case events.Resumed():
            return "info", f"goes on at {_at(event.step)}"
        case events.PinsChanged():
            return "info", _pins_changed(event)
        case events.Warned():
            return "warning", one_line(event.message, 1000)
        case events.LossSpiked():
            return "warning", _spiked(event)
        case events.Stalled():
            return "warning", _stalled(event)
        case events.HandedOver():
            return "good", f"handed over to process {event.pid:,} at {_at(event.step)}"
        case events.RunStopped():
            return "good", _stopped(event)
        case events.RunFailed():
            return "error", f"failed: {one_line(event.message, 1000)}"
        case events.RunDone():
            return "good", f"the plan is done at {_at(event.step)}, saved {one_line(event.path, 400)}"
        case events.LogLine():
            level: Level = "warning" if event.level == "warning" else "error" if event.level == "error" else "info"
            return level, one_line(event.message, 1000)
    return "info", None


def mark_of(event: events.Event) -> tuple[str, str] | None:
    """Kind and text of the mark that an event leaves on the curves; None for one that leaves none."""
    match event:
        case events.RunStarted() if event.resumed_from is not None:
            return "resume", f"resumed at step {event.resumed_from}"
        case events.StageStarted():
            return "stage", f"stage {one_line(event.stage, 40)}"
        case events.CheckpointSaved():
            return "save", "saved"
        case events.LearningRateChanged():
            return "lr", f"learning rate x {event.factor:g}"
        case events.PlanChanged():
            return "plan", "plan changed"
        case events.OptionChanged():
            return "plan", one_line(_words(event)[1])
        case events.Bookmarked():
            return "bookmark", one_line(event.note)
        case events.LossSpiked():
            jump = f"{event.loss:.3f} after {event.usual_loss:.3f}"
            return "spike", f"spike {jump}, rows {event.first_row}–{event.last_row}"
        case events.Warned() | events.RunFailed():
            return "warning", one_line(event.message)
        case events.Stalled() | events.TextLeftOut():
            return "warning", one_line(_words(event)[1])
    return None


def _at(step: int) -> str:
    return f"step {step:,}"


def _run_started(event: events.RunStarted) -> str:
    start = "training anew" if event.resumed_from is None else f"resumed at step {event.resumed_from:,}"
    size = format_parameters(event.num_parameters)
    note = one_line(event.note)
    return f"{one_line(event.name)}: {start} on {one_line(event.device)}, {size}" + (f"; {note}" if note else "")


def _more_of_dataset(event: events.DatasetOpened) -> list[str]:
    """What is to be said of an opened dataset besides its columns."""
    name = one_line(event.dataset)
    lines = [f"dataset {name}: {one_line(note, 1000)}" for note in event.notes]
    if event.rows_without_sample > 0:
        without = f"{event.rows_without_sample:,} of its first {counted(event.rows_looked_at, 'row')}"
        lines.append(f"dataset {name}: {without} give no sample: there are no words in them")
    return lines


def _text_left_out(event: events.TextLeftOut) -> str:
    rows = "row" if event.rows == 1 else f"{event.rows:,} rows"
    return (
        f"stage {one_line(event.stage)}, dataset {one_line(event.dataset)}: about "
        f"{format_percent(event.text_shown, 1)} of its text would be shown (by its first {rows}): a full "
        "batch leaves out the rest of its last row; continue_rows = true keeps it for the next batch, a larger "
        "batch_size or context_len leaves out less"
    )


def _stage_done(event: events.StageDone) -> str:
    text = f"stage {one_line(event.stage)} done at {_at(event.step)}, {format_duration(event.seconds)}"
    if event.text_shown is not None and event.text_shown < 0.9995:
        text += f", text shown {format_percent(event.text_shown, 1)}"
    without = event.rows_without_sample
    return text + (f", {counted(without, 'row')} without a sample" if without > 0 else "")


def _saved(event: events.CheckpointSaved) -> str:
    size, took = format_bytes(event.size_bytes), format_duration(event.seconds)
    return f"saved {one_line(event.path, 400)} ({_at(event.step)}, {size}, {took}, {one_line(event.reason)})"


def _stopped(event: events.RunStopped) -> str:
    if event.path is None:
        return "stopped before the first step: nothing was saved"
    path = one_line(event.path, 400)
    if not event.saved:
        return f"stopped at {_at(event.step)} before anything was trained: {path} is as it was"
    return f"stopped at {_at(event.step)}, saved {path}"


def _learning_rate_changed(event: events.LearningRateChanged) -> str:
    if event.lr is None or not math.isfinite(event.lr):  # as versions before wrote it
        return f"learning rate x {event.factor:g} of the schedule from {_at(event.step)}"
    return rate_sentence(event.lr, event.factor, event.step, one_line(event.outlook, 1000))


def _pins_changed(event: events.PinsChanged) -> str:
    if not (count := len(event.pinned)):
        return "no prompt is pinned any more"
    return f"{count} pinned prompt{'s' if count > 1 else ''}: answered at each evaluation from {_at(event.step)}"


def _spiked(event: events.LossSpiked) -> str:
    rows = f"rows {event.first_row:,} to {event.last_row:,} of stage {one_line(event.stage)}"
    return f"loss spike at {_at(event.step)}: {event.loss:.3f} after {event.usual_loss:.3f} ({rows})"


def _stalled(event: events.Stalled) -> str:
    took = format_duration(event.seconds)
    if event.what == "data":
        return f"no batch for {took} after {_at(event.step)}: the data (disk, network, cutting) are late"
    took = f"has not ended after {took}" if event.lasts else f"took {took}"
    usual_s = math.nan if event.usual_s is None else event.usual_s
    return f"{_at(event.step)} {took}, the steps before it {format_duration(usual_s)}"
