"""One optimizer step of a stage, and what the run stands behind once it has happened."""

import contextlib
import math
import time
from dataclasses import replace
from functools import partial
from typing import NoReturn

from lmplay_tui.data.batches import Batch
from lmplay_tui.errors import NonFiniteError, TrainingError
from lmplay_tui.models.probing import Kept
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import Event, LogLine, StepDone, Warned
from lmplay_tui.train.accuracy import Accuracy, fast_accuracy_of, mean_accuracy
from lmplay_tui.train.checkpoint import SaveError, write_checkpoint
from lmplay_tui.train.device import fits, give_memory_back, halved
from lmplay_tui.train.gradients import StepConfig, StepResult
from lmplay_tui.train.stage_run import StageRun
from lmplay_tui.train.state import TrainState

# A float16 run begins with a scale of 2^16 and halves it at each overflow: after twenty in a row gradients overflow
# that are not even scaled up, so that it is no search for the scale any more.
OVERFLOWS_TOLD = 20
LEAST_SCALE = 2.0**-24  # float16's smallest number: scaled by less, the loss's own gradient, 1, is 0


class TrainStep:
    """Does the steps of a run, one after the other: `accumulate`, `update`, `finish`.

    Until `update` begins, a stop or an error leaves everything as it was before the step.
    """

    def __init__(self, state: TrainState, controls: Controls, accuracy_interval: int) -> None:
        """`accuracy_interval`: of how many batches one has its words compared."""
        self._state = state
        self._controls = controls
        self._accuracy_interval = accuracy_interval
        self._news: list[Event] = []
        self._buffers: Kept | None = None  # the model's, before the step
        self._has_told_dealt = False
        self.steps_here = 0  # steps done by this process: without any there is nothing to save
        self.is_whole = True  # the state is that of a finished step; not while an update is under way
        self._overflows = 0  # float16 steps in a row whose gradients overflowed

    def accumulate(self, run: StageRun, batch: Batch, lr: float) -> StepResult:
        """The gradients of a batch. Raises `StopRequested`, and whatever the model's own code raises.

        The batch is then back in the feed and everything as it was before. `lr`: of the update that follows; the other
        processes of a group make it by themselves.
        """
        state, optimizer = self._state, self._state.optimizer
        assert optimizer is not None
        state.random_numbers.begin_step()
        self._buffers = None
        try:
            self._buffers = Kept(state.model)
            state.model.train()
            optimizer.zero_grad(set_to_none=True)
            return self._accumulated(run, batch, lr)
        except Exception:  # a stop, too little memory, a bug of the model's: who catches it decides
            run.feed.give_back(batch)
            with contextlib.suppress(RuntimeError):  # a device that has failed takes nothing back: its error is raised
                self._undo()
            raise

    def _accumulated(self, run: StageRun, batch: Batch, lr: float) -> StepResult:
        """The batch's gradients. Where memory lacks, the same batch once more in smaller mini-batches.

        Raises `StopRequested` and `OutOfMemoryError`.
        """
        state = self._state
        step, seed = state.progress.step, run.options.seed
        want_argmax = step % self._accuracy_interval == 0
        begin_mini_batch = partial(state.random_numbers.begin_mini_batch, seed, step)
        where = f"stage {run.stage.name}, step {step + 1}"

        def accumulate() -> StepResult:
            if state.leader is None:
                return state.gradients.accumulate(
                    batch.samples, run.config, self._controls.wants_stop, want_argmax=want_argmax,
                    begin_mini_batch=begin_mini_batch,
                )  # fmt: skip
            return state.leader.accumulate(
                state.gradients, batch.samples, self._dealt(run, batch, where), self._controls.wants_stop,
                step=step, seed=seed, lr=lr, want_argmax=want_argmax,
                checks_weights=step % run.options.log_interval == 0, begin_mini_batch=begin_mini_batch,
            )  # fmt: skip

        while True:
            fitted, result = fits(accumulate)
            if fitted:
                assert result is not None
                return result
            self._undo()
            give_memory_back(state.device)
            size = min(self._dealt(run, batch, where).mini_batch_size, len(batch.samples))
            smaller = halved(size, where, "--mini-batch-size")
            run.config = replace(
                run.config, mini_batch_size=smaller, least_rows=min(run.config.least_rows, smaller)
            )  # fmt: skip
            state.progress.of(run.stage.name).mini_batch_size = smaller
            self._news.append(
                Warned(
                    f"{where}: out of memory with mini-batches of {size}; going on with {smaller}"
                    " (the gradient is the same but for dropout and rounding)",
                    state.progress.step,
                )
            )

    def _dealt(self, run: StageRun, batch: Batch, where: str) -> StepConfig:
        """How the batch is cut: where others train with this process so that each has a part of a full one.

        The size of a plan is what a device holds at most, as its default is; one on a command line is kept. A stage's
        last batch, a smaller one, is cut as the others are: dropout is drawn for each mini-batch, so that another cut
        than one process's is another training, for the sake of a step that takes no longer than a full one.
        """
        state = self._state
        if state.leader is None:
            return run.config
        asked = run.options.mini_batch_size != "auto" and state.settings.says_on_line("mini_batch_size", run.stage)
        config = run.config if asked else state.leader.fitted(run.config, run.options.batch_size)
        if not self._has_told_dealt:
            self._tell_of_cut(run, config, state.leader.world_size, where, asked=asked)
        return config

    def _tell_of_cut(self, run: StageRun, config: StepConfig, ranks: int, where: str, *, asked: bool) -> None:
        """Say once that mini-batches are smaller for the processes' sake, or that some have none."""
        size, batch_size = config.mini_batch_size, run.options.batch_size
        at_work, best = -(-batch_size // size), -(-batch_size // ranks)
        self._has_told_dealt = config != run.config or at_work < ranks
        work = f"give work to {f'{at_work} of' if at_work < ranks else 'all'} {ranks} processes"
        if config != run.config:
            smaller = f"{where}: mini-batches of {size} instead of {run.config.mini_batch_size} {work}"
            smaller += ", and draw other dropout than those" if run.options.dropout else ""
            self._news.append(LogLine(f"{smaller}; a --mini-batch-size on the command line is kept"))
        elif at_work < ranks:
            why = ", as asked for," if asked else ""
            said = f"mini-batches of {size}{why} {work}, for a batch has {batch_size} samples"
            by_samples = config.normalization == "samples" and batch_size > 1
            if best < size:
                advice = f"--mini-batch-size {best} helps" + (", and changes the gradient" if by_samples else "")
            else:
                advice = "a larger --batch-size or fewer processes help"
            self._news.append(Warned(f"{said}: {advice}"))

    def _undo(self) -> None:
        """Forget the gradients, the random numbers and the buffers of a step that did not happen."""
        assert self._state.optimizer is not None
        self._state.optimizer.zero_grad(set_to_none=True)
        self._state.random_numbers.undo_step()
        if self._buffers is not None:
            self._buffers.restore()

    def update(self, run: StageRun, batch: Batch, result: StepResult, lr: float) -> None:
        """Let the optimizer move the weights. Raises `NonFiniteError`, and `TrainingError` where memory lacks."""
        state, optimizer = self._state, self._state.optimizer
        assert optimizer is not None
        self.is_whole = False
        if not fits(lambda: state.gradients.update(optimizer, result, lr=lr, grad_clip=run.config.grad_clip))[0]:
            # Some weights may have moved already: this state is of no step.
            raise TrainingError(
                f"step {state.progress.step + 1}: no memory for the optimizer's update; the last checkpoint is intact; "
                "try --optimizer sgd, a smaller model, or close other programs"
            )
        if not result.is_finite:
            what = "gradient norm" if math.isfinite(result.loss) else "loss"
            self._give_up(run, batch, f"the {what} is not finite", "try a lower --lr, --grad-clip 1, or without --amp")
        self._watch_overflows(run, batch, result)

    def _watch_overflows(self, run: StageRun, batch: Batch, result: StepResult) -> None:
        """A float16 step that is left out is usual; where all are, nothing is learned: a warning, then the end."""
        self._overflows = self._overflows + 1 if result.skipped else 0
        scaler = self._state.gradients.scaler
        if scaler is None or self._overflows < OVERFLOWS_TOLD:
            return
        what = f"the float16 gradients have overflowed at each of the last {self._overflows} steps"
        if scaler.get_scale() < LEAST_SCALE:
            what = f"{what}, and no smaller scale is left to try"
            self._give_up(run, batch, what, "try a lower --lr, --amp-dtype bfloat16, or without --amp")
        if self._overflows == OVERFLOWS_TOLD:
            step = self._state.progress.step + 1
            where = f"stage {run.stage.name}, step {step}: {what}, so none of them has moved the weights"
            self._news.append(Warned(f"{where}; try a lower --lr, --amp-dtype bfloat16, or without --amp", step))

    def _give_up(self, run: StageRun, batch: Batch, what: str, advice: str) -> NoReturn:
        """Numbers that are of no use: keep the last checkpoint, put what there is apart, and end the run."""
        path = self._state.run.checkpoint("corrupted")
        kept = f"the state is in {path}"
        try:
            write_checkpoint(self._state.checkpoint(), path, like=self._state.run.newest)
        except SaveError as error:
            kept = f"the state could not be written to {path} ({error})"
        begin = self._state.progress.of(run.stage.name).position.row
        raise NonFiniteError(
            f"stage {run.stage.name}, step {self._state.progress.step + 1}, rows {begin} to "
            f"{batch.position_after.row}: {what}; no update was made, {kept}; {advice}"
        )

    def finish(
        self, run: StageRun, batch: Batch, result: StepResult, *, lr: float, begun: float, data_s: float
    ) -> StepDone:
        """Only now, that the step has happened, does the run stand behind it.

        `begun`: when the wait for the batch began (`time.perf_counter`); `data_s`: how long that took.
        """
        state, progress = self._state, self._state.progress
        accuracy = self._accuracy(result)
        self.steps_here += 1
        progress.step += 1
        progress.tokens += result.num_tokens
        of_stage = progress.of(run.stage.name)
        of_stage.tokens += result.num_tokens
        self.count(run, batch)
        state.statistics.trained(
            run.stage.name, rows=batch.rows_read, tokens=result.num_tokens, loss_tokens=result.num_loss_tokens,
            loss=result.loss, accuracy=accuracy.words, character_accuracy=accuracy.characters,
        )  # fmt: skip
        self.is_whole = True
        step_s = time.perf_counter() - begun
        progress.elapsed_s += step_s
        of_stage.elapsed_s += step_s
        return StepDone(
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
            recent_loss=result.loss if (recent := state.statistics.recent_loss) is None else recent,
            accuracy=accuracy.words,
            lr=lr,
            grad_norm=result.grad_norm,
            elapsed_s=progress.elapsed_s,
            data_s=data_s,
            forward_s=result.seconds.get("forward", 0.0),
            backward_s=result.seconds.get("backward", 0.0),
            optimizer_s=result.seconds.get("optimizer", 0.0),
            step_s=step_s,
            text_shown=of_stage.text_shown,
            rows_without_sample=of_stage.rows_without_sample,
            character_accuracy=accuracy.characters,
            reduce_s=None if state.leader is None else result.seconds.get("reduce", 0.0),
        )

    def count(self, run: StageRun, batch: Batch) -> None:
        """The rows of a batch have been read: move the position on."""
        progress = self._state.progress
        of_stage = progress.of(run.stage.name)
        progress.rows += batch.rows_read
        of_stage.position = batch.position_after
        of_stage.chars_read += batch.chars_read
        of_stage.chars_shown += batch.chars_shown
        of_stage.rows_without_sample += batch.rows_without_sample
        self._state.statistics.without_sample(run.stage.name, rows=batch.rows_without_sample)

    def _accuracy(self, result: StepResult) -> Accuracy:
        """Mean accuracy of the batch, each prediction against the truth that was trained."""
        decode = self._state.tokenizer.decode
        return mean_accuracy(fast_accuracy_of(decode(tokens), sample.truth) for sample, tokens in result.predictions())

    def take_news(self) -> list[Event]:
        """What the steps since the last call have to say."""
        news, self._news = self._news, []
        return news
