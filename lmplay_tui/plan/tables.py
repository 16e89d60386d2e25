"""What each table of a plan may hold, and what it means: models that pydantic checks, and the rules between keys.

What pydantic finds is reported in our words, each mistake with its place; the rest of a table is read all the same, so
that all that is wrong with a plan is said at once.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails, PydanticCustomError, core_schema

from lmplay_tui import options
from lmplay_tui.options import nearest, shown_value
from lmplay_tui.plan.builtin import PYDOCS_PARTS, known_dataset
from lmplay_tui.plan.dataset_specs import COLUMNS, MAX_WORD, Shelf, altered, column_problems
from lmplay_tui.plan.problems import KeyPath, Report
from lmplay_tui.plan.schema import DatasetSpec, Stopping, check_name
from lmplay_tui.text import printable

MAX_EPOCHS = 1_000_000
MAX_WEIGHT = 1_000_000
MAX_MIXED = 100  # datasets in one stage

_EXPERIMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


# ---- the keys of each table, with their types and bounds


def _without_control_characters(word: str) -> str:
    if "\n" in word or printable(word) != word:
        raise PydanticCustomError("said", "must be text without control characters")
    return word


Word = Annotated[str, Field(min_length=1, max_length=MAX_WORD), AfterValidator(_without_control_characters)]
Weight = Annotated[float, Field(gt=0, le=MAX_WEIGHT)]
Epochs = Annotated[float, Field(gt=0, le=MAX_EPOCHS)]
FOLDER_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"  # what LMPlay calls a saved dataset
AnyTable = dict[str, Any]


class OptionType:
    """The type of a key that is an option, as `Annotated[Any, OptionType("seed")]`: `options.check` has its bounds."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._checked)

    def _checked(self, value: object) -> object:
        typed, problem = options.check(self._name, value, strict=True)
        if problem is not None or value is None:
            raise PydanticCustomError("option", "{said}", {"said": problem or ""})
        return typed


NOT_GIVEN: Any = None  # no key is required here: one that is missing is reported with what it is for


