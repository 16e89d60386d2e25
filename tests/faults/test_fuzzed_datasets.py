"""Dataset files spoilt at random, by format: read as another reader of the format reads them, or refused in a line.

A child opens the file as a run does, reads every row and the first batches: a signal, a wait or a lack of memory would
be the child's. What a plain reader of the format makes of the same bytes decides what the texts are: no file is trained
as anything else without a word. A flipped bit of a text that has no checksum makes another text, for any reader.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmplay_tui.data.batches import Position
from lmplay_tui.data.stage_data import open_stage
from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.errors import UserError
from lmplay_tui.options import resolve
from lmplay_tui.plan.schema import DatasetSpec, Stage
from tests.faults.forks import Child
from tests.faults.mutations import spoilt, spoilt_json, spoilt_lines

ROWS = [
    {"title": f"Story {n}", "text": f'The {n}th mill stood by the river. It was {n * 7} years old, "they" said; näh.'}
    for n in range(30)
]
MOST_CPU_S = 5.0  # of one case; measured: 0.02
MOST_GROWN_MB = 400
MOST_ADDRESSES = 4 << 30
MANY_BATCHES = 100
Texts = list[str] | str | None  # of the rows; the words of all of them; None: the file is not sound


def lines() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def table() -> pa.Table:
    return pa.table({name: [row[name] for row in ROWS] for name in ROWS[0]})


def separated(separator: str) -> bytes:
    written = io.StringIO()
    rows = csv.writer(written, delimiter=separator)
    rows.writerow(ROWS[0])
    rows.writerows(row.values() for row in ROWS)
    return written.getvalue().encode()


def written_by(write: Callable[[Any], object]) -> bytes:
    sink = pa.BufferOutputStream()
    write(sink)
    return sink.getvalue().to_pybytes()


def arrow(sink: Any, new: Callable[..., Any] = pa.ipc.new_file) -> None:
    with new(sink, table().schema) as writer:
        writer.write_table(table())


def zstandard(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


WHOLE: dict[str, Callable[[], bytes]] = {
    "a.jsonl": lines,
    "a.json": lambda: json.dumps(ROWS, indent=1).encode(),
    "a.csv": lambda: separated(","),
    "a.tsv": lambda: separated("\t"),
    "a.txt": lambda: "\n\n".join(row["text"] for row in ROWS).encode(),
    "a.md": lambda: b"# Mills\n\n" + "\n\n".join(row["text"] for row in ROWS).encode(),
    "a.parquet": lambda: written_by(lambda sink: pq.write_table(table(), sink)),
    "a.arrow": lambda: written_by(arrow),
    "stream.arrow": lambda: written_by(lambda sink: arrow(sink, pa.ipc.new_stream)),
    "a.jsonl.gz": lambda: gzip.compress(lines(), mtime=0),
    "a.jsonl.bz2": lambda: bz2.compress(lines()),
    "a.jsonl.xz": lambda: lzma.compress(lines()),
    "a.jsonl.zst": lambda: zstandard(lines()),
}  # fmt: skip
PLAIN_READERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": lambda data: pa.CompressedInputStream(pa.BufferReader(data), "zstd").read(),
}


def case(name: str, seed: int) -> bytes:
    """A file of that name, spoilt; half of those of JSON by their structure."""
    dice = random.Random(f"{name} {seed}")
    by_structure = dice.random() < 0.5
    if name == "a.json" and by_structure:
        return spoilt_json(ROWS, dice).encode("utf-8", "surrogatepass")
    if name == "a.jsonl" and by_structure:
        return spoilt_lines(lines(), dice)
    return spoilt(WHOLE[name](), dice)


class Unknown(Exception):
    """The plain reader cannot say what the rows' texts are: another column may be meant."""


