import json
import math
import pickle
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.errors import UserError
from lmplay_tui.run.statistics import (
    AVERAGED,
    COLUMNS,
    MAX_POINTS,
    RecordedSeries,
    RunStatistics,
    clash,
    read_statistics,
    statistics_path,
)

losses = st.floats(0, 50, allow_nan=False) | st.sampled_from([math.inf, math.nan])
updates = st.tuples(
    st.sampled_from(["train", "validate", "skip"]),
    st.sampled_from(["pretraining", "finetune"]),
    st.integers(1, 60),  # rows
    st.integers(1, 5000),  # tokens
    st.integers(1, 4000),  # of them in the loss
    losses,
    st.none() | st.floats(0, 1),  # by words
    st.none() | st.floats(0, 1),  # by characters
)


def record(statistics: RunStatistics, update) -> None:
    kind, stage, rows, tokens, loss_tokens, loss, accuracy, by_characters = update
    if kind == "skip":
        statistics.skipped(stage, rows=rows)
    else:
        told = statistics.trained if kind == "train" else statistics.validated
        told(
            stage, rows=rows, tokens=tokens, loss_tokens=loss_tokens, loss=loss, accuracy=accuracy,
            character_accuracy=by_characters,
        )  # fmt: skip


def files(statistics: RunStatistics, folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in statistics.write(folder)}


@given(st.lists(updates, max_size=40), st.integers(0, 40))
def test_a_run_that_was_stopped_and_resumed_writes_the_same_bytes(tmp_path_factory, history, stop):
    straight, stopped, resumed = RunStatistics("m"), RunStatistics("m"), RunStatistics("m")
    for update in history:
        record(straight, update)
    for update in history[:stop]:
        record(stopped, update)
    resumed.load(pickle.loads(pickle.dumps(stopped.state())))
    for update in history[stop:]:
        record(stopped, update)  # what was saved must not change under the hands of the saver
        record(resumed, update)
    folder = tmp_path_factory.mktemp("out")
    assert files(resumed, folder / "resumed") == files(straight, folder / "straight")


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(1, 100)), max_size=200), st.sampled_from([2, 4, 10, 16]))
def test_a_series_is_bounded_leaves_nothing_out_and_is_a_plain_mean_over_its_stride(pairs, max_points):
    series = RecordedSeries(max_points)
    for index, (loss, weight) in enumerate(pairs):
        series.add(samples=index + 1, tokens=10 * (index + 1), loss_tokens=weight, loss=loss, accuracy=None)
        assert len(series.history()) <= max_points
    expected = []
    for begin in range(0, len(pairs), series.stride):
        part = pairs[begin : begin + series.stride]
        mean = sum(loss * weight for loss, weight in part) / sum(weight for _, weight in part)
        end = begin + len(part)
        expected.append([end, None, pytest.approx(mean, rel=1e-9, abs=1e-9), 10 * end])
    assert series.history() == expected
    assert series.stride == 1 or len(expected) >= max_points // 2


@given(st.lists(st.floats(0, 50), min_size=1, max_size=100), st.integers(0, 100))
def test_a_thinned_series_goes_on_exactly_where_it_was(recorded, stop):
    straight, stopped, resumed = RecordedSeries(8), RecordedSeries(8), RecordedSeries(8)
    for index, loss in enumerate(recorded):
        for series in (straight, stopped if index < stop else resumed):
            if index == stop:
                resumed.load(stopped.state())
            series.add(samples=index, tokens=index, loss_tokens=index + 1, loss=loss, accuracy=loss / 50)
    if stop >= len(recorded):
        resumed.load(stopped.state())
    assert resumed.state() == straight.state()
    assert resumed.history() == straight.history()


