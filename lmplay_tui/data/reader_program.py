"""The program that `lmplay_tui.data.reader` runs: reads a job, says that it is open, then a stage's batches."""

import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from typing import Any, BinaryIO

from lmplay_tui.data.batches import Position
from lmplay_tui.data.reader import Failed, Job, Opened

# A stop is the trainer's business: it must come to its checkpoint without being robbed of its batches.
_NOT_OURS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")


def main() -> None:
    """Serve one trainer until it is gone or the stage is over."""
    for name in _NOT_OURS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as trainer:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a library's print is no message
        try:
            _serve(trainer)
        except OSError:  # nobody reads any more
            os._exit(0)


def _serve(trainer: BinaryIO) -> None:
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(heard,), name="trainer", daemon=True).start()
    try:
        job: Job = heard.get()
        data = job.open()
        _say(Opened(data.fingerprint), trainer)
        start: Position = heard.get()
        for batch in data.reading(start):
            _say(batch, trainer)
    except BrokenPipeError:
        raise
    except BaseException as error:
        _say(Failed(_portable(error)), trainer)
        return
    _say(None, trainer)


def _listen(heard: "queue.SimpleQueue[Any]") -> None:
    """Pass on what the trainer says. Its end closes the pipe, and is the end of this process, whatever it is doing."""
    try:
        while True:
            heard.put(pickle.load(sys.stdin.buffer))  # noqa: S301 - from the trainer that started this process
    finally:
        os._exit(0)


def _say(what: Any, trainer: BinaryIO) -> None:
    pickle.dump(what, trainer, protocol=pickle.HIGHEST_PROTOCOL)
    trainer.flush()


def _portable(error: BaseException) -> BaseException:
    """The error with where it came from; one that cannot travel becomes one that says the same."""
    error.add_note("in the data reader's process:\n" + traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:  # an exception of a library raises what it likes when it is taken apart and built anew
        return RuntimeError("\n".join((f"{type(error).__name__}: {error}", *error.__notes__)))
    return error


if __name__ == "__main__":
    main()
