"""A terminal that reads slowly, or not at all: no picture is made in vain, and the newest one follows at once."""

import io
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from textual import events
from textual._compositor import Compositor
from textual.geometry import Region
from textual.pilot import Pilot

from lmplay_tui.options import Launch
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.screens.dashboard import Dashboard
from lmplay_tui.ui.tty.painting import (
    ALLOWANCE,
    ASK_AGAIN_S,
    MAX_REGIONS,
    PATIENCE_S,
    PatientCompositor,
    SafeWriter,
    TerminalLine,
)
from lmplay_tui.ui.widgets.key_bar import Key, KeyBar
from lmplay_tui.ui.widgets.state_line import StateLine
from tests.ui.conftest import until
from tests.ui.fake import Clock, FakeSource, step_done


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


def send(line: TerminalLine, count: int) -> None:
    line.sent += count
    line.written += count


def test_without_answers_only_what_the_device_has_not_taken_counts(clock: Clock) -> None:
    line = TerminalLine(clock)
    send(line, 100_000)
    found = [line.behind]
    line.sent += ALLOWANCE + 1
    found.append(line.behind)
    line.written = line.sent
    assert [*found, line.behind] == [False, True, False]


def test_a_terminal_that_answers_is_not_sent_more_than_it_has_shown(clock: Clock) -> None:
    line = TerminalLine(clock)
    line.painted()
    send(line, 10)
    assert line.wants_to_ask()
    send(line, 4)
    assert not line.wants_to_ask(), "one question at a time"
    line.answered()
    assert line.shown == line.sent
    assert not line.wants_to_ask(), "nothing to ask about"
    send(line, ALLOWANCE + 1)
    line.painted()
    assert line.behind
    assert line.wants_to_ask()
    send(line, 4)
    line.answered()
    assert not line.behind


def test_a_lost_answer_is_asked_for_again_and_a_picture_a_minute_is_sent_anyway(clock: Clock) -> None:
    line = TerminalLine(clock)
    line.answered()
    send(line, ALLOWANCE + 1)
    line.painted()
    assert line.wants_to_ask()
    clock.now += ASK_AGAIN_S - 1
    assert not line.wants_to_ask()
    clock.now += 1
    assert line.wants_to_ask()
    line.sent += 4  # the question does not leave: the device takes no more
    clock.now += ASK_AGAIN_S
    assert not line.wants_to_ask()
    line.written = line.sent
    assert line.behind
    clock.now += PATIENCE_S
    assert not line.behind


class _Stalled(io.StringIO):
    """A terminal that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def write(self, text: str) -> int:
        self.let_go.wait()
        return super().write(text)


def test_the_writer_never_blocks_and_counts_what_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    line, terminal = TerminalLine(), _Stalled()
    monkeypatch.setattr(SafeWriter, "line", line)
    writer = SafeWriter(terminal)
    writer.start()
    for _ in range(100):
        writer.write("x" * 100)
    assert (line.sent, line.written) == (10_000, 0)
    terminal.let_go.set()
    writer.stop()
    assert line.written == 10_000
    assert len(terminal.getvalue()) == 10_000


@asynccontextmanager
async def behind(
    monkeypatch: pytest.MonkeyPatch, source: FakeSource
) -> AsyncIterator[tuple[Pilot[int], TerminalLine, list[Any]]]:
    """A dashboard whose terminal is behind, its line, and the pictures that are made from now on."""
    line = TerminalLine()
    monkeypatch.setattr(PatientCompositor, "line", line)
    monkeypatch.setattr("textual.screen.Compositor", PatientCompositor)
    app = LmplayApp(Launch({"tz": "UTC"}), source=source, timers=False, line=line)
    monkeypatch.setattr(app, "_ask", lambda: None)  # the test's terminal is not asked
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        pictures: list[Any] = []
        monkeypatch.setattr(app, "_display", lambda _screen, picture: pictures.append(picture))
        line.answered()
        line.sent += ALLOWANCE + 1
        line.written = line.sent
        line.painted()
        yield pilot, line, pictures


def caught_up(pilot: Pilot[int], line: TerminalLine) -> None:
    """The terminal's answer."""
    line._asked = line.sent
    pilot.app.post_message(events.CursorPosition(0, 0))