def said_by_a_plain_reader(name: str, data: bytes, *, quotes: bool = True) -> Texts:
    """The texts of a file by the format's usual reader. Raises `Unknown`."""
    try:
        for ending, decompress in PLAIN_READERS.items():
            if name.endswith(ending):
                name, data = name.removesuffix(ending), decompress(data)
        match Path(name).suffix:
            case ".parquet":
                rows = pq.read_table(pa.BufferReader(data)).to_pylist()
            case ".arrow":
                new = pa.ipc.open_stream if name.startswith("stream") else pa.ipc.open_file
                read = new(pa.BufferReader(data)).read_all()
                read.validate(full=True)
                rows = read.to_pylist()
            case ".jsonl":
                found = [
                    json.loads(line, strict=False, parse_int=str) for line in decoded(data).split("\n") if line.strip()
                ]
                rows = found
            case ".json":
                rows = json.loads(decoded(data), parse_int=str)
            case ".csv" | ".tsv" as ending:
                separator = "\t" if ending == ".tsv" else ","
                how = {"strict": True} if quotes else {"quoting": csv.QUOTE_NONE}
                given = [
                    row for row in csv.reader(io.StringIO(decoded(data), newline=""), delimiter=separator, **how) if row
                ]
                if len(set(map(len, given))) != 1:
                    return None
                rows = [dict(zip(given[0], row, strict=True)) for row in given[1:]]
            case _:
                return decoded(data)
    except (UnicodeError, ValueError, csv.Error, OSError, EOFError, lzma.LZMAError, RecursionError, pa.ArrowException):
        return None
    except Exception as error:  # zlib's own
        assert type(error).__name__ == "error", error
        return None
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("text"), str) for row in rows
    ):
        raise Unknown
    return [row["text"] for row in rows if row["text"].strip()]


def decoded(data: bytes) -> str:
    return data.decode("utf-8-sig")


def mended(text: str) -> str:
    """With U+FFFD for half a character, as a note says that it is read."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def words(text: str) -> list[str]:
    return text.replace("\ufeff", "").split()


def read(path: Path) -> tuple[list[str], tuple[str, ...]]:
    """The texts of a dataset's rows and what is noted of it, as a stage opens it; its first batches are cut too."""
    return read_as(DatasetSpec("d", str(path)), path.parent / "none")


def read_as(spec: DatasetSpec, datasets_folder: Path) -> tuple[list[str], tuple[str, ...]]:
    options = resolve({}, {"tokenizer": "bytes", "context_len": 64, "batch_size": 4})
    stage = Stage("s", (spec,), epochs=1.0)
    data = open_stage(stage, options, load_tokenizer("bytes"), datasets_folder=datasets_folder, report=lambda *_: None)
    for _ in zip(data.reading(Position()), range(MANY_BATCHES), strict=False):
        pass
    source = data.parts[0].source
    return [item.truth for row in range(source.train.num_rows) for item in source.train.items(row)], source.notes


def judged(name: str, data: bytes, texts: list[str], notes: tuple[str, ...]) -> str:
    """What came of a file that was read. `AssertionError` where it was taken for other texts in silence."""
    try:
        expected = said_by_a_plain_reader(name, data)
        if expected is None and any("quotes are read as they stand" in note for note in notes):
            expected = said_by_a_plain_reader(name, data, quotes=False)
    except Unknown:
        return "of another form"
    assert expected is not None, "read, though it is not sound"
    if isinstance(expected, str):
        assert [word for text in texts for word in words(text)] == words(expected)
    else:
        assert texts == list(map(mended, expected))
    return "read"


