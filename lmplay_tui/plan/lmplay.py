"""Plans as LMPlay writes them: `{"datasets": {NAME: {ds_loader, args, kwargs}}, "steps": [{datasets, ...}]}`.

The meaning of each key was read off LMPlay's `plan.py`, `hf.py`, `wikipedia.py` and `openorca.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from lmplay_tui.options import shown_value
from lmplay_tui.plan.builtin import known_dataset
from lmplay_tui.plan.dataset_specs import Shelf, altered, column_problems
from lmplay_tui.plan.problems import KeyPath, Report
from lmplay_tui.plan.schema import DatasetSpec, Stopping
from lmplay_tui.plan.tables import (
    FOLDER_NAME,
    MAX_MIXED,
    NOT_GIVEN,
    AnyTable,
    Epochs,
    OptionType,
    StageDraft,
    Table,
    Word,
    entries_at,
    valid_table,
)


class LMPlayPlan(Table):
    """The top level of LMPlay's form."""

    datasets: AnyTable = NOT_GIVEN
    steps: Annotated[list[Any], Field(min_length=1)] = NOT_GIVEN
    seed: Annotated[Any, OptionType("seed")] = NOT_GIVEN
    title: Word = NOT_GIVEN
    train: AnyTable = NOT_GIVEN


class LoaderTable(Table):
    """An entry of `datasets`."""

    ds_loader: Literal["wiki", "openorca", "hf"] = NOT_GIVEN
    args: Annotated[list[Word], Field(max_length=MAX_MIXED)] = NOT_GIVEN
    kwargs: AnyTable = NOT_GIVEN


class WikiArguments(Table):
    """`kwargs` of `wiki`."""

    lang: Word = NOT_GIVEN


class HubArguments(Table):
    """`kwargs` of `hf`."""

    name: Word = NOT_GIVEN
    revision: Word = NOT_GIVEN
    text_column: Word = NOT_GIVEN
    prompt_column: Word = NOT_GIVEN
    truth_column: Word = NOT_GIVEN


class StepTable(Table):
    """An entry of `steps`."""

    datasets: Annotated[list[Word], Field(min_length=1, max_length=MAX_MIXED)] = NOT_GIVEN
    epochs: Epochs = NOT_GIVEN
    step_name: Word = NOT_GIVEN
    interleve_stopping_strategy: Stopping = NOT_GIVEN
    seed: Annotated[Any, OptionType("seed")] = NOT_GIVEN


_COLUMNS = {"text_column": "text", "prompt_column": "prompt", "truth_column": "truth"}
_Names = Mapping[str, tuple[str, ...]]  # of arguments, by loader
_ARGS: _Names = {"wiki": ("lang",), "openorca": (), "hf": ("saved_as", "path", "name")}
_KWARGS: Mapping[str, type[Table]] = {"wiki": WikiArguments, "openorca": Table, "hf": HubArguments}
_REQUIRED: _Names = {"wiki": ("lang",), "openorca": (), "hf": ("saved_as", "path")}


def loader_spec(report: Report, path: KeyPath, name: str, table: object, shelf: Shelf) -> DatasetSpec | None:
    """The dataset of an entry of LMPlay's `datasets`; None where the entry does not say which it is."""
    given = valid_table(report, path, table, LoaderTable)
    if given is None or not isinstance(table, dict):
        return None
    if "ds_loader" not in table:
        report.add((*path, "ds_loader"), "is missing: wiki, openorca or hf")
    if "ds_loader" not in given:
        return None
    loader = given["ds_loader"]
    number = len(table["args"]) if "args" in given else 0
    values = _arguments(report, path, loader, given, number)
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


def _arguments(report: Report, path: KeyPath, loader: str, given: Mapping[str, Any], number: int) -> dict[str, str]:
    """A loader's valid arguments by name. `number`: how many stand in `args`, valid or not."""
    order = _ARGS[loader]
    args, kwargs = given.get("args", {}), given.get("kwargs", {})
    if number > len(order):
        report.add((*path, "args"), f"{loader} takes {', '.join(order) or 'nothing'} here, got {number} entries")
    missing = [name for name in _REQUIRED[loader] if name not in order[:number] and name not in kwargs]
    if missing:
        report.add((*path, "args"), f"{loader} needs {', '.join(missing)} here")
    values = {order[index]: word for index, word in args.items() if index < len(order)}
    return values | (valid_table(report, (*path, "kwargs"), kwargs, _KWARGS[loader]) or {})


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
    if "saved_as" in values and not re.fullmatch(FOLDER_NAME, values["saved_as"]):
        report.add((*path, "args", 0), f"is not of the form it needs, got {shown_value(values['saved_as'])}")
    if "path" not in values:
        return None
    spec, problem = shelf.at(values["path"], name=name)
    if spec is None:
        report.add((*path, "args", 1), problem or "")
        return None
    return altered(spec, columns | {key: value for key, value in named.items() if value is not None})


def step_draft(report: Report, index: int, step: object) -> StageDraft | None:
    """The stage of an entry of `steps`; None, and reported, where that is no table."""
    path: KeyPath = ("steps", index)
    given = valid_table(report, path, step, StepTable)
    if given is None or not isinstance(step, dict):
        return None
    if "datasets" not in step:
        report.add((*path, "datasets"), "is missing")
    rest: dict[str, Any] = {key: given[key] for key in ("epochs", "seed") if key in given}
    if "interleve_stopping_strategy" in given:
        rest["stopping"] = given["interleve_stopping_strategy"]
    return StageDraft(
        name=given.get("step_name", str(index)),
        name_path=(*path, "step_name"),
        path=path,
        datasets=entries_at((*path, "datasets"), given),
        rest=rest,
    )