class Twice(PatientCompositor):
    """Makes each picture our way and Textual's own."""

    compared = 0

    def render_partial_update(self) -> Any:
        changed = self._dirty_regions.copy()
        ours = super().render_partial_update()
        if ours is not None:
            self._dirty_regions = changed
            theirs = Compositor.render_partial_update(self)
            assert theirs is not None
            assert painted(ours) == painted(theirs)
            Twice.compared += 1
        return ours


def painted(update: Any) -> list[tuple[int, int, list[Any]]]:
    """The cells that a picture sends, with where they stand."""
    found = []
    for y, first, beyond in update.spans:
        for end, (x, strip) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
            if x < beyond and end > first:
                start = max(x, first)
                part = strip.crop(start - x, min(end, beyond) - x)
                found.append((y, start, [(char, style) for text, style, _ in part for char in text]))
    return found


@pytest.mark.long
async def test_asking_only_the_widgets_that_have_a_part_in_it_gives_the_same_picture(
    monkeypatch: pytest.MonkeyPatch, source: FakeSource
) -> None:
    monkeypatch.setattr(PatientCompositor, "line", TerminalLine())
    monkeypatch.setattr("textual.screen.Compositor", Twice)
    monkeypatch.setattr(Twice, "compared", 0)
    app = LmplayApp(Launch({"tz": "UTC"}), source=source, timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        for step, key in enumerate(["3", "up", "6", "e", "escape", "x", "escape", "question_mark", "escape", "z"], 331):
            source.waiting = [step_done(step, "docstrings", 10 * step, 10 * step - 1200, 2.6)]
            app.tick()
            app.notify(f"step {step}", timeout=600)
            await pilot.pause()
            await pilot.press(key)
            await pilot.pause()
            app.screen.refresh(Region(3, 2, 50, 30))
            await pilot.pause()
    assert Twice.compared > 10


@pytest.mark.long
async def test_what_changes_while_the_terminal_is_behind_is_painted_once_when_it_has_caught_up(
    monkeypatch: pytest.MonkeyPatch, source: FakeSource
) -> None:
    async with behind(monkeypatch, source) as (pilot, line, pictures):
        app, screen = pilot.app, pilot.app.screen
        assert isinstance(app, LmplayApp) and isinstance(screen, Dashboard)
        for step in range(331, 331 + 50):
            source.waiting = [step_done(step, "docstrings", 10 * step, 10 * step - 1200, 2.6)]
            app.tick()
            screen.refresh_now()
            await pilot.pause()
        await until(pilot, lambda: line.held)
        assert pictures and not any(pictures), "nothing is sent"
        assert len(screen._compositor._dirty_regions) <= MAX_REGIONS + 500
        caught_up(pilot, line)
        await until(pilot, lambda: any(pictures))
        sent = [picture for picture in pictures if picture]
        assert len(sent) == 1
        assert "380" in sent[0].render_segments(app.console)
        assert not line.held


async def test_what_changes_just_before_the_terminal_has_caught_up_is_painted(
    monkeypatch: pytest.MonkeyPatch, source: FakeSource
) -> None:
    async with behind(monkeypatch, source) as (pilot, line, pictures):
        app, screen = pilot.app, pilot.app.screen
        assert isinstance(app, LmplayApp)
        screen.query_one(StateLine).refresh()
        await until(pilot, lambda: line.held)
        bar = screen.query_one(KeyBar)
        bar.show([Key("k", "just now", "help")], [])
        screen._dirty_widgets.add(bar)  # it has told the screen, which has not yet looked for what to paint
        line.shown = line.sent
        app._batch_count += 1
        app._paint_held()
        assert line.held and not any(pictures), "a picture in a batch would be lost"
        app._batch_count -= 1
        app._paint_held()
        assert "just now" in pictures[-1].render_segments(app.console)


async def test_no_picture_is_made_of_a_batch_which_would_drop_it(
    monkeypatch: pytest.MonkeyPatch, source: FakeSource
) -> None:
    monkeypatch.setattr(PatientCompositor, "line", TerminalLine())
    monkeypatch.setattr("textual.screen.Compositor", PatientCompositor)
    app = LmplayApp(Launch({"tz": "UTC"}), source=source, timers=False)
    whole, batches = PatientCompositor.render_full_update, []

    def made(self: PatientCompositor, simplify: bool = False) -> Any:
        batches.append(app._batch_count)
        return whole(self, simplify)

    monkeypatch.setattr(PatientCompositor, "render_full_update", made)
    async with app.run_test(size=(120, 40)) as pilot:  # a batch until it is laid out
        await until(pilot, lambda: len(batches) > 0)
    assert set(batches) == {0}
