"""What a poll takes in, and when a run counts as done: of a trainer in this process, and of a folder of journals."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lmplay_tui.errors import EXIT_BUG, EXIT_TRAINING
from lmplay_tui.options import Launch
from lmplay_tui.run import controls
from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder, RunLock
from lmplay_tui.run.journal import Journal
from lmplay_tui.run.view import RunView
from lmplay_tui.ui import session
from lmplay_tui.ui.session import LiveSource
from lmplay_tui.ui.source import FolderSource
from tests.seams import Seams
from tests.ui.fake import Clock, training
from tests.ui.test_sources import STOPPED, drained, write


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run.lmp")
    run.create()
    return run


@pytest.fixture
def slow_view(seams: Seams) -> list[object]:
    """Each event takes longer to take in than a poll may; what was taken in."""
    taken: list[object] = []

    def follow(_view: RunView, event: object, _at: float | None = None) -> None:
        taken.append(event)
        time.sleep(0.02)

    seams.put("follow", follow)
    seams.put("follow the past", follow)
    return taken


# ---- a trainer in this process


def test_a_run_is_done_when_its_trainer_has_ended_and_its_last_event_is_seen() -> None:
    may_end = threading.Event()

    def waiting(_launch: Launch, _controls: controls.Controls) -> Iterator[happened.Event]:
        yield from training(5)
        assert may_end.wait(90)
        yield STOPPED

    source = LiveSource(Launch(), waiting)
    source.start()
    while source.view.at.step < 5 or source._queue:
        source.poll()
    assert [source.done, source.finished.is_set(), source.leaves] == [None, False, False]
    may_end.set()
    assert source.wait(90)
    assert [source.done, source.leaves] == [None, True], "its end waits to be seen"
    assert drained(source).done == 0


@pytest.mark.parametrize("fails", [False, True])
def test_after_the_trainers_end_its_last_event_is_there(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    def ending(_launch: Launch, _controls: controls.Controls) -> Iterator[happened.Event]:
        yield from training(2)
        if fails:
            raise RuntimeError("oops")
        yield STOPPED

    source = LiveSource(Launch(), ending)
    there: list[object] = []
    monkeypatch.setattr(source.finished, "set", lambda: there.append(source._queue[-1]))
    source.start()
    assert source.wait(90)
    assert [type(event) for event in there] == [happened.RunFailed if fails else happened.RunStopped]
    assert source.exit_status == (EXIT_BUG if fails else 0)


def test_a_trainer_that_ends_without_a_last_event_is_a_bug() -> None:
    source = LiveSource(Launch(), lambda *_: iter(training(2)))
    source.start()
    drained(source)
    assert source.done == EXIT_BUG


def test_a_poll_of_a_trainer_takes_no_longer_than_it_may(
    monkeypatch: pytest.MonkeyPatch, slow_view: list[object]
) -> None:
    monkeypatch.setattr(session, "POLL_BUDGET_S", 0.01)
    source = LiveSource(Launch(), lambda *_: iter([STOPPED] * 3))
    source.start()
    assert source.wait(90)
    for seen in (1, 2, 3):
        assert source.poll()
        assert len(slow_view) <= seen, "the rest waits for the next"
    while source.poll():
        pass
    assert len(slow_view) == 3


def test_only_the_runs_own_past_makes_the_screen_look_without_a_pause(folder: RunFolder) -> None:
    write(folder, 30)
    folder.model.touch()
    source = LiveSource(Launch(), lambda *_: iter([STOPPED]))
    source._remember(folder)
    assert [source.behind] == [True]
    source.start()
    assert source.wait(90)
    while source.behind:
        source.poll()
    assert source.view.at.step == 30
    drained(source)
    assert [source.view.state, source.behind] == ["stopped", False]


def test_prints_before_there_is_a_folder_are_in_the_log_once_there_is(folder: RunFolder) -> None:
    source = LiveSource(Launch(), lambda *_: iter(()))
    source.keep_prints(["one"])
    source.folder = folder
    source.keep_prints(["two\x1b[31m"])
    lines = folder.log.read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["print   one", "print   two␛[31m"]


# ---- a folder of journals


def test_a_poll_of_a_folder_begins_no_piece_after_its_time(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, slow_view: list[object]
) -> None:
    with closing(Journal(folder.events)) as journal:
        for step in range(20):
            journal.write({"event": "Bookmarked", "step": step, "note": "x" * 90})
    source = FolderSource(folder, Clock())
    source.CHUNK_BYTES = source.FIRST_BYTES = 100
    source.POLL_BUDGET_S = 0.01
    polls = 0
    while source.behind:
        source.poll()
        polls += 1
        assert len(slow_view) <= 2 * polls + 1  # and what `run.json` says
    assert polls >= 10
    assert [event.step for event in slow_view if isinstance(event, happened.Bookmarked)] == list(range(20))


def test_whether_a_run_lives_is_looked_at_once_a_second(folder: RunFolder, seams: Seams) -> None:
    looks: list[RunFolder] = []

    def looked(run: RunFolder) -> bool:
        looks.append(run)
        return False

    seams.put("alive", looked)
    write(folder, 5)
    clock = Clock()
    source = FolderSource(folder, clock)
    for _ in range(4):
        source.poll()
    assert len(looks) == 1
    clock.now -= 3600  # set back
    source.poll()
    assert len(looks) == 2


def test_a_folders_process_is_known_while_it_lives_on_this_machine(folder: RunFolder) -> None:
    write(folder, 5)
    clock = Clock()
    source = FolderSource(folder, clock)
    lock = RunLock(folder)
    lock.take()
    for host, known in (("elsewhere", None), (socket.gethostname(), 4711)):
        folder.write_status({"state": "paused", "pid": 4711, "host": host})
        clock.now += 2
        source.poll()
        assert (source.pid, source.view.state, source.done) == (known, "paused", None)
    lock.release()
    clock.now += 2
    source.poll()
    assert (source.pid, source.view.state) == (None, "dead")


@pytest.mark.parametrize("code", [2, 3])
def test_a_folder_whose_run_has_failed_gives_its_status(folder: RunFolder, code: int) -> None:
    write(folder, 5, happened.RunFailed("no", code, 5, None))
    source = FolderSource(folder, Clock())
    source.poll()
    assert source.done == code


def test_a_failure_that_only_the_status_file_knows_is_one(folder: RunFolder) -> None:
    write(folder, 5)
    folder.write_status({"state": "failed"})
    source = FolderSource(folder, Clock())
    source.poll()
    assert (source.view.state, source.done) == ("failed", EXIT_TRAINING)


@pytest.mark.parametrize("end", [STOPPED, happened.RunDone(5, "m.lmp", 1.0), None], ids=["stopped", "finished", "dead"])
def test_a_folder_whose_run_is_over_gives_nought(folder: RunFolder, end: happened.Event | None) -> None:
    write(folder, 5, *([] if end is None else [end]))
    source = FolderSource(folder, Clock())
    assert source.done is None, "not looked at yet"
    while source.behind:
        source.poll()
    assert [source.view.over, source.done] == [True, 0]
