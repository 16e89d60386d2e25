"""Saves that fail, at every system call and on a full disk: the old checkpoint stands, nothing is left lying about."""

import errno
import io
import itertools
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.run.controls import Controls, SaveNow
from lmplay_tui.run.events import Answered, CheckpointSaved, Event, RunDone, RunFailed, StepDone, Warned
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.checkpoint import SaveError, load_checkpoint, newest_checkpoint, temporary_path, write_checkpoint
from lmplay_tui.train.checkpointer import CheckpointWriter, SaveRequest, strays
from lmplay_tui.train.launch import run_events
from tests.examples import some
from tests.faults.forks import Child, limit_file_size
from tests.train.runs import given, last, losses, step_of, train, write_plan

EVERY = 150  # writes of a checkpoint to one that may fail


class Calls:
    """Stands in for the system calls of a save: notes each, and lets the n-th fail, or kills the process there."""

    def __init__(self, fail_at: int | None = None, *, kill: bool = False) -> None:
        self.made: list[str] = []
        self.failed: str | None = None
        self._fail_at = fail_at
        self._kill = kill

    def note(self, name: str, path: object = "") -> None:
        self.made.append(f"{name} {Path(str(path)).name}".strip())
        if len(self.made) == self._fail_at:
            if self._kill:
                os.kill(os.getpid(), signal.SIGKILL)
            self.failed = self.made[-1]
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    def wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args, **kwargs):
            self.note(name, args[0])
            return real(*args, **kwargs)

        return call

    @contextmanager
    def watching(self) -> Iterator["Calls"]:
        """Inside this, every open, write, flush, fsync, link, rename and removal goes through `note`."""
        calls, writes = self, itertools.count()

        class File(io.FileIO):
            def write(self, data: Any) -> Any:
                if next(writes) % EVERY == 0:  # a checkpoint is some hundred alike
                    calls.note("write")
                return super().write(data)

            def flush(self) -> None:
                if not self.closed:
                    calls.note("flush")
                super().flush()

        def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            calls.note("open", path)
            return File(path, "xb") if mode == "xb" else real_open(path, mode, *args, **kwargs)

        real_open = io.open
        with pytest.MonkeyPatch.context() as patch:
            for name in ("fsync", "link", "replace", "unlink", "open"):
                patch.setattr(os, name, self.wrapped(name, getattr(os, name)))
            patch.setattr(shutil, "disk_usage", self.wrapped("disk_usage", shutil.disk_usage))
            patch.setattr(io, "open", opened)
            yield self


def save(run: RunFolder, checkpoint, step: int):
    checkpoint["runner"]["state"]["progress"] |= {"step": step, "best_step": step}
    checkpoint["lr_schedulers"]["state"]["step"] = step
    saver = CheckpointWriter(run, run.model.parent / "statistics")
    saver.start(lambda: checkpoint, SaveRequest(step, step, "stories", "interval", keep=2, is_best=True))
    return saver.wait()


def test_the_bytes_are_safe_before_the_name(run):
    """fsync(file) < rename < fsync(folder), all in one folder: what a power cut asks for."""
    checkpoint = load_checkpoint(run.model)
    with Calls().watching() as calls:
        write_checkpoint(checkpoint, run.model, previous=run.checkpoint("prev"))
    made = [call for call in calls.made if not call.startswith("write")]
    temporary = ".m.lmp.tmp"
    assert temporary_path(run.model).parent == run.model.parent
    written, renamed = made.index(f"open {temporary}"), made.index(f"replace {temporary}")
    syncs = [i for i, call in enumerate(made) if call.startswith("fsync")]
    assert any(written < i < renamed for i in syncs), made
    folder_opened = made.index(f"open {run.model.parent.name}", renamed)
    assert any(i > folder_opened for i in syncs), made


