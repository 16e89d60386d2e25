"""Where runs come from: a trainer's thread, a folder of journals; and what native code prints meanwhile."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from lmplay_tui.errors import EXIT_BUG
from lmplay_tui.options import Launch
from lmplay_tui.run import controls
from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder, RunLock
from lmplay_tui.run.journal import Journal
from lmplay_tui.run.recorder import Recorder
from lmplay_tui.ui.ending import ending_lines, left_lines
from lmplay_tui.ui.screens.dashboard import Dashboard
from lmplay_tui.ui.session import LiveSource
from lmplay_tui.ui.source import FolderSource
from lmplay_tui.ui.tty.signals import EMPTIED_FROM_BYTES, StrayPrints
from tests.run.test_view import journals, write_journals
from tests.ui.conftest import Open, until
from tests.ui.fake import STAGES, Clock, FakeSource, fed, started, step_done, training

STOPPED = happened.RunStopped(20, "a.lmp", "lmplay-tui --model a.lmp", "asked")


def drained(source: LiveSource) -> LiveSource:
    assert source.wait(90)
    while source.poll():
        pass
    return source


def test_a_live_run_is_seen_and_told_to_stop() -> None:
    def until_stopped(launch: Launch, asked: controls.Controls) -> Iterator[happened.Event]:
        assert launch == Launch({"seed": 1})
        yield from training(20)
        while not asked.stop_now:
            pass
        yield STOPPED

    source = LiveSource(Launch({"seed": 1}), until_stopped)
    source.start()
    source.send(controls.Stop())
    assert source.view.state == "stopping"
    drained(source)
    assert (source.view.state, source.done, source.view.at.step) == ("stopped", 0, 20)
    assert ending_lines(source.view) == ["stopped at step 20, saved a.lmp", "go on with: lmplay-tui --model a.lmp"]


SAVED = happened.CheckpointSaved("out/my m.lmp", 15, 150, 1, 0.1, 0.1, "interval")
GO_ON = ["last checkpoint: out/my m.lmp (step 15)", "go on with: lmplay-tui --model 'out/my m.lmp'"]
LOOK = "look with: lmplay-tui attach gpt2ish_demo"
ENDS: dict[str, tuple[list[happened.Event], list[str]]] = {
    "done": ([happened.RunDone(20, "a.lmp", 3.0)], ["the plan is done at step 20, saved a.lmp"]),
    "failed": ([SAVED, happened.RunFailed("no memory", 3, 20, "out/my m.lmp")],
               ["no memory", "gpt2ish_demo has failed at step 20", *GO_ON]),
    "failed before a save": ([happened.RunFailed("a\nb\x1b", 2, 0, None)], ["a", "b␛"]),
    "a plan that is wrong": ([SAVED, happened.RunFailed("bad", 2, 0, "out/my m.lmp")], ["bad", GO_ON[0]]),
    "handed over": ([happened.HandedOver(20, 4711)], [f"gpt2ish_demo goes on in process 4711; {LOOK}"]),
    "running": ([SAVED], [f"gpt2ish_demo goes on at step 20; {LOOK}"]),
    "paused": ([happened.Paused(20)], [f"gpt2ish_demo is paused at step 20; {LOOK}"]),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_the_last_lines_say_what_ended_and_how_to_go_on(end: str) -> None:
    events, lines = ENDS[end]
    source = fed(20)
    source.waiting.extend(events)
    source.poll()
    assert left_lines(source.view) == lines
    if source.view.over or source.view.handed_over:
        assert ending_lines(source.view) == lines


def test_the_last_lines_of_a_run_that_was_killed() -> None:
    source = fed(20)
    source.waiting.append(SAVED)
    source.poll()
    source.view.state = "dead"
    assert left_lines(source.view) == ["gpt2ish_demo: its process has ended at step 20 without a word", *GO_ON]


def test_a_trainer_that_raises_does_not_die_silently() -> None:
    def broken(_launch: Launch, _controls: controls.Controls) -> Iterator[happened.Event]:
        yield from training(3)
        raise RuntimeError("oops")

    source = LiveSource(Launch(), broken)
    source.start()
    drained(source)
    assert source.done == EXIT_BUG
    assert source.view.state == "failed"
    assert "RuntimeError: oops" in source.view.log[-1].text


def test_a_flood_between_two_polls_stays_bounded_and_loses_no_event_that_matters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = 1000  # of as many as there may be a busy machine would take a minute
    monkeypatch.setattr("lmplay_tui.ui.session.MAX_WAITING", most)

    def flood(_launch: Launch, _controls: controls.Controls) -> Iterator[happened.Event]:
        yield from training(1)
        step = step_done(2, "topics", 20, 20, 3.0)
        for _ in range(most + 500):
            yield step
        yield happened.CheckpointSaved("a.lmp", 2, 20, 5, 0.1, 0.1, "asked")
        yield STOPPED

    source = LiveSource(Launch(), flood)
    source.start()
    assert source.wait(90)
    assert len(source._queue) <= most + 10
    drained(source)
    assert source.view.checkpoint is not None
    assert source.done == 0
    assert any("fell behind" in entry.text for entry in source.view.log)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run.lmp")
    run.create()
    return run


def write(run: RunFolder, steps: int, *more: happened.Event) -> None:
    write_journals(run, journals([*training(steps), *more]))


def test_a_folder_is_followed_while_it_grows(folder: RunFolder) -> None:
    write(folder, 30)
    lock = RunLock(folder)
    lock.take()
    folder.write_status({"state": "running", "activity": "validating", "detail": "256 samples", "fraction": 0.25})
    clock = Clock()
    source = FolderSource(folder, clock)
    assert source.poll()
    assert (source.view.state, source.view.activity, source.view.fraction) == ("running", "validating", 0.25)
    assert source.view.at.step == 30
    assert source.done is None
    with closing(Journal(folder.metrics)) as journal:
        journal.write({"step": 31, "samples": 310, "tokens": 1, "elapsed_s": 9, "train/loss": 1.0})
    source.poll()
    assert source.view.at.step == 31
    lock.release()
    clock.now += 2
    source.poll()
    assert source.view.state == "dead"
    assert source.view.log[-1].text == "its process has ended without a word; nothing had been saved"
    with closing(Journal(folder.events)) as journal:
        journal.write(STOPPED.record())
    source.poll()
    assert source.view.state == "stopped"


def test_what_a_run_does_is_never_older_than_its_last_end(folder: RunFolder) -> None:
    """Validations that follow each other sooner than `run.json` is due: it says so of each, and of the time between."""
    recorder, clock = Recorder(folder), Clock()
    lock = RunLock(folder)
    lock.take()
    source = FolderSource(folder, clock)
    for _ in range(5):
        recorder.record(happened.ActivityChanged("validating"))
        clock.now += 2
        source.poll()
        assert (source.view.activity, source.view.now() - source.view.activity_since) == ("validating", 0)
        recorder.record(happened.ActivityChanged("training"))
        assert folder.status()["activity"] == "training"
    clock.now += 2
    source.poll()
    assert source.view.activity == "training"
    lock.release()


def test_speed_and_end_are_the_trainers_own(folder: RunFolder) -> None:
    """A reader of lines cannot know how long the validations between them took."""
    write(folder, 30)
    stages = [
        {"name": info.name, "datasets": info.datasets, "epochs": info.epochs, "rows_total": info.rows_total,
         "rows_done": 300 if info is STAGES[0] else 0} for info in STAGES
    ]  # fmt: skip
    lock = RunLock(folder)
    lock.take()
    folder.write_status({"state": "running", "stages": stages, "tokens_per_s": 1234.0, "eta_s": 5000.0})
    clock = Clock()
    source = FolderSource(folder, clock)
    while source.poll() or source.behind:
        pass
    assert source.view.pace.tokens_per_s == 1234.0
    assert source.view.seconds_left() == pytest.approx(5000.0)
    folder.write_status({"state": "running", "stages": stages, "tokens_per_s": None, "eta_s": None})
    clock.now += 2
    source.poll()
    assert source.view.pace.tokens_per_s != 1234.0, "what is not told is measured"
    lock.release()


def test_a_dead_run_that_is_resumed_is_followed_on(folder: RunFolder) -> None:
    """As soon as a process holds it, which still loads; and by its word alone, before the next look at the lock."""
    write(folder, 30)
    folder.write_status({"state": "running"})
    clock = Clock()
    source = FolderSource(folder, clock)
    source.poll()
    assert source.view.state == "dead"
    lock = RunLock(folder)
    lock.take()
    folder.write_status({"state": "running", "activity": "loading", "detail": "the model"})
    clock.now += 2
    assert source.poll()
    assert (source.view.state, source.view.activity, source.done) == ("running", "loading", None)
    lock.release()
    clock.now += 2
    source.poll()
    assert source.view.state == "dead"
    died = [entry for entry in source.view.log if entry.event == "Died"]
    assert len(died) == 2, "each death is said"
    for path, record in (
        (folder.events, started(resumed_from=30).record()),
        (folder.metrics, {"step": 31, "samples": 310, "tokens": 1, "elapsed_s": 9, "train/loss": 1.0}),
    ):
        with closing(Journal(path)) as journal:
            journal.write(record)
    source.poll()
    assert (source.view.state, source.view.at.step, source.done) == ("running", 31, None)


def test_commands_to_a_folder_are_whole_files_and_refused_where_no_process_trains(folder: RunFolder) -> None:
    source = FolderSource(folder, Clock())
    source.send(controls.SaveNow())
    assert list(folder.control.iterdir()) == []
    assert "no process" in source.view.log[-1].text
    lock = RunLock(folder)
    lock.take()
    source.send(controls.SetLearningRate(factor=0.5))
    source.send(controls.SaveNow())
    written = sorted(folder.control.iterdir())
    lock.release()
    values = [json.loads(path.read_text(encoding="utf-8")) for path in written]
    assert [value["command"] for value in values] == ["SetLearningRate", "SaveNow"]
    assert values[0]["factor"] == 0.5
    assert values[0]["id"] == written[0].stem


def test_spoilt_journals_are_passed_over_and_said_once(folder: RunFolder) -> None:
    write(folder, 10)
    with folder.events.open("a", encoding="utf-8") as file:
        file.write(
            '{"event":"StepDone"}\n{"event":"Evaluated","sets":{"topics":3}}\nnot json\n[1]\n{"step":[],"a/b":1}\n'
        )
    source = FolderSource(folder, Clock())
    source.poll()
    source.poll()
    assert source.view.at.step == 10
    assert sum("passed over" in entry.text for entry in source.view.log) == 1


def test_a_resume_takes_back_in_each_journal_what_that_journal_told(folder: RunFolder) -> None:
    """The journals are read one behind the other: the last one's resume is older than the first one's last lines."""
    records = journals(training(150))
    before = [record for record in records if record.get("step", 0) <= 110]
    after = [started(resumed_from=95).record(), *(record for record in records if record.get("step", 0) > 95)]
    for part in (before, after):
        write_journals(folder, part)
        if part is before:
            for path in (folder.events, folder.metrics, folder.predictions):
                with closing(Journal(path)) as journal:
                    journal.write({"resumed_from": 95})
    source = FolderSource(folder, Clock())
    source.poll()
    view = source.view
    assert view.history.series["train/loss"].points().x.tolist() == list(range(1, 151))
    assert view.history.series["val/loss"].points().x[-1] == 150
    told = [record["step"] for record in records if "prompt" in record]
    assert [seen.step for seen in view.predictions] == told
    assert max(mark.step for mark in view.marks) > 95
    live = LiveSource(Launch(), lambda *_: iter(()))
    folder.model.touch()
    live._remember(folder)
    while live.poll():
        pass
    assert live.view.history.series["train/loss"].points().x.tolist() == list(range(1, 151))


def long_journal(run: RunFolder, steps: int) -> None:
    line = '{"elapsed_s":%d.5,"step":%d,"samples":%d,"stage_samples":3,"tokens":5,"stage":"topics","train/loss":%d}\n'
    run.metrics.write_text("".join(line % (i, i, i, i) for i in range(1, steps + 1)), encoding="utf-8")


def test_before_the_first_frame_a_long_journal_costs_little_and_imports_nothing(folder: RunFolder) -> None:
    long_journal(folder, 20_000)
    program = (
        "import sys\nfrom pathlib import Path\nfrom lmplay_tui.run.folder import RunFolder\n"
        "from lmplay_tui import background\nfrom lmplay_tui.ui.source import FolderSource\n"
        "background.MOMENT_S = 60.0\n"
        f"source = FolderSource(RunFolder(Path({str(folder.model)!r})))\nsource.poll()\n"
        "print(source.behind, 'pyarrow' in sys.modules, source.view.at.step < 2000)\n"
        "while source.behind: source.poll()\n"
        "print(source.view.at.step, 'pyarrow' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "True", "20000.0", "True"]


class LongSource(FakeSource):
    """There is always more to read."""

    looks = 0

    def poll(self) -> bool:
        self.looks += 1
        return super().poll()


async def test_keys_are_answered_while_a_long_journal_is_read(dashboard: Open) -> None:
    source = LongSource()
    source.behind = True
    async with dashboard(source) as pilot:
        screen = pilot.app.screen
        assert isinstance(screen, Dashboard)
        await pilot.press("6")
        assert screen._shown_pane == "log"
        before = source.looks
        await until(pilot, lambda: source.looks > before + 5)  # one behind the other: nothing ticks here
        source.behind = False
        await until(pilot, lambda: not screen._catching_up)
        before = source.looks
        await pilot.pause(0.1)
        assert source.looks == before


@pytest.mark.long
async def test_a_long_journal_is_read_on_by_a_slow_machine(dashboard: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer of Textual's that is held up for as long as it should wait rings never."""
    clock = itertools.count(time.monotonic(), 0.01)
    monkeypatch.setattr("textual.timer._time.get_time", lambda: next(clock))
    source = LongSource()
    source.behind = True
    async with dashboard(source) as pilot:
        before = source.looks
        await until(pilot, lambda: source.looks > before + 5, seconds=10)


