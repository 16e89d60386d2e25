"""Leaving the dashboard with a plan in the editor that was not applied: the text is never lost silently."""

import gc
import operator
import tempfile
import threading
import weakref
from collections.abc import Iterator
from itertools import compress, product
from pathlib import Path

import pytest
from textual.screen import Screen
from textual.widgets import Input

from lmplay_tui.options import Launch
from lmplay_tui.run.controls import Command, HandOver, Stop
from lmplay_tui.run.events import Event, HandedOver, RunDone, RunFailed, RunStopped
from lmplay_tui.run.folder import RunFolder, RunLock
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.ending import keep_draft
from lmplay_tui.ui.messages import StartAsked
from lmplay_tui.ui.run_app import run_dashboard
from lmplay_tui.ui.screens.dashboard import Dashboard
from lmplay_tui.ui.screens.launcher import Launcher
from lmplay_tui.ui.screens.plan_editor import new_plan_path, wrong_with_name
from lmplay_tui.ui.session import LiveSource, end_anyway
from lmplay_tui.ui.source import FolderSource
from lmplay_tui.ui.widgets.plan_pane import PlanPane
from tests.seams import Seams
from tests.ui.conftest import Open, text_of, whole_launcher
from tests.ui.fake import FakeSource, fed
from tests.ui.test_sources import write

STATUSES: dict[str, tuple[list[Event], int]] = {
    "runs": ([], 0),
    "stopped": ([RunStopped(60, "m.lmp", "", "asked")], 0),
    "finished": ([RunDone(60, "m.lmp", 3.0)], 0),
    "failed": ([RunFailed("no memory", 3, 60, "m.lmp")], 3),
    "wrong": ([RunFailed("no such dataset", 2, 0, None)], 2),
}


@pytest.mark.long_after(4)
@pytest.mark.parametrize("way", ["q", "ctrl+c", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("end", STATUSES)
async def test_a_viewer_exits_with_the_status_of_a_run_that_is_over(
    dashboard: Open, tmp_path: Path, way: str, end: str
) -> None:
    """However it is left, as the dashboard of the run itself does; a run that goes on is left as it is, with 0."""
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    write(run, 60, *STATUSES[end][0])
    lock = RunLock(run)
    lock.take()
    if end != "runs":
        lock.release()
    async with dashboard(FolderSource(run)) as pilot:
        app = pilot.app
        assert isinstance(app, LmplayApp)
        match way:
            case "SIGTERM":
                app.stop_by_signal(way)
            case "SIGHUP":
                app.line_lost()
            case _:
                await pilot.press(way)
        await pilot.pause()
        if app.return_value is None:
            app.tick()
        assert app.return_value == STATUSES[end][1]
    lock.release()


@pytest.mark.long_after(2)
@pytest.mark.parametrize("way", ["q", "ctrl+c", "signal", "ctrl+c twice", "nothing typed", "applied"])
async def test_what_was_typed_is_known_when_the_screen_is_gone(dashboard: Open, tmp_path: Path, way: str) -> None:
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    run.plan.write_text('[stages.a]\ndataset = "pydocs"\n', encoding="utf-8")
    source = fed(60, live=way in ("ctrl+c twice", "applied"), folder=run)
    async with dashboard(source) as pilot:
        app = pilot.app
        assert isinstance(app, LmplayApp)
        app.tick()
        await pilot.press("e")
        if way != "nothing typed":
            await pilot.press(*"# x")
        app.screen.query_one(PlanPane).check_now()
        if way == "applied":
            await pilot.press("ctrl+s")
            run.plan.write_text(app.screen.query_one(PlanPane).text, encoding="utf-8")
            app.tick()
        await pilot.press("escape")
        match way:
            case "signal":
                app.stop_by_signal("SIGTERM")
                app.tick()
            case "applied":
                app.exit(0)
            case _:
                await pilot.press(*{"ctrl+c twice": ["ctrl+c", "ctrl+c"], "ctrl+c": ["ctrl+c"]}.get(way, ["q"]))
        await pilot.pause()
    lost = way not in ("nothing typed", "applied")
    assert app.unsaved_plan == ('# x[stages.a]\ndataset = "pydocs"\n' if lost else None)


def test_a_draft_is_kept_beside_the_run_and_no_earlier_one_is_lost(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    folder = run.plan.parent
    assert keep_draft("one", run).endswith(f"it is kept in {folder / 'plan.draft.toml'}")
    assert keep_draft("two", run).endswith("plan.draft-2.toml")
    assert (folder / "plan.draft.toml").read_text() == "one"
    assert (folder / "plan.draft-2.toml").read_text() == "two"


@pytest.mark.parametrize("there", list(product([False, True], repeat=3)), ids=str)
def test_a_draft_finds_another_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[bool, bool, bool]
) -> None:
    """The run's folder, the working folder, the one for temporaries: the first that is still there takes it."""
    folders = [tmp_path / name for name in ("m.run", "work", "temporary")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[1])
    for folder in compress(folders, map(operator.not_, there)):
        folder.rmdir()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folders[2]))
        said = keep_draft("text", RunFolder(tmp_path / "m.lmp"))
    left = list(compress(folders, there))
    assert sorted(tmp_path.rglob("*.toml")) == [folder / "plan.draft.toml" for folder in left[:1]]
    assert (str(left[0] / "plan.draft.toml") in said) if left else "no folder would take a copy" in said


