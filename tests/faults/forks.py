"""Children that share the imported torch with the test: a start in milliseconds, and a kill -9 that is real."""

import contextlib
import errno
import os
import pickle
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Self


class Child:
    """A forked process that runs `work(report)`; what it reports comes over a pipe. Use as a context."""

    def __init__(self, work: Callable[[Callable[[Any], None]], None]) -> None:
        self._reader, writer = os.pipe()
        self._rest = b""
        self._status: int | None = None
        self.peak_kib = 0  # the most memory that it or a process of its own has had, once it has ended
        self.pid = os.fork()
        if self.pid == 0:
            self._run(work, writer)
        os.close(writer)

    def _run(self, work: Callable[[Callable[[Any], None]], None], writer: int) -> None:
        status = 1
        try:
            os.close(self._reader)
            work(lambda value: _write_all(writer, value))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is None:
            self.kill()
        os.close(self._reader)

    def kill(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        if number == signal.SIGKILL:
            self.wait()

    def wait(self, seconds: float = 240.0) -> int:
        """Its exit status, negative for a signal. `TimeoutError` if it does not end."""
        deadline = time.monotonic() + seconds
        while (status := self.see_end()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"child {self.pid} has not ended in {seconds} s")
            time.sleep(0.002)
        return status

    def see_end(self) -> int | None:
        """Its exit status where it has ended: until that is asked for, other processes see it as one that is there."""
        if self._status is None:
            pid, status, use = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self._status, self.peak_kib = os.waitstatus_to_exitcode(status), use.ru_maxrss
        return self._status

    def has_said(self, within_s: float) -> bool:
        """Whether it reports something, or has ended, within so long; what it says stays to be read."""
        return can_be_read(self._reader, within_s)

    def reports(self, seconds: float = 240.0) -> Iterator[Any]:
        """What it reports, until it ends or nothing comes for so long."""
        while True:
            while len(self._rest) >= 4 and len(self._rest) >= 4 + int.from_bytes(self._rest[:4], "big"):
                size = int.from_bytes(self._rest[:4], "big")
                value, self._rest = pickle.loads(self._rest[4 : 4 + size]), self._rest[4 + size :]
                yield value
            if not can_be_read(self._reader, seconds):
                return
            data = os.read(self._reader, 1 << 16)
            if not data:
                return
            self._rest += data


def can_be_read(descriptor: int, seconds: float) -> bool:
    """Wait until there is something to read, or its end. Not by `select`, which takes no descriptor from 1024 on."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _write_all(writer: int, value: Any) -> None:
    data = pickle.dumps(value)
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(writer, data) :]


def limit_file_size(size_bytes: int) -> None:
    """From here on no file of this process grows beyond `size_bytes`: what a full disk looks like to a writer."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


def no_locks(*_: object) -> None:
    """In the place of `fcntl.flock`: a file system that has no locks."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
