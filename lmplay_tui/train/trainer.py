"""A run from where its state stands to the end of its plan: an iterator of events.

It yields between steps only, so at every yield the state is consistent and can be saved. Whoever iterates decides
what becomes of the events: the headless command prints them, the dashboard shows them, a test lists them.

A stage from its first batch to its last, with everything that happens between its steps.
"""

import os
import shlex
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmplay_tui.data.batches import Batch
from lmplay_tui.data.leak_guard import LeakGuard
from lmplay_tui.data.stage_data import StageData
from lmplay_tui.errors import DataError, UserError
from lmplay_tui.options import TrainOptions, command_words, train_names
from lmplay_tui.plan.reading import shipped_plans
from lmplay_tui.plan.schema import Stage
from lmplay_tui.run.controls import Ask, Command, Controls, Pause, SaveNow, Stop, StopRequested
from lmplay_tui.run.events import (
    ActivityChanged,
    CheckpointSaved,
    Evaluated,
    Event,
    LogLine,
    Predicted,
    RunDone,
    RunStarted,
    RunStopped,
    StageDone,
    StagesCounted,
    StageStarted,
    Validated,
    Warned,
)
from lmplay_tui.text import one_line
from lmplay_tui.train.checkpointer import Saves
from lmplay_tui.train.compile import Compilation, probe
from lmplay_tui.train.control import Obeyer
from lmplay_tui.train.dataloader import Feed, LoadedData, RowCounts
from lmplay_tui.train.device import peak_flops
from lmplay_tui.train.evaluation import Evaluator, Scorer, scores_of
from lmplay_tui.train.handoff import hand_over, not_handed_over
from lmplay_tui.train.metrics import FlopCount, LogWindow, MachineMetrics, Watch, accuracy_interval
from lmplay_tui.train.optim import without_gradient
from lmplay_tui.train.progress import StageProgress, is_due
from lmplay_tui.train.state import TrainState
from lmplay_tui.train.train_step import StageRun, Stepper, step_config

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
        config = step_config(state, options, self._mini_batch_size(stage, options))
        if self._parts.compilation is not None:
            config = self._parts.compilation.shaped(config)
        return StageRun(
            stage=stage,
            options=options,
            data=data,
            feed=Feed(data, state.progress.of(stage.name).position, options.batch_size, self.data.job(stage)),
            config=config,
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
            yield from self._parts.compilation.prepare(self.state, run.config, rows)
            run.config = self._parts.compilation.shaped(run.config)
        if wanted == "auto" and self.state.progress.probed_mini_batch_size is None:
            run.config = yield from probe(self.state, run.config, run.options.batch_size, self.controls.wants_stop)

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
        run.config = fresh.config
        self._count_ahead()
        self._parts.leak_guard.begin(self.state.settings.plan.stages, stage.name)
        yield from self._make_ready(run)


class Trainer:
    """Trains a run, stage by stage.

    `note`: one line on what was chosen for this device. `resumed_from`: the step of the checkpoint, if there was one.
    `resume_command`: what a user types to go on, by whether this process has saved.
    """

    def __init__(
        self,
        state: TrainState,
        data: LoadedData,
        controls: Controls,
        *,
        statistics_folder: Path,
        resume_command: Callable[[bool], str],
        resumed_from: int | None = None,
        note: str = "",
    ) -> None:
        self.state = state
        self.controls = controls
        self.saves = Saves(state, statistics_folder)
        row_counts = RowCounts(data.count)
        self.obeyer = Obeyer(state, controls, row_counts.of)
        self.stepper = Stepper(state, controls, self.saves.wait_for_copy)
        peak, peak_from = peak_flops(state.device, state.precision.dtype)
        flops = FlopCount.of_model(state.model, state.model_args)
        self.window = LogWindow(flops, peak, state.progress.rows, peak_from, MachineMetrics(state.device))
        options = state.settings.for_run()
        self._leak_guard = LeakGuard(data.look_for_leaks)
        scorer = Scorer(state.model, state.gradients.hidden, state.tokenizer, state.precision)
        self._stage_loop = StageLoop(
            Parts(
                state=state,
                data=data,
                controls=controls,
                stepper=self.stepper,
                evaluator=Evaluator(state, data, scorer, controls.wants_stop),
                obeyer=self.obeyer,
                saves=self.saves,
                window=self.window,
                row_counts=row_counts,
                leak_guard=self._leak_guard,
                compilation=Compilation(options, state.device) if options.compile_model else None,
            )
        )
        self.go_on_elsewhere: Callable[[], int] | None = None  # starts a process that resumes the run; its number
        self.tell: Callable[[Event], None] | None = None  # called from a thread, with what cannot wait for a step's end
        self._note = note
        self._resume_command = resume_command
        self._resumed_from = resumed_from

    def run(self) -> Iterator[Event]:
        """Everything from here to the plan's end. The last event is `RunDone` or `RunStopped`.

        Raises `UserError` where training cannot go on.
        """
        yield self._run_started()
        try:
            yield from self._to_the_end()
        except Exception as error:  # whatever it is, and be it a bug: finished steps are not lost
            yield from self._keep_what_is_done()
            yield from self.saves.refuse(one_line(error))
            self.obeyer.give_back()
            raise
        finally:
            self._leak_guard.close()

    def _to_the_end(self) -> Iterator[Event]:
        state, progress = self.state, self.state.progress
        while True:
            try:
                with nullcontext() if self.tell is None else self._stage_loop.watch.aloud(self.tell):
                    yield from self._train()
                break
            except StopRequested:
                if (yield from self._leave()):
                    return
                yield ActivityChanged("training")
        yield from self.saves.close()
        yield RunDone(step=progress.step, path=str(state.run.model), seconds=progress.elapsed_s)

    def _train(self) -> Iterator[Event]:
        """The stages that are left. Raises `StopRequested` with a state that can be saved."""
        while (stage := self.obeyer.next_stage()) is not None:
            yield from self._stage_loop.run(stage)
            if self.obeyer.stop_at_stage_end and self.obeyer.next_stage() is not None:
                self.controls.stop_reason = "the stage's end"
                raise StopRequested

    def _run_started(self) -> RunStarted:
        state, progress = self.state, self.state.progress
        return RunStarted(
            name=state.run.name,
            device=str(state.device),
            num_parameters=sum(p.numel() for p in state.model.parameters()),
            step=progress.step,
            rows=progress.rows,
            tokens=progress.tokens,
            stages=self.obeyer.stage_infos(),
            resumed_from=self._resumed_from,
            note=self._note,
            pid=os.getpid(),
            plan_folder=state.settings.plan.folder,
            pinned=tuple(progress.pinned),
            elapsed_s=progress.elapsed_s,
            plan_text=state.settings.plan.text,
            plan_file=_plan_file(state.settings.line),
            on_line=_options_of_plans(state.settings.line),
        )

    def _leave(self) -> Generator[Event, None, bool]:
        """Save what the last finished step left and end, or let another process go on; False: stay after all."""
        self.obeyer.give_back()
        if self.controls.hands_over and self.go_on_elsewhere is not None:
            return (yield from self._hand_over(self.go_on_elsewhere))
        progress, path = self.state.progress, self.state.run.model
        yield ActivityChanged("stopping")
        yield from self._log_rest()
        self.saves.promise(self.obeyer.take_save_ids())
        if self._has_unsaved:
            yield from self.saves.finish("stop", keep=self._keep())
        else:
            yield from self.saves.last_outcome()
            yield from self.saves.refuse("nothing had been trained")
        yield RunStopped(
            step=progress.step,
            path=str(path) if path.exists() else None,
            command=self._resume_command(self.saves.has_saved),
            reason=self.controls.stop_reason or "asked",
            saved=self.saves.has_saved,
        )
        return True

    def _hand_over(self, go_on_elsewhere: Callable[[], int]) -> Generator[Event, None, bool]:
        """Save, then let another process go on; False where that does not work: this one stays."""
        step = self.state.progress.step
        yield ActivityChanged("handing over")
        yield from self._log_rest()
        save_ids = self.obeyer.take_save_ids()
        if self.stepper.steps_here or self.obeyer.has_changed_the_run:
            self.saves.promise(save_ids)
            save_ids = []
            problem = yield from self.saves.attempt("handing over", keep=self._keep(), goes_on=True)
            if problem is not None:
                yield from not_handed_over("nothing could be saved", step, self.controls)
                return False
        else:
            yield from self.saves.last_outcome()
        if not self.controls.hands_over:  # somebody has asked to stop meanwhile
            return False
        # No checkpoint knows these. Their names come before those of all other commands: what is newer has its way.
        wanted: list[Command] = [Pause(id=f"{0:020d}-pause")] if self.obeyer.paused else []
        wanted += [Stop(when="stage_end", id=f"{0:020d}-stop")] if self.obeyer.stop_at_stage_end else []
        wanted += [SaveNow(id=identity) for identity in save_ids]
        return (yield from hand_over(self.state.run, step, self.controls, go_on_elsewhere, wanted))

    @property
    def _has_unsaved(self) -> bool:
        """Whether this process has anything that no checkpoint knew when it began."""
        return bool(self.stepper.steps_here) or (self._resumed_from is not None and self.obeyer.has_changed_the_run)

    def _keep_what_is_done(self) -> Iterator[Event]:
        """Training cannot go on: write down what is finished. What fails in it is told; it is not why the run ends."""
        for work, what in ((self._save_the_rest, "not saved"), (self._log_rest, "the last metrics are not written")):
            try:
                yield from work()
            except Exception as error:
                said = f"{what}: {type(error).__name__}: {one_line(error, 160)}"
                yield Warned(f"{one_line(self.state.run.model)}: {said}", self.state.progress.step)

    def _save_the_rest(self) -> Iterator[Event]:
        """Save the last finished step, and tell how the save under way has gone.

        Nothing is saved where numbers are bad or an update was broken off: the last checkpoint is better.
        """
        self.saves.promise(self.obeyer.take_save_ids())
        if self.stepper.is_whole and self._has_unsaved and not self.saves.has_failed_at(self.state.progress.step):
            yield from self.saves.attempt("before the end", keep=self._keep(), goes_on=False)
        else:
            yield from self.saves.last_outcome()

    def _log_rest(self) -> Iterator[Event]:
        yield from self.window.logged(self.state.progress, steps=True)

    def _keep(self) -> int:
        plan = self.state.settings.plan
        return self.state.settings.for_stage(plan.stage(self.state.progress.stage)).keep


def _options_of_plans(line: Mapping[str, Any]) -> dict[str, str]:
    """What the command line gives of the options that a plan may set too: there no plan is heard."""
    return {name: shlex.join(command_words({name: value})) for name, value in line.items() if name in train_names()}


def _plan_file(line: Mapping[str, Any]) -> str:
    """The file that the command line's plan was read from; empty where there is none, or it is a shipped one."""
    plan = line.get("training_plan")
    return "" if plan is None or plan in shipped_plans() else str(Path(plan).resolve())
