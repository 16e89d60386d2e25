"""How a run is: the one fold of its events that the trainer's `run.json` and every screen are made from."""

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lmplay_tui.process import typed
from lmplay_tui.run import events
from lmplay_tui.run.axes import At
from lmplay_tui.run.history import MOST_STEPS
from lmplay_tui.run.journal import number, stamp, utc_time
from lmplay_tui.run.metric_names import OF_STEPS, RECENT_LOSS
from lmplay_tui.run.pace import Pace
from lmplay_tui.run.ranks import Ranks
from lmplay_tui.text import can_name_a_file, one_line


@dataclass
class StageView:
    """A stage as the curriculum shows it. Losses are NaN where not known."""

    name: str  # as a screen shows it
    plan_name: str = ""  # as the plan has it
    plan_datasets: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    epochs: float = 1.0
    rows_total: int | None = None
    rows_done: int = 0
    rows_per_epoch: int | None = None
    state: str = "waiting"  # waiting, running, done
    loss: float = math.nan  # the run's train loss at the stage's last step so far
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

    def record(self) -> dict[str, Any]:
        """As `run.json` holds a stage."""
        return {
            "name": self.plan_name, "datasets": self.plan_datasets, "epochs": self.epochs,
            "rows_total": self.rows_total, "rows_done": self.rows_done, "rows_per_epoch": self.rows_per_epoch,
        }  # fmt: skip

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


