"""What a run's charts show: their axes, their legends, their marks, and the order in which they come."""

from typing import Any

import pytest

from lmplay_tui.run.axes import At
from lmplay_tui.run.metric_names import METRICS
from lmplay_tui.run.view import Mark, RunView
from lmplay_tui.ui.legend import MARKS
from lmplay_tui.ui.widgets.chart import ChartBuilder, Drawing, draw, notes_of
from lmplay_tui.ui.widgets.curve_window import CurveWindow, Group, groups_of
from lmplay_tui.ui.widgets.lines import Row, row_width
from tests.ui.fake import fed


def text(row: Row) -> str:
    return "".join(piece for piece, _ in row)


def charts(view: RunView, width: int = 70, **window: Any) -> ChartBuilder:
    chosen = CurveWindow()
    for name, value in window.items():
        setattr(chosen, name, value)
    return ChartBuilder(view, chosen, chosen.x_range(view), width, notes_of([]))


def labels_of(rows: list[Row]) -> list[str]:
    """The labels at the left of a chart, below its title."""
    return [label for row in rows[1:] if (label := text(row)[:7].strip())]


def test_marks_are_thinned_by_importance() -> None:
    marks = [(float(x), Mark("save", x, "saved")) for x in range(0, 300, 2)]
    marks += [(100.0, Mark("stage", 100, "a stage")), (200.0, Mark("resume", 200, "resumed"))]
    rows = draw(Drawing([], (0.0, 300.0), (0.0, 1.0), notes=notes_of(sorted(marks, key=lambda at: at[0]))), 68, 10)
    signs = text(rows[-1])[8:]
    assert signs[20] == MARKS["stage"].sign and signs[39] == MARKS["resume"].sign, "no save stands in their place"
    save = MARKS["save"].sign
    assert 10 <= signs.count(save) <= 20
    assert f"{save}{save}" not in signs and f"{save} {save}" not in signs


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("metric", [name for name, said in METRICS.items() if "share" in said or "accuracy" in said])
def test_the_axis_of_a_share_stays_within_it(metric: str, value: float) -> None:
    view = RunView()
    for step in range(1, 40):
        view.history.add(metric.replace("STAGE", "stories"), At(step, step, step, step), value)
    view.at = At(39, 39, 39, 39)
    found = [float(label) for label in labels_of(charts(view).rows(
        groups_of(view.history.series)[0], 12, selected=False, signs=False, right=[]))]  # fmt: skip
    assert len(found) >= 2
    assert all(0 <= label <= 1 for label in found)


def test_ticks_of_the_logarithmic_scale_are_round() -> None:
    group = Group("loss", ("train/loss",))
    rows = charts(fed(330).view, log=True).rows(group, 16, selected=False, signs=False, right=[])
    assert labels_of(rows)[-2:] == ["5", "2"]


def test_a_curve_reaches_the_end_of_its_axis() -> None:
    for steps in (3, 33, 330):
        view = fed(steps).view
        first, last = CurveWindow().x_range(view)
        assert first == 0 and steps <= last <= steps * 33 / 32
    for name in ("stage", "recent"):
        window = CurveWindow()
        window.view = name
        first, last = window.x_range(view)
        assert 330 <= last <= 330 + (330 - first) / 16


@pytest.mark.parametrize("width", [36, 44, 60, 100])
def test_a_legend_shortens_words_before_figures(width: int) -> None:
    source = fed(330)
    ghost = ("a_run_with_a_long_name", fed(250).view)
    charts_of = charts(source.view, width)
    builder = ChartBuilder(charts_of.view, charts_of.window, charts_of.x_range, width, [], ghost)
    group = Group("accuracy", ("train/accuracy", "val/accuracy", "eval/accuracy"))
    title = builder.rows(group, 12, selected=True, signs=False, right=[(" 2/10 ", "dim")])[0]
    shown = text(title)
    assert row_width(title) == width
    figures = [text(charts(source.view, 200).rows(group, 12, selected=True, signs=False, right=[])[0]).split()]
    for figure in [word for word in figures[0] if word[0].isdigit()]:
        assert f" {figure} " in shown, shown
    assert ("train" in shown) is (width >= 100)


def test_validations_have_a_line_beside_their_dots() -> None:
    view = fed(330).view
    group = Group("loss", ("train/loss", "val/loss"))

    def styles(**window: Any) -> set[str]:
        rows = charts(view, **window).rows(group, 14, selected=False, signs=False, right=[])
        return {style for row in rows[1:] for part, style in row if any("⠀" < sign <= "⣿" for sign in part)}

    assert "val" in styles()
    assert "val" not in styles(span=1), "not where nothing is smoothed"


def test_what_a_model_is_judged_by_comes_before_what_its_machine_is_like() -> None:
    names = [
        "data/text_shown", "memory/used", "sys/cpu", "time/step_s", "perf/mfu", "eval/loss", "eval/topics/loss",
        "train/lr", "val/accuracy", "train/loss", "eval/bits_per_byte", "val/loss", "own/thing",
    ]  # fmt: skip
    titles = [group.title for group in groups_of(names)]
    assert titles == [
        "loss", "accuracy", "bits per byte", "lr", "topics/loss", "own/thing", "perf/mfu", "time/step_s",
        "memory/used", "sys/cpu", "data/text_shown",
    ]  # fmt: skip


def test_time_has_round_ticks() -> None:
    view = RunView()
    for hour in range(25):
        view.history.add("train/loss", At(hour + 1, hour, hour, hour * 3600.0), 3.0)
    view.at = At(25, 24, 24, 86_400.0)
    rows = charts(view, axis="time").rows(Group("loss", ("train/loss",)), 12, selected=False, signs=False, right=[])
    assert [word.strip() for word in text(rows[-1]).split("  ") if word.strip()] == [
        "0 s",
        "6 h",
        "12 h",
        "18 h",
        "1 d",
    ]
