"""A stage's batches cut in a process of their own: both its ends, the trainer's and the worker's.

A thread of the trainer shares Python's lock with it: where steps are short, each waits for the other. The worker opens
the same datasets by what the plan says of them, so that nothing large is handed over, and reads from a position that
it is given. It lives as long as the pipe to it is open: however the trainer ends, the worker ends too.

What is said, pickled, over two pipes: `Job` -> `Opened`; `Position` -> batches, then None. `Failed` in place of any.

Not on `multiprocessing`: its `spawn` cannot start where a dashboard has replaced `sys.stderr` ("bad value(s) in
fds_to_keep"), imports a `socket.py` of the user's working folder, and writes on the terminal until our code runs.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from lmplay_tui.data.batches import Position
from lmplay_tui.data.stage_data import StageData, open_stage
from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.errors import DataError
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import Stage
from lmplay_tui.process import own_command, own_environment

_PROGRAM = "lmplay_tui.data.worker"
# A stop is the trainer's business: it must come to its checkpoint, and may need batches until then.
_IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
# What reading itself brings about: a page that a disk no longer gives, a fault in a library. It would do so again here.
_BY_READING = (signal.SIGBUS, signal.SIGSEGV, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)


@dataclass(frozen=True)
class Job:
    """All that is needed to open a stage's data once more, elsewhere."""

    stage: Stage
    options: TrainOptions
    tokenizer: str
    datasets_folder: Path
    stages: tuple[Stage, ...] = ()  # of the plan

    def open(self) -> StageData:
        """The data, as the trainer has them if they have not changed since."""
        return open_stage(
            self.stage, self.options, load_tokenizer(self.tokenizer), datasets_folder=self.datasets_folder,
            report=lambda *_: None, stages=self.stages,
        )  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """The worker has opened the data and waits to hear where to begin."""

    fingerprint: str


@dataclass(frozen=True)
class Failed:
    """What ended the reading, to be raised where the next batch would have come."""

    error: BaseException


# ---- in the trainer's process


class WorkerLostError(Exception):
    """The worker could not be started, or has ended without a word: the same batches can be had without it."""


class BusError(DataError):
    """A page of a mapped file could not be had (SIGBUS). Who else reads it may be ended so, with all it holds."""


class Worker:
    """The process. Its messages are read in another thread than their user's, so that a user need not wait for one."""

    def __init__(self, job: Job, program: str = _PROGRAM) -> None:
        """Start it, the module `program`; it takes seconds to open its data. Raises `WorkerLostError`."""
        # A Ctrl+C in its first second, before its own code runs, is not for it either: it begins with this mask.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED_SIGNALS)
        try:
            self._process = subprocess.Popen(
                own_command(program), env=own_environment(),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            raise WorkerLostError(f"no process could be started ({error.strerror})") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._say(job)

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(self, start: Position) -> None:
        """Have it read from `start` on. Once, after `Opened`."""
        self._say(start)

    def messages(self) -> Iterator[Any]:
        """`Opened`, then the batches from where `begin` has it start, to the stage's end.

        Raises what reading raises there, `DataError` where reading has ended the process, and `WorkerLostError`.
        """
        assert self._process.stdout is not None
        while True:
            try:
                said = pickle.load(self._process.stdout)  # noqa: S301 - from our own program, by our own pipe
            except (EOFError, pickle.UnpicklingError, OSError, ValueError):
                raise self._lost() from None
            if said is None:
                return
            if isinstance(said, Failed):
                raise said.error
            yield said

    def kill(self) -> None:
        """End it at once: it holds nothing that anything else needs. `messages` then come to their end."""
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
        except OSError:  # it is gone: `messages` will say how
            return

    def _lost(self) -> WorkerLostError | DataError:
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return WorkerLostError("it has stopped talking")
        if -status in _BY_READING:
            kind = BusError if -status == signal.SIGBUS else DataError
            return kind(
                f"reading the data has ended their reader ({_signal_name(-status)}): a file was cut short, or its disk "
                "fails; look at the dataset's files"
            )
        said = f"it was ended by {_signal_name(-status)}" if status < 0 else f"it ended with status {status}"
        return WorkerLostError(said)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# ---- in the worker's process


def main() -> None:
    """Serve one trainer until it is gone or the stage is over."""
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as trainer:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a library's print is no message
        try:
            _serve(trainer)
        except OSError:  # the trainer is gone
            os._exit(0)


def _serve(trainer: BinaryIO) -> None:
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(heard,), name="trainer", daemon=True).start()
    try:
        job: Job = heard.get()
        data = job.open()
        _send(Opened(data.fingerprint), trainer)
        start: Position = heard.get()
        for batch in data.reading(start):
            _send(batch, trainer)
    except BrokenPipeError:
        raise
    except BaseException as error:
        _send(Failed(portable(error)), trainer)
        return
    _send(None, trainer)


def _listen(heard: "queue.SimpleQueue[Any]") -> None:
    """Pass on what the trainer says. Its end closes the pipe, and is the end of this process, whatever it is doing."""
    try:
        while True:
            heard.put(pickle.load(sys.stdin.buffer))  # noqa: S301 - from the trainer that started this process
    finally:
        os._exit(0)


def _send(what: Any, trainer: BinaryIO) -> None:
    pickle.dump(what, trainer, protocol=pickle.HIGHEST_PROTOCOL)
    trainer.flush()


def portable(error: BaseException) -> BaseException:
    """The error with where it came from; one that cannot travel becomes one that says the same."""
    error.add_note("in the data reader's process:\n" + traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:  # an exception of a library raises what it likes when it is taken apart and built anew
        return RuntimeError("\n".join((f"{type(error).__name__}: {error}", *error.__notes__)))
    return error


if __name__ == "__main__":
    import_module(_PROGRAM).main()  # under its own name: pickled as a class of `__main__`, no message could be read
