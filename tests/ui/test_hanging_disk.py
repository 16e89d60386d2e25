"""A disk that hangs, as another machine's may: the screen and its keys go on, and nothing is lost once it answers."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from lmplay_tui.run.folder import RunFolder, RunLock
from lmplay_tui.ui import run_list
from lmplay_tui.ui.source import FolderSource
from lmplay_tui.ui.tty.patches import in_background
from lmplay_tui.ui.widgets.plan_pane import PlanPane
from tests.seams import Seams
from tests.ui.conftest import Open, text_of, tick, until
from tests.ui.fake import PLAN, Clock, fed
from tests.ui.test_plan_editor import say_plan
from tests.ui.test_sources import write


class Disk:
    """Answers nothing while it `hangs`."""

    def __init__(self) -> None:
        self._answers = threading.Event()
        self._answers.set()
        self.waiting = 0
        self.most_waiting = 0

    def hang(self) -> None:
        self._answers.clear()

    def answer(self) -> None:
        self._answers.set()

    def wait(self, *_: Any, **__: Any) -> None:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        assert self._answers.wait(60)
        self.waiting -= 1

    def behind(self, work: Callable[..., Any], suffix: str | None = None) -> Callable[..., Any]:
        """`work`, which needs this disk; `suffix`: only for paths that end so."""

        def slow(*args: Any, **kwargs: Any) -> Any:
            if suffix is not None and args[0].suffix != suffix:
                return work(*args, **kwargs)
            self.wait()
            return work(*args, **kwargs)

        return slow


@pytest.fixture
def disk(seams: Seams) -> Iterator[Disk]:
    disk = Disk()
    seams.put("moment", 0.01)
    yield disk
    disk.answer()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run.lmp")
    run.create()
    return run


def test_journals_on_a_disk_that_hangs_are_read_in_order_once_it_answers(
    run: RunFolder, disk: Disk, seams: Seams
) -> None:
    seams.watch("tail", disk.wait)
    write(run, 150)
    disk.hang()
    source = FolderSource(run, Clock())
    source.OVERDUE_S = 0.0
    for _ in range(5):
        assert not source.poll()
        assert not source.behind, "or the screen would look for it without a pause"
    assert (disk.most_waiting, source.view.at.step) == (1, 0)
    disk.answer()
    while source.view.at.step < 150 or source._asked is not None:
        source.poll()
    assert source.view.history.series["train/loss"].points().x.tolist() == list(range(1, 151))
    assert [stage.name for stage in source.view.stages][:2] == ["topics", "docstrings"]
    assert source.view.state == "dead"


async def test_a_viewer_of_a_run_on_a_disk_that_hangs_can_be_used_and_left(
    dashboard: Open, run: RunFolder, disk: Disk, monkeypatch: pytest.MonkeyPatch, seams: Seams
) -> None:
    for name in ("tail", "alive", "status"):
        seams.watch(name, disk.wait)
    monkeypatch.setattr(Path, "stat", disk.behind(Path.stat, ".toml"))
    write(run, 30)
    lock = RunLock(run)
    lock.take()
    try:
        async with dashboard(FolderSource(run)) as pilot:
            await until(pilot, lambda: _step(pilot) == 30)
            disk.hang()
            for _ in range(3):
                await tick(pilot)
            await pilot.press("6")
            assert pilot.app.screen._shown_pane == "log"  # type: ignore[attr-defined]
            await pilot.press("q")
            assert pilot.app._exit
            disk.answer()
    finally:
        lock.release()


def _known_plan(pilot: Pilot[Any]) -> str | None:
    pilot.app.tick()  # type: ignore[attr-defined]
    return pilot.app.screen.plan_editor._files[0].text  # type: ignore[attr-defined]


def _step(pilot: Pilot[Any]) -> float:
    pilot.app.tick()  # type: ignore[attr-defined]
    return pilot.app.source.view.at.step  # type: ignore[attr-defined]


@pytest.mark.long
async def test_the_list_of_runs_comes_when_the_disk_answers(
    dashboard: Open, disk: Disk, tmp_path: Path, seams: Seams
) -> None:
    seams.put("runs of the dashboard", disk.behind(run_list.find_runs))
    other = RunFolder(tmp_path / "out_gpt" / "other.lmp")
    other.create()
    disk.hang()
    async with dashboard(fed(30)) as pilot:
        await pilot.press("r")
        await pilot.pause()
        assert "reading the folders" in text_of(pilot.app)
        await pilot.press("enter", "escape")  # there is nothing to choose yet
        await pilot.pause()
        assert "reading the folders" not in text_of(pilot.app)
        await pilot.press("r")
        disk.answer()
        await until(pilot, lambda: "▸ other" in text_of(pilot.app))
        await pilot.press("enter")
        await pilot.pause()
        assert pilot.app.screen.ghost.name == "other"  # type: ignore[attr-defined]


async def test_a_plan_file_on_a_disk_that_hangs_is_seen_later(
    dashboard: Open, run: RunFolder, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.plan.write_text(PLAN, encoding="utf-8", newline="\n")
    source = fed(30, folder=run)
    say_plan(source, PLAN)
    monkeypatch.setattr(Path, "stat", disk.behind(Path.stat, ".toml"))
    async with dashboard(source) as pilot:
        await until(pilot, lambda: _known_plan(pilot) == PLAN)
        run.plan.write_text(PLAN + "# two\n", encoding="utf-8", newline="\n")
        disk.hang()
        await tick(pilot)
        await pilot.press("6")
        disk.answer()
        pane = pilot.app.screen.query_one(PlanPane)
        await until(pilot, lambda: pane.text.endswith("# two\n") or pilot.app.tick())  # type: ignore[attr-defined]


async def test_a_bug_in_the_background_ends_the_app_like_one_of_the_screens(dashboard: Open) -> None:
    def fails() -> Callable[[], None]:
        raise RuntimeError("oops")

    with pytest.raises(RuntimeError, match="oops"):
        async with dashboard(fed(3)) as pilot:
            app = pilot.app
            in_background(app, fails)
            await until(pilot, lambda: app._exception is not None)
    assert isinstance(app.crashed, RuntimeError)  # type: ignore[attr-defined]
