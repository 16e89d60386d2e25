"""A run from where its state stands to the end of its plan: an iterator of events.

It yields between steps only, so at every yield the state is consistent and can be saved. Whoever iterates decides
what becomes of the events: the headless command prints them, the dashboard shows them, a test lists them.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import ActivityChanged, Event, MetricsLogged, RunDone, RunStarted, RunStopped
from lmplay_tui.train.device import peak_flops
from lmplay_tui.train.evaluation import Evaluator
from lmplay_tui.train.loading import LoadedData
from lmplay_tui.train.metrics import FlopCount, LogWindow
from lmplay_tui.train.obeying import Obeyer
from lmplay_tui.train.saves import Saves
from lmplay_tui.train.stage_loop import Parts, StageLoop
from lmplay_tui.train.state import TrainState
from lmplay_tui.train.stepping import Stepper
from lmplay_tui.train.steps import StopRequested
from lmplay_tui.train.validation import Scorer


class Trainer:
    """Trains a run, stage by stage.

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
        self.controls = controls
        self.saves = Saves(state, statistics_folder)
        self.obeyer = Obeyer(state, controls)
        self.stepper = Stepper(state, controls)
        peak, _ = peak_flops(state.device, state.precision.dtype)
        self.window = LogWindow(FlopCount.of_model(state.model, state.model_args), peak)
        scorer = Scorer(state.model, state.hidden, state.tokenizer, state.precision)
        self._stage_loop = StageLoop(
            Parts(
                state=state,
                data=data,
                controls=controls,
                stepper=self.stepper,
                evaluator=Evaluator(state, data, scorer, lambda: controls.stop_now),
                obeyer=self.obeyer,
                saves=self.saves,
                window=self.window,
                max_hours=state.settings.for_run().max_hours,
                said=said if said is not None else [],
            )
        )
        self._note = note
        self._resume_command = resume_command
        self._resumed_from = resumed_from

    def run(self) -> Iterator[Event]:
        """Everything from here to the plan's end. The last event is `RunDone` or `RunStopped`.

        Raises `UserError` where training cannot go on.
        """
        state, progress = self.state, self.state.progress
        yield self._run_started()
        try:
            while (stage := self.obeyer.next_stage()) is not None:
                yield from self._stage_loop.run(stage)
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
        if self.stepper.steps_here:
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
