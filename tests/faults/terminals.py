"""Programs in a real pseudo-terminal: started, signalled, hung up, and looked at afterwards."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Self

from tests.faults.forks import can_be_read

ENDS_WITHIN_S = 240.0  # with much headroom: the machine is busy
USUAL = {b"25", b"7"}  # modes of a terminal that is at rest: the cursor is shown, long lines are wrapped


class Terminal:
    """A child of ours in a terminal of its own, 80x24. `work` gives its exit status. Use as a context."""

    _masters: ClassVar[set[int]] = set()  # the ends of all lines that are open

    def __init__(self, work: Callable[[], int]) -> None:
        self._status: int | None = None
        self.output = b""
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            for master in self._masters:  # else a line would stay open in the programs that were started later
                os.close(master)
            self._run(work)
        self._masters.add(self._master)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._reading = threading.Event()
        self._reading.set()
        self._closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _run(self, work: Callable[[], int]) -> None:
        status = 1
        try:
            os.environ["TERM"] = "xterm-256color"
            # pytest's own streams belong to the test; these are the terminal's.
            sys.stdin = sys.__stdin__ = os.fdopen(0, "r", closefd=False)  # type: ignore[misc]
            sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)  # type: ignore[misc]
            sys.stderr = sys.__stderr__ = os.fdopen(2, "w", closefd=False)  # type: ignore[misc]
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP):
                signal.signal(number, signal.SIG_DFL)
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
            os._exit(status)

    def _read(self) -> None:
        while not self._closed:
            self._reading.wait()
            if not can_be_read(self._master, 0.05):
                continue
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:
                return
            if not data:
                return
            self.output += data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self.hang_up()

    def type_ahead(self, keys: bytes) -> None:
        """What the program does not take, for it is leaving, is not typed."""
        os.set_blocking(self._master, False)
        with contextlib.suppress(OSError):
            os.write(self._master, keys)
        os.set_blocking(self._master, True)

    def type(self, keys: str | bytes) -> None:
        data = keys.encode() if isinstance(keys, str) else keys
        while data:
            data = data[os.write(self._master, data) :]

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def stall(self) -> None:
        """Read no more: the line is frozen."""
        self._reading.clear()

    def go_on(self) -> None:
        """Read again."""
        self._reading.set()

    @property
    def suspended(self) -> bool:
        """Whether it has stopped itself, as Ctrl+Z asks."""
        pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
        return bool(pid) and os.WIFSTOPPED(status)

    def hang_up(self) -> None:
        """Close the line, as a lost connection does."""
        if not self._closed:
            self._closed = True
            self._reading.set()
            self._reader.join()
            self._masters.discard(self._master)
            os.close(self._master)

    @property
    def ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def wait(self, seconds: float = ENDS_WITHIN_S) -> int:
        """Its exit status, negative for a signal. `TimeoutError` with the end of its output if it hangs."""
        deadline = time.monotonic() + seconds
        while not self.ended:
            if time.monotonic() > deadline:
                raise TimeoutError(f"has not ended in {seconds} s: {self.output[-2000:]!r}")
            time.sleep(0.01)
        self._hear_out()
        assert self._status is not None
        return self._status

    def interrupt_until_it_leaves(self) -> int:
        """Ctrl+C from outside, twice a second, for two soon after each other leave at once; its exit status."""

        def left() -> bool:
            self.send(signal.SIGINT)
            time.sleep(0.5)
            return self.ended

        until(left)
        return self.wait()

    def until_it_catches(self, *numbers: int) -> None:
        """Wait until the program has handlers for these signals, or has ended."""
        wanted = sum(1 << (number - 1) for number in numbers)
        until(lambda: self.ended or self._caught() & wanted == wanted)

    def _caught(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("SigCgt:"):
                return int(line.split()[1], 16)
        raise AssertionError("the kernel does not say which signals are caught")

    def _hear_out(self) -> None:
        """Its last words may still be on their way; a child of its own may keep the line open."""
        deadline = time.monotonic() + ENDS_WITHIN_S
        self._reader.join(0.1)
        while self._reading.is_set() and self._reader.is_alive() and time.monotonic() < deadline:
            if not can_be_read(self._master, 0):
                break
            time.sleep(0.01)  # the reader's thread takes it

    @property
    def restored(self) -> bool:
        """Whether it is as a shell wants it: what was switched on is off, the cursor is shown, keys are plain."""
        modes = dict.fromkeys(USUAL, b"h")
        for numbers, switched in re.findall(rb"\x1b\[\?([\d;]+)([hl])", self.output):
            modes |= dict.fromkeys(numbers.split(b";"), switched)
        left_on = {number for number, switched in modes.items() if switched == b"h"}
        keys = re.findall(rb"\x1b\[([<>])\d*u", self.output)  # an enhanced keyboard: pushed, popped
        return left_on == USUAL and keys[-1:] in ([], [b"<"])


def until(condition: Callable[[], object], seconds: float = ENDS_WITHIN_S) -> None:
    """Wait until `condition()` holds. `TimeoutError` if it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for has not happened")
        time.sleep(0.02)
