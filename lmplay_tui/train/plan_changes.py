"""What a changed plan may change: everything that has not run yet."""

from lmplay_tui.errors import UserError
from lmplay_tui.plan.changes import Begun, change_problems, list_changes
from lmplay_tui.plan.schema import Plan
from lmplay_tui.train.progress import Progress


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
