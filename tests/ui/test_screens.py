"""What stands on the screen: sizes, ASCII, drawing, the launcher; and that only what changed is painted."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual import on

from lmplay_tui.options import Launch
from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.scales import rounded_range
from lmplay_tui.text import plain_signs
from lmplay_tui.ui import theme
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.legend import CURVES
from lmplay_tui.ui.messages import StartAsked
from lmplay_tui.ui.notices import News, terminal_title
from lmplay_tui.ui.screens.dashboard import Dashboard
from lmplay_tui.ui.theme import styles_of
from lmplay_tui.ui.widgets.chart import STYLES, Drawing, Note, Trace, draw, raster
from lmplay_tui.ui.widgets.lines import Lines, changed_spans, fitted, flow, row_width, wrapped
from lmplay_tui.ui.widgets.log_pane import LogPane
from lmplay_tui.ui.widgets.predictions import alignment_pieces
from tests.examples import examples
from tests.seams import Seams
from tests.ui.conftest import Open, text_of, tick, whole_launcher
from tests.ui.fake import FakeSource, fed, step_done

ROWS = st.lists(st.tuples(st.text("ab 漢", max_size=5), st.sampled_from(["", "dim"])), max_size=4).map(tuple)


@pytest.mark.long_after(2)
@pytest.mark.parametrize("size", [(80, 24), (100, 28), (120, 40), (200, 60), (79, 20), (49, 13), (20, 5)])
async def test_every_size_shows_the_state_and_nothing_breaks(
    dashboard: Open, source: FakeSource, size: tuple[int, int]
) -> None:
    async with dashboard(source, size) as pilot:
        shown = text_of(pilot.app)
        assert "training" in shown
        if size >= (79, 20):
            assert "docstrings" in shown
            assert "Save" in shown and "Stop" in shown
            assert "loss" in shown
        await pilot.resize_terminal(120, 40)
        await tick(pilot)
        assert "6 log" in text_of(pilot.app)


@pytest.mark.long_after(1)
@pytest.mark.parametrize("size", [(80, 24), (100, 28), (120, 40)])
async def test_a_long_sentence_leaves_room_for_the_step(
    dashboard: Open, source: FakeSource, size: tuple[int, int]
) -> None:
    """After a resume the line says for a while where it goes on."""
    source.waiting = [happened.ActivityChanged("training", "from row 1,234,567 as recorded, and so on and on and on")]
    async with dashboard(source, size) as pilot:
        await tick(pilot)
        line = text_of(pilot.app).splitlines()[0]
        assert "training" in line
        assert f"step {source.view.at.step:,.0f}" in line
        assert ("from row" in line) == (size[0] > 80), "as much of it as there is room for"


@pytest.mark.long
async def test_ascii_draws_with_ascii_only(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source, (120, 40), ascii=True) as pilot:
        for keys in (["2"], ["3", "enter"], ["x"]):
            await pilot.press(*keys)
            await tick(pilot)
            app = pilot.app
            for line in app.screen._compositor.render_strips():
                shown = "".join(
                    segment.text for segment in line.apply_filter(app._filters[-1], app.screen.styles.background)
                )
                assert shown.isascii(), shown


async def test_a_tick_without_news_paints_nothing_and_a_step_little(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        painted: list[tuple[str | None, int]] = []
        for pane in pilot.app.screen.query(Lines):
            original = pane.refresh

            def counting(*regions, _pane=pane, _original=original, **kwargs):
                painted.append((_pane.id, sum(region.area for region in regions) if regions else -1))
                return _original(*regions, **kwargs)

            pane.refresh = counting  # type: ignore[method-assign]
        screen = pilot.app.screen
        assert isinstance(screen, Dashboard)
        screen.tick(now=1e6)  # the curves' turn
        painted.clear()
        screen.tick(now=1e6 + 0.5)
        assert painted == []
        source.waiting = [step_done(331, "docstrings", 3310, 2110, 2.6)]
        screen.tick(now=1e6 + 1)
        assert painted
        assert all(cells > 0 for _, cells in painted), "a whole widget was painted"
        assert sum(cells for _, cells in painted) < 60


async def test_news_are_told_once(source: FakeSource) -> None:
    news = News()
    news.of(source.view)
    source.waiting = [
        happened.CheckpointSaved("a.lmp", 330, 3300, 5, 0.1, 0.1, "asked"),
        happened.StageDone("topics", 0, 330, 1, 1, 2.0),
    ]
    source.poll()
    assert [notice.title for notice in news.of(source.view)] == ["saved", "stage done"]
    assert news.of(source.view) == []


@pytest.mark.long_after(1)
@pytest.mark.parametrize("reason", ["interval", "stage end", "stop", "end"])
async def test_a_save_by_schedule_covers_no_pane(dashboard: Open, source: FakeSource, reason: str) -> None:
    async with dashboard(source) as pilot:
        before = len(pilot.app._notifications)
        source.waiting = [happened.CheckpointSaved("a.lmp", 330, 3300, 5, 0.1, 0.1, reason)]
        await tick(pilot)
        assert f"saved a.lmp (step 330, 5 B, 0.1 s, {reason})" in source.view.log[-1].text
        assert source.view.marks[-1].kind == "save"
        assert len(pilot.app._notifications) == before
        source.waiting = [happened.Warned("a.lmp: no space left; training goes on, the next save tries again", 330)]
        await tick(pilot)
        source.waiting = [happened.CheckpointSaved("a.lmp", 331, 3310, 5, 0.1, 0.1, "asked")]
        await tick(pilot)
        told = [notice.message for notice in pilot.app._notifications][before:]
        assert ["no space left" in text for text in told] == [True, False]
        assert told[-1].startswith("saved a.lmp (step 331")


async def test_a_screen_that_is_left_draws_no_panes_that_are_gone(dashboard: Open, source: FakeSource) -> None:
    """Textual takes the panes off bit by bit, while timers and callbacks of before still come."""
    seen: set[int] = set()

    async def draw_on(app: LmplayApp, screen: Dashboard) -> None:
        while left := len(list(screen.walk_children())):
            if left not in seen:
                app.tick()
                screen.refresh_now()
                screen.catch_up()
            seen.add(left)
            await asyncio.sleep(0)

    async with dashboard(source) as pilot:
        app, screen = pilot.app, pilot.app.screen
        assert isinstance(app, LmplayApp) and isinstance(screen, Dashboard)
        app.exit(0)
        drawing = asyncio.create_task(draw_on(app, screen))
    await drawing
    assert len(seen) > 2, seen  # it was met in pieces


def test_the_terminals_title_says_how_far_how_good_how_long() -> None:
    assert terminal_title(fed(330).view).startswith("39 % 2.67 ETA ")


async def test_the_launcher_starts_the_demo(seams: Seams) -> None:
    class Started(FakeSource):
        def __init__(self, launch: Launch) -> None:
            super().__init__()
            self.launch = launch
            self.started = False

        def start(self) -> None:
            self.started = True
            started.append(self)

    started: list[Started] = []
    seams.put("live source", Started)
    seams.put("watchdog", lambda *_: None)
    app = LmplayApp(Launch(), launcher=True, timers=False)
    async with app.run_test(size=(100, 30)) as pilot:
        await whole_launcher(pilot)
        shown = text_of(app)
        assert "▸ demo" in shown
        assert "topics" in shown
        assert "no runs yet" in shown
        await pilot.press("m", "enter")
        await pilot.pause()
        assert isinstance(app.screen, Dashboard)
        assert started[0].launch.line == {"training_plan": "demo", "device": "auto", "exp": "gpt2ish"}


@pytest.mark.long_after(1)
@pytest.mark.parametrize(("key", "given"), [("r", {"model", "device"}), ("n", {"model", "device", "reset_history"})])
async def test_the_launcher_resumes_and_starts_anew(tmp_path: Path, key: str, given: set[str]) -> None:
    run = RunFolder(tmp_path / "mine.lmp")
    run.create()
    run.write_status({"state": "stopped", "step": 40, "val_loss": 3.2, "heartbeat": 0})
    asked: list[StartAsked] = []

    class Listening(LmplayApp):
        @on(StartAsked)
        def _start(self, message: StartAsked) -> None:
            message.prevent_default()  # nothing shall be trained
            asked.append(message)

    app = Listening(Launch(), launcher=True, timers=False)
    async with app.run_test(size=(100, 30)) as pilot:
        await whole_launcher(pilot)
        assert "mine" in text_of(app)
        await pilot.press("tab", "enter", key)
        await pilot.pause()
        assert set(asked[0].line) == given
        assert asked[0].line["model"] == "mine.lmp"


@pytest.mark.parametrize("ours", [*theme.our_themes("truecolor"), *theme.our_themes("256")], ids=lambda ours: ours.name)
def test_every_style_has_a_colour_in_our_themes(ours) -> None:
    variables = ours.to_color_system().generate() | theme.variables(ours)
    assert {*STYLES} - {""} < styles_of(variables).keys(), "those of charts are asked for by name"


@examples(200)
@given(ROWS, ROWS)
def test_painting_the_changed_spans_gives_the_new_row(old, new) -> None:
    def cells(row):
        found = []
        for text, style in row:
            for char in text:
                found += [(char, style)] + [("", style)] * (row_width([(char, "")]) - 1)
        return found

    before, after = cells(old), cells(new)
    length = max(len(before), len(after))
    before += [(" ", "")] * (length - len(before))
    after += [(" ", "")] * (length - len(after))
    for first, beyond in changed_spans(old, new):
        before[first:beyond] = after[first:beyond]
    assert before == after


@examples(100)
@given(st.text("ab 漢\n", max_size=60), st.integers(4, 20))
def test_wrapping_keeps_every_letter_and_the_width(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert all(row_width([(line, "")]) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace("\n", "").replace(" ", "")
    rows = flow([(text.replace("\n", " "), "dim")], width)
    assert all(row_width(row) <= width for row in rows)
    assert "".join(t for row in rows for t, _ in row).replace(" ", "") == text.replace("\n", "").replace(" ", "")


def test_fitted_is_exactly_that_wide() -> None:
    for text in ("", "a", "abcdef", "漢字漢字"):
        for width in (1, 3, 4, 9):
            assert row_width([(fitted(text, width), "")]) == width


@examples(100)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=40),
    st.integers(0, 60), st.integers(0, 20), st.booleans(),
)  # fmt: skip
def test_any_numbers_can_be_drawn(values: list[float], width: int, height: int, log: bool) -> None:
    y = np.array(values, dtype=float)
    finite = y[np.isfinite(y) & (np.abs(y) < 1e300)]
    span = rounded_range(float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    chart = Drawing(
        [Trace(np.arange(len(y), dtype=float), y, "train"), Trace(np.arange(len(y), dtype=float), y, "val", "•")],
        (0.0, 10.0), span if not log else (0.0, 2.0), log=log, notes=[Note(3.0, "▶", "accent", True)],
        references=[(1.0, "reference")], cursor=5.0,
    )  # fmt: skip
    rows = draw(chart, width, height)
    assert len(rows) in (0, height)
    assert all(row_width(row) <= width for row in rows)


def test_a_chart_is_as_wide_as_it_shall_be_whatever_the_shell_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """plotext takes COLUMNS for the terminal's width, and would draw many cells over each other."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "10")
    x = np.arange(0.0, 150.0)
    curves = [Trace(x, np.sin(x / 9), "train"), Trace(x[::3], np.cos(x[::3] / 9), "val", "•")]
    rows = draw(Drawing(curves, (0.0, 149.0), (-1.0, 1.0)), 158, 20)
    assert {row_width(row) for row in rows} == {158}
    axis, labels = ("".join(text for text, _ in row) for row in rows[-2:])
    assert axis.strip().startswith("└┬") and axis.count("┬") == 8 and len(axis.rstrip()) > 150
    assert labels.split()[-1] == "140"


