"""A run's files spoilt at random, by kind: each command shows what is left or says a line, and a resume goes on.

A child does all of it, one case after the other, by the commands' own code: a signal, a wait or a lack of memory would
be the child's.
Bytes that would drive a terminal come out of no command, whatever stands in the files.
"""

import asyncio
import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.cli import main
from lmplay_tui.options import Launch
from lmplay_tui.run.events import LogLine, RunFailed, RunStopped
from lmplay_tui.run.folder import RunFolder, RunLock, boot_id
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.source import FolderSource
from tests.faults.forks import Child
from tests.faults.mutations import spoilt, spoilt_json, spoilt_lines
from tests.run.recorded_runs import many_ranks, record_ranks
from tests.train.runs import differences, last, stop_after, write_plan, write_rows

FILES = (
    "m.run/run.json", "m.run/events.jsonl", "m.run/metrics.jsonl", "m.run/predictions.jsonl", "m.run/log.txt",
    "m.run/plan.toml", "m.run/ranks.json", "m_train_stats.json", "m_step_stories_validate_stats.json",
)  # fmt: skip
RANKS = "m.run/ranks.json"  # of a run of several processes, looked at while they live
LOOKS = (
    ("status", "m"), ("status", "m", "--json"), ("status", "m", "--line"), ("runs",), ("runs", "--json"),
    ("export", "m", "--to", "csv"), ("plot", "m", "--terminal"), ("ctl", "m", "save"),
)  # fmt: skip
COSTLY = (("export", "m", "--to", "tensorboard"), ("plot", "m"))  # once in so many cases
LIVING = LOOKS[:5]
EACH = 8
STOPPED = 16  # in the second stage, after an evaluation
MOST_CPU_S = 10.0  # of one command or resume; measured: 0.3
WAIT_S = 240.0
DRIVES_A_TERMINAL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run/`: a run that stopped in its second stage. `on/`: the same, undisturbed for two steps more."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "run").mkdir()
    write_rows(folder / "run")
    with contextlib.chdir(folder / "run"):
        stop_after(STOPPED, training_plan=write_plan(Path()), model="m.lmp", out_dir=".", save_interval=24)
        record_ranks(RunFolder(Path("m.lmp")), many_ranks(3, slow=1))
    shutil.copytree(folder / "run", folder / "on")
    with contextlib.chdir(folder / "on"):
        assert isinstance(last(stop_after(STOPPED + 2, model="m.lmp", out_dir=".")), RunStopped)
    return folder


def case(name: str, seed: int, data: bytes) -> bytes:
    """The file, spoilt; most of those of JSON by their structure."""
    dice = random.Random(f"{name} {seed}")
    by_structure = dice.random() < 0.6
    if name.endswith(".json") and by_structure:
        return spoilt_json(json.loads(data), dice).encode("utf-8", "surrogatepass")
    if name.endswith(".jsonl") and by_structure:
        return spoilt_lines(data, dice)
    return spoilt(data, dice)


def said_by(words: tuple[str, ...]) -> tuple[int, str, str]:
    """A command's status, its output and its errors."""
    before = sys.stdout, sys.stderr
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    sys.stdout, sys.stderr = out, err
    try:
        status = main(list(words))
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.stdout, sys.stderr = before
    shown, said = (stream.buffer.getvalue().decode() for stream in (out, err))
    return status, shown, said


def look(words: tuple[str, ...]) -> None:
    status, shown, said = said_by(words)
    assert status in (0, 2, 3), (words, status, said)
    assert "Traceback" not in said, (words, said)
    assert len(said.splitlines()) <= 3, (words, said)
    assert bool(status) <= bool(said), words
    if words[0] != "plot":  # which colours its curves
        assert not DRIVES_A_TERMINAL.search(shown + said), (words, DRIVES_A_TERMINAL.findall(shown + said)[:9])


def view() -> None:
    """What an attached dashboard reads, to its end."""
    source = FolderSource(RunFolder(Path("m.lmp")))
    quiet = 0
    while quiet < 3:
        quiet = 0 if source.poll() or source.behind else quiet + 1
        time.sleep(0.002)


def draw() -> None:
    """A dashboard that is attached to it, pane by pane."""

    async def drawn() -> None:
        app = LmplayApp(Launch(), source=FolderSource(RunFolder(Path("m.lmp"))), timers=False)
        async with app.run_test(size=(120, 40)) as pilot:
            for key in "123456":
                await pilot.press(key)
                app.tick()
                await pilot.pause()

    asyncio.run(drawn())


def resume(undisturbed: Path) -> str:
    """Two steps more: to the weights of the undisturbed run, or not at all."""
    events = stop_after(STOPPED + 2, model="m.lmp", out_dir=".")
    end = last(events)
    assert not [event for event in events if isinstance(event, LogLine) and event.level == "traceback"], events
    if isinstance(end, RunFailed):
        assert end.exit_code in (2, 3), end
        assert "\n" not in end.message, end.message
        return "refused"
    assert isinstance(end, RunStopped), end
    states = (load_checkpoint(path)["model"]["state"] for path in (undisturbed, Path("m.lmp")))
    assert not list(differences(*states)), "another training"
    return "goes on"


def meet(name: str, seeds: range, recorded: Path, place: Path, report: Callable[[Any], None]) -> None:
    """All commands on a run one of whose files is spoilt, and every so often a resume of it."""
    whole = (recorded / "run" / name).read_bytes()
    for seed in seeds:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(recorded / "run", place)
        os.chdir(place)
        is_costly = seed % EACH == 0
        Path(name).write_bytes(case(name, seed, whole))
        for words in (*LOOKS, *(COSTLY if is_costly else ())):
            report((seed, words))
            begun = time.process_time()
            look(words)
            assert time.process_time() - begun < MOST_CPU_S, words
        report((seed, "view"))
        view()
        if name == RANKS:
            report((seed, "living"))
            meet_living()
        if is_costly:
            report((seed, "draw"))
            with Child(lambda _: draw()) as screen:  # as a user's: Textual keeps much of a screen for the next one
                assert screen.wait() == 0
            report((seed, "resume"))
            report((seed, resume(recorded / "on" / "m.lmp")))
        report((seed, "done"))


def meet_living() -> None:
    """The same looks while a process has the run and says that it trains: its ranks are read then alone."""
    run = RunFolder(Path("m.lmp"))
    before = run.run_json.read_bytes()
    lock = RunLock(run)
    lock.take()
    try:
        writer = {"pid": os.getpid(), "host": socket.gethostname(), "boot": boot_id()}
        run.write_status(json.loads(before) | writer | {"state": "running"})
        for words in LIVING:
            look(words)
        view()
    finally:
        lock.release()
        run.run_json.write_bytes(before)


def outcomes(name: str, seeds: range, recorded: Path, place: Path) -> Iterator[str]:
    met: tuple[int, Any] = (-1, "")
    with Child(lambda report: meet(name, seeds, recorded, place, report)) as child:
        for met in child.reports(WAIT_S):
            if met[1] in ("done", "refused", "goes on"):
                yield met[1]
        assert child.wait() == 0, (name, met)
    grown = child.peak_kib - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert grown < 400 * 1024, grown


@pytest.mark.parametrize("name", FILES)
def test_a_few_spoilt_files(name, recorded, tmp_path):
    assert list(outcomes(name, range(1, 4), recorded, tmp_path / "place")).count("done") == 3


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_more_spoilt_files(name, recorded, tmp_path):
    assert "goes on" in set(outcomes(name, range(100, 124), recorded, tmp_path / "place"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FILES)
def test_many_spoilt_files(name, recorded, tmp_path, count):
    found = list(outcomes(name, range(1000, 1200), recorded, tmp_path / "place"))
    assert found.count("done") == 200
    count(
        f"{name}, spoilt 200 times: each command shown or refused in a line; of {200 // EACH} resumes "
        f"{found.count('goes on')} went on as the undisturbed run"
    )


HUGE = 100 << 30  # of which nothing but what was there takes room on a disk, or in an archive
MOST_BYTES = 3 << 29  # more than a command takes


def meet_huge(name: str, recorded: Path, place: Path, report: Callable[[Any], None]) -> None:
    """All commands on a run one of whose files ends in a hole, and a resume; memory that grows with it ends them."""
    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MOST_BYTES, -1))
    shutil.copytree(recorded / "run", place)
    os.chdir(place)
    os.truncate(name, HUGE)
    looks: list[Callable[[], None]] = [partial(look, words) for words in (*LOOKS, *COSTLY)]
    for each in (*looks, view, draw):
        report(str(each))
        begun = time.process_time()
        each()
        assert time.process_time() - begun < MOST_CPU_S, each
    report("resume")
    report(resume(recorded / "on" / "m.lmp"))


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_hundred_gigabytes(name, recorded, tmp_path):
    with Child(lambda report: meet_huge(name, recorded, tmp_path / "place", report)) as child:
        met = list(child.reports(WAIT_S))
        assert child.wait() == 0, (name, met[-1])
    assert met[-1] == "goes on"
