"""Where each key of a TOML or JSON text stands: `tomllib` and `json` do not say.

The scanner takes a text as it comes: of one that is not valid it finds the keys before the mistake.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Form = Literal["toml", "json"]
KeyPath = tuple[str | int, ...]  # ("stages", "finetune", "weights", 1)

# A plan is four keys deep. Longer paths are cut here, or a text of dotted keys would take gigabytes.
MAX_DEPTH = 6

# Strings that nobody closed run to the end of their line, or of the text: each character is looked at once.
_TOKEN = re.compile(
    r"""
      (?P<blank> [ \t\r]+ | \#[^\n]* )
    | (?P<text> \"{3} (?: [^"\\] | \\.? | "(?!"") )*+ \"{0,5}
              | '{3}  (?: [^'] | '(?!'') )*+ '{0,5}
              | "     (?: [^"\\\n] | \\[^\n]? )*+ "?
              | '     [^'\n]*+ '? )
    | (?P<word> [A-Za-z0-9_+-]+ )
    | (?P<mark> . )
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass
class Places:
    """The line (from 1) of each key and list entry, and the keys that are there twice with both their lines."""

    lines: dict[KeyPath, int] = field(default_factory=dict)
    duplicates: list[tuple[KeyPath, int, int]] = field(default_factory=list)

    def line(self, path: KeyPath) -> int:
        """The line of the key, else of the table it is in, else 1."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return 1

    def key_in(self, line: int) -> KeyPath:
        """The key that is given a value in this line, or ()."""
        return max((path for path, at in self.lines.items() if at == line), key=len, default=())


def locate(text: str, form: Form) -> Places:
    """The places of all keys of a text."""
    scanner = _Scanner(text, form)
    if form == "toml":
        scanner.statements()
    else:
        scanner.value(())
    return scanner.places


class _Token(NamedTuple):
    kind: str | None  # text, word or mark
    text: str
    line: int


@dataclass
class _Open:
    """A list or table that is not closed yet. `index` of the entry being read; None: a table."""

    path: KeyPath
    index: int | None


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        word = match.group()
        if match.lastgroup != "blank":
            yield _Token(match.lastgroup, word, line)
        line += word.count("\n")


class _Scanner:
    def __init__(self, text: str, form: Form) -> None:
        self._form = form
        self._tokens = list(_tokens(text))
        self._at = 0
        self._given: dict[KeyPath, int] = {}
        self._entries: dict[KeyPath, int] = {}  # [[table]]: how many so far
        self.places = Places()

    def statements(self) -> None:
        """Walk through a TOML text: table headers and `key = value`."""
        table: KeyPath = ()
        while (token := self._next()) is not None:
            if token.text == "\n":
                continue
            if token.text == "[" and token.kind == "mark":
                table = self._header(token.line)
            else:
                self._at -= 1
                path = table + self._key("=")
                self._place(path[:MAX_DEPTH], token.line, given=True)
                self.value(path[:MAX_DEPTH])

    def value(self, path: KeyPath) -> None:
        """Walk through the value of `path`, however deep, without recursion."""
        opened: list[_Open] = []
        while (token := self._next()) is not None:
            mark = token.text if token.kind == "mark" else ""
            if mark in ("[", "{"):
                self._place(path, token.line)
                opened.append(_Open(path, 0 if mark == "[" else None))
                path = self._entry(opened[-1])
            elif mark in ("]", "}"):
                if opened:
                    opened.pop()
            elif mark == "," and opened:
                if opened[-1].index is not None:
                    opened[-1].index += 1
                path = self._entry(opened[-1])
            elif mark == "\n":
                if not opened:
                    return
            elif not mark:
                self._place(path, token.line)

    def _header(self, line: int) -> KeyPath:
        is_entry = self._at < len(self._tokens) and self._tokens[self._at].text == "["
        self._at += is_entry
        path: KeyPath = ()
        key = self._key("]")
        for number, part in enumerate(key):
            path = (*path, part)
            last = number == len(key) - 1
            if last and is_entry:
                self._entries[path] = self._entries.get(path, -1) + 1
            if path in self._entries:
                path = (*path, self._entries[path])
        self._place(path[:MAX_DEPTH], line, given=not is_entry)
        while (token := self._next()) is not None and token.text != "\n":
            pass
        return path[:MAX_DEPTH]

    def _entry(self, inside: _Open) -> KeyPath:
        """The path of what comes next in a list or table."""
        if inside.index is not None:
            return (*inside.path, inside.index)[:MAX_DEPTH]
        while (token := self._next()) is not None and token.text == "\n":
            pass
        if token is None:
            return inside.path
        self._at -= 1
        if token.text == "}":
            return inside.path
        path = (inside.path + self._key("=" if self._form == "toml" else ":"))[:MAX_DEPTH]
        self._place(path, token.line, given=True)
        return path

    def _key(self, end: str) -> tuple[str, ...]:
        parts: list[str] = []
        while (token := self._next()) is not None:
            if token.kind == "mark":
                if token.text == end:
                    break
                if token.text == "}" or (token.text == "\n" and self._form == "toml"):  # not a key after all
                    self._at -= 1
                    break
            elif len(parts) < MAX_DEPTH:
                parts.append(self._unquoted(token))
        return tuple(parts)

    def _unquoted(self, token: _Token) -> str:
        if token.kind == "word":
            return token.text
        if "\\" in token.text and token.text.startswith('"'):
            try:
                return str(json.loads(token.text) if self._form == "json" else tomllib.loads(f"k={token.text}")["k"])
            except ValueError:  # not a string of this form: the parser has said so
                pass
        return token.text[1:-1]

    def _place(self, path: KeyPath, line: int, *, given: bool = False) -> None:
        """Note a line, of the tables around it too where they have none; and whether a key is given again."""
        if given and path and len(path) < MAX_DEPTH:
            if path in self._given:
                self.places.duplicates.append((path, line, self._given[path]))
            else:
                self._given[path] = line
        while path and path not in self.places.lines:
            self.places.lines[path] = line
            path = path[:-1]

    def _next(self) -> _Token | None:
        if self._at >= len(self._tokens):
            return None
        self._at += 1
        return self._tokens[self._at - 1]
