"""The cache of converted files: what it knows is decided by contents; what is broken or unfinished is made anew."""

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmplay_tui.data import arrow_cache, json_documents, local, text_files
from lmplay_tui.data.splits import Splits
from lmplay_tui.errors import DataError, UserError
from lmplay_tui.plan.schema import DatasetSpec
from tests.data.conftest import no_report


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(arrow_cache, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are converted."""
    made: list[str] = []
    real = text_files.read_batches

    def counted(path: Path, *given: Any) -> Iterator[pa.RecordBatch]:
        made.append(path.name)
        return real(path, *given)

    monkeypatch.setattr(arrow_cache, "read_batches", counted)
    return made


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> Splits:
    return local.read(DatasetSpec("mine", str(path)), no_report)


def texts(path: Path) -> list[str]:
    found: list[str] = read(path).train.table["text"].to_pylist()
    return found


@pytest.mark.parametrize("large", [False, True])
def test_other_contents_under_the_same_name_size_and_time_are_other_data(
    large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(arrow_cache, "_MANY_BYTES", 10)
        monkeypatch.setattr(arrow_cache, "_WHOLE_OF_MANY_BYTES", 6)
        monkeypatch.setattr(arrow_cache, "_SAMPLES", 6)
    path = write(tmp_path / "a.jsonl", ["OLD", "same"])
    os.utime(path, (0, 0))
    assert texts(path) == ["OLD", "same"]
    write(path, ["NEW", "same"])
    os.utime(path, (0, 0))
    assert texts(path) == ["NEW", "same"]
    write(path, ["OLD", "same"])
    assert texts(path) == ["OLD", "same"]


def test_every_byte_of_a_file_counts(tmp_path: Path) -> None:
    rows = [f"Row {number}." for number in range(200)]
    for place in (0, 57, 199):
        rows[place] = rows[place].replace("R", "S")
        path = write(tmp_path / "a.jsonl", rows)
        os.utime(path, (0, 0))
        assert texts(path) == rows


def test_of_a_huge_file_ends_and_samples_between_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_cache, "_WHOLE_BYTES", 4000)
    monkeypatch.setattr(arrow_cache, "_SAMPLES", 33)
    rows = [f"Row {number:03}." for number in range(200)]
    for place in (0, 199, 100):
        rows[place] = rows[place].replace("R", "S")
        path = write(tmp_path / "a.jsonl", rows)
        os.utime(path, (0, 0))
        assert texts(path) == rows
    os.utime(path, (1, 1))  # time and place count too, for not every byte does
    assert len(list(arrow_cache.cache_folder().iterdir())) == 3
    assert texts(path) == rows
    assert len(list(arrow_cache.cache_folder().iterdir())) == 4


def test_a_pointer_of_git_lfs_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "utf-8")
    with pytest.raises(UserError, match=r"a\.txt is a pointer of Git LFS.*git lfs pull"):
        read(tmp_path / "a.txt")


def test_the_same_contents_are_converted_once(tmp_path: Path, conversions: list[str]) -> None:
    path = write(tmp_path / "a.jsonl", ["One.", "Two."])
    assert texts(path) == texts(path) == ["One.", "Two."]
    shutil.copy(path, tmp_path / "b.jsonl")
    assert texts(tmp_path / "b.jsonl") == ["One.", "Two."]
    assert conversions == ["a.jsonl"]
    path.rename(tmp_path / "a.txt")  # another kind is read otherwise
    assert texts(tmp_path / "a.txt") == ['{"text": "One."}\n{"text": "Two."}']


def test_small_files_share_an_entry_and_keep_their_rows_apart(
    tmp_path: Path, cache: Path, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_cache, "_TOGETHER_BYTES", 100)
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(20):
        write(folder / f"{number:02}.jsonl", [f"{number}, {row}" for row in range(number % 3)])
    (folder / "03.jsonl").write_text('{"other": 1, "text": "3, 0"}\n', encoding="utf-8")
    found = read(folder)
    sizes = [1 if number == 3 else number % 3 for number in range(20)]
    expected = [f"{number}, {row}" for number in range(20) for row in range(sizes[number])]
    assert found.train.table["text"].to_pylist() == expected
    assert [segment.rows for segment in found.train.segments] == [size for size in sizes if size]
    assert 3 < len(list(cache.iterdir())) < 20
    assert len(conversions) == 20
    assert read(folder).train.table.equals(found.train.table, check_metadata=True)
    assert len(conversions) == 20


def test_parquet_is_converted_a_few_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_cache, "_PARQUET_ROWS", 64)
    monkeypatch.setattr(arrow_cache, "_BATCH_BYTES", 1000)
    table = pa.table({"text": [f"Row {n}." for n in range(1000)], "n": range(1000), "l": [[n] for n in range(1000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    found = read(tmp_path / "a.parquet").train.table
    assert found.equals(table)
    assert found["text"].num_chunks > 5
    assert found.schema == table.schema


@pytest.mark.parametrize("form", ["file", "stream"])
def test_arrow_files_are_mapped_as_they_lie(form: str, tmp_path: Path, cache: Path) -> None:
    table = pa.table({"text": ["One.", "Two."], "n": [1, 2]})
    path = tmp_path / "a.arrow"
    with (pa.ipc.new_file if form == "file" else pa.ipc.new_stream)(str(path), table.schema) as writer:
        writer.write_table(table)
    before = pa.total_allocated_bytes()
    assert read(path).train.table.equals(table)
    assert pa.total_allocated_bytes() - before < 10_000
    assert not cache.exists()
    path.write_bytes(b"no arrow")
    with pytest.raises(UserError, match=r"a\.arrow cannot be read: "):
        read(path)


def damage_cut(entry: Path) -> None:
    rows = next(entry.glob("rows-*"))
    rows.write_bytes(rows.read_bytes()[:-10])


def damage_about(entry: Path) -> None:
    (entry / "about.json").write_text('{"parts": 3}', encoding="utf-8")


def damage_empty(entry: Path) -> None:
    (entry / "about.json").write_bytes(b"")


def damage_zeros(entry: Path) -> None:
    rows = next(entry.glob("rows-*"))
    rows.write_bytes(bytes(rows.stat().st_size))


def damage_gone(entry: Path) -> None:
    next(entry.glob("rows-*")).unlink()


@pytest.mark.parametrize("damage", [damage_cut, damage_about, damage_empty, damage_zeros, damage_gone])
def test_a_damaged_entry_is_made_anew(damage: Any, tmp_path: Path, cache: Path, conversions: list[str]) -> None:
    path = write(tmp_path / "a.jsonl", ["One.", "Two."])
    texts(path)
    damage(next(cache.iterdir()))
    assert texts(path) == ["One.", "Two."]
    assert len(conversions) == 2
    assert texts(path) == ["One.", "Two."]
    assert len(conversions) == 2


def test_a_conversion_that_breaks_off_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["One."])
    path.write_text(path.read_text(encoding="utf-8") + "{", encoding="utf-8")
    with pytest.raises(UserError, match=r"dataset mine: .*a\.jsonl, line 2: no JSON"):
        read(path)
    assert list(cache.iterdir()) == []


def test_a_stop_ends_the_conversion(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", ["One."] * 1000)
    asked, ended = threading.Event(), threading.Event()
    real = json_documents.load

    def slow(line: str) -> Any:
        assert asked.wait(60)
        return real(line)

    def watched(*given: Any) -> Any:
        try:
            return convert(*given)
        finally:
            ended.set()

    convert = arrow_cache._convert
    monkeypatch.setattr(arrow_cache, "_convert", watched)
    monkeypatch.setattr(text_files, "load", slow)
    monkeypatch.setattr(text_files, "BLOCK", 100)

    def report(activity: str, detail: str, fraction: float | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local.read(DatasetSpec("mine", str(path)), report)
    asked.set()
    assert ended.wait(60)
    assert list(cache.iterdir()) == []


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", ["One."])
    real = text_files.read_batches

    def growing(*given: Any) -> Iterator[pa.RecordBatch]:
        yield from real(*given)
        write(path, ["One.", "Two."])

    monkeypatch.setattr(arrow_cache, "read_batches", growing)
    with pytest.raises(UserError, match="has changed while it was read"):
        read(path)
    assert list(cache.iterdir()) == []


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_said_in_one_line(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", ["One."])
    monkeypatch.setattr(arrow_cache._Writer, "_flush", full)
    with pytest.raises(DataError, match=r"dataset mine: .*the disk is full.*XDG_CACHE_HOME") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["One.", "Two."])
    cache.write_text("a file, where the folder should be", encoding="utf-8")
    found = read(path)
    assert found.train.table["text"].to_pylist() == ["One.", "Two."]
    assert [note for note in found.notes if "cannot be written" in note and "at each start" in note] != []


def test_what_is_not_opened_for_a_month_goes(tmp_path: Path, cache: Path) -> None:
    for name in ("old", "used"):
        texts(write(tmp_path / f"{name}.jsonl", [name]))
    for entry in cache.iterdir():
        os.utime(entry, (0, 0))
    (cache / ".0123456789abcdef0123456789abcdef.killed").mkdir()
    for left in (cache / ".0123456789abcdef0123456789abcdef.killed",):
        os.utime(left, (0, 0))
    (cache / "other").mkdir()
    os.utime(cache / "other", (0, 0))
    working = cache / ".fedcba9876543210fedcba9876543210.working"
    working.mkdir()
    assert texts(tmp_path / "used.jsonl") == ["used"]  # from the cache
    texts(write(tmp_path / "new.jsonl", ["new"]))
    names = {entry.name for entry in cache.iterdir()}
    assert {"other", working.name} <= names
    assert len(names) == 4
    assert texts(tmp_path / "old.jsonl") == ["old"]  # its folder is gone, not its file
