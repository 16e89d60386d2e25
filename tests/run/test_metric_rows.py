"""Lines of `metrics.jsonl` read as columns say what each of them says alone."""

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.options import Launch
from lmplay_tui.run.axes import At
from lmplay_tui.run.events import RunStarted, StageInfo, from_record
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.history import MetricRows
from lmplay_tui.run.journal import Tail, encode
from lmplay_tui.run.metric_rows import MetricsTail
from lmplay_tui.run.series import RECENT, Series
from lmplay_tui.run.view import RunView
from lmplay_tui.ui.session import LiveSource
from tests.examples import examples
from tests.seams import for_a_while
from tests.train.conftest import _one_thread, place  # noqa: F401  (fixtures)
from tests.train.runs import stop_after, train, write_plan
from tests.ui.fake import Clock

STAGES = tuple(StageInfo(name, ("x",), 1.0, 10_000, 0) for name in ("topics", "docstrings"))


@pytest.fixture(scope="module", autouse=True)
def short_stretches() -> Iterator[None]:
    """Columns for some lines already, and lines alone below that."""
    with for_a_while() as seams:
        seams.put("columns from", 1)
        seams.put("columns at least", 600)
        yield


def row(step: int, **values: Any) -> dict[str, Any]:
    return {
        "time": "2026-11-25T02:03:31.123Z", "elapsed_s": 0.37 * step, "step": step, "samples": 5 * step,
        "stage_samples": 4 * step, "tokens": 700 * step, "stage": "topics" if step < 60 else "docstrings",
        "epoch": step / 100, "row": 5 * step, "train/loss": 3 + math.sin(step), "train/lr": 1e-3,
        "perf/mfu": None, "time/step_s": 0.37, "time/data_s": 0.01, "time/forward_s": 0.1, "sys/ram": 12,
    } | values  # fmt: skip


def scores(step: int) -> dict[str, Any]:
    """A line without steps."""
    of_steps = ("train/", "perf/", "sys/", "time/")
    kept = {name: value for name, value in row(step).items() if not name.startswith(of_steps)}
    return kept | {"val/loss": 2.5, "time/validate_s": 0.2}


def fresh() -> RunView:
    view = RunView(Clock())
    view.follow(RunStarted("a", "cpu", 1, 0, 0, 0, STAGES, None, "", 1))
    return view


def picture(view: RunView) -> dict[str, Any]:
    """All that a view holds of lines of metrics."""
    curves = {}
    for name, series in view.history.series.items():
        points = series.points("tokens")
        curves[name] = [points.x, points.mean, points.least, points.greatest, points.count, series.points("time").x]
    return {
        "curves": {name: [array.tolist() for array in arrays] for name, arrays in curves.items()},
        "at": view.at, "last step": repr((view.lr, view.text_shown)), "stage": view.stage_index,
        "stages": repr(view.stages), "state": view.state, "log": [each.text for each in view.log],
        "marks": list(view.marks), "predictions": [repr(each.prediction) for each in view.predictions],
        "pace": (list(view.pace._marks), view.pace._last), "pins": view.pinned,
    }  # fmt: skip


def line_by_line(view: RunView, *paths: Path) -> RunView:
    for path in paths:
        for record in Tail(path).read(1 << 30):
            view.follow_past(from_record(record))
    return view


def in_bulk(view: RunView, *paths: Path, chunk: int = 1 << 20) -> tuple[RunView, int]:
    """The view, and how many lines came as columns."""
    columns = 0
    for path in paths:
        tail = MetricsTail(path)
        more = True
        while more:
            for item in tail.read_rows(chunk):
                view.follow_past(item if isinstance(item, MetricRows) else from_record(item))
                columns += len(item) if isinstance(item, MetricRows) else 0
            more = tail.behind
    return view, columns


def same(bulk: RunView, single: RunView) -> None:
    ours, theirs = picture(bulk), picture(single)
    for part, value in theirs.items():
        assert repr(ours[part]) == repr(value), part  # as text, NaN is NaN
    assert bulk.step_time.shares() == pytest.approx(single.step_time.shares(), nan_ok=True)


def write(path: Path, lines: list[bytes | dict[str, Any]], end: bytes = b"\n") -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else encode(line).encode() for line in lines) + end)
    return path


