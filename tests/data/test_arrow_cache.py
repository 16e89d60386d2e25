"""The cache of converted files: what it knows is decided by contents; what is broken or unfinished is made anew."""

import errno
import gzip
import json
import os
import shutil
import time
from itertools import count
from pathlib import Path
from typing import Any

import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmplay_tui.data import arrow_cache, local
from lmplay_tui.data.arrow_cache import Sizes, Work
from lmplay_tui.data.splits import Splits
from lmplay_tui.errors import DataError, UserError
from lmplay_tui.plan.schema import DatasetSpec
from tests.data.conftest import no_report


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_: tmp_path / "cache")
    return arrow_cache.cache_folder()


def entries(cache: Path) -> dict[str, int]:
    """When each entry of the cache was written."""
    return {entry.name: (entry / "about.json").stat().st_mtime_ns for entry in cache.iterdir()}


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> Splits:
    return local.read(DatasetSpec("mine", str(path)), no_report)


def texts(path: Path, sizes: Sizes | None = None) -> list[str]:
    """The texts of a file, opened by the dataset's way, or by the cache's own with other sizes."""
    table = read(path).train.table if sizes is None else arrow_cache.open_files([path], Work(), sizes)[0][0].table
    found: list[str] = table["text"].to_pylist()
    return found


def long_to_read(path: Path) -> Path:
    """Rows that take a second to convert, whatever the machine: some ticks."""
    with gzip.open(path, "wb", 1) as file:
        file.write(b'{"text": "One."}\n' * 700_000)
    return path


@pytest.mark.parametrize("large", [False, True])
def test_other_contents_under_the_same_name_size_and_time_are_other_data(large: bool, tmp_path: Path) -> None:
    sizes = Sizes(many=10, whole_of_many=6, samples=6) if large else None
    path = write(tmp_path / "a.jsonl", ["OLD", "same"])
    os.utime(path, (0, 0))
    assert texts(path, sizes) == ["OLD", "same"]
    write(path, ["NEW", "same"])
    os.utime(path, (0, 0))
    assert texts(path, sizes) == ["NEW", "same"]
    write(path, ["OLD", "same"])
    assert texts(path, sizes) == ["OLD", "same"]


def changed_at(folder: Path, places: tuple[int, ...], sizes: Sizes | None = None) -> Path:
    """A file in which one row after the other is changed, and read each time: its name, size and time stay."""
    path, rows = folder / "a.jsonl", [f"Row {number:03}." for number in range(200)]
    for place in places:
        rows[place] = rows[place].replace("R", "S")
        write(path, rows)
        os.utime(path, (0, 0))
        assert texts(path, sizes) == rows
    return path


def test_every_byte_of_a_file_counts(tmp_path: Path) -> None:
    changed_at(tmp_path, (0, 57, 199))


def test_of_a_huge_file_ends_and_samples_between_count(tmp_path: Path, cache: Path) -> None:
    sizes = Sizes(whole=4000, samples=33)
    path = changed_at(tmp_path, (0, 199, 100), sizes)
    rows = texts(path, sizes)
    os.utime(path, (1, 1))  # time and place count too, for not every byte does
    assert len(list(cache.iterdir())) == 3
    assert texts(path, sizes) == rows
    assert len(list(cache.iterdir())) == 4


def test_a_pointer_of_git_lfs_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "utf-8")
    with pytest.raises(UserError, match=r"a\.txt is a pointer of Git LFS.*git lfs pull"):
        read(tmp_path / "a.txt")


def test_the_same_contents_are_converted_once(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["One.", "Two."])
    assert texts(path) == ["One.", "Two."]
    before = entries(cache)
    assert texts(path) == ["One.", "Two."]
    shutil.copy(path, tmp_path / "b.jsonl")
    assert texts(tmp_path / "b.jsonl") == ["One.", "Two."]
    assert entries(cache) == before
    path.rename(tmp_path / "a.txt")  # another kind is read otherwise
    assert texts(tmp_path / "a.txt") == ['{"text": "One."}\n{"text": "Two."}']


