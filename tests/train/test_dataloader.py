"""Where steps wait for their batches a process takes over, at an exact place; where it is lost, the thread again."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.data import worker
from lmplay_tui.data.rows import Rows
from lmplay_tui.data.worker import Worker
from lmplay_tui.errors import DataError
from lmplay_tui.run.events import Event, LogLine, RunDone, RunFailed, RunStopped, StepDone, Warned
from lmplay_tui.train import dataloader
from tests.train.runs import TINY, differences, last, losses, state_of, statistics_of, stop_after, train, write_plan

pytestmark = pytest.mark.timeout(600)  # some seconds on a machine that does nothing else
STARTS_WITHIN_S = 240.0
PLAN = f"""\
{TINY}
batch_size = 3
dropout = 0.1
validation_interval = 1000
eval_interval = 1000
[stages.both]
datasets = ["stories.jsonl", "pairs.jsonl"]
weights = [0.3, 0.7]
epochs = 3
shuffle = true
continue_rows = true
"""


@pytest.fixture
def undisturbed(place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list, dict, dict]:
    monkeypatch.setenv("HF_HOME", str(place / "hf"))
    plan = write_plan(place, PLAN)
    events = train(training_plan=plan, model="whole/m.lmp", out_dir="whole")
    assert isinstance(last(events), RunDone), last(events)
    assert not said(events)
    return losses(events), state_of(place / "whole/m.lmp"), statistics_of(place / "whole")


@pytest.fixture
def slow(undisturbed: tuple[list, dict, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that each step waits for until a process is started, and a trainer that soon looks.

    However long a step takes on a busy machine: a row comes only after somebody has begun to wait for a batch.
    """
    feed = dataloader.Feed
    items, begin, start, ready = Rows.items, feed.__init__, feed._start_process, feed.ready
    is_slow, is_waited_for = threading.Event(), threading.Event()

    def slowly(self: Rows, row: int):
        if threading.current_thread() is not threading.main_thread():
            while is_slow.is_set() and not is_waited_for.wait(0.01):
                continue
            if is_slow.is_set():
                time.sleep(0.02)  # what a slow disk takes: far more than 1 % of a step of milliseconds
        return items(self, row)

    def and_say_so(self: dataloader.Feed, seconds: float) -> bool:
        if ready(self, 0):
            return True
        is_waited_for.set()
        try:
            return ready(self, seconds)
        finally:
            is_waited_for.clear()

    def and_be_slow(self: dataloader.Feed, *arguments: Any) -> None:
        is_slow.set()  # not before: opening the data reads rows too
        begin(self, *arguments)

    def and_wait(self: dataloader.Feed, job: worker.Job) -> None:
        start(self, job)  # a run of seconds would be over before the process has opened anything
        assert self._messages is None or self._messages.ready(STARTS_WITHIN_S)
        is_slow.clear()

    monkeypatch.setattr(Rows, "items", slowly)
    monkeypatch.setattr(dataloader, "WINDOW_S", 0.01)
    monkeypatch.setattr(dataloader, "WINDOW_STEPS", 3)
    monkeypatch.setattr(dataloader, "LATE_S", STARTS_WITHIN_S)  # that a batch is late is not what is asked here
    monkeypatch.setattr(dataloader.Feed, "ready", and_say_so)
    monkeypatch.setattr(dataloader.Feed, "__init__", and_be_slow)
    monkeypatch.setattr(dataloader.Feed, "_start_process", and_wait)


