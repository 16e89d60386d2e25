"""Processes of our own import our code and Python's, whatever lies in the folder that the user works in."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

import lmplay_tui
from lmplay_tui import process
from lmplay_tui.data.worker import Job, Opened, Worker
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import DatasetSpec, Stage
from lmplay_tui.run.folder import status_of
from lmplay_tui.train.launch import start_detached
from tests.train.runs import TINY, given, write_plan

HOME = Path(lmplay_tui.__file__).parent.parent
PLAN = f"""\
{TINY}
[stages.pairs]
dataset = "pairs.jsonl"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's working folder with files that are called as modules are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("torch.py", "random.py", "socket.py", "datasets.py", "numpy.py", "lmplay_tui/__init__.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('the working folder is not on the path')", encoding="utf-8")
    rows = [{"prompt": f"What is {i}?", "truth": f"It is {i}."} for i in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def test_the_data_reader(folder: Path) -> None:
    stage = Stage("pairs", (DatasetSpec("pairs", str(folder / "pairs.jsonl")),), epochs=1)
    process = Worker(Job(stage, TrainOptions(context_len=64), "bytes", folder / "datasets"))
    try:
        assert isinstance(next(process.messages()), Opened)
    finally:
        process.kill()
        process.close()


@pytest.mark.long
def test_a_run_in_a_process_of_its_own(folder: Path) -> None:
    run, pid = start_detached(given(training_plan=write_plan(folder, PLAN), model="m.lmp"))
    deadline = time.monotonic() + 90
    while run.alive() and time.monotonic() < deadline:
        time.sleep(0.1)  # another process's end: nothing here could wake us
    status = status_of(run)
    assert status["state"] == "finished", status
    assert status["step"] > 0
    assert isinstance(pid, int)
    os.waitpid(pid, 0)


def test_a_package_that_is_not_installed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(HOME), "/usr/lib/python"])
    monkeypatch.setenv("PYTHONPATH", "/mine")
    assert process.own_environment()["PYTHONPATH"] == f"{HOME}{os.pathsep}/mine"
    monkeypatch.delenv("PYTHONPATH")
    assert process.own_environment()["PYTHONPATH"] == str(HOME)
    monkeypatch.setattr(sys, "path", ["", "/usr/lib/python", str(HOME)])
    assert process.own_environment() == dict(os.environ), "what the user's own commands inherit stays as it is"


def test_python_is_started_in_no_other_way() -> None:
    users = [path for path in (HOME / "lmplay_tui").rglob("*.py") if "sys.executable" in path.read_text("utf-8")]
    assert users == [Path(process.__file__)]


def test_which_processes_are_alive() -> None:
    assert process.is_alive(os.getpid())
    assert process.is_alive(1), "another user's, too"
    for no_process in (None, "1", 0, -1, 2**22 + 1, 2**70):
        assert not process.is_alive(no_process)


def test_a_child_that_has_ended_is_not_alive_whatever_the_table_of_processes_says() -> None:
    pid = os.spawnv(os.P_NOWAIT, "/bin/true", ["true"])
    while process.is_child_alive(pid):
        time.sleep(0.01)
    assert not process.is_alive(pid), "it has been taken off the table"
    assert not process.is_child_alive(pid)