async def test_buttons_of_a_run_that_is_over_say_so(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source) as pilot:
        buttons = pilot.app.screen.query("#top Button")
        assert len(buttons) == 3 and not any(button.disabled for button in buttons)
        source.view.state = "finished"
        pilot.app.tick()  # type: ignore[attr-defined]
        assert all(button.disabled for button in buttons)


def ended(event: Event, *commands: Command) -> LiveSource:
    """A run that was told something and has ended like this."""
    source = LiveSource(Launch(), lambda *_: iter([event]))
    for command in commands:
        source.send(command)
    source.start()
    assert source.wait(20)
    return source


ENDS = (
    RunStopped(20, "a.lmp", "lmplay-tui --model a.lmp", "asked"),
    RunFailed("the disk is full", 3, 20, None),
    RunDone(20, "a.lmp", 5.0),
    HandedOver(20, 4711),
)


@pytest.mark.long_after(2)
@pytest.mark.parametrize("told", [(), (Stop(),), (HandOver(),)], ids=["by itself", "stop", "hand over"])
@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
async def test_who_waits_for_a_stuck_screen_goes_when_the_screen_would(
    dashboard: Open, end: Event, told: tuple[Command, ...]
) -> None:
    """Else a dashboard that is still read would be ended under its reader's eyes."""
    source = ended(end, *told)
    async with dashboard(source) as pilot:
        app = pilot.app
        assert isinstance(app, LmplayApp)
        assert source.leaves == (app.return_value is not None)
        assert source.leaves == isinstance(end, RunStopped | HandedOver)
        app.stop_by_signal("SIGTERM")
        assert source.leaves, "whatever became of the run, its end is awaited no more"
        app.tick()
        assert app.return_value == source.exit_status


async def test_a_run_that_is_looked_at_is_left_by_its_key(dashboard: Open) -> None:
    source = ended(ENDS[1], Stop())
    async with dashboard(source) as pilot:
        assert not source.leaves
        await pilot.press("q")
        assert source.leaves


