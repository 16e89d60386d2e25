"""From the text of a plan to a `Plan`, or to all that is wrong with it at once.

Three forms are read: TOML with `[stages.NAME]` tables, the same with the stages at the top level (the user's JSON),
and LMPlay's `{datasets, steps}`. Each may be TOML or JSON.

The text of a plan as nested dicts and lists, or why it is none.
"""

import difflib
import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmplay_tui.options import nearest
from lmplay_tui.plan import tables
from lmplay_tui.plan.builtin import known_dataset, shipped_folder, shipped_plans
from lmplay_tui.plan.lmplay import loader_spec, step_table
from lmplay_tui.plan.problems import Form, PlanError, Problem, Report, locate
from lmplay_tui.plan.schema import Plan
from lmplay_tui.plan.tables import (
    NAME_PATTERN,
    Shelf,
    StageTable,
    check_held_out,
    check_name,
    dataset_spec,
    define_own,
    finished_stages,
    plan_text,
    stage_table,
    table_at,
    train_options,
)
from lmplay_tui.text import one_line

# A dotted key of 64 KB took tomllib 13 s and 3.9 GB; within both limits the worst file found takes 0.3 s.
MAX_BYTES = 64 * 1024
MAX_LINE = 2_000  # characters

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def decoded(data: bytes, report: Report) -> str | None:
    """A file's bytes as text; None, and reported, where they are not."""
    if len(data) > MAX_BYTES:
        report.add(("file",), f"must have at most {MAX_BYTES} bytes", 1)
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        report.add(("file",), f"is not UTF-8 text: byte {data[error.start]:#04x}", line)
        return None


def parsed(text: str, form: Form, report: Report) -> dict[str, Any] | None:
    """The document of a TOML or JSON text, with the places of its keys in `report`.

    None, and reported, where it is none. Of a key that is there twice the document holds one value, where possible.
    """
    if not _fits(text, report):
        return None
    report.places = locate(text, form)
    return _toml(text, report) if form == "toml" else _json(text, report)


def _fits(text: str, report: Report) -> bool:
    """Whether the text may be given to a parser: checked first, for some texts would take it all memory there is."""
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:  # half a surrogate pair: no file can hold it
        report.add(("file",), "holds a character that is none", text.count("\n", 0, error.start) + 1)
        return False
    if size > MAX_BYTES:
        report.add(("file",), f"must have at most {MAX_BYTES} bytes, has {size}", 1)
        return False
    if text.startswith("\ufeff"):
        report.add(("file",), "begins with a byte order mark: save it as UTF-8 without one", 1)
        return False
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_LINE:
            report.add(("line",), f"must have at most {MAX_LINE} characters, has {len(line)}", number)
    return report.clean


def _toml(text: str, report: Report) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return _after_duplicates(text, error, report)
    except RecursionError:
        report.add(("file",), "is nested too deeply", 1)
    except ValueError:  # an integer of more than 4,300 digits
        report.add(("file",), "holds a number that is too long", 1)
    return None


def _after_duplicates(text: str, error: tomllib.TOMLDecodeError, report: Report) -> dict[str, Any] | None:
    """Report keys that are there twice and read on without the second ones; report any other mistake."""
    lines = text.split("\n")
    message = str(error)
    place = _PLACE.search(message)
    line = int(place[1]) if place and place[1] else len(text.rstrip().split("\n"))
    # A mistake of another kind misleads the scanner from its line on.
    about_keys = message.startswith(("Cannot", "Duplicate"))
    duplicates = [entry for entry in report.places.duplicates if about_keys or entry[1] < line]
    if not duplicates:
        said = message[: place.start()] if place else message
        report.add(report.places.key_in(line) or ("file",), f"is not TOML: {said[:1].lower()}{said[1:]}", line)
        return None
    for path, second, first in duplicates:
        report.add(path, f"is there a second time; first in line {first}", second)
    if any(first == second or lines[second - 1].lstrip().startswith("[") for _, second, first in duplicates):
        return None  # to leave out such a line would leave out more than the second value
    for _, second, _ in duplicates:
        lines[second - 1] = ""
    try:
        return tomllib.loads("\n".join(lines))
    except (ValueError, RecursionError):  # a value of several lines, or one more mistake
        return None


