"""JSON whose numbers stay as they are spelled, and a file's rows found in whatever JSON document holds them."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any, NoReturn, TextIO

from lmplay_tui.text import one_line

_BLOCK = 1 << 20  # characters read at a time, at most
_SPACE = re.compile(r"[ \t\n\r]*")
_TURNS = frozenset(("messages", "conversations", "conversation"))  # a list of objects that is one row's own


class NotJson(Exception):
    """Where a text is no JSON, and why."""

    def __init__(self, said: str, line: int, column: int) -> None:
        super().__init__(f"line {line}: no JSON: {said} at column {column}")
        self.said = said
        self.column = column


class Misfit(NotJson):
    """JSON in which no rows can be found."""

    def __init__(self, said: str) -> None:
        Exception.__init__(self, said)


class Number:
    """A number as the file spells it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _constant(text: str) -> Number | None:
    """Python and pandas write NaN, which is no JSON, for what is missing."""
    return None if text == "NaN" else Number(text)


_numbers: dict[str, Any] = {"parse_int": Number, "parse_float": Number, "parse_constant": _constant}
_LINE = json.JSONDecoder(strict=False, **_numbers)  # a tab in a string is no reason to refuse a line
_STRICT = json.JSONDecoder(**_numbers)  # over lines, a string that is not closed is to be found where it begins


def load(line: str) -> Any:
    """The value of a line. Raises `NotJson`."""
    try:
        return _LINE.decode(line)
    except json.JSONDecodeError as error:
        raise NotJson(_reason(error), 1, error.pos + 1) from error
    except RecursionError as error:
        raise NotJson("nested too deeply", 1, 1) from error


def _reason(error: json.JSONDecodeError) -> str:
    return one_line(error.msg, 80).removesuffix(" at")


def spelled(value: Any) -> str:
    """A value that is not null as the text of a cell: a scalar as the file spells it, else JSON."""
    if type(value) is str:
        return value
    if type(value) is Number:
        return value.text
    if value is True or value is False:
        return "true" if value else "false"
    try:
        return _ENCODER.encode(value)
    except _HoldsNumberError:  # the library would quote it, or round it
        return _json_text(value)


class _HoldsNumberError(Exception):
    pass


def _refuse(value: Any) -> NoReturn:
    raise _HoldsNumberError


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=_refuse, check_circular=False)


def _json_text(value: Any) -> str:
    if type(value) is dict:
        return "{" + ", ".join(f"{encode_basestring(key)}: {_json_text(cell)}" for key, cell in value.items()) + "}"
    if type(value) is list:
        return "[" + ", ".join(map(_json_text, value)) + "]"
    if value is None:
        return "null"
    return encode_basestring(value) if type(value) is str else spelled(value)


