"""The loop: a run from where its state stands to the end of its plan, as an iterator of events.

It yields between steps only, so at every yield the state is consistent and can be saved. What becomes of the events is
decided by the loop that iterates: the headless command prints them, the dashboard shows them, a test lists them.
"""

import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from lmplay_tui.data.batches import Batch
from lmplay_tui.data.leak_guard import LeakGuard
from lmplay_tui.errors import DataError, DriftedError, UserError
from lmplay_tui.formats import counted
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
    Validated,
    Warned,
)
from lmplay_tui.text import one_line
from lmplay_tui.train.alerts import Watch
from lmplay_tui.train.checkpointer import Checkpointer
from lmplay_tui.train.compile import Compilation
from lmplay_tui.train.control import CommandHandler
from lmplay_tui.train.dataloader import LoadedData, RowCounts
from lmplay_tui.train.device import peak_flops
from lmplay_tui.train.evaluation import Evaluator, Scorer, scores_of
from lmplay_tui.train.handoff import hand_over, not_handed_over
from lmplay_tui.train.metrics import FlopCount, LogWindow, MachineMetrics, accuracy_interval
from lmplay_tui.train.optim import without_gradient
from lmplay_tui.train.progress import StageProgress, is_due
from lmplay_tui.train.stage_run import StageEntry, StageRun
from lmplay_tui.train.state import TrainState
from lmplay_tui.train.train_step import TrainStep

FEED_POLL_S = 0.2
LEAKS_S = 5.0  # a stage's end waits so long for the leak guard
ANSWER_SHOWN = 400  # characters, in the answer to a command; the predictions keep all


