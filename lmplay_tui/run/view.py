"""A run as a screen sees it, made from events (live) or journal records (attached): plain state, no drawing.

The parts of a run's view: a stage, a mark on the curves, a line of the log, a prediction.

What steps and lines of `metrics.jsonl` do to a run's view: where it is, its curves, its pace.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lmplay_tui.errors import EXIT_TRAINING
from lmplay_tui.run.events import OF_STEPS, STEP_METRICS
from lmplay_tui.run.history import At, History
from lmplay_tui.run.journal import number, stamp
from lmplay_tui.run.metric_rows import MetricRows
from lmplay_tui.run.pace import Pace, StepTime
from lmplay_tui.run.sentences import Level, mark_of, told_in_lines
from lmplay_tui.text import one_line

if TYPE_CHECKING:
    from lmplay_tui.run.metric_rows import MetricRows


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
            metrics_line(self, record)

    def apply_rows(self, rows: MetricRows) -> None:
        """Take many lines of `metrics.jsonl`: the same as each of them alone."""
        metric_rows(self, rows)

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
            metrics_line(self, values)

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


_metric_name = lru_cache(1024)(one_line)  # some twenty names on each line
_PARTS = ("data", "forward", "backward", "optimizer")


def step_done(view: "RunView", record: Record) -> None:
    """A live run's step."""
    view.at = At(number(record["step"]), number(record["rows"]), number(record["tokens"]), number(record["elapsed_s"]))
    view.lives_by_steps = True
    view.last_step = record
    for metric, key in STEP_METRICS.items():
        value = record.get(key)
        if value is not None:
            view.history.add(metric, view.at, number(value))
    stage = view.find_stage(record)
    if stage is not None:
        view.pace.mark(view.now(), view.at.rows, view.at.tokens)
        _follow(view, stage, int(number(record.get("stage_rows", 0))))
        stage.follow_text(record.get("text_shown"), record.get("rows_without_sample"))
    view.step_time.step(number(record.get("step_s", 0)), {part: number(record.get(f"{part}_s", 0)) for part in _PARTS})


def metrics_line(view: "RunView", row: Record) -> None:
    """A line of `metrics.jsonl`. One of scores alone moves nothing: they have come as an event."""
    at = At(
        number(row.get("step")), number(row.get("samples")), number(row.get("tokens")), number(row.get("elapsed_s"))
    )
    for name, value in row.items():
        if "/" not in name or value is None or name.startswith(("val/", "eval/")):
            continue  # validation and evaluation come as events, with their own step
        if not (view.lives_by_steps and name in STEP_METRICS):
            view.history.add(_metric_name(name, 60), at, number(value))
    if view.lives_by_steps or row.get(OF_STEPS) is None:
        return
    steps = max(int(at.step - view.at.step), 1)
    view.at, view.last_step = at, row
    stage = view.find_stage(row)
    if stage is not None:
        view.pace.mark(at.time, at.rows, at.tokens)
        _follow(view, stage, int(number(row.get("stage_samples", 0))))
        stage.follow_text(row.get("data/text_shown"), row.get("data/rows_without_sample"))
    view.step_time.step(
        number(row.get("time/step_s", 0)), {part: number(row.get(f"time/{part}_s", 0)) for part in _PARTS}, steps
    )


def metric_rows(view: "RunView", rows: "MetricRows") -> None:
    """Many lines of `metrics.jsonl`: the same as each of them alone."""
    for name, (values, _) in rows.metrics.items():
        if not (view.lives_by_steps and name in STEP_METRICS):
            view.history.add_many(name, rows.at, values)
    if view.lives_by_steps or rows.last is None:
        return
    import numpy as np

    at = rows.at[rows.of_steps]
    steps = np.maximum(np.trunc(np.diff(at[:, 0], prepend=view.at.step)), 1.0)
    view.at, view.last_step = At(*at[-1].tolist()), rows.last
    stage = view.find_stage(rows.last)
    if stage is not None:
        view.pace.mark_many(at[:, 3].tolist(), at[:, 1].tolist(), at[:, 2].tolist())
        _follow(view, stage, int(number(rows.last.get("stage_samples", 0))))
        stage.follow_text(rows.last.get("data/text_shown"), rows.last.get("data/rows_without_sample"))
    view.step_time.step_many(
        rows.values("time/step_s"), {part: rows.values(f"time/{part}_s") for part in _PARTS}, steps
    )


def _follow(view: "RunView", stage: StageView, rows_done: int) -> None:
    """The stage has got so far, now; the pace is marked."""
    if view.state == "starting":
        view.state = "running"
    if stage.state != "done":
        stage.state = "running"
        view.stage_index = view.stages.index(stage)
    stage.rows_done = rows_done
    loss = view.history.get("train/loss")
    stage.loss = loss.recent_mean(50) if loss else math.nan
    stage.tokens_per_s = view.pace.tokens_per_s


_HANDLERS: dict[str, Callable[[RunView, Record], None]] = {
    "RunStarted": RunView._run_started,
    "ActivityChanged": RunView._activity_changed,
    "StageStarted": RunView._stage_started,
    "StepDone": step_done,
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