class Table(BaseModel):
    """A table of a plan."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class PlanTable(Table):
    """The top level."""

    title: Word = NOT_GIVEN
    train: AnyTable = NOT_GIVEN
    datasets: AnyTable = NOT_GIVEN
    stages: AnyTable = NOT_GIVEN


class DatasetTable(Table):
    """`[datasets.NAME]`."""

    path: Word = NOT_GIVEN
    config: Word = NOT_GIVEN
    revision: Word = NOT_GIVEN
    split: Word = NOT_GIVEN
    validation: Word = NOT_GIVEN
    text: Word = NOT_GIVEN
    title: Word = NOT_GIVEN
    prompt: Word = NOT_GIVEN
    system: Word = NOT_GIVEN
    truth: Word = NOT_GIVEN
    messages: Word = NOT_GIVEN
    saved_as: Annotated[str, Field(pattern=FOLDER_NAME)] = NOT_GIVEN


class StageKeys(Table):
    """`[stages.NAME]`, beside the options of a stage."""

    dataset: Word = NOT_GIVEN
    datasets: Annotated[list[Word], Field(min_length=1, max_length=MAX_MIXED)] = NOT_GIVEN
    epochs: Epochs = NOT_GIVEN
    weights: Annotated[list[Weight], Field(min_length=1, max_length=MAX_MIXED)] = NOT_GIVEN
    stopping: Stopping = NOT_GIVEN
    seed: Annotated[Any, OptionType("seed")] = NOT_GIVEN


def _options_of(names: Iterable[str]) -> Any:
    return {name: (Annotated[Any, OptionType(name)], NOT_GIVEN) for name in names}


StageTable: type[Table] = create_model("StageTable", __base__=StageKeys, **_options_of(options.stage_names()))
TrainTable: type[Table] = create_model("TrainTable", __base__=Table, **_options_of(options.train_names()))


# ---- a table, checked key by key


def valid_table(report: Report, path: KeyPath, table: object, model: type[Table]) -> dict[str, Any] | None:
    """The keys of a table that are valid, typed, in the order of the text; all others are reported.

    A list is given as its valid entries by their index. None: `table` is none.
    """
    if not isinstance(table, dict):
        report.add(path, _NO_VALUE if table is None else f"must be a table, got {shown_value(table)}")
        return None
    keys = tuple(model.model_fields)
    for key in table:
        if key not in keys:  # here: of a key that is not valid Unicode pydantic says nothing but that
            report.add((*path, key), _not_here(key, keys, hint=not report.full))
    known = {key: value for key, value in table.items() if key in keys}
    wrong: set[KeyPath] = set()
    try:
        typed = model.model_validate(known)
    except ValidationError as error:
        for mistake in error.errors(include_url=False):
            report.add((*path, *mistake["loc"]), _sentence(mistake))
            wrong.add(mistake["loc"])
        typed = model.model_validate(_without(known, wrong))
    given = {key: getattr(typed, key) for key in known if (key,) not in wrong}
    for key, valid in given.items():
        if isinstance(known[key], list):
            indices = [index for index in range(len(known[key])) if (key, index) not in wrong]
            given[key] = dict(zip(indices, valid if indices else (), strict=True))
    return given


def _without(table: Mapping[str, Any], wrong: set[KeyPath]) -> dict[str, Any]:
    """The table without the keys and the entries of lists that are `wrong`; a list of which none is left goes too."""
    left = {key: value for key, value in table.items() if (key,) not in wrong}
    for key in {str(place[0]) for place in wrong if len(place) > 1}:
        left[key] = [entry for index, entry in enumerate(table[key]) if (key, index) not in wrong]
    return {key: value for key, value in left.items() if value or not table[key]}


_SENTENCES = {
    "greater_than": "must be above {gt:g}",
    "less_than_equal": "must be at most {le:.16g}",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "string_unicode": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "is not of the form it needs",
    "literal_error": "must be one of {expected}",
    "list_type": "must be a list",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
    "dict_type": "must be a table",
}


_NO_VALUE = "must have a value; without the key its default holds"  # JSON's null; TOML has none


def _sentence(mistake: ErrorDetails) -> str:
    """A mistake that pydantic has found, in our words."""
    kind, value, about = mistake["type"], mistake["input"], mistake.get("ctx", {})
    if value is None:
        return _NO_VALUE
    if kind == "option":
        return str(about["said"])
    return f"{_SENTENCES.get(kind, mistake['msg']).format(**about)}, got {shown_value(value)}"


# A plan cannot make anything run, and is no place for a secret.
_REFUSED = {
    **dict.fromkeys(
        ("trust_remote_code", "script", "script_version", "loading_script"),
        "a plan cannot make code run: take this key out",
    ),
    **dict.fromkeys(("token", "use_auth_token"), "is no place for a secret: set HF_TOKEN in the environment instead"),
}


def _not_here(key: str, known: tuple[str, ...], *, hint: bool) -> str:
    """Why a key has no place among the `known` ones. `hint`: name the one that it is nearest to."""
    if key in _REFUSED:
        return _REFUSED[key]
    if key in options.names():
        if options.OPTIONS[key].where is options.Where.LINE:
            return f"is set on the command line only: {options.OPTIONS[key].flag}"
        return "holds for a whole run: set it in [train]"
    return "unknown key" + (nearest(key, known) if hint else "")


def check_unique(report: Report, names: Iterable[tuple[KeyPath, str]], kind: str) -> None:
    """Report names that differ in upper and lower case alone: files may lie on a disk that takes them for one."""
    seen: dict[str, str] = {}
    for path, name in names:
        folded = name.casefold()
        if folded in seen:
            report.add(path, f"there is a {kind} {shown_value(seen[folded])} already; upper and lower case are one")
        seen.setdefault(folded, name)


# ---- [train]


def train_options(report: Report, table: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `[train]`."""
    given = valid_table(report, ("train",), table, TrainTable) or {}
    experiment = given.get("exp", "gpt2ish")
    if not _EXPERIMENT.fullmatch(experiment):
        report.add(
            ("train", "exp"),
            f"must be the name of an experiment, got {shown_value(experiment)}; "
            "one from a file is set on the command line only: --exp file.py:Name",
        )
    return given


# ---- [datasets]

ReadSpec = Callable[[Report, KeyPath, str, object, Shelf], DatasetSpec | None]


