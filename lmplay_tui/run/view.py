"""A run as a screen sees it, made from events (live) or journal records (attached): plain state, no drawing."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from lmplay_tui.errors import EXIT_TRAINING
from lmplay_tui.run import progress
from lmplay_tui.run.axes import At
from lmplay_tui.run.history import History
from lmplay_tui.run.journal import number, stamp
from lmplay_tui.run.marks import mark_of
from lmplay_tui.run.metric_rows import MetricRows
from lmplay_tui.run.pace import Pace, StepTime
from lmplay_tui.run.telling import Level, told_in_lines
from lmplay_tui.run.view_parts import LogEntry, Mark, PredictionSeen, StageView, sound_tokens, without_tokens
from lmplay_tui.text import one_line

Record = Mapping[str, Any]

MAX_LOG = 2000
MAX_MARKS = 1000
MAX_PREDICTIONS = 400
MAX_DETAILED = 60  # predictions that keep their token probabilities and top fives


class RunView:
    """The whole state of a run. `apply` takes records, one at a time."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.name = ""
        self.device = ""
        self.note = ""
        self.num_parameters = 0
        self.pid: int | None = None
        self.state = "starting"  # starting, running, paused, stopping, stopped, finished, failed, dead
        self.activity = "starting"
        self.detail = ""
        self.fraction: float | None = None
        self.activity_since = clock()
        self.started_at = clock()
        self.stages: list[StageView] = []
        self.stage_index = -1
        self.at = At(0, 0, 0, 0)
        self.last_step: Record = {}
        self.lr_factor = 1.0
        self.history = History()
        self.marks: deque[Mark] = deque(maxlen=MAX_MARKS)
        self.log: deque[LogEntry] = deque(maxlen=MAX_LOG)
        self.log_count = 0
        self.predictions: list[PredictionSeen] = []
        self.predictions_count = 0
        self.plan_text = ""  # the plan that holds, as the run last said it; empty while not known
        self.plan_folder = ""  # where relative paths of the plan start; empty while not known
        self.plan_file = ""  # that the plan was given with
        self.on_line: dict[str, str] = {}  # a plan's options that the command line gives, as words: no edit beats them
        self.pinned: list[str] = []
        self.checkpoint: Record | None = None
        self.pace = Pace()
        self.step_time = StepTime()
        self._rewinds_to: int | None = None  # where this start began, until it does anything: then the rest is gone
        self._elapsed_before = 0.0  # seconds of training before this start
        self._ended_at: float | None = None
        self.result: Record | None = None  # RunStopped, RunFailed or RunDone
        self.handed_over: Record | None = None
        self.lives_by_steps = False  # StepDone events come: the journal's means would be a second copy

    # ---- what the panes ask

    @property
    def stage(self) -> StageView | None:
        return self.stages[self.stage_index] if 0 <= self.stage_index < len(self.stages) else None

    @property
    def over(self) -> bool:
        return self.state in ("stopped", "finished", "failed", "dead")

    @property
    def fraction_done(self) -> float:
        """The share of the plan that is done: by rows where all are known, else each stage counts the same."""
        totals: list[int] = [stage.rows_total for stage in self.stages if stage.rows_total is not None]
        total: int = sum(totals)
        if total and len(totals) == len(self.stages):
            return sum(stage.rows_done for stage in self.stages) / total
        return sum(stage.fraction for stage in self.stages) / max(len(self.stages), 1)

    def seconds_left(self, stage: StageView | None = None) -> float:
        """Until the stage, or the whole plan, is done, at the pace of the last minutes; NaN where not known."""
        left = stage.rows_left if stage else sum(each.rows_left for each in self.stages)
        return self.pace.seconds_for(left) if math.isfinite(left) else math.nan

    @property
    def spent_s(self) -> float:
        """What a machine that is paid by the hour is paid for: earlier starts' training, and all of this one."""
        if self.state == "dead":  # nobody knows since when
            return self.at.time
        end = self._clock() if self._ended_at is None else self._ended_at
        return self._elapsed_before + max(end - self.started_at, 0.0)

    def now(self) -> float:
        return self._clock()

    # ---- records

    def apply(self, record: Record) -> None:
        """Take one event's record, or one line of a journal."""
        event = record.get("event")
        if event is not None:
            if event in _GOES_ON and self._rewinds_to is not None:
                self._drop_beyond(self._rewinds_to)
                self._rewinds_to = None
            handler = _HANDLERS.get(str(event))
            if handler is not None:
                handler(self, record)
            self._mark(record)
            self._tell(record)
        elif isinstance(record.get("resumed_from"), int):
            self._drop_beyond(record["resumed_from"], record.get("journal"))
        elif "prompt" in record:
            self._see_prediction(record, record)
        elif "step" in record:
            progress.metrics_line(self, record)

    def apply_rows(self, rows: MetricRows) -> None:
        """Take many lines of `metrics.jsonl`: the same as each of them alone."""
        progress.metric_rows(self, rows)

    def apply_past(self, record: Record | MetricRows) -> None:
        """Take what the journals say of this run's earlier starts: how those ended is over and done."""
        if isinstance(record, MetricRows):
            self.apply_rows(record)
        elif record.get("event") not in _ENDS:
            try:
                self.apply(record)
            except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
                return  # another hand has spoilt the line
        self.state, self.activity, self.detail, self.fraction = "starting", "loading", "its own past", None

    def say(self, level: Level, text: str, at: float | None = None, event: str = "", reason: str = "") -> None:
        """Add a line to the log. Validations in a row stay one line, the newest."""
        if event == "Validated" and self.log and self.log[-1].event == event:
            self.log.pop()
        self.log.append(LogEntry(self._clock() if at is None else at, level, one_line(text, 1000), event, reason))
        self.log_count += 1

    def _tell(self, record: Record) -> None:
        for sentence in told_in_lines(record):
            reason = one_line(record.get("reason", ""), 40)
            self.say(*sentence, at=stamp(record.get("time")), event=str(record["event"]), reason=reason)

    def _mark(self, record: Record) -> None:
        mark = mark_of(record)
        if mark is not None:
            step = record.get("step")
            self.marks.append(Mark(mark[0], step if isinstance(step, int) else int(self.at.step), mark[1]))

    def _drop_beyond(self, step: int, journal: str | None = None) -> None:
        """Forget what came after `step`, all of it or what `journal` has told: the others may be further already."""
        if journal in (None, "predictions"):
            self.predictions = [seen for seen in self.predictions if seen.step <= step]
            self.predictions_count += 1
        if journal in (None, "events"):
            self.marks = deque((mark for mark in self.marks if mark.step <= step), maxlen=MAX_MARKS)
        if journal != "predictions":
            self.history.drop_beyond(step, None if journal is None else journal == "events")
            self.pace.clear()

    def _set_activity(self, activity: str, detail: str = "", fraction: float | None = None) -> None:
        if activity != self.activity:
            self.activity_since = self._clock()
        self.activity, self.detail, self.fraction = one_line(activity, 40), one_line(detail, 200), fraction

    def _activity_changed(self, record: Record) -> None:
        fraction = record.get("fraction")
        fraction = None if fraction is None else number(fraction)
        self._set_activity(str(record.get("activity", "")), str(record.get("detail", "")), fraction)

    def _run_started(self, record: Record) -> None:
        self.name = one_line(record.get("name", ""), 80)
        self.device = one_line(record.get("device", ""), 80)
        self.note = one_line(record.get("note", ""), 300)
        self.num_parameters = int(number(record.get("num_parameters", 0)))
        self.pid = record.get("pid") if isinstance(record.get("pid"), int) else None
        self.started_at = stamp(record.get("time")) or self._clock()
        self.at = self.at._replace(step=number(record.get("step", 0)), rows=number(record.get("rows", 0)))
        self._elapsed_before, self._ended_at = number(record.get("elapsed_s", 0)), None
        self.state, self.result, self.handed_over = "running", None, None
        self.plan_folder, self.plan_file = (str(record.get(key) or "") for key in ("plan_folder", "plan_file"))
        self.plan_text = _whole_text(record.get("plan_text"))
        on_line = record.get("on_line")
        self.on_line = dict(on_line) if isinstance(on_line, Mapping) else {}
        self._take_stages(record)
        self._take_pins(record)
        self.pace.clear()
        resumed_from = record.get("resumed_from")
        self._rewinds_to = resumed_from if isinstance(resumed_from, int) else None

    def _take_stages(self, record: Record) -> None:
        known = {stage.name: stage for stage in self.stages}
        running = self.stage.name if self.stage else None
        self.stages = []
        for info in record.get("stages") or ():
            name = one_line(info.get("name", ""), 40)
            stage = known.get(name) or StageView(name)
            stage.datasets = tuple(one_line(dataset, 80) for dataset in info.get("datasets") or ())
            stage.epochs = number(info.get("epochs", 1))
            stage.rows_total = info.get("rows_total")
            stage.rows_done = int(info.get("rows_done") or 0)
            stage.rows_per_epoch = _whole(info.get("rows_per_epoch")) or stage.rows_per_epoch
            if stage.rows_total is not None and stage.rows_done >= stage.rows_total:
                stage.state = "done"
            elif stage.state == "done":
                stage.state = "waiting"
            self.stages.append(stage)
        self.stage_index = next((i for i, stage in enumerate(self.stages) if stage.name == running), -1)

    def find_stage(self, record: Record) -> StageView | None:
        name = one_line(record.get("stage", ""), 40)
        return next((stage for stage in self.stages if stage.name == name), None)

    def _stage_started(self, record: Record) -> None:
        stage = self.find_stage(record)
        if stage is None:
            stage = StageView(one_line(record.get("stage", ""), 40))
            self.stages.append(stage)
        self.stage_index = self.stages.index(stage)
        stage.state = "running"
        stage.rows_total = int(number(record.get("rows_total", 0)))
        stage.rows_done = int(number(record.get("rows_done", 0)))
        stage.rows_per_epoch = _whole(record.get("rows_per_epoch"))
        stage.unigram_entropy = number(record.get("unigram_entropy"))
        self.pace.clear()

    def _text_left_out(self, record: Record) -> None:
        """Until the stage's own steps say it: what its first batches show."""
        stage = self.find_stage(record)
        if stage is not None and not stage.rows_done:
            stage.follow_text(record.get("text_shown"), None)

    def _metrics_logged(self, record: Record) -> None:
        values = record.get("values")
        if isinstance(values, Mapping):
            progress.metrics_line(self, values)

    def _scores(self, prefix: str, record: Record, scores: Record) -> None:
        step, rows, tokens, elapsed_s = (number(record.get(key)) for key in ("step", "rows", "tokens", "elapsed_s"))
        at = At(step, rows, tokens, self.at.time if math.isnan(elapsed_s) else elapsed_s)
        for key in ("loss", "accuracy", "bits_per_byte"):
            if scores.get(key) is not None:
                self.history.add(f"{prefix}/{key}", at, number(scores[key]))

    def _validated(self, record: Record) -> None:
        self._scores("val", record, record)
        self.step_time.add("validate", number(record.get("seconds", 0)))

    def _evaluated(self, record: Record) -> None:
        sets = record.get("sets")
        self.step_time.add("validate", number(record.get("seconds", 0)))
        for name, scores in sets.items() if isinstance(sets, Mapping) else ():
            stage = next((each for each in self.stages if each.name == one_line(name, 40)), None)
            if stage is not None:
                stage.eval_now = number(scores.get("loss"))
                if record.get("at_stage_end") and name == record.get("stage"):
                    stage.eval_at_end = stage.eval_now
            if name == record.get("stage"):
                self._scores("eval", record, scores)

    def _predicted(self, record: Record) -> None:
        values = record.get("prediction")
        if isinstance(values, Mapping):
            self._see_prediction(record, values)

    def _see_prediction(self, record: Record, values: Record) -> None:
        self.predictions_count += 1
        seen = PredictionSeen(
            self.predictions_count,
            int(number(record.get("step", 0))),
            one_line(record.get("stage", ""), 40),
            sound_tokens(values),
        )
        self.predictions.append(seen)
        if len(self.predictions) > MAX_PREDICTIONS:  # thin the older half: the whole run stays in reach
            half = MAX_PREDICTIONS // 2
            self.predictions = self.predictions[:half:2] + self.predictions[half:]
        if len(self.predictions) > MAX_DETAILED:
            old = self.predictions[-MAX_DETAILED - 1]
            slim = PredictionSeen(old.number, old.step, old.stage, without_tokens(old.values))
            self.predictions[-MAX_DETAILED - 1] = slim

    def _checkpoint_saved(self, record: Record) -> None:
        self.checkpoint = record
        self.step_time.add("save", number(record.get("blocked_s", 0)))

    def _take_pins(self, record: Record) -> None:
        pinned = record.get("pinned")
        self.pinned = [str(prompt) for prompt in pinned] if isinstance(pinned, list | tuple) else []

    def _learning_rate_changed(self, record: Record) -> None:
        self.lr_factor = number(record.get("factor", 1))

    def _plan_changed(self, record: Record) -> None:
        self.plan_text = _whole_text(record.get("text")) or self.plan_text
        self._take_stages(record)

    def _paused(self, record: Record) -> None:
        self.state = "paused"
        self._set_activity("paused")
        self.pace.clear()

    def _resumed(self, record: Record) -> None:
        self.state = "running"
        self._set_activity("training")
        self.pace.clear()

    def _stage_done(self, record: Record) -> None:
        stage = self.find_stage(record)
        if stage is not None:
            stage.state = "done"
            stage.rows_done = stage.rows_total or stage.rows_done
            stage.seconds = number(record.get("seconds"))
            stage.follow_text(record.get("text_shown"), record.get("rows_without_sample"))

    def _handed_over(self, record: Record) -> None:
        self.handed_over = record

    def _ended(self, record: Record) -> None:
        code = record.get("exit_code")
        known = isinstance(code, int) and 0 < code < 256
        self.result = record if known else {**record, "exit_code": EXIT_TRAINING}
        self._ended_at = stamp(record.get("time")) or self._clock()
        self.state = {"RunStopped": "stopped", "RunFailed": "failed", "RunDone": "finished"}[str(record["event"])]
        self._set_activity(self.state)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _whole_text(value: object) -> str:
    """A journal's text without halves of characters, which no file could hold."""
    return str(value or "").encode("utf-8", "replace").decode("utf-8")