class Document:
    """A JSON text read from its start, value by value: never more of it is held than its longest value."""

    def __init__(self, text: TextIO, block: int = _BLOCK) -> None:
        self._text = text
        self._block = min(block, _BLOCK)
        self._buffer = ""
        self._at = 0
        self._known = (0, 1)  # a place in the buffer and the line that it is in
        self._is_all = False
        self.read = 0  # characters
        self.line = 1  # of the value last given

    def _more(self) -> bool:
        """Read on; twice as much each time that a value is longer than what is there. False at the end."""
        line = self._line_at(self._at)
        left = self._buffer[self._at :]
        fresh = self._text.read(max(self._block, len(left)))
        self._is_all = not fresh
        self._buffer, self._at, self._known = left + fresh, 0, (0, line)
        self.read += len(fresh)
        return bool(fresh)

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            found = _SPACE.match(self._buffer, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def take(self, character: str) -> bool:
        """Whether `character` comes next; it is then passed."""
        if self.peek() != character:
            return False
        self._at += 1
        return True

    def expect(self, character: str) -> None:
        """Pass `character`. Raises `NotJson` where something else stands."""
        if not self.take(character):
            raise self._broken(f"Expecting '{character}'", self._at)

    def value(self) -> Any:
        """The next value, whole. Raises `NotJson`."""
        self.peek()
        while True:
            try:
                value, end = _STRICT.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                # Words that break off at the buffer's end may go on in the file.
                is_open = error.msg.startswith("Unterminated") or error.pos >= len(self._buffer) - 12
                if is_open and self._more():
                    continue
                raise self._broken(_reason(error), error.pos) from error
            except RecursionError as error:
                raise self._broken("nested too deeply", self._at) from error
            if end == len(self._buffer) and not self._is_all and self._more():
                continue  # a number may go on
            self.line = self._line_at(self._at)
            self._at = end
            return value

    def _line_at(self, place: int) -> int:
        known, line = self._known
        line += self._buffer.count("\n", known, place)
        self._known = place, line
        return line

    def _broken(self, said: str, place: int) -> NotJson:
        return NotJson(said, self._line_at(place), place - self._buffer.rfind("\n", 0, place))

    def elements(self, walk: Callable[[], Any]) -> Iterator[Any]:
        """What `walk` gives at each element of the list that comes next."""
        self.expect("[")
        if self.take("]"):
            return
        while True:
            yield walk()
            if self.take("]"):
                return
            self.expect(",")

    def members(self) -> Iterator[str]:
        """The keys of the object that comes next; the value of one is to be read before the next is taken."""
        self.expect("{")
        if self.take("}"):
            return
        while True:
            if self.peek() != '"':
                raise self._broken("Expecting a key in double quotes", self._at)
            key = self.value()
            self.expect(":")
            yield key
            if self.take("}"):
                return
            self.expect(",")

    def columns(self) -> dict[str, list[Any]]:
        """The lists of the object that the text is."""
        return {key: list(self.elements(self.value)) for key in self.members()}

    def rows(self, key: str | None) -> Iterator[Any]:
        """The rows: of the list under `key` of the object that the text is, of the list that it is, or its values."""
        if key is not None:
            for name in self.members():
                if name == key:
                    yield from self.elements(self.value)
                else:
                    self.value()
        elif self.peek() == "[":
            yield from self.elements(self.value)
            if self.peek():
                raise self._broken("a list is followed by something else", self._at)
        else:
            while self.peek():
                yield self.value()


@dataclass
class RowsPlace:
    """Where a document's rows are: in the list under `key`, across its lists, or (neither) it is the rows."""

    key: str | None = None
    across: bool = False
    alone: bool = False  # the document is one object, and one row
    note: str = ""


@dataclass
class _Member:
    """What an object holds under one key."""

    kinds: set[type] = field(default_factory=set)  # of a list's elements
    count: int = -1  # of them; -1: no list
    has_turns: bool = False  # the first of the elements is a turn of a conversation


def find_rows(document: Document, *, lines: bool) -> RowsPlace:
    """Where the rows of a document are. `lines`: an object that stands alone is a row.

    Raises `Misfit` naming the keys of an object that may hold rows in more than one way, or in none.
    """
    if lines or document.peek() != "{":
        return RowsPlace()
    members: dict[str, _Member] = {}
    for key in document.members():
        member = members[key] = _Member()
        if document.peek() == "[":
            member.count = 0
            for element in document.elements(document.value):
                if member.count == 0 and type(element) is dict:
                    member.has_turns = key.lower() in _TURNS and bool({"role", "from"} & element.keys())
                member.kinds.add(type(element))
                member.count += 1
        else:
            document.value()
    if document.peek():  # objects one after the other
        return RowsPlace()
    return _only(members, document)


def _only(members: dict[str, _Member], document: Document) -> RowsPlace:
    """As `find_rows`, of an object that is the whole document."""
    keys = one_line(", ".join(members), 160)
    lists = {key: member for key, member in members.items() if member.count > 0}
    of_objects = [key for key, member in lists.items() if member.kinds == {dict} and not member.has_turns]
    if len(of_objects) == 1:
        others = one_line(", ".join(key for key in members if key != of_objects[0]), 120)
        beside = f"; left out beside it: {others}" if others else ""
        return RowsPlace(of_objects[0], note=f"rows are its list {one_line(of_objects[0], 60)}{beside}")
    if of_objects:
        listed = one_line(", ".join(of_objects), 160)
        raise Misfit(f"holds several lists of rows ({listed}); write each to a file of its own")
    if members and all(member.count < 0 or member.has_turns for member in members.values()):
        return RowsPlace(alone=True, note="one object: one row")
    if len({member.count for member in members.values()}) == 1 and len(lists) == len(members):
        return RowsPlace(across=True, note=f"rows are across its lists {keys}")
    raise Misfit(f"holds an object, not rows; its keys are {keys}. Wanted: a list of objects, or JSON Lines")
