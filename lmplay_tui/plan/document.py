"""A parsed document as a plan: which of three forms it has, and what holds between its stages.

`[stages.NAME]` tables, the same at the top level (the user's JSON), or LMPlay's `{datasets, steps}`.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmplay_tui import options
from lmplay_tui.options import shown_value
from lmplay_tui.plan.dataset_specs import Shelf
from lmplay_tui.plan.lmplay import LMPlayPlan, loader_spec, step_draft
from lmplay_tui.plan.problems import KeyPath, Report
from lmplay_tui.plan.schema import DatasetSpec, Plan, Stage, check_name
from lmplay_tui.plan.tables import (
    PlanTable,
    StageDraft,
    check_unique,
    dataset_spec,
    define_datasets,
    stage_draft,
    train_options,
    valid_table,
)

SMALLEST_SHARE = 1e-6  # of a mixture's rows


def plan_of(document: dict[str, Any], report: Report, *, name: str, folder: Path) -> Plan:
    """The plan of a document; of use only if nothing was reported."""
    shelf = Shelf(folder)
    read = _of_steps if "steps" in document else _of_stages
    given, drafts = read(document, report, shelf)
    train = train_options(report, given.get("train", {}))
    if "steps" in document and "seed" in given:  # LMPlay's seed is the run's
        train.setdefault("seed", given["seed"])
    _check_held_out(report, drafts, train)
    stages = _stages(report, drafts, shelf)
    return Plan(name=name, stages=stages, train=train, title=given.get("title"), folder=str(shelf.folder))


def _of_stages(document: dict[str, Any], report: Report, shelf: Shelf) -> tuple[dict[str, Any], list[StageDraft]]:
    """The top level and the stages: those of `[stages]`; without it, the top-level tables."""
    is_inside = "stages" in document
    at_top = {} if is_inside else {key: value for key, value in document.items() if _is_stage(key, value)}
    rest = {key: value for key, value in document.items() if key not in at_top}
    given = valid_table(report, (), rest, PlanTable) or {}
    stages = given.get("stages", {}) if is_inside else at_top
    if not stages and isinstance(document.get("stages", {}), dict):
        report.add(("stages",), "is missing: a plan needs at least one stage")
    define_datasets(report, given.get("datasets", {}), shelf, dataset_spec)
    drafts = [
        stage_draft(report, ("stages", name) if is_inside else (name,), name, table) for name, table in stages.items()
    ]
    return given, [draft for draft in drafts if draft is not None]


def _is_stage(key: str, value: object) -> bool:
    """Whether a top-level key is a stage, rather than one of a plan's own, misspelt: `trian`, but not `pretraining`."""
    if key in PlanTable.model_fields or not isinstance(value, dict):
        return False
    is_misspelt = difflib.get_close_matches(key, PlanTable.model_fields, n=1, cutoff=0.8)
    return bool({"dataset", "datasets"} & value.keys() or not is_misspelt)


def _of_steps(document: dict[str, Any], report: Report, shelf: Shelf) -> tuple[dict[str, Any], list[StageDraft]]:
    """The top level and the stages of LMPlay's form."""
    given = valid_table(report, (), document, LMPlayPlan) or {}
    define_datasets(report, given.get("datasets", {}), shelf, loader_spec)
    drafts = [step_draft(report, index, step) for index, step in given.get("steps", {}).items()]
    return given, [draft for draft in drafts if draft is not None]


# ---- between the stages


def _stages(report: Report, drafts: Sequence[StageDraft], shelf: Shelf) -> tuple[Stage, ...]:
    """The stages, after the checks between keys and between stages."""
    stages = []
    for draft in drafts:
        problem = check_name("stage", draft.name)
        if problem is not None:
            report.add(draft.name_path, problem)
        weights = None if draft.weights is None else _shares(report, (*draft.path, "weights"), draft.weights)
        datasets = _found(report, draft.datasets, shelf)
        stages.append(Stage(draft.name, datasets, weights=weights, options=draft.options, **draft.rest))
    check_unique(report, [(draft.name_path, draft.name) for draft in drafts], "stage")
    return tuple(stages)


def _found(report: Report, names: Sequence[tuple[KeyPath, str]], shelf: Shelf) -> tuple[DatasetSpec, ...]:
    specs: dict[str, DatasetSpec | None] = {}
    for path, name in names:
        if name in specs:
            report.add(path, f"lists {shown_value(name)} a second time")
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


def _check_held_out(report: Report, drafts: Sequence[StageDraft], train: Mapping[str, Any]) -> None:
    """One `validation_split` for the whole plan: else rows held out of one stage are trained in another."""
    name = "validation_split"
    own = [draft for draft in drafts if name in draft.options]
    if name in train or len(own) < len(drafts):
        held = train.get(name, options.OPTIONS[name].default)
    else:
        held = own[0].options[name] if own else None
    for draft in own:
        if draft.options[name] != held:
            report.add(
                (*draft.path, name),
                f"must be the same in every stage, {held:g} as in the others: else rows held out of one stage are "
                "trained in another; set it once, in [train]",
            )
