"""Plans as LMPlay writes them: `{"datasets": {NAME: {ds_loader, args, kwargs}}, "steps": [{datasets, ...}]}`.

The meaning of each key was read off LMPlay's `plan.py`, `hf.py`, `wikipedia.py` and `openorca.py`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmplay_tui.options import shown_value
from lmplay_tui.plan import tables
from lmplay_tui.plan.builtin import known_dataset
from lmplay_tui.plan.problems import KeyPath, Report
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.plan.tables import Shelf, StageTable, altered, column_problems, valid_entries, valid_keys

_COLUMNS = {"text_column": "text", "prompt_column": "prompt", "truth_column": "truth"}
_Names = Mapping[str, tuple[str, ...]]  # of arguments, by loader
_ARGS: _Names = {"wiki": ("lang",), "openorca": (), "hf": ("saved_as", "path", "name")}
_KWARGS: _Names = {"wiki": ("lang",), "openorca": (), "hf": ("name", "revision", *_COLUMNS)}
_REQUIRED: _Names = {"wiki": ("lang",), "openorca": (), "hf": ("saved_as", "path")}


def loader_spec(report: Report, path: KeyPath, name: str, table: Mapping[str, Any], shelf: Shelf) -> DatasetSpec | None:
    """The dataset of an entry of LMPlay's `datasets`; None where nobody can say what it is."""
    given = valid_keys(report, path, table, tables.LMPLAY_DATASET_KEYS)
    if "ds_loader" not in table:
        report.add((*path, "ds_loader"), "is missing: wiki, openorca or hf")
    if "ds_loader" not in given:
        return None
    loader = given["ds_loader"]
    values = _arguments(report, path, loader, given)
    if loader == "openorca":
        return _known("openorca", name)
    if loader == "hf":
        return _hub(report, path, name, shelf, values=values, kwargs=given.get("kwargs", {}))
    if "lang" not in values:
        return None
    spec = _known(f"wikipedia:{values['lang']}", name)
    if spec is None:
        place = ("kwargs", "lang") if "lang" in given.get("kwargs", {}) else ("args", 0)
        report.add((*path, *place), f"must be a language of Wikipedia, as en or es, got {shown_value(values['lang'])}")
    return spec


def _known(known: str, name: str) -> DatasetSpec | None:
    spec = known_dataset(known)
    return None if spec is None else replace(spec, name=name)


def _arguments(report: Report, path: KeyPath, loader: str, given: Mapping[str, Any]) -> dict[str, str]:
    """A loader's valid arguments by name."""
    order = _ARGS[loader]
    args, kwargs = given.get("args", []), given.get("kwargs", {})
    if len(args) > len(order):
        report.add((*path, "args"), f"{loader} takes {', '.join(order) or 'nothing'} here, got {len(args)} entries")
    missing = [name for name in _REQUIRED[loader] if name not in order[: len(args)] and name not in kwargs]
    if missing:
        report.add((*path, "args"), f"{loader} needs {', '.join(missing)} here")
    words = valid_entries(report, (*path, "args"), args[: len(order)], tables.ENTRY)
    values = {order[place[-1]]: word for place, word in words if isinstance(place[-1], int)}
    kinds = {name: tables.LMPLAY_KWARGS[name] for name in _KWARGS[loader]}
    return values | valid_keys(report, (*path, "kwargs"), kwargs, kinds)


def _hub(
    report: Report, path: KeyPath, name: str, shelf: Shelf, *, values: Mapping[str, str], kwargs: Mapping[str, Any]
) -> DatasetSpec | None:
    there = {ours for theirs, ours in _COLUMNS.items() if theirs in kwargs}
    # LMPlay's truth without a prompt is a text, or a list of messages.
    for column, said in column_problems(there) if there != {"truth"} else ():
        report.add((*path, "kwargs", f"{column}_column"), said)
    columns = {ours: values[theirs] for theirs, ours in _COLUMNS.items() if theirs in values}
    if there == columns.keys() == {"truth"}:
        columns = {"messages" if columns["truth"] == "messages" else "text": columns["truth"]}
    named = {"config": values.get("name"), "revision": values.get("revision"), "saved_as": values.get("saved_as")}
    if "saved_as" in values:
        problem = tables.checked(tables.DATASET_KEYS["saved_as"], values["saved_as"])[1]
        if problem is not None:
            report.add((*path, "args", 0), problem)
    if "path" not in values:
        return None
    spec, problem = shelf.at(values["path"], name=name)
    if spec is None:
        report.add((*path, "args", 1), problem or "")
        return None
    return altered(spec, columns | {key: value for key, value in named.items() if value is not None})


def step_table(report: Report, index: int, step: Mapping[str, Any]) -> StageTable:
    """Check the keys of an entry of `steps`."""
    path: KeyPath = ("steps", index)
    given = valid_keys(report, path, step, tables.LMPLAY_STEP_KEYS)
    if "datasets" not in step:
        report.add((*path, "datasets"), "is missing")
    rest: dict[str, Any] = {key: given[key] for key in ("epochs", "seed") if key in given}
    if "interleve_stopping_strategy" in given:
        rest["stopping"] = given["interleve_stopping_strategy"]
    return StageTable(
        name=given.get("step_name", str(index)),
        name_path=(*path, "step_name"),
        path=path,
        datasets=valid_entries(report, (*path, "datasets"), given.get("datasets", ()), tables.ENTRY),
        rest=rest,
    )
