"""A run from where its state stands to the end of its plan: an iterator of events.

It yields between steps only, so at every yield the state is consistent and can be saved. Whoever iterates decides
what becomes of the events: the headless command prints them, the dashboard shows them, a test lists them.
"""

import os
import shlex
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lmplay_tui.data.leak_guard import LeakGuard
from lmplay_tui.options import command_words, train_names
from lmplay_tui.plan.reading import shipped_plans
from lmplay_tui.run.controls import Command, Controls, Pause, SaveNow, Stop
from lmplay_tui.run.events import ActivityChanged, Event, RunDone, RunStarted, RunStopped, Warned
from lmplay_tui.text import one_line
from lmplay_tui.train.compiling import Compilation
from lmplay_tui.train.device import peak_flops
from lmplay_tui.train.evaluation import Evaluator
from lmplay_tui.train.handing_over import hand_over, not_handed_over
from lmplay_tui.train.loading import LoadedData
from lmplay_tui.train.machine import MachineMetrics
from lmplay_tui.train.metrics import FlopCount, LogWindow
from lmplay_tui.train.obeying import Obeyer
from lmplay_tui.train.row_counts import RowCounts
from lmplay_tui.train.saves import Saves
from lmplay_tui.train.stage_loop import Parts, StageLoop
from lmplay_tui.train.state import TrainState
from lmplay_tui.train.stepping import Stepper
from lmplay_tui.train.steps import StopRequested
from lmplay_tui.train.validation import Scorer


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
        scorer = Scorer(state.model, state.hidden, state.tokenizer, state.precision)
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
