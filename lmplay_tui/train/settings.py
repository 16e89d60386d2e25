"""Which value of an option holds, by command line, plan and checkpoint; and what a changed plan changes of it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lmplay_tui.errors import UserError
from lmplay_tui.options import (
    OPTIONS,
    OnResume,
    TrainOptions,
    Where,
    command_words,
    recorded,
    resolve,
    shown_value,
    train_names,
)
from lmplay_tui.plan.builtin import shipped_plans
from lmplay_tui.plan.editing import Begun, change_problems, list_changes
from lmplay_tui.plan.schema import Plan, Stage
from lmplay_tui.run.learning_rate import StageRate, rate_jump
from lmplay_tui.text import one_line
from lmplay_tui.train.progress import Progress

WHOLE_RUN = ""  # among the names of stages: the options that belong to none

Overruled = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Settings:
    """The layers that a run's options are made of.

    `line`: this start's command line. `remembered`: what earlier command lines gave and a resume must not lose.
    `overruled`: for each stage, what a changed plan gives anew: there it beats `remembered`.
    `plan_as_given`: the text of the plan as a file last gave it; an edit while the run goes on leaves it as it is.
    `plan_unedited`: the same as `--extend` has made it longer since: a plan of another text was edited.
    """

    plan: Plan
    line: Mapping[str, Any]
    remembered: Mapping[str, Any] = field(default_factory=dict)
    overruled: Overruled = field(default_factory=dict)
    plan_as_given: str = ""
    plan_unedited: str = ""

    @property
    def given_before(self) -> Mapping[str, Any]:
        """What earlier command lines gave of the whole run, as far as it holds still."""
        return self._remembered_for(WHOLE_RUN)

    def for_run(self) -> TrainOptions:
        """The options that do not belong to a stage."""
        return resolve(self.line, self.given_before, self.plan.train)

    def for_stage(self, stage: Stage) -> TrainOptions:
        """The options that hold while `stage` runs."""
        return resolve(self.line, self._remembered_for(stage.name), stage.options, self.plan.train)

    def says_on_line(self, name: str, stage: Stage) -> bool:
        """Whether a command line gives the option for `stage`: this one, or one that is remembered."""
        return name in self.line or name in self._remembered_for(stage.name)

    @property
    def on_line(self) -> dict[str, str]:
        """The options that the command line gives and a plan may set too, as words: no plan changes them."""
        return {name: _words(name, value) for name, value in self.line.items() if name in train_names()}

    @property
    def own_experiment(self) -> str:
        """The user's own experiment, as the command line gives it: each start must; empty for a shipped one."""
        exp = str(self.line.get("exp", ""))
        return exp if ":" in exp else ""

    @property
    def plan_file(self) -> str:
        """The file that the command line's plan was read from; empty where there is none, or it is a shipped one."""
        plan = self.line.get("training_plan")
        return "" if plan is None or plan in shipped_plans() else str(Path(plan).resolve())

    def to_remember(self) -> dict[str, Any]:
        """What a checkpoint keeps of the command lines so far."""
        return {**self.remembered, **recorded(self.line)}

    def overruled_since(self) -> dict[str, list[str]]:
        """What a checkpoint keeps of `overruled`: this start's command line is newer."""
        kept = {stage: [name for name in names if name not in self.line] for stage, names in self.overruled.items()}
        return {stage: names for stage, names in kept.items() if names}

    def with_plan(self, plan: Plan) -> "Settings":
        """The same with another plan, edited while the run goes on or given at a resume."""
        return replace(self, plan=plan, overruled=_united(self.overruled, _given_anew(self.plan, plan)))

    def _remembered_for(self, stage: str) -> dict[str, Any]:
        overruled = self.overruled.get(stage, ())
        return {name: value for name, value in self.remembered.items() if name not in overruled}


def _words(name: str, value: object) -> str:
    """An option as a command line gives it."""
    return shlex.join(command_words({name: value}))


def overruled_of(state_args: Mapping[str, Any]) -> dict[str, list[str]]:
    """What a checkpoint's record of the run says of it; empty where it says nothing of the kind."""
    overruled = state_args.get("overruled")
    if not isinstance(overruled, dict):
        return {}
    return {stage: names for stage, names in overruled.items() if isinstance(names, list)}


