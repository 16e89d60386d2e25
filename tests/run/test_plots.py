import itertools
import math
import os
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmplay_tui.errors import UserError
from lmplay_tui.run.charts import PlotOptions, difference_chart, level_chart, load_curves, statistics_in, trend_of
from lmplay_tui.run.plots import COLOURS, STYLES, curves_of, draw_combined, draw_own, spread, write_pngs
from lmplay_tui.run.statistics import StatisticsFile, write_statistics
from lmplay_tui.run.terminal_plots import terminal_chart
from tests.run.recorded_runs import curve, falling, record_run

PNG = b"\x89PNG\r\n\x1a\n"
RAW = PlotOptions(average_count=1, min_show=1.0)

values = st.floats(0.0, 1e6) | st.sampled_from([math.nan, 0.0, 1e300])
points = st.lists(st.tuples(st.floats(1, 1e6), values, values), min_size=1, max_size=60)
runs_of_points = st.lists(points, min_size=1, max_size=5)
FAST = settings(max_examples=60)


def made(points):
    """Curves a, b, ... of the drawn points, tokens running up."""
    return [
        curve(letter, np.cumsum([t for t, _, _ in rows]).tolist(), [x for _, x, _ in rows], [y for _, _, y in rows])
        for letter, rows in zip(string.ascii_lowercase, points, strict=False)
    ]


class TestSmoothing:
    @FAST
    @given(st.floats(-100, 100), st.floats(-1, 1), st.integers(1, 300), st.integers(1, 400))
    def test_a_straight_line_stays_to_its_very_ends(self, begin, slope, num, count):
        line = begin + slope * np.arange(num)
        assert trend_of(line, count) == pytest.approx(line, abs=1e-6)

    @FAST
    @given(st.lists(st.floats(0, 20) | st.just(math.nan), max_size=200), st.integers(1, 50))
    def test_it_stays_within_what_was_recorded(self, recorded, count):
        array = np.array(recorded, dtype=np.float64)
        trend = trend_of(array, count)
        assert len(trend) == len(array)
        known, shown = array[np.isfinite(array)], trend[np.isfinite(trend)]
        assert not len(shown) or (shown.min() >= known.min() and shown.max() <= known.max())
        assert np.isfinite(trend[np.isfinite(array)]).all()

    def test_noise_goes_and_the_early_fall_stays(self):
        true = np.array([falling(step) for step in range(2000)])
        noise = np.random.default_rng(0).normal(0, 0.3, len(true))
        error = trend_of(true + noise, 300) - true
        assert np.abs(error[:20]).max() < 0.5
        assert np.abs(error[200:]).max() < 0.15
        assert abs(error[-1]) < 0.15

    def test_a_run_that_blew_up_does_not_stain_what_follows(self):
        array = np.concatenate([np.full(50, 1e300), np.tile([3.0, 5.0], 1000)])
        assert trend_of(array, 100)[300:] == pytest.approx(4.0, abs=0.1)


class TestReading:
    def test_a_damaged_file_is_named_and_the_others_are_drawn(self, tmp_path):
        record_run(tmp_path, "good")
        (tmp_path / "bad_train_stats.json").write_text('{"name": "bad", "his', encoding="utf-8")
        found, problems = load_curves(statistics_in(tmp_path))
        assert {c.name for c in found} == {"good"}
        assert len(problems) == 1
        assert "bad_train_stats.json" in problems[0]
        assert "line 1" in problems[0]

    def test_numbers_that_cannot_be_drawn_are_gaps(self, tmp_path):
        rows = [[1, None, 5.0, 10], [2, 0.5, math.nan, 20], [3, 0.5, math.inf, 30], [4, 0.5, 4.0, None]]
        write_statistics(tmp_path / "m_train_stats.json", StatisticsFile("m", None, "train", rows, {}, {}))
        (found,), _ = load_curves(statistics_in(tmp_path))
        assert found.tokens.tolist() == [10, 20, 30]
        assert [str(x) for x in found.loss] == ["5.0", "nan", "nan"]

    def test_runs_of_one_name_are_told_apart(self, tmp_path):
        paths = []
        for folder in ("monday", "tuesday"):
            (tmp_path / folder).mkdir()
            paths += record_run(tmp_path / folder, "m", steps=4)
        found, _ = load_curves(paths)
        assert {c.label for c in found if c.split == "train"} == {
            "monday/m",
            "monday/m · first",
            "monday/m · second",
            "tuesday/m",
            "tuesday/m · first",
            "tuesday/m · second",
        }

    def test_a_name_is_foreign_text(self, tmp_path):
        content = StatisticsFile("e\x1b[31mvil\n", "st\u202eage", "train", [[1, 0.1, 2.0, 3]], {}, {})
        write_statistics(tmp_path / "m_train_stats.json", content)
        (found,), _ = load_curves(statistics_in(tmp_path))
        assert found.label == "e␛[31mvil · st\ufffdage"


