"""A stage from its first batch to its last, with everything that happens between its steps."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from lmplay_tui.data.batches import Batch
from lmplay_tui.data.leak_guard import LeakGuard
from lmplay_tui.data.stage_data import StageData
from lmplay_tui.errors import DataError, UserError
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import Stage
from lmplay_tui.run.controls import Ask, Controls
from lmplay_tui.run.events import (
    ActivityChanged,
    CheckpointSaved,
    Evaluated,
    Event,
    LogLine,
    Predicted,
    StageDone,
    StagesCounted,
    StageStarted,
    Validated,
    Warned,
)
from lmplay_tui.text import one_line
from lmplay_tui.train.compiling import Compilation
from lmplay_tui.train.evaluation import Evaluator, scores_of
from lmplay_tui.train.feed import Feed
from lmplay_tui.train.loading import LoadedData
from lmplay_tui.train.metrics import LogWindow, accuracy_interval
from lmplay_tui.train.mini_batch_probe import probe
from lmplay_tui.train.obeying import Obeyer
from lmplay_tui.train.optim import without_gradient
from lmplay_tui.train.progress import StageProgress, is_due
from lmplay_tui.train.row_counts import RowCounts
from lmplay_tui.train.saves import Saves
from lmplay_tui.train.state import TrainState
from lmplay_tui.train.stepping import StageRun, Stepper, settings_of_steps
from lmplay_tui.train.steps import StopRequested
from lmplay_tui.train.watching import Watch

PROBED_FROM = 4  # the mini-batch size before another has been found

FEED_POLL_S = 0.2
LEAKS_S = 5.0  # that a stage's end waits for what its rows say
PROOF_SHOWN_S = 15.0  # in the state line; the log keeps it
ANSWER_SHOWN = 400  # characters, to who waits for it; the predictions keep all


@dataclass
class Parts:
    """What a stage's loop works with; each part has one job."""

    state: TrainState
    data: LoadedData
    controls: Controls
    stepper: Stepper
    evaluator: Evaluator
    obeyer: Obeyer
    saves: Saves
    window: LogWindow
    row_counts: RowCounts
    leak_guard: LeakGuard
    compilation: Compilation | None = None


