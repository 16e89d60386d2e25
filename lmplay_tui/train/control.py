"""The commands to a running trainer, turned into changes of its state and into what the loop does next."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from lmplay_tui.errors import UserError
from lmplay_tui.plan.reading import parse_plan
from lmplay_tui.plan.schema import Stage
from lmplay_tui.run import controls as asked
from lmplay_tui.run.events import (
    ActivityChanged,
    Answered,
    Bookmarked,
    Event,
    LearningRateChanged,
    Paused,
    PinsChanged,
    PlanChanged,
    Resumed,
    StageInfo,
    Warned,
)
from lmplay_tui.run.learning_rate import StageRate, outlook, schedule
from lmplay_tui.run.sentences import sentence_of
from lmplay_tui.train.settings import describe_changes, rate_jumps, without_effect
from lmplay_tui.train.state import TrainState

PAUSE_POLL_S = 0.2
ExpectedRows = Callable[[Stage], int | None]
Work = Literal["save", "plan"]
Slow = asked.ValidateNow | asked.Ask  # done between two steps, answered when they are


class CommandHandler:
    """Reads the controls once a step and keeps what the loop has yet to do.

    Commands that only change numbers take effect here. What needs the loop (validate, ask, save, another plan) waits
    until the loop takes it; validations and prompts are answered when they are done (`answer`).
    """

    def __init__(self, state: TrainState, controls: asked.Controls, expected_rows: ExpectedRows) -> None:
        """`expected_rows`: of a stage whose data have not been opened yet; None where they are not known."""
        self._state = state
        self._expected_rows = expected_rows
        self._controls = controls
        self.stop_at_stage_end = False
        self.paused = False
        self.has_changed_the_run = False  # in what a checkpoint keeps
        self._wanted: set[Work] = set()
        self._unanswered: list[Slow] = []
        self._save_ids: list[str] = []  # control files that wait for the save's outcome

    def next_stage(self) -> Stage | None:
        """The first stage of the plan that is not done."""
        progress = self._state.progress.stages
        left = (s for s in self._state.settings.plan.stages if s.name not in progress or not progress[s.name].done)
        return next(left, None)

    def handle(self) -> Iterator[Event]:
        """Handle what was sent since the last step; while paused, stay here and go on with what comes."""
        while True:
            for command in self._controls.decide():
                yield from self._handle_one(command)
            if not self.paused or self._controls.stop_now or self.has_work:
                return
            yield ActivityChanged("paused")
            time.sleep(PAUSE_POLL_S)

    @property
    def has_work(self) -> bool:
        """Whether the loop has something to do before the next step, even while training is paused."""
        return bool(self._wanted or self._unanswered)

    def take(self, work: Work) -> bool:
        """Whether `work` was asked for; it is the caller's now."""
        if work not in self._wanted:
            return False
        self._wanted.remove(work)
        return True

    @property
    def validations(self) -> list[asked.ValidateNow]:
        """The commands that want a validation: one serves all."""
        return [command for command in self._unanswered if isinstance(command, asked.ValidateNow)]

    @property
    def prompts(self) -> list[asked.Ask]:
        """The prompts to answer."""
        return [command for command in self._unanswered if isinstance(command, asked.Ask)]

    def answer(self, command: Slow, ok: bool, message: str) -> Iterator[Event]:
        """Say that `command` is done, or that it cannot be and why."""
        self._unanswered.remove(command)
        if not ok:
            yield Warned(message, self._state.progress.step)
        if command.id:
            yield Answered(type(command).__name__, command.id, ok, message)

    def put_back(self, saves: Iterable[str] = ()) -> None:
        """Training is left with these undone: they are in the mailbox again, for who goes on, or for the end.

        `saves`: the commands that wait for a save.
        """
        undone, self._unanswered = self._unanswered, []
        for command in (*undone, *(asked.SaveNow(id=identity) for identity in saves)):
            self._controls.send(command)

    def take_save_ids(self) -> list[str]:
        """The commands that wait for a save; they are the caller's now."""
        identities, self._save_ids = self._save_ids, []
        return identities

    def _handle_one(self, command: asked.Command) -> Iterator[Event]:
        if self._is_left_to_the_loop(command):
            return
        ok, message = True, "done"
        try:
            for event in self._change(command):
                if isinstance(event, LearningRateChanged):
                    message = _sentence(event)
                yield event
        except UserError as error:
            ok, message = False, str(error)
            yield Warned(message, self._state.progress.step)
        if command.id:
            yield Answered(type(command).__name__, command.id, ok, message)

    def _is_left_to_the_loop(self, command: asked.Command) -> bool:
        """Whether the loop has to do it, and answers by its outcome; it is noted then."""
        match command:
            case asked.SaveNow():
                self._wanted.add("save")
                if command.id:
                    self._save_ids.append(command.id)
                return True
            case asked.ValidateNow() | asked.Ask():
                self._unanswered.append(command)
                return True
        return False

    def _change(self, command: asked.Command) -> Iterator[Event]:
        """Change the state as asked. Raises `UserError` where that cannot be."""
        step = self._state.progress.step
        match command:
            case asked.Stop(when="stage_end"):
                self.stop_at_stage_end = True
            case asked.Pause() if not self.paused:
                self.paused = True
                yield Paused(step)
            case asked.Resume() if self.paused:
                self.paused = False
                yield Resumed(step)
                yield ActivityChanged("training")
            case asked.SetLearningRate():
                yield self._set_lr(command)
                self._count_change()
            case asked.Bookmark():
                yield Bookmarked(step, command.note)
            case asked.Pin():
                self._pin(command.prompt)
                self._count_change()
                yield PinsChanged(step, tuple(self._state.progress.pinned))
            case asked.ChangePlan():
                yield from self._change_plan(command.text)
            case asked.Refused():
                raise UserError(command.reason)

    def _count_change(self) -> None:
        self.has_changed_the_run = True
        self._state.progress.changes += 1

    def _set_lr(self, command: asked.SetLearningRate) -> LearningRateChanged:
        """Set the factor of the schedule: a value asked for is what schedule and factor give now.

        The warm-up is left out of it: it leads up to what was asked for, and never beyond.
        """
        state, progress = self._state, self._state.progress
        stages = state.settings.plan.stages
        of_stage = progress.of(progress.stage)
        done = of_stage.position.row / max(of_stage.rows_total or 0, 1)
        rates = [self._rate(stage) for stage in stages]
        index = [stage.name for stage in stages].index(progress.stage)
        level = rates[index].lr * schedule(rates[index].schedule, done)
        if command.value is not None:
            if level == 0:
                raise UserError("the schedule has brought the learning rate to 0: a factor cannot raise it")
            factor = command.value / level
        else:
            factor = progress.lr_factor * (command.factor if command.factor is not None else 1.0)
        if not 0 < factor < math.inf:
            raise UserError("the learning rate must be above 0 and finite")
        progress.lr_factor = factor
        warm_up = progress.warm_up
        ends = warm_up.from_step + warm_up.steps if warm_up is not None else 0
        return LearningRateChanged(
            progress.step, factor, level * factor,
            outlook(
                rates[index], done, rates[index + 1 :], factor=factor,
                next_lr=state.lr(state.stage_options(stages[index]), done),
                warm_up_ends=ends if ends > progress.step else None,
            ),
        )  # fmt: skip

    def _rate(self, stage: Stage) -> StageRate:
        options = self._state.stage_options(stage)
        return StageRate(stage.name, options.lr, options.lr_schedule)

    def _pin(self, prompt: str) -> None:
        pinned = self._state.progress.pinned
        if prompt in pinned:
            pinned.remove(prompt)
        else:
            pinned.append(prompt)

    def _change_plan(self, text: str) -> Iterator[Event]:
        """Take another plan from here on. Raises `UserError` (all its problems, or what may not change)."""
        settings = self._state.settings
        old = settings.plan
        new = parse_plan(text, name=old.name, file="plan", folder=Path(old.folder))
        progress = self._state.progress
        changes = describe_changes(old, new, progress)
        changed = settings.with_plan(new)
        not_now = [*without_effect(settings, changed, progress), *rate_jumps(settings, changed, progress)]
        not_now += self._state.change_plan(changed)
        progress.reopen(new)
        self._wanted.add("plan")
        self._count_change()
        step = progress.step
        yield PlanChanged(step, tuple(changes), text, self.stage_infos())
        for line in not_now:
            yield Warned(line, step)

    def stage_infos(self) -> tuple[StageInfo, ...]:
        """The curriculum as screens show it."""
        infos = []
        for stage in self._state.settings.plan.stages:
            progress = self._state.progress.of(stage.name)
            infos.append(
                StageInfo(
                    name=stage.name,
                    datasets=tuple(spec.name for spec in stage.datasets),
                    epochs=stage.epochs,
                    rows_total=self._expected_rows(stage) if progress.rows_total is None else progress.rows_total,
                    rows_done=progress.position.row,
                    rows_per_epoch=progress.rows_per_epoch,
                )
            )
        return tuple(infos)


def _sentence(event: Event) -> str:
    sentence = sentence_of(event)
    return sentence.text if sentence is not None else "done"
