"""The terminal's side of a long run: signals, a line that is lost, and prints that must not reach the screen.

Signal handlers only set plain flags: Textual's loop may be blocked on a terminal that no longer reads, so nothing that
must happen may depend on it.
"""

import contextlib
import fcntl
import os
import signal
import socket
import stat
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import IO, Any

from lmplay_tui.formats import format_megabytes

PICTURE_S = 1.0  # a terminal that reads has taken the rest of a picture by then
MOST_READS = 8  # of input that can be under way at once
READ_BYTES = 1 << 16  # of prints, a look
MAX_BEHIND_BYTES = 1 << 22  # of prints: a flood beyond it is left out and counted
EMPTIED_FROM_BYTES = 1 << 24  # the file that catches prints

_kept_open: list[int] = []

# What Textual switches on, the other way round: attributes, keyboard, mouse, pasting, resizes, focus, screen, wrapping,
# cursor.
_AS_BEFORE = (
    b"\x1b[0m\x1b[<u\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l\x1b[?2004l\x1b[?2048l\x1b[?1004l\x1b[?1049l"
    b"\x1b[?7h\x1b[?25h"
)


def terminal_settings() -> list[Any] | None:
    """The terminal's line settings, before anything changes them; None where there is no terminal."""
    try:
        return termios.tcgetattr(0)
    except termios.error:
        return None


def give_back_terminal(settings: list[Any] | None, picture_s: float = PICTURE_S) -> None:
    """The terminal as it was, should it still be there; waits no longer than `picture_s` for one that is not."""
    with contextlib.suppress(OSError, ValueError, termios.error):
        screen = sys.__stderr__.fileno() if sys.__stderr__ else 2
        if settings is not None:
            termios.tcsetattr(0, termios.TCSANOW, settings)
        if os.isatty(screen):
            _write_soon(os.ttyname(screen), _AS_BEFORE, picture_s)


def let_go_of_terminal(settings: list[Any] | None, picture_s: float = PICTURE_S) -> None:
    """The line is lost: the terminal is given back.

    From then on input is a socket that stays silent, and output goes nowhere.
    Not /dev/null for input: at its end of file the input thread would spin. A NUL frees a read that is under way.
    There may be two: the SIGCONT of a hang-up can come before we ignore it, and Textual then starts a second thread
    that reads keys. Of a pipe the first read would take all the NULs, of a datagram socket each read takes one.
    """
    give_back_terminal(settings, picture_s)
    reader, writer = (end.detach() for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
    _kept_open.append(writer)
    os.dup2(reader, 0)
    os.close(reader)
    for _ in range(MOST_READS):
        os.write(writer, b"\0")
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2, sys.__stderr__.fileno() if sys.__stderr__ else 2):
        if not stat.S_ISREG(os.fstat(stream).st_mode):  # what is caught in a file goes on to the log
            os.dup2(null, stream)
    os.close(null)


