"""Every way to break a declared value, made from its JSON schema: so a new option is tested the day it is declared."""

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, NamedTuple

from pydantic import TypeAdapter

from lmplay_tui import options
from lmplay_tui.options import OPTIONS, Option
from lmplay_tui.plan import tables

HUGE = 10**400


class Break(NamedTuple):
    rule: str
    toml: str  # the broken value as TOML writes it ...
    json: str | None  # ... and JSON (None: it cannot)
    said: str  # part of the sentence that must come


def keys_of(model: type[tables.Table]) -> dict[str, Any]:
    """The keys of a table, each with its type, or with the name of the option that it is."""
    keys: dict[str, Any] = {}
    for key, field in model.model_fields.items():
        kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        keys[key] = key if key in options.names() else kind
    return keys


@cache
def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema of a declaration: an option's name, or a type of `plan/tables.py`."""
    schema: dict[str, Any]
    if isinstance(kind, str):
        return _schema_of_option(OPTIONS[kind])
    schema = TypeAdapter(kind).json_schema()
    return schema


def _schema_of_option(option: Option) -> dict[str, Any]:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    rules = {
        "type": kinds[option.kind or str], "exclusiveMinimum": option.gt, "minimum": option.ge,
        "exclusiveMaximum": option.lt, "maximum": option.le, "minLength": option.min_length or None,
        "maxLength": option.max_length, "pattern": option.pattern,
    }  # fmt: skip
    schema = {rule: value for rule, value in rules.items() if value is not None}
    words = {"enum": list(option.choices)} if len(option.choices) > 1 else {"const": "".join(option.choices)}
    kinds_of_value = [*([schema] if option.kind else []), *([words] if option.choices else [])]
    kinds_of_value += [{"type": "null"}] if option.default is None else []
    return kinds_of_value[0] if len(kinds_of_value) == 1 else {"anyOf": kinds_of_value}


def _wrong_types(kind: str) -> Iterator[Break]:
    meant = {
        "integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text",
        "array": "a list", "object": "a table",
    }[kind]  # fmt: skip
    shown = {
        "text": ('"many"', '"many"'), "number": ("3", "3"), "boolean": ("true", "true"), "fraction": ("1.5", "1.5"),
        "list": ("[1]", "[1]"), "table": ("{a = 1}", '{"a": 1}'), "date": ("1979-05-27", None),
        "null": (None, "null"),
    }  # fmt: skip
    right = {
        "integer": {"number"}, "number": {"number", "fraction"}, "boolean": {"boolean"}, "string": {"text"},
        "array": {"list"}, "object": {"table"},
    }[kind]  # fmt: skip
    for name, (toml, json) in shown.items():
        if name not in right:
            said = "must have a value" if name == "null" else f"must be {meant}"
            yield Break(f"type {name}", toml or "", json, said)


def _out_of_bounds(schema: dict[str, Any]) -> Iterator[Break]:
    whole = schema["type"] == "integer"
    step = 1 if whole else 1e-3
    bounds = (
        ("minimum", "must be at least", -1), ("exclusiveMinimum", "must be above", 0),
        ("maximum", "must be at most", 1), ("exclusiveMaximum", "must be below", 0),
    )  # fmt: skip
    for bound, said, direction in bounds:
        if bound in schema:
            value = repr(schema[bound] + direction * step)
            yield Break(bound, value, value, said)
    if "minimum" in schema or "exclusiveMinimum" in schema:
        yield Break("far below", "-1000000", "-1000000", "must be a")
    if whole:
        yield Break("huge", str(HUGE), str(HUGE), "must be at most")
    else:
        yield Break("huge", str(HUGE), str(HUGE), "must be a number")
    for value, json in (("nan", "NaN"), ("inf", "Infinity"), ("-inf", "-Infinity"), ("1e999", "1e999")):
        yield Break(value, value, json, "must be a whole number" if whole else "must be a finite number")


def breaks(kind: Any) -> Iterator[Break]:
    """Each rule of a declaration broken once."""
    schema = schema_of(kind)
    branches = [branch for branch in schema.get("anyOf", [schema]) if branch.get("type") != "null"]
    first = branches[0]
    taken = {branch.get("const") for branch in branches}
    if "enum" in first:
        for wrong in (first["enum"][0] + "x", first["enum"][0].upper(), ""):
            yield Break(f"not a choice: {wrong}", f'"{wrong}"', f'"{wrong}"', "must be one of")
        for value, json in (("3", "3"), ("true", "true"), ("[1]", "[1]")):
            yield Break(f"type {value}", value, json, "must be one of")
        return
    yield from _wrong_types(first["type"])
    if first["type"] in ("integer", "number"):
        yield from _out_of_bounds(first)
    if taken != {None}:
        yield Break("not the word", '"automatic"', '"automatic"', "must be a whole number")
    if "pattern" in first:
        for wrong in ("", "a b", "a/b", "x" * 200, "é"):
            yield Break(f"pattern {wrong[:5]}", f'"{wrong}"', f'"{wrong}"', "is not of the form it needs")
    if "minLength" in first:
        yield Break("empty", '""', '""', "must not be empty")
        long = "x" * (first["maxLength"] + 1)
        yield Break("too long", f'"{long}"', f'"{long}"', f"must have at most {first['maxLength']} characters")
    if "minItems" in first:
        yield Break("empty list", "[]", "[]", "must not be empty")
    if "maxItems" in first:
        many = "[" + ", ".join(["1"] * (first["maxItems"] + 1)) + "]"
        yield Break("too many", many, many, f"must have at most {first['maxItems']} entries")


CONTROL = Break("control character", r'"a\u001b[31mb"', r'"a\u001b[31mb"', "must be text without control characters")


def word_breaks(kind: Any) -> Iterator[Break]:
    """`breaks`, and control characters where foreign words are allowed."""
    yield from breaks(kind)
    if kind == tables.Word:
        yield CONTROL
        yield Break("direction", r'"a\u202eb"', r'"a\u202eb"', "must be text without control characters")
        yield Break("half a pair", "", r'"\ud800"', "must be text, got")
