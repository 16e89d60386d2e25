"""Which of a folder's files hold its rows, and which only stand beside them: by what the first rows give, not by size.

A stranger (a log, a licence, statistics, a list of addresses) never decides how the data are read.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from lmplay_tui.data import column_names
from lmplay_tui.data.arrow_cache import BadFile, mapped
from lmplay_tui.data.columns import find_columns
from lmplay_tui.data.conversations import plain
from lmplay_tui.data.decoding import Unreadable
from lmplay_tui.data.rows import Columns
from lmplay_tui.data.text_files import first_lines, first_rows
from lmplay_tui.errors import UserError
from lmplay_tui.plan.dataset_specs import COMPRESSIONS, KINDS_SAID, file_kind
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line

_ABOUT = re.compile(  # files that speak of data, or of a program, and hold none: the stems of their names
    r"(readme|licen[cs]e|copying|notice|notes?|authors|contributing|citation|changelog|requirements|constraints|meta|"
    r"metadata|dataset_infos?|dataset_dict|state|config|settings|package(-lock)?|manifest|schema|croissant|"
    r"tokenizer(_config)?|vocab|merges|special_tokens_map|generation_config|todo|urls?|links|sources|filelist|"
    r"files|logs?|errors?|stdout|stderr|checksums?|md5sums?|sha\d*sums?|stopwords|robots)"
)
_SAME_KIND = {".ndjson": ".jsonl", ".text": ".txt"}
_RANK = (".jsonl", ".parquet", ".arrow", ".json", ".csv", ".tsv", ".txt", ".md")  # of files that share their names
_TINY = 10  # a kind that holds a tenth of another's bytes, or less, stands beside it
_FEW_OBJECTS = 2  # JSON files of one object each: as few of them are no data beside others
_ADDRESS = re.compile(r"\S*(://|[/\\]|\.\w{2,5}$)\S*")
_SPLIT_STEM = re.compile(r"(train|training|validation|valid|val|dev|test|testing|eval|evaluation)[\d_-]*(of[\d_-]*)?")


@dataclass(frozen=True)
class _Seen:
    """What the first rows of a file give.

    `gives`: "form" (columns of a known form, or those that the plan names), "words" (one lone column of words),
    "object" (one JSON object, of a known form), "text" (a `.txt`), "broken", or "nothing".
    """

    gives: str
    error: BadFile | None = None


def with_rows(spec: DatasetSpec, folder: Path, names: list[str]) -> list[str]:
    """The files that hold the folder's rows; they may be of several kinds, which `of_one_kind` decides.

    What gives rows of a known form goes before text, text before Markdown, and what is called README, LICENSE, notes
    and the like is data only where nothing else is. Raises `UserError` where no file is of a kind that is read, and
    `BadFile` where none can be read.
    """
    kinds = {name: alike(name) for name in names if file_kind(name) is not None and name != "README.md"}
    data = [name for name in kinds if not _ABOUT.fullmatch(stem(name))]
    tables = [name for name in data if kinds[name] not in (".txt", ".md")]
    texts = _without_lists(folder, [name for name in data if kinds[name] == ".txt"])
    pages = [name for name in data if kinds[name] == ".md"]
    beside = [*tables, *texts, *pages]
    # Any `.json` may be no rows at all; other files of one kind are looked at when they are opened.
    if (
        tables
        and len(beside) > 1
        and (len({kinds[name] for name in (*tables, *texts)}) > 1 or kinds[tables[0]] == ".json")
    ):
        found = _giving_rows(spec, folder, tables, texts) or pages
    else:
        found = [*tables, *texts] or pages
    if tables and not found:  # opening them is refused with what they hold
        largest = max(tables, key=lambda name: _size(folder / name))
        found = [name for name in tables if kinds[name] == kinds[largest]]
    found = found or [name for name in kinds if kinds[name] != ".md"]
    if not found:
        shown = one_line(folder, 120)
        raise UserError(f"dataset {spec.name}: the folder {shown} holds no file of a kind that is read: {KINDS_SAID}")
    taken = set(found)
    return [name for name in names if name in taken]


def _giving_rows(spec: DatasetSpec, folder: Path, tables: list[str], texts: list[str]) -> list[str]:
    """Of tables, and the texts beside them, those that are data; none where no table gives a sample."""
    seen = {name: _look(spec, folder, name, [*tables, *texts]) for name in tables}

    def giving(*what: str) -> list[str]:
        return [name for name in tables if seen[name].gives in what]

    objects = giving("object")
    many = objects if len(objects) > _FEW_OBJECTS else []
    if forms := giving("form"):
        # A text that bears the very name of a split that no table has is meant.
        parts = {part for name in forms for part in re.findall("[a-z]+", stem(name))}
        meant = [name for name in texts if _SPLIT_STEM.fullmatch(stem(name)) and stem(name) not in parts]
        return [*forms, *many, *(meant if parts & {"train", "test"} else [])]
    if (broken := giving("broken")) and not objects:
        error = seen[broken[0]].error
        assert error is not None
        raise error
    return [*many, *giving("words"), *texts] or objects


def _look(spec: DatasetSpec, folder: Path, name: str, beside: list[str]) -> _Seen:
    path = folder / name
    try:
        table, alone = _first_rows(path)
    except (Unreadable, BadFile) as error:
        # An object that holds no rows, or several lists of them, is no data file that went wrong.
        is_other = alike(name) == ".json" and not str(error).startswith("line ")
        return _Seen("nothing") if is_other else _Seen("broken", BadFile(path, str(error)))
    except pa.ArrowException as error:
        return _Seen("broken", BadFile(path, f"cannot be read: {one_line(error, 160)}"))
    if _names_files(table, {PurePosixPath(other).name for other in beside if other != name}):
        return _Seen("nothing")
    try:
        columns = find_columns(spec, table)
    except UserError:
        return _Seen("nothing")
    if alone:  # settings hold words, too
        return _Seen("object" if _is_form(spec, columns) else "nothing")
    return _Seen("form" if _is_form(spec, columns) else "words")


def _first_rows(path: Path) -> tuple[pa.Table, bool]:
    """The first rows of a file, and whether it is one JSON object."""
    kind = file_kind(path.name)
    assert kind is not None
    if kind[0] == ".arrow":
        return mapped(path).table.slice(0, 64), False
    if kind[0] == ".parquet":
        with pq.ParquetFile(path) as file:
            batches = list(islice(file.iter_batches(batch_size=64), 1))
            return pa.Table.from_batches(batches, schema=file.schema_arrow), False
    return first_rows(path, *kind)


def _names_files(table: pa.Table, others: set[str]) -> bool:
    """Whether a column names other files of the folder: then the table speaks of them."""
    for column in table.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            cells = [cell for cell in column.slice(0, 64).to_pylist() if cell]
            named = sum(cell.replace("\\", "/").rsplit("/", 1)[-1] in others for cell in cells)
            if cells and named * 2 >= len(cells):
                return True
    return False


def _is_form(spec: DatasetSpec, columns: Columns) -> bool:
    """Whether the columns have usual names, or those that the plan gives."""
    return columns.text is None or spec.text is not None or plain(columns.text) in column_names.TEXTS


def _without_lists(folder: Path, texts: list[str]) -> list[str]:
    """The texts without those whose lines are addresses or paths, unless all are such."""
    if len(texts) < 2:
        return texts
    return [name for name in texts if not _is_list(folder / name)] or texts


def _is_list(path: Path) -> bool:
    kind = file_kind(path.name)
    assert kind is not None
    try:
        lines = first_lines(path, kind[1], 200)
    except (Unreadable, OSError):
        return False
    return bool(lines) and sum(_ADDRESS.fullmatch(line) is not None for line in lines) >= 0.9 * len(lines)


def of_one_kind(spec: DatasetSpec, folder: Path, names: list[str]) -> list[str]:
    """The files of the kind that holds nearly all bytes; of kinds whose files share their names, of the first.

    Of a file and its compressed copy beside it (`gzip -k` leaves both), the one that is not compressed.
    Raises `UserError` that lists the files by kind where two kinds hold much.
    """
    names = _without_packed_copies(names)
    by_kind: dict[str, list[str]] = {}
    for name in names:
        by_kind.setdefault(alike(name), []).append(name)
    if len(by_kind) < 2:
        return names
    sizes = {kind: sum(_size(folder / name) for name in files) for kind, files in by_kind.items()}
    largest = max(sizes, key=lambda kind: sizes[kind])
    if all(size * _TINY <= sizes[largest] for kind, size in sizes.items() if kind != largest):
        return by_kind[largest]
    stems = [sorted(map(_bare, files)) for files in by_kind.values()]
    if all(other == stems[0] for other in stems):  # the same rows, written in several ways
        return by_kind[min(by_kind, key=_RANK.index)]
    shown = "; ".join(f"{kind}: {listed(files, 3)}" for kind, files in by_kind.items())
    raise UserError(
        f"dataset {spec.name}: the folder {one_line(folder, 120)} holds rows in files of several kinds ({shown}): name "
        "a file as path, or a folder of one kind, or say in its README.md which (configs, data_files)"
    )


def _without_packed_copies(names: list[str]) -> list[str]:
    """The files without those that bear the name of another and differ from it in their compression alone."""
    best: dict[tuple[str, str], int] = {}
    for name in names:
        same = alike(name), _bare(name)
        best[same] = min(_packing(name), best.get(same, len(COMPRESSIONS)))
    return [name for name in names if _packing(name) == best[alike(name), _bare(name)]]


def _packing(name: str) -> int:
    """The place of a file's compression in their order: none comes first."""
    kind = file_kind(name)
    return ("", *COMPRESSIONS).index("" if kind is None else kind[1])


