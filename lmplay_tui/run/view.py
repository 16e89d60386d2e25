"""A run as a screen sees it, made from events (live) or journals (attached): plain state, no drawing."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from lmplay_tui.run import events
from lmplay_tui.run.axes import At
from lmplay_tui.run.history import History
from lmplay_tui.run.journal import number
from lmplay_tui.run.metric_names import OF_STEPS, RECENT_STEPS, STEP_METRICS
from lmplay_tui.run.pace import StepTime
from lmplay_tui.run.sentences import Level, mark_of, sentences_of
from lmplay_tui.run.status import RunStatus, StageView, place_of, steps_of
from lmplay_tui.text import can_name_a_file, one_line

if TYPE_CHECKING:
    from lmplay_tui.run.history import MetricRows


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


class RunView(RunStatus):
    """A run's status with all that only screens need: curves, marks, predictions, the log."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        self.name = ""
        self.note = ""
        self.num_parameters = 0
        self.pid: int | None = None
        self.started_at = clock()
        self.lr_factor = 1.0
        self.history = History()
        self.marks: deque[Mark] = deque(maxlen=MAX_MARKS)
        self.log: deque[LogEntry] = deque(maxlen=MAX_LOG)
        self.log_count = 0
        self.predictions: list[PredictionSeen] = []
        self.predictions_count = 0
        self.plan_text = ""  # the plan that holds, as the run last said it; empty while not known
        self.plan_file = ""  # that the plan was given with
        self.on_line: dict[str, str] = {}  # a plan's options that the command line gives, as words: no edit beats them
        self.pinned: list[str] = []
        self.step_time = StepTime()
        self._rewinds_to: int | None = None  # where this start began, until it does anything: then the rest is gone
        self._start: events.RunStarted | None = None
        self._elapsed_before = 0.0  # seconds of training before this start
        self._ended_at: float | None = None

    # ---- what the panes ask

    @property
    def spent_s(self) -> float:
        """What a machine that is paid by the hour is paid for: earlier starts' training, and all of this one."""
        if self.state == "dead":  # since when is not known
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
        before = self.at
        super().follow(event, at)
        self._remember(event, at, before)
        if (mark := mark_of(event)) is not None:
            step = getattr(event, "step", None)
            self.marks.append(Mark(mark[0], int(self.at.step) if step is None else step, mark[1]))
        for i, sentence in enumerate(sentences_of(event)):
            reason = getattr(event, "reason", "")
            kind = "" if i else type(event).__name__  # what follows belongs to the first: one toast, one ring
            self.say(*sentence, at=at, event=kind, reason=reason and one_line(reason, 40))

    def follow_rows(self, rows: "MetricRows") -> None:
        """Take many lines of `metrics.jsonl`: the same as each of them alone."""
        steps = rows.steps_since(self.at.step)
        for name, (values, _) in rows.metrics.items():
            self.history.add_many(name, rows.at, values, steps)
        if self.lives_by_steps or rows.last is None:
            return
        at, steps = rows.at[rows.of_steps], steps[rows.of_steps]
        self.at = At(*at[-1].tolist())
        if stage := self._after_steps(rows.last):
            self.pace.mark_many(at[:, 3].tolist(), at[:, 1].tolist(), at[:, 2].tolist())
            self._move_on(stage, rows.last.get("stage_samples", 0))
        self._average_loss(stage)
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
        super().set_activity(one_line(activity, 40), one_line(detail, 200), fraction)

    def _remember(self, event: events.Event, at: float | None, before: At) -> None:  # noqa: PLR0912  (one case an event)
        """Keep what a screen shows of an event; the status has followed it. `before`: where the run was."""
        match event:
            case events.StepDone():
                self._remember_step(event)
            case events.MetricsLogged():
                self._remember_metrics(event.values, before)
            case events.Validated():
                self._score("val", event, event)
                self.step_time.add("validate", event.seconds)
            case events.Evaluated():
                self.step_time.add("validate", event.seconds)
                if (scores := event.sets.get(event.stage)) is not None:
                    self._score("eval", event, scores)
            case events.Predicted():
                self._predicted(event)
            case events.CheckpointSaved():
                self.step_time.add("save", event.blocked_s)
            case events.RunStarted():
                self._remember_start(event, at)
            case events.LearningRateChanged():
                self.lr_factor = event.factor
            case events.PlanChanged():
                self.plan_text = _whole_characters(event.text) or self.plan_text
            case events.PinsChanged():
                self.pinned = list(event.pinned)
            case events.RunStopped() | events.RunFailed() | events.RunDone():
                self._ended_at = self._clock() if at is None else at
            case events.Rewound():
                self._drop_beyond(event.step, event.journal)
                if event.journal in (None, "metrics"):
                    self._go_back(event.step)

    def _remember_start(self, event: events.RunStarted, at: float | None) -> None:
        self.name, self.device = one_line(event.name, 80), one_line(event.device, 80)
        self.note = one_line(event.note, 300)
        self.num_parameters, self.pid = event.num_parameters, event.pid
        self.started_at = self._clock() if at is None else at
        self._elapsed_before, self._ended_at = event.elapsed_s, None
        self.plan_file = event.plan_file if can_name_a_file(event.plan_file) else ""
        self.on_line = dict(event.on_line)
        self.plan_text = _whole_characters(event.plan_text)
        self.pinned = list(event.pinned)
        self._rewinds_to = event.resumed_from
        self._start = event

    def _go_back(self, step: int) -> None:
        """To where this start began, where lines of metrics that no longer count have moved the run on."""
        start = self._start
        if start is None or start.step != step or self.at.step <= step or self.lives_by_steps:
            return
        self.at = At(float(start.step), float(start.rows), float(start.tokens), start.elapsed_s)
        for info in start.stages:
            if (stage := self.find_stage(info.name)) is not None and stage.state != "done":
                stage.rows_done = info.rows_done

    def _remember_step(self, event: events.StepDone) -> None:
        """A live run's step."""
        for metric, name in STEP_METRICS.items():
            value = getattr(event, name)
            if value is not None:
                self.history.add(metric, self.at, value)
        self.step_time.step(event.step_s, {part: getattr(event, f"{part}_s") or 0.0 for part in _PARTS})

    def _remember_metrics(self, row: Mapping[str, object], before: At) -> None:
        """A line of `metrics.jsonl`. Live, it takes the place of the steps that it stands for: so a run looks the same
        to all who see it, and after a resume as before."""
        at, of_steps = place_of(row), row.get(OF_STEPS) is not None
        steps = steps_of(row, before.step) if of_steps else 1.0
        if self.lives_by_steps and of_steps:
            self.history.replace_beyond(at.step - steps, STEP_METRICS)
        for name, value in row.items():
            if "/" not in name or value is None or name.startswith(("val/", "eval/")):
                continue  # validation and evaluation come as events, with their own step
            self.history.add(_metric_name(name, 60), at, number(value), steps)
        if self.lives_by_steps or not of_steps:
            return
        self._average_loss(self.find_stage(str(row.get("stage", ""))))
        parts = {part: number(row.get(f"time/{part}_s", 0)) for part in _PARTS}
        self.step_time.step(number(row.get("time/step_s", 0)), parts, int(steps))

    def _average_loss(self, stage: StageView | None) -> None:
        """An older journal does not say the train loss: it is found by its points, each weighing as its steps."""
        loss = self.history.get(OF_STEPS)
        if loss and not math.isfinite(number(self.train_loss)):
            self.train_loss = loss.recent_mean(RECENT_STEPS)
            if stage is not None:
                stage.loss = self.train_loss

    def _score(
        self,
        prefix: str,
        event: events.Validated | events.Evaluated,
        scores: events.Validated | events.EvaluationResult,
    ) -> None:
        time_s = self.at.time if event.elapsed_s is None else event.elapsed_s
        at = At(float(event.step), float(event.rows), float(event.tokens), time_s)
        for name in ("loss", "accuracy", "character_accuracy", "bits_per_byte"):
            if (value := getattr(scores, name, None)) is not None:
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
        """Forget what came after `step`, all of it or what `journal` holds: the others may be further already."""
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
_PARTS = ("data", "forward", "backward", "reduce", "optimizer")
_metric_name = lru_cache(1024)(one_line)  # some twenty names on each line


def _whole_characters(text: str) -> str:
    """A plan's text without halves of characters, which no file and no editor could hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
