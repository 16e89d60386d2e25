"""Curves in memory: what must survive reduction, and what may not grow."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.run.axes import AXES, At
from lmplay_tui.run.history import MAX_METRICS, History
from lmplay_tui.run.series import (
    BUCKETS,
    RECENT,
    Points,
    Series,
    in_bins,
    moving_mean,
    moving_mean_at,
    to_columns,
)
from tests.examples import examples


def filled(values: np.ndarray, start: int = 1) -> Series:
    series = Series()
    for i, value in enumerate(values, start):
        series.add(At(i, i * 10, i * 1000, i * 0.5), float(value))
    return series


def test_few_points_are_kept_exactly() -> None:
    values = np.random.default_rng(0).normal(size=RECENT)
    points = filled(values).points("rows")
    assert points.mean.tolist() == values.tolist()
    assert points.x.tolist() == [10.0 * i for i in range(1, RECENT + 1)]


@pytest.mark.parametrize("count", [2 * RECENT, 2 * RECENT + 1, 3 * RECENT, 20 * RECENT + 7])
def test_every_value_is_counted_once_and_extremes_survive(count: int) -> None:
    values = np.random.default_rng(1).normal(size=count)
    values[count // 3], values[5] = 99.0, -99.0
    points = filled(values).points()
    assert points.count.sum() == count
    assert points.greatest.max() == 99.0
    assert points.least.min() == -99.0
    assert np.isclose((points.mean * points.count).sum() / count, values.mean())
    assert np.all(np.diff(points.x) > 0)
    assert points.mean[-RECENT:].tolist() == values[-RECENT:].tolist()


def test_memory_is_bounded_and_a_spike_of_one_step_is_drawn_after_a_million() -> None:
    series = Series()
    rows = np.random.default_rng(2).normal(size=1_000_000)
    rows[123_456] = 50.0
    for i, value in enumerate(rows.tolist()):
        series.add(At(i, i, i, i), value)
    points = series.points()
    assert len(points) <= BUCKETS + 2 * RECENT
    assert points.count.sum() == 1_000_000
    x, y = to_columns(points, 0, 1_000_000, 200)
    assert y.max() == 50.0
    assert abs(x[y.argmax()] - 123_456) < 1_000_000 / 200
    assert len(x) <= 2 * 203


@examples(30)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 40))
def test_columns_keep_the_extremes_of_what_is_in_sight(values: list[float], columns: int) -> None:
    points = filled(np.array(values)).points()
    x, y = to_columns(points, 0, len(values) + 1, columns)
    assert y.min() == min(values)
    assert y.max() == max(values)
    assert np.all(np.diff(x) >= 0)


def test_a_resume_drops_what_came_after() -> None:
    series = filled(np.arange(3 * RECENT, dtype=float))
    series.drop_beyond(2.5 * RECENT)
    assert series.points().x[-1] == 2.5 * RECENT
    series.drop_beyond(100)
    assert series.points().x[-1] <= 100
    series.add(At(101, 1, 1, 1), 7.0)
    assert series.last() == 7.0


def test_what_is_not_finite_leaves_a_gap() -> None:
    series = filled(np.array([1.0, math.nan, math.inf, 2.0]))
    assert series.points().x.tolist() == [1.0, 4.0]


def test_axes_place_the_same_points() -> None:
    history = History()
    for i in range(1, 11):
        history.add("train/loss", At(i, i * 10, i * 1000, i * 0.5), i)
    assert [history.locate(4, axis) for axis in AXES] == [4.0, 40.0, 4000.0, 2.0]


def test_invented_metrics_do_not_fill_the_memory() -> None:
    history = History()
    for i in range(MAX_METRICS + 50):
        history.add(f"x/{i}", At(1, 1, 1, 1), 1.0)
    assert len(history.series) == MAX_METRICS


def as_points(means: list[float], counts: list[int]) -> Points:
    mean, count = np.array(means), np.array(counts, dtype=float)
    return Points(np.cumsum(count), mean, mean, mean, count)


@examples(60)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 30)), min_size=1, max_size=60), st.integers(2, 90))
def test_a_point_counts_the_steps_that_it_stands_for(blocks: list[tuple[float, int]], steps: int) -> None:
    """A mean over lines of many steps is that over the steps themselves; the window may begin inside a line."""
    points = as_points([value for value, _ in blocks], [count for _, count in blocks])
    one_by_one = [value for value, count in blocks for _ in range(count)]
    smooth = moving_mean(points, steps)
    for i, end in enumerate(np.cumsum(points.count).astype(int).tolist()):
        expected = np.mean(one_by_one[max(end - steps, 0) : end])
        assert smooth[i] == pytest.approx(expected, abs=1e-9)
        assert moving_mean_at(points, steps, float(end)) == pytest.approx(expected, abs=1e-9)


def test_a_huge_value_does_not_touch_what_comes_after_it() -> None:
    points = as_points([1.0, 1e30, *[1.0] * 200], [1] * 202)
    assert moving_mean(points, 50)[-1] == 1.0


def test_a_series_weighs_its_points_by_their_steps() -> None:
    """Before and after they are joined to buckets."""
    series = Series()
    series.add(At(10, 1, 1, 1), 1.0, 10)
    series.add(At(12, 1, 1, 1), 4.0, 2)
    assert series.recent_mean(12) == pytest.approx((10 * 1.0 + 2 * 4.0) / 12)
    assert series.recent_mean(4) == pytest.approx((2 * 1.0 + 2 * 4.0) / 4)
    for step in range(13, 9 * RECENT):
        series.add(At(step, 1, 1, 1), 0.0)
    points = series.points()
    assert points.count.sum() == 9 * RECENT - 1 and points.count[0] > 2
    assert (points.mean * points.count).sum() == pytest.approx(18)


@pytest.mark.parametrize("steps", [1, 50, 1000])
def test_the_smoothed_value_at_one_place_is_the_curves(steps: int) -> None:
    points = filled(np.random.default_rng(3).normal(size=5 * RECENT)).points()
    whole = moving_mean(points, steps)
    for i in (0, 100, len(points) - 1):
        assert moving_mean_at(points, steps, float(points.x[i])) == pytest.approx(whole[i])
    assert moving_mean_at(points, steps) == pytest.approx(whole[-1])
    assert math.isnan(moving_mean_at(points, steps, 0.5))
    assert math.isnan(moving_mean_at(points, steps, 5 * RECENT + 1))


@pytest.mark.parametrize(("first", "last"), [(0, 5000), (4000, 4100), (4990, 5000)])
def test_smoothing_bins_is_nearly_smoothing_all(first: float, last: float) -> None:
    noise = np.random.default_rng(4).normal(size=5000)
    points = filled(5 * np.exp(-np.arange(5000) / 1500) + noise).points()
    bins = in_bins(points, first, last, 140, 100)
    values = moving_mean(bins, 100)
    seen = bins.x >= max(first, 300)
    exact = np.interp(bins.x, points.x, moving_mean(points, 100))
    assert np.abs(values - exact)[seen].max() < 0.25
    assert len(bins) <= 140 + 5000 / ((last - first) / 140) + 2
    assert bins.least.min() <= points.between(first, last).least[1:-1].min()
