"""Journals: what is written is read back whole, in order, whatever happened in between."""

import contextlib
import errno
import json
import math
import os
import tracemalloc
from collections.abc import Iterator
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.run.journal import Journal, Tail, encode, number
from lmplay_tui.run.metric_rows import MetricsTail
from tests.examples import examples
from tests.journals import read_journal

values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
records = st.dictionaries(st.text(max_size=8), values | st.lists(values, max_size=3), max_size=5)


@given(records)
def test_a_line_is_one_line_of_strict_json(record):
    line = encode(record)
    assert "\n" not in line
    json.loads(line, parse_constant=lambda name: 1 / 0)  # NaN and Infinity are no JSON


def test_numbers_that_are_not_finite_are_strings_that_read_back():
    line = json.loads(encode({"a": math.nan, "b": [math.inf], "c": {"d": -math.inf}}))
    assert line == {"a": "NaN", "b": ["Infinity"], "c": {"d": "-Infinity"}}
    assert math.isnan(number(line["a"]))
    assert number(line["b"][0]) == math.inf
    assert math.isnan(number("no number"))


@examples(50)
@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 40))
def test_a_tail_gives_every_record_once_whatever_the_chunks(tmp_path_factory, texts, chunk):
    path = tmp_path_factory.mktemp("j") / "x.jsonl"
    journal, tail, seen = Journal(path), Tail(path), []
    for i, length in enumerate(texts):
        journal.write({"step": i, "text": "é" * length})
        for _ in range(20):  # a chunk may end inside a line, and give nothing
            seen += tail.read(limit_bytes=chunk * 8)
    assert [record["step"] for record in seen] == list(range(len(texts)))


def test_half_a_line_waits_for_its_rest(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st')
    tail = Tail(path)
    assert tail.read() == [{"step": 1}]
    with path.open("ab") as file:
        file.write(b'ep": 2}\n')
    assert tail.read() == [{"step": 2}]


def test_a_line_that_a_killed_process_left_spoils_only_itself(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    journal = Journal(path)
    assert journal.write({"step": 3})
    assert read_journal(path) == [{"step": 1}, {"step": 3}]


def test_a_resume_drops_what_lies_beyond_it(tmp_path):
    path = tmp_path / "x.jsonl"
    journal = Journal(path)
    for record in ({"step": 1}, {"no": "step"}, {"step": 2}, {"resumed_from": 1}, {"step": 2, "again": True}):
        journal.write(record)
    assert read_journal(path) == [{"step": 1}, {"no": "step"}, {"step": 2, "again": True}]


def test_a_write_that_fails_is_counted_and_later_ones_go_on(tmp_path):
    folder = tmp_path / "gone"
    journal = Journal(folder / "x.jsonl")
    assert not journal.write({"step": 1})
    assert journal.failed == 1
    assert journal.last_error
    folder.mkdir()
    assert journal.write({"step": 2})
    assert read_journal(folder / "x.jsonl") == [{"step": 2}]


def test_a_thinned_file_is_read_on_without_repeats(tmp_path):
    path = tmp_path / "x.jsonl"
    journal, tail = Journal(path, limit_bytes=2000), Tail(path)
    seen = []
    for i in range(300):
        journal.write({"step": i, "text": "x" * 20})
        seen += [record["step"] for record in tail.read()]
    assert path.stat().st_size <= 2000
    assert seen == sorted(set(seen))
    assert seen[-1] == 299
    kept = [record["step"] for record in read_journal(path)]
    assert kept[0] == 0
    assert kept == sorted(kept)


def test_a_disk_that_is_too_full_to_thin_loses_nothing(tmp_path):
    """... leaves no temporary file, is counted once in a while, and thins later."""
    path = tmp_path / "x.jsonl"
    journal, count = Journal(path, limit_bytes=2000), 0

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)  # some disks say only then that they are full
        while not count or path.stat().st_size < 2200:
            assert journal.write({"step": count, "text": "x" * 20}), "it is on the disk"
            count += 1
    assert [record["step"] for record in read_journal(path)] == list(range(count))
    assert (journal.failed, journal.last_error) == (1, f"{os.strerror(errno.ENOSPC)}, while it was thinned")
    assert list(tmp_path.iterdir()) == [path]
    for step in range(count, 100):
        assert journal.write({"step": step, "text": "x" * 20})
    assert path.stat().st_size < 2000
    assert journal.failed == 1


def test_what_a_process_killed_while_thinning_left_is_removed(tmp_path):
    path = tmp_path / "x.jsonl"
    path.with_name(".x.jsonl.0123456789abcdef.tmp").write_bytes(b"{}")
    Journal(path, limit_bytes=2000).write({"step": 1})
    assert list(tmp_path.iterdir()) == [path]


TOO_LONG = 1 << 27  # bytes of a line


def hole(file: BinaryIO) -> None:
    file.truncate(file.tell() + TOO_LONG)
    file.seek(0, os.SEEK_END)


def letters(file: BinaryIO) -> None:
    for _ in range(TOO_LONG >> 20):
        file.write(b"x" * (1 << 20))


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """What Python allocates meanwhile has no more bytes at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [Tail, MetricsTail])
@pytest.mark.parametrize("long", [hole, letters])
def test_a_line_of_any_length_is_passed_over_in_bounded_memory(tmp_path, long, kind):
    path = tmp_path / "x.jsonl"
    with path.open("wb") as file:
        file.write(b'{"step": 1}\n')
        long(file)
        file.write(b'{"step": 2}\n{"step": 3}\n')
    tail, seen = kind(path), []
    read = tail.read_rows if isinstance(tail, MetricsTail) else tail.read
    with at_most(TOO_LONG):
        while (records := read()) or tail.behind:
            seen += [record["step"] for record in records]
        with path.open("ab") as file:
            long(file)
            file.write(b'"}\n{"step": 4}\n')
        while (records := read()) or tail.behind:
            seen += [record["step"] for record in records]
    assert seen == [1, 3, 4], "what stands behind such a line, in its last line, is a part of it"


@pytest.mark.parametrize("long", [hole, letters])
def test_a_file_is_thinned_in_bounded_memory(tmp_path, long):
    path = tmp_path / "x.jsonl"
    with path.open("wb") as file:
        file.write(b'{"step": 1}\n')
        long(file)
    journal = Journal(path, limit_bytes=TOO_LONG // 2)
    with at_most(TOO_LONG):
        for step in (2, 3, 4):
            assert journal.write({"step": step})
    assert [record["step"] for record in read_journal(path)] == [1, 2, 3, 4]
    assert path.stat().st_size < 100
    assert not journal.failed


def test_a_file_far_larger_than_its_limit_is_not_thinned(tmp_path):
    """No journal of ours has grown to that; a hole of terabytes takes hours to read."""
    path = tmp_path / "x.jsonl"
    path.touch()
    os.truncate(path, 10_000)
    journal = Journal(path, limit_bytes=2000)
    for step in range(3):
        assert journal.write({"step": step})
    assert (journal.failed, journal.last_error) == (1, "far larger than its limit, while it was thinned")
    assert [record["step"] for record in read_journal(path)] == [0, 1, 2]
