"""More epochs for a stage of a plan's text, comments kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit import TOMLDocument

from lmplay_tui.plan.reading import parse_plan
from lmplay_tui.plan.schema import Plan
from lmplay_tui.plan.writing import plan_text


def stage_tables(document: TOMLDocument) -> Any:
    """The table of stages; without `[stages]` the top level itself is."""
    return document.get("stages", document)


def rounded_epochs(epochs: float) -> float | int:
    """As a person would write it."""
    return int(epochs) if epochs == int(epochs) else round(epochs, 6)


def extend_plan(plan: Plan, epochs: float) -> Plan:
    """The plan with so many epochs more of its last stage. Raises `PlanError` where those are too many."""
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