@pytest.mark.long_after(1)
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("/", "a file's name"), (".", "a file's name"), ("..", "a file's name"), ("sub/", "a file's name"),
        ("  ", "a file's name"), ("x" * 300, "File name too long"), ("nowhere/a", "no folder nowhere"),
        ("there.toml", "there already"), ("~nobody-of-this-name/a", "no such user"),
    ],
)  # fmt: skip
async def test_a_name_that_cannot_be_a_plans_is_refused_in_its_dialog(
    dashboard: Open, source: FakeSource, tmp_path: Path, typed: str, said: str
) -> None:
    (tmp_path / "there.toml").write_text("mine", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    async with dashboard(source) as pilot:
        await pilot.press("e", *"# x", "f2")
        pilot.app.screen.query_one(Input).value = typed
        await pilot.press("enter")
        await pilot.pause()
        assert said in text_of(pilot.app)
        pilot.app.screen.query_one(Input).value = "good"
        await pilot.press("enter")
        await pilot.pause()
        assert (tmp_path / "good.toml").read_text(encoding="utf-8") == "# x"
        assert (tmp_path / "there.toml").read_text(encoding="utf-8") == "mine"


def test_a_plans_name_may_begin_with_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert new_plan_path(" ~/mine ") == tmp_path / "mine.toml"
    monkeypatch.setattr(Path, "exists", lambda _: raised(PermissionError(13, "Permission denied")))
    with pytest.raises(PermissionError):
        new_plan_path("mine")
    assert wrong_with_name("mine") == "Permission denied"


def raised(error: Exception) -> bool:
    raise error


async def test_a_screen_that_is_not_composed_yet_is_neither_drawn_nor_asked(source: FakeSource) -> None:
    app = LmplayApp(Launch({"tz": "UTC"}), launcher=True, timers=False)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.pause()
        app.show_run(source)
        app.tick()
        assert isinstance(app.screen, Dashboard) and not app.screen.is_mounted
        app.exit(0)
        await pilot.pause()
    assert app.unsaved_plan is None


async def test_a_bug_of_the_screen_keeps_what_was_typed(source: FakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    app = LmplayApp(Launch({"tz": "UTC"}), source=source, timers=False)
    with pytest.raises(ZeroDivisionError):
        async with app.run_test(size=(100, 30)) as pilot:
            await pilot.press("e", *"# x")
            monkeypatch.setattr(Dashboard, "action_save", lambda _: 1 // 0)
            await pilot.press("escape", "2", "s")
            await pilot.pause()
    assert app.unsaved_plan == "# x"
    assert isinstance(app.crashed, ZeroDivisionError)


def shows(app: LmplayApp, kind: type[Screen[None]]) -> bool:
    return isinstance(app.screen, kind)


@pytest.mark.long
@pytest.mark.parametrize("key", ["q", "ctrl+c"])
async def test_from_a_run_of_the_launcher_the_way_leads_back_to_it(tmp_path: Path, key: str) -> None:
    run = RunFolder(Path("mine.lmp"))
    run.create()
    run.write_status({"state": "finished", "step": 40})
    run.plan.write_text('[stages.a]\ndataset = "pydocs"\n', encoding="utf-8")
    app = LmplayApp(Launch({"seed": 7}), launcher=True, timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await whole_launcher(pilot)
        await pilot.press("tab", "enter", "enter")  # a finished run: the first choice is to look at it
        await pilot.pause()
        assert shows(app, Dashboard)
        app.tick()
        await pilot.press("e", *"# x", "escape")
        other = RunFolder(Path("other.lmp"))
        other.create()
        await pilot.press(key)
        await pilot.pause()
        assert shows(app, Launcher)
        assert (app.source, app.unsaved_plan, app.launch) == (None, None, Launch({"seed": 7}))
        assert "other" in text_of(app)
        assert (run.folder / "plan.draft.toml").read_text(encoding="utf-8").startswith("# x")
        app.tick()
        await pilot.press(key)
        await pilot.pause()
        assert app.return_value == 0


@pytest.mark.long
async def test_a_second_run_of_the_launcher_has_nothing_of_the_first(seams: Seams) -> None:
    made: list[Launch] = []

    class Failed(FakeSource):
        started = True

        def __init__(self, launch: Launch) -> None:
            super().__init__()
            self.exit_code = 3
            made.append(launch)
            self.view.follow(RunFailed("no memory", 3, 0, None))

    seams.put("live source", Failed)
    app = LmplayApp(Launch({"seed": 7}), launcher=True, timers=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        asked: list[dict[str, object]] = [{"model": "a.lmp", "reset_history": True}, {"training_plan": "demo"}]
        for given in asked:
            app.post_message(StartAsked(given))
            await pilot.pause()
            assert shows(app, Dashboard)
            await pilot.press("q")
            await pilot.pause()
            assert shows(app, Launcher)
        await pilot.press("q")
        await pilot.pause()
    assert app.return_value == 3, "the last run has failed"
    assert app.last_lines == ["no memory"]
    lines = [dict(launch.line) for launch in made]
    assert lines == [{"seed": 7, "model": "a.lmp", "reset_history": True}, {"seed": 7, "training_plan": "demo"}]


def test_the_shell_is_told_of_the_launchers_last_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def left(app: LmplayApp, **_: object) -> int:
        app.last_lines = ["no memory", "last checkpoint: a.lmp (step 7)"]
        app.leave_wanted = True  # by its key: else the screen would have ended by itself
        return 3

    monkeypatch.setattr(LmplayApp, "run", left)
    monkeypatch.setattr("lmplay_tui.ui.run_app.use_our_output", lambda: None)
    monkeypatch.setattr("sys.setswitchinterval", lambda seconds: None)
    assert run_dashboard(Launch(), launcher=True) == 3
    assert capfd.readouterr().out.splitlines() == ["no memory", "last checkpoint: a.lmp (step 7)"]


@pytest.mark.long
def test_a_run_that_was_left_for_the_launcher_is_not_kept_by_its_watchdog() -> None:
    def events(*_: object) -> Iterator[Event]:
        yield RunFailed("no memory", 3, 0, None)

    source = LiveSource(Launch(), events)
    held = weakref.ref(source)
    source.start()
    end_anyway(source, pytest.fail)
    assert source.wait(60)
    watchdogs = [thread for thread in threading.enumerate() if thread.name == "watchdog"]
    del source
    gc.collect()
    assert held() is None
    watchdogs[-1].join(60)
    assert not watchdogs[-1].is_alive()
