"""The training loop: an iterator of events.

It yields between steps only, so at every yield the state is consistent and can be saved. Whoever iterates decides
what becomes of the events: the headless command prints them, the dashboard shows them, a test lists them.
"""

import math
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from lmplay_tui.data.batches import Batch
from lmplay_tui.data.stage_data import StageData
from lmplay_tui.errors import NonFiniteError, UserError
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import Stage
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import (
    ActivityChanged,
    Answered,
    CheckpointSaved,
    Event,
    LogLine,
    MetricsLogged,
    Predicted,
    RunDone,
    RunStarted,
    RunStopped,
    StageDone,
    StageStarted,
    StepDone,
    Validated,
    Warned,
)
from lmplay_tui.train.accuracy import fast_word_accuracy
from lmplay_tui.train.checkpoint import SaveError, write_checkpoint
from lmplay_tui.train.device import peak_flops
from lmplay_tui.train.evaluation import Evaluator
from lmplay_tui.train.feed import Feed
from lmplay_tui.train.loading import LoadedData
from lmplay_tui.train.metrics import FlopCount, LogWindow, accuracy_interval
from lmplay_tui.train.obeying import Obeyer
from lmplay_tui.train.optim import without_gradient
from lmplay_tui.train.progress import is_due
from lmplay_tui.train.saves import Saves
from lmplay_tui.train.state import TrainState, restore_rng, rng_state
from lmplay_tui.train.steps import (
    StepResult,
    StepSettings,
    StopRequested,
    accumulate_gradients,
    apply_update,
    is_finite,
)
from lmplay_tui.train.validation import Scorer


@dataclass
class StageRun:
    """A stage while it runs: its options and data, and how its steps are done."""

    stage: Stage
    options: TrainOptions
    data: StageData
    feed: Feed
    step_settings: StepSettings
    accuracy_interval: int
    waited_from: float = 0.0  # when the loop began to wait for the batch under way


