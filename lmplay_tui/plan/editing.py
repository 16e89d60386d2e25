"""A plan that is edited while it runs: what is different, what of that comes too late, and more epochs for its end."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmplay_tui.formats import counted
from lmplay_tui.options import OPTIONS, Part, Where, names_of, resolve
from lmplay_tui.plan.problems import KeyPath, Places, Problem, locate, shown_key
from lmplay_tui.plan.reading import parse_plan, plan_text
from lmplay_tui.plan.schema import Plan, Stage
from lmplay_tui.text import one_line

if TYPE_CHECKING:
    from tomlkit import TOMLDocument


@dataclass(frozen=True)
class Begun:
    """How far a stage that has begun is."""

    rows_read: int
    rows_per_epoch: int | None  # None: not known


@dataclass(frozen=True)
class Change:
    """One difference between two plans. `place`: `stage NAME`, `train` or `stages`."""

    place: str
    what: str
    stage: str | None = None  # whose rows it may change: it is new, removed, or has other epochs or data
    option: str | None = None  # whose value it is

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


# ---- what is different


def list_changes(old: Plan, new: Plan) -> list[Change]:
    """Every difference, whatever has run; nothing where only the text differs."""
    changes = []
    before = {s.name: s for s in old.stages}
    after = {s.name: s for s in new.stages}
    changes += [Change(f"stage {name}", "removed", name) for name in before if name not in after]
    for name, stage in after.items():
        place = f"stage {name}"
        if name not in before:
            changes.append(Change(place, f"new, {counted(stage.epochs, 'epoch')}", name))
            continue
        was = before[name]
        if was.epochs != stage.epochs:
            changes.append(Change(place, f"epochs {was.epochs:g} -> {stage.epochs:g}", name))
        if _data(was) != _data(stage):
            changes.append(Change(place, "other data", name))
        changes += _option_changes(place, was.options, stage.options)
    changes += _option_changes("train", old.train, new.train)
    if [n for n in before if n in after] != [n for n in after if n in before]:
        changes.append(Change("stages", "another order"))
    return changes


def _option_changes(place: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    unset = "(not set)"
    return [
        Change(
            place, f"{name} {one_line(old.get(name, unset), 60)} -> {one_line(new.get(name, unset), 60)}", option=name
        )
        for name in sorted(old.keys() | new.keys())
        if old.get(name, unset) != new.get(name, unset)
    ]


def _data(stage: Stage) -> object:
    return stage.datasets, stage.weights, stage.stopping, stage.seed


# ---- what comes too late

_Found = tuple[KeyPath, str]  # a key, and what is wrong with it

_TOO_LATE = {
    Part.ORDER: "has begun, so the order of its rows stays",
    Part.BEGINNING: "has begun, so this comes too late for it; say it in a stage to come",
}


def change_problems(old: Plan, new: Plan, begun: Mapping[str, Begun]) -> list[Problem]:
    """Where an edit touches what has run, in the order of the new text's lines.

    Stages that have begun stay, in their order and before all others, with their datasets and the order of their
    rows; one may not be made shorter than it already is.
    """
    stages = [stage for stage in old.stages if stage.name in begun]
    found: list[_Found] = []
    for i, stage in enumerate(stages):
        if i >= len(new.stages) or new.stages[i].name != stage.name:
            found.append((("stages", stage.name), f"has begun, so it stays where it is, as stage {i + 1}"))
        else:
            found += _in_stage(old, stage, new, new.stages[i], begun[stage.name])
    if stages:
        found += _held_out_rows(old, new)
    found += [
        (("train", name), "the model has its shape already; train another with a plan of its own")
        for name in names_of(Part.MODEL)
        if old.train.get(name) != new.train.get(name)
    ]
    places = locate(new.text, "toml")
    problems = [Problem("plan", _line(places, path), shown_key(path), sentence) for path, sentence in found]
    return sorted(problems, key=lambda problem: problem.line)


def _in_stage(old_plan: Plan, old: Stage, new_plan: Plan, new: Stage, begun: Begun) -> list[_Found]:
    found: list[_Found] = []
    path = ("stages", old.name)
    if _data(old) != _data(new):
        found.append((path, "has begun, so its datasets stay; add a stage for other data"))
    before, after = resolve(old.options, old_plan.train), resolve(new.options, new_plan.train)
    found += [
        ((*path, name), _TOO_LATE[OPTIONS[name].part])
        for name in names_of(*_TOO_LATE)
        if getattr(before, name) != getattr(after, name)
    ]
    if begun.rows_per_epoch and new.rows_total(begun.rows_per_epoch) < begun.rows_read:
        done = begun.rows_read / begun.rows_per_epoch
        found.append(((*path, "epochs"), f"{done:.4g} epochs are done already, so at least that many"))
    return found


def _held_out_rows(old: Plan, new: Plan) -> list[_Found]:
    """What says which rows are held out: it holds for the whole run, or validation would have been trained."""
    said = "rows have been held out by it, so it stays for the whole run"
    return [
        (("train", name) if OPTIONS[name].where is Where.RUN else (name,), said)
        for name in names_of(Part.HELD_OUT)
        if _one_value(old, name) != _one_value(new, name)
    ]


def _one_value(plan: Plan, name: str) -> object:
    """The plan's one value of an option that is the same in all its stages; None where it names none."""
    values = [plan.train, *(stage.options for stage in plan.stages)]
    return next((options[name] for options in values if name in options), None)


def _line(places: Places, path: KeyPath) -> int:
    """The line of a key, or of the table that lacks it; a stage may stand at the top level of its plan."""
    return max(places.line(path), places.line(path[1:]))


# ---- more epochs


def extend_plan(plan: Plan, epochs: float) -> Plan:
    """The plan with so many epochs more of its last stage. Raises `PlanError` where those are too many."""
    import tomlkit  # for this alone: neither a start nor a first frame waits for it

    last = plan.stages[-1]
    longer = rounded_epochs(last.epochs + epochs)
    document = tomlkit.parse(plan.text)
    tables = stage_tables(document)
    if last.name in tables:
        tables[last.name]["epochs"] = longer
        text = tomlkit.dumps(document)
    else:  # LMPlay's list of steps
        text = plan_text(replace(plan, stages=(*plan.stages[:-1], replace(last, epochs=longer))))
    return parse_plan(text, name=plan.name, file="plan", folder=Path(plan.folder))


def stage_tables(document: "TOMLDocument") -> Any:
    """The table of stages; without `[stages]` the top level itself is."""
    return document.get("stages", document)


def rounded_epochs(epochs: float) -> float | int:
    """As a person would write it."""
    return int(epochs) if epochs == int(epochs) else round(epochs, 6)