def _json(text: str, report: Report) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        said = f"{error.msg[:1].lower()}{error.msg[1:]}"
        report.add(report.places.key_in(error.lineno) or ("file",), f"is not JSON: {said}", error.lineno)
    except RecursionError:
        report.add(("file",), "is nested too deeply", 1)
    except ValueError:  # an integer of more than 4,300 digits
        report.add(("file",), "holds a number that is too long", 1)
    else:
        for path, second, first in report.places.duplicates:
            report.add(path, f"is there a second time; first in line {first}", second)
        if isinstance(document, dict):
            return document
        report.add(("file",), "must hold a JSON object", 1)
    return None


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
    title, problem = tables.checked(tables.TITLE, document["title"]) if "title" in document else (None, None)
    if problem is not None:
        report.add(("title",), problem)
    train = train_options(report, ("train",), _table(report, document, "train"))
    if "steps" in document:
        stage_tables = _steps(document, report, shelf, train)
    else:
        define_own(report, _table(report, document, "datasets"), shelf, dataset_spec)
        stage_tables = _stages(document, report)
    check_held_out(report, stage_tables, train)
    stages = finished_stages(report, stage_tables, shelf)
    return Plan(name=name, stages=stages, train=train, title=title, folder=str(shelf.folder))


def _table(report: Report, document: dict[str, Any], key: str) -> dict[str, Any]:
    return (table_at(report, (key,), document[key]) or {}) if key in document else {}


def _stages(document: dict[str, Any], report: Report) -> list[StageTable]:
    """The stages of `[stages]`; without it, the top-level tables."""
    inside = "stages" in document
    stages = _table(report, document, "stages") if inside else {}
    for key, value in document.items():
        if key in tables.PLAN_KEYS:
            continue
        if not inside and isinstance(value, dict) and ({"dataset", "datasets"} & value.keys() or not _is_misspelt(key)):
            stages[key] = value
        else:
            report.add((key,), tables.not_here(key, tables.PLAN_KEYS, hint=not report.full))
    if not stages and isinstance(document.get("stages", {}), dict):
        report.add(("stages",), "is missing: a plan needs at least one stage")
    stage_tables = []
    for name, value in stages.items():
        path = ("stages", name) if inside else (name,)
        table = table_at(report, path, value)
        if table is not None:
            stage_tables.append(stage_table(report, path, name, table))
    return stage_tables


def _is_misspelt(key: str) -> bool:
    """Whether a table without a dataset rather is one of a plan's own, misspelt: `trian`, but not `pretraining`."""
    return bool(difflib.get_close_matches(key, tables.PLAN_KEYS, n=1, cutoff=0.8))


def _steps(document: dict[str, Any], report: Report, shelf: Shelf, train: dict[str, Any]) -> list[StageTable]:
    """The stages of LMPlay's form; its seed is the run's."""
    define_own(report, _table(report, document, "datasets"), shelf, loader_spec)
    for key in document:
        if key not in tables.LMPLAY_PLAN_KEYS:
            report.add((key,), tables.not_here(key, tables.LMPLAY_PLAN_KEYS, hint=not report.full))
    if "seed" in document:
        seed, problem = tables.checked("seed", document["seed"])
        if problem is None:
            train.setdefault("seed", seed)
        else:
            report.add(("seed",), problem)
    steps, problem = tables.checked(tables.STEPS, document["steps"])
    if problem is not None:
        report.add(("steps",), problem)
    stage_tables = []
    for index, value in enumerate(steps or []):
        table = table_at(report, ("steps", index), value)
        if table is not None:
            stage_tables.append(step_table(report, index, table))
    return stage_tables


def _purpose(text: str) -> str:
    """The comment that a TOML file opens with, as one line."""
    words = []
    for line in text.split("\n"):
        if not line.startswith("#"):
            break
        words.append(line.lstrip("#"))
    return one_line(" ".join(words), 500)
