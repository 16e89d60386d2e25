"""What the cells of a column hold, and how one is read: as text, or as the lists and objects behind JSON text.

Tables made of text files hold strings alone; the metadata `kinds` of a field then names what the file wrote (`string
number bool null list object`), and lists and objects are JSON text. Other tables have Arrow's own types.
"""

import ast
import datetime
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmplay_tui.text import one_line

LOOKED_AT_ROWS = 1000
_LOOKED_AT_CHARS = 4_000_000  # in one column
_BLOCK = 16  # rows read at once while looking: the bound on characters holds for large cells too

# words: strings; values: numbers, dates, truth values; nested: lists or objects; mixed: these among others.
Holds = Literal["nothing", "words", "values", "nested", "mixed", "bytes"]
Decode = Callable[[Any], Any]
Spell = Callable[[Any], str]

_NESTED = frozenset(("list", "object"))
_VALUE = re.compile(
    r"[+-]?[\d.,:/\-]*\d[\d.,:/\-]*(?:e[+-]?\d+)?%?(?:[T ][\d:.]+)?(?:Z|[+-]\d\d:?\d\d)?|true|false", re.IGNORECASE
)
_ADDRESS = re.compile(
    r"[a-z][a-z0-9+.-]*://\S+|www\.\S+|[0-9a-f]{16,}|[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE
)
_DATE = re.compile(r"\d{4}[-/.]\d\d?[-/.]\d\d?(?:[T ][\d:.]+)?(?:Z|[+-]\d\d:?\d\d)?|\d\d?[-/.]\d\d?[-/.]\d{4}")
# One word of ASCII with a digit or an address's marks in it: dlg-00017, a1b2c3, https://..., data/x.py.
_CODE = re.compile(r"(?=[^\s]*[\d/_@]|[0-9a-f-]{8,}$)[!-~]+", re.IGNORECASE)


# A string of Python's, or, outside of these, the end of an object and the beginning of the next.
_BETWEEN_OBJECTS = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|\}\s+\{""", re.DOTALL)


def kinds_of(field: pa.Field) -> set[str] | None:
    """What a text file wrote in the cells of this column; None for a column of another table."""
    written = (field.metadata or {}).get(b"kinds")
    return None if written is None else set(written.decode().split(",")) - {""}


def with_kinds(field: pa.Field, kinds: Iterable[str]) -> pa.Field:
    """The column, with what a text file wrote in its cells."""
    return field.with_metadata({**(field.metadata or {}), b"kinds": ",".join(sorted(kinds)).encode()})


class NestedCellError(ValueError):
    """A list or an object stands where a text is read."""


def text_of(cell: Any) -> str:
    """A cell as text, spelled as a file would spell it. Raises `NestedCellError` for a list or an object."""
    if type(cell) is str:
        return cell.removeprefix("\ufeff")
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, Decimal):
        return format(cell, "f")
    if isinstance(cell, list | tuple | Mapping):
        raise NestedCellError
    return str(cell)


def _date_of(cell: Any) -> str:
    return "" if cell is None else str(cell.date())


def _single_of(cell: Any) -> str:
    """The shortest spelling of a number of 32 bits: as one of 64 bits, 0.1 would read 0.10000000149011612."""
    return "" if cell is None or math.isnan(cell) else str(np.float32(cell))


def _half_of(cell: Any) -> str:
    return "" if cell is None or math.isnan(cell) else str(np.float16(cell))


def _number_of(cell: Any) -> str:
    """NaN, as pandas keeps what is missing, is no word."""
    return "" if cell is None or math.isnan(cell) else text_of(cell)


def first_text(cell: Any) -> str:
    """The first text of answers as SQuAD and TriviaQA write them: `{"text": ["1066"], "answer_start": [4]}`."""
    if isinstance(cell, list):
        cell = cell[0] if cell else None
    if not isinstance(cell, Mapping):
        return text_of(cell)
    inside = _inside(cell)
    return text_of(next(iter(inside), None) if isinstance(inside, list) else inside)


def _inside(cell: Mapping[str, Any]) -> Any:
    return cell["text"] if cell.get("text") is not None else cell.get("value")


def from_json(text: Any) -> Any:
    """The value of JSON text, its numbers as the strings that spell them; text that is no JSON stays itself."""
    if not isinstance(text, str):
        return text
    try:
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return text
    return _without_halves(value) if "\\ud" in text or "\\uD" in text else value


def looks_nested(text: Any) -> bool:
    """Whether a text begins and ends as a list or an object that JSON or Python wrote."""
    if not isinstance(text, str):
        return False
    ends = text.strip()
    return ends[:1] + ends[-1:] in ("[]", "{}") and ends[1:-1].strip()[:1] in ("", "[", "{", "'", '"')


def from_repr(text: Any) -> Any:
    """The value of a list or an object as Python or NumPy (which writes no commas) prints it; else the text itself."""
    if not looks_nested(text):
        return text
    try:
        return ast.literal_eval(_BETWEEN_OBJECTS.sub(lambda found: found[1] or "}, {", text.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def whole_text(text: str) -> str:
    """The text with U+FFFD for each half of a character, which JSON can write and no encoding can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _without_halves(value: Any) -> Any:
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, list):
        return [_without_halves(item) for item in value]
    if isinstance(value, dict):
        return {_without_halves(key): _without_halves(item) for key, item in value.items()}
    return value


