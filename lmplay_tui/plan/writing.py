"""A plan as TOML that reads back as the same plan."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import tomli_w

from lmplay_tui.plan.dataset_specs import Shelf
from lmplay_tui.plan.schema import DatasetSpec, Plan, Stage


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
