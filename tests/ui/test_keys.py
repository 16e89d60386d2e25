"""What keys and buttons send and ask, on a fake run; that none is forgotten: test_every_key.py."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from textual import events
from textual.widgets import Input

from lmplay_tui.run import controls
from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.screens.dashboard import PANES, Dashboard
from lmplay_tui.ui.screens.help import Help, actions_of
from lmplay_tui.ui.widgets.curves import Curves
from lmplay_tui.ui.widgets.predictions import Predictions
from tests.ui.conftest import Open, text_of, tick
from tests.ui.fake import FakeSource, fed

SIMPLE = {
    "s": controls.SaveNow(),
    "ctrl+s": controls.SaveNow(),
    "p": controls.Pause(),
    "v": controls.ValidateNow(),
}


async def test_keys_and_buttons_send_their_commands(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        for key, command in SIMPLE.items():
            await pilot.press(key)
            assert source.sent.pop() == command, key
        for button, command in (("save", controls.SaveNow()), ("pause", controls.Pause())):
            await pilot.click(f"#{button}")
            await pilot.pause()
            assert source.sent.pop() == command, button
        await pilot.click("#stop")
        await pilot.pause()
        await pilot.press("enter")
        assert source.sent == [controls.Stop()]


async def test_stopping_and_leaving_ask(dashboard: Open, source: FakeSource) -> None:
    asked: dict[str, controls.Command] = {
        "x enter": controls.Stop(when="now"),
        "x n": controls.Stop(when="now"),
        "x e": controls.Stop(when="stage_end"),
        "x down enter": controls.Stop(when="stage_end"),
        "q s": controls.Stop(),
        "q enter": controls.Stop(),
        "ctrl+q enter": controls.Stop(),
        "q d": controls.HandOver(),
    }
    async with dashboard(source) as pilot:
        for keys, command in asked.items():
            await pilot.press(*keys.split())
            await pilot.pause()
            assert source.sent == [command], keys
            source.sent.clear()
            assert pilot.app.is_running


@pytest.mark.long
async def test_escape_leaves_a_dialog_and_the_run_alone(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        for keys in ("x escape", "q escape", "q c", "l escape", "b escape", "g escape", "r escape", "ctrl+q escape"):
            await pilot.press(*keys.split())
            await pilot.pause()
            assert source.sent == [], keys
            assert isinstance(pilot.app.screen, Dashboard)
            assert pilot.app.return_code is None


async def test_the_dashboard_leaves_when_the_run_has_stopped(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        await pilot.press("x", "enter")
        source.exit_code = 0
        source.waiting = [happened.RunStopped(330, "a.lmp", "lmplay-tui --model a.lmp", "asked")]
        await tick(pilot)
        assert pilot.app.return_value == 0


@pytest.mark.long_after(1)
@pytest.mark.parametrize(
    ("end", "code"), [(happened.RunDone(330, "a.lmp", 9.0), 0), (happened.RunFailed("loss is NaN", 3, 330, "a.lmp"), 3)]
)
async def test_a_run_that_is_done_or_failed_stays_until_q(
    dashboard: Open, source: FakeSource, end: happened.Event, code: int
) -> None:
    async with dashboard(source) as pilot:
        source.exit_code, source.waiting = code, [end]
        await tick(pilot)
        assert pilot.app.return_value is None
        assert source.view.state in text_of(pilot.app)
        await pilot.press("s")
        assert source.sent == []
        await pilot.press("q")
        assert pilot.app.return_value == code


async def test_ctrl_c_stops_and_again_leaves_at_once(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        await pilot.press("ctrl+c")
        assert source.sent == [controls.Stop(reason="ctrl+c")]
        assert pilot.app.is_running
        await pilot.press("ctrl+c")
        assert isinstance(pilot.app, LmplayApp)
        assert pilot.app.left_at_once
        assert pilot.app.return_value == 130


async def test_ctrl_c_copies_what_is_selected_and_says_how_it_stops(dashboard: Open, source: FakeSource) -> None:
    """However often; where nothing is selected any more, it stops."""
    async with dashboard(source) as pilot:
        await pilot.press("l", *"1e-4", "home", "shift+end", "ctrl+c", "ctrl+c")
        assert pilot.app.clipboard == "1e-4"
        assert source.sent == []
        assert any("ctrl+c stops the run where no" in notice.message for notice in pilot.app._notifications)
        await pilot.press("right", "ctrl+c")
        assert source.sent == [controls.Stop(reason="ctrl+c")]


async def test_a_third_interrupt_takes_nothing_back(
    dashboard: Open, source: FakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The screen has no time to look between the signals: the second one still means to leave at once."""
    async with dashboard(source) as pilot:
        app = pilot.app
        assert isinstance(app, LmplayApp)
        with monkeypatch.context() as patch:
            patch.setattr(app, "tick", lambda: None)
            for now in (100.0, 101.0, 110.0):
                patch.setattr("lmplay_tui.process.time", SimpleNamespace(monotonic=lambda now=now: now))
                app.stop_by_signal("SIGINT")
        assert app.left_at_once
        app.tick()
        assert app.return_value == 130