def meet(name: str, seeds: range, place: Path, report: Callable[[Any], None]) -> None:
    """Read a spoilt file for each seed, in a child whose addresses are limited; report what comes of each."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    path = place / name
    for seed in seeds:
        data = case(name, seed)
        path.write_bytes(data)
        report(("begun", seed))
        begun = time.process_time()
        try:
            outcome = judged(name, data, *read(path))
        except UserError as error:
            assert "\n" not in str(error) and str(error).isprintable(), error
            assert str(error).startswith("dataset d: ") and len(str(error)) < 500, error
            outcome = "refused"
        spent = time.process_time() - begun
        assert spent < MOST_CPU_S, f"seed {seed}: {spent:.1f} s"
        report((outcome, seed))


def outcomes(name: str, seeds: range, place: Path) -> Iterator[str]:
    """What came of each; the seed is in the failure of one that did not go well."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Child(lambda report: meet(name, seeds, place, report)) as child:
        seed = None
        for outcome, seed in child.reports():  # noqa: B007 - read after the loop
            if outcome != "begun":
                yield outcome
        assert child.wait() == 0, f"{name}, seed {seed}"
    grown = child.peak_kib - peak
    assert grown < MOST_GROWN_MB * 1024, grown


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_is_read(name, tmp_path, monkeypatch):
    """What the spoilt ones are made of."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / name).write_bytes(WHOLE[name]())
    assert judged(name, WHOLE[name](), *read(tmp_path / name)) == "read"


def with_a_text_elsewhere(data: bytes) -> bytes:
    """An Arrow file one of whose texts ends far behind the file: what Arrow itself follows without a look."""
    ends = np.cumsum([len(row["text"].encode()) for row in ROWS], dtype=np.int32)
    found = ends[4:8].tobytes()
    assert data.count(found) == 1
    ends[5] = 2**30
    return data.replace(found, ends[4:8].tobytes())


@pytest.mark.parametrize("kind", ["file", "saved by the library", "in the cache"])
def test_a_text_that_lies_elsewhere(kind, tmp_path):
    """In a child: it would be a SIGSEGV."""

    def work(report: Callable[[Any], None]) -> None:
        os.environ["XDG_CACHE_HOME"] = str(tmp_path / "cache")
        path = tmp_path / ("a.jsonl" if kind == "in the cache" else "a.arrow")
        if kind == "saved by the library":
            import datasets

            path = tmp_path / "saved"
            datasets.Dataset.from_list(ROWS).save_to_disk(path)
            spoil = path / "data-00000-of-00001.arrow"
        else:
            path.write_bytes(WHOLE[path.name]())
            spoil = path
        if kind == "in the cache":
            read(path)
            [spoil] = (tmp_path / "cache").rglob("*.arrow")
        spoil.write_bytes(with_a_text_elsewhere(spoil.read_bytes()))
        try:
            report(read(path)[0])
        except UserError as error:
            report(str(error))

    with Child(work) as child:
        [said] = child.reports()
        assert child.wait() == 0
    if kind == "in the cache":  # converted anew
        assert said == [row["text"] for row in ROWS]
    else:
        assert said.startswith("dataset d: ") and "cannot be read: " in said, said


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def endless(path: Path) -> None:
    """A file of a quarter of a terabyte, of which the disk holds nothing."""
    path.touch()
    os.truncate(path, 1 << 38)


# Where the rows lie, and the names of what lies beside them; the folder `kept` is one of the datasets folder.
BESIDE = {
    "rows": ("README.md", "state.json", "dataset_dict.json"),
    "saved": ("README.md", "state.json", "dataset_dict.json", "dataset_info.json", "data-00000-of-00001.arrow"),
    "kept": ("lmplay_tui_places.json", "dataset_info.json", "data-00000-of-00001.arrow"),
}
READ_ALL_THE_SAME = {"README.md", "state.json", "lmplay_tui_places.json"}


@pytest.mark.parametrize(
    ("form", "name", "what"),
    [
        (form, name, what) for form, names in BESIDE.items() for name in names for what in (pipe, device, endless)
        if not name.endswith(".arrow") or what is not endless  # a table is mapped, however large it is
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)  # fmt: skip
def test_what_lies_beside_the_rows_is_not_waited_for(form, name, what, tmp_path):
    """Nor read without an end: the rows are read without it, or it is refused by its name."""
    import datasets

    folder = tmp_path / ("hub_mills.train" if form == "kept" else "d")
    if form == "rows":
        folder.mkdir()
        (folder / "a.jsonl").write_bytes(lines())
    else:
        datasets.Dataset.from_list(ROWS).save_to_disk(folder)
        (folder / name).unlink(missing_ok=True)
    what(folder / name)
    spec = DatasetSpec("d", "hub/mills" if form == "kept" else str(folder))

    def work(report: Callable[[Any], None]) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
        os.environ["XDG_CACHE_HOME"] = str(tmp_path / "cache")
        try:
            report(read_as(spec, tmp_path)[0])
        except UserError as error:
            report(str(error))

    with Child(work) as child:
        said = next(child.reports(20), "it waits")
        if isinstance(said, list):
            assert child.wait(20) == 0
    if isinstance(said, str):
        assert form != "rows" and name not in READ_ALL_THE_SAME and said.startswith("dataset d: "), said
        assert name in said and "\n" not in said, said
    else:
        assert said == [row["text"] for row in ROWS]


@pytest.mark.parametrize("name", WHOLE)
def test_some_spoilt_files(name, tmp_path):
    assert len(list(outcomes(name, range(6), tmp_path))) == 6


@pytest.mark.long
@pytest.mark.parametrize("name", WHOLE)
def test_more_spoilt_files(name, tmp_path):
    found = list(outcomes(name, range(100, 160), tmp_path))
    assert {"read", "refused"} <= set(found)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", WHOLE)
def test_a_thousand_spoilt_files(name, tmp_path, count):
    found = list(outcomes(name, range(1000, 2000), tmp_path))
    assert len(found) == 1000
    count(f"{name}, spoilt 1,000 times: {found.count('refused')} refused in a line, the others read as what they say")
