"""The datasets that plans know by a short name, and the plans that come with the program."""

import re
from collections.abc import Callable
from pathlib import Path

from lmplay_tui.plan.schema import DatasetSpec

DEFAULT_PLAN = "default"
PYDOCS_PARTS = ("topics", "docstrings")  # what `config` may say of `pydocs`; without it: both

_WIKIPEDIA_DUMP = "20231101"
_LANGUAGE = re.compile(r"[a-z]{2,12}(-[a-z]{2,12}){0,2}")  # Wikipedia's own codes: es, simple, zh-min-nan


def _wikipedia(name: str, language: str) -> DatasetSpec | None:
    language = language or "en"
    if not _LANGUAGE.fullmatch(language):
        return None
    return DatasetSpec(
        name=name,
        path="wikimedia/wikipedia",
        config=f"{_WIKIPEDIA_DUMP}.{language}",
        text="text",
        title="title",
        saved_as=f"wikimedia_wikipedia_{_WIKIPEDIA_DUMP}_{language}",
    )


def _wikitext(name: str, size: str) -> DatasetSpec | None:
    if size not in ("", "2", "103"):
        return None
    return DatasetSpec(
        name=name,
        path="Salesforce/wikitext",
        config=f"wikitext-{size or 103}-raw-v1",
        validation="validation",
        text="text",
    )


_KNOWN = {
    spec.name: spec
    for spec in (
        DatasetSpec(name="fineweb-edu", path="HuggingFaceFW/fineweb-edu", config="sample-10BT", text="text"),
        DatasetSpec(
            name="tinystories",
            path="roneneldan/TinyStories",
            validation="validation",
            text="text",
            saved_as="tinystories",
        ),
        DatasetSpec(
            name="openorca",
            path="Open-Orca/OpenOrca",
            prompt="question",
            system="system_prompt",
            truth="response",
            saved_as="Open_Orca_OpenOrca",
        ),
        DatasetSpec(
            name="orcamath",
            path="microsoft/orca-math-word-problems-200k",
            prompt="question",
            truth="answer",
            saved_as="orcamathword200",
        ),
        DatasetSpec(
            name="smoltalk", path="HuggingFaceTB/smoltalk", config="all", messages="messages", saved_as="smoltalk_all"
        ),
        DatasetSpec(
            name="cosmopedia",
            path="HuggingFaceTB/smollm-corpus",
            config="cosmopedia-v2",
            text="text",
            saved_as="cosmopedia_v2",
        ),
        DatasetSpec(name="pydocs", path="pydocs", text="text", title="title"),
    )
}
_KNOWN_WITH_CHOICE: dict[str, Callable[[str, str], DatasetSpec | None]] = {
    "wikipedia": _wikipedia,
    "wikitext": _wikitext,
}

KNOWN_NAMES = (*_KNOWN_WITH_CHOICE, *_KNOWN)


def known_dataset(name: str) -> DatasetSpec | None:
    """The dataset of a short name (`wikipedia:es` and `wikitext:2` choose one of several), or None."""
    family, colon, choice = name.partition(":")
    if family in _KNOWN_WITH_CHOICE and bool(colon) == bool(choice):
        return _KNOWN_WITH_CHOICE[family](name, choice)
    return _KNOWN.get(name)


_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder(package: Path = _PACKAGE) -> Path:
    """Where the shipped plans lie: inside the package once installed, beside it in a checkout."""
    inside = package / "plans"
    return inside if inside.is_dir() else package.parent / "plans"


def shipped_plans() -> list[str]:
    """The names of the shipped plans, those that need no network first."""
    names = sorted(path.stem for path in shipped_folder().glob("*.toml"))
    return sorted(names, key=lambda name: (name != "demo", not name.endswith("_demo"), name != DEFAULT_PLAN))