def _given_anew(before: Plan, plan: Plan) -> dict[str, list[str]]:
    """For each stage and the whole run: the options to which `plan` gives another value than `before`."""
    of_run = _changed(before.train, plan.train)
    options_before = {stage.name: stage.options for stage in before.stages}
    anew = {WHOLE_RUN: of_run}
    for stage in plan.stages:
        anew[stage.name] = _changed(options_before.get(stage.name, {}), stage.options)
        anew[stage.name] += [name for name in of_run if name not in stage.options]
    return anew


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name, value in now.items() if name not in before or before[name] != value]


def _united(one: Overruled, other: Overruled) -> dict[str, list[str]]:
    return {stage: sorted({*one.get(stage, ()), *other.get(stage, ())}) for stage in {**one, **other}}


def check_fixed(settings: Settings, model_args: Mapping[str, Any]) -> None:
    """Compare what the command line and the plan say of the model's shape with the checkpoint's.

    What a plan says that an earlier command line has overruled was never so: the run goes on as it was.
    Raises `UserError`, one line a difference, naming both.
    """
    problems = []
    before = settings.given_before
    plan = {name: value for name, value in settings.plan.train.items() if name not in before}
    for layer, place in ((settings.line, "the command line"), (plan, "the plan")):
        for name, value in layer.items():
            if OPTIONS[name].on_resume is OnResume.FIXED and name in model_args and model_args[name] != value:
                problems.append(
                    f"{OPTIONS[name].flag}: the checkpoint has {shown_value(model_args[name])}, {place} says "
                    f"{shown_value(value)}; leave it out, or train anew with another --model or --reset-history"
                )
    if problems:
        raise UserError("\n".join(problems))


def describe_changes(old: Plan, new: Plan, progress: Progress) -> list[str]:
    """One line a change from `old` to `new`; an empty list where nothing changes.

    Raises `UserError`, one line a problem, where the change touches what has run.
    """
    begun = {
        name: Begun(stage.position.row, stage.rows_per_epoch)
        for name, stage in progress.stages.items()
        if stage.position.row > 0 or stage.done
    }
    if problems := change_problems(old, new, begun):
        raise UserError("\n".join(f"{problem.key}: {problem.sentence}" for problem in problems))
    return [str(change) for change in list_changes(old, new)]


def without_effect(before: Settings, after: Settings, progress: Progress) -> list[str]:
    """A line for each option that the plan says anew and that changes nothing all the same, and why."""
    lines = []
    for change in list_changes(before.plan, after.plan):
        name = change.option
        if name is None or _acts(name, before, after, progress):
            continue
        why = "that is its value already, or what shall take it is done or says its own"
        if name in after.line:
            words = one_line(_words(name, after.line[name]))
            why = f"the command line's {words} holds until a start without it"
        lines.append(f"{change} changes nothing: {why}")
    return lines


def _acts(name: str, before: Settings, after: Settings, progress: Progress) -> bool:
    """Whether anything that is still to run has another value of the option."""
    if OPTIONS[name].where is not Where.STAGE:
        return bool(getattr(before.for_run(), name) != getattr(after.for_run(), name))
    known = {stage.name: stage for stage in before.plan.stages}
    return any(
        stage.name in known
        and getattr(before.for_stage(known[stage.name]), name) != getattr(after.for_stage(stage), name)
        for stage in _stages_left(after.plan, progress)
    )


def _stages_left(plan: Plan, progress: Progress) -> list[Stage]:
    """The stages that a plan has yet to run, those that it extends too."""
    left = []
    for stage in plan.stages:
        known = progress.stages.get(stage.name)
        total = None if known is None or known.rows_per_epoch is None else stage.rows_total(known.rows_per_epoch)
        if known is None or not known.done or (total is not None and known.position.row < total):
            left.append(stage)
    return left


def rate_jumps(before: Settings, after: Settings, progress: Progress) -> list[str]:
    """A line with figures for each stage under way whose learning rate jumps because it is given other rows."""
    known = {stage.name: stage for stage in before.plan.stages}
    lines = []
    for stage in _stages_left(after.plan, progress):
        of_stage = progress.stages.get(stage.name)
        if stage.name not in known or of_stage is None or of_stage.rows_per_epoch is None:
            continue
        options, per_epoch = after.for_stage(stage), of_stage.rows_per_epoch
        line = rate_jump(
            StageRate(stage.name, options.lr, options.lr_schedule), of_stage.position.row,
            known[stage.name].rows_total(per_epoch), stage.rows_total(per_epoch), factor=progress.lr_factor,
        )  # fmt: skip
        lines += [line] if line is not None else []
    return lines
