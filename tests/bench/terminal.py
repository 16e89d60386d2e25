"""A pseudo-terminal with a program in it: what it writes is counted, kept as a screen, and answered as terminals do."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from pathlib import Path

import psutil

STILL_S = 0.05  # without a byte: the screen is still
QUESTION, ANSWER = b"\x1b[6n", b"\x1b[1;1R"  # where the cursor is: what the dashboard waits for before it sends more
SLOW_BYTES_PER_S = 8000  # 64 kbit/s
_SLOW_PIECE = 400  # bytes

_PIECE = re.compile(r"\x1b\[(\d+);(\d+)H|\x1b\[[0-9;:?<=>$ ]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.|([^\x1b]+)")
_BRAILLE = re.compile("[\u2801-\u28ff]")


class Shown:
    """The cells that the dashboard has filled: it says where each piece of text goes, so little is to be understood."""

    def __init__(self, columns: int, lines: int) -> None:
        self.rows = [[" "] * columns for _ in range(lines)]
        self.curves_at: list[float] = []  # when dots of curves came
        self._rest = ""
        self._place = (0, 0)

    def feed(self, data: bytes) -> None:
        text = self._rest + data.decode("utf-8", "replace")
        cut = text.rfind("\x1b", len(text) - 64)
        self._rest = text[cut:] if cut >= 0 and _PIECE.fullmatch(text[cut:]) is None else ""
        text = text[: len(text) - len(self._rest)]
        if _BRAILLE.search(text):
            self.curves_at.append(time.perf_counter())
        for line, column, written in _PIECE.findall(text):
            if line:
                self._place = (int(line) - 1, int(column) - 1)
            elif written:
                self._write(written)

    def _write(self, text: str) -> None:
        y, x = self._place
        for sign in text:
            if sign == "\n":
                y, x = y + 1, 0
            elif sign >= " ":
                if y < len(self.rows) and x < len(self.rows[y]):
                    self.rows[y][x] = sign
                x += 1
        self._place = (y, x)

    @property
    def step(self) -> int:
        """The step that the state line shows; -1 where it shows none."""
        found = re.search(r"step +([\d,]+)", "".join(self.rows[0]))
        return int(found[1].replace(",", "")) if found else -1


class Terminal:
    """Starts a program on a pseudo-terminal of its own."""

    def __init__(self, command: list[str], folder: Path, columns: int, lines: int) -> None:
        self.begun = time.perf_counter()
        self.bytes = 0
        self.shown = Shown(columns, lines)
        state = folder / "state"  # of a user who has read the first hints
        (state / "lmplay-tui").mkdir(parents=True, exist_ok=True)
        (state / "lmplay-tui" / "hints-read").touch()
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program is not compiled at each start
            os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "HF_HUB_OFFLINE": "1"}
            os.environ["XDG_STATE_HOME"] = str(state)
            os.execv(command[0], command)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def screen_thread_s(self) -> float:
        """Processor time that the program's first thread has had: the screen's; the trainer has one of its own."""
        times = psutil.Process(self.pid).threads()[0]
        return float(times.user_time + times.system_time)

    def read(self, seconds: float, most: int = 1 << 16) -> bytes:
        """What comes next, within `seconds`, without questions; nothing where nothing comes or the program is gone."""
        if not select.select([self._master], [], [], seconds)[0]:
            return b""
        try:
            data = os.read(self._master, most)
        except OSError:
            return b""
        self.bytes += len(data)
        self.shown.feed(data)
        if questions := data.count(QUESTION):
            os.write(self._master, ANSWER * questions)
        return data.replace(QUESTION, b"")

    def drain(self, seconds: float) -> int:
        """Read for so long; how many bytes came."""
        before, end = self.bytes, time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            self.read(left)
        return self.bytes - before

    def crawl(self, seconds: float) -> None:
        """Read for so long what a line of 64 kbit/s lets through."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            begun, before = time.perf_counter(), self.bytes
            self.read(min(left, 0.02), _SLOW_PIECE)
            rest = (self.bytes - before) / SLOW_BYTES_PER_S - (time.perf_counter() - begun)
            time.sleep(max(rest, 0.0))

    def until(self, what: bytes, seconds: float) -> float:
        """Seconds from the start until `what` has been written."""
        seen = b""
        while time.perf_counter() - self.begun < seconds:
            seen = seen[-len(what) :] + self.read(0.5)
            if what in seen:
                return time.perf_counter() - self.begun
        raise SystemExit(f"the dashboard did not write {what!r} in {seconds:.0f} s")

    def answer(self, key: bytes) -> float | None:
        """Seconds from a key, pressed while the screen is still, to the first bytes; None where none come."""
        for _ in range(200):
            if not self.read(STILL_S):
                break
        begun = time.perf_counter()
        os.write(self._master, key)
        while (seconds := time.perf_counter() - begun) < 2.0:
            if self.read(2.0 - seconds):
                return time.perf_counter() - begun
        return None

    def close(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        end = time.perf_counter() + 30
        while time.perf_counter() < end and os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            self.read(0.1)
        os.close(self._master)
