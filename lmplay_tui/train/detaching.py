"""`--detach`: a run that begins in a process of its own."""

import os
import time
from collections.abc import Mapping
from typing import Any

from lmplay_tui.errors import TrainingError, UserError
from lmplay_tui.run.control_files import ControlFiles
from lmplay_tui.run.folder import RunFolder, taken
from lmplay_tui.text import one_line
from lmplay_tui.train.handing_over import start_process
from lmplay_tui.train.starting import choose_run

BEGINS_WITHIN_S = 60.0
LOADS_WITHIN_S = 20.0  # from then on it is a download, which may take hours


def start_detached(given: Mapping[str, Any], *, until_it_trains: bool = False) -> tuple[RunFolder, int]:
    """Start the run that a command line speaks of in a process of its own, and wait until it speaks.

    Gives the run and the process's number. Raises `UserError` where it cannot begin. `until_it_trains`: nobody will
    look at the run, so wait until its data are open, or for as long as people wait.
    """
    run = choose_run(given)
    lock = taken(run)
    ControlFiles(run).sweep()  # the process that inherits the lock takes what it finds for its own
    try:
        pid = start_process(run, given, lock, resumes=False)
    except OSError as error:
        raise TrainingError(f"no process could be started ({error.strerror})") from None
    finally:
        lock.release()
    deadline = time.monotonic() + (LOADS_WITHIN_S if until_it_trains else BEGINS_WITHIN_S)
    while time.monotonic() < deadline:
        lives = _lives(pid)  # before the look: what it said last is then seen for certain
        status = run.status()
        if status.get("pid") == pid and (status.get("state") == "failed" or "refused" in status):
            raise UserError(one_line(status.get("refused") or status.get("message", "failed"), 1000))
        begun = not until_it_trains or status.get("has_begun") or status.get("state") != "running"
        if status.get("pid") == pid and begun:
            break
        if not lives:
            raise TrainingError(f"the run's process has ended before it began; see {one_line(run.log)}")
        time.sleep(0.05)
    return run, pid


def _lives(pid: int) -> bool:
    """Whether our child runs; one that has ended is taken off the table of processes."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False