@pytest.mark.parametrize("style", CURVES)
def test_a_line_in_ascii_is_drawn_with_the_sign_of_its_legend_and_points_stand_out_of_theirs(style: str) -> None:
    x = np.arange(0.0, 150.0)
    ranges = (0.0, 149.0), (-1.0, 1.0)
    drawn = [
        draw(Drawing([Trace(x, np.sin(x / 9), style)], *ranges, ascii_only=plain), 80, 12) for plain in (True, False)
    ]
    cells = [{char for row in rows for text, names in row if names == style for char in text} - {" "} for rows in drawn]
    sign = plain_signs(CURVES[style].sign)
    assert cells[0] == ({"-"} if style in ("val", "eval") else {sign}) and sign != "-"
    assert all("\u2800" < char <= "\u28ff" for char in cells[1])


def test_a_chart_holds_nothing_of_the_one_drawn_before_it() -> None:
    """The axes are made once for a range and kept."""
    x = np.arange(0.0, 150.0)
    ranges = (0.0, 149.0), (-1.0, 1.0)
    empty = draw(Drawing([], *ranges), 80, 12)
    assert draw(Drawing([Trace(x, np.sin(x / 9), "train")], *ranges, cursor=70.0), 80, 12) != empty
    assert draw(Drawing([], *ranges), 80, 12) == empty