class TestCharts:
    @FAST
    @given(runs_of_points, st.sampled_from([0.5, 0.99, 1.0]), st.booleans())
    def test_whatever_was_recorded_there_are_limits_to_draw_in(self, points, min_show, plot_raw):
        options = PlotOptions(average_count=10, min_show=min_show, plot_raw=plot_raw)
        for metric in ("loss", "accuracy"):
            for build in (level_chart, difference_chart):
                chart = build(made(points), metric, options)
                if chart is None:
                    continue
                for low, high in (chart.x_limits, chart.y_limits):
                    assert math.isfinite(low)
                    assert math.isfinite(high)
                    assert low < high
                assert not chart.log_x or chart.x_limits[0] > 0
                assert not chart.log_y or chart.y_limits[0] > 0
                for ticks, (low, high), most in (
                    (chart.x_ticks(9), chart.x_limits, 9),
                    (chart.y_ticks(8), chart.y_limits, 8),
                ):
                    assert ticks == sorted(set(ticks))
                    assert all(low <= tick <= high for tick in ticks)
                    assert len(ticks) <= most + 2

    def test_the_first_points_do_not_squash_the_rest(self):
        tokens = list(range(100, 100_100, 100))
        loss = [200.0] * 3 + [4.0 - step / 1000 for step in range(997)]
        assert level_chart([curve("a", tokens, loss)], "loss", PlotOptions(1)).y_limits[1] < 5
        assert level_chart([curve("a", tokens, loss)], "loss", RAW).y_limits[1] > 200  # but all is there when asked for

    def test_axes_are_logarithmic_where_that_helps(self):
        tokens = list(range(1000, 101_000, 1000))
        falling_far = level_chart([curve("a", tokens, [10 / (1 + step) for step in range(100)])], "loss", RAW)
        assert (falling_far.log_x, falling_far.log_y) == (True, True)
        flat = level_chart([curve("a", tokens, [3.0] * 50 + [3.1] * 50, [0.1] * 100)], "loss", PlotOptions(1, 0.5))
        assert (flat.log_x, flat.log_y) == (False, False)

    def test_a_run_that_blew_up_does_not_squash_the_others_and_is_said(self):
        tokens = list(range(1000, 51_000, 1000))
        good = [curve(name, tokens, [4 - step / 50 for step in range(50)]) for name in "ab"]
        blown = curve("c", tokens, [3.0 * 1.5**step for step in range(50)])
        chart = level_chart([*good, blown], "loss", RAW)
        assert chart.y_limits[1] < 10
        assert "off the scale" in chart.end_text(chart.lines[-1])
        chart = difference_chart([*good, blown], "loss", PlotOptions(1, 1.0, target="a"))
        assert chart.y_limits[1] < 1
        chart = difference_chart([good[0], blown], "loss", PlotOptions(1, 1.0, target="a"))
        assert 1 < chart.y_limits[1] < 10  # what is left of it still shows

    def test_a_collapsed_accuracy_does_not_squash_small_differences_unless_it_is_all_there_is(self):
        tokens = list(range(1000, 51_000, 1000))
        runs = [curve(f"r{i}", tokens, [3.0] * 50, [0.4 + i / 100] * 50) for i in range(3)]
        collapsed = curve("collapsed", tokens, [9.0] * 50, [0.05] * 50)
        assert difference_chart([*runs, collapsed], "accuracy", RAW).y_limits[0] > -0.1
        assert difference_chart([runs[0], collapsed], "accuracy", RAW).y_limits[0] < -0.35

    def test_the_end_of_a_usual_curve_is_on_the_scale(self, tmp_path):
        for seed, end in enumerate((2.0, 3.0, 4.5)):
            record_run(tmp_path, f"r{seed}", seed=seed, loss=lambda step, end=end: end + 3 / (1 + step))
        found, _ = load_curves(path for path in statistics_in(tmp_path) if "step" not in path.name)
        for build in (level_chart, difference_chart):
            chart = build([c for c in found if c.split == "train"], "loss", PlotOptions())
            assert all(chart.y_limits[0] <= line.last() <= chart.y_limits[1] for line in chart.lines)
            assert [line.label for line in chart.lines] == ["r0", "r1", "r2"]  # best first

    def test_a_difference_is_taken_at_equal_tokens_from_the_longest_run(self):
        # The longest has fewer, wider points: position by position, the difference would be another.
        long = curve("long", [100, 200, 300, 400], [8.0, 6.0, 4.0, 2.0])
        short = curve("short", [50, 150, 250, 350], [9.0, 7.5, 5.5, 3.5])
        chart = difference_chart([short, long], "loss", RAW)
        lines = {line.label: line for line in chart.lines}
        assert chart.reference == "long"
        assert lines["short"].tokens.tolist() == [150, 250, 350]  # only where both have been
        assert lines["short"].trend == pytest.approx([0.5, 0.5, 0.5])
        assert lines["long"].trend.tolist() == [0, 0, 0, 0]

    def test_the_target_is_chosen_by_name_or_by_how_it_begins(self):
        runs = [curve(name, [1.0, 2.0], [3.0, 2.0]) for name in ("small_b", "small", "large")]
        for wanted, found in (("small", "small"), ("lar", "large"), ("small_", "small_b")):
            assert difference_chart(runs, "loss", PlotOptions(target=wanted)).reference == found
        with pytest.raises(UserError, match=r"no run called smal_b .*did you mean small_b\?"):
            difference_chart(runs, "loss", PlotOptions(target="smal_b"))

    def test_no_difference_without_another_run(self):
        one, other = curve("a", [1.0, 2.0], [3.0, 2.0]), curve("b", [10.0, 20.0], [3.0, 2.0])
        assert difference_chart([one], "loss", RAW) is None
        assert difference_chart([one, other], "loss", RAW) is None  # they have no tokens in common
        assert difference_chart([one, other], "accuracy", RAW) is None  # which neither knows
        assert level_chart([one], "accuracy", RAW) is None


