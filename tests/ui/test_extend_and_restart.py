"""What is offered where nothing is left to train, and how a start of its own is made from the launcher."""

import threading
from pathlib import Path
from typing import Any

import pytest
from textual import on

from lmplay_tui.commands import dashboard as command
from lmplay_tui.errors import UserError
from lmplay_tui.options import Launch
from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.messages import StartAsked
from lmplay_tui.ui.screens.dashboard import Dashboard
from tests.seams import Seams
from tests.ui.conftest import text_of, tick, whole_launcher
from tests.ui.fake import FakeSource


class Listening(LmplayApp):
    """Trains nothing: keeps what it was asked to start."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: list[StartAsked] = []

    @on(StartAsked)
    def _start(self, message: StartAsked) -> None:
        message.prevent_default()
        self.asked.append(message)


def finished(already: bool) -> FakeSource:
    source = FakeSource()
    source.view.name = "m1"
    source.waiting.append(happened.RunDone(840, "out/m1.lmp", 310.0, already=already))
    return source


@pytest.mark.long_after(1)
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["e", "backspace", "2", "enter"], {"model": "out/m1.lmp", "extend": 2.0}),
        (["n"], {"model": "out/m1.lmp", "reset_history": True}),
        (["v"], None),
        (["escape"], None),
    ],
)
async def test_a_start_of_a_finished_run_offers_to_go_on(keys: list[str], expected: dict[str, object] | None) -> None:
    app = Listening(Launch({"tz": "UTC"}), source=finished(already=True), timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        await tick(pilot)
        assert "m1 is finished" in text_of(app)
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        assert [message.line for message in app.asked] == ([] if expected is None else [expected])
        await tick(pilot)
        assert isinstance(app.screen, Dashboard), "it is asked once"


async def test_a_run_that_ends_here_is_not_asked_about() -> None:
    app = Listening(Launch({"tz": "UTC"}), source=finished(already=False), timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        await tick(pilot)
        assert isinstance(app.screen, Dashboard)


async def test_the_launcher_extends_a_finished_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "mine.lmp")
    run.create()
    run.write_status({"state": "finished", "step": 40, "heartbeat": 0})
    app = Listening(Launch(), launcher=True, timers=False)
    async with app.run_test(size=(100, 30)) as pilot:
        await whole_launcher(pilot)
        for key in ("tab", "enter", "e", "backspace", "3", "enter"):
            await pilot.press(key)
            await pilot.pause()
        assert app.asked[0].line == {"model": "mine.lmp", "device": "auto", "extend": 3.0}


async def test_another_start_takes_the_screen_of_the_one_before(seams: Seams) -> None:
    """And what was chosen for that one alone is not asked again."""
    started: list[dict[str, Any]] = []

    class Started(FakeSource):
        started = True

        def __init__(self, launch: Launch) -> None:
            super().__init__()
            started.append(dict(launch.line))

    seams.put("live source", Started)
    before = finished(already=False)
    before.exit_code = 0
    before.poll()
    app = LmplayApp(Launch({"tz": "UTC", "reset_history": True}), source=before, timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        app.screen.post_message(StartAsked({"model": "m1.lmp", "extend": 1.0}))
        await pilot.pause()
        assert started == [{"tz": "UTC", "model": "m1.lmp", "extend": 1.0}]
        assert sum(isinstance(screen, Dashboard) for screen in app.screen_stack) == 1


@pytest.mark.long
async def test_detach_holds_for_what_the_launcher_starts(seams: Seams) -> None:
    other = FakeSource(live=False)
    launches: list[Launch] = []
    may_start = threading.Event()

    def start(launch: Launch) -> FakeSource:
        launches.append(launch)
        assert may_start.wait(60)
        if len(launches) == 1:
            raise UserError("no room [b]here")
        return other

    seams.put("detached source", start)
    app = LmplayApp(Launch({"detach": True}), launcher=True, timers=False)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        await pilot.press("enter", "enter", "enter")  # while the first one waits, the others are none
        may_start.set()
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert len(launches) == 1
        assert any(notice.message == "no room [b]here" for notice in app._notifications)
        await pilot.press("enter")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert isinstance(app.screen, Dashboard)
        assert app.source is other
        assert launches[1].options.training_plan == "demo"


@pytest.mark.parametrize(
    ("words", "launcher", "plan"),
    [
        ([], True, None),
        (["--detach"], True, None),
        (["--resume", "none"], True, None),
        (["--start"], False, "demo"),
        (["--resume", "out/m.step-00000100.lmp"], False, None),
        (["--model", "m"], False, None),
    ],
)
def test_what_starts_at_once(
    monkeypatch: pytest.MonkeyPatch, seams: Seams, words: list[str], launcher: bool, plan: str | None
) -> None:
    seen: list[tuple[bool, object]] = []
    monkeypatch.setattr(command, "wants_dashboard", lambda options: True)
    Path("out").mkdir()
    Path("out/m.step-00000100.lmp").write_bytes(b"a checkpoint")  # what is in it is looked at by the run

    def shown(launch: Launch, *, launcher: bool = False) -> int:
        seen.append((launcher, launch.options.training_plan))
        return 0

    seams.put("dashboard", shown)
    assert command.main(words, "lmplay-tui") == 0
    assert seen == [(launcher, plan)]


@pytest.mark.parametrize("words", [[], ["--resume", "auto"]])
def test_headless_without_plan_and_model_trains_the_demo(seams: Seams, words: list[str]) -> None:
    plans: list[object] = []

    def trained(launch: Launch) -> int:
        plans.append(launch.options.training_plan)
        return 0

    seams.put("headless", trained)
    assert command.main(["--headless", *words], "lmplay-tui") == 0
    assert plans == ["demo"]
