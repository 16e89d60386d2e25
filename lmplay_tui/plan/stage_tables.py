"""`[train]` and `[stages.NAME]`, checked key by key and then as a whole."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmplay_tui import options
from lmplay_tui.plan import keys
from lmplay_tui.plan.checking import check_unique, valid_entries, valid_keys
from lmplay_tui.plan.dataset_specs import Shelf
from lmplay_tui.plan.positions import KeyPath
from lmplay_tui.plan.problems import Report
from lmplay_tui.plan.schema import DatasetSpec, Stage

SMALLEST_SHARE = 1e-6  # of a mixture's rows

_EXPERIMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


def train_options(report: Report, path: KeyPath, table: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `[train]`."""
    given = valid_keys(report, path, table, {name: name for name in options.train_names()})
    experiment = given.get("exp", "gpt2ish")
    if not _EXPERIMENT.fullmatch(experiment):
        report.add(
            (*path, "exp"),
            f"must be the name of an experiment, got {options.shown_value(experiment)}; "
            "one from a file is set on the command line only: --exp file.py:Name",
        )
    return given


@dataclass
class StageTable:
    """A stage as far as it can be read key by key."""

    name: str
    name_path: KeyPath  # where the name stands
    path: KeyPath
    datasets: list[tuple[KeyPath, str]]
    weights: list[float] | None = None
    rest: dict[str, Any] = field(default_factory=dict)  # epochs, stopping, seed
    options: dict[str, Any] = field(default_factory=dict)


def stage_table(report: Report, path: KeyPath, name: str, table: Mapping[str, Any]) -> StageTable:
    """Check the keys of `[stages.NAME]`."""
    names = options.stage_names()
    given = valid_keys(report, path, table, {**keys.STAGE_KEYS, **{option: option for option in names}})
    if "dataset" in table and "datasets" in table:
        report.add((*path, "datasets"), "stands beside dataset: give one of the two")
    elif "dataset" not in table and "datasets" not in table:
        report.add((*path, "dataset"), "is missing")
    datasets = [((*path, "dataset"), given["dataset"])] if "dataset" in given and "datasets" not in table else []
    datasets += valid_entries(report, (*path, "datasets"), given.get("datasets", ()), keys.ENTRY)
    return StageTable(
        name=name, name_path=path, path=path, datasets=datasets, weights=_weights(report, path, table, given),
        rest={key: given[key] for key in ("epochs", "stopping", "seed") if key in given},
        options={key: value for key, value in given.items() if key in names},
    )


def _weights(
    report: Report, path: KeyPath, table: Mapping[str, Any], given: Mapping[str, Any]
) -> list[float] | None:
    if "weights" not in given:
        return None
    wanted = len(given["datasets"]) if "datasets" in given else 1
    number = len(given["weights"])
    weights = [weight for _, weight in valid_entries(report, (*path, "weights"), given["weights"], keys.WEIGHT)]
    if ("datasets" in given or "datasets" not in table) and number != wanted:
        report.add((*path, "weights"), f"must be one for each dataset: {wanted}, got {number}")
    return weights if len(weights) == number else None


def finished_stages(report: Report, tables: Sequence[StageTable], shelf: Shelf) -> tuple[Stage, ...]:
    """The stages, after the checks between keys and between stages."""
    stages = []
    for table in tables:
        problem = keys.check_name("stage", table.name)
        if problem is not None:
            report.add(table.name_path, problem)
        weights = None if table.weights is None else _shares(report, (*table.path, "weights"), table.weights)
        datasets = _found(report, table.datasets, shelf)
        stages.append(Stage(table.name, datasets, weights=weights, options=table.options, **table.rest))
    check_unique(report, [(table.name_path, table.name) for table in tables], "stage")
    return tuple(stages)


def check_held_out(report: Report, tables: Sequence[StageTable], train: Mapping[str, Any]) -> None:
    """One `validation_split` for the whole plan: else rows held out of one stage are trained in another."""
    name = "validation_split"
    own = [table for table in tables if name in table.options]
    if name in train or len(own) < len(tables):
        held = train.get(name, options.default(name))
    else:
        held = own[0].options[name] if own else None
    for table in own:
        if table.options[name] != held:
            report.add(
                (*table.path, name),
                f"must be the same in every stage, {held:g} as in the others: else rows held out of one stage are "
                "trained in another; set it once, in [train]",
            )


def _found(report: Report, names: Sequence[tuple[KeyPath, str]], shelf: Shelf) -> tuple[DatasetSpec, ...]:
    specs: dict[str, DatasetSpec | None] = {}
    for path, name in names:
        if name in specs:
            report.add(path, f"lists {options.shown_value(name)} a second time")
            continue
        specs[name], problem = shelf.find(name)
        if problem is not None:
            report.add(path, problem)
    return tuple(spec for spec in specs.values() if spec is not None)


def _shares(report: Report, path: KeyPath, weights: Sequence[float]) -> tuple[float, ...]:
    total = math.fsum(weights)
    # What was divided here before sums to 1 but for its last bits: it must read back as it was written.
    shares = tuple(weights) if abs(total - 1) <= 1e-12 else tuple(weight / total for weight in weights)
    for index, share in enumerate(shares):
        if share < SMALLEST_SHARE:
            report.add((*path, index), f"must be at least a millionth of all weights, is {share:.1g} of them")
    return shares
