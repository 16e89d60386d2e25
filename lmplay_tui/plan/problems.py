"""What is wrong with a plan, each problem with its place: `x.toml:12: stages.finetune.epochs: must be above 0`.

Where each key of a TOML or JSON text stands: `tomllib` and `json` do not say.

The scanner takes a text as it comes: of one that is not valid it finds the keys before the mistake.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from lmplay_tui.errors import UserError
from lmplay_tui.text import one_line

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


MAX_PROBLEMS = 100  # a file with more is of another kind, not a plan with mistakes

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Problem:
    """One mistake. `line` counts from 1; 0: the file as a whole could not be read."""

    file: str
    line: int
    key: str
    sentence: str

    def __str__(self) -> str:
        place = [self.file, str(self.line)] if self.line else [self.file]
        return ":".join(place) + ": " + (f"{self.key}: " if self.key else "") + self.sentence


class PlanError(UserError):
    """A plan cannot be used; `str` of it is one line a problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def shown_key(path: KeyPath) -> str:
    """A key as a message names it: `stages.finetune.weights[1]`; what TOML would quote is quoted."""
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            shown += ("." if shown else "") + (part if _BARE_KEY.fullmatch(part) else f'"{one_line(part, 60)}"')
    return one_line(shown, 120)


class Report:
    """The problems found so far in one file."""

    def __init__(self, file: str, places: Places | None = None) -> None:
        self._file = one_line(file, 300)
        self.places = places or Places()
        self._problems: list[Problem] = []
        self._left_out = 0

    @property
    def full(self) -> bool:
        """No further problem will be listed: what costs time to say need not be said."""
        return len(self._problems) >= MAX_PROBLEMS

    @property
    def clean(self) -> bool:
        """Nothing is wrong so far."""
        return not self._problems

    def add(self, path: KeyPath, sentence: str, line: int | None = None) -> None:
        """Note a problem of the key at `path`; its line is looked up unless given."""
        if self.full:
            self._left_out += 1
            return
        place = self.places.line(path) if line is None else line
        self._problems.append(Problem(self._file, place, shown_key(path), one_line(sentence, 500)))

    def problems(self) -> list[Problem]:
        """All problems in the order of their lines."""
        listed = sorted(self._problems, key=lambda problem: problem.line)
        if self._left_out:
            listed.append(Problem(self._file, listed[-1].line, "file", f"has {self._left_out} more problems"))
        return listed