@examples(25)
@given(st.lists(st.tuples(st.integers(0, 3 * RECENT), st.floats(0, 1) | st.none()), min_size=1, max_size=5))
def test_many_points_at_once_are_those_points_one_by_one(parts: list[tuple[int, float | None]]) -> None:
    dice = np.random.default_rng(0)
    one, many, step = Series(), Series(), 0
    for count, kept in parts:
        at = np.arange(step, step + count)[:, None] * np.array([1.0, 10.0, 1000.0, 0.5])
        values = dice.normal(size=count)
        values[dice.random(count) < 0.1] = math.nan
        for place_, value in zip(at.tolist(), values.tolist(), strict=True):
            one.add(At(*place_), value, place_[0] % 3 + 1)
        many.add_many(at, values, at[:, 0] % 3 + 1)
        step += count
        if kept is not None:
            step = int(step * kept)
            one.drop_beyond(step)
            many.drop_beyond(step)
    for axis in ("step", "time"):
        ours, theirs = many.points(axis), one.points(axis)
        for name in ("x", "mean", "least", "greatest", "count"):
            assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()
    assert len(many) == len(one) and many.version == one.version


def test_a_real_run_with_a_resume_and_three_stages(place: Path) -> None:  # noqa: F811
    plan = write_plan(place)
    for run_it in (lambda **options: stop_after(9, **options), train):
        run_it(training_plan=plan, model="a.lmp", log_interval=1)
    run = RunFolder(place / "a.lmp")
    assert b"resumed_from" in run.metrics.read_bytes()
    paths = run.events, run.metrics, run.predictions
    bulk, columns = in_bulk(RunView(Clock()), *paths)
    same(bulk, line_by_line(RunView(Clock()), *paths))
    assert columns > 10
    assert bulk.history.series["train/loss"].points().x[-1] == bulk.at.step > 9
    source = LiveSource(Launch({"model": "a.lmp"}))
    source._remember(run)
    while source.poll():
        pass
    same(source.view, line_by_line(RunView(Clock()), *paths))


def test_a_run_that_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """Its lines have the reduction's time, and the ranks' figures, or they have not."""
    of_ranks = {"time/reduce_s": 0.03, "ranks/slowest": 1.0, "ranks/wait_share": 0.1}
    lines = [row(step, **(of_ranks if 30 <= step < 70 else {})) for step in range(1, 100)]
    path = write(tmp_path / "metrics.jsonl", [lines[0], *lines[1:30], {"resumed_from": 30}, *lines[30:]])
    bulk, columns = in_bulk(fresh(), path)
    same(bulk, line_by_line(fresh(), path))
    assert columns > 50
    assert 0 < bulk.step_time.shares()["reduce"] < 0.03 / 0.37
    assert bulk.history.series["ranks/slowest"].points().x.tolist() == list(range(30, 70))


hostile = st.sampled_from([
    b"", b"not json", b"[1]", b"7", b"{}", b"null", b"{", b"}", b'{"step":', b'{"step":5}', b'{"step":5}{"step":6}',
    b'{"event":"Warned","message":"x","step":3}', b'{"prompt":"x","step":3}', b'{"step":"x","a/b":[]}', b"\xff\xfe",
    b'{"resumed_from":20}', b'{"resumed_from":"x"}', b'{"resumed\\u005ffrom":7}', b'{"a":1,"a":2}', b"\r", b"{\x00}",
])  # fmt: skip
odd_values = st.fixed_dictionaries({}, optional={
    "train/loss": st.sampled_from([None, math.nan, -math.inf, "x", True, 5, [1], 10**30, -0.0]),
    "time/step_s": st.sampled_from([None, math.nan, "x", -1, 2]),
    "time/validate_s": st.sampled_from([0.5, None]), "val/loss": st.sampled_from([1.0, "x", None]),
    "eval/a/loss": st.just(2.0), "data/new": st.integers(),
    "a/\x1b[1m": st.just(1.0), "b/" + "x" * 70: st.just(2.0), "no slash": st.just({"a": 1}),
    "a/time": st.just("2026-11-25"), "stage": st.sampled_from(["topics", "?", "", None, 'a "b"', "NaN"]),
    "steps": st.sampled_from([None, 1, 10, 0, -3, True, 2.5, "x", 10**12, 10**20]),
    "step": st.sampled_from([0, 7, True, 5.0, None, "7", 10**20]), "samples": st.sampled_from([None, math.nan, 2.5]),
    "stage_samples": st.sampled_from([None, 2.5, "x"]), "elapsed_s": st.sampled_from([0, -5, 1e300, None]),
})  # fmt: skip