async def test_leaving_an_attached_run_never_touches_it(dashboard: Open) -> None:
    source = fed(100, live=False)
    async with dashboard(source) as pilot:
        await pilot.press("q")
        assert source.sent == []
        assert pilot.app.return_value == 0


async def test_pause_becomes_go_on(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        source.waiting = [happened.Paused(330)]
        await tick(pilot)
        assert "paused" in text_of(pilot.app)
        assert "Go on" in text_of(pilot.app)
        await pilot.press("p")
        assert source.sent == [controls.Resume()]


@pytest.mark.long
async def test_the_learning_rate_is_typed(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        await pilot.press("l", *"*0.5", "enter")
        await pilot.pause()
        assert source.sent.pop() == controls.SetLearningRate(factor=0.5)
        await pilot.press("l", *"1e-4", "enter")
        await pilot.pause()
        assert source.sent.pop() == controls.SetLearningRate(value=1e-4)
        await pilot.press("l")
        for wrong in ("", "0", "-1", "nan", "inf", "*", "abc"):
            pilot.app.screen.query_one(Input).value = wrong
            await pilot.press("enter")
            await pilot.pause()
            assert source.sent == []
            assert "above 0" in text_of(pilot.app)


@pytest.mark.long
async def test_a_bookmark_takes_a_note(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        await pilot.press("b", *"good", "enter")
        await pilot.pause()
        assert source.sent == [controls.Bookmark("good")]


@pytest.mark.long
async def test_asking_takes_a_prompt_temperature_and_top_k(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        await pilot.press("g")
        for i, value in enumerate(["Once upon", "0.7", "40", "32"]):
            pilot.app.screen.query_one(f"#field-{i}", Input).value = value
        await pilot.press("enter")
        await pilot.pause()
        assert source.sent == [controls.Ask("Once upon", 32, 0.7, 40)]


@pytest.mark.long_after(1)
@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_numbers_show_and_focus_panes(dashboard: Open, source: FakeSource, size: tuple[int, int]) -> None:
    async with dashboard(source, size) as pilot:
        for number, name in enumerate(PANES, start=1):
            await pilot.press("escape", str(number))
            await pilot.pause()
            pane = pilot.app.screen.query_one(f"#{name}")
            assert pane.display and pane.region.width > 0 and pane.region.height > 3, name
            assert pilot.app.focused is not None
            assert pane in (pilot.app.focused, *pilot.app.focused.ancestors), name


async def test_the_last_of_keys_in_quick_succession_has_the_focus(dashboard: Open, source: FakeSource) -> None:
    """As a slow line hands them over: else what is typed for the editor would be taken as commands."""
    async with dashboard(source) as pilot:
        for key in ("2", "4"):
            pilot.app.post_message(events.Key(key, key))
        await tick(pilot)
        await pilot.pause()
        assert pilot.app.focused is not None
        assert pilot.app.focused.id == "plan-text"


async def test_zoom_shows_one_pane_and_back_all(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        await pilot.press("6", "z")
        await tick(pilot)
        assert pilot.app.screen.query_one("#log").region.height == 38
        assert not pilot.app.screen.query_one("#curves").display
        await pilot.press("escape")
        await tick(pilot)
        assert pilot.app.screen.query_one("#curves").display


async def test_help_lists_every_binding(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source, (160, 60)) as pilot:
        actions = actions_of(pilot.app.screen)
        await pilot.press("question_mark")
        await pilot.pause()
        assert isinstance(pilot.app.screen, Help)
        shown = text_of(pilot.app)
        for action in actions:
            assert action.said in shown
        await pilot.press("escape")
        assert isinstance(pilot.app.screen, Dashboard)


async def test_the_palette_has_every_action(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        screen = pilot.app.screen
        labels = {command.title for command in pilot.app.get_system_commands(screen)}
        assert {action.label for action in actions_of(screen)} <= labels
        assert {"save a checkpoint now", "pause, or go on", "curves: logarithmic scale"} <= labels


async def test_a_palette_action_of_a_pane_acts_on_that_pane(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        action = next(each for each in actions_of(pilot.app.screen) if each.label == "curves: logarithmic scale")
        await action.call()
        assert pilot.app.screen.query_one(Curves).window.log


@pytest.mark.long
async def test_themes_go_round(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        first = pilot.app.theme
        names = [first]
        while True:
            await pilot.press("t")
            await pilot.pause()
            if pilot.app.theme == first:
                break
            names.append(pilot.app.theme)
        assert {"lmplay-light", "ansi-dark", "ansi-light"} <= set(names)


@pytest.mark.long
async def test_the_filter_keeps_matching_curves(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        await pilot.press("slash", *"time/", "enter")
        await tick(pilot)
        shown = text_of(pilot.app)
        assert "time/backward_s" in shown
        assert "▸ loss" not in shown


@pytest.mark.long
async def test_a_ghost_is_chosen_and_dropped(dashboard: Open, source: FakeSource, tmp_path: Path) -> None:
    earlier = RunFolder(tmp_path / "earlier.lmp")
    earlier.folder.mkdir()
    rows = "".join(
        f'{{"step":{i},"samples":{i * 10},"tokens":{i},"elapsed_s":{i},"train/loss":4.0}}\n' for i in range(1, 200)
    )
    earlier.metrics.write_text(rows, encoding="utf-8")
    async with dashboard(source, (120, 50)) as pilot:
        await pilot.press("r")
        await pilot.pause()
        await pilot.press("enter")
        await pilot.pause()
        await tick(pilot)
        assert "earlier" in text_of(pilot.app)
        await pilot.press("2", "enter", *["left"] * 30)
        await tick(pilot)
        assert "earlier -" in text_of(pilot.app) or "earlier +" in text_of(pilot.app)
        await pilot.press("r", "n")
        await tick(pilot)
        assert "earlier" not in text_of(pilot.app)


def test_no_binding_is_declared_twice_for_a_key() -> None:
    for kind in (Dashboard, Curves, Predictions):
        keys = [
            key
            for base in kind.__mro__
            if base.__module__.startswith("lmplay_tui")
            for binding in base.__dict__.get("BINDINGS", ())
            for key in binding.key.split(",")
        ]
        assert len(keys) == len(set(keys)), kind


@pytest.mark.long
async def test_predictions_are_listed_where_there_is_room(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        await pilot.press("3", "z")
        await pilot.pause()
        pane = pilot.app.screen.query_one(Predictions)

        def marked() -> str:
            (row,) = ["".join(text for text, _ in row) for row in pane.rows if row and row[0] == (" ▸ ", "accent")]
            return row

        assert "330" in marked()
        listed = len([row for row in pane.rows if row and row[0][0] in (" ▸ ", "   ") and len(row) > 4])
        assert listed >= 10 and len(pane.rows) <= pane.size.height
        await pilot.press("left", "left")
        assert "310" in marked()
        await pilot.press("home")
        assert " 10 " in marked()


@pytest.mark.long_after(1)
@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_escape_leaves_the_editor_and_its_keys(
    dashboard: Open, source: FakeSource, size: tuple[int, int]
) -> None:
    async with dashboard(source, size) as pilot:
        await pilot.press("e")
        assert "ctrl+s apply" in text_of(pilot.app)
        await pilot.press("escape")
        await pilot.pause()
        assert pilot.app.focused is not None and pilot.app.focused.id == "curves"
        assert "ctrl+s apply" not in text_of(pilot.app)


@pytest.mark.long
async def test_the_keys_that_are_shown_are_those_that_hold(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        await pilot.press("e")
        pilot.app.screen.set_focus(None)
        await pilot.pause()
        assert "ctrl+s apply" not in text_of(pilot.app)