def define_datasets(report: Report, table: Mapping[str, Any], shelf: Shelf, read: ReadSpec) -> None:
    """Put the datasets of `[datasets]` on the shelf; `read` reads the table of one."""
    for name, entry in table.items():
        path: KeyPath = ("datasets", name)
        problem = check_name("dataset", name) if known_dataset(name) is None else None
        if problem is not None:
            report.add(path, problem)
        shelf.define(name, read(report, path, name, entry, shelf))
    check_unique(report, [(("datasets", name), name) for name in table], "dataset")


def dataset_spec(report: Report, path: KeyPath, name: str, table: object, shelf: Shelf) -> DatasetSpec | None:
    """The dataset of `[datasets.NAME]`; None where the table does not say which it is."""
    given = valid_table(report, path, table, DatasetTable)
    if given is None or not isinstance(table, dict):
        return None
    for column, said in column_problems(column for column in COLUMNS if column in table):
        report.add((*path, column), said)
    if "path" not in table:
        report.add((*path, "path"), "is missing: a hub name (owner/name), or the path of a file or folder")
    if "path" not in given:
        return None
    base, problem = shelf.at(given.pop("path"), name=name)
    if base is None:
        report.add((*path, "path"), problem or "")
        return None
    if base.path == "pydocs":
        _check_pydocs(report, path, given)
    return altered(base, given)


def _check_pydocs(report: Report, path: KeyPath, given: Mapping[str, str]) -> None:
    config = given.get("config", PYDOCS_PARTS[0])
    if config not in PYDOCS_PARTS:
        report.add((*path, "config"), f"must be {' or '.join(PYDOCS_PARTS)}, got {shown_value(config)}")
    if given.get("split", "train") != "train":
        report.add((*path, "split"), "must be train: pydocs has no other")
    for key in ("revision", "validation"):
        if key in given:
            report.add((*path, key), "is nothing that pydocs has")


# ---- [stages]


@dataclass
class StageDraft:
    """A stage as far as its own table says it: datasets by name, weights as they were given."""

    name: str
    name_path: KeyPath  # where the name stands
    path: KeyPath
    datasets: list[tuple[KeyPath, str]]
    weights: list[float] | None = None
    rest: dict[str, Any] = field(default_factory=dict)  # epochs, stopping, seed
    options: dict[str, Any] = field(default_factory=dict)


def stage_draft(report: Report, path: KeyPath, name: str, table: object) -> StageDraft | None:
    """The stage of `[stages.NAME]`; None, and reported, where that is no table."""
    given = valid_table(report, path, table, StageTable)
    if given is None or not isinstance(table, dict):
        return None
    if "dataset" in table and "datasets" in table:
        report.add((*path, "datasets"), "stands beside dataset: give one of the two")
    elif "dataset" not in table and "datasets" not in table:
        report.add((*path, "dataset"), "is missing")
    datasets: list[tuple[KeyPath, str]] = []
    if "dataset" in given and "datasets" not in table:
        datasets = [((*path, "dataset"), given["dataset"])]
    datasets += entries_at((*path, "datasets"), given)
    return StageDraft(
        name=name,
        name_path=path,
        path=path,
        datasets=datasets,
        weights=_weights(report, path, table, given),
        rest={key: given[key] for key in ("epochs", "stopping", "seed") if key in given},
        options={key: value for key, value in given.items() if key in options.stage_names()},
    )


def entries_at(path: KeyPath, given: Mapping[str, Any]) -> list[tuple[KeyPath, Any]]:
    """The valid entries of the list at `path`, each with its own path."""
    return [((*path, index), entry) for index, entry in given.get(str(path[-1]), {}).items()]


def _weights(report: Report, path: KeyPath, table: Mapping[str, Any], given: Mapping[str, Any]) -> list[float] | None:
    if "weights" not in given:
        return None
    wanted = len(table["datasets"]) if "datasets" in given else 1
    number = len(table["weights"])
    if ("datasets" in given or "datasets" not in table) and number != wanted:
        report.add((*path, "weights"), f"must be one for each dataset: {wanted}, got {number}")
    weights = list(given["weights"].values())
    return weights if len(weights) == number else None