class StageLoop:
    """Runs one stage of the plan."""

    def __init__(self, parts: Parts) -> None:
        self.state = parts.state
        self.data = parts.data
        self.controls = parts.controls
        self.stepper = parts.stepper
        self.evaluator = parts.evaluator
        self.obeyer = parts.obeyer
        self.saves = parts.saves
        self.window = parts.window
        self._parts = parts
        self.watch = Watch()
        self._proof_until = 0.0

    def run(self, stage: Stage) -> Iterator[Event]:
        """The stage from where it stands to its end. Raises `StopRequested` with a state that can be saved."""
        run = yield from self._enter(stage)
        try:
            yield from self._now_and_then(run)  # a stop may have come between a step and its validation
            while (batch := (yield from self._next_batch(run))) is not None:
                if batch.samples:
                    first_row = self.state.progress.of(stage.name).position.row
                    with self.watch.step_under_way(self.state.progress.step + 1):
                        done = self.stepper.step(run, batch)
                    self.window.add(done)
                    yield done
                    yield from self.watch.step_done(done, first_row)
                    yield from run.feed.step_done(done)
                    while self.stepper.said:
                        yield self.stepper.said.pop(0)
                    if run.options.check_grads and self.stepper.steps_here == 1:
                        names = ", ".join(without_gradient(self.state.model)) or "none"
                        yield LogLine(f"parameters without a gradient: {names}")
                else:  # rows without words: read and counted, nothing to learn from
                    self.stepper.count(run, batch)
                    self.state.statistics.skipped(run.stage.name, rows=batch.rows_read)
                yield from self._now_and_then(run)
            yield from self._end_stage(run)
        except Exception:  # a stop, or whatever ends the run: what is saved then names the batch that comes then
            self.state.progress.next_batch = ""  # no name is better than an old one, should even this fail
            self.state.progress.next_batch = run.feed.next_digest()
            raise
        finally:
            run.feed.close()

    def _enter(self, stage: Stage) -> Generator[Event, None, StageRun]:
        """Open the stage's data and set the optimizer up for it."""
        state, progress = self.state, self.state.progress
        is_new = stage.name not in progress.stages or not progress.of(stage.name).begun
        yield from self.data.open(stage, self.controls)
        data = self.data.of(stage)
        of_stage = progress.of(stage.name)
        of_stage.rows_total, of_stage.rows_per_epoch = data.rows_total, data.rows_per_epoch
        if of_stage.fingerprint not in (None, data.fingerprint):
            yield Warned(
                f"stage {stage.name}: its data are not those of the checkpoint: rows may repeat or be left out",
                progress.step,
            )
        earlier = [other for other in progress.stages.values() if other.held_out_by != "place"]
        if earlier and data.holds_out:
            yield Warned(
                "an earlier version chose the rows held out until now; from here on others are, by their place in the "
                "whole dataset: rows that were validated on may be trained",
                progress.step,
            )
        for other in earlier:
            other.held_out_by = "place"
        if is_new:
            # Intervals count from the stage's first row: what is due is due for this stage's own training.
            of_stage.validated_rows = of_stage.evaluated_rows = progress.rows
        of_stage.fingerprint, of_stage.begun = data.fingerprint, True
        if progress.stage != stage.name:
            progress.stage, progress.eval_loss = stage.name, None
        run = self._prepared(stage, data, is_new=is_new)
        names = [s.name for s in state.settings.plan.stages]
        yield StageStarted(
            stage=stage.name,
            index=names.index(stage.name),
            num_stages=len(names),
            rows_total=data.rows_total,
            rows_done=of_stage.position.row,
            step=progress.step,
            rows=progress.rows,
            unigram_entropy=data.unigram_entropy(),
            rows_per_epoch=data.rows_per_epoch,
        )
        yield from self._prove(run)
        if run.accuracy_interval > 1:
            yield LogLine(f"word accuracy of one training batch in {run.accuracy_interval} (all: over 1 % of the time)")
        self._count_ahead()
        self._parts.leak_guard.begin(state.settings.plan.stages, stage.name)
        yield from self._make_ready(run)
        return run

    def _count_ahead(self) -> None:
        """Have the rows counted of the stages that have not been opened, so that the plan's end is known."""
        stages = self.state.settings.plan.stages
        self._parts.row_counts.begin(stage for stage in stages if self.state.progress.of(stage.name).rows_total is None)

    def _prove(self, run: StageRun) -> Iterator[Event]:
        """After a resume: say where it goes on, and whether the next batch is the one that the checkpoint names."""
        progress = self.state.progress
        proof, progress.next_batch = run.feed.compare(progress.next_batch), ""
        if proof is None:
            return
        same, said = proof
        row = progress.of(run.stage.name).position.row
        where = f"stage {run.stage.name}, row {row:,}, step {progress.step:,}"
        yield LogLine(f"goes on at {where}: {said}") if same else Warned(f"{where}: {said}", progress.step)
        self._proof_until = time.monotonic() + PROOF_SHOWN_S
        yield ActivityChanged("training", f"from row {row:,} " + ("as recorded" if same else "NOT as recorded"))

    def _prepared(self, stage: Stage, data: StageData, *, is_new: bool) -> StageRun:
        state = self.state
        options = state.enter_stage(stage, is_new=is_new)
        step_settings = settings_of_steps(state, options, self._mini_batch_size(stage, options))
        if self._parts.compilation is not None:
            self._parts.compilation.shape(step_settings)
        return StageRun(
            stage=stage,
            options=options,
            data=data,
            feed=Feed(data, state.progress.of(stage.name).position, options.batch_size, self.data.job(stage)),
            step_settings=step_settings,
            accuracy_interval=accuracy_interval(self.window.flops, state.device.type),
        )

    def _mini_batch_size(self, stage: Stage, options: TrainOptions) -> int:
        """What was asked for or found, and what memory then allowed in this stage: another's samples may be shorter."""
        progress, size = self.state.progress, options.mini_batch_size
        if size == "auto":
            size = progress.probed_mini_batch_size or PROBED_FROM
        return min(size, progress.of(stage.name).mini_batch_size or size)

    def _make_ready(self, run: StageRun) -> Iterator[Event]:
        """Compile and find the mini-batch size, each once a run and where it was asked for."""
        wanted = run.options.mini_batch_size
        if self._parts.compilation is not None:
            rows = PROBED_FROM if wanted == "auto" else min(wanted, PROBED_FROM)
            yield from self._parts.compilation.prepare(self.state, run.step_settings, rows)
        if wanted == "auto" and self.state.progress.probed_mini_batch_size is None:
            yield from probe(self.state, run.step_settings, run.options.batch_size, self.controls.wants_stop)

    def _end_stage(self, run: StageRun) -> Iterator[Event]:
        """What belongs to a stage's end: evaluation of this and the earlier stages, and a checkpoint that stays."""
        progress = self.state.progress
        of_stage = progress.of(run.stage.name)
        if not of_stage.tokens:
            self._refuse_as_empty(run)
        yield from self._evaluate(run, at_stage_end=True)
        self._parts.leak_guard.wait(LEAKS_S)  # a short stage may be over before it has looked
        yield from self._leaks()
        yield from self._log(steps=True)
        of_stage.done = True
        of_stage.loss_at_end = progress.eval_loss
        progress.next_batch = ""
        if self.obeyer.next_stage() is None:  # nothing would try again
            yield from self.saves.finish("stage end", run.options.keep)
        else:
            yield from self.saves.begin("stage end", run.options.keep)
            yield from self._saved(self.saves.close())
        yield StageDone(
            stage=run.stage.name,
            index=[s.name for s in self.state.settings.plan.stages].index(run.stage.name),
            step=progress.step,
            rows=progress.rows,
            tokens=progress.tokens,
            seconds=of_stage.elapsed_s,
            text_shown=of_stage.text_shown,
            rows_without_sample=of_stage.rows_without_sample,
        )

    def _refuse_as_empty(self, run: StageRun) -> None:
        """Nothing has been trained in the stage, by this process or an earlier one: it counts as not begun.

        So a resume reads its rows anew, other ones perhaps, and a changed plan may leave it out. Raises `DataError`.
        """
        rows = self.state.progress.of(run.stage.name).position.row
        self.state.progress.stages[run.stage.name] = StageProgress()
        names = ", ".join(dict.fromkeys(spec.name for spec in run.stage.datasets))
        raise DataError(
            f"stage {run.stage.name}: nothing was trained in it: no sample came of the {rows:,} rows that it "
            f"read of {one_line(names)}, there are no words in them; give it other rows, or leave it out; the last "
            "checkpoint is intact"
        )

    def _next_batch(self, run: StageRun) -> Generator[Event, None, Batch | None]:
        """Do what was asked, then take the next batch; None at the stage's end."""
        yield from self._obey(run)
        run.waited_from = time.perf_counter()
        while not run.feed.ready(FEED_POLL_S):  # a disk or a hub may take its time: a stop does not wait for them
            if self.controls.wants_stop():
                raise StopRequested
            yield from self.watch.data_waited(time.perf_counter() - run.waited_from, self.state.progress.step)
        return run.feed.take()

    # ------------------------------------------------------------------ between steps

    def _now_and_then(self, run: StageRun) -> Iterator[Event]:
        """Validate, evaluate, log, save, each when it is due.

        The log comes before the save: what a resume does not do again stands in the journals by then.
        """
        if self._parts.row_counts.take_news():
            yield StagesCounted(self.obeyer.stage_infos())
        yield from self._leaks()
        if self._proof_until and time.monotonic() > self._proof_until:  # somebody may have read it by now
            self._proof_until = 0.0
            yield ActivityChanged("training")
        progress, options = self.state.progress, run.options
        of_stage = progress.of(run.stage.name)
        if is_due(options.validation_interval, progress.rows, of_stage.validated_rows):
            yield from self._validate(run)
        if not self._all_read(run):  # else the stage's end comes next, which evaluates anyway and logs with that
            if is_due(options.eval_interval, progress.rows, of_stage.evaluated_rows):
                yield from self._evaluate(run, at_stage_end=False)
            yield from self._log(steps=progress.step % options.log_interval == 0)
        yield from self._saved(self.saves.outcomes())
        by_time = options.save_minutes is not None and self.saves.minutes_since >= options.save_minutes
        if self.stepper.steps_here and (by_time or is_due(options.save_interval, progress.rows, progress.saved_rows)):
            yield from self._save(run, "interval")

    def _leaks(self) -> Iterator[Event]:
        """What the leak guard has found."""
        for is_warning, said in self._parts.leak_guard.take_news():
            yield Warned(said, self.state.progress.step) if is_warning else LogLine(said)

    def _all_read(self, run: StageRun) -> bool:
        """Whether no batch is left in the stage, as its plan is now."""
        return self.state.progress.of(run.stage.name).position.row >= run.data.rows_total

    def _log(self, *, steps: bool) -> Iterator[Event]:
        """Write the scores of this moment down and, where `steps` says so, the steps that are not logged yet."""
        yield from self.window.logged(self.state.progress, steps=steps)

    def _save(self, run: StageRun, reason: str) -> Iterator[Event]:
        yield from self._log(steps=self._all_read(run))
        self.state.progress.next_batch = run.feed.next_digest()
        self.saves.promise(self.obeyer.take_save_ids())
        yield from self._saved(self.saves.begin(reason, run.options.keep))

    def _saved(self, events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            if isinstance(event, CheckpointSaved):
                self.window.spend("time/save_s", event.blocked_s)
            yield event

    def _validate(self, run: StageRun) -> Iterator[Event]:
        yield ActivityChanged("validating")
        for event in self.evaluator.validate(run.stage, run.data, run.options):
            if isinstance(event, Validated):
                self.window.spend("time/validate_s", event.seconds)
                self.window.score({"val/loss": event.loss})
                if event.accuracy is not None:
                    self.window.score({"val/accuracy": event.accuracy})
            yield event
        yield ActivityChanged("training")

    def _validate_as_asked(self, run: StageRun) -> Iterator[Event]:
        askers = self.obeyer.validations
        yield from self._log(steps=False)  # two validations at one step are two
        ok, said = False, f"stage {run.stage.name} has no rows to validate on"
        for event in self._validate(run):
            if isinstance(event, Validated):
                ok, said = True, f"validated {event.samples} samples at step {event.step}: loss {event.loss:.4f}"
            yield event
        yield from self._log(steps=False)
        for command in askers:
            yield from self.obeyer.settle(command, ok, said)

    def _answer(self, run: StageRun, ask: Ask) -> Iterator[Event]:
        """Say what the model says. A prompt that it cannot go on with costs the answer, not the run."""
        try:
            prediction = self.evaluator.answer(ask)
        except UserError as error:
            yield from self.obeyer.settle(ask, False, f"no answer: {error}")
            return
        yield Predicted(self.state.progress.step, run.stage.name, prediction)
        yield from self.obeyer.settle(ask, True, one_line(prediction.prediction, ANSWER_SHOWN))

    def _evaluate(self, run: StageRun, *, at_stage_end: bool) -> Iterator[Event]:
        yield ActivityChanged("evaluating")
        if at_stage_end:
            yield from self._open_earlier(run.stage)
        for event in self.evaluator.evaluate(run.stage, run.options, at_stage_end=at_stage_end):
            if isinstance(event, Evaluated):
                self.window.spend("time/validate_s", event.seconds)
                self.window.score(scores_of(event))
            yield event
        yield ActivityChanged("training")

    def _open_earlier(self, stage: Stage) -> Iterator[Event]:
        """What was forgotten is measured on earlier stages' sets, which a resumed run has not opened."""
        for other in self.state.settings.plan.stages:
            if other.name == stage.name:
                return
            try:
                yield from self.data.open(other, self.controls, trains=False)
            except UserError as error:
                yield Warned(f"stage {other.name} is not evaluated again: {error}", self.state.progress.step)

    def _obey(self, run: StageRun) -> Iterator[Event]:
        """Do what was asked since the last step; while paused, stay."""
        while True:
            for event in self.obeyer.obey():
                yield event
                if self.obeyer.paused:  # no step comes that would look
                    yield from self._saved(self.saves.outcomes())
            if self.controls.stop_now:
                raise StopRequested
            if not self.obeyer.has_work:
                return
            if self.obeyer.validations:
                yield from self._validate_as_asked(run)
            for ask in self.obeyer.prompts:
                yield from self._answer(run, ask)
            if self.obeyer.take("plan"):
                yield from self._reenter(run)
            if self.obeyer.take("save"):
                yield from self._save(run, "asked")
                if self.obeyer.paused:
                    yield from self._saved(self.saves.close())

    def _reenter(self, run: StageRun) -> Iterator[Event]:
        """Go on under a changed plan: other rows to go, other options, the same place."""
        yield from self._log(steps=self.state.progress.step % run.options.log_interval == 0)
        stage = self.state.settings.plan.stage(run.stage.name)
        yield from self.data.open(stage, self.controls)
        run.feed.close()
        data = self.data.of(stage)
        of_stage = self.state.progress.of(stage.name)
        of_stage.rows_total, of_stage.fingerprint = data.rows_total, data.fingerprint
        fresh = self._prepared(stage, data, is_new=False)
        run.stage, run.options, run.data, run.feed = fresh.stage, fresh.options, fresh.data, fresh.feed
        run.step_settings = fresh.step_settings
        self._count_ahead()
        self._parts.leak_guard.begin(self.state.settings.plan.stages, stage.name)
        yield from self._make_ready(run)
