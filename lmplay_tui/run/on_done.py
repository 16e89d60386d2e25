"""`--on-done CMD`: the user's own command, when a run has ended."""

import os
import subprocess
from collections.abc import Iterator
from typing import BinaryIO

from lmplay_tui.run.events import ActivityChanged, Event, LogLine, RunDone, RunFailed, RunStopped, Warned
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.telling import told
from lmplay_tui.text import one_line

WAIT_S = 10.0  # for its exit status; what takes longer goes on without us
_STATES = {RunDone: "finished", RunStopped: "stopped", RunFailed: "failed"}


def facts(run: RunFolder, end: RunDone | RunStopped | RunFailed) -> dict[str, str]:
    """What the command finds in its environment."""
    sentence = told(end.record())
    return {
        "LMP_STATE": _STATES[type(end)],
        "LMP_EXIT_STATUS": str(end.exit_code if isinstance(end, RunFailed) else 0),
        "LMP_RUN": run.name,
        "LMP_CHECKPOINT": end.path or "",
        "LMP_STEP": str(end.step),
        "LMP_MESSAGE": one_line(sentence[1] if sentence else "", 1000),
    }


def run_on_done(command: str, run: RunFolder, end: RunDone | RunStopped | RunFailed) -> Iterator[Event]:
    """Run the command in a session of its own, its output at the end of `log.txt`; a failure is one warning.

    Its end is waited for a few seconds. An upload that takes an hour is neither waited for nor ended.
    """
    yield ActivityChanged("ending", "--on-done")
    yield LogLine("--on-done begins")
    try:
        process = _started(command, run, os.environ | facts(run, end))
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        yield Warned(f"--on-done: could not be started ({one_line(error)})", end.step)
        return
    try:
        status = process.wait(WAIT_S)
    except subprocess.TimeoutExpired:
        yield LogLine(f"--on-done goes on by itself in process {process.pid}")
        process.returncode = 0  # it outlives us: not a forgotten child in the eyes of `subprocess`
        return
    if status:
        how = f"with status {status}" if status > 0 else f"by signal {-status}"
        yield Warned(f"--on-done: ended {how}; what it said is in {run.log}", end.step)
    else:
        yield LogLine("--on-done is done")


def _started(command: str, run: RunFolder, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    try:
        log: BinaryIO | None = run.log.open("ab")
    except OSError:  # a full disk, a folder that is gone: the command may be what tells of it
        log = None
    try:
        out = log if log is not None else subprocess.DEVNULL
        return subprocess.Popen(
            ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            env=environment,
        )  # fmt: skip
    finally:
        if log is not None:
            log.close()