def _size(path: Path) -> int:
    """The bytes of a file; what is compressed is about four times as much text."""
    kind = file_kind(path.name)
    return path.stat().st_size * (4 if kind is not None and kind[1] else 1) + 1


def alike(name: str) -> str:
    """A file's kind, one name for those that are read alike; "" for one that is not read."""
    kind = file_kind(name)
    return "" if kind is None else _SAME_KIND.get(kind[0], kind[0])


def stem(name: str) -> str:
    """A file's name in lower case, without its kind and compression."""
    path = PurePosixPath(PurePosixPath(name).name.lower())
    return PurePosixPath(path.stem).stem if path.suffix in COMPRESSIONS else path.stem


def _bare(name: str) -> str:
    return f"{PurePosixPath(name).parent}/{stem(name)}"


def listed(names: list[str], most: int = 4) -> str:
    """`a.md, b.md and 3 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return one_line(", ".join(names[:most]), 160) + more


def like_most(spec: DatasetSpec, tables: Iterable[tuple[str, pa.Table]]) -> list[str]:
    """Of the files of a split, those that share no column that is read with the rows of most of them."""
    named = [(name, table) for name, table in tables if table.num_rows]
    if len(named) < 2:
        return []
    forms: dict[tuple[str, ...], tuple[str, ...]] = {}
    rows: Counter[tuple[str, ...]] = Counter()
    own: dict[str, tuple[str, ...]] = {}
    for name, table in named:
        # Small files of text share their columns: those that a file lacks are null in all its rows.
        places = [at for at, column in enumerate(table.columns) if column.null_count < table.num_rows]
        columns = own[name] = tuple(table.schema.names[at] for at in places)
        if columns not in forms:
            try:
                forms[columns] = tuple(find_columns(spec, table.select(places)).used())
            except UserError:
                forms[columns] = ()
        rows[forms[columns]] += table.num_rows
    rows.pop((), None)
    if not rows:
        return []
    most = set(rows.most_common(1)[0][0])
    return [name for name, columns in own.items() if not most & set(columns)]