def _write_soon(terminal: str, data: bytes, seconds: float) -> None:
    """Write to a terminal that may be in the middle of a picture; given up where it does not go on reading.

    By a descriptor of its own: one that other threads write on would make us wait as long as they do.
    """
    descriptor = os.open(terminal, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        end = time.monotonic() + seconds
        while data and time.monotonic() < end:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # it is still at the picture; nothing tells when it has room for all of this
                time.sleep(0.01)
    finally:
        os.close(descriptor)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """The handler of a signal that means nothing any more."""


class Signals:
    """What signals have asked for, as flags, and calls that only append.

    `on_stop(name)` is called for SIGINT and SIGTERM, `on_hangup()` for SIGHUP, `on_save()` for SIGUSR1; they must take
    no lock.
    """

    def __init__(
        self,
        on_stop: Callable[[str], None],
        on_hangup: Callable[[], None],
        on_save: Callable[[], None],
        settings: list[Any] | None,
    ) -> None:
        """`settings`: the terminal's, before anything changed them."""
        self._on_stop = on_stop
        self._on_hangup = on_hangup
        self._on_save = on_save
        self.line_lost = False
        self._before: dict[int, Any] = {}
        self._settings = settings

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            self._before[number] = signal.getsignal(number)
            signal.signal(number, self._handle)

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self._on_save()
            return
        if number != signal.SIGHUP:
            self._on_stop(signal.Signals(number).name)
            return
        if self.line_lost:
            return
        self.line_lost = True
        # A hang-up sends SIGCONT too, and Textual would enter its application mode a second time.
        # Not SIG_IGN: Python complains of a signal that came before it was ignored.
        signal.signal(signal.SIGCONT, _nothing)
        signal.signal(signal.SIGTSTP, _nothing)
        self._on_hangup()
        let_go_of_terminal(self._settings)


def _new_file() -> IO[bytes]:
    """A file without a name: in memory where no disk has room; where a system makes none there, prints are lost."""
    with contextlib.suppress(OSError):
        return tempfile.TemporaryFile(prefix="lmplay-tui-")
    with contextlib.suppress(OSError, AttributeError):
        return os.fdopen(os.memfd_create("lmplay-tui"), "r+b", buffering=0)
    return os.fdopen(os.open(os.devnull, os.O_RDWR), "r+b", buffering=0)


class StrayPrints:
    """Catches what native code and child processes write to descriptors 1 and 2 while the screen is up.

    A file takes it, not a pipe: a full pipe would stop the writer, which may be the trainer.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._read_to = 0
        self._rest = b""

    @contextlib.contextmanager
    def caught(self) -> Iterator["StrayPrints"]:
        """While this lasts, Textual draws on a copy of the terminal's descriptor and all else goes to the file."""
        sys.stdout.flush()
        sys.stderr.flush()
        saved_out, saved_err = os.dup(1), os.dup(2)
        saved_streams = sys.__stdout__, sys.__stderr__
        self._file = _new_file()  # closed below, with the descriptors
        # Appending: the file can be emptied while others write to it. A temporary file's mode does not see to that.
        fcntl.fcntl(self._file, fcntl.F_SETFL, os.O_APPEND)
        terminal = next((stream for stream in (2, 1) if os.isatty(stream)), 2)
        screen = os.fdopen(os.dup(terminal), "w", encoding="utf-8", errors="replace")
        # Textual draws on one of these names and asks the other one for the terminal's size.
        sys.__stderr__ = sys.__stdout__ = screen  # type: ignore[misc]
        try:
            os.dup2(self._file.fileno(), 1)
            os.dup2(self._file.fileno(), 2)
            yield self
        finally:
            sys.__stdout__, sys.__stderr__ = saved_streams  # type: ignore[misc]
            for descriptor, saved in ((1, saved_out), (2, saved_err)):
                os.dup2(saved, descriptor)
                os.close(saved)
            with contextlib.suppress(OSError, ValueError):
                screen.close()
            self._file.close()
            self._file = None

    def new_lines(self) -> list[str]:
        """Whole lines since the last call, at most some hundred at a time."""
        if self._file is None:
            return []
        descriptor, said = self._file.fileno(), []
        behind = os.fstat(descriptor).st_size - self._read_to
        if behind > MAX_BEHIND_BYTES:
            left_out = behind - READ_BYTES
            self._read_to, self._rest = self._read_to + left_out, b""
            said = [f"({format_megabytes(left_out, 1)} of prints left out)"]
        data = os.pread(descriptor, READ_BYTES, self._read_to)
        if not data:
            if self._read_to > EMPTIED_FROM_BYTES:
                os.ftruncate(descriptor, 0)
                self._read_to = 0
            return []
        self._read_to += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > 10_000:  # a progress bar that never ends its line
            lines, self._rest = [*lines, self._rest], b""
        return said + [line.decode("utf-8", "replace").rsplit("\r", 1)[-1] for line in lines if line.strip()]

    def last_lines(self) -> list[str]:
        """All that is left, with a last line that has no end."""
        lines = []
        while new := self.new_lines():
            lines += new
        rest, self._rest = self._rest, b""
        return lines + ([rest.decode("utf-8", "replace").rsplit("\r", 1)[-1]] if rest.strip() else [])

    def write(self, text: str) -> None:
        """What Python code prints: it goes the same way."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk costs the words
                os.write(self._file.fileno(), text.encode("utf-8", "replace"))