@pytest.mark.sampled
def test_each_system_call_failing(run, count):
    """Whatever fails: the run has a whole checkpoint that is no older, and the next save works."""
    checkpoint = load_checkpoint(run.model)
    save(run, checkpoint, 99)
    with Calls().watching() as calls:
        save(run, checkpoint, 100)
    total = len(calls.made)
    assert total > 20, calls.made
    refused = 0
    step = 100
    tried = some(range(1, total + 1), 3)
    for n in tried:
        with Calls(fail_at=n).watching() as calls:
            outcome = save(run, checkpoint, step + 1)
        assert outcome is not None
        found = newest_checkpoint(run, pytest.fail)
        assert found is not None
        at = found[0]["runner"]["state"]["progress"]["step"]
        if outcome.saved is None:
            refused += 1
            assert at in (step, step + 1), calls.failed  # the rename may have happened: then the folder's fsync failed
            assert len(outcome.problems) == 1
            assert "\n" not in outcome.problems[0]
        else:
            assert at == step + 1, calls.failed
        assert step_of(run.checkpoint("prev")) >= step - 2
        if calls.failed is not None and not calls.failed.startswith("unlink"):
            assert not strays(run), calls.failed
        step += 2
        assert save(run, checkpoint, step).saved is not None
    count(
        f"system calls of a save failing in turn: {len(tried)}, {refused} saves refused, each time a whole checkpoint"
    )
    assert refused > len(tried) / 4


def die_at(call: int, save_it: Callable[[], object], _report: object) -> None:
    """Save, and be killed at that system call of it."""
    with Calls(call, kill=True).watching():
        save_it()


@pytest.mark.long
def test_kill_9_at_each_system_call(run, count):
    """Whatever it was doing: every file is whole; the next start finds the newest, and gives it all its names."""
    checkpoint = load_checkpoint(run.model)
    with Calls().watching() as calls:
        save(run, checkpoint, 100)
    step, behind = 100, 0
    for n in range(1, len(calls.made) + 1):
        with Child(partial(die_at, n, partial(save, run, checkpoint, step + 1))) as child:
            assert child.wait() == -signal.SIGKILL
        found = newest_checkpoint(run, pytest.fail)
        assert found is not None
        at = found[0]["runner"]["state"]["progress"]["step"]
        assert at in (step, step + 1)
        names = [run.checkpoint("best"), run.checkpoint("stories")]
        behind += any(step_of(name) != at for name in names)
        saver = CheckpointWriter(run, run.model.parent / "statistics")
        saver.sweep()
        assert not list(saver.complete(found[0]))
        assert not strays(run)
        assert [step_of(name) for name in names] == [at, at]
        for path in run.model.parent.glob("*.lmp"):
            load_checkpoint(path)
        step = at
    count(f"kill -9 at each of {n} system calls of a save: 0 unreadable, {behind} times the start set names right")
    assert behind


def test_a_full_device_is_called_by_its_name(run, monkeypatch):
    """/dev/full takes a file's opening, not its bytes: torch turns that into an error about positions."""
    checkpoint = load_checkpoint(run.model)
    before = run.model.read_bytes()
    real = io.open

    def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return real("/dev/full", "wb") if mode == "xb" else real(path, mode, *args, **kwargs)

    monkeypatch.setattr(io, "open", opened)
    with pytest.raises(SaveError, match="disk full"):
        write_checkpoint(checkpoint, run.model)
    assert run.model.read_bytes() == before
    assert not strays(run)


def test_no_room_is_said_before_anything_is_written(run, monkeypatch):
    before = run.model.read_bytes()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 70_000))
    checkpoint = load_checkpoint(run.model)
    with Calls().watching() as calls, pytest.raises(SaveError, match=r"disk full: needs .* MB, .* MB free"):
        write_checkpoint(checkpoint, run.model)
    assert not [call for call in calls.made if call.startswith(("open", "write"))]
    assert run.model.read_bytes() == before


def run_on_a_small_disk(plan: str, report) -> None:
    train(training_plan=plan, model="m.lmp", save_interval=6)  # the sizes of its files say where the limit must lie
    limit_file_size(int(Path("m.lmp").stat().st_size * 0.7))
    for event in run_events(given(training_plan=plan, model="small/m.lmp", save_interval=6), Controls()):
        report(event)