class Trainer:
    """Trains a run, stage by stage, step by step.

    `note`: one line on what was chosen for this device. `resumed_from`: the step of the checkpoint, if there was one.
    `resume_command`: what a user types to go on, by whether this process has saved. `go_on_elsewhere`: starts a process
    that resumes the run and gives its number. `tell`: called from a thread, with what cannot wait for a step's end.
    `may_not_save`: why the run's checkpoints must not be written any more; None: they may.
    """

    def __init__(
        self,
        state: TrainState,
        data: LoadedData,
        controls: Controls,
        *,
        statistics_folder: Path,
        resume_command: Callable[[bool], str],
        go_on_elsewhere: Callable[[], int],
        tell: Callable[[Event], None],
        may_not_save: Callable[[], str | None],
        resumed_from: int | None = None,
        note: str = "",
    ) -> None:
        self.state = state
        self.data = data
        self.controls = controls
        self.checkpointer = Checkpointer(state, statistics_folder, may_not_save)
        self.row_counts = RowCounts(data.count)
        self.leak_guard = LeakGuard(data.look_for_leaks)
        self.commands = CommandHandler(state, controls, self.row_counts.of)
        flops = FlopCount.of_model(state.model, state.model_args)
        peak, peak_from = peak_flops(state.device, state.precision.dtype)
        self.window = LogWindow(flops, peak, state.progress.rows, peak_from, MachineMetrics(state.device))
        if state.leader is not None:
            state.leader.ranks.record_in(state.run.files)
            self.window.num_ranks, self.window.ranks = state.leader.world_size, state.leader.ranks.interval
        self.watch = Watch() if state.leader is None else Watch(behind=state.leader.behind)
        interval = accuracy_interval(flops, state.device.type)
        options = state.settings.for_run()
        how = (options.compile_backend, options.compile_mode, state.device)
        compilation = Compilation(*how) if options.compile_model else None
        self.entry = StageEntry(
            state, data, controls, row_counts=self.row_counts, leak_guard=self.leak_guard, compilation=compilation,
            accuracy_interval=interval,
        )  # fmt: skip
        self.step = TrainStep(state, controls, interval)
        scorer = Scorer(state.model, state.gradients.hidden, state.tokenizer, state.precision, state.leader)
        self.evaluator = Evaluator(state, data, scorer, controls.wants_stop)
        self._note = note
        self._resume_command = resume_command
        self._go_on_elsewhere = go_on_elsewhere
        self._tell = tell
        self._resumed_from = resumed_from

    def run(self) -> Iterator[Event]:
        """Everything from here to the plan's end. The last event is `RunDone`, `RunStopped`, or `HandedOver`.

        Raises `UserError` where training cannot go on.
        """
        state, progress = self.state, self.state.progress
        yield self._run_started()
        try:
            while True:
                try:
                    with self.watch.reporting_hangs(self._tell):
                        yield from self._train()
                    break
                except StopRequested:  # between two steps, or between two mini-batches of one that did not happen
                    if (yield from self._leave()):
                        return
                    yield ActivityChanged("training")  # no other process could take the run over
            yield from self.checkpointer.wait()
            yield RunDone(step=progress.step, path=str(state.run.model), seconds=progress.elapsed_s)
        except Exception as error:  # whatever it is, and be it a bug: finished steps are not lost
            if isinstance(error, DriftedError):  # but where it is not known which rank has the right weights
                self.step.is_whole = False
            yield from self.step.take_news()  # what was tried before it failed: smaller mini-batches
            yield from self._keep_what_is_done()
            self.commands.put_back([*self.checkpointer.take_asked(), *self.commands.take_save_ids()])
            raise
        finally:
            self.leak_guard.close()

    def _train(self) -> Iterator[Event]:
        """The stages that are left, step by step. Raises `StopRequested` with a state that can be saved."""
        state, progress = self.state, self.state.progress
        while (stage := self.commands.next_stage()) is not None:
            # a stage begins, or goes on after a resume: open its data, set the optimizer up, compile
            run = yield from self.entry.enter(stage)
            of_stage = progress.of(stage.name)
            try:
                while True:
                    # what was found beside the training: rows of stages to come, rows that leak
                    yield from self._background_news()

                    # once in a while: score the next few held-out samples
                    if is_due(run.options.validation_interval, progress.rows, of_stage.validated_rows):
                        yield from self._validate(run)

                    # once in a while: score the stage's fixed set and answer the pinned prompts
                    # (not behind the last step: the stage's end evaluates anyway, and logs with that)
                    if not self._all_read(run):
                        if is_due(run.options.eval_interval, progress.rows, of_stage.evaluated_rows):
                            yield from self._evaluate(run, at_stage_end=False)

                        # write down the means over the last steps, and the scores of this moment
                        yield from self._log(steps=progress.step % run.options.log_interval == 0)

                    # once in a while: save (after the log: what a resume does not do again stands in the journals)
                    yield from self._count_saving(self.checkpointer.poll())
                    if self._is_save_due(run):
                        yield from self._save(run, "interval")

                    # do what was asked since the last step; while paused, stay here
                    yield from self._do_as_asked(run)

                    # the next batch, read ahead; None behind the stage's last row
                    begun = time.perf_counter()
                    batch = yield from self._next_batch(run, begun)
                    if batch is None:
                        break
                    if not batch.samples:  # rows without words: read and counted, nothing to learn from
                        self.step.count(run, batch)
                        state.statistics.skipped(stage.name, rows=batch.rows_read)
                        continue
                    data_s, first_row = time.perf_counter() - begun, of_stage.position.row

                    # ------------------------------------------------------------------------------------------------
                    # one training step
                    with self.watch.step_under_way(progress.step + 1):
                        lr = state.lr(run.options, of_stage.position.row / max(run.data.rows_total, 1))
                        # the batch's gradients, mini-batch by mini-batch; on a stop all is as it was before
                        result = self.step.accumulate(run, batch, lr)
                        # a save may still be copying the weights
                        self.checkpointer.wait_for_copy()
                        # look at the numbers, clip, and let the optimizer move the weights
                        self.step.update(run, batch, result, lr)
                        # the step has happened: count it, and compare the batch's words
                        done = self.step.finish(run, batch, result, lr=lr, begun=begun, data_s=data_s)
                    # ------------------------------------------------------------------------------------------------

                    # tell of it, and of what is unusual about it
                    self.window.add(done)
                    yield done
                    yield from self.watch.step_done(done, first_row)
                    yield from run.feed.step_done(done)
                    yield from self.step.take_news()
                    yield from self._check_gradients(run)

                # a stage ends: evaluate it and those before it, keep a checkpoint
                yield from self._end_stage(run)
            except Exception:  # a stop, or whatever ends the run: what is saved then names the batch that comes then
                progress.next_batch = ""  # no name is better than an old one, should even this fail
                progress.next_batch = run.feed.next_digest()
                raise
            finally:
                run.feed.close()
            if self.commands.stop_at_stage_end and self.commands.next_stage() is not None:
                self.controls.send(Stop(reason="the stage's end"))  # whatever else has been asked for meanwhile
                raise StopRequested

    def _next_batch(self, run: StageRun, begun: float) -> Generator[Event, None, Batch | None]:
        """The next batch; None at the stage's end. A disk or a hub may take its time: a stop does not wait for them."""
        while not run.feed.ready(FEED_POLL_S):
            if self.controls.wants_stop():
                raise StopRequested
            yield from self.watch.data_waited(time.perf_counter() - begun, self.state.progress.step)
        return run.feed.take()

    def _check_gradients(self, run: StageRun) -> Iterator[Event]:
        """After this process's first step: name the parameters that it did not reach (`--check-grads`)."""
        if run.options.check_grads and self.step.steps_here == 1:
            names = ", ".join(without_gradient(self.state.model)) or "none"
            yield LogLine(f"parameters without a gradient: {names}")

    # ------------------------------------------------------------------ once in a while

    def _background_news(self) -> Iterator[Event]:
        if self.row_counts.take_news():
            yield StagesCounted(self.commands.stage_infos())
        yield from self._leaks()
        yield from self.entry.hide_proof()

    def _leaks(self) -> Iterator[Event]:
        """What the leak guard has found."""
        for is_warning, sentence in self.leak_guard.take_news():
            yield Warned(sentence, self.state.progress.step) if is_warning else LogLine(sentence)

    def _all_read(self, run: StageRun) -> bool:
        """Whether no batch is left in the stage, as its plan is now."""
        return self.state.progress.of(run.stage.name).position.row >= run.data.rows_total

    def _validate(self, run: StageRun) -> Iterator[Event]:
        yield ActivityChanged("validating")
        for event in self.evaluator.validate(run.stage, run.data, run.options):
            if isinstance(event, Validated):
                self.window.spend("time/validate_s", event.seconds)
                self.window.score({"val/loss": event.loss})
                if event.accuracy is not None:
                    self.window.score({"val/accuracy": event.accuracy})
                if event.character_accuracy is not None:
                    self.window.score({"val/character_accuracy": event.character_accuracy})
            yield event
        yield ActivityChanged("training")

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

    def _log(self, *, steps: bool) -> Iterator[Event]:
        """Write the scores of this moment down and, where `steps` says so, the steps that are not logged yet."""
        yield from self.window.logged(self.state.progress, steps=steps)

    def _is_save_due(self, run: StageRun) -> bool:
        options, progress = run.options, self.state.progress
        if not self.step.steps_here:
            return False
        by_time = options.save_minutes is not None and self.checkpointer.minutes_since_save >= options.save_minutes
        return by_time or is_due(options.save_interval, progress.rows, progress.saved_rows)

    def _save(self, run: StageRun, reason: str) -> Iterator[Event]:
        yield from self._log(steps=self._all_read(run))
        self.state.progress.next_batch = run.feed.next_digest()
        self.checkpointer.answer_with_next(self.commands.take_save_ids())
        yield from self._count_saving(self.checkpointer.save(reason, run.options.keep))

    def _count_saving(self, events: Iterator[Event]) -> Iterator[Event]:
        """The events of a save; what training has waited for it belongs into the next line of metrics."""
        for event in events:
            if isinstance(event, CheckpointSaved):
                self.window.spend("time/save_s", event.blocked_s)
            yield event

    # ------------------------------------------------------------------ what was asked

    def _do_as_asked(self, run: StageRun) -> Iterator[Event]:
        """Do what was asked since the last step; while paused, stay."""
        while True:
            for event in self.commands.handle():
                yield event
                if self.commands.paused:  # no step comes that would look
                    yield from self._count_saving(self.checkpointer.poll())
            if self.controls.stop_now:
                raise StopRequested
            if not self.commands.has_work:
                return
            if self.commands.validations:
                yield from self._validate_as_asked(run)
            for ask in self.commands.prompts:
                yield from self._answer(run, ask)
            if self.commands.take("plan"):
                yield from self._log(steps=self.state.progress.step % run.options.log_interval == 0)
                yield from self.entry.reenter(run)
            if self.commands.take("save"):
                yield from self._save(run, "asked")
                if self.commands.paused:
                    yield from self._count_saving(self.checkpointer.wait())

    def _validate_as_asked(self, run: StageRun) -> Iterator[Event]:
        asked = self.commands.validations
        yield from self._log(steps=False)  # two validations at one step are two
        ok, message = False, f"stage {run.stage.name} has no rows to validate on"
        for event in self._validate(run):
            if isinstance(event, Validated):
                samples = counted(event.samples, "sample")
                ok, message = True, f"validated {samples} at step {event.step}: loss {event.loss:.4f}"
            yield event
        yield from self._log(steps=False)
        for command in asked:
            yield from self.commands.answer(command, ok, message)

    def _answer(self, run: StageRun, ask: Ask) -> Iterator[Event]:
        """Say what the model says. A prompt that it cannot go on with costs the answer, not the run."""
        try:
            prediction = self.evaluator.answer(ask)
        except UserError as error:
            yield from self.commands.answer(ask, False, f"no answer: {error}")
            return
        yield Predicted(self.state.progress.step, run.stage.name, prediction)
        yield from self.commands.answer(ask, True, one_line(prediction.prediction, ANSWER_SHOWN))

    # ------------------------------------------------------------------ ends

    def _end_stage(self, run: StageRun) -> Iterator[Event]:
        """Evaluate this stage and the earlier ones, and save a checkpoint that stays."""
        progress = self.state.progress
        of_stage = progress.of(run.stage.name)
        if not of_stage.tokens:
            self._refuse_as_empty(run)
        yield from self._evaluate(run, at_stage_end=True)
        self.leak_guard.wait(LEAKS_S)  # a short stage may be over before it has looked
        yield from self._leaks()
        yield from self._log(steps=True)
        of_stage.done = True
        of_stage.loss_at_end = progress.eval_loss
        progress.next_batch = ""
        if self.commands.next_stage() is None:  # no later save would try again
            yield from self.checkpointer.save_or_raise("stage end", run.options.keep)
        else:
            yield from self.checkpointer.save("stage end", run.options.keep)
            yield from self._count_saving(self.checkpointer.wait())
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
        progress, statistics, stage = self.state.progress, self.state.statistics, run.stage.name
        read = progress.of(stage)
        rows = read.position.row
        progress.rows -= rows
        statistics.skipped(stage, rows=-rows)
        statistics.without_sample(stage, rows=-read.rows_without_sample)
        progress.stages[stage] = StageProgress()
        names = ", ".join(dict.fromkeys(spec.name for spec in run.stage.datasets))
        raise DataError(
            f"stage {run.stage.name}: nothing was trained in it: no sample came of the {counted(rows, 'row')} that it "
            f"read of {one_line(names)}, there are no words in them; give it other rows, or leave it out; the last "
            "checkpoint is intact"
        )

    def _leave(self) -> Generator[Event, None, bool]:
        """Save what the last finished step left and end, or let another process go on; False: stay after all."""
        self.commands.put_back()
        if self.controls.hands_over:
            return (yield from self._hand_over())
        progress, path = self.state.progress, self.state.run.model
        yield ActivityChanged("stopping")
        yield from self._log(steps=True)
        self.checkpointer.answer_with_next(self.commands.take_save_ids())
        if self._has_unsaved:
            yield from self.checkpointer.save_or_raise("stop", self._keep())
        else:
            yield from self.checkpointer.wait_at_end()
            yield from self.checkpointer.refuse("nothing had been trained")
        yield RunStopped(
            step=progress.step,
            path=str(path) if path.exists() else None,
            command=self._resume_command(self.checkpointer.has_saved),
            reason=self.controls.stop_reason or "asked",
            saved=self.checkpointer.has_saved,
        )
        return True

    def _hand_over(self) -> Generator[Event, None, bool]:
        """Save, then let another process go on; False where that does not work: this one stays."""
        step = self.state.progress.step
        yield ActivityChanged("handing over")
        yield from self._log(steps=True)
        save_ids = self.commands.take_save_ids()
        if self.step.steps_here or self.commands.has_changed_the_run:
            self.checkpointer.answer_with_next(save_ids)
            save_ids = []
            problem = yield from self.checkpointer.save_and_wait("handing over", self._keep(), goes_on=True)
            if problem is not None:
                yield from not_handed_over("nothing could be saved", step, self.controls)
                return False
        else:
            yield from self.checkpointer.wait_at_end()
        if not self.controls.hands_over:  # a stop was asked for meanwhile
            return False
        # No checkpoint knows these. Their names come before those of all other commands: what is newer has its way.
        wanted: list[Command] = [Pause(id=f"{0:020d}-pause")] if self.commands.paused else []
        wanted += [Stop(when="stage_end", id=f"{0:020d}-stop")] if self.commands.stop_at_stage_end else []
        wanted += [SaveNow(id=identity) for identity in save_ids]
        return (yield from hand_over(self.state.run, step, self.controls, self._go_on_elsewhere, wanted))

    @property
    def _has_unsaved(self) -> bool:
        """Whether this process has anything that no checkpoint knew when it began."""
        return bool(self.step.steps_here) or (self._resumed_from is not None and self.commands.has_changed_the_run)

    def _keep_what_is_done(self) -> Iterator[Event]:
        """Training cannot go on: write down what is finished. What fails in it is a warning, not why the run ends."""
        rest = (
            (self._save_the_rest(), "not saved"),
            (self._log(steps=True), "the last metrics are not written"),
        )
        for events, what in rest:
            try:
                yield from events
            except Exception as error:
                sentence = f"{what}: {type(error).__name__}: {one_line(error, 160)}"
                yield Warned(f"{one_line(self.state.run.model)}: {sentence}", self.state.progress.step)

    def _save_the_rest(self) -> Iterator[Event]:
        """Save the last finished step, and tell how the save under way has gone.

        Nothing is saved where numbers are bad or an update was broken off: the last checkpoint is better.
        """
        self.checkpointer.answer_with_next(self.commands.take_save_ids())
        has_failed = self.checkpointer.has_failed_at(self.state.progress.step)
        if self.step.is_whole and self._has_unsaved and not has_failed:
            yield from self.checkpointer.save_and_wait("before the end", self._keep(), goes_on=False)
        else:
            yield from self.checkpointer.wait_at_end()

    def _keep(self) -> int:
        """How many numbered checkpoints the stage under way keeps."""
        plan = self.state.settings.plan
        return self.state.settings.for_stage(plan.stage(self.state.progress.stage)).keep

    # ------------------------------------------------------------------ the first event

    def _run_started(self) -> RunStarted:
        state, progress = self.state, self.state.progress
        return RunStarted(
            name=state.run.name,
            device=str(state.device),
            num_parameters=sum(p.numel() for p in state.model.parameters()),
            step=progress.step,
            rows=progress.rows,
            tokens=progress.tokens,
            stages=self.commands.stage_infos(),
            resumed_from=self._resumed_from,
            note=self._note,
            pid=os.getpid(),
            plan_folder=state.settings.plan.folder,
            pinned=tuple(progress.pinned),
            elapsed_s=progress.elapsed_s,
            plan_text=state.settings.plan.text,
            plan_file=state.settings.plan_file,
            on_line=state.settings.on_line,
            train_loss=state.statistics.recent_loss,
            val_loss=state.statistics.last_val_loss,
            own_experiment=state.settings.own_experiment,
        )
