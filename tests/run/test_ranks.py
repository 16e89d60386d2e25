"""The ranks of a run: what is written of them is read again, a stranger's file harms nothing, a slow one is named."""

import itertools
import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.metric_names import RANK_FIELDS
from lmplay_tui.run.ranks import FILE, RankRecorder, RankState, StragglerWatch, rank_figures, read_ranks
from tests.faults.mutations import spoilt, spoilt_json
from tests.run.recorded_runs import many_ranks, record_ranks


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    return run


@pytest.mark.parametrize("count", [2, 8, 64])
def test_what_rank_0_writes_is_read_again(run: RunFolder, count: int) -> None:
    ranks = many_ranks(count, slow=1)
    record_ranks(run, ranks)
    read = read_ranks(run.files)
    assert read is not None and list(read.ranks) == ranks
    assert read.straggler is not None
    said = read.straggler.sentence()
    assert said.startswith("rank 1 (node0, GPU 1) is 2") and said.endswith(" % slower than the others; all wait for it")


def test_what_is_not_known_stays_so(run: RunFolder) -> None:
    record_ranks(run, [RankState(0), RankState(1, "node", phase="waiting")])
    text = run.files.read(FILE, 1 << 20)
    assert b"NaN" not in text and json.loads(text)["ranks"][1]["compute_s"] is None
    read = read_ranks(run.files)
    assert read is not None and read.ranks[1].phase == "waiting" and math.isnan(read.ranks[1].compute_s)
    assert read.straggler is None and rank_figures(read.ranks, 0.1) == {}


def test_each_field_has_its_meaning() -> None:
    assert list(RANK_FIELDS) == list(RankState.__dataclass_fields__)


def test_the_file_is_rewritten_at_most_each_two_seconds(run: RunFolder) -> None:
    now, times_asked = 100.0, 0
    recorder = RankRecorder(run.files, lambda: now)
    written = []

    def ranks_now() -> list[RankState]:
        nonlocal times_asked
        times_asked += 1
        return many_ranks(2)

    for _ in range(50):
        written.append(recorder.write(ranks_now))
        now += 0.25
    assert sum(written) == times_asked == 7 and written[0] and written[8]


def test_a_file_that_cannot_be_written_hinders_no_step(run: RunFolder) -> None:
    (run.folder / FILE).mkdir()
    assert not RankRecorder(run.files).write(lambda: many_ranks(2))
    assert read_ranks(run.files) is None


def test_one_process_is_not_ranks(run: RunFolder) -> None:
    assert read_ranks(run.files) is None
    record_ranks(run, many_ranks(1))
    assert read_ranks(run.files) is None