def test_a_spike_of_one_point_reaches_its_height() -> None:
    y = np.zeros(100)
    y[50] = 1.0
    dots = raster(np.arange(100.0), y, (0.0, 99.0), (0.0, 1.0), 40, 10)
    assert dots[0].any(), "the top row has the spike"
    assert (dots[0] > 0).sum() == 1
    assert dots[9].all(), "the rest lies at the bottom, joined"


def test_what_lies_between_two_dots_is_one_line() -> None:
    """A mean of equal values differs from them by a float's last bit, on each processor by another."""
    y = np.full(100, 0.5)
    y[::3], y[1::3] = np.nextafter(0.5, 1), np.nextafter(0.5, 0)
    dots = raster(np.arange(100.0), y, (0.0, 99.0), (0.0, 1.0), 40, 10)
    assert ((dots > 0).sum(axis=0) == 1).all()
    assert len(np.unique(dots[dots > 0])) == 1


def test_the_alignment_marks_what_is_wrong_by_signs_too() -> None:
    pieces = alignment_pieces("the cat sat sat", "the dog sat down here")
    text = "".join(piece for piece, _ in pieces)
    assert "≠cat" in text
    assert "the " in text
    assert "−" in text or "≠" in text


def test_no_screen_imports_torch() -> None:
    import subprocess
    import sys

    heavy = ("torch", "datasets", "matplotlib", "plotext")
    code = f"import sys, lmplay_tui.ui.app; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("state", ["stopping", "paused"])
