"""A user's value held to an option's type and bounds, and what is wrong with it in our words."""

import difflib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from lmplay_tui.errors import UserError
from lmplay_tui.options.declared import TrainOptions
from lmplay_tui.text import one_line


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    field: FieldInfo = TrainOptions.model_fields[name]
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


_SENTENCES = {
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:.16g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:.16g}",
    "finite_number": "must be a finite number",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "int_from_float": "must be a whole number",
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "literal": "one of {expected}",
}


def sentence(error: ErrorDetails) -> str:
    """What is wrong with a value, as our messages say it: `must be above 0`."""
    kind, context = error["type"], error.get("ctx", {})
    if (known := _SENTENCES.get(kind)) is not None:
        said = known.format(**context)
    elif kind == "string_pattern_mismatch":
        said = "is not of the form it needs"
    else:
        said = "must be " + _KINDS.get(kind.split("_")[0], error["msg"]).format(**context)
    return said


def shown_value(value: object) -> str:
    """A user's value in a message: at most 60 characters, nothing a terminal obeys."""
    try:
        text = repr(value)
    except RecursionError:
        text = "a deeply nested value"
    except ValueError:  # an integer of more than 4,300 digits
        text = "a huge number"
    return one_line(text, 60)


def check(name: str, value: object, *, strict: bool) -> tuple[Any, str | None]:
    """The value as the option's type, and what is wrong with it (None: nothing).

    `strict`: the value comes with a type (TOML, JSON); otherwise it is a word of a command line.
    A whole number is fine where a number is meant; true is not 1.
    """
    try:
        return _adapter(name).validate_python(value, strict=strict), None
    except ValidationError as error:
        said = sentence(_most_telling(error.errors(include_url=False)))
        return None, f"{said}, got {shown_value(value) if strict else one_line(value, 60) or 'nothing'}"


def _most_telling(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """Of a union's errors (`int | "auto"`), the bound that was broken rather than the branch that was not meant."""
    return next((e for e in errors if e["type"] in _SENTENCES), errors[0])


def home_path(text: str) -> str:
    """A path as the user wrote it, with the home folder for a `~` or `~user` at its beginning.

    A shell leaves it alone in `--model=~/x`, and in quotes. Raises `UserError` where there is no such home folder.
    """
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        user = one_line(text.split("/", maxsplit=1)[0], 60)
        raise UserError(f"there is no home folder {user}; a file called so is ./{one_line(text, 60)}") from None


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for a misspelt word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
