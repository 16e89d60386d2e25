"""A run as a screen sees it, made from events (live) or journals (attached): plain state, no drawing."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from lmplay_tui.run import events
from lmplay_tui.run.axes import At
from lmplay_tui.run.events import OF_STEPS, STEP_METRICS
from lmplay_tui.run.history import History
from lmplay_tui.run.journal import number
from lmplay_tui.run.pace import Pace, StepTime
from lmplay_tui.run.sentences import Level, mark_of, sentences_of
from lmplay_tui.text import one_line

if TYPE_CHECKING:
    from lmplay_tui.run.history import MetricRows


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
            self.text_shown = number(text_shown)
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
    prediction: events.Prediction

    def without_tokens(self) -> "PredictionSeen":
        """The same without what is known of each of its tokens."""
        slim = replace(self.prediction, truth_tokens=(), truth_p=(), top5=())
        return replace(self, prediction=slim)


MAX_LOG = 2000
MAX_MARKS = 1000
MAX_PREDICTIONS = 400
MAX_DETAILED = 60  # predictions that keep their token probabilities and top fives


class RunView:
    """The whole state of a run. `follow` takes what happens in it, one event at a time."""

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
        self.lr = math.nan  # of the last step
        self.text_shown = math.nan  # as its stage's, when the last step was done
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
        self.checkpoint: events.CheckpointSaved | None = None
        self.pace = Pace()
        self.step_time = StepTime()
        self._rewinds_to: int | None = None  # where this start began, until it does anything: then the rest is gone
        self._elapsed_before = 0.0  # seconds of training before this start
        self._ended_at: float | None = None
        self.result: events.RunStopped | events.RunFailed | events.RunDone | None = None
        self.handed_over: events.HandedOver | None = None
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

    # ---- events

    def follow(self, event: events.Event, at: float | None = None) -> None:
        """Take in an event. `at`: when it happened, seconds since 1970, where that is not now."""
        if isinstance(event, _GOES_ON) and self._rewinds_to is not None:
            self._drop_beyond(self._rewinds_to)
            self._rewinds_to = None
        self._change(event, at)
        if (mark := mark_of(event)) is not None:
            step = getattr(event, "step", None)
            self.marks.append(Mark(mark[0], int(self.at.step) if step is None else step, mark[1]))
        for sentence in sentences_of(event):
            reason = getattr(event, "reason", "")
            self.say(*sentence, at=at, event=type(event).__name__, reason=reason and one_line(reason, 40))

    def follow_rows(self, rows: "MetricRows") -> None:
        """Take many lines of `metrics.jsonl`: the same as each of them alone."""
        for name, (values, _) in rows.metrics.items():
            if not (self.lives_by_steps and name in STEP_METRICS):
                self.history.add_many(name, rows.at, values)
        if self.lives_by_steps or rows.last is None:
            return
        import numpy as np

        at = rows.at[rows.of_steps]
        steps = np.maximum(np.trunc(np.diff(at[:, 0], prepend=self.at.step)), 1.0)
        self.at = At(*at[-1].tolist())
        if stage := self._after_steps(rows.last):
            self.pace.mark_many(at[:, 3].tolist(), at[:, 1].tolist(), at[:, 2].tolist())
            self._move_on(stage, rows.last.get("stage_samples", 0))
        self.step_time.step_many(
            rows.values("time/step_s"), {part: rows.values(f"time/{part}_s") for part in _PARTS}, steps
        )

    def follow_past(self, event: "events.Event | MetricRows | None", at: float | None = None) -> None:
        """Take what the journals say of this run's earlier starts: how those ended is over and done."""
        if isinstance(event, events.Event):
            if not isinstance(event, _OVER_AND_DONE):
                self.follow(event, at)
        elif event is not None:
            self.follow_rows(event)
        self.state, self.activity, self.detail, self.fraction = "starting", "loading", "its own past", None

    def say(self, level: Level, text: str, at: float | None = None, event: str = "", reason: str = "") -> None:
        """Add a line to the log. Validations in a row stay one line, the newest."""
        if event == "Validated" and self.log and self.log[-1].event == event:
            self.log.pop()
        self.log.append(LogEntry(self._clock() if at is None else at, level, one_line(text, 1000), event, reason))
        self.log_count += 1

    def set_activity(self, activity: str, detail: str = "", fraction: float | None = None) -> None:
        """What the trainer is at; the same again goes on."""
        if activity != self.activity:
            self.activity_since = self._clock()
        self.activity, self.detail, self.fraction = one_line(activity, 40), one_line(detail, 200), fraction

    def find_stage(self, name: str) -> StageView | None:
        """The stage of that name, as an event or a line calls it."""
        shown = one_line(name, 40)
        return next((stage for stage in self.stages if stage.name == shown), None)

    def _change(self, event: events.Event, at: float | None) -> None:  # noqa: PLR0912, PLR0915  (one case an event)
        """What an event does to the view, but for its marks and its lines in the log."""
        match event:
            case events.StepDone():
                self._step_done(event)
            case events.MetricsLogged():
                self._metrics_logged(event.values)
            case events.Validated():
                self._score("val", event, event.loss, event.accuracy)
                self.step_time.add("validate", event.seconds)
            case events.Evaluated():
                self._evaluated(event)
            case events.Predicted():
                self._predicted(event)
            case events.ActivityChanged():
                self.set_activity(event.activity, event.detail, event.fraction)
            case events.CheckpointSaved():
                self.checkpoint = event
                self.step_time.add("save", event.blocked_s)
            case events.RunStarted():
                self._run_started(event, at)
            case events.StageStarted():
                self._stage_started(event)
            case events.TextLeftOut():
                stage = self.find_stage(event.stage)
                if stage is not None and not stage.rows_done:  # until the stage's own steps say it
                    stage.text_shown = event.text_shown
            case events.StageDone():
                self._stage_done(event)
            case events.LearningRateChanged():
                self.lr_factor = event.factor
            case events.PlanChanged():
                self.plan_text = event.text or self.plan_text
                self._take_stages(event.stages)
            case events.StagesCounted():
                self._take_stages(event.stages)
            case events.PinsChanged():
                self.pinned = list(event.pinned)
            case events.Paused():
                self.state = "paused"
                self.set_activity("paused")
                self.pace.clear()
            case events.Resumed():
                self.state = "running"
                self.set_activity("training")
                self.pace.clear()
            case events.HandedOver():
                self.handed_over = event
            case events.RunStopped() | events.RunFailed() | events.RunDone():
                self.result = event
                self._ended_at = self._clock() if at is None else at
                self.state = _ENDS[type(event)]
                self.set_activity(self.state)
            case events.Rewound():
                self._drop_beyond(event.step, event.journal)

    def _run_started(self, event: events.RunStarted, at: float | None) -> None:
        self.name = one_line(event.name, 80)
        self.device = one_line(event.device, 80)
        self.note = one_line(event.note, 300)
        self.num_parameters = event.num_parameters
        self.pid = event.pid
        self.started_at = self._clock() if at is None else at
        self.at = self.at._replace(step=float(event.step), rows=float(event.rows))
        self._elapsed_before, self._ended_at = event.elapsed_s, None
        self.state, self.result, self.handed_over = "running", None, None
        self.plan_folder, self.plan_file, self.plan_text = event.plan_folder, event.plan_file, event.plan_text
        self.on_line = dict(event.on_line)
        self._take_stages(event.stages)
        self.pinned = list(event.pinned)
        self.pace.clear()
        self._rewinds_to = event.resumed_from

    def _take_stages(self, infos: Sequence[events.StageInfo]) -> None:
        known = {stage.name: stage for stage in self.stages}
        running = self.stage.name if self.stage else None
        self.stages = []
        for info in infos:
            name = one_line(info.name, 40)
            stage = known.get(name) or StageView(name)
            stage.datasets = tuple(one_line(dataset, 80) for dataset in info.datasets)
            stage.epochs = info.epochs
            stage.rows_total, stage.rows_done = info.rows_total, info.rows_done
            stage.rows_per_epoch = info.rows_per_epoch or stage.rows_per_epoch
            if stage.rows_total is not None and stage.rows_done >= stage.rows_total:
                stage.state = "done"
            elif stage.state == "done":
                stage.state = "waiting"
            self.stages.append(stage)
        self.stage_index = next((i for i, stage in enumerate(self.stages) if stage.name == running), -1)

    def _stage_started(self, event: events.StageStarted) -> None:
        stage = self.find_stage(event.stage)
        if stage is None:
            stage = StageView(one_line(event.stage, 40))
            self.stages.append(stage)
        self.stage_index = self.stages.index(stage)
        stage.state = "running"
        stage.rows_total, stage.rows_done = event.rows_total, event.rows_done
        stage.rows_per_epoch = event.rows_per_epoch
        stage.unigram_entropy = math.nan if event.unigram_entropy is None else event.unigram_entropy
        self.pace.clear()

    def _stage_done(self, event: events.StageDone) -> None:
        stage = self.find_stage(event.stage)
        if stage is not None:
            stage.state = "done"
            stage.rows_done = stage.rows_total or stage.rows_done
            stage.seconds = event.seconds
            stage.follow_text(event.text_shown, event.rows_without_sample)

    def _step_done(self, event: events.StepDone) -> None:
        """A live run's step."""
        self.at = At(float(event.step), float(event.rows), float(event.tokens), event.elapsed_s)
        self.lives_by_steps = True
        self.lr, self.text_shown = event.lr, event.text_shown
        for metric, name in STEP_METRICS.items():
            value = getattr(event, name)
            if value is not None:
                self.history.add(metric, self.at, value)
        stage = self.find_stage(event.stage)
        if stage is not None:
            self.pace.mark(self.now(), self.at.rows, self.at.tokens)
            stage.follow_text(event.text_shown, event.rows_without_sample)
            self._move_on(stage, event.stage_rows)
        self.step_time.step(event.step_s, {part: getattr(event, f"{part}_s") for part in _PARTS})

    def _metrics_logged(self, row: Mapping[str, object]) -> None:
        """A line of `metrics.jsonl`. One of scores alone moves nothing: they have come as an event."""
        at = At(*(number(row.get(name)) for name in ("step", "samples", "tokens", "elapsed_s")))
        for name, value in row.items():
            if "/" not in name or value is None or name.startswith(("val/", "eval/")):
                continue  # validation and evaluation come as events, with their own step
            if not (self.lives_by_steps and name in STEP_METRICS):
                self.history.add(_metric_name(name, 60), at, number(value))
        if self.lives_by_steps or row.get(OF_STEPS) is None:
            return
        steps = max(int(at.step - self.at.step), 1)
        self.at = at
        if stage := self._after_steps(row):
            self.pace.mark(at.time, at.rows, at.tokens)
            self._move_on(stage, row.get("stage_samples", 0))
        parts = {part: number(row.get(f"time/{part}_s", 0)) for part in _PARTS}
        self.step_time.step(number(row.get("time/step_s", 0)), parts, steps)

    def _after_steps(self, row: Mapping[str, object]) -> StageView | None:
        """Take from the last line of steps what is no curve; the stage that it is of."""
        self.lr, self.text_shown = number(row.get("train/lr")), number(row.get("data/text_shown"))
        stage = self.find_stage(str(row.get("stage", "")))
        if stage is not None:
            stage.follow_text(row.get("data/text_shown"), row.get("data/rows_without_sample"))
        return stage

    def _move_on(self, stage: StageView, rows_done: object) -> None:
        """The stage has got so far, now; the pace is marked."""
        if self.state == "starting":
            self.state = "running"
        if stage.state != "done":
            stage.state = "running"
            self.stage_index = self.stages.index(stage)
        if math.isfinite(rows := number(rows_done)):
            stage.rows_done = int(rows)
        loss = self.history.get("train/loss")
        stage.loss = loss.recent_mean(50) if loss else math.nan
        stage.tokens_per_s = self.pace.tokens_per_s

    def _evaluated(self, event: events.Evaluated) -> None:
        self.step_time.add("validate", event.seconds)
        for name, scores in event.sets.items():
            if (stage := self.find_stage(name)) is not None:
                stage.eval_now = scores.loss
                if event.at_stage_end and name == event.stage:
                    stage.eval_at_end = scores.loss
            if name == event.stage:
                self._score("eval", event, scores.loss, scores.accuracy, scores.bits_per_byte)

    def _score(
        self, prefix: str, event: events.Validated | events.Evaluated, loss: float, accuracy: float | None,
        bits_per_byte: float | None = None,
    ) -> None:  # fmt: skip
        time_s = self.at.time if event.elapsed_s is None else event.elapsed_s
        at = At(float(event.step), float(event.rows), float(event.tokens), time_s)
        for name, value in (("loss", loss), ("accuracy", accuracy), ("bits_per_byte", bits_per_byte)):
            if value is not None:
                self.history.add(f"{prefix}/{name}", at, value)

    def _predicted(self, event: events.Predicted) -> None:
        self.predictions_count += 1
        seen = PredictionSeen(self.predictions_count, event.step, one_line(event.stage, 40), event.prediction)
        self.predictions.append(seen)
        if len(self.predictions) > MAX_PREDICTIONS:  # thin the older half: the whole run stays in reach
            half = MAX_PREDICTIONS // 2
            self.predictions = self.predictions[:half:2] + self.predictions[half:]
        if len(self.predictions) > MAX_DETAILED:
            self.predictions[-MAX_DETAILED - 1] = self.predictions[-MAX_DETAILED - 1].without_tokens()

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


# A curve's next point, or the end of the old ones.
_GOES_ON = (events.StepDone, events.CheckpointSaved, events.Validated, events.Evaluated)
_OVER_AND_DONE = (*events.LAST_EVENTS, events.Paused, events.Resumed)
_ENDS: dict[type[events.Event], str] = {
    events.RunStopped: "stopped", events.RunFailed: "failed", events.RunDone: "finished",
}  # fmt: skip
_PARTS = ("data", "forward", "backward", "optimizer")
_metric_name = lru_cache(1024)(one_line)  # some twenty names on each line