_ENDS = ("RunStopped", "RunFailed", "RunDone", "HandedOver", "Paused", "Resumed")

_GOES_ON = ("StepDone", "CheckpointSaved", "Validated", "Evaluated")  # a curve's next point, or the end of the old ones

_HANDLERS: dict[str, Callable[[RunView, Record], None]] = {
    "RunStarted": RunView._run_started,
    "ActivityChanged": RunView._activity_changed,
    "StageStarted": RunView._stage_started,
    "StepDone": progress.step_done,
    "TextLeftOut": RunView._text_left_out,
    "MetricsLogged": RunView._metrics_logged,
    "Predicted": RunView._predicted,
    "Validated": RunView._validated,
    "Evaluated": RunView._evaluated,
    "CheckpointSaved": RunView._checkpoint_saved,
    "LearningRateChanged": RunView._learning_rate_changed,
    "PlanChanged": RunView._plan_changed,
    "StagesCounted": RunView._take_stages,
    "PinsChanged": RunView._take_pins,
    "Paused": RunView._paused,
    "Resumed": RunView._resumed,
    "StageDone": RunView._stage_done,
    "HandedOver": RunView._handed_over,
    "RunStopped": RunView._ended,
    "RunFailed": RunView._ended,
    "RunDone": RunView._ended,
}