@pytest.fixture
def pids(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the processes that were started."""
    started: list[int] = []

    class Noted(Worker):
        def __init__(self, job: worker.Job) -> None:
            super().__init__(job)
            started.append(self.pid)

    monkeypatch.setattr(dataloader, "Worker", Noted)
    return started


def said(events: list[Event]) -> list[str]:
    return [e.message for e in events if isinstance(e, LogLine | Warned) and "data" in e.message]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def taken_over_at(events: list[Event]) -> int:
    """The step after which the process had taken over."""
    done = 0
    for event in events:
        done = event.step if isinstance(event, StepDone) else done
        if isinstance(event, LogLine) and event.message.startswith("data reader: process"):
            return done
    raise AssertionError(said(events))


@pytest.mark.usefixtures("slow")
def test_a_slow_source_gets_a_process_and_the_batches_stay_the_same(place, undisturbed, pids) -> None:
    whole, state, statistics = undisturbed
    events = train(training_plan="plan.toml", model="slow/m.lmp", out_dir="slow")
    assert isinstance(last(events), RunDone), last(events)
    assert 3 < taken_over_at(events) < len(whole)
    assert any("waiting for data takes" in line for line in said(events))
    assert losses(events) == whole
    assert not list(differences(state, state_of(place / "slow/m.lmp")))
    assert statistics_of(place / "slow") == statistics
    assert len(pids) == 1 and not alive(pids[0])


@pytest.mark.long
@pytest.mark.usefixtures("slow")
def test_a_run_stopped_under_it_resumes_exactly(place, undisturbed, pids) -> None:
    whole, state, _ = undisturbed
    first = stop_after(20, training_plan="plan.toml", model="slow/m.lmp", out_dir="slow")
    assert isinstance(last(first), RunStopped)
    assert taken_over_at(first) < 20
    second = train(model="slow/m.lmp", out_dir="slow")
    assert losses(first) + losses(second) == whole
    assert [e for e in second if isinstance(e, LogLine) and "the one the checkpoint names" in e.message]
    assert not list(differences(state, state_of(place / "slow/m.lmp")))
    assert not any(map(alive, pids))


@pytest.mark.long
@pytest.mark.usefixtures("slow")
def test_where_the_process_is_killed_the_thread_goes_on(place, undisturbed, pids, monkeypatch) -> None:
    whole, state, _ = undisturbed
    go_on = dataloader.Feed._go_on_in_process

    def and_die(self, messages) -> None:
        go_on(self, messages)
        os.kill(pids[0], signal.SIGKILL)

    monkeypatch.setattr(dataloader.Feed, "_go_on_in_process", and_die)
    events = train(training_plan="plan.toml", model="slow/m.lmp", out_dir="slow")
    warned = [e.message for e in events if isinstance(e, Warned) and e.message.startswith("data reader")]
    assert len(warned) == 1
    assert "a thread again, its process is lost (it was ended by SIGKILL)" in warned[0]
    assert losses(events) == whole
    assert not list(differences(state, state_of(place / "slow/m.lmp")))


def other_rows(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def after_a_change(job: worker.Job):
        (place / "pairs.jsonl").write_text('{"prompt": "New?", "truth": "Yes."}\n' * 20, encoding="utf-8")
        return Worker(job)

    monkeypatch.setattr(dataloader, "Worker", after_a_change)


def nothing_starts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("subprocess.Popen", no_memory)


def no_program(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_PROGRAM", "lmplay_tui.no_such_program")


@pytest.mark.long
@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(
    ("trouble", "why"),
    [(other_rows, "finds other data"), (nothing_starts, "Cannot allocate"), (no_program, "ended with status 1")],
)
def test_where_the_process_is_no_use_the_thread_stays(place, undisturbed, monkeypatch, trouble, why) -> None:
    whole, _, _ = undisturbed
    trouble(place, monkeypatch)
    events = train(training_plan="plan.toml", model="slow/m.lmp", out_dir="slow")
    warned = [e.message for e in events if isinstance(e, Warned) and e.message.startswith("data reader")]
    assert len(warned) == 1, warned
    assert "data reader: stays a thread" in warned[0] and why in warned[0]
    assert losses(events) == whole


@pytest.mark.long
@pytest.mark.usefixtures("slow")
def test_a_damaged_row_ends_the_run_as_it_does_in_a_thread(place, undisturbed, pids, monkeypatch) -> None:
    messages = Worker.messages

    def damaged(self: Worker):
        reading = messages(self)
        yield next(reading)
        yield next(reading)
        raise DataError("dataset pairs: row 7 cannot be read (disk)")

    monkeypatch.setattr(Worker, "messages", damaged)
    events = train(training_plan="plan.toml", model="slow/m.lmp", out_dir="slow")
    end = last(events)
    assert isinstance(end, RunFailed)
    assert (end.exit_code, end.message) == (3, "dataset pairs: row 7 cannot be read (disk)")
    assert state_of(place / "slow/m.lmp")["runner"]["state"]["progress"]["step"] == len(losses(events))
    assert not any(map(alive, pids))


@pytest.mark.long
def test_steps_that_do_not_wait_get_no_process(undisturbed, pids, monkeypatch) -> None:
    monkeypatch.setattr(dataloader, "WINDOW_S", 0.0)
    monkeypatch.setattr(dataloader, "WINDOW_STEPS", 3)
    monkeypatch.setattr(dataloader, "MOST_WAITING", 1.0)
    events = train(training_plan="plan.toml", model="m.lmp")
    assert losses(events) == undisturbed[0]
    assert not pids and not said(events)
