"""A real file system that is full while a run trains on it."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.cli import main
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import LAST_EVENTS, StepDone
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.launch import run_events
from tests.faults.forks import Child, limit_file_size
from tests.train.runs import given, write_plan
from tests.ui.terminal_screen import ScreenTerminal

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000  # sched.h
_PRIVATE = 0x4000 | 0x40000  # sys/mount.h: MS_REC, MS_PRIVATE


def mount(folder: Path, size_kb: int) -> bool:
    """Mount a small disk that only this process sees; False where this machine does not allow that."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(_NEW_USER | _NEW_MOUNTS):
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")
    except OSError:
        return False
    folder.mkdir()
    libc.mount(None, b"/", None, _PRIVATE, None)
    return not libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={size_kb}k".encode())


def fill(folder: Path) -> None:
    with (folder / "others").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return


def train_on_a_small_disk(plan: str, report: Callable[[Any], None]) -> None:
    if not mount(Path("small"), 1024):
        report("not allowed")
        return
    run = RunFolder(Path("small/m.lmp"))
    for event in run_events(given(training_plan=plan, model=str(run.model), save_interval=6), Controls()):
        if isinstance(event, StepDone) and event.step == 2:
            fill(Path("small"))
        if isinstance(event, LAST_EVENTS):
            report(event)
    report(run.status())
    report(os.statvfs("small").f_bavail)


def test_a_run_that_a_full_disk_ends_says_so(place):
    plan = write_plan(place)
    with Child(lambda report: train_on_a_small_disk(plan, report)) as child:
        said = list(child.reports())
        assert child.wait() == 0
    if said == ["not allowed"]:
        pytest.skip("no file system can be mounted here")
    end, status, free = said
    assert free == 0
    assert end.exit_code == 3
    assert "saves in a row have failed" in end.message
    assert status["state"] == "failed"
    assert status["message"] == end.message
    assert status["step"] == end.step > 2


@pytest.mark.long_after(1)
@pytest.mark.parametrize(
    ("words", "shown", "ends"),
    [
        (["attach", "m"], "stopped at step 4", 0),
        (["--model", "m.lmp", "--device", "cpu"], "✗ failed m.lmp: not saved", 3),
    ],
    ids=["attach", "resume"],
)
def test_a_dashboard_opens_on_a_full_disk(trained, tmp_path, words, shown, ends):
    """No folder for temporaries has room, nor has any other."""
    shutil.copytree(trained, tmp_path / "place")

    def work() -> int:
        os.chdir(tmp_path / "place")
        tempfile.tempdir = None  # as a new process, which has found none yet
        limit_file_size(0)
        return main(words)

    with ScreenTerminal(work, (100, 30)) as terminal:
        terminal.shows(shown)
        terminal.type("q")
        assert terminal.wait() == ends, terminal.output[-3000:]
        assert terminal.restored
        assert b"Traceback" not in terminal.output


@pytest.mark.long_after(1)
@pytest.mark.parametrize("words", [["check", "plan.toml"], ["generate", "m", "The"], ["new", "stories.jsonl"]], ids=str)
def test_where_no_folder_takes_a_temporary_file_a_command_says_so(trained, tmp_path, words):
    """In a process of its own: libraries look for such a folder when they are imported."""
    shutil.copytree(trained, tmp_path / "place")
    program = [sys.executable, "-m", "lmplay_tui.cli", *words]
    ended = subprocess.run(
        program, cwd=tmp_path / "place", preexec_fn=partial(limit_file_size, 0), capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode in (0, 3), ended.stderr
    assert "Traceback" not in ended.stderr
    if ended.returncode:
        assert "set TMPDIR" in ended.stderr and ended.stderr.count("\n") == 1