@pytest.mark.parametrize("folder", ["", "none"])
def test_native_prints_are_caught_and_the_descriptors_given_back(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    """In memory where no folder takes a temporary file."""
    before = os.fstat(1).st_ino, os.fstat(2).st_ino
    streams = sys.__stdout__, sys.__stderr__
    with ExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(tmp_path / folder))
            stray = stack.enter_context(StrayPrints().caught())
        os.write(1, b"from C\n50%\r100%\nhalf")
        os.write(2, b" a line\n")
        assert stray.new_lines() == ["from C", "100%", "half a line"]
        assert stray.new_lines() == []
        os.write(1, b"x\n" * (EMPTIED_FROM_BYTES // 2))
        while stray.new_lines():
            pass
        os.write(1, b"at the end of a file that was emptied\n")
        assert os.fstat(1).st_size < 100
        assert stray.new_lines() == ["at the end of a file that was emptied"]
    assert (os.fstat(1).st_ino, os.fstat(2).st_ino) == before
    assert (sys.__stdout__, sys.__stderr__) == streams
    assert capfd.readouterr().out == ""


def test_stopping_is_said_only_while_it_is_so() -> None:
    """By a key, a control file or a time limit. A hand-over that failed leaves the run as it was."""
    source = LiveSource(Launch(), lambda *_: iter(()))
    source.view.state = "paused"
    source.send(controls.Stop(when="stage_end"))
    assert source.view.state == "paused"
    assert source.view.log[-1].text == "stops when this stage is done"
    source.send(controls.HandOver())
    assert source.view.state == "stopping"
    source.poll()
    assert source.view.state == "stopping"
    source.controls.stay()
    source.poll()
    assert source.view.state == "paused"
    source.controls.send(controls.Stop(reason="max hours"))
    source.poll()
    assert source.view.state == "stopping"


async def test_what_could_not_be_asked_is_not_said_to_be_done(dashboard: Open, folder: RunFolder) -> None:
    write(folder, 30)
    lock = RunLock(folder)
    lock.take()
    source = FolderSource(folder)
    try:
        async with dashboard(source) as pilot:
            folder.control.rmdir()
            await pilot.press("s")
            await pilot.pause()
            said = [notice.message for notice in pilot.app._notifications]
            assert any("cannot be written" in text for text in said)
            assert not any("saving" in text for text in said)
            folder.control.mkdir()
            await pilot.press("s")
            await pilot.pause()
            assert any("saving" in notice.message for notice in pilot.app._notifications)
            folder.control.rename(folder.folder / "other")
            before = len(pilot.app._notifications)
            await pilot.press("3", "i")
            await pilot.pause()
            assert len(pilot.app._notifications) == before + 1, "a pin too"
    finally:
        lock.release()
