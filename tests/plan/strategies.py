"""Valid plans, made from the declarations."""

from functools import cache
from typing import Any

from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from lmplay_tui import options
from lmplay_tui.plan import tables
from lmplay_tui.plan.builtin import KNOWN_NAMES
from lmplay_tui.plan.schema import check_name
from tests.plan.breaking import keys_of, schema_of

# Names by hand where the schema gives only a pattern.
_WORDS = {"exp": ["gpt2ish", "s_gpt2ish", "my-model2"], "tokenizer": ["gpt2", "gpt2:4096", "bytes", "cl100k_base"]}

names = st.text("azAZ09_-", min_size=1, max_size=6).filter(lambda name: check_name("stage", name) is None)
_word = TypeAdapter(tables.Word)


def _is_word(word: str) -> bool:
    try:
        _word.validate_python(word)
    except ValidationError:
        return False
    return True


_shown = st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"])
plain_words = st.text(_shown, min_size=1, max_size=40).filter(_is_word)
known = st.sampled_from([*KNOWN_NAMES, "wikipedia:es", "wikipedia:simple", "wikitext:2", "roneneldan/TinyStories"])
local = st.sampled_from(["data/mine.jsonl", "./notes.txt", "data", "only-here.csv"])


@cache
def values(kind: Any) -> st.SearchStrategy[Any]:
    """Valid values of a declared key or option."""
    if kind in _WORDS:
        return st.sampled_from(_WORDS[kind])
    schema = schema_of(kind)
    branches = [branch for branch in schema.get("anyOf", [schema]) if branch.get("type") != "null"]
    return st.one_of([_values(branch) for branch in branches])


def _values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "boolean":
        return st.booleans()
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if schema["type"] == "integer":
        return st.integers(low, high)
    floats = st.floats(
        low, high, exclude_min="exclusiveMinimum" in schema, exclude_max="exclusiveMaximum" in schema,
        allow_nan=False, allow_infinity=False,
    )  # fmt: skip
    return floats | st.integers(1, 1_000).filter(lambda n: high is None or n < high)


def some_of(choices: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """A few of these keys, each with a value."""
    chosen = st.lists(st.sampled_from(sorted(choices)), unique=True, max_size=5)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: choices[name] for name in names}))


@cache
def options_of(allowed: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these options, each with a valid value."""
    return some_of({name: values(name) for name in allowed})


@st.composite
def stages(draw: st.DrawFn, datasets: st.SearchStrategy[str]) -> dict[str, Any]:
    """A valid `[stages.NAME]`."""
    table = draw(some_of({key: values(keys_of(tables.StageKeys)[key]) for key in ("epochs", "stopping", "seed")}))
    mixed = draw(st.lists(datasets, min_size=1, max_size=4, unique=True))
    if len(mixed) == 1 and draw(st.booleans()):
        table["dataset"] = mixed[0]
    else:
        table["datasets"] = mixed
    if draw(st.booleans()):
        weights = st.floats(1e-2, 100) | st.integers(1, 100)
        table["weights"] = draw(st.lists(weights, min_size=len(mixed), max_size=len(mixed)))
    return table | draw(options_of(options.stage_names()))


columns = st.sampled_from(
    [{}, {"text": "a"}, {"text": "a", "title": "b"}, {"prompt": "p", "truth": "t"}, {"messages": "m"},
     {"prompt": "p", "truth": "t", "system": "s"}]
)  # fmt: skip


@st.composite
def own_datasets(draw: st.DrawFn) -> dict[str, Any]:
    """A valid `[datasets.NAME]`."""
    table: dict[str, Any] = {"path": draw(known | local)} | draw(columns)
    if table["path"] != "pydocs":
        table |= draw(some_of(dict.fromkeys(("config", "revision", "split", "validation"), plain_words)))
        table |= draw(some_of({"saved_as": st.just("my_copy")}))
    return table


def _unique(names: list[str]) -> bool:
    return len({name.casefold() for name in names}) == len(names)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A valid plan as nested dicts: with a `stages` table, or with the stages at the top level."""
    own = draw(st.lists(names | st.sampled_from(KNOWN_NAMES), max_size=3).filter(_unique))
    stage_names = draw(st.lists(names, min_size=1, max_size=4).filter(_unique))
    document: dict[str, Any] = {}
    if draw(st.booleans()):
        document["title"] = draw(plain_words)
    if draw(st.booleans()):
        document["train"] = draw(options_of(options.train_names()))
    document["datasets"] = {name: draw(own_datasets()) for name in own}
    choice = known | local | st.sampled_from(own) if own else known | local
    named = {name: draw(stages(choice)) for name in stage_names}
    hold_out_alike(document.get("train", {}), named)
    if draw(st.booleans()) or set(stage_names) & {*tables.PlanTable.model_fields, "steps"}:
        return document | {"stages": named}
    return document | named


def hold_out_alike(train: dict[str, Any], tables: dict[str, dict[str, Any]]) -> None:
    """One `validation_split` for the whole plan."""
    name = "validation_split"
    own = [table for table in tables.values() if name in table]
    for table in own if name in train else tables.values() if own else ():
        table[name] = train.get(name, own[0][name])


loaders = st.sampled_from(
    [
        {"ds_loader": "wiki", "args": ["es"]},
        {"ds_loader": "wiki", "kwargs": {"lang": "en"}},
        {"ds_loader": "openorca"},
        {"ds_loader": "hf", "args": ["math", "microsoft/orca-math-word-problems-200k"],
         "kwargs": {"truth_column": "question", "prompt_column": "answer"}},
        {"ds_loader": "hf", "args": ["tales", "roneneldan/TinyStories"], "kwargs": {"truth_column": "text"}},
        {"ds_loader": "hf", "args": ["talk", "HuggingFaceTB/smoltalk", "all"], "kwargs": {"truth_column": "messages"}},
        {"ds_loader": "hf", "args": ["mine", "data/mine.jsonl"], "kwargs": {"text_column": "text", "revision": "v1"}},
    ]
)  # fmt: skip


@st.composite
def lmplay_documents(draw: st.DrawFn) -> dict[str, Any]:
    """A valid plan in LMPlay's own form."""
    own = draw(st.lists(names, min_size=1, max_size=4).filter(_unique))
    step_names = draw(st.lists(names, min_size=1, max_size=3).filter(_unique))
    steps: list[dict[str, Any]] = [{"step_name": name} for name in step_names]
    extra = {"epochs": values(tables.Epochs), "seed": values("seed"),
             "interleve_stopping_strategy": st.sampled_from(["first_exhausted", "all_exhausted"])}  # fmt: skip
    for step in steps:
        step.update(draw(some_of(extra)), datasets=draw(st.lists(st.sampled_from(own), min_size=1, unique=True)))
    document: dict[str, Any] = {"datasets": {name: draw(loaders) for name in own}, "steps": steps}
    if draw(st.booleans()):
        document["seed"] = draw(st.integers(0, 100))
    return document
