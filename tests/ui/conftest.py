"""Dashboards on fake runs: no threads, no waiting."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot

from lmplay_tui.options import Launch
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.screens.dashboard import Dashboard
from lmplay_tui.ui.screens.launcher import Launcher
from lmplay_tui.ui.tty.painting import use_our_output
from lmplay_tui.ui.widgets.lines import Lines, Row
from tests.seams import Seams
from tests.ui.fake import FakeSource, fed

Open = Callable[..., AbstractAsyncContextManager[Pilot[int]]]


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same screen wherever the tests run."""
    for name in ("NO_COLOR", "TEXTUAL_THEME", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def lasting_toasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is busy a toast must not be gone before the test looks. At a real terminal they go as ever."""

    def lasting(app: App[Any], message: str, **how: Any) -> None:
        notify(app, message, **how | {"timeout": 120} if app.is_headless else how)

    notify = App.notify
    monkeypatch.setattr(App, "notify", lasting)


@pytest.fixture(autouse=True)
def patient_with_the_disk(seams: Seams) -> None:
    """What is read beside the screen is there when it is looked for, also on a machine that is busy."""
    seams.put("moment", 60.0)


@pytest.fixture
def source() -> FakeSource:
    return fed(330)


@pytest.fixture
def dashboard() -> Open:
    """Opens a dashboard on a source."""

    @asynccontextmanager
    async def opened(source: FakeSource, size: tuple[int, int] = (120, 40), **given: Any) -> AsyncIterator[Pilot[int]]:
        app = LmplayApp(Launch({"tz": "UTC", **given}), source=source, timers=False)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await tick(pilot)
            yield pilot

    return opened


async def tick(pilot: Pilot[Any]) -> None:
    """Let the dashboard look at its run once, and draw everything."""
    app = pilot.app
    assert isinstance(app, LmplayApp)
    app.tick()
    for screen in app.screen_stack:
        if isinstance(screen, Dashboard):
            screen.refresh_now()
    await pilot.pause()


async def until(pilot: Pilot[Any], condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Let the app go on until `condition()` holds. `TimeoutError` if it does not."""
    async with asyncio.timeout(seconds):
        while not condition():
            await pilot.pause(0.01)


async def whole_launcher(pilot: Pilot[Any], *, measured: bool = True) -> None:
    """Wait until the launcher has read what it lists: that comes behind its first frame.

    `measured`: and until the device has told its speed.
    """
    launcher = pilot.app.screen
    assert isinstance(launcher, Launcher)
    await until(pilot, lambda: launcher._lists is not None and launcher.query_one("#detail", Lines).rows)
    while measured and any(map(math.isnan, launcher._lists._flops.values())):  # type: ignore[union-attr]
        await pilot.pause(0.01)
    await pilot.pause()


def in_terminal(source: FakeSource | None, **options: object) -> Callable[[], int]:
    """What a child does in its terminal: the dashboard, or without a source the launcher."""

    def work() -> int:
        line = use_our_output()
        app = LmplayApp(
            Launch({"tz": "UTC", "refresh_hz": 10, **options}), source=source, launcher=source is None, line=line
        )
        return app.run() or 0

    return work


def joined(rows: Iterable[Row]) -> str:
    """What rows say, line by line."""
    return "\n".join("".join(text for text, _ in row) for row in rows)


def text_of(app: App[Any]) -> str:
    """What stands on the screen, line by line."""
    width, height = app.size
    lines = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in line) for line in lines[:height]) + f"\n{width}x{height}"