async def test_what_is_told_of_an_activity_goes_with_it(dashboard: Open, state: str) -> None:
    """Not "stopping from row 548 as recorded": the detail and the share are the training's."""
    source = fed(60)
    source.view.follow(happened.ActivityChanged("training", "from row 548 as recorded", 0.5))
    async with dashboard(source, (160, 40)) as pilot:
        line = pilot.app.screen.query_one("#state", Lines)
        assert "training 50 % from row 548 as recorded" in "".join(text for text, _ in line.rows[0])
        source.view.state = state
        await tick(pilot)
        shown = "".join(text for text, _ in line.rows[0])
    assert state in shown and "548" not in shown and "50 %" not in shown


async def test_the_log_has_a_date_above_the_first_line_of_another_day(dashboard: Open) -> None:
    source = fed(30)
    source.view.log.clear()
    day = 24 * 3600.0
    for back in (2 * day, 2 * day - 60, day, 0.0):
        source.view.say("info", f"said {back:.0f} s ago", at=source.clock.now - back)
    async with dashboard(source, (120, 40)) as pilot:
        rows = ["".join(text for text, _ in row).strip() for row in pilot.app.screen.query_one(LogPane).rows]
    assert [row.split("  ")[0].split(" i ")[0] for row in rows if "20" in row[:25] and ":" not in row] == [
        "Saturday 2026-09-19", "Sunday 2026-09-20", "Monday 2026-09-21",
    ]  # fmt: skip
    assert rows[0].startswith("Saturday") and "said 172800 s ago" in rows[1] and "said 172740 s ago" in rows[2]