def file_of(**changed: Any) -> dict[str, Any]:
    state = {"rank": 0, "host": "a", "device": "cpu", "pid": 1, "phase": "forward", "step": 3, "compute_s": 0.5}
    return {"time": 1.0, "pid": 1, "host": "a", "ranks": [state, state | {"rank": 1} | changed]}


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "no JSON": lambda: b"\xff\xfe{",
    "deep": lambda: b"[" * 200_000,
    "a list": lambda: b"[1, 2]",
    "ranks that are no list": lambda: b'{"ranks": {"0": {}}}',
    "ranks of nothing": lambda: json.dumps({"ranks": [None, 1, "x", [], {}, {"rank": "0"}, {"rank": True}]}).encode(),
    "the same twice": lambda: json.dumps(file_of(rank=0)).encode(),
    "far ranks": lambda: json.dumps(file_of(rank=10**9)).encode(),
    "a huge number": lambda: b'{"ranks": [{"rank": ' + b"9" * 100_000 + b"}]}",
    "too large": lambda: json.dumps(file_of(host="x" * (5 << 20))).encode(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_stranger_s_file_says_nothing(run: RunFolder, name: str) -> None:
    (run.folder / FILE).write_bytes(HOSTILE[name]())
    assert read_ranks(run.files) is None


@pytest.mark.parametrize(
    "value", [None, True, -1, -1e300, 1e300, 10**400, "NaN", "Infinity", "\x1b[2J\n\t", "漢" * 9000, [1], {"a": {}}]
)
def test_each_field_may_hold_anything(run: RunFolder, value: Any) -> None:
    names = [name for name in RankState.__dataclass_fields__ if name != "rank"]
    record = file_of(**dict.fromkeys(names, value)) | {"time": value, "pid": value, "host": value, "straggler": value}
    for straggler in (value, {"rank": value, "slower": value, "more": value}, {"rank": 1, "slower": value}):
        (run.folder / FILE).write_text(json.dumps(record | {"straggler": straggler}))
        read = read_ranks(run.files)
        assert read is not None and len(read.ranks) == 2
        state = read.ranks[1]
        assert state.step is None and state.pid is None
        for text in (state.host, state.device, state.phase, state.device_name, read.host):
            assert len(text) <= 80 and text.isprintable()
        for figure in (state.compute_s, state.wait_s, state.memory_bytes, state.utilisation, state.celsius):
            assert math.isnan(figure) or 0 <= figure <= 1e18
        if read.straggler is not None:
            assert len(read.straggler.sentence()) < 200


def test_a_file_spoilt_at_random_is_read_or_says_nothing(run: RunFolder) -> None:
    record_ranks(run, many_ranks(6, slow=2))
    whole = run.files.read(FILE, 1 << 20)
    dice, read = random.Random(5), 0
    for number in range(300):
        by_structure = number % 2
        data = spoilt_json(json.loads(whole), dice).encode("utf-8", "replace") if by_structure else spoilt(whole, dice)
        (run.folder / FILE).write_bytes(data)
        if (found := read_ranks(run.files)) is None:
            continue
        read += 1
        assert 2 <= len(found.ranks) <= 4096 and [each.rank for each in found.ranks] == sorted(
            {each.rank for each in found.ranks}
        )
        for words in (each for state in found.ranks for each in (state.host, state.device_name, state.phase)):
            assert words.isprintable() and len(words) <= 80
        assert json.dumps(found.record(), allow_nan=False)
    assert read > 50


def test_many_more_ranks_than_there_can_be_are_cut(run: RunFolder) -> None:
    ranks = [{"rank": i} for i in range(100_000)]
    (run.folder / FILE).write_text(json.dumps({"ranks": ranks}))
    read = read_ranks(run.files)
    assert read is not None and len(read.ranks) == 4096


def test_the_figures_of_an_interval() -> None:
    ranks = [RankState(rank, compute_s=own, wait_s=0.4 - own) for rank, own in enumerate((0.1, 0.4, 0.2, 0.1))]
    figures = rank_figures(ranks, 0.5)
    assert figures == pytest.approx({
        "ranks/compute_s_min": 0.1, "ranks/compute_s_mean": 0.2, "ranks/compute_s_max": 0.4, "ranks/slowest": 1,
        "ranks/wait_share": 0.2 / 0.5,
    })  # fmt: skip
    ranks[1:3] = [replace(ranks[1], memory_bytes=5.0, utilisation=0.5, celsius=70.0),
                  replace(ranks[2], memory_bytes=7.0, utilisation=1.0)]  # fmt: skip
    more = rank_figures(ranks, 0.5)
    assert {name: more[name] for name in more.keys() - figures.keys()} == {
        "ranks/memory_bytes_max": 7.0, "ranks/utilisation_mean": 0.75, "ranks/celsius_max": 70.0,
    }  # fmt: skip


# ---- the straggler


def series(count: int, intervals: int, cost: Callable[[random.Random, int, int], float], seed: int = 0) -> list[str]:
    """What is said after each interval in which rank r took `cost(dice, r, interval)` seconds a step."""
    dice, watch = random.Random(seed), StragglerWatch()
    said = []
    for i in range(intervals):
        ranks = [RankState(rank, "node2", f"cuda:{rank % 4}", compute_s=cost(dice, rank, i)) for rank in range(count)]
        found = watch.note(ranks)
        said.append(found.sentence() if found else "")
    return said


@pytest.mark.parametrize("count", [2, 3, 8, 64])
def test_noise_is_no_alarm(count: int) -> None:
    assert not any(series(count, 400, lambda dice, *_: dice.lognormvariate(0, 0.1)))


def test_hiccups_are_no_alarm() -> None:
    """Each rank has a bad interval now and then, four times as long, and one has them twice as often."""
    said = series(8, 1000, lambda dice, rank, _: 4.0 if dice.random() < (0.2 if rank == 3 else 0.1) else 1.0)
    assert not any(said)


@pytest.mark.parametrize("count", [2, 3, 8, 64])
def test_a_slow_rank_is_named_within_ten_intervals(count: int) -> None:
    slow = count - 1
    said = series(count, 40, lambda dice, rank, i: dice.gauss(0.1, 0.001) * (1.24 if rank == slow and i >= 20 else 1))
    assert not any(said[:28]) and all(said[29:])
    assert f"rank {slow} (node2, GPU {slow % 4}) is 24 % slower than the others; all wait for it" in said[29:]


def test_it_stays_named_at_the_edge_and_goes_once_it_is_as_the_others() -> None:
    """Around 1.2 times it would come and go with each interval."""
    said = series(4, 200, lambda dice, rank, i: (1.3 if i < 20 else dice.gauss(1.22, 0.02) if i < 100 else 1.0)
                  if rank == 2 else 1.0)  # fmt: skip
    assert all(said[8:100]) and not any(said[109:])


def test_the_slow_half_is_counted() -> None:
    said = series(16, 10, lambda _, rank, __: 1.5 + rank / 100 if rank > 8 else 1.0)
    assert said[-1] == "rank 15 (node2, GPU 3) and 6 more are up to 65 % slower than the others; all wait for them"


def test_more_work_is_not_slowness() -> None:
    """Three mini-batches over two ranks: one has two of them, each step."""
    ranks = [RankState(0, compute_s=0.2, tokens=8192), RankState(1, compute_s=0.1, tokens=4096)]
    watch = StragglerWatch()
    assert not any(watch.note(ranks) for _ in range(50))
    assert any(watch.note([replace(ranks[0], compute_s=0.26), ranks[1]]) for _ in range(50))


def test_a_rank_that_is_done_first_is_waited_for_by_none() -> None:
    """It is dealt the short samples; what a pass costs whatever its length makes each of its tokens dear."""
    watch = StragglerWatch()
    ranks = [RankState(0, compute_s=0.2, tokens=8192), RankState(1, compute_s=0.15, tokens=2048)]
    assert not any(watch.note(ranks) for _ in range(50))


def test_what_nobody_would_notice_is_no_alarm() -> None:
    watch = StragglerWatch()
    assert not any(watch.note([RankState(0, compute_s=0.004), RankState(1, compute_s=0.008)]) for _ in range(50))
    assert any(watch.note([RankState(0, compute_s=0.04), RankState(1, compute_s=0.08)]) for _ in range(50))


def test_a_rank_without_work_is_none_to_compare_with() -> None:
    ranks = [RankState(rank, compute_s=own, tokens=tokens) for rank, own, tokens in ((0, 0.1, 9), (1, 0.0, 0))]
    watch = StragglerWatch()
    assert not any(watch.note(ranks) for _ in range(50))


def test_another_number_of_ranks_begins_anew() -> None:
    watch = StragglerWatch()
    for _ in range(9):
        found = watch.note(many_ranks(4, slow=1))
    assert found is not None
    assert watch.note(many_ranks(3, slow=1)) is None


def test_it_is_told_once(run: RunFolder) -> None:
    recorder = RankRecorder(run.files, clock=itertools.count().__next__)
    told = [recorder.interval(many_ranks(4, slow=1), 0.25)[1] for _ in range(30)]
    assert [i for i, found in enumerate(told) if found] == [8]


def test_however_short_log_intervals_are_it_takes_seconds_to_be_slow(run: RunFolder) -> None:
    recorder = RankRecorder(run.files, clock=itertools.count(0, 0.25).__next__)
    told = [recorder.interval(many_ranks(4, slow=1), 0.25)[1] for _ in range(100)]
    assert [i for i, found in enumerate(told) if found] == [32]
