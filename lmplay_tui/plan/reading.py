"""From the text of a plan to a `Plan`, or to all that is wrong with it at once.

Three forms are read: TOML with `[stages.NAME]` tables, the same with the stages at the top level (the user's JSON),
and LMPlay's `{datasets, steps}`. Each may be TOML or JSON.
"""

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmplay_tui.options import nearest
from lmplay_tui.plan import keys
from lmplay_tui.plan.builtin import known_dataset, shipped_folder, shipped_plans
from lmplay_tui.plan.checking import table_at
from lmplay_tui.plan.dataset_specs import Shelf, dataset_spec, define_own
from lmplay_tui.plan.keys import NAME_PATTERN, check_name
from lmplay_tui.plan.lmplay_form import loader_spec, step_table
from lmplay_tui.plan.parsing import MAX_BYTES, decoded, parsed
from lmplay_tui.plan.positions import Form
from lmplay_tui.plan.problems import PlanError, Problem, Report
from lmplay_tui.plan.schema import Plan
from lmplay_tui.plan.stage_tables import StageTable, check_held_out, finished_stages, stage_table, train_options
from lmplay_tui.plan.writing import plan_text
from lmplay_tui.text import one_line

__all__ = [
    "NAME_PATTERN", "PlanError", "Problem", "check_name", "known_dataset", "parse_plan", "plan_name", "problems_of",
    "read_plan", "shipped_plans",
]  # fmt: skip


def read_plan(name_or_path: str) -> Plan:
    """The shipped plan of this name, else the plan in this .toml or .json file.

    Raises `PlanError` with all problems.
    """
    if name_or_path in shipped_plans():
        path = shipped_folder() / f"{name_or_path}.toml"
    else:
        path = Path(name_or_path)
    report = Report(str(path))
    data = _file_bytes(path, name_or_path)
    text = decoded(data, report)
    if text is None:
        raise PlanError(report.problems())
    form: Form = "json" if path.suffix.lower() == ".json" else "toml"
    return parse_plan(text, name=plan_name(path), file=str(path), folder=path.parent, form=form)


def parse_plan(text: str, *, name: str, file: str, folder: Path, form: Form = "toml") -> Plan:
    """The plan that a text holds. `file` is what messages call it; relative dataset paths start at `folder`.

    Raises `PlanError` with all problems.
    """
    plan, problems = _read(text, name=name, file=file, folder=folder, form=form)
    if plan is None:
        raise PlanError(problems)
    return plan


def problems_of(text: str, *, file: str, folder: Path, form: Form = "toml") -> list[Problem]:
    """All that is wrong with the text of a plan, in the order of its lines; nothing: it can be used."""
    return _read(text, name="plan", file=file, folder=folder, form=form)[1]


def plan_name(path: Path) -> str:
    """The name of the plan in a file: its stem, as far as a run can be called so."""
    letters = [char if char.isascii() and (char.isalnum() or char in "-_") else "-" for char in path.stem]
    return "".join(letters).lstrip("-_")[:40].rstrip("-") or "plan"


def _file_bytes(path: Path, asked: str) -> bytes:
    """At most one byte more than a plan may have."""
    plans = shipped_plans()
    if path.suffix.lower() not in (".toml", ".json"):
        hint = nearest(asked, plans) or f": neither a shipped plan ({', '.join(plans)}) nor a .toml or .json file"
        raise PlanError([Problem(one_line(asked, 300), 0, "", f"unknown plan{hint}")])
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PlanError([Problem(one_line(asked, 300), 0, "", f"cannot be read: {one_line(why)}")]) from error


def _read(text: str, *, name: str, file: str, folder: Path, form: Form) -> tuple[Plan | None, list[Problem]]:
    report = Report(file)
    document = parsed(text, form, report)
    if document is None:
        return None, report.problems()
    plan = _plan(document, report, name=name, folder=folder)
    if form == "toml":
        plan = replace(plan, text=text, purpose=_purpose(text))
    elif report.clean:
        plan = replace(plan, text=plan_text(plan))
        if len(plan.text.encode("utf-8")) > MAX_BYTES:
            report.add(("file",), f"must have at most {MAX_BYTES} bytes as TOML", 1)
    return (plan, []) if report.clean else (None, report.problems())


def _plan(document: dict[str, Any], report: Report, *, name: str, folder: Path) -> Plan:
    """The plan of a document; of use only if nothing was reported."""
    shelf = Shelf(folder)
    title, problem = keys.checked(keys.TITLE, document["title"]) if "title" in document else (None, None)
    if problem is not None:
        report.add(("title",), problem)
    train = train_options(report, ("train",), _table(report, document, "train"))
    if "steps" in document:
        tables = _steps(document, report, shelf, train)
    else:
        define_own(report, _table(report, document, "datasets"), shelf, dataset_spec)
        tables = _stages(document, report)
    check_held_out(report, tables, train)
    stages = finished_stages(report, tables, shelf)
    return Plan(name=name, stages=stages, train=train, title=title, folder=str(shelf.folder))


def _table(report: Report, document: dict[str, Any], key: str) -> dict[str, Any]:
    return (table_at(report, (key,), document[key]) or {}) if key in document else {}


def _stages(document: dict[str, Any], report: Report) -> list[StageTable]:
    """The stages of `[stages]`; without it, the top-level tables."""
    inside = "stages" in document
    stages = _table(report, document, "stages") if inside else {}
    for key, value in document.items():
        if key in keys.PLAN_KEYS:
            continue
        if not inside and isinstance(value, dict) and ({"dataset", "datasets"} & value.keys() or not _is_misspelt(key)):
            stages[key] = value
        else:
            report.add((key,), keys.not_here(key, keys.PLAN_KEYS, hint=not report.full))
    if not stages and isinstance(document.get("stages", {}), dict):
        report.add(("stages",), "is missing: a plan needs at least one stage")
    tables = []
    for name, value in stages.items():
        path = ("stages", name) if inside else (name,)
        table = table_at(report, path, value)
        if table is not None:
            tables.append(stage_table(report, path, name, table))
    return tables


def _is_misspelt(key: str) -> bool:
    """Whether a table without a dataset rather is one of a plan's own, misspelt: `trian`, but not `pretraining`."""
    return bool(difflib.get_close_matches(key, keys.PLAN_KEYS, n=1, cutoff=0.8))


def _steps(document: dict[str, Any], report: Report, shelf: Shelf, train: dict[str, Any]) -> list[StageTable]:
    """The stages of LMPlay's form; its seed is the run's."""
    define_own(report, _table(report, document, "datasets"), shelf, loader_spec)
    for key in document:
        if key not in keys.LMPLAY_PLAN_KEYS:
            report.add((key,), keys.not_here(key, keys.LMPLAY_PLAN_KEYS, hint=not report.full))
    if "seed" in document:
        seed, problem = keys.checked("seed", document["seed"])
        if problem is None:
            train.setdefault("seed", seed)
        else:
            report.add(("seed",), problem)
    steps, problem = keys.checked(keys.STEPS, document["steps"])
    if problem is not None:
        report.add(("steps",), problem)
    tables = []
    for index, value in enumerate(steps or []):
        table = table_at(report, ("steps", index), value)
        if table is not None:
            tables.append(step_table(report, index, table))
    return tables


def _purpose(text: str) -> str:
    """The comment that a TOML file opens with, as one line."""
    words = []
    for line in text.split("\n"):
        if not line.startswith("#"):
            break
        words.append(line.lstrip("#"))
    return one_line(" ".join(words), 500)