def test_the_histories_of_a_long_run_have_at_most_ten_thousand_points(tmp_path):
    statistics = RunStatistics("long")
    for step in range(25_000):
        spike = 100.0 if step == 12_345 else 2.0
        statistics.trained("only", rows=50, tokens=900, loss_tokens=800, loss=spike, accuracy=None)
    statistics.write(tmp_path)
    history = read_statistics(statistics_path(tmp_path, "long", None, "train")).history
    assert MAX_POINTS / 2 <= len(history) <= MAX_POINTS
    assert history[-1] == [25_000 * 50, None, 2.0, 25_000 * 900]
    assert max(row[2] or 0 for row in history) > 20  # the one bad step of 25,000 still shows
    assert len(pickle.dumps(statistics.state(), protocol=2)) < 1_500_000


def test_totals_averages_and_places_on_the_curve(tmp_path):
    statistics = RunStatistics("m")
    statistics.trained("a", rows=2, tokens=100, loss_tokens=80, loss=3.0, accuracy=0.25)
    statistics.trained("a", rows=3, tokens=50, loss_tokens=20, loss=5.0, accuracy=None)
    statistics.validated("a", rows=4, tokens=70, loss_tokens=60, loss=4.0, accuracy=0.5)
    statistics.skipped("b", rows=6)
    statistics.trained("b", rows=1, tokens=10, loss_tokens=10, loss=1.0, accuracy=0.75)

    stats = statistics.state()["stats"]
    assert (stats["total_train_samples"], stats["total_train_tokens"]) == (12, 160)
    assert (stats["train_loss_total"], stats["train_loss_tokens"]) == (3.0 * 80 + 5.0 * 20 + 1.0 * 10, 110)
    assert (stats["total_validate_samples"], stats["validate_loss_total"]) == (4, 240.0)
    assert statistics.state()["step_stats"]["b"]["total_train_samples"] == 7

    paths = statistics.write(tmp_path)
    assert sorted(path.name for path in paths) == [
        "m_step_a_train_stats.json",
        "m_step_a_validate_stats.json",
        "m_step_b_train_stats.json",
        "m_step_b_validate_stats.json",
        "m_train_stats.json",
        "m_validate_stats.json",
    ]
    document = json.loads((tmp_path / "m_train_stats.json").read_text())
    assert list(document) == ["name", "stage", "split", "columns", "history", "averages", "totals"]
    assert document["columns"] == list(COLUMNS)
    assert document["history"] == [[2, 0.25, 3.0, 100], [5, None, 5.0, 150], [12, 0.75, 1.0, 160]]
    assert document["averages"]["loss"] == pytest.approx(350 / 110)
    assert document["averages"]["accuracy"] == pytest.approx((0.25 * 80 + 0.75 * 10) / 90)
    # A validation stands where training had come to, over the run and within its stage.
    assert read_statistics(tmp_path / "m_validate_stats.json").history == [[5, 0.5, 4.0, 150]]
    stage = read_statistics(tmp_path / "m_step_b_train_stats.json")
    assert (stage.stage, stage.split, stage.history) == ("b", "train", [[7, 0.75, 1.0, 10]])


def test_a_running_average_forgets():
    series = RecordedSeries()
    for step in range(3 * AVERAGED):
        loss = 9.0 if step < 2 * AVERAGED else 1.0
        series.add(samples=step, tokens=step, loss_tokens=5, loss=loss, accuracy=0.5)
    assert series.averages() == {"loss": 1.0, "accuracy": 0.5, "updates": AVERAGED, "last_loss": 1.0}


def test_numbers_that_are_not_finite_are_written_as_strings_and_read_back(tmp_path):
    statistics = RunStatistics("m")
    for loss in (math.nan, math.inf):
        statistics.trained("a", rows=1, tokens=1, loss_tokens=1, loss=loss, accuracy=None)
    statistics.write(tmp_path)
    path = tmp_path / "m_train_stats.json"

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(path.read_text(), parse_constant=refuse)
    assert [row[2] for row in document["history"]] == ["NaN", "Infinity"]
    assert [str(row[2]) for row in read_statistics(path).history] == ["nan", "inf"]


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path):
    statistics = RunStatistics("m")
    statistics.trained("a", rows=1, tokens=1, loss_tokens=1, loss=1.0, accuracy=None)
    before = files(statistics, tmp_path)
    statistics.trained("a", rows=1, tokens=1, loss_tokens=1, loss=2.0, accuracy=None)

    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1]))  # as on a full disk: its first bytes are taken
        with pytest.raises(OSError, match="File too large"):
            statistics.write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        signal.signal(signal.SIGXFSZ, ignored)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert files(statistics, tmp_path) != before  # and the next save brings it up to date