def test_a_disk_that_stays_full_ends_the_run_in_order(place, count):
    """Two failed saves are told and training goes on; the third ends the run with its own exit status."""
    plan = write_plan(place)
    with Child(lambda report: run_on_a_small_disk(plan, report)) as child:
        events: list[Event] = list(child.reports())
        assert child.wait() == 0
    warnings = [e.message for e in events if isinstance(e, Warned) and "not saved" in e.message]
    assert len(warnings) == 3
    assert all("disk full" in message and "\n" not in message for message in warnings)
    end = last(events)
    assert isinstance(end, RunFailed)
    assert end.exit_code == 3
    assert len([e for e in events if isinstance(e, StepDone)]) >= 3
    assert not list((place / "small").glob("*.lmp*")) + list((place / "small").glob(".*.tmp"))
    count("full disk: 3 saves refused and told, then the run ends in order with exit status 3")


@contextmanager
def failing(times: int) -> Iterator[None]:
    """The disk is full when the next `times` checkpoints are to be written."""
    left, real = iter(range(times)), shutil.disk_usage

    def usage(path):
        found, is_save = real(path), threading.current_thread().name == "checkpoint"
        return found._replace(free=0) if is_save and next(left, None) is not None else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", usage)
        yield


@pytest.mark.long
def test_training_goes_on_past_two_failed_saves(place):
    plan = write_plan(place)
    whole = train(training_plan=plan, model="whole/m.lmp", save_interval=6)
    with failing(2):
        events = train(training_plan=plan, model="m.lmp", save_interval=6)
    assert isinstance(last(events), RunDone)
    assert losses(events) == losses(whole)
    assert len([e for e in events if isinstance(e, Warned)]) == 2
    assert step_of(place / "m.lmp") == last(events).step


def test_a_command_hears_that_its_save_failed(place):
    plan = write_plan(place)
    controls = Controls()
    events = []
    with failing(1):
        for event in run_events(given(training_plan=plan, model="m.lmp"), controls):
            events.append(event)
            if isinstance(event, StepDone) and event.step == 1:
                controls.send(SaveNow(id="a"))
            if isinstance(event, Warned):
                controls.send(SaveNow(id="b"))
    answers = {e.id: e for e in events if isinstance(e, Answered)}
    assert not answers["a"].ok
    assert "disk full" in answers["a"].message
    assert answers["b"].ok


def test_statistics_that_cannot_be_written_do_not_unsay_a_save(place):
    """The folder of the statistics is a file: the checkpoint is saved all the same, and is said to be."""
    (place / "blocked").write_text("", encoding="utf-8")
    plan = write_plan(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMP_DATASETS", str(place / "blocked"))
        events = train(training_plan=plan, model="m.lmp")
    assert isinstance(last(events), RunDone)
    assert [e for e in events if isinstance(e, CheckpointSaved)]
    assert [e for e in events if isinstance(e, Warned) and "the checkpoint itself is saved" in e.message]


def test_a_folder_that_vanishes_is_made_again(place):
    """The output folder is removed under a running trainer: the next save makes it anew."""
    plan = write_plan(place)
    events = []
    for event in run_events(given(training_plan=plan, model="out/m.lmp", out_dir="out", save_interval=6), Controls()):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 4:
            shutil.rmtree(place / "out")
    assert isinstance(last(events), RunDone)
    assert step_of(place / "out/m.lmp") == last(events).step


def test_strays_are_swept_and_others_left(run):
    mine = [run.model.with_name(name) for name in (".m.lmp.tmp", ".m.prev.lmp.tmp", ".m.step-00000012.lmp.tmp")]
    others = [run.model.with_name(name) for name in (".m2.lmp.tmp", ".other.lmp.tmp", "m.lmp.tmp", ".m.x.y.lmp.tmp")]
    for path in mine + others:
        path.write_bytes(b"")
    CheckpointWriter(run, run.model.parent).sweep()
    assert not [path for path in mine if path.exists()]
    assert all(path.exists() for path in others)