class TestPictures:
    @FAST
    @given(st.lists(st.floats(0, 1), max_size=40), st.floats(0.001, 0.2))
    def test_labels_keep_their_order_and_do_not_overlap(self, places, gap):
        moved = spread(places, gap)
        room = min(gap, 1 / max(len(places) - 1, 1))
        assert all(-1e-9 <= place <= 1 + 1e-9 for place in moved)
        order = sorted(range(len(places)), key=lambda index: (places[index], moved[index]))
        steps = [moved[b] - moved[a] for a, b in itertools.pairwise(order)]
        assert all(step >= room - 1e-9 for step in steps)
        ordered = sorted(places)
        if all(b - a >= gap for a, b in itertools.pairwise(ordered)):
            assert moved == pytest.approx(places)  # nothing moves without need

    @pytest.mark.parametrize("num_runs", [2, 20])
    def test_combined(self, tmp_path, num_runs):
        for seed in range(num_runs):
            record_run(tmp_path, f"run{seed:02}", seed=seed, steps=20 + seed)
        found, _ = load_curves(path for path in statistics_in(tmp_path) if path.name.endswith("validate_stats.json"))
        runs = [c for c in found if c.stage is None]
        for build in (level_chart, difference_chart):
            path = tmp_path / f"{build.__name__}.png"
            draw_combined(build(runs, "loss", PlotOptions(plot_raw=True)), path)
            assert path.read_bytes().startswith(PNG)
        assert not list(tmp_path.glob("*.tmp"))

    def test_each_of_28_runs_has_a_look_of_its_own(self):
        assert len({(colour, str(style)) for style in STYLES for colour in COLOURS}) == 28

    @pytest.mark.parametrize("name", ["$x_{1$", "模型", "a" * 200, "\\frac"])
    def test_any_name_can_be_drawn(self, tmp_path, name):
        one, other = curve(name, [1.0, 2.0], [3.0, 2.0], [0.1, 0.2]), curve("b", [1.0, 3.0], [3.0, 2.0])
        draw_combined(difference_chart([one, other], "loss", PlotOptions()), tmp_path / "a.svg")
        assert draw_own(one, PlotOptions(), tmp_path / "b.png")

    def test_a_run_without_accuracy_has_one_panel_and_one_without_anything_no_picture(self, tmp_path):
        assert draw_own(curve("a", [1.0], [2.0]), PlotOptions(), tmp_path / "a.png")
        assert not draw_own(curve("a", [1.0], [math.nan]), PlotOptions(), tmp_path / "b.png")
        assert not (tmp_path / "b.png").exists()


