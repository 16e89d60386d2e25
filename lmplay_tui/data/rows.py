"""The rows of a dataset: the columns that are read of each, what their cells say, and how a row is read from disk."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lmplay_tui.data import conversations as chat
from lmplay_tui.data.cells import Decode, NestedCellError, Spell, text_of
from lmplay_tui.data.conversations import Turn
from lmplay_tui.data.mapped_files import MappedRows
from lmplay_tui.data.samples import Item
from lmplay_tui.errors import DataError, UserError
from lmplay_tui.formats import counted
from lmplay_tui.text import one_line

_SAMPLED_ROWS = 64
_LOOKED_AT_ROWS = 1000  # at the beginning, for a sample
_SPREAD_BLOCKS = 32  # and then over all the rows
_BLOCK = 16  # rows
# The disk's, Arrow's, of a text that is no UTF-8, of a time that Python cannot hold.
_UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError, OverflowError)


def title_prompt(title: str) -> str:
    """The prompt of a text with a title: a line of its own, whatever the title's; nothing without words."""
    words = " ".join(title.split())
    return f"Title: {words}\n" if words else ""


@dataclass(frozen=True)
class Columns:
    """The columns that are read: `text` (and `title`), or `truth` (and `prompt`, `system`), or `messages`.

    `prompt` and `truth` beside `messages` are turns before and after them; `history` holds the turns before `prompt`.
    `others`: the forms of rows in which this one gives no text. `left_out`: the names of the columns that are not
    read, as they are told. `notes`: what else is to be known of how cells are read, a
    line each.
    """

    text: str | None = None
    title: str | None = None
    prompt: tuple[str, ...] = ()
    system: str | None = None
    truth: str | None = None
    messages: tuple[str, ...] = ()
    history: str | None = None
    alternating: bool = False  # messages are bare strings, of a user and a model in turn
    others: tuple["Columns", ...] = ()
    transcript: bool = False  # `truth` is a whole conversation, as HH-RLHF writes it
    left_out: tuple[str, ...] = field(default=(), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    spelling: Mapping[str, Spell] = field(default_factory=dict, compare=False, repr=False)
    decoding: Mapping[str, Decode] = field(default_factory=dict, compare=False, repr=False)

    def used(self) -> list[str]:
        """The names of the columns to read, each once."""
        names = (self.text, self.title, self.system, self.history, *self.prompt, *self.messages, self.truth)
        found = dict.fromkeys(name for name in names if name is not None)
        for other in self.others:
            found |= dict.fromkeys(other.used())
        return list(found)

    @property
    def told(self) -> str | None:
        """The name of the column without which a row gives no text."""
        return self.text or self.truth or (self.messages[-1] if self.messages else None)

    def described(self) -> str:
        """What is read and what is left out: `prompt = instruction + input, truth = output; left out: id`."""
        said = "; or ".join(form.form() for form in (self, *self.others))
        return f"{said}; left out: {', '.join(self.left_out)}" if self.left_out else said

    def form(self) -> str:
        """What is read, without the forms of other rows: `prompt = instruction + input, truth = output`."""
        chat_like = self.messages or self.history
        prompt = self.prompt if chat_like or self.system is None else (self.system, *self.prompt)
        roles = {
            "text": (self.text,),
            "title": (self.title,),
            "system": (self.system if chat_like else None,),
            "history": (self.history,),
            "prompt": prompt,
            "messages": self.messages,
            "truth": (self.truth,),
        }
        return ", ".join(
            f"{role} = {' + '.join(one_line(name, 60) for name in names if name)}"
            for role, names in roles.items()
            if any(names)
        )

    def key(self) -> str:
        """What a fingerprint says of the columns: for the forms that were always read, the same words as ever."""
        prompt = self.prompt[0] if len(self.prompt) == 1 else self.prompt or None
        messages = self.messages[0] if len(self.messages) == 1 else self.messages or None
        said = (
            f"Columns(text={self.text!r}, title={self.title!r}, prompt={prompt!r}, system={self.system!r}, "
            f"truth={self.truth!r}, messages={messages!r})"
        )
        said += f" history={self.history!r}" if self.history else ""
        said += " alternating" * self.alternating + " transcript" * self.transcript
        return " or ".join((said, *(other.key() for other in self.others)))

    def items(self, cells: Mapping[str, Any]) -> list[Item]:
        """The texts of a row that hold words; none where a list or an object stands in a text's place."""
        try:
            found = self._items(cells)
        except NestedCellError:
            found = []
        found = [item for item in found if item.truth and not item.truth.isspace()]
        if not found and self.others:
            return next((items for other in self.others if (items := other.items(cells))), [])
        return found

    def _items(self, cells: Mapping[str, Any]) -> list[Item]:
        if self.text is not None:
            title = title_prompt(self._said(self.title, cells)) if self.title else ""
            return [Item(title, self._said(self.text, cells), keep_start=True)]
        if self.messages or self.transcript or self.history:
            return chat.items(self.turns(cells))
        assert self.truth is not None
        lines = [self._said(name, cells) for name in (self.system, *self.prompt) if name]
        return [Item("\n".join(line for line in lines if line), self._said(self.truth, cells))]

    def _said(self, name: str, cells: Mapping[str, Any]) -> str:
        return self.spelling.get(name, text_of)(cells[name])

    def turns(self, cells: Mapping[str, Any], met: Counter[str] | None = None) -> list[Turn]:
        """The turns of a row whose columns hold messages."""
        if self.transcript:
            assert self.truth is not None
            return chat.transcript(self._said(self.truth, cells))
        found = chat.turns(cells[self.history], alternating=True, met=met) if self.history else []
        found += [Turn("user", said, False) for name in self.prompt if (said := self._said(name, cells))]
        for name in self.messages:
            found += chat.turns(cells[name], alternating=self.alternating, met=met)
        if self.system is not None and not any(map(chat.is_system, found)):
            said = self._said(self.system, cells)
            found = [Turn("system", said, False), *found] if said else found
        if self.truth is not None:
            found.append(Turn("assistant", self._said(self.truth, cells), True))
        return found


class Rows:
    """The rows of one split of a dataset. Nothing is read before it is asked for."""

    def __init__(self, name: str, table: pa.Table, columns: Columns) -> None:
        self.num_rows: int = table.num_rows
        self.columns = columns
        self._name = name
        # One cell through its column costs 2 us, a slice of the table 14, a row of `datasets` 40.
        self._cells = {column: table.column(table.schema.names.index(column)) for column in columns.used()}
        self._decoding = columns.decoding
        self._files = MappedRows(list(self._cells.values()))

    def items(self, row: int) -> list[Item]:
        """The texts of a row. Raises `DataError` if the disk no longer gives it."""
        self._look_at_files(row)
        try:
            cells = {name: column[row].as_py() for name, column in self._cells.items()}
            for name, decode in self._decoding.items():
                cells[name] = decode(cells[name])
            return self.columns.items(cells)
        except _UNREADABLE as error:
            raise DataError(f"dataset {self._name}: row {row} cannot be read ({one_line(error, 120)})") from error

    def _look_at_files(self, row: int | None = None) -> None:
        if (problem := self._files.problem(row)) is not None:
            raise DataError(f"dataset {self._name}: {problem}")

    def check_samples(self) -> None:
        """Raise `UserError` that names what was found where no row gives a sample, of the first and others between."""
        seen = _Seen(self.columns)
        for start, stop in self._looked_at():
            for cells in self._block(start, stop):
                if self.columns.items(cells):
                    return
                seen.add(cells)
        if self.num_rows:
            raise UserError(f"dataset {self._name}: {seen.described(self.num_rows)}")

    def _looked_at(self) -> Iterator[tuple[int, int]]:
        first = min(_LOOKED_AT_ROWS, self.num_rows)
        for start in range(0, first, _BLOCK):
            yield start, min(start + _BLOCK, first)
        if self.num_rows > first:
            for number in range(_SPREAD_BLOCKS):
                start = first + number * (self.num_rows - first) // _SPREAD_BLOCKS
                yield start, min(start + _BLOCK, self.num_rows)

    def _block(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Rows read at once, decoded."""
        self._look_at_files()
        try:
            cells = {name: column.slice(start, stop - start).to_pylist() for name, column in self._cells.items()}
        except _UNREADABLE as error:
            said = one_line(error, 120)
            raise DataError(f"dataset {self._name}: rows {start} to {stop} cannot be read ({said})") from error
        for name, decode in self._decoding.items():
            cells[name] = list(map(decode, cells[name]))
        return [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the number of rows and a sample of their texts: wherever the copy lies, it is the same."""
        digest = hashlib.sha256(f"{self.num_rows} {self.columns.key()}".encode())
        taken = min(_SAMPLED_ROWS, self.num_rows)
        for number in range(taken):
            items = self.items(number * self.num_rows // taken)
            for text in (*(item.truth for item in items), *(item.prompt for item in items[:1])):
                digest.update(f"{len(text)} ".encode() + text.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


class _Seen:
    """What rows without a sample hold."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._rows = 0
        self._turns = 0
        self._roles: Counter[str] = Counter()
        self._truths = 0
        self._kinds: Counter[str] = Counter()

    def add(self, cells: dict[str, Any]) -> None:
        columns = self._columns
        self._rows += 1
        if columns.messages or columns.transcript:
            turns = columns.turns(cells)
            self._turns += len(turns)
            self._truths += sum(turn.truth for turn in turns)
            self._roles.update(turn.speaker or "none" for turn in turns)
        else:
            self._kinds[type(cells[columns.text or columns.truth or ""]).__name__] += 1

    def described(self, num_rows: int) -> str:
        """One sentence."""
        columns = self._columns
        rows = (
            f"none of its {counted(num_rows, 'row')}"
            if self._rows == num_rows
            else (f"none of the {self._rows:,} rows looked at, of {num_rows:,},")
        )
        return f"{rows} gives a sample ({columns.described()}): {self._cause()}"

    def _cause(self) -> str:
        columns = self._columns
        if not columns.messages and not columns.transcript:
            name = one_line(columns.text or columns.truth, 60)
            if set(self._kinds) <= {"NoneType", "str"}:
                return f"{name} is empty or null in all of them"
            return f"{name} holds {', '.join(sorted(self._kinds))}"
        name = one_line(" + ".join(columns.messages or (columns.truth or "",)), 60)
        if not self._turns:
            return f"{name} holds no turns with a role and a content"
        roles = one_line(", ".join(f"{role} ({count:,})" for role, count in self._roles.most_common(8)), 200)
        if self._truths:
            return f"what the model is to say is empty in all of them; the roles are {roles}"
        return f"no turn is that of a model (assistant, gpt, model, bot, ai, ...); the roles are {roles}"
