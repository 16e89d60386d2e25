"""Batches cut in a process of their own are those of the thread, and the process leaves no trace."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lmplay_tui.data.batches import Batch, Position
from lmplay_tui.data.worker import Failed, Job, Opened, Worker, WorkerLostError, portable
from lmplay_tui.errors import DataError
from lmplay_tui.options import resolve
from lmplay_tui.plan.schema import DatasetSpec, Stage

MODES = {
    "in turn": {"continue_rows": True},
    "shuffled": {"shuffle": True},
}


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process, too, leaves the developer's caches alone."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def a_job(folder: Path, **options: object) -> Job:
    specs = []
    for name, count in (("rows", 30), ("more", 20)):
        path = folder / f"{name}.jsonl"
        texts = [f"In {name} {n} it happens. Then it ends. " * (1 + n % 5) for n in range(count)]
        rows = [{"title": f"{name} {n}", "text": text} for n, text in enumerate(texts)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        specs.append(DatasetSpec(name, str(path)))
    given = resolve(options, {"context_len": 64, "batch_size": 4})
    return Job(Stage("stage", tuple(specs), epochs=1.5, options={"batch_size": 4}), given, "bytes", folder / "datasets")


@pytest.fixture
def started() -> Iterator[Callable[[Job], Worker]]:
    processes = []

    def start(job: Job) -> Worker:
        processes.append(Worker(job))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.close()


def told(batch: Batch) -> tuple[object, ...]:
    """All that a batch says, its samples by their content."""
    samples = [(s.prompt, s.truth, s.row, s.prompt_ids.tolist(), s.truth_ids.tolist()) for s in batch.samples]
    rest = (batch.rows_read, batch.position_after, batch.epoch, batch.row_in_epoch, batch.chars_read, batch.chars_shown)
    return (batch.digest(), samples, *rest)


@pytest.mark.parametrize("mode", MODES)
def test_its_batches_are_the_threads(tmp_path: Path, started, mode: str) -> None:
    job = a_job(tmp_path, **MODES[mode])
    data = job.open()
    whole = list(data.reading(Position()))
    process = started(job)
    messages = process.messages()
    assert next(messages) == Opened(data.fingerprint)
    process.begin(whole[2].position_after)
    assert [told(batch) for batch in messages] == [told(batch) for batch in whole[3:]]
    assert len(whole) > 10


def test_what_reading_raises_is_raised_here(tmp_path: Path, started) -> None:
    job = a_job(tmp_path)
    (tmp_path / "more.jsonl").write_text("no JSON\n", encoding="utf-8")
    with pytest.raises(Exception, match="dataset more"):
        next(started(job).messages())


def test_an_error_travels_with_its_place_and_one_that_cannot_says_the_same() -> None:
    class Local(Exception):
        pass

    assert isinstance(portable(DataError("row 7")), DataError)
    stranger = portable(Local("row 7"))
    assert "Local: row 7" in str(stranger)
    assert Failed(stranger).error is stranger


def test_a_process_that_is_killed_is_lost(tmp_path: Path, started) -> None:
    process = started(a_job(tmp_path))
    messages = process.messages()
    next(messages)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="SIGKILL"):
        next(messages)
    process.begin(Position())  # to nobody: no error of its own


@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGSEGV])
def test_a_process_that_reading_has_ended_is_an_error_of_the_data(tmp_path: Path, started, number) -> None:
    """What a page that the disk does not give does to it: read here, it would end the training."""
    process = started(a_job(tmp_path))
    messages = process.messages()
    next(messages)
    os.kill(process.pid, number)
    with pytest.raises(DataError, match=f"{number.name}.*a file was cut short, or its disk fails"):
        next(messages)


def test_a_stop_in_its_first_moments_is_the_trainers_business(tmp_path: Path, started) -> None:
    """A Ctrl+C reaches every process of a terminal, also one whose own code does not run yet."""
    process = started(a_job(tmp_path))
    messages = process.messages()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(process.pid, number)
    assert isinstance(next(messages), Opened)


def test_signals_that_ask_to_stop_are_the_trainers_business(tmp_path: Path, started) -> None:
    process = started(a_job(tmp_path))
    messages = process.messages()
    next(messages)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(process.pid, number)
    process.begin(Position())
    assert len(list(messages)) > 10


def test_a_process_that_cannot_start_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(WorkerLostError, match="could be started"):
        Worker(a_job(tmp_path))


ORPHANING = """
import os, sys, time
from pathlib import Path
from tests.data.test_worker import a_job
from lmplay_tui.data.worker import Worker
process = Worker(a_job(Path(sys.argv[1])))
if sys.argv[2] == "opened":
    next(process.messages())
print(process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("when", ["starting", "opened"])
def test_no_orphan_is_left_by_a_trainer_that_is_killed(tmp_path: Path, when: str) -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", ORPHANING, str(tmp_path), when], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    with trainer:
        assert trainer.stdout is not None
        pid = int(trainer.stdout.readline())
        assert psutil.pid_exists(pid)
        trainer.kill()
    end = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "the reader outlives its trainer"
        time.sleep(0.05)
