"""Plans as LMPlay writes them: `{"datasets": {NAME: {ds_loader, args, kwargs}}, "steps": [{datasets, ...}]}`.

The meaning of each key was read off LMPlay's `plan.py`, `hf.py`, `wikipedia.py` and `openorca.py`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmplay_tui.options import shown_value
from lmplay_tui.plan import keys
from lmplay_tui.plan.builtin import known_dataset
from lmplay_tui.plan.checking import check_unique, table_at, valid_entries, valid_keys
from lmplay_tui.plan.dataset_specs import Shelf, altered, column_problems
from lmplay_tui.plan.positions import KeyPath
from lmplay_tui.plan.problems import Report
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.plan.stage_tables import StageTable

_COLUMNS = {"text_column": "text", "prompt_column": "prompt", "truth_column": "truth"}
_KWARGS: Mapping[str, tuple[str, ...]] = {
    "wiki": ("lang",),
    "openorca": (),
    "hf": ("name", "revision", *_COLUMNS),
}
_ARGS: Mapping[str, tuple[str, ...]] = {
    "wiki": ("lang",),
    "openorca": (),
    "hf": ("saved_as", "path", "name"),
}
_REQUIRED: Mapping[str, tuple[str, ...]] = {"wiki": ("lang",), "openorca": (), "hf": ("saved_as", "path")}


def define_loaders(report: Report, table: Mapping[str, Any], shelf: Shelf) -> None:
    """Put LMPlay's `datasets` on the shelf."""
    for name, entry in table.items():
        path: KeyPath = ("datasets", name)
        problem = keys.check_name("dataset", name)
        if problem is not None:
            report.add(path, problem)
        found = table_at(report, path, entry)
        shelf.define(name, None if found is None else _loader(report, path, name, found, shelf))
    check_unique(report, [(("datasets", name), name) for name in table], "dataset")


def _loader(report: Report, path: KeyPath, name: str, table: Mapping[str, Any], shelf: Shelf) -> DatasetSpec | None:
    given = valid_keys(report, path, table, keys.LMPLAY_DATASET_KEYS)
    if "ds_loader" not in table:
        report.add((*path, "ds_loader"), "is missing: wiki, openorca or hf")
    if "ds_loader" not in given:
        return None
    loader = given["ds_loader"]
    values = _arguments(report, path, loader, given)
    if values is None:
        return None
    if loader == "openorca":
        return _known("openorca", name)
    if loader == "wiki":
        spec = _known(f"wikipedia:{values['lang']}", name)
        if spec is None:
            place = ("kwargs", "lang") if "lang" in given.get("kwargs", {}) else ("args", 0)
            said = f"must be a language of Wikipedia, as en or es, got {shown_value(values['lang'])}"
            report.add((*path, *place), said)
        return spec
    return _hub(report, path, name, values, shelf)


def _known(known: str, name: str) -> DatasetSpec | None:
    spec = known_dataset(known)
    return None if spec is None else replace(spec, name=name)


def _arguments(report: Report, path: KeyPath, loader: str, given: Mapping[str, Any]) -> dict[str, str] | None:
    """A loader's arguments by name; None where they are not what it takes."""
    order = _ARGS[loader]
    args = given.get("args", [])
    words = valid_entries(report, (*path, "args"), args, keys.ENTRY)
    kinds = {key: keys.LMPLAY_KWARGS[key] for key in _KWARGS[loader]}
    values = dict(zip(order, (word for _, word in words), strict=False))
    values |= valid_keys(report, (*path, "kwargs"), given.get("kwargs", {}), kinds)
    if len(words) < len(args):
        return None
    if len(args) > len(order):
        takes = ", ".join(order) if order else "nothing"
        report.add((*path, "args"), f"{loader} takes {takes} here, got {len(args)} entries")
        return None
    missing = [key for key in _REQUIRED[loader] if key not in values and key not in given.get("kwargs", {})]
    if missing:
        report.add((*path, "args"), f"{loader} needs {', '.join(missing)} here")
        return None
    return values if all(key in values for key in _REQUIRED[loader]) else None


def _hub(report: Report, path: KeyPath, name: str, values: Mapping[str, str], shelf: Shelf) -> DatasetSpec | None:
    saved_as, problem = keys.checked(keys.DATASET_KEYS["saved_as"], values["saved_as"])
    if problem is not None:
        report.add((*path, "args", 0), problem)
    spec, problem = shelf.at(values["path"], name=name)
    if spec is None:
        report.add((*path, "args", 1), problem or "")
        return None
    columns = {ours: values[theirs] for theirs, ours in _COLUMNS.items() if theirs in values}
    if columns.keys() == {"truth"}:  # LMPlay's truth without a prompt is a text, or a list of messages
        columns = {"messages" if columns["truth"] == "messages" else "text": columns["truth"]}
    for column, said in column_problems(columns):
        report.add((*path, "kwargs", f"{column}_column"), said)
    named = {"config": values.get("name"), "revision": values.get("revision"), "saved_as": saved_as}
    return altered(spec, columns | {key: value for key, value in named.items() if value is not None})


def step_table(report: Report, index: int, step: Mapping[str, Any]) -> StageTable:
    """Check the keys of an entry of `steps`."""
    path: KeyPath = ("steps", index)
    given = valid_keys(report, path, step, keys.LMPLAY_STEP_KEYS)
    if "datasets" not in step:
        report.add((*path, "datasets"), "is missing")
    rest: dict[str, Any] = {key: given[key] for key in ("epochs", "seed") if key in given}
    if "interleve_stopping_strategy" in given:
        rest["stopping"] = given["interleve_stopping_strategy"]
    return StageTable(
        name=given.get("step_name", str(index)),
        name_path=(*path, "step_name"),
        path=path,
        datasets=valid_entries(report, (*path, "datasets"), given.get("datasets", ()), keys.ENTRY),
        rest=rest,
    )
