"""Keys that come in one piece, as they do over a slow line, act in the order in which they were typed."""

from pathlib import Path

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input, TextArea

from lmplay_tui.run.controls import Ask, Bookmark, ChangePlan, Command, Pause, SaveNow, SetLearningRate, Stop
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.ui.screens.dashboard import Dashboard
from lmplay_tui.ui.screens.dialogs import ChoiceList
from tests.ui.conftest import Open, tick, until
from tests.ui.fake import PLAN, FakeSource, fed


def typed_at_once(pilot: Pilot[int], *keys: str) -> None:
    for key in keys:
        pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))


def sent(source: FakeSource) -> Command | None:
    return source.sent[-1] if source.sent else None


@pytest.fixture
def planned(tmp_path: Path) -> FakeSource:
    folder = RunFolder(tmp_path / "run.lmp")
    folder.create()
    folder.plan.write_text(PLAN, encoding="utf-8")
    return fed(330, folder=folder)


async def test_in_the_plan(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        await tick(pilot)
        await pilot.press("4")
        assert pilot.app.screen.query_one(TextArea).text == PLAN
        typed_at_once(pilot, "down", "down", "down", "end", "backspace", "2", "5", "left", "1", "ctrl+s")
        await until(pilot, lambda: sent(planned))
        assert sent(planned) == ChangePlan(PLAN.replace("epochs = 1\n", "epochs = 215\n", 1))


@pytest.mark.long_after(1)
@pytest.mark.parametrize("event", [events.Key("s", "s"), events.Key("ctrl+@", "\0"), events.Paste("s")], ids=repr)
async def test_what_comes_when_the_screen_is_being_left_does_nothing(
    dashboard: Open, planned: FakeSource, event: events.Key | events.Paste
) -> None:
    """Keys typed ahead, and the bytes that free the input thread when the line is lost."""
    async with dashboard(planned) as pilot:
        stack = pilot.app._screen_stack
        screens = list(stack)
        stack.clear()
        try:
            await pilot.app.act(event)  # type: ignore[attr-defined]
            pilot.app._go_round(None, 1)  # type: ignore[attr-defined]
        finally:
            stack.extend(screens)
        await tick(pilot)
        assert not planned.sent


async def test_in_a_field(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        await pilot.press("l")
        field = pilot.app.screen.query_one(Input)
        field.value = "0.5"
        typed_at_once(pilot, "end", "backspace", "2", "home", "delete", "1", "end", "left", "3", "enter")
        await until(pilot, lambda: sent(planned))
        assert sent(planned) == SetLearningRate(value=1.32)


async def test_behind_the_key_that_goes_to_the_plan(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        await tick(pilot)
        typed_at_once(pilot, "e", "x", "s", "l", "backspace", "up", "#", "ctrl+s", "escape", "p")
        await until(pilot, lambda: len(planned.sent) > 1)
        assert planned.sent == [ChangePlan("#xs" + PLAN), Pause()]


CONVERSATIONS: dict[str, list[Command]] = {
    "l 0 . 5 enter s": [SetLearningRate(value=0.5), SaveNow()],
    "l * 2 enter b o k enter p": [SetLearningRate(factor=2.0), Bookmark("ok"), Pause()],
    "b s s enter enter b x enter": [Bookmark("ss"), Bookmark("x")],
    "b s escape s": [SaveNow()],
    "g h i enter s": [Ask("hi", max_tokens=64, temperature=0.0, top_k=None), SaveNow()],
    "g h i tab 1 . 5 enter p": [Ask("hi", max_tokens=64, temperature=1.5, top_k=None), Pause()],
    "x enter enter enter s": [Stop(when="now"), SaveNow()],
    "r down up end escape down s": [SaveNow()],
    "x down enter p": [Stop(when="stage_end"), Pause()],
    "x escape p": [Pause()],
    "r q s": [SaveNow()],
    "question_mark q 6 slash s s enter p": [Pause()],
    "1 enter escape 3 z b enter s": [Bookmark(""), SaveNow()],
}


@pytest.mark.long_after(2)
@pytest.mark.parametrize("keys", CONVERSATIONS)
async def test_behind_a_key_that_opens_or_closes_a_dialog(dashboard: Open, planned: FakeSource, keys: str) -> None:
    wanted = CONVERSATIONS[keys]
    async with dashboard(planned) as pilot:
        await tick(pilot)
        typed_at_once(pilot, *keys.split())
        await until(pilot, lambda: len(planned.sent) >= len(wanted))
        await pilot.pause()
        assert planned.sent == wanted
        assert isinstance(pilot.app.screen, Dashboard)


async def test_what_is_pasted_goes_where_the_keys_before_lead(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        await tick(pilot)
        typed_at_once(pilot, "b")
        pilot.app.post_message(events.Paste("a\x07b"))
        typed_at_once(pilot, "c", "enter")
        await until(pilot, lambda: sent(planned))
        assert planned.sent == [Bookmark("a\N{SYMBOL FOR BELL}bc")]


async def test_a_choice_that_is_clicked_while_its_dialog_closes_is_none(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        await pilot.press("x")
        choices = pilot.app.screen.query_one(ChoiceList)
        for _ in range(3):
            choices.post_message(ChoiceList.Clicked(0))
        await until(pilot, lambda: sent(planned))
        await pilot.pause()
        assert planned.sent == [Stop(when="now")]
        assert isinstance(pilot.app.screen, Dashboard)


async def test_ctrl_c_waits_for_no_key(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        typed_at_once(pilot, "b", *"a note", "ctrl+c")
        await until(pilot, lambda: sent(planned))
        assert planned.sent == [Stop(reason="ctrl+c")]
