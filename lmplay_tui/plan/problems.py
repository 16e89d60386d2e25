"""What is wrong with a plan, each problem with its place: `x.toml:12: stages.finetune.epochs: must be above 0`.

`tomllib` and `json` do not say where a key stands, so it is looked up here: in tree-sitter's tree of a TOML text, among
the tokens of a JSON text. Of a text that is not valid, the keys before the mistake are found.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal

from lmplay_tui.errors import UserError
from lmplay_tui.text import one_line

if TYPE_CHECKING:
    from tree_sitter import Language, Node

Form = Literal["toml", "json"]
KeyPath = tuple[str | int, ...]  # ("stages", "finetune", "weights", 1)

MAX_PROBLEMS = 100  # a file with more is of another kind, not a plan with mistakes
# A plan is four keys deep. Longer paths are cut here, or a text of dotted keys would take gigabytes.
MAX_DEPTH = 6

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

    def __init__(self, file: str, places: "Places | None" = None) -> None:
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


@dataclass
class Places:
    """The line (from 1) of each key and list entry, and the keys that are there twice with both their lines."""

    lines: dict[KeyPath, int] = field(default_factory=dict)
    duplicates: list[tuple[KeyPath, int, int]] = field(default_factory=list)
    _given: dict[KeyPath, int] = field(default_factory=dict)

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

    def note(self, path: KeyPath, line: int) -> None:
        """Note that `path` stands in this line, and the tables around it that have no line yet."""
        while path and path not in self.lines:
            self.lines[path] = line
            path = path[:-1]

    def note_given(self, path: KeyPath, line: int) -> None:
        """Note that a key is given its value in this line, or a table its header: valid once only."""
        if path and len(path) < MAX_DEPTH:
            if path in self._given:
                self.duplicates.append((path, line, self._given[path]))
            else:
                self._given[path] = line
        self.note(path, line)


def locate(text: str, form: Form) -> Places:
    """The places of all keys of a text."""
    return _locate_toml(text) if form == "toml" else _locate_json(text)


# ---- TOML

_KEYS = ("bare_key", "quoted_key", "dotted_key")
_HOLDS_STATEMENTS = ("document", "table", "table_array_element", "ERROR")


def _locate_toml(text: str) -> Places:
    from tree_sitter import Parser  # here: no first frame waits for it

    places = Places()
    entries: dict[KeyPath, int] = {}  # of each [[table]]: the index of the newest
    table: KeyPath = ()
    bracket = ""  # what the node before is, if it opens a header
    line = 0  # of the node before
    for node in _statements(Parser(_toml_language()).parse(text.encode()).root_node):
        line_before, line = line, _line(node)
        if node.type == "pair":
            _note_pair(places, node, table)
        elif node.type in _KEYS and bracket:
            table = _table_path(_key(node), entries, is_entry=bracket == "[[")
            if bracket == "[":
                places.note_given(table, line)
            else:
                places.note(table, line)
        elif node.type in _KEYS and line != line_before:  # a key without a value; what follows in its line is no key
            places.note((*table, *_key(node))[:MAX_DEPTH], line)
        bracket = node.type if node.type in ("[", "[[") and line != line_before else ""
    return places


@cache
def _toml_language() -> "Language":
    import tree_sitter_toml
    from tree_sitter import Language

    return Language(tree_sitter_toml.language())


def _statements(root: "Node") -> Iterator["Node"]:
    """The brackets and keys of headers, the pairs `key = value`, and the pieces of what is not valid, in order."""
    todo = [root]
    while todo:
        node = todo.pop()
        if node.type in _HOLDS_STATEMENTS or (node.type == "pair" and _has_mistake(node)):
            todo += reversed(node.children)
        else:
            yield node


def _has_mistake(pair: "Node") -> bool:
    """Whether a mistake stands beside key and value: the pair then may hold all that follows it."""
    return pair.has_error and any(child.type == "ERROR" for child in pair.children)


def _table_path(key: KeyPath, entries: dict[KeyPath, int], *, is_entry: bool) -> KeyPath:
    """The table that a header opens; where its key leads through a [[table]], in the newest entry of that."""
    path: KeyPath = ()
    for number, part in enumerate(key, 1):
        path = (*path, part)
        if is_entry and number == len(key):
            entries[path] = entries.get(path, -1) + 1
        if path in entries:
            path = (*path, entries[path])
    return path[:MAX_DEPTH]


def _note_pair(places: Places, pair: "Node", table: KeyPath) -> None:
    """Note a key and all that is in its value; without recursion, for a value may be nested as deep as it likes."""
    todo = [(pair, table)]
    while todo:
        node, path = todo.pop()
        inside: list[tuple[Node, KeyPath]] = []
        if node.type == "pair":
            path = (*path, *_key(node.children[0]))[:MAX_DEPTH]
            places.note_given(path, _line(node))
            inside = [(node.children[-1], path)]
        else:
            places.note(path, _line(node))
            if node.type == "inline_table":
                inside = [(child, path) for child in node.children if child.type == "pair"]
            elif node.type == "array":
                values = [child for child in node.named_children if child.type not in ("comment", "ERROR")]
                inside = [(child, (*path, index)) for index, child in enumerate(values)]
        if len(path) < MAX_DEPTH:
            todo += reversed(inside)


def _key(node: "Node") -> KeyPath:
    """The first parts of a key, which the grammar nests from the left: `((a . b) . c)`."""
    parts = []
    while node.type == "dotted_key":
        parts.append(node.children[-1])
        node = node.children[0]
    parts.append(node)
    first = [part for part in parts[::-1] if not part.is_missing][:MAX_DEPTH]
    return tuple(_unquoted((part.text or b"").decode(), "toml") for part in first)


def _line(node: "Node") -> int:
    return node.start_point.row + 1


# ---- JSON

# A string that is not closed ends with its line.
_JSON_TOKEN = re.compile(r'"(?:[^"\\\n]|\\[^\n]?)*+"?|[^\s"{}\[\]:,]+|[{}\[\],\n]')


def _locate_json(text: str) -> Places:
    places = Places()
    opened: list[tuple[KeyPath, int | None]] = []  # tables, and lists with the index of the entry being read
    path: KeyPath = ()
    line = 1
    is_key = False  # whether the next word is a key
    for word in _JSON_TOKEN.findall(text):
        if word == "\n":
            line += 1
        elif word in ("[", "{"):
            places.note(path, line)
            opened.append((path, 0 if word == "[" else None))
            path, is_key = _next_in(opened[-1])
        elif word in ("]", "}"):
            is_key = False
            if opened:
                opened.pop()
        elif word == ",":
            if opened:
                table, index = opened[-1]
                opened[-1] = (table, None if index is None else index + 1)
                path, is_key = _next_in(opened[-1])
        elif is_key:
            path, is_key = (*path, _unquoted(word, "json"))[:MAX_DEPTH], False
            places.note_given(path, line)
        else:
            places.note(path, line)
    return places


def _next_in(opened: tuple[KeyPath, int | None]) -> tuple[KeyPath, bool]:
    """Where the next value in a list stands, or the next key in a table; and whether it is a key."""
    path, index = opened
    return (path, True) if index is None else ((*path, index)[:MAX_DEPTH], False)


def _unquoted(word: str, form: Form) -> str:
    """A key as it is meant."""
    if not word.startswith(('"', "'")):
        return word
    if "\\" in word and word.startswith('"'):
        try:
            return str(json.loads(word) if form == "json" else tomllib.loads(f"k={word}")["k"])
        except ValueError:  # not a string of this form: the parser has said so
            pass
    return word[1:-1]
