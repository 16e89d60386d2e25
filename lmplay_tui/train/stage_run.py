"""A stage under way: how it is entered, at its first row, after a resume, and again when its plan has changed."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from lmplay_tui.data.leak_guard import LeakGuard
from lmplay_tui.data.stage_data import StageData
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import Stage
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import ActivityChanged, Event, LogLine, StageStarted, Warned
from lmplay_tui.train.compile import Compilation, probe
from lmplay_tui.train.dataloader import Feed, LoadedData, RowCounts
from lmplay_tui.train.gradients import StepConfig
from lmplay_tui.train.state import TrainState

PROBED_FROM = 4  # the mini-batch size before another has been found
PROOF_SHOWN_S = 15.0  # in the state line; the log keeps it


@dataclass
class StageRun:
    """A stage while it runs: its options and data, its batches, and how its steps are done."""

    stage: Stage
    options: TrainOptions
    data: StageData
    feed: Feed
    config: StepConfig  # with a smaller mini-batch once memory lacks for it


class StageEntry:
    """Opens a stage's data, sets the optimizer up for it, and makes the model ready for its steps."""

    def __init__(
        self,
        state: TrainState,
        data: LoadedData,
        controls: Controls,
        *,
        row_counts: RowCounts,
        leak_guard: LeakGuard,
        compilation: Compilation | None,
        accuracy_interval: int,
    ) -> None:
        """`accuracy_interval`: of how many batches one has its words compared."""
        self._state = state
        self._data = data
        self._controls = controls
        self._row_counts = row_counts
        self._leak_guard = leak_guard
        self._compilation = compilation
        self._accuracy_interval = accuracy_interval
        self._proof_until: float | None = None
        self._has_told_unprobed = False

    def enter(self, stage: Stage) -> Generator[Event, None, StageRun]:
        """The stage from where it stands: its first row, or the one that a checkpoint names."""
        state, progress = self._state, self._state.progress
        is_new = stage.name not in progress.stages or not progress.of(stage.name).begun
        yield from self._data.open(stage, self._controls)
        data = self._data.of(stage)
        yield from self._take_over(stage, data, is_new=is_new)
        optimizer_before = state.optimizer_before
        run = self._prepared(stage, data, is_new=is_new)
        if not is_new and optimizer_before not in ("", run.options.optimizer):
            yield Warned(
                f"stage {stage.name}: its optimizer is {run.options.optimizer}, the checkpoint's {optimizer_before}: "
                "the optimizer's state begins anew",
                progress.step,
            )
        names = [s.name for s in state.settings.plan.stages]
        yield StageStarted(
            stage=stage.name,
            index=names.index(stage.name),
            num_stages=len(names),
            rows_total=data.rows_total,
            rows_done=progress.of(stage.name).position.row,
            step=progress.step,
            rows=progress.rows,
            unigram_entropy=data.unigram_entropy(),
            rows_per_epoch=data.rows_per_epoch,
        )
        yield from self._prove(run)
        if self._accuracy_interval > 1:
            yield LogLine(
                f"word accuracy of one training batch in {self._accuracy_interval} (all: over 1 % of the time)"
            )
        self._look_around(stage)
        yield from self._make_ready(run)
        return run

    def reenter(self, run: StageRun) -> Iterator[Event]:
        """Go on under a changed plan: other rows to go, other options, the same place."""
        stage = self._state.settings.plan.stage(run.stage.name)
        yield from self._data.open(stage, self._controls)
        run.feed.close()
        data = self._data.of(stage)
        of_stage = self._state.progress.of(stage.name)
        of_stage.rows_total, of_stage.fingerprint = data.rows_total, data.fingerprint
        fresh = self._prepared(stage, data, is_new=False)
        run.stage, run.options, run.data, run.feed = fresh.stage, fresh.options, fresh.data, fresh.feed
        run.config = fresh.config
        self._look_around(stage)
        yield from self._make_ready(run)

    def _take_over(self, stage: Stage, data: StageData, *, is_new: bool) -> Iterator[Event]:
        """Note in the progress what the stage's data are, and warn where they are not those of the checkpoint."""
        progress = self._state.progress
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

    def _prepared(self, stage: Stage, data: StageData, *, is_new: bool) -> StageRun:
        """The stage with its optimizer, its batches, and the configuration of its steps."""
        state = self._state
        options = state.enter_stage(stage, is_new=is_new)
        config = state.step_config(options, self._mini_batch_size(stage, options))
        if self._compilation is not None:
            config = self._compilation.shaped(config)
        feed = Feed(data, state.progress.of(stage.name).position, options.batch_size, self._data.job(stage))
        return StageRun(stage, options, data, feed, config)

    def _mini_batch_size(self, stage: Stage, options: TrainOptions) -> int:
        """What was asked for or found, and what memory then allowed in this stage: another's samples may be shorter."""
        progress, size = self._state.progress, options.mini_batch_size
        if size == "auto":
            size = progress.probed_mini_batch_size or PROBED_FROM
        return min(size, progress.of(stage.name).mini_batch_size or size)

    def _prove(self, run: StageRun) -> Iterator[Event]:
        """After a resume: say where it goes on, and whether the next batch is the one that the checkpoint names."""
        progress = self._state.progress
        proof, progress.next_batch = run.feed.compare(progress.next_batch), ""
        if proof is None:
            return
        same, sentence = proof
        row = progress.of(run.stage.name).position.row
        where = f"stage {run.stage.name}, row {row:,}, step {progress.step:,}"
        yield LogLine(f"goes on at {where}: {sentence}") if same else Warned(f"{where}: {sentence}", progress.step)
        self._proof_until = time.monotonic() + PROOF_SHOWN_S
        yield ActivityChanged("training", f"from row {row:,} " + ("as recorded" if same else "NOT as recorded"))

    def hide_proof(self) -> Iterator[Event]:
        """Take the proof of the resume off the state line, once it has stood there long enough to be read."""
        if self._proof_until is not None and time.monotonic() > self._proof_until:
            self._proof_until = None
            yield ActivityChanged("training")

    def _look_around(self, stage: Stage) -> None:
        """Beside the training: count the rows of stages that are not open yet, and look for leaks in those at hand."""
        stages = self._state.settings.plan.stages
        self._row_counts.begin(s for s in stages if self._state.progress.of(s.name).rows_total is None)
        self._leak_guard.begin(stages, stage.name)

    def _make_ready(self, run: StageRun) -> Iterator[Event]:
        """Compile and find the mini-batch size, each once a run and where it was asked for.

        A model that lies in parts keeps the size before another has been found.
        """
        wanted = run.options.mini_batch_size
        if self._compilation is not None:
            rows = PROBED_FROM if wanted == "auto" else min(wanted, PROBED_FROM)
            leader, how = self._state.leader, (run.config, rows, self._state.progress.step)
            if leader is None:
                yield from self._compilation.prepare(self._state.gradients, *how)
            elif not self._compilation.is_proved:
                leader.compile(self._compilation.backend, self._compilation.mode, run.config, rows)
                yield from self._compilation.prepare(self._state.gradients, *how, leader.compiled)
            run.config = self._compilation.shaped(run.config)
        if wanted != "auto" or self._state.progress.probed_mini_batch_size is not None:
            return
        if self._state.gradients.sharding is None:
            run.config = yield from probe(self._state, run.config, run.options.batch_size, self._controls.wants_stop)
        elif not self._has_told_unprobed:  # a pass gathers parameters: no rank makes one by itself
            self._has_told_unprobed = True
            yield LogLine(f"--mini-batch-size auto: {PROBED_FROM}; with --shard none other is tried")
