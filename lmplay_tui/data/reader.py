"""A stage's batches cut in a process of their own, seen from the process that trains on them.

A thread of the trainer shares Python's lock with it: where steps are short, each waits for the other. The process
opens the same datasets by what the plan says of them, so that nothing large is handed over, and reads from a position
that it is told. It lives as long as the pipe to it is open: however this process ends, it ends too.
"""

import pickle
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmplay_tui.data.batches import Position
from lmplay_tui.data.stage_data import StageData, open_stage
from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import Stage
from lmplay_tui.process import own_command, own_environment

_PROGRAM = "lmplay_tui.data.reader_program"


class ReaderLostError(Exception):
    """The process could not be started, or has ended without a word: the same batches can be had without it."""


@dataclass(frozen=True)
class Job:
    """All that is needed to open a stage's data once more, elsewhere."""

    stage: Stage
    options: TrainOptions
    tokenizer: str
    datasets_folder: Path
    stages: tuple[Stage, ...] = ()  # of the plan

    def open(self) -> StageData:
        """The data, as the trainer has them if nobody has changed them since."""
        return open_stage(
            self.stage, self.options, load_tokenizer(self.tokenizer), datasets_folder=self.datasets_folder,
            report=lambda *_: None, stages=self.stages,
        )  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """The process has opened the data and waits to hear where to begin."""

    fingerprint: str


@dataclass(frozen=True)
class Failed:
    """What ended the reading, to be raised where the next batch would have come."""

    error: BaseException


class ReaderProcess:
    """The process. What it says is read in another thread than its user's, so that a user need not wait for it."""

    def __init__(self, job: Job) -> None:
        """Start it; it takes seconds to open its data. Raises `ReaderLostError`."""
        try:
            self._process = subprocess.Popen(
                own_command(_PROGRAM), env=own_environment(),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            raise ReaderLostError(f"no process could be started ({error.strerror})") from None
        self._say(job)

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(self, start: Position) -> None:
        """Have it read from `start` on. Once, after `Opened`."""
        self._say(start)

    def messages(self) -> Iterator[Any]:
        """`Opened`, then the batches from where it was told to begin, to the stage's end.

        Raises what reading raises there, and `ReaderLostError`.
        """
        assert self._process.stdout is not None
        while True:
            try:
                said = pickle.load(self._process.stdout)  # noqa: S301 - from our own program, by our own pipe
            except (EOFError, pickle.UnpicklingError, OSError, ValueError):
                raise ReaderLostError(self._how_it_ended()) from None
            if said is None:
                return
            if isinstance(said, Failed):
                raise said.error
            yield said

    def kill(self) -> None:
        """End it at once: it holds nothing that anybody else needs. Whoever reads its messages comes to their end."""
        self._process.kill()

    def close(self) -> None:
        """Leave nothing of it behind. After `kill`, and after the last message has been read."""
        self._process.wait()
        assert self._process.stdin is not None and self._process.stdout is not None
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except OSError:  # what was still to be written has no reader any more
                continue

    def _say(self, what: Any) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(what, self._process.stdin)
            self._process.stdin.flush()
        except OSError:  # it is gone: `messages` will tell how
            return

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it has stopped talking"
        return f"it was ended by {_signal_name(-status)}" if status < 0 else f"it ended with status {status}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
