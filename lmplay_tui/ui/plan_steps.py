"""Finishing, skipping, repeating and extending a stage: changes of the plan's text, comments kept."""

import math
import re
from collections.abc import Collection
from typing import Any

import tomlkit

from lmplay_tui.plan.extending import rounded_epochs, stage_tables
from lmplay_tui.run.view_parts import StageView
from lmplay_tui.ui.messages import StageChange

_NUMBERED = re.compile(r"-\d+$")


def changed_plan(
    text: str, stage: StageView, change: StageChange, *,
    epochs: float = 1.0, rows_per_s: float = 0, begun: Collection[str] = (),
) -> str:  # fmt: skip
    """The plan with one stage changed. `KeyError` if the text has no such stage, `ValueError` if it cannot be.

    `epochs`: how many more than the text says, for `extend`. `begun`: the stages that have begun; they stay before all
    others, so `repeat` puts the copy behind them. `finish`: the stage ends some seconds from now, at the rate given,
    because it may not end before what it has read when the change arrives.
    """
    document = tomlkit.parse(text)
    tables = stage_tables(document)
    table = tables[stage.name]
    if change == "skip":
        del tables[stage.name]
    elif change == "extend":
        table["epochs"] = rounded_epochs(float(table.get("epochs", 1)) + epochs)
    elif change == "repeat":
        last = [name for name in tables if name in begun or name == stage.name][-1]
        _insert_after(tables, last, _free_name(stage.name, tables), table)
    else:
        table["epochs"] = _end_soon(stage, rows_per_s)
    return tomlkit.dumps(document)


def _end_soon(stage: StageView, rows_per_s: float) -> float:
    if not stage.rows_total:
        return stage.epochs
    per_epoch = stage.rows_total / stage.epochs
    soon = stage.rows_done + max(math.ceil(3 * rows_per_s), 1)
    return min(math.ceil(soon / per_epoch * 1e6) / 1e6, stage.epochs)


def _free_name(name: str, tables: Any) -> str:
    stem = _NUMBERED.sub("", name)[:36]
    return next(f"{stem}-{i}" for i in range(2, 1000) if f"{stem}-{i}" not in tables)


def _insert_after(tables: Any, name: str, new_name: str, table: Any) -> None:
    """Put a copy of `table` behind the stage called `name`; the stages that follow keep their order."""
    copy = tomlkit.table()
    for key, value in table.unwrap().items():
        copy.add(key, value)
    names = list(tables)
    later = [(other, tables[other]) for other in names[names.index(name) + 1 :] if isinstance(tables[other], dict)]
    for other, _ in later:
        del tables[other]
    tables[new_name] = copy
    for other, kept in later:
        tables[other] = kept
