"""Where there is room and what it is used for: scrollbars, the running stage, predictions, one pane alone."""

import dataclasses
from pathlib import Path

import pytest

from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.recorder import Recorder
from lmplay_tui.ui.source import FolderSource
from lmplay_tui.ui.widgets.curriculum import Curriculum
from lmplay_tui.ui.widgets.curves import Curves
from lmplay_tui.ui.widgets.lines import Lines, row_width
from tests.ui.conftest import Open, text_of, tick
from tests.ui.fake import Clock, FakeSource, fed, started, step_done

SIZES = ((80, 24), (100, 30), (120, 40), (200, 60))
STAGES = tuple(happened.StageInfo(f"stage_{i:02}", ("pydocs",), 1.0, 300, 0) for i in range(1, 13))


def of_twelve_stages(running: int, *, resumed: bool = False) -> list[happened.Event]:
    """The events of a run that is in stage `running` of twelve. `resumed`: it has just come back to it."""
    rows = 300 * (running - 1)
    done = [
        dataclasses.replace(info, rows_done=300) if i < running - 1 else info for i, info in enumerate(STAGES)
    ] if resumed else STAGES  # fmt: skip
    begins = dataclasses.replace(started(rows // 10 if resumed else None), stages=tuple(done))
    found: list[happened.Event] = [begins]
    for i, info in enumerate(STAGES[:running]):
        if resumed and i < running - 1:
            continue
        found.append(happened.StageStarted(info.name, i, 12, 300, 0, 30 * i, 300 * i, 5.6))
        last = 10 if i == running - 1 else 300
        found += [step_done(30 * i + n // 10, info.name, 300 * i + n, n, 3.0) for n in range(10, last + 1, 10)]
        if last == 300:
            found.append(happened.StageDone(info.name, i, 30 * (i + 1), 300 * (i + 1), 27_000 * (i + 1), 7.0))
    return [*found, happened.ActivityChanged("training")]


@pytest.mark.long_after(7)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_a_scrollbar_covers_no_cell(dashboard: Open, size: tuple[int, int]) -> None:
    source = FakeSource()
    source.waiting = [
        *of_twelve_stages(9),
        *(happened.Warned("a warning of many words, " * 9, 241 + i) for i in range(9)),
    ]
    seen = set()
    async with dashboard(source, size) as pilot:
        for key in ("1", "2", "3", "5", "6", "question_mark"):
            await pilot.press(key)
            await tick(pilot)
            for pane in pilot.app.screen.query(Lines):
                if pane.show_vertical_scrollbar and pane.styles.scrollbar_size_vertical and pane.region.height:
                    seen.add(pane.id)
                    assert max(map(row_width, pane.rows)) <= pane.room.width, pane.id
                    assert not pane.vertical_scrollbar.region.overlaps(pane.scrollable_content_region), pane.id
    assert "log" in seen and ("curriculum" in seen or size[1] > 40)


@pytest.mark.parametrize("size", SIZES[:2], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("running", [7, 12])
@pytest.mark.parametrize("how", ["live", "resumed", "attached"])
async def test_the_running_stage_is_in_sight(
    dashboard: Open, tmp_path: Path, size: tuple[int, int], running: int, how: str
) -> None:
    events = of_twelve_stages(running, resumed=how == "resumed")
    source: FakeSource | FolderSource
    if how == "attached":
        run = RunFolder(tmp_path / "run.lmp")
        run.create()
        recorder = Recorder(run)
        for event in events:
            recorder.record(event)
        recorder.close()
        source = FolderSource(run, Clock())
    else:
        source = FakeSource()
        source.waiting = events
    async with dashboard(source, size) as pilot:
        await tick(pilot)
        assert f"▸ stage_{running:02}" in text_of(pilot.app)
        assert "stage  " in text_of(pilot.app), "the columns' titles stay"
        await pilot.resize_terminal(size[0], size[1] - 1)
        await tick(pilot)
        assert f"▸ stage_{running:02}" in text_of(pilot.app)


async def test_the_curriculum_comes_back_to_the_running_stage(dashboard: Open) -> None:
    source = FakeSource()
    source.waiting = of_twelve_stages(10)
    async with dashboard(source, (80, 24)) as pilot:
        await pilot.press("1", *["up"] * 9)
        assert pilot.app.screen.query_one(Curriculum).chosen == 0
        await pilot.press("2")
        await tick(pilot)
        assert "▸ stage_10" in text_of(pilot.app)


async def test_predictions_have_room_before_the_system_has(dashboard: Open) -> None:
    async with dashboard(fed(330), (100, 30)) as pilot:
        heights = {
            name: pilot.app.screen.query_one(f"#{name}", Lines).size.height for name in ("predictions", "system")
        }
        assert heights["predictions"] >= 10 and 2 <= heights["system"] < heights["predictions"]
        shown = text_of(pilot.app)
        assert "truth" in shown and "tok/s  step" in shown


@pytest.mark.parametrize("size", SIZES[:3:2], ids=lambda size: f"{size[0]}x{size[1]}")
async def test_the_plan_has_the_screen_to_itself(dashboard: Open, size: tuple[int, int]) -> None:
    """`z` is a letter there."""
    async with dashboard(fed(330), size) as pilot:
        await pilot.press("4", "f5")
        await tick(pilot)
        assert pilot.app.screen.query_one("#plan").region.size == (size[0], size[1] - 2)
        assert not pilot.app.screen.query_one(Curves).display
        await pilot.press("f5")
        await tick(pilot)
        assert pilot.app.screen.query_one("#plan").region.height < size[1] - 2