def test_small_files_share_an_entry_and_keep_their_rows_apart(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(20):
        write(folder / f"{number:02}.jsonl", [f"{number}, {row}" for row in range(number % 3)])
    (folder / "03.jsonl").write_text('{"other": 1, "text": "3, 0"}\n', encoding="utf-8")
    paths, sizes = sorted(folder.iterdir()), Sizes(together=100)
    found, _ = arrow_cache.open_files(paths, Work(), sizes)
    rows = [1 if number == 3 else number % 3 for number in range(20)]
    expected = [f"{number}, {row}" for number in range(20) for row in range(rows[number])]
    assert [file.path for file in found] == paths
    assert [text for file in found if file.table.num_rows for text in file.table["text"].to_pylist()] == expected
    assert [file.table.num_rows for file in found] == rows
    before = entries(cache)
    assert 3 < len(before) < 20
    again, _ = arrow_cache.open_files(paths, Work(), sizes)
    assert all(file.table.equals(other.table, check_metadata=True) for file, other in zip(found, again, strict=True))
    assert entries(cache) == before
    whole = read(folder)  # all of them in one
    assert whole.train.table["text"].to_pylist() == expected
    assert [segment.rows for segment in whole.train.segments] == [size for size in rows if size]
    assert len(list(cache.iterdir())) == len(before) + 1


def test_parquet_is_converted_a_few_rows_at_a_time(tmp_path: Path) -> None:
    table = pa.table({"text": [f"Row {n}." for n in range(1000)], "n": range(1000), "l": [[n] for n in range(1000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    opened, _ = arrow_cache.open_files([tmp_path / "a.parquet"], Work(), Sizes(parquet_rows=64, batch=1000))
    found = opened[0].table
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


def damage_deep(entry: Path) -> None:
    (entry / "about.json").write_text("[" * 100_000, encoding="utf-8")


def damage_number(entry: Path) -> None:
    said = json.loads((entry / "about.json").read_text(encoding="utf-8"))
    said["files"][0]["rows"] = 10**30
    (entry / "about.json").write_text(json.dumps(said), encoding="utf-8")


def damage_about_pipe(entry: Path) -> None:
    (entry / "about.json").unlink()
    os.mkfifo(entry / "about.json")


def damage_rows_pipe(entry: Path) -> None:
    rows = next(entry.glob("rows-*"))
    rows.unlink()
    os.mkfifo(rows)


DAMAGES = (
    damage_cut, damage_about, damage_empty, damage_zeros, damage_gone, damage_deep, damage_number, damage_about_pipe,
    damage_rows_pipe,
)  # fmt: skip


@pytest.mark.timeout(20)  # a pipe is not waited for
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_made_anew(damage: Any, tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["One.", "Two."])
    texts(path)
    first = entries(cache)
    damage(next(cache.iterdir()))
    assert texts(path) == ["One.", "Two."]
    second = entries(cache)
    assert first.keys() == second.keys()
    assert first != second
    assert texts(path) == ["One.", "Two."]
    assert entries(cache) == second


def test_a_conversion_that_breaks_off_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["One."])
    path.write_text(path.read_text(encoding="utf-8") + "{", encoding="utf-8")
    with pytest.raises(UserError, match=r"dataset mine: .*a\.jsonl, line 2: no JSON"):
        read(path)
    assert list(cache.iterdir()) == []


def test_a_stop_ends_the_conversion(tmp_path: Path, cache: Path) -> None:
    path = long_to_read(tmp_path / "a.jsonl.gz")

    def report(activity: str, detail: str, fraction: float | None) -> None:
        if list(cache.glob(".*")):  # it has begun
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local.read(DatasetSpec("mine", str(path)), report)
    until = time.monotonic() + 60
    while list(cache.iterdir()) and time.monotonic() < until:
        time.sleep(0.01)
    assert list(cache.iterdir()) == []


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, cache: Path) -> None:
    path = long_to_read(tmp_path / "a.jsonl.gz")
    changes = count()
    with pytest.raises(UserError, match="has changed while it was read"):
        local.read(DatasetSpec("mine", str(path)), lambda *_: os.utime(path, (0, next(changes))))
    assert list(cache.iterdir()) == []


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_said_in_one_line(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", ["One."])
    monkeypatch.setattr(pa.ipc, "new_file", full)
    with pytest.raises(DataError, match=r"dataset mine: .*the disk is full.*XDG_CACHE_HOME") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["One.", "Two."])
    cache.parent.mkdir()
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