@examples(60)
@given(
    st.lists(st.tuples(st.integers(0, 119), hostile | odd_values), max_size=4),
    st.sampled_from([b"\n", b"", b'\n{"step":']), st.integers(400, 20_000),
)  # fmt: skip
def test_whatever_stands_in_the_file(
    tmp_path_factory: pytest.TempPathFactory, odd: list[tuple[int, bytes | dict[str, Any]]], end: bytes, chunk: int
) -> None:
    lines: list[bytes | dict[str, Any]] = [row(step) if step % 7 else scores(step) for step in range(120)]
    for where, what in odd:
        lines.insert(where, what if isinstance(what, bytes) else row(where) | what)
    path = write(tmp_path_factory.mktemp("j") / "metrics.jsonl", lines, end)
    bulk, columns = in_bulk(fresh(), path, chunk=chunk)
    same(bulk, line_by_line(fresh(), path))
    assert columns > 20 or chunk < 2000


@pytest.mark.parametrize("without", [range(0, 200, 3), range(150, 200), range(200)])
def test_lines_of_scores_alone_keep_to_columns_and_move_nothing(tmp_path: Path, without: range) -> None:
    """Wherever they stand, the last ones of a stage, and a whole stretch of them, too."""
    lines: list[bytes | dict[str, Any]] = [scores(i) if i in without else row(i) for i in range(200)]
    path = write(tmp_path / "metrics.jsonl", lines)
    bulk, columns = in_bulk(fresh(), path)
    same(bulk, line_by_line(fresh(), path))
    assert columns == 200
    assert bulk.at.step == max((i for i in range(200) if i not in without), default=0)
    assert "val/loss" not in bulk.history.series, "it comes as an event"


def test_numbers_that_are_not_finite_keep_to_columns(tmp_path: Path) -> None:
    lines: list[bytes | dict[str, Any]] = [row(i, **{"train/grad_norm": math.nan}) for i in range(100)]
    path = write(tmp_path / "metrics.jsonl", lines)
    bulk, columns = in_bulk(fresh(), path)
    same(bulk, line_by_line(fresh(), path))
    assert columns == 100
    assert len(bulk.history.series["train/grad_norm"]) == 0


def test_columns_are_read_without_pandas(tmp_path: Path) -> None:
    """Importing it takes a quarter of a second, more than the rest of what a viewer needs."""
    lines: list[bytes | dict[str, Any]] = [row(i) for i in range(2000)]
    lines[7] = row(7, **{"val/loss": 1.0, "sys/cpu": 0.5})  # a column with gaps, too
    path = write(tmp_path / "metrics.jsonl", lines)
    code = (
        "import sys; from pathlib import Path; from lmplay_tui.run.history import MetricRows;"
        "from lmplay_tui.run.metric_rows import MetricsTail;"
        f"items = MetricsTail(Path({str(path)!r})).read_rows();"
        "print(sum(len(item) for item in items if isinstance(item, MetricRows)), 'pandas' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["2000", "False"]


def test_a_file_that_was_replaced_gives_no_row_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", [row(i) for i in range(100)])
    tail, view = MetricsTail(path), fresh()
    for end in (100, 150):
        write(tmp_path / "new", [row(i) for i in range(end)]).replace(path)
        for item in tail.read_rows():
            view.follow_past(item if isinstance(item, MetricRows) else from_record(item))
    assert view.history.series["train/loss"].points().x.tolist() == list(range(150))


def test_a_live_run_takes_its_curves_from_lines_and_its_place_from_steps(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", [row(i, steps=1) for i in range(100)])
    views = fresh(), fresh()
    for view in views:
        view.lives_by_steps = True
    bulk, columns = in_bulk(views[0], path)
    same(bulk, line_by_line(views[1], path))
    assert columns == 100
    assert len(bulk.history.series["train/loss"]) == len(bulk.history.series["sys/ram"]) == 100
    assert bulk.at.step == 0 and not bulk.step_time.shares()
