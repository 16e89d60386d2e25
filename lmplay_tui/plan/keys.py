"""The keys of a plan beside the options, each declared once with its type and bounds."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from lmplay_tui import options
from lmplay_tui.plan.schema import Stopping
from lmplay_tui.text import printable

MAX_WORD = 500  # characters; with each one escaped, a line of a written plan stays within its limit
MAX_EPOCHS = 1_000_000
MAX_WEIGHT = 1_000_000
MAX_MIXED = 100  # datasets in one stage

NAME_PATTERN = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,39}\Z")
RESERVED_NAMES = ("prev", "best", "past", "corrupted", "damaged", "run")  # what a run's own files are called
_NUMBERED = re.compile(r"step-\d{8,}", re.IGNORECASE)  # ... and those of `--keep`


def check_name(kind: str, name: str) -> str | None:
    """What is wrong with a name that files are called by (`kind`: stage, model, ...); None: nothing."""
    if not NAME_PATTERN.match(name):
        return f"is no {kind} name: 1 to 40 letters A-Z, digits, _ and -, the first a letter or digit"
    if name.lower() in RESERVED_NAMES or _NUMBERED.fullmatch(name):
        return f"is no {kind} name: a run's own files are called so"
    return None


def _shown_as_it_is(word: str) -> str:
    if "\n" in word or printable(word) != word:
        raise PydanticCustomError("control_characters", "text without control characters")
    return word


_Word = Annotated[str, Field(min_length=1, max_length=MAX_WORD), AfterValidator(_shown_as_it_is)]
_Entries = Annotated[list[Any], Field(min_length=1, max_length=MAX_MIXED)]
_Epochs = Annotated[float, Field(gt=0, le=MAX_EPOCHS)]
# LMPlay's names of saved datasets are folder names.
_FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]
_Table = dict[str, Any]

TITLE: Any = _Word
STEPS: Any = Annotated[list[Any], Field(min_length=1)]
ENTRY: Any = _Word  # of `datasets`
WEIGHT: Any = Annotated[float, Field(gt=0, le=MAX_WEIGHT)]
TABLE: Any = _Table

PLAN_KEYS = ("title", "train", "datasets", "stages")
STAGE_KEYS: Mapping[str, Any] = {
    "dataset": _Word,
    "datasets": _Entries,
    "epochs": _Epochs,
    "weights": _Entries,
    "stopping": Stopping,
    "seed": "seed",  # as the option of this name
}
DATASET_KEYS: Mapping[str, Any] = {
    "path": _Word,
    "config": _Word,
    "revision": _Word,
    "split": _Word,
    "validation": _Word,
    "text": _Word,
    "title": _Word,
    "prompt": _Word,
    "system": _Word,
    "truth": _Word,
    "messages": _Word,
    "saved_as": _FolderName,
}

# LMPlay's own plans, in its spelling.
LMPLAY_PLAN_KEYS = ("datasets", "steps", "seed", "title", "train")
LMPLAY_DATASET_KEYS: Mapping[str, Any] = {
    "ds_loader": Literal["wiki", "openorca", "hf"],
    "args": Annotated[list[Any], Field(max_length=MAX_MIXED)],
    "kwargs": _Table,
}
LMPLAY_STEP_KEYS: Mapping[str, Any] = {
    "datasets": _Entries,
    "epochs": _Epochs,
    "step_name": _Word,
    "interleve_stopping_strategy": Stopping,
    "seed": "seed",
}
LMPLAY_KWARGS: Mapping[str, Any] = {
    "lang": _Word,
    "name": _Word,
    "revision": _Word,
    "text_column": _Word,
    "prompt_column": _Word,
    "truth_column": _Word,
}

# A plan cannot make anything run, and is no place for a secret.
_REFUSED = {
    **dict.fromkeys(
        ("trust_remote_code", "script", "script_version", "loading_script"),
        "a plan cannot make code run: take this key out",
    ),
    **dict.fromkeys(("token", "use_auth_token"), "is no place for a secret: set HF_TOKEN in the environment instead"),
}

_LIST_SENTENCES = {
    "list_type": "must be a list",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
    "dict_type": "must be a table",
}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


def checked(kind: Any, value: object) -> tuple[Any, str | None]:
    """The value as its declared type, and what is wrong with it (None: nothing).

    `kind`: a declaration of this module, or the name of an option.
    """
    if value is None:  # JSON's null; TOML has none
        return None, "must have a value; without the key its default holds"
    if isinstance(kind, str):
        return options.check(kind, value, strict=True)
    try:
        return _adapter(kind).validate_python(value), None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        said = _LIST_SENTENCES.get(first["type"])
        said = said.format(**first.get("ctx", {})) if said else options.sentence(first)
        return None, f"{said}, got {options.shown_value(value)}"


def not_here(key: str, known: tuple[str, ...], *, hint: bool = True) -> str:
    """Why a key has no place among the `known` ones. `hint`: name the nearest of them."""
    if key in _REFUSED:
        return _REFUSED[key]
    if key in options.names():
        if options.where(key) is options.Where.LINE:
            return f"is set on the command line only: {options.flag(key)}"
        return "holds for a whole run: set it in [train]"
    return "unknown key" + (options.nearest(key, known) if hint else "")
