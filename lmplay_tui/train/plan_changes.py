"""What a changed plan may change: everything that has not run yet."""

from lmplay_tui.errors import UserError
from lmplay_tui.plan.schema import Plan, Stage
from lmplay_tui.text import one_line
from lmplay_tui.train.progress import Progress


def describe_changes(old: Plan, new: Plan, progress: Progress) -> list[str]:
    """One line a change from `old` to `new`; an empty list where nothing changes.

    Raises `UserError`, one line a problem, where the change touches what has run: stages that have begun stay, in
    their order and before all others, with their datasets; one may not be made shorter than it already is.
    """
    begun = [s for s in old.stages if s.name in progress.stages and _has_begun(progress, s.name)]
    problems = []
    for i, stage in enumerate(begun):
        if i >= len(new.stages) or new.stages[i].name != stage.name:
            problems.append(f"stages.{stage.name}: has begun, so it stays where it is, as stage {i + 1}")
            continue
        problems += _problems_of(stage, new.stages[i], progress)
    if begun:
        problems += _held_out_problems(old, new)
    if old.train != new.train:
        problems += _train_problems(old, new)
    if problems:
        raise UserError("\n".join(problems))
    return list_changes(old, new)


def _has_begun(progress: Progress, name: str) -> bool:
    return progress.stages[name].position.row > 0 or progress.stages[name].done


def _problems_of(old: Stage, new: Stage, progress: Progress) -> list[str]:
    problems = []
    if (old.datasets, old.weights, old.stopping, old.seed) != (new.datasets, new.weights, new.stopping, new.seed):
        problems.append(f"stages.{old.name}: has begun, so its datasets stay; add a stage for other data")
    problems += [
        f"stages.{old.name}.{name}: has begun, so the order of its rows stays"
        for name in ("shuffle",)
        if old.options.get(name) != new.options.get(name)
    ]
    of_stage = progress.stages[old.name]
    if of_stage.rows_per_epoch is not None:
        rows = new.rows_total(of_stage.rows_per_epoch)
        if rows < of_stage.position.row:
            done = of_stage.position.row / of_stage.rows_per_epoch
            problems.append(f"stages.{old.name}.epochs: {done:.4g} epochs are done already, so at least that many")
    return problems


def _held_out_problems(old: Plan, new: Plan) -> list[str]:
    """What says which rows are held out: it holds for the whole run, or validation would have been trained."""
    problems = []
    if _held_out(old) != _held_out(new):
        problems.append("validation_split: rows have been held out by it, so it stays for the whole run")
    if old.train.get("seed") != new.train.get("seed"):
        problems.append("train.seed: rows have been held out by it, so it stays for the whole run")
    return problems


def _held_out(plan: Plan) -> object:
    """The plan's one `validation_split`; None where it names none."""
    values = [plan.train, *(stage.options for stage in plan.stages)]
    return next((options["validation_split"] for options in values if "validation_split" in options), None)


_SHAPE = ("exp", "num_blocks", "embed_dim", "num_heads", "context_len", "tokenizer")


def _train_problems(old: Plan, new: Plan) -> list[str]:
    return [
        f"train.{name}: the model has its shape already; train another with a plan of its own"
        for name in _SHAPE
        if old.train.get(name) != new.train.get(name)
    ]


def list_changes(old: Plan, new: Plan) -> list[str]:
    """One line a difference, whatever has run."""
    lines = []
    before = {s.name: s for s in old.stages}
    after = {s.name: s for s in new.stages}
    lines += [f"stage {name}: removed" for name in before if name not in after]
    for name, stage in after.items():
        if name not in before:
            lines.append(f"stage {name}: new, {stage.epochs:g} epochs")
            continue
        was = before[name]
        if was.epochs != stage.epochs:
            lines.append(f"stage {name}: epochs {was.epochs:g} -> {stage.epochs:g}")
        if (was.datasets, was.weights, was.stopping) != (stage.datasets, stage.weights, stage.stopping):
            lines.append(f"stage {name}: other data")
        lines += _option_changes(f"stage {name}", dict(was.options), dict(stage.options))
    lines += _option_changes("train", dict(old.train), dict(new.train))
    if [n for n in before if n in after] != [n for n in after if n in before]:
        lines.append("stages: another order")
    return lines


def _option_changes(place: str, old: dict[str, object], new: dict[str, object]) -> list[str]:
    unset = "(not set)"
    return [
        f"{place}: {name} {one_line(old.get(name, unset), 60)} -> {one_line(new.get(name, unset), 60)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, unset) != new.get(name, unset)
    ]