class RunStatus:
    """Where a run is, and what it is at. `follow` takes in what happens, one event at a time."""

    def __init__(self, clock: Callable[[], float] = time.time, steady_clock: Callable[[], float] | None = None) -> None:
        """`steady_clock`: for the pace; it may not jump. The other one's where left out."""
        self._clock = clock
        self._steady_clock = steady_clock or clock
        self.state = "starting"  # starting, running, paused, stopping, stopped, finished, failed, dead
        self.activity = "starting"
        self.detail = ""
        self.fraction: float | None = None
        self.activity_since = clock()
        self.device = ""
        self.own_experiment = ""  # FILE:CLASS that this start's command line gave
        self.plan_folder = ""  # where relative paths of the plan start; empty while not known
        self.stages: list[StageView] = []
        self.stage_index = -1
        self.at = At(0, 0, 0, 0)
        self.is_placed = False  # `at` is known
        self.has_begun = False  # a stage has, since this start
        self.train_loss: float | None = None  # this and the next as `metric_names.FIGURES` says
        self.val_loss: float | None = None
        self.val_accuracy: float | None = None  # of the same validation, by words
        self.val_character_accuracy: float | None = None  # ... of truths without spaces
        self.lr = math.nan  # of the last step
        self.text_shown = math.nan  # as its stage's, when the last step was done
        self.checkpoint: events.CheckpointSaved | None = None
        self.saved_at: float | None = None  # that checkpoint, seconds since 1970
        self.pace = Pace()
        self.lives_by_steps = False  # StepDone events come: the journal's means would be a second copy
        self.result: events.RunStopped | events.RunFailed | events.RunDone | None = None
        self.handed_over: events.HandedOver | None = None
        self.ranks: Ranks | None = None  # as last read while it runs; None: one process, or not known

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
            return min(sum(stage.rows_done for stage in self.stages) / total, 1.0)
        return sum(stage.fraction for stage in self.stages) / max(len(self.stages), 1)

    def seconds_left(self, stage: StageView | None = None) -> float:
        """Until the stage, or the whole plan, is done, at the pace of the last minutes; NaN where not known."""
        left = stage.rows_left if stage else sum(each.rows_left for each in self.stages)
        return self.pace.seconds_for(left) if math.isfinite(left) else math.nan

    def go_on_with(self, program: str, model: object) -> str:
        """What is typed to go on from the run's checkpoint: what no checkpoint can say stands there too."""
        own = ["--exp", self.own_experiment] if self.own_experiment else []
        return f"{typed(program)} {shlex.join(['--model', one_line(model, 400), *own])}"

    def find_stage(self, name: str) -> StageView | None:
        """The stage of that name, as an event or a line calls it."""
        shown = one_line(name, 40)
        return next((stage for stage in self.stages if stage.name == shown), None)

    def set_activity(self, activity: str, detail: str = "", fraction: float | None = None) -> None:
        """What the trainer is at; the same again goes on."""
        if activity != self.activity:
            self.activity_since = self._clock()
        self.activity, self.detail, self.fraction = activity, detail, fraction

    def carry_over(self, record: Mapping[str, Any]) -> None:
        """Take from a `run.json` what holds until this start of the run knows better; anything may stand there."""
        self.device, self.plan_folder = (str(record.get(key) or "") for key in ("device", "plan_folder"))
        if not can_name_a_file(self.plan_folder):
            self.plan_folder = ""
        self.own_experiment = one_line(record.get("own_experiment") or "", 1000)
        self._take_stages(events.read_stages(record.get("stages")))
        names = [stage.plan_name for stage in self.stages]
        self.stage_index = names.index(record["stage"]) if record.get("stage") in names else -1
        step, rows, tokens, seconds = (number(record.get(key)) for key in ("step", "samples", "tokens", "elapsed_s"))
        if math.isfinite(step):
            self.at, self.is_placed = At(step, rows, tokens, seconds), True
        self.train_loss, self.val_loss = (
            number(record[key]) if key in record else None for key in ("train_loss", "val_loss")
        )
        self.val_accuracy, self.val_character_accuracy = (
            number(record[key]) if key in record else None for key in ("val_accuracy", "val_character_accuracy")
        )
        self.lr = number(record.get("lr"))
        saved = record.get("checkpoint")
        if isinstance(saved, dict) and isinstance(event := events.from_record(_SAVED | saved), events.CheckpointSaved):
            self.checkpoint, self.saved_at = event, stamp(saved.get("time"))

    def record(self) -> dict[str, Any]:
        """The fields of `run.json` that say how the run is; what was never known is left out."""
        fields: dict[str, Any] = {
            "state": self.state, "activity": "" if self.over else self.activity,
            "activity_since": self.activity_since, "detail": self.detail, "fraction": self.fraction,
            "device": self.device or None, "plan_folder": self.plan_folder, "has_begun": self.has_begun or None,
            "own_experiment": self.own_experiment or None,
            "stages": [stage.record() for stage in self.stages] or None,
            "stage": self.stage.plan_name if self.stage else None,
            "train_loss": self.train_loss, "val_loss": self.val_loss, "lr": _known(self.lr),
            "val_accuracy": self.val_accuracy, "val_character_accuracy": self.val_character_accuracy,
        }  # fmt: skip
        if self.is_placed:
            places = zip(("step", "samples", "tokens"), self.at[:3], strict=True)
            fields |= {name: int(place) for name, place in places if math.isfinite(place)}
            fields["elapsed_s"] = _known(self.at.time)
        fields["checkpoint"] = self._checkpoint_record()
        if self.lives_by_steps:
            fields |= {"tokens_per_s": _known(self.pace.tokens_per_s), "eta_s": _known(self.seconds_left())}
        match self.result:
            case events.RunFailed():
                fields["message"] = self.result.message
            case events.RunStopped():
                fields["command"] = self.result.command
            case events.RunDone():
                fields["eta_s"] = 0.0
        return {name: value for name, value in fields.items() if value is not None or name in _NULLABLE}

    def _checkpoint_record(self) -> dict[str, Any] | None:
        if self.checkpoint is None:
            return None
        time = None if self.saved_at is None else utc_time(self.saved_at)
        return {"path": self.checkpoint.path, "step": self.checkpoint.step, "time": time}

    def follow(self, event: events.Event, at: float | None = None) -> None:  # noqa: PLR0912  (one case an event)
        """Take in an event. `at`: when it happened, seconds since 1970, where that is not now."""
        match event:
            case events.StepDone():
                self._step_done(event)
            case events.MetricsLogged():
                self._metrics_logged(event.values)
            case events.ActivityChanged():
                self.set_activity(event.activity, event.detail, event.fraction)
            case events.Validated():
                self.val_loss = event.loss
                self.val_accuracy, self.val_character_accuracy = event.accuracy, event.character_accuracy
            case events.Evaluated():
                self._evaluated(event)
            case events.CheckpointSaved():
                self.checkpoint, self.saved_at = event, self._clock() if at is None else at
            case events.RunStarted():
                self._run_started(event)
            case events.StageStarted():
                self._stage_started(event)
            case events.TextLeftOut():
                stage = self.find_stage(event.stage)
                if stage is not None and not stage.rows_done:  # until the stage's own steps say it
                    stage.text_shown = event.text_shown
            case events.StageDone():
                self._stage_done(event)
            case events.PlanChanged() | events.StagesCounted():
                self._take_stages(event.stages)
            case events.Paused():
                self._set_state("paused", "paused")
            case events.Resumed():
                self._set_state("running", "training")
            case events.HandedOver():
                self.handed_over = event
                self.set_activity("handing over")
            case events.LeftToAgent():
                self.set_activity("starting", "again")
            case events.RunStopped() | events.RunFailed() | events.RunDone():
                self.result = event
                self.state = ENDS[type(event)]
                self.set_activity(self.state, reason_of(event))

    def _set_state(self, state: str, activity: str) -> None:
        self.state = state
        self.set_activity(activity)
        self.pace.clear()

    def _run_started(self, event: events.RunStarted) -> None:
        self.device, self.is_placed = event.device, True
        self.plan_folder = event.plan_folder if can_name_a_file(event.plan_folder) else ""
        self.own_experiment = event.own_experiment
        is_anew = event.resumed_from is None
        seconds = event.elapsed_s if is_anew or event.elapsed_s else self.at.time  # an older journal does not say it
        self.at = At(float(event.step), float(event.rows), float(event.tokens), seconds)
        if is_anew:  # nothing of a run before holds
            self.lr, self.stage_index, self.checkpoint = math.nan, -1, None
        if is_anew or event.train_loss is not None:  # else an older journal
            if event.val_loss != self.val_loss:  # of another validation than that of the accuracies
                self.val_accuracy = self.val_character_accuracy = None
            self.train_loss, self.val_loss = event.train_loss, event.val_loss
        self.state, self.result, self.handed_over = "running", None, None
        self._take_stages(event.stages)
        self.pace.clear()

    def _take_stages(self, infos: Sequence[events.StageInfo]) -> None:
        known = {stage.name: stage for stage in self.stages}
        running = self.stage.name if self.stage else None
        self.stages = []
        for info in infos:
            name = one_line(info.name, 40)
            stage = known.get(name) or StageView(name)
            stage.plan_name, stage.plan_datasets = info.name, info.datasets
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
            stage = StageView(one_line(event.stage, 40), event.stage)
            self.stages.append(stage)
        self.stage_index, self.has_begun = self.stages.index(stage), True
        stage.state = "running"
        stage.rows_total, stage.rows_done = event.rows_total, event.rows_done
        stage.rows_per_epoch = event.rows_per_epoch
        stage.unigram_entropy = math.nan if event.unigram_entropy is None else event.unigram_entropy
        self.pace.clear()

    def _stage_done(self, event: events.StageDone) -> None:
        """All its rows have been read, the last ones perhaps without a step."""
        stage = self.find_stage(event.stage)
        if stage is not None:
            stage.state = "done"
            stage.rows_done = stage.rows_total or stage.rows_done
            stage.seconds = event.seconds
            stage.follow_text(event.text_shown, event.rows_without_sample)

    def _step_done(self, event: events.StepDone) -> None:
        self.at = At(float(event.step), float(event.rows), float(event.tokens), event.elapsed_s)
        self.lives_by_steps = self.is_placed = True
        self.train_loss, self.lr, self.text_shown = event.recent_loss, event.lr, event.text_shown
        if self.activity != "training":
            self.set_activity("training")
        stage = self.find_stage(event.stage)
        if stage is not None:
            self.pace.mark(self._steady_clock(), self.at.rows, self.at.tokens)
            stage.loss = event.recent_loss
            stage.follow_text(event.text_shown, event.rows_without_sample)
            self._move_on(stage, event.stage_rows)

    def _metrics_logged(self, row: Mapping[str, object]) -> None:
        """A line of `metrics.jsonl`, where no steps are heard of. One of scores alone moves nothing."""
        if self.lives_by_steps or row.get(OF_STEPS) is None:
            return
        self.at = place_of(row)
        if stage := self._after_steps(row):
            self.pace.mark(self.at.time, self.at.rows, self.at.tokens)
            self._move_on(stage, row.get("stage_samples", 0))

    def _after_steps(self, row: Mapping[str, object]) -> StageView | None:
        """Take from the last line of steps what is no curve; the stage that it is of."""
        self.train_loss, self.lr = number(row.get(RECENT_LOSS)), number(row.get("train/lr"))
        self.text_shown = number(row.get("data/text_shown"))
        stage = self.find_stage(str(row.get("stage", "")))
        if stage is not None:
            stage.loss = self.train_loss
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
        stage.tokens_per_s = self.pace.tokens_per_s

    def _evaluated(self, event: events.Evaluated) -> None:
        for name, scores in event.sets.items():
            if (stage := self.find_stage(name)) is not None:
                stage.eval_now = scores.loss
                if event.at_stage_end and name == event.stage:
                    stage.eval_at_end = scores.loss


