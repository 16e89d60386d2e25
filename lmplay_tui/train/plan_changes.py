"""What a changed plan may change, everything that has not run yet, and what comes of it."""

import shlex

from lmplay_tui.errors import UserError
from lmplay_tui.options import Where, command_words, where
from lmplay_tui.plan.changes import Begun, change_problems, list_changes
from lmplay_tui.plan.schema import Plan, Stage
from lmplay_tui.run.learning_rate import StageRate, rate_jump
from lmplay_tui.text import one_line
from lmplay_tui.train.progress import Progress
from lmplay_tui.train.settings import Settings


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
            words = shlex.join(command_words({name: after.line[name]}))
            why = f"the command line's {one_line(words)} holds until a start without it"
        lines.append(f"{change} changes nothing: {why}")
    return lines


def _acts(name: str, before: Settings, after: Settings, progress: Progress) -> bool:
    """Whether anything that is still to run has another value of the option."""
    if where(name) is not Where.STAGE:
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
