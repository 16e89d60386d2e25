"""Which value of an option holds: command line, plan, and what a checkpoint remembers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmplay_tui.errors import UserError
from lmplay_tui.options import OnResume, TrainOptions, flag, on_resume, recorded, resolve, shown_value
from lmplay_tui.plan.schema import Plan, Stage


@dataclass(frozen=True)
class Settings:
    """The layers that a run's options are made of.

    `line`: this start's command line. `remembered`: what earlier command lines gave and a resume must not lose.
    `plan_before`: the plan that the checkpoint was trained with; what a changed plan says anew beats `remembered`.
    `plan_as_given`: the text of the plan as a file last gave it; an edit while the run goes on leaves it as it is.
    """

    plan: Plan
    line: Mapping[str, Any]
    remembered: Mapping[str, Any] = field(default_factory=dict)
    plan_before: Plan | None = None
    plan_as_given: str = ""

    def for_run(self) -> TrainOptions:
        """The options that do not belong to a stage."""
        return resolve(self.line, self._changed(None), self.remembered, self.plan.train)

    def for_stage(self, stage: Stage) -> TrainOptions:
        """The options that hold while `stage` runs."""
        return resolve(self.line, self._changed(stage), self.remembered, stage.options, self.plan.train)

    def to_remember(self) -> dict[str, Any]:
        """What a checkpoint keeps of the command lines so far."""
        overruled = set(self._changed(None))
        for stage in self.plan.stages:
            overruled |= self._changed(stage).keys()
        kept = {name: value for name, value in self.remembered.items() if name not in overruled}
        return kept | recorded(self.line)

    def with_plan(self, plan: Plan) -> "Settings":
        """The same with another plan, edited while the run goes on."""
        return Settings(plan, self.line, self.remembered, self.plan, self.plan_as_given)

    def _changed(self, stage: Stage | None) -> dict[str, Any]:
        """What the plan says now that it did not say before."""
        if self.plan_before is None:
            return {}
        train_before = self.plan_before.train
        changed = {name: value for name, value in self.plan.train.items() if train_before.get(name) != value}
        if stage is not None:
            before = next((s.options for s in self.plan_before.stages if s.name == stage.name), None)
            if before is not None:
                changed |= {name: value for name, value in stage.options.items() if before.get(name) != value}
        return changed


def check_fixed(settings: Settings, model_args: Mapping[str, Any]) -> None:
    """Compare what the command line and the plan say of the model's shape with the checkpoint's.

    Raises `UserError`, one line a difference, naming both.
    """
    problems = []
    for layer, place in ((settings.line, "the command line"), (settings.plan.train, "the plan")):
        for name, value in layer.items():
            if on_resume(name) is OnResume.FIXED and name in model_args and model_args[name] != value:
                problems.append(
                    f"{flag(name)}: the checkpoint has {shown_value(model_args[name])}, {place} says "
                    f"{shown_value(value)}; leave it out, or train anew with another --model or --reset-history"
                )
    if problems:
        raise UserError("\n".join(problems))
