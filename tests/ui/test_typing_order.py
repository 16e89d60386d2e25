"""Keys that come in one piece, as they do over a slow line, act in the order in which they were typed."""

from pathlib import Path

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input, TextArea

from lmplay_tui.run.controls import ChangePlan, Command, SetLearningRate
from lmplay_tui.run.folder import RunFolder
from tests.ui.conftest import Open, tick, until
from tests.ui.fake import FakeSource, fed
from tests.ui.test_plan_editor import PLAN


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


async def test_in_a_field(dashboard: Open, planned: FakeSource) -> None:
    async with dashboard(planned) as pilot:
        await pilot.press("l")
        field = pilot.app.screen.query_one(Input)
        field.value = "0.5"
        typed_at_once(pilot, "end", "backspace", "2", "home", "delete", "1", "end", "left", "3", "enter")
        await until(pilot, lambda: sent(planned))
        assert sent(planned) == SetLearningRate(value=1.32)