class Writer(NamedTuple):
    """The process that wrote a `run.json` last, as it says itself."""

    pid: int | None
    host: str
    boot: str  # of which start of the machine: a process number means nothing after the next one


class SavedStatus(RunStatus):
    """How a run is by its `run.json`, which any program may have written, and by whether a process holds it.

    `ranks`: what its `ranks.json` says; that of an earlier start, which another process wrote, is passed over.
    """

    def __init__(self, record: Mapping[str, Any], *, alive: bool, ranks: Ranks | None = None) -> None:
        super().__init__()
        self.carry_over(record)
        self.is_empty = not record  # the run has never said anything
        self.said_state = said = str(record.get("state") or "")  # whether or not a process holds it
        if alive:
            self.state = "paused" if said == "paused" else "running"
        else:
            self.state = said if said in ("stopped", "finished", "failed") else "dead"
        # A process that has just begun: what stands there is of the time before.
        self.has_said = alive and said in ("running", "paused")
        self.has_begun = bool(record.get("has_begun"))
        self.refusal = one_line(record.get("refused") or "", 1000)  # why the last start has come to nothing
        self.activity = one_line(record.get("activity") or "", 40) if self.has_said else "starting" if alive else ""
        self.detail = one_line(record.get("detail") or "", 200) if self.has_said else ""
        fraction = number(record.get("fraction")) if self.has_said else math.nan
        self.fraction = fraction if math.isfinite(fraction) else None
        self.activity_since = number(record.get("activity_since"))
        pid, host, boot = (record.get(key) for key in ("pid", "host", "boot"))
        self.writer = Writer(pid if isinstance(pid, int) else None, str(host or ""), str(boot or ""))
        self.pid = self.writer.pid if self.has_said else None
        self.host = one_line(host or "?", 80)
        self.heartbeat = number(record.get("heartbeat"))  # when it last wrote, seconds since 1970
        if ranks is not None and self.pid is not None and (ranks.pid, ranks.host) == (self.pid, self.host):
            self.ranks = ranks
        self.message = one_line(record.get("message") or "", 1000) if self.state == "failed" else ""
        self.tokens_per_s = number(record.get("tokens_per_s")) if alive else math.nan
        self.eta_s = number(record.get("eta_s")) if alive else 0.0 if self.state == "finished" else math.nan

    @property
    def rows_per_s(self) -> float:
        """As the trainer has found it over the last minutes; NaN where it has not."""
        left = sum(stage.rows_left for stage in self.stages)
        return left / self.eta_s if self.eta_s > 0 else math.nan

    def fields(self) -> dict[str, Any]:
        """The fields of `status --json` but for the name; what is not known is None."""
        places = [int(place) if self.is_placed and math.isfinite(place) else None for place in self.at[:3]]
        return {
            "state": self.state, "activity": self.activity or None, "pid": self.pid,
            "stage": self.stage.plan_name if self.stage else None,
            **dict(zip(("step", "samples", "tokens"), places, strict=True)),
            "train_loss": _known(number(self.train_loss)), "val_loss": _known(number(self.val_loss)),
            "val_accuracy": _known(number(self.val_accuracy)),
            "val_character_accuracy": _known(number(self.val_character_accuracy)),
            "lr": _known(self.lr), "tokens_per_s": _known(self.tokens_per_s), "eta_s": _known(self.eta_s),
            "checkpoint": self._checkpoint_record(),
        } | ({} if self.ranks is None else self.ranks.record())  # fmt: skip


