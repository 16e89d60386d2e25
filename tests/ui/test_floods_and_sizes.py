"""Floods of events, terminals of every size, and storms of resizes."""

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from textual.events import Resize
from textual.geometry import Size
from textual.notifications import Notification
from textual.widgets import _toast
from textual.widgets._toast import ToastHolder, ToastRack

from lmplay_tui.options import Launch
from lmplay_tui.run import events as happened
from lmplay_tui.run.controls import Controls, SaveNow
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.screens.dashboard import Dashboard
from lmplay_tui.ui.session import MAX_WAITING, LiveSource
from lmplay_tui.ui.widgets.curves import Curves
from lmplay_tui.ui.widgets.lines import Lines
from tests.ui.conftest import Open, text_of, tick, until
from tests.ui.fake import FakeSource, stage_started, started, step_done

STEPS = 100_000


def flood(_launch: Launch, controls: Controls) -> Iterator[happened.Event]:
    """A trainer that is a thousand times too fast, and goes on until a save is asked for."""
    yield started()
    yield stage_started(0, 0, 0)
    for step in range(1, STEPS + 1):
        yield step_done(step, "topics", 10 * step, 10 * step, 9.0 if step == 77_777 else 3.0)
    while not any(isinstance(command, SaveNow) for command in controls.decide()):
        pass
    yield happened.CheckpointSaved("m.lmp", STEPS, 10 * STEPS, 1000, 0.1, 0.1, "asked")
    yield happened.RunDone(STEPS, "m.lmp", 1.0)


@pytest.mark.long
async def test_a_flood_is_drained_while_keys_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    show = Curves.show

    def counted(self: Curves, *args: Any) -> None:
        drawn.append(1)
        show(self, *args)

    monkeypatch.setattr(Curves, "show", counted)
    source = LiveSource(Launch(), events=flood)
    app = LmplayApp(Launch({"tz": "UTC"}), source=source, timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        ticks = 0
        while not source.done and ticks < 5000 and not source.finished.is_set():
            app.tick()
            ticks += 1
            if ticks == 3:
                await pilot.press("s")  # in the middle of it
                assert isinstance(app.screen, Dashboard)
            await pilot.pause(0.005)
        source.wait(90)
        while source.poll():
            pass
        await tick(pilot)
        said = [entry.text for entry in source.view.log]
        series = source.view.history.get("train/loss")
        assert series is not None
        whole = series.points()
        lost = [text for text in said if "fell behind" in text]
        assert whole.count.sum() == STEPS or (lost and whole.count.sum() >= MAX_WAITING / 2)
        assert lost or whole.greatest.max() == 9.0, "the spike of one step"
        assert source.view.checkpoint is not None and source.view.state == "finished", "what matters is never lost"
        assert len(drawn) <= ticks + 20, "drawn by the clock, not by the event"
        assert "finished" in text_of(app)


@pytest.mark.long
def test_a_flood_between_two_polls_does_not_fill_the_memory() -> None:
    def events(_launch: Launch, _controls: Controls) -> Iterator[happened.Event]:
        yield started()
        for step in range(1, MAX_WAITING + 5001):
            yield step_done(step, "topics", 10 * step, 10 * step, 3.0)
        yield happened.RunDone(1, "m.lmp", 1.0)

    source = LiveSource(Launch(), events=events)
    source.start()
    assert source.wait(90)
    assert len(source._queue) <= MAX_WAITING + 2
    while source.poll():
        pass
    assert source.view.state == "finished"
    assert any("fell behind: 5,00" in entry.text for entry in source.view.log)


@pytest.mark.long
@pytest.mark.parametrize("size", [(1, 1), (5, 2), (20, 5), (49, 14), (300, 100)], ids=str)
async def test_every_pane_and_dialog_at_every_size(dashboard: Open, source: FakeSource, size: tuple[int, int]) -> None:
    async with dashboard(source, size) as pilot:
        for keys in ("1", "2", "3", "4", "escape", "5", "6", "z", "z", "x", "escape", "question_mark", "escape", "g",
                     "escape", "r", "escape", "2", "enter", "y", "m"):  # fmt: skip
            await pilot.press(keys)
            await tick(pilot)
        assert pilot.app.return_code is None
        for pane in pilot.app.screen.query(Lines):
            if pane.id != "help-text":
                assert all(text.isprintable() for row in pane.rows for text, _ in row)


@pytest.mark.long
async def test_two_hundred_resizes(dashboard: Open, source: FakeSource) -> None:
    numbers = random.Random(3)
    async with dashboard(source) as pilot:
        for i in range(200):  # most are never drawn: the next one comes before
            size = Size(numbers.randint(1, 220), numbers.randint(1, 70))
            pilot.app.post_message(Resize(size, size))
            if i % 10 == 0:
                await pilot.pause(0.02)
            if i % 40 == 0:
                await pilot.press(str(1 + i // 40))
                await tick(pilot)
        await pilot.resize_terminal(120, 40)
        await tick(pilot)
        assert "1 curriculum" in text_of(pilot.app) and "training" in text_of(pilot.app)


async def test_a_toast_that_comes_too_late_goes_at_once(dashboard: Open, source: FakeSource) -> None:
    """Textual's timers never end for a time that is over: the whole dashboard would stand still."""
    late = Notification("saved", timeout=0.0001)
    time.sleep(0.001)
    assert late.time_left < 0
    async with dashboard(source) as pilot:
        rack = ToastRack()
        await pilot.app.screen.mount(rack)
        assert _toast.Toast(late)._timeout > 0, "it would never come back"
        rack.show([late])  # type: ignore[arg-type]
        await pilot.pause()
        await until(pilot, lambda: not pilot.app.screen.query(_toast.Toast))


async def test_a_toast_whose_time_is_over_leaves_no_widget_behind(dashboard: Open, source: FakeSource) -> None:
    """Also where the next notification comes before its timer: a run of weeks would gather thousands."""
    async with dashboard(source) as pilot:
        rack = ToastRack()
        await pilot.app.screen.mount(rack)
        rack.show([Notification("saved", timeout=600)])  # type: ignore[arg-type]
        await until(pilot, lambda: bool(rack.query(_toast.Toast)))
        rack.show([])  # type: ignore[arg-type]
        await until(pilot, lambda: not rack.query(ToastHolder))
