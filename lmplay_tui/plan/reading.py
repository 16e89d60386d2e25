"""From a file or a text, TOML or JSON, to a `Plan`, or to all that is wrong with it at once; and back to a text."""

import json
import re
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import tomli_w

from lmplay_tui.files import open_given
from lmplay_tui.options import nearest
from lmplay_tui.plan.builtin import shipped_folder, shipped_plans
from lmplay_tui.plan.dataset_specs import Shelf
from lmplay_tui.plan.problems import Form, KeyPath, PlanError, Problem, Report, locate
from lmplay_tui.plan.schema import DatasetSpec, Plan, Stage
from lmplay_tui.text import one_line

# A dotted key of 64 KB took tomllib 13 s and 3.9 GB; within both limits the worst file found takes 0.3 s.
MAX_BYTES = 64 * 1024
MAX_LINE = 2_000  # characters

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


# ---- to a plan


def read_plan(name_or_path: str) -> Plan:
    """The shipped plan of this name, else the plan in this .toml or .json file.

    Raises `PlanError` with all problems.
    """
    path = plan_path(name_or_path)
    report = Report(str(path))
    data = _file_bytes(path, name_or_path)
    text = decoded(data, report)
    if text is None:
        raise PlanError(report.problems())
    form: Form = "json" if path.suffix.lower() == ".json" else "toml"
    return parse_plan(text, name=plan_name(path), file=str(path), folder=path.parent, form=form)


def plan_path(name_or_path: str) -> Path:
    """The file of a shipped plan, or the one that is named."""
    return shipped_folder() / f"{name_or_path}.toml" if name_or_path in shipped_plans() else Path(name_or_path)


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
        with open_given(path) as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PlanError([Problem(one_line(asked, 300), 0, "", f"cannot be read: {one_line(why)}")]) from error


def _read(text: str, *, name: str, file: str, folder: Path, form: Form) -> tuple[Plan | None, list[Problem]]:
    report = Report(file)
    document = parsed(text, form, report)
    if document is None:
        return None, report.problems()
    from lmplay_tui.plan.document import plan_of  # with pydantic, for which no first frame is to wait

    plan = plan_of(document, report, name=name, folder=folder)
    if form == "toml":
        plan = replace(plan, text=text, purpose=_purpose(text))
    elif report.clean:
        plan = replace(plan, text=plan_text(plan))
        if len(plan.text.encode("utf-8")) > MAX_BYTES:
            report.add(("file",), f"must have at most {MAX_BYTES} bytes as TOML", 1)
    return (plan, []) if report.clean else (None, report.problems())


def _purpose(text: str) -> str:
    """The comment that a TOML file opens with, as one line."""
    words = []
    for line in text.split("\n"):
        if not line.startswith("#"):
            break
        words.append(line.lstrip("#"))
    return one_line(" ".join(words), 500)


_IN_PLAN = re.compile(r"(?P<file>[^:]+):(?P<line>\d+): (?:(?P<key>[^\s:]+): )?(?P<sentence>.+)")
_OF_DATASET = re.compile(r"(?:stage [^:]+: )?dataset (?P<name>[^\s:]+)[: ]")


def failure_problems(message: str, text: str, *, file: str, form: Form = "toml") -> list[Problem]:
    """The lines of a start's failure as problems of the plan with this text, as far as they are: 0 is no line of it.

    A dataset's problem stands where the plan first speaks of it: at its own table, else in the stage that names it.
    """
    found = []
    for line in message.splitlines():
        if (place := _IN_PLAN.fullmatch(line)) is not None:
            found.append(Problem(file, int(place["line"]), place["key"] or "", place["sentence"]))
        elif (dataset := _OF_DATASET.match(line)) is not None:
            found.append(Problem(file, _dataset_line(text, dataset["name"], form), "", line))
        else:
            found.append(Problem(file, 0, "", line))
    return found


def _dataset_line(text: str, name: str, form: Form) -> int:
    report = Report("")
    document = parsed(text, form, report) or {}
    places = report.places
    if ("datasets", name) in places.lines:
        return places.lines["datasets", name]
    is_inside = isinstance(document.get("stages"), dict)
    for stage, table in (document["stages"] if is_inside else document).items():
        path: KeyPath = ("stages", stage) if is_inside else (stage,)
        if isinstance(table, dict) and table.get("dataset") == name:
            return places.line((*path, "dataset"))
        if isinstance(table, dict) and isinstance(named := table.get("datasets"), list) and name in named:
            return places.line((*path, "datasets", named.index(name)))
    return 0


# ---- from bytes to a document


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
    try:
        return _toml(text, report) if form == "toml" else _json(text, report)
    except RecursionError:
        report.add(("file",), "is nested too deeply", 1)
    except ValueError:  # an integer of more than 4,300 digits
        report.add(("file",), "holds a number that is too long", 1)
    return None


def _fits(text: str, report: Report) -> bool:
    """Whether the text may be given to a parser: some texts would make it take all memory there is."""
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


def _after_duplicates(text: str, error: tomllib.TOMLDecodeError, report: Report) -> dict[str, Any] | None:
    """Report keys that are there twice and read on without the second ones; report any other mistake."""
    lines = text.split("\n")
    message = str(error)
    place = _PLACE.search(message)
    line = int(place[1]) if place and place[1] else len(text.rstrip().split("\n"))
    # After a mistake of another kind, the places in the rest of the text are not to be trusted.
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
        return None
    for path, second, first in report.places.duplicates:
        report.add(path, f"is there a second time; first in line {first}", second)
    if isinstance(document, dict):
        return document
    report.add(("file",), "must hold a JSON object", 1)
    return None


# ---- to a text


def plan_text(plan: Plan) -> str:
    """The TOML of a plan, without comments."""
    shelf = Shelf(Path(plan.folder))
    specs = {spec.name: spec for stage in plan.stages for spec in stage.datasets}
    document: dict[str, Any] = {
        "title": plan.title,
        "train": dict(plan.train),
        # What the name alone says needs no table.
        "datasets": {name: _dataset(spec) for name, spec in specs.items() if shelf.find(name)[0] != spec},
        "stages": {stage.name: _stage(stage) for stage in plan.stages},
    }
    return tomli_w.dumps({key: value for key, value in document.items() if value})


def _dataset(spec: DatasetSpec) -> dict[str, str]:
    values = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name != "name"}
    return {key: value for key, value in values.items() if value is not None}


def _stage(stage: Stage) -> dict[str, Any]:
    names = [spec.name for spec in stage.datasets]
    table: dict[str, Any] = {"dataset": names[0]} if len(names) == 1 else {"datasets": names}
    table["epochs"] = stage.epochs
    if stage.weights is not None:
        table["weights"] = list(stage.weights)
    if len(names) > 1 or stage.stopping != "first_exhausted":
        table["stopping"] = stage.stopping
    if stage.seed is not None:
        table["seed"] = stage.seed
    return table | dict(stage.options)