ENDS: dict[type[events.Event], str] = {
    events.RunStopped: "stopped", events.RunFailed: "failed", events.RunDone: "finished",
}  # fmt: skip


def reason_of(end: events.RunStopped | events.RunFailed | events.RunDone) -> str:
    """Why a run has failed, in one line; of several reasons the first, and how many more there are."""
    if not isinstance(end, events.RunFailed):
        return ""
    first, *more = end.message.splitlines() or [""]
    return first + (f" (and {len(more)} more)" if more else "")


_NULLABLE = ("fraction", "tokens_per_s", "eta_s")
_SAVED = {"event": "CheckpointSaved", "rows": 0, "size_bytes": 0}  # what `run.json` does not say of a checkpoint


def _known(value: float) -> float | None:
    """JSON has no NaN: what is not known is null."""
    return value if math.isfinite(value) else None


def steps_of(row: Mapping[str, object], step_before: float) -> float:
    """How many steps a line stands for. An older journal does not say it: then all since the line before."""
    steps = row.get("steps")
    said = number(steps) if isinstance(steps, int) else math.nan
    if not 1 <= said <= MOST_STEPS:
        said = number(row.get("step")) - step_before
    return float(int(said)) if 1 <= said <= MOST_STEPS else 1.0


def place_of(row: Mapping[str, object]) -> At:
    """Where a line of `metrics.jsonl` stands."""
    return At(*(number(row.get(name)) for name in ("step", "samples", "tokens", "elapsed_s")))
