"""Which columns of a dataset are read, and what a row's cells say: texts, each with its prompt."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from lmplay_tui.data.samples import Item
from lmplay_tui.errors import UserError
from lmplay_tui.options import nearest
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line

_TEXTS = ("text", "content", "article", "document", "story", "body", "passage")
_MESSAGES = ("messages", "conversations", "conversation")
_PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("question", "response"),
    ("instruction", "response"), ("instruction", "output"), ("problem", "solution"), ("query", "answer"),
    ("query", "response"), ("input", "output"),
)
_ASSISTANTS = frozenset(("assistant", "gpt", "model", "bot", "chatgpt"))


@dataclass(frozen=True)
class Columns:
    """The columns that are read: `text` (and `title`), or `truth` (and `prompt`, `system`), or `messages`."""

    text: str | None = None
    title: str | None = None
    prompt: str | None = None
    system: str | None = None
    truth: str | None = None
    messages: str | None = None
    left_out: tuple[str, ...] = dataclasses.field(default=(), repr=False, compare=False)

    def used(self) -> list[str]:
        """The names of the columns to read."""
        return [name for _, name in self._roles() if name is not None]

    def _roles(self) -> tuple[tuple[str, str | None], ...]:
        return (
            ("text", self.text), ("title", self.title), ("prompt", self.prompt), ("system", self.system),
            ("truth", self.truth), ("messages", self.messages),
        )  # fmt: skip

    def described(self) -> str:
        """Which column is read as what, and which are left out: `prompt = question, truth = answer; left out: id`."""
        read = ", ".join(f"{role} = {name}" for role, name in self._roles() if name is not None)
        return read + (f"; left out: {', '.join(self.left_out)}" if self.left_out else "")

    def items(self, cells: Mapping[str, Any]) -> list[Item]:
        """The texts of a row that hold words."""
        if self.messages is not None:
            found = _turns(cells[self.messages])
        elif self.text is not None:
            title = " ".join(_text(cells[self.title]).split()) if self.title else ""
            found = [Item(f"Title: {title}\n" if title else "", _text(cells[self.text]), keep_start=True)]
        else:
            assert self.truth is not None
            lines = [_text(cells[name]) for name in (self.system, self.prompt) if name]
            found = [Item("\n".join(line for line in lines if line), _text(cells[self.truth]))]
        return [item for item in found if item.truth and not item.truth.isspace()]


def _text(cell: Any) -> str:
    return cell if isinstance(cell, str) else "" if cell is None else str(cell)


def _turns(messages: Any) -> list[Item]:
    """Each assistant turn as a truth, the turns before it, a line break after each, as its prompt."""
    turns = [message for message in messages or () if isinstance(message, Mapping)]
    said = [message.get("content", message.get("value")) for message in turns]
    lines = [f"{text if isinstance(text, str) else ''}\n" for text in said]
    conversation = "".join(lines)
    found = []
    end = 0
    for message, line in zip(turns, lines, strict=True):
        if str(message.get("role", message.get("from"))).lower() in _ASSISTANTS:
            found.append(Item(conversation, line[:-1], prompt_end=end))
        end += len(line)
    return found


def find_columns(spec: DatasetSpec, schema: pa.Schema) -> Columns:
    """The columns that `spec` names; where it names none, those with usual names.

    Raises `UserError` listing the columns where a named one is missing or of another kind, or none fits.
    """
    named = Columns(spec.text, spec.title, spec.prompt, spec.system, spec.truth, spec.messages)
    main = spec.messages or spec.text or spec.truth
    chosen = named if main else _usual(spec, schema)
    for name in chosen.used():
        if name not in schema.names:
            raise UserError(
                f"dataset {spec.name}: there is no column {one_line(name, 60)}{nearest(name, schema.names)}; "
                f"it has {_listed(schema)}"
            )
        kind = schema.field(name).type
        if name == chosen.messages and not _is_list(kind):
            raise UserError(f"dataset {spec.name}: column {one_line(name, 60)} holds {kind}, not a list of messages")
        if name == chosen.text and not _is_text(kind):
            raise UserError(f"dataset {spec.name}: column {one_line(name, 60)} holds {kind}, not text")
    used = chosen.used()
    return replace(chosen, left_out=tuple(name for name in schema.names if name not in used))


def _usual(spec: DatasetSpec, schema: pa.Schema) -> Columns:
    texts = {field.name for field in schema if _is_text(field.type)}
    lower = {name.lower(): name for name in sorted(texts, reverse=True)} | {name: name for name in texts}
    title = spec.title or lower.get("title")
    if {"prompt", "truth"} <= texts:
        return Columns(prompt="prompt", truth="truth", system=spec.system)
    for name in _TEXTS:
        if name in lower:
            return Columns(text=lower[name], title=title)
    for field in schema:
        if field.name.lower() in _MESSAGES and _is_list(field.type):
            return Columns(messages=field.name)
    for prompt, truth in _PAIRS:
        if prompt in lower and truth in lower:
            return Columns(prompt=lower[prompt], truth=lower[truth], system=spec.system)
    left = texts - {title}
    if "truth" in texts:
        return Columns(truth="truth")
    if len(left) == 1:
        return Columns(text=left.pop(), title=title)
    raise UserError(
        f"dataset {spec.name}: no column has a usual name for text; it has {_listed(schema)}. Say in the plan which: "
        "text = ..., or prompt = ... and truth = ..., or messages = ..."
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _listed(schema: pa.Schema) -> str:
    return one_line(", ".join(schema.names) or "no columns", 200)