def _if_nested(text: Any) -> Any:
    return from_json(text) if isinstance(text, str) and text.lstrip()[:1] in ("[", "{") else text


def _decoder(kind: pa.DataType) -> Decode | None:
    """What decodes a cell whose type says JSON somewhere; None where it does not."""
    if isinstance(kind, pa.JsonType):
        return from_json
    if isinstance(kind, pa.BaseExtensionType):
        return _decoder(kind.storage_type)
    if _is_list(kind):
        item = _decoder(kind.value_type)
        return None if item is None else lambda cell: cell and [item(value) for value in cell]
    if pa.types.is_struct(kind):
        inner = {field.name: decode for field in kind if (decode := _decoder(field.type)) is not None}
        return (
            None
            if not inner
            else lambda cell: (
                cell and {name: inner[name](value) if name in inner else value for name, value in cell.items()}
            )
        )
    return None


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def _is_string(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _holds_strings(kind: pa.DataType) -> bool:
    """Whether a nested type has strings somewhere within."""
    if isinstance(kind, pa.JsonType) or _is_string(kind) or pa.types.is_dictionary(kind) or pa.types.is_map(kind):
        return True
    if _is_list(kind):
        return _holds_strings(kind.value_type)
    return pa.types.is_struct(kind) and any(_holds_strings(field.type) for field in kind)


def _cells_of(block: pa.ChunkedArray) -> list[Any]:
    """The cells; None for a time that Python cannot hold, such as a database's infinity, or of a zone unknown here."""
    try:
        return block.to_pylist()  # type: ignore[no-any-return]
    except (OverflowError, pa.ArrowInvalid):
        return [_cells_of(block.slice(at, 1))[0] for at in range(len(block))] if len(block) > 1 else [None]


def _label_names(schema: pa.Schema, name: str) -> tuple[str, ...]:
    """The names that `datasets` keeps in a table's metadata for the numbers of a column of labels."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][name]
        return tuple(map(str, feature["names"])) if feature["_type"] == "ClassLabel" else ()
    except (ValueError, KeyError, TypeError):
        return ()


class Column:
    """A column of a table and its first cells, read when they are first asked for."""

    def __init__(self, table: pa.Table, number: int) -> None:
        field = table.schema.field(number)
        self.name: str = field.name
        self._cells: pa.ChunkedArray = table.column(number)
        kind = field.type
        self._type = kind.value_type if pa.types.is_dictionary(kind) else kind
        kinds = kinds_of(field)
        self._kinds = frozenset(kinds or ()) - {"null"}
        self._from_file = bool(kinds)
        self._labels = _label_names(table.schema, self.name) if pa.types.is_integer(self._type) else ()

    @property
    def decode(self) -> Decode | None:
        """What makes a nested value of a cell, where cells are JSON text; None where they are not."""
        return _if_nested if self._kinds & _NESTED else _decoder(self._type)

    @property
    def cells(self) -> pa.ChunkedArray:
        """All cells, as Arrow keeps them."""
        return self._cells

    @cached_property
    def filled(self) -> pa.ChunkedArray:
        """Of every cell whether something is in it: it is not null, and no empty text or list."""
        kind = self._cells.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            brackets = 2 if self.holds == "nested" else 0
            return pc.fill_null(pc.greater(pc.binary_length(self._cells), brackets), False)
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return pc.fill_null(pc.greater(pc.list_value_length(self._cells), 0), False)
        return pc.is_valid(self._cells)

    @cached_property
    def first(self) -> list[Any]:
        """The first cells, decoded: `LOOKED_AT_ROWS` at most, fewer where they are long; None for what is no value."""
        found: list[Any] = []
        chars = 0
        decode = self.decode
        limit = min(LOOKED_AT_ROWS, len(self._cells))
        while len(found) < limit and chars < _LOOKED_AT_CHARS:
            block = _cells_of(self._cells.slice(len(found), min(_BLOCK, limit - len(found))))
            chars += sum(len(cell) if isinstance(cell, str) else len(str(cell)) for cell in block)
            found += block if decode is None else map(decode, block)
        return found

    @cached_property
    def there(self) -> list[Any]:
        """Those of the first cells that are not null and not empty."""
        return [cell for cell in self.first if cell is not None and cell not in ("", [])]

    @cached_property
    def holds(self) -> Holds:
        """What the cells are, as far as types and metadata tell, else the first cells."""
        kind, types = self._type, pa.types
        if len(self._cells) and self._cells.null_count == len(self._cells):
            return "nothing"
        if self._from_file:
            if self._kinds <= _NESTED:
                return "nested" if self._kinds else "nothing"
            return "mixed" if self._kinds & _NESTED else "words" if "string" in self._kinds else "values"
        if isinstance(kind, pa.JsonType):
            nested = {isinstance(cell, list | dict) for cell in self.first if cell is not None}
            return "nothing" if not nested else "mixed" if len(nested) == 2 else "nested" if True in nested else "words"
        if _is_string(kind):
            return "words"
        if types.is_nested(kind):
            return "nested"
        if types.is_null(kind):
            return "nothing"
        plain = (
            types.is_integer(kind)
            or types.is_floating(kind)
            or types.is_boolean(kind)
            or types.is_decimal(kind)
            or types.is_temporal(kind)
        )
        return "values" if plain else "bytes"

    @cached_property
    def holds_strings(self) -> bool:
        """Whether words could be somewhere in the cells, or in lists and objects there."""
        if self.holds == "nested" and not self._from_file:
            return _holds_strings(self._type)
        return self.holds in ("words", "mixed", "nested")

    @cached_property
    def holds_inner_text(self) -> bool:
        """Whether the cells are answers that hold their text within (`first_text`)."""
        if self.holds != "nested" or not self.there:
            return False
        cells = [cell[0] if isinstance(cell, list) else cell for cell in self.there]
        inner = [_inside(cell) if isinstance(cell, Mapping) else None for cell in cells]
        return all(
            isinstance(text, str) or (isinstance(text, list) and all(isinstance(one, str) for one in text))
            for text in inner
        )

    @cached_property
    def only_values(self) -> bool:
        """Whether each of the first cells is a number, a date or a truth value, whatever its type."""
        return self.holds == "values" or (bool(self.there) and all(map(_VALUE.fullmatch, map(str, self.there))))

    @cached_property
    def only_codes(self) -> bool:
        """Whether each of the first cells is one word that is no language: an identifier, an address, a hash."""
        return bool(self.there) and all(map(_CODE.fullmatch, map(str, self.there)))

    @cached_property
    def only_addresses(self) -> bool:
        """Whether each of the first cells is an address, a hash or a UUID."""
        return bool(self.there) and all(map(_ADDRESS.fullmatch, map(str, self.there)))

    @cached_property
    def only_marks(self) -> bool:
        """Whether each of the first cells is an address, a hash, a UUID or a date: never a text, whatever its name."""
        cells = [str(cell).strip() for cell in self.there]
        return bool(cells) and all(_ADDRESS.fullmatch(cell) or _DATE.fullmatch(cell) for cell in cells)

    def spell(self) -> Spell:
        """What makes a text of a cell: floats as short as they can be, moments at midnight as dates."""
        kind, types = self._type, pa.types
        if self.holds_inner_text:
            return first_text
        if types.is_float32(kind):
            return _single_of
        if types.is_float16(kind):
            return _half_of
        if types.is_floating(kind):
            return _number_of
        if self._labels:
            return self._label_of
        if types.is_timestamp(kind) and self.there and all(cell.time() == datetime.time() for cell in self.there):
            return _date_of
        return text_of

    def _label_of(self, cell: Any) -> str:
        """The name of a label: of one that is unknown, such as -1, none."""
        return self._labels[cell] if cell is not None and 0 <= cell < len(self._labels) else ""

    def described(self) -> str:
        """What the column holds, for a line that refuses it: its type, or what the file wrote and an example."""
        if not self._from_file:
            return one_line(self._type, 80)
        kinds = " and ".join({"bool": "true or false"}.get(kind, f"{kind}s") for kind in sorted(self._kinds))
        example = next((cell for cell in self.there if isinstance(cell, list | Mapping)), None)
        if example is None:
            return kinds or "nothing"
        return f"{kinds} (such as {one_line(json.dumps(example, ensure_ascii=False), 60)})"
