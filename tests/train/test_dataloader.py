"""Where steps wait for their batches a process takes over, at an exact place; where it is lost, the thread again."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.data.batches import Position
from lmplay_tui.data.worker import Job, Worker
from lmplay_tui.errors import DataError
from lmplay_tui.run.events import Event, LogLine, RunDone, RunFailed, RunStopped, StepDone, Warned
from lmplay_tui.train.dataloader import Feed, Patience
from tests.seams import Seams, raising
from tests.train.runs import (
    TINY,
    Undisturbed,
    differences,
    last,
    losses,
    state_of,
    statistics_of,
    stop_after,
    train,
)

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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, _one_thread: None) -> Undisturbed:
    run = Undisturbed(tmp_path_factory.mktemp("undisturbed"), PLAN)
    assert not said(run.events)
    return run


@pytest.fixture
def place(run: Undisturbed, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the run was trained to its end."""
    monkeypatch.chdir(run.again())
    monkeypatch.setenv("HF_HOME", str(run.place / "hf"))
    return run.place


@pytest.fixture
def undisturbed(run: Undisturbed, place: Path) -> tuple[list, dict, dict]:
    return run.losses, run.state, run.statistics


class Source:
    """A source that each step waits for until a process is started, and a trainer that soon looks.

    However long a step takes on a busy machine: a row comes only after the trainer has begun to wait for a batch.
    """

    def __init__(self) -> None:
        self.pids: list[int] = []  # of the processes that were started
        self.process: type[Noted] = Noted
        self.is_slow, self.is_waited_for = threading.Event(), threading.Event()

    def row(self, *_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            while self.is_slow.is_set() and not self.is_waited_for.wait(0.01):
                continue
            if self.is_slow.is_set():
                time.sleep(0.02)  # what a slow disk takes: far more than 1 % of a step of milliseconds

    def feed(self, *arguments: Any) -> Feed:
        self.is_slow.set()  # not before: opening the data reads rows too
        return Said(self, *arguments)


class Said(Feed):
    """Says when a batch is waited for."""

    def __init__(self, source: Source, *arguments: Any) -> None:
        self._source = source
        # That a batch is late is not what is asked here.
        patience = Patience(window_s=0.01, window_steps=3, late_s=STARTS_WITHIN_S)
        super().__init__(*arguments, patience=patience, worker=partial(source.process, source))

    def ready(self, seconds: float) -> bool:
        if super().ready(0):
            return True
        self._source.is_waited_for.set()
        try:
            return super().ready(seconds)
        finally:
            self._source.is_waited_for.clear()


class Noted(Worker):
    """A process that the trainer goes on with once it has opened its data: a run of seconds would be over before."""

    def __init__(self, source: Source, job: Job, **how: Any) -> None:
        super().__init__(job, **how)
        source.pids.append(self.pid)
        self.begun()
        self._error: Exception | None = None
        self._reading = super().messages()
        self._first: list[Any] = []
        try:
            self._first.append(next(self._reading))
        except Exception as error:
            self._error = error
        source.is_slow.clear()

    def begun(self) -> None:
        """The process has been started, and has yet to open its data."""

    def messages(self) -> Iterator[Any]:
        if self._error is not None:
            raise self._error
        yield from self._first
        yield from self._reading


@pytest.fixture
def slow(undisturbed: tuple[list, dict, dict], seams: Seams) -> Source:
    source = Source()
    seams.watch("row", source.row)
    seams.put("feed", source.feed)
    return source


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


def test_a_slow_source_gets_a_process_and_the_batches_stay_the_same(place, undisturbed, slow) -> None:
    whole, state, statistics = undisturbed
    events = train(training_plan="plan.toml", model="slow/m.lmp", out_dir="slow")
    assert isinstance(last(events), RunDone), last(events)
    assert 3 < taken_over_at(events) < len(whole)
    assert any("waiting for data takes" in line for line in said(events))
    assert losses(events) == whole
    assert not list(differences(state, state_of(place / "slow/m.lmp")))
    assert statistics_of(place / "slow") == statistics
    assert len(slow.pids) == 1 and not alive(slow.pids[0])


@pytest.mark.long
def test_a_run_stopped_under_it_resumes_exactly(place, undisturbed, slow) -> None:
    whole, state, _ = undisturbed
    first = stop_after(20, training_plan="plan.toml", model="slow/m.lmp", out_dir="slow")
    assert isinstance(last(first), RunStopped)
    assert taken_over_at(first) < 20
    second = train(model="slow/m.lmp", out_dir="slow")
    assert losses(first) + losses(second) == whole
    assert [e for e in second if isinstance(e, LogLine) and "the one the checkpoint names" in e.message]
    assert not list(differences(state, state_of(place / "slow/m.lmp")))
    assert not any(map(alive, slow.pids))


def trained_with(slow: Source, process: type[Noted]) -> tuple[list[Event], str]:
    """A run whose rows come from such a process, and the one warning that the reader gives."""
    slow.process = process
    events = train(training_plan="plan.toml", model="slow/m.lmp", out_dir="slow")
    (said,) = [e.message for e in events if isinstance(e, Warned) and e.message.startswith("data reader")]
    return events, said


class Killed(Noted):
    """As soon as it has heard where to begin."""

    def begin(self, start: Position) -> None:
        super().begin(start)
        os.kill(self.pid, signal.SIGKILL)


@pytest.mark.long
def test_where_the_process_is_killed_the_thread_goes_on(place, undisturbed, slow) -> None:
    whole, state, _ = undisturbed
    events, said = trained_with(slow, Killed)
    assert "a thread again, its process is lost (it was ended by SIGKILL)" in said
    assert losses(events) == whole
    assert not list(differences(state, state_of(place / "slow/m.lmp")))


class OfOtherRows(Noted):
    def __init__(self, source: Source, job: Job) -> None:
        Path("pairs.jsonl").write_text('{"prompt": "New?", "truth": "Yes."}\n' * 20, encoding="utf-8")
        super().__init__(source, job)


class NotStarted(Noted):
    """The system has no memory for a process."""

    def __init__(self, source: Source, job: Job) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("subprocess.Popen", raising(OSError(12, "Cannot allocate memory")))
            super().__init__(source, job)


class OfNoProgram(Noted):
    def __init__(self, source: Source, job: Job) -> None:
        super().__init__(source, job, program="lmplay_tui.no_such_program")


@pytest.mark.long
@pytest.mark.parametrize(
    ("process", "why"),
    [(OfOtherRows, "finds other data"), (NotStarted, "Cannot allocate"), (OfNoProgram, "ended with status 1")],
)
def test_where_the_process_is_no_use_the_thread_stays(place, undisturbed, slow, process, why) -> None:
    whole, _, _ = undisturbed
    events, said = trained_with(slow, process)
    assert "data reader: stays a thread" in said and why in said
    assert losses(events) == whole


class OfALostPage(Noted):
    """What a page that the disk does not give does to it."""

    def begun(self) -> None:
        os.kill(self.pid, signal.SIGBUS)


@pytest.mark.long
def test_a_page_that_is_lost_to_the_process_while_it_opens_ends_the_run_saved(place, undisturbed, slow) -> None:
    """The thread would go on with the same mapped files: a bus error there ends the trainer, and nothing is saved."""
    whole, _, _ = undisturbed
    slow.process = OfALostPage
    events = train(training_plan="plan.toml", model="slow/m.lmp", out_dir="slow")
    end = last(events)
    assert isinstance(end, RunFailed), end
    assert end.exit_code == 3
    assert "SIGBUS" in end.message
    trained = losses(events)
    assert trained == whole[: len(trained)]
    assert state_of(place / "slow/m.lmp")["runner"]["state"]["progress"]["step"] == len(trained)
    assert not any(map(alive, slow.pids))


class OfADamagedRow(Noted):
    def messages(self) -> Iterator[Any]:
        yield from islice(super().messages(), 2)
        raise DataError("dataset pairs: row 7 cannot be read (disk)")


@pytest.mark.long
def test_a_damaged_row_ends_the_run_as_it_does_in_a_thread(place, undisturbed, slow) -> None:
    slow.process = OfADamagedRow
    events = train(training_plan="plan.toml", model="slow/m.lmp", out_dir="slow")
    end = last(events)
    assert isinstance(end, RunFailed)
    assert (end.exit_code, end.message) == (3, "dataset pairs: row 7 cannot be read (disk)")
    assert state_of(place / "slow/m.lmp")["runner"]["state"]["progress"]["step"] == len(losses(events))
    assert not any(map(alive, slow.pids))


@pytest.mark.long
def test_steps_that_do_not_wait_get_no_process(undisturbed, seams) -> None:
    started: list[Job] = []

    def start(job: Job) -> Worker:
        started.append(job)
        return Worker(job)

    patience = Patience(window_s=0.0, window_steps=3, most_waiting=1.0)
    seams.put("feed", partial(Feed, patience=patience, worker=start))
    events = train(training_plan="plan.toml", model="m.lmp")
    assert losses(events) == undisturbed[0]
    assert not started and not said(events)
