"""Lines of a long run to standard output and error, which may stall, close or vanish without holding training up."""

import contextlib
import errno
import os
import queue
import sys
import threading
from collections.abc import Callable
from types import TracebackType

from lmplay_tui.text import plain_signs

MAX_WAITING = 2000  # lines; beyond them new ones are dropped and counted
LAST_WORDS_S = 2.0  # a terminal that does not read is not waited for longer when the run is over


class Output:
    """Writes lines from a thread. `on_reader_gone`: called once when a pipe's reader has left (`| head`).

    `ascii_only`: of the signs that we draw with the plain ones. The thread writes to the descriptors themselves: were
    it stuck inside `sys.stdout`, the interpreter could not end.
    """

    def __init__(
        self,
        on_reader_gone: Callable[[], None] | None = None,
        descriptors: tuple[int, int] = (1, 2),
        *,
        ascii_only: bool = False,
    ) -> None:
        self._out, self._err = descriptors
        self._ascii_only = ascii_only
        self._on_reader_gone = on_reader_gone
        self._queue: queue.Queue[tuple[int, str] | None] = queue.Queue(MAX_WAITING)
        self._dropped = 0
        self._gone: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)

    def __enter__(self) -> "Output":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=LAST_WORDS_S)
        self._thread.join(LAST_WORDS_S)

    def write(self, line: str) -> None:
        """To standard output; never waits."""
        self._put(self._out, line)

    def warn(self, line: str) -> None:
        """To standard error; never waits."""
        self._put(self._err, line)

    def _put(self, descriptor: int, line: str) -> None:
        try:
            if self._dropped:
                self._queue.put_nowait((self._out, f"({self._dropped} lines left out: the terminal did not keep up)"))
                self._dropped = 0
            self._queue.put_nowait((descriptor, plain_signs(line) if self._ascii_only else line))
        except queue.Full:
            self._dropped += 1

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            descriptor, line = entry
            if descriptor in self._gone:
                continue
            try:
                _write_all(descriptor, (line + "\n").encode("utf-8", "replace"))
            except OSError as error:
                self._gone.add(descriptor)
                if error.errno == errno.EPIPE and descriptor == self._out and self._on_reader_gone is not None:
                    self._on_reader_gone()


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # another program has made the terminal non-blocking
            threading.Event().wait(0.05)


def to_stderr(line: str) -> None:
    """A line to who waits, while there is no run yet that could say it."""
    with contextlib.suppress(OSError, ValueError):  # it has been closed
        print(line, file=sys.stderr, flush=True)