class TestOwnPictures:
    def test_only_the_run_of_that_very_name(self, tmp_path):
        record_run(tmp_path, "m", steps=4)
        record_run(tmp_path, "m_step", steps=4)
        found, _ = curves_of(tmp_path, "m")
        assert {c.name for c in found} == {"m"}
        assert len(found) == 6

    @pytest.mark.long
    def test_a_run_draws_its_own_in_another_process_without_a_display(self, tmp_path, monkeypatch):
        paths = record_run(tmp_path / "out", "m", steps=10)
        record_run(tmp_path / "out", "other", steps=10)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("DISPLAY", ":nowhere")
        monkeypatch.setenv("MPLBACKEND", "tkagg")
        (tmp_path / "random.py").write_text("raise SystemExit('the working folder is not on the path')")
        thread = write_pngs(Path("out"), "m")
        assert thread is not None
        thread.join(60)
        pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
        assert pictures == {path.with_suffix(".png").name for path in paths}

    def test_nothing_comes_back_into_training(self, tmp_path, monkeypatch):
        thread = write_pngs(tmp_path / "nowhere", "m")
        assert thread is not None
        thread.join(60)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
        assert write_pngs(tmp_path, "m") is None


class TestTerminal:
    @FAST
    @given(runs_of_points, st.integers(20, 120), st.booleans(), st.booleans())
    def test_whatever_was_recorded_fits_the_terminal(self, points, width, plot_raw, unicode):
        options = PlotOptions(average_count=10, plot_raw=plot_raw)
        for build in (level_chart, difference_chart):
            chart = build(made(points), "loss", options)
            if chart is None:
                continue
            text = terminal_chart(chart, width, 12, colours=False, unicode=unicode)
            assert max(len(line) for line in text.splitlines()) <= max(width, 30)
            assert "\x1b" not in text
            assert unicode or text.isascii()
            assert all(f" {line.label} " in text for line in chart.lines)

    def test_lines_end_in_their_letters_and_names_stand_below_best_first(self):
        tokens = list(range(1000, 51_000, 1000))
        runs = [curve(name, tokens, [level] * 50) for name, level in (("worse", 4.0), ("better", 3.0))]
        text = terminal_chart(level_chart(runs, "loss", PlotOptions()), 80, 20, colours=False, unicode=True)
        drawn, _, names = text.partition("tokens trained on")
        ends = [line.rstrip(" │")[-1:] for line in drawn.splitlines()]
        assert [end for end in ends if end in ("a", "b")] == ["a", "b"]
        assert names.index("b better 3.000") < names.index("a worse 4.000")
        coloured = terminal_chart(level_chart(runs, "loss", PlotOptions()), 80, 20, colours=True, unicode=True)
        assert "\x1b[" in coloured


def test_nothing_heavy_is_imported_before_something_is_drawn():
    modules = "statistics, charts, plots, terminal_plots, export"
    code = (
        f"import sys; from lmplay_tui.run import {modules}; from lmplay_tui.commands import plot, export\n"
        "print(*{'torch', 'matplotlib', 'plotext', 'tensorboard', 'safetensors', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == ""