class Trainer:
    """Trains a run from where its state stands to the end of its plan.

    `note`: one line on what was chosen for this device. `resumed_from`: the step of the checkpoint, if there was one.
    `resume_command`: what a user types to go on. `said`: where parts without a voice of their own leave events.
    """

    def __init__(
        self,
        state: TrainState,
        data: LoadedData,
        controls: Controls,
        *,
        statistics_folder: Path,
        resume_command: str,
        resumed_from: int | None = None,
        note: str = "",
        said: list[Event] | None = None,
    ) -> None:
        self.state = state
        self.data = data
        self.controls = controls
        self.saves = Saves(state, statistics_folder)
        scorer = Scorer(state.model, state.hidden, state.tokenizer, state.precision)
        self.evaluator = Evaluator(state, data, scorer, lambda: controls.stop_now)
        self.obeyer = Obeyer(state, controls)
        peak, _ = peak_flops(state.device, state.precision.dtype)
        self.window = LogWindow(FlopCount.of_model(state.model, state.model_args), peak)
        self.steps_here = 0  # steps done by this process: without any there is nothing to save
        self._note = note
        self._said = said if said is not None else []
        self._resume_command = resume_command
        self._resumed_from = resumed_from
        self._begun = time.monotonic()
        self._max_hours = state.settings.for_run().max_hours

    # ------------------------------------------------------------------ the run

    def run(self) -> Iterator[Event]:
        """Everything from here to the plan's end. The last event is `RunDone` or `RunStopped`.

        Raises `UserError` where training cannot go on.
        """
        state, progress = self.state, self.state.progress
        yield self._run_started()
        try:
            while (stage := self.obeyer.next_stage()) is not None:
                yield from self._run_stage(stage)
                if self.obeyer.stop_at_stage_end and self.obeyer.next_stage() is not None:
                    self.controls.stop_reason = "the stage's end"
                    raise StopRequested
        except StopRequested:
            yield from self._stop()
            return
        yield from self.saves.close()
        yield RunDone(step=progress.step, path=str(state.run.model), seconds=progress.elapsed_s)

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
        )

    def _stop(self) -> Iterator[Event]:
        """Save what the last finished step left, unless it is on the disk already."""
        progress, path = self.state.progress, self.state.run.model
        yield ActivityChanged("stopping")
        yield from self.saves.close()
        if self.window.steps:
            yield MetricsLogged(self.window.take())
        if self.steps_here:
            yield from self.saves.finish("stop", keep=self._keep())
        yield RunStopped(
            step=progress.step,
            path=str(path) if path.exists() else None,
            command=self._resume_command,
            reason=self.controls.stop_reason or "asked",
        )

    def _keep(self) -> int:
        plan = self.state.settings.plan
        return self.state.settings.for_stage(plan.stage(self.state.progress.stage)).keep

    # ------------------------------------------------------------------ a stage

    def _run_stage(self, stage: Stage) -> Iterator[Event]:
        run = yield from self._enter(stage)
        try:
            yield from self._now_and_then(run)  # a stop may have come between a step and its validation
            while (batch := (yield from self._next_batch(run))) is not None:
                if batch.samples:
                    yield self._step(run, batch)
                    if run.options.check_grads and self.steps_here == 1:
                        names = ", ".join(without_gradient(self.state.model)) or "none"
                        yield LogLine(f"parameters without a gradient: {names}")
                else:  # rows without words: read and counted, nothing to learn from
                    self._count(run, batch)
                    self.state.statistics.skipped(run.stage.name, rows=batch.rows_read)
                if self.window.steps and self.state.progress.step % run.options.log_interval == 0:
                    yield MetricsLogged(self.window.take())
                while self._said:
                    yield self._said.pop(0)
                yield from self._now_and_then(run)
            yield from self._end_stage(run)
        except StopRequested:
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
        if is_new:
            # Intervals count from the stage's first row: what is due is due for this stage's own training.
            of_stage.validated_rows = of_stage.evaluated_rows = progress.rows
        of_stage.fingerprint, of_stage.begun = data.fingerprint, True
        if progress.stage != stage.name:
            progress.stage, progress.eval_loss, progress.best_eval_loss = stage.name, None, None
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
        )
        if (proof := run.feed.compare(progress.next_batch)) is not None:
            same, said = proof
            yield LogLine(said) if same else Warned(said, progress.step)
        progress.next_batch = ""
        return run

    def _prepared(self, stage: Stage, data: StageData, *, is_new: bool) -> StageRun:
        state = self.state
        options = state.enter_stage(stage, is_new=is_new)
        size = options.mini_batch_size
        assert isinstance(size, int)
        return StageRun(
            stage=stage,
            options=options,
            data=data,
            feed=Feed(data, state.progress.of(stage.name).position, options.batch_size),
            step_settings=StepSettings(
                device=state.device,
                mini_batch_size=min(size, state.progress.mini_batch_size or size),
                normalization=options.loss_normalization,
                include_prompts=options.include_prompts,
                grad_clip=options.grad_clip,
                autocast=state.precision.autocast,
                scaler=state.scaler,
            ),
            accuracy_interval=accuracy_interval(self.window.flops, state.device.type),
        )

    def _end_stage(self, run: StageRun) -> Iterator[Event]:
        """What belongs to a stage's end: evaluation of this and the earlier stages, and a checkpoint that stays."""
        progress = self.state.progress
        of_stage = progress.of(run.stage.name)
        yield from self._evaluate(run, at_stage_end=True)
        if self.window.steps:
            yield MetricsLogged(self.window.take())
        of_stage.done = True
        of_stage.loss_at_end = progress.eval_loss
        progress.next_batch = ""
        yield from self.saves.finish("stage end", run.options.keep)
        yield StageDone(
            stage=run.stage.name,
            index=[s.name for s in self.state.settings.plan.stages].index(run.stage.name),
            step=progress.step,
            rows=progress.rows,
            tokens=progress.tokens,
            seconds=of_stage.elapsed_s,
        )

    # ------------------------------------------------------------------ a step

    def _next_batch(self, run: StageRun) -> Generator[Event, None, Batch | None]:
        """Do what was asked, then take the next batch; None at the stage's end."""
        yield from self._obey(run)
        run.waited_from = time.perf_counter()
        return run.feed.take()

    def _step(self, run: StageRun, batch: Batch) -> StepDone:
        """One optimizer step. On a stop between mini-batches everything is as it was before."""
        state, progress, optimizer = self.state, self.state.progress, self.state.optimizer
        assert optimizer is not None
        data_s = time.perf_counter() - run.waited_from
        rng = rng_state(state.device)
        lr = self._lr(run)
        run.step_settings.want_argmax = progress.step % run.accuracy_interval == 0
        state.model.train()
        optimizer.zero_grad(set_to_none=True)
        try:
            result = accumulate_gradients(
                state.model, state.hidden, batch.samples, run.step_settings, lambda: self.controls.stop_now
            )
        except StopRequested:
            optimizer.zero_grad(set_to_none=True)
            restore_rng(rng, state.device)
            run.feed.give_back(batch)
            raise
        apply_update(optimizer, result, run.step_settings, lr)
        if not is_finite(result):
            self._give_up(run, batch, result)
        accuracy = self._accuracy(result)

        # Only now, that the step has happened, does the run stand behind it.
        self.steps_here += 1
        progress.step += 1
        progress.tokens += result.num_tokens
        of_stage = progress.of(run.stage.name)
        of_stage.tokens += result.num_tokens
        self._count(run, batch)
        state.statistics.trained(
            run.stage.name, rows=batch.rows_read, tokens=result.num_tokens, loss_tokens=result.num_loss_tokens,
            loss=result.loss, accuracy=accuracy,
        )  # fmt: skip
        step_s = time.perf_counter() - run.waited_from
        progress.elapsed_s += step_s
        of_stage.elapsed_s += step_s
        done = StepDone(
            step=progress.step,
            stage=run.stage.name,
            rows=progress.rows,
            stage_rows=of_stage.position.row,
            tokens=progress.tokens,
            loss_tokens=result.num_loss_tokens,
            step_tokens=result.num_tokens,
            samples=result.num_samples,
            epoch=of_stage.position.row / max(run.data.rows_per_epoch, 1),
            row=batch.row_in_epoch,
            loss=result.loss,
            accuracy=accuracy,
            lr=lr,
            grad_norm=result.grad_norm,
            elapsed_s=progress.elapsed_s,
            data_s=data_s,
            forward_s=result.forward_s,
            backward_s=result.backward_s,
            optimizer_s=result.optimizer_s,
            step_s=step_s,
            text_shown=of_stage.text_shown,
        )
        self.window.add(done)
        return done

    def _lr(self, run: StageRun) -> float:
        rows_done = self.state.progress.of(run.stage.name).position.row
        return self.state.lr(run.options, rows_done / max(run.data.rows_total, 1))

    def _count(self, run: StageRun, batch: Batch) -> None:
        progress = self.state.progress
        of_stage = progress.of(run.stage.name)
        progress.rows += batch.rows_read
        of_stage.position = batch.position_after
        of_stage.chars_read += batch.chars_read
        of_stage.chars_shown += batch.chars_shown

    def _accuracy(self, result: StepResult) -> float | None:
        """Mean word accuracy of the batch, each prediction against the truth that was trained."""
        decode = self.state.tokenizer.decode
        known = [
            accuracy
            for sample, argmax in result.argmax
            if (accuracy := fast_word_accuracy(decode(argmax.tolist()), sample.truth)) is not None
        ]
        return sum(known) / len(known) if known else None

    def _give_up(self, run: StageRun, batch: Batch, result: StepResult) -> None:
        """Numbers that are not finite: keep the last checkpoint, put what there is apart, and end the run."""
        path = self.state.run.checkpoint("corrupted")
        kept = f"the state is in {path}"
        try:
            write_checkpoint(self.state.checkpoint(), path)
        except SaveError as error:
            kept = f"the state could not be written to {path} ({error})"
        begin = self.state.progress.of(run.stage.name).position.row
        what = "gradient norm" if math.isfinite(result.loss) else "loss"
        raise NonFiniteError(
            f"stage {run.stage.name}, step {self.state.progress.step + 1}, rows {begin} to "
            f"{batch.position_after.row}: the {what} is not finite; no update was made, {kept}; "
            "try a lower --lr, --grad-clip 1, or without --amp"
        )

    # ------------------------------------------------------------------ between steps

    def _now_and_then(self, run: StageRun) -> Iterator[Event]:
        """Validate, evaluate, save, each when it is due."""
        progress, options = self.state.progress, run.options
        of_stage = progress.of(run.stage.name)
        if is_due(options.validation_interval, progress.rows, of_stage.validated_rows):
            yield from self._validate(run)
        if is_due(options.eval_interval, progress.rows, of_stage.evaluated_rows):
            yield from self._evaluate(run, at_stage_end=False)
        yield from self._saved(self.saves.outcomes())
        by_time = options.save_minutes is not None and self.saves.minutes_since >= options.save_minutes
        if self.steps_here and (by_time or is_due(options.save_interval, progress.rows, progress.saved_rows)):
            yield from self._save(run, "interval")

    def _save(self, run: StageRun, reason: str) -> Iterator[Event]:
        self.state.progress.next_batch = run.feed.next_digest()
        yield from self._saved(self.saves.begin(reason, run.options.keep))

    def _saved(self, events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            if isinstance(event, CheckpointSaved):
                self.window.note({"time/save_s": event.blocked_s})
                for identity in self.obeyer.take_save_ids():
                    yield Answered("SaveNow", identity, ok=True, message=event.path)
            yield event

    def _validate(self, run: StageRun) -> Iterator[Event]:
        yield ActivityChanged("validating")
        for event in self.evaluator.validate(run.stage, run.data, run.options):
            if isinstance(event, Validated):
                self.window.note({"val/loss": event.loss, "time/validate_s": event.seconds})
                if event.accuracy is not None:
                    self.window.note({"val/accuracy": event.accuracy})
            yield event
        yield ActivityChanged("training")

    def _evaluate(self, run: StageRun, *, at_stage_end: bool) -> Iterator[Event]:
        yield ActivityChanged("evaluating")
        if at_stage_end:
            yield from self._open_earlier(run.stage)
        for event in self.evaluator.evaluate(run.stage, run.options, at_stage_end=at_stage_end):
            self.window.note(self.evaluator.metrics(event, run.stage.name))
            yield event
        yield ActivityChanged("training")

    def _open_earlier(self, stage: Stage) -> Iterator[Event]:
        """What was forgotten is measured on earlier stages' sets, which a resumed run has not opened."""
        for other in self.state.settings.plan.stages:
            if other.name == stage.name:
                return
            try:
                yield from self.data.open(other, self.controls)
            except UserError as error:
                yield Warned(f"stage {other.name} is not evaluated again: {error}", self.state.progress.step)

    def _obey(self, run: StageRun) -> Iterator[Event]:
        """Do what was asked since the last step; while paused, stay."""
        if self._max_hours is not None and (time.monotonic() - self._begun) / 3600 >= self._max_hours:
            self.controls.stop_reason = "--max-hours"
            self.controls.stop_now = True
        while True:
            yield from self.obeyer.obey(self._lr(run))
            if self.controls.stop_now:
                raise StopRequested
            if not self.obeyer.has_work:
                return
            if self.obeyer.take("validate"):
                yield from self._validate(run)
            for ask in self.obeyer.take_asked():
                yield Predicted(self.state.progress.step, run.stage.name, self.evaluator.answer(ask))
            if self.obeyer.take("plan"):
                yield from self._reenter(run)
            if self.obeyer.take("save"):
                yield from self._save(run, "asked")
                if self.obeyer.paused:
                    yield from self._saved(self.saves.close())

    def _reenter(self, run: StageRun) -> Iterator[Event]:
        """Go on under a changed plan: other rows to go, other options, the same place."""
        stage = self.state.settings.plan.stage(run.stage.name)
        yield from self.data.open(stage, self.controls)
        run.feed.close()
        data = self.data.of(stage)
        of_stage = self.state.progress.of(stage.name)
        of_stage.rows_total = data.rows_total
        fresh = self._prepared(stage, data, is_new=False)
        run.stage, run.options, run.data, run.feed = fresh.stage, fresh.options, fresh.data, fresh.feed
        run.step_settings = fresh.step_settings