def test_the_state_is_plain_values_that_a_checkpoint_takes(tmp_path):
    torch = pytest.importorskip("torch")
    statistics = RunStatistics("m")
    for step in range(3):
        statistics.trained("a", rows=1, tokens=5, loss_tokens=5, loss=2.0 / (step + 1), accuracy=None)
        statistics.validated("a", rows=1, tokens=5, loss_tokens=5, loss=2.0, accuracy=0.5)
    torch.save(statistics.state(), tmp_path / "state.pt")
    again = RunStatistics("m")
    again.load(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.state() == statistics.state()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"name": 1}',
        "[" * 100_000,
        "\x00\xff",
        '{"name":"a","stage":null,"split":"train","columns":["loss"],"history":[],"averages":{},"totals":{}}',
        '{"name":"a","stage":null,"split":"train","columns":["samples","accuracy","loss","tokens"],'
        '"history":[[1,2,3]],"averages":{},"totals":{}}',
        '{"name":"a","stage":null,"split":"train","columns":["samples","accuracy","loss","tokens"],'
        '"history":[[1,2,"x\\u001b[31m",4]],"averages":{},"totals":{}}',
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, text):
    path = tmp_path / "m_train_stats.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        read_statistics(path)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_checkpoint_of_before_accuracy_by_characters_goes_on_as_it_was():
    straight, resumed = RecordedSeries(), RecordedSeries()
    for step in range(5):
        straight.add(samples=step, tokens=step, loss_tokens=3, loss=2.0, accuracy=0.5)
    old = straight.state()
    old |= {"points": old["points"][:6], "recent": old["recent"][:3]}
    resumed.load(old)
    for series in (straight, resumed):
        series.add(samples=6, tokens=6, loss_tokens=2, loss=1.0, accuracy=None, character_accuracy=0.75)
    assert resumed.state() == straight.state()
    assert resumed.history()[-1] == [6, None, 1.0, 6, 0.75]
    assert resumed.averages()["character_accuracy"] == 0.75


PAIRS = [("m", "m_step_x"), ("m_step_x", "m"), ("a", "a_step_b"), ("a_step_b", "a")]


def trained(name: str, stage: str) -> RunStatistics:
    statistics = RunStatistics(name)
    statistics.trained(stage, rows=1, tokens=2, loss_tokens=2, loss=1.0, accuracy=None)
    return statistics


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_no_run_writes_over_anothers_statistics(tmp_path: Path, first: str, second: str) -> None:
    """Names are joined by `_step_`, which a name may hold; the run that came first keeps its files."""
    stages = {"m": "x", "m_step_x": "y", "a": "b_step_c", "a_step_b": "c"}
    before = files(trained(first, stages[first]), tmp_path)
    with pytest.raises(OSError, match=f"is of run {first} and stays"):
        trained(second, stages[second]).write(tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.items() <= after.items()
    assert len(after) == 6, "what is nobody else's is written"
    assert files(trained(first, stages[first]), tmp_path) == before
    assert clash(tmp_path, second, [stages[second]]) is not None
    assert clash(tmp_path, first, [stages[first]]) is None


@pytest.mark.parametrize(
    "head",
    ["", "{", '{"name":"other"', '{"name":"other",\n"stage":null,\n"split":"train",\n', "[" * 5000, '{"name":7}'],
)
def test_what_is_no_other_runs_is_written_over(tmp_path: Path, head: str) -> None:
    """A file of another program, a damaged one, one that a hand has renamed: its own run would not look for it here."""
    path = statistics_path(tmp_path, "m", None, "train")
    path.write_text(head, encoding="utf-8")
    assert clash(tmp_path, "m", []) is None
    trained("m", "x").write(tmp_path)
    assert read_statistics(path).name == "m"
