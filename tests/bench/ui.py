"""`ui`: the dashboard in a real pseudo-terminal: its first frame, its keys, its bytes, and what it takes from training.

Nothing reads the screen as a person would: a frame is there when the footer's last word has come, a key is answered by
the first bytes after it, in a moment when the screen was still.
"""

import fcntl
import json
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Any

ROUNDS = 3
WARM_UP_S = 8.0  # from the start to steady training
STILL_S = 0.05  # without a byte: the screen is still
FOOTER = b"quit"
CURVES = b"2"


class Terminal:
    """A program on a pseudo-terminal of its own; what it writes is counted and thrown away."""

    def __init__(self, command: list[str], folder: Path, columns: int, lines: int) -> None:
        self.begun = time.perf_counter()
        self.bytes = 0
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "HF_HUB_OFFLINE": "1"}
            os.execv(command[0], command)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self, seconds: float) -> bytes:
        """What comes next, within `seconds`; nothing where nothing comes or the program is gone."""
        if not select.select([self._master], [], [], seconds)[0]:
            return b""
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:
            return b""
        self.bytes += len(data)
        return data

    def drain(self, seconds: float) -> int:
        """Read for so long; how many bytes came."""
        before, end = self.bytes, time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            self.read(left)
        return self.bytes - before

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
        return time.perf_counter() - begun if self.read(2.0) else None

    def close(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        end = time.perf_counter() + 30
        while time.perf_counter() < end and os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            self.read(0.1)
        os.close(self._master)


def run(arguments: Any) -> dict[str, str]:
    """A JSON line for each figure; rows of the table, with what they must be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = {"ui: first frame (must 0.6 s)": _first_frame(folder)}
        rows |= _beside_training(folder, arguments.seconds)
    return rows


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _say(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


def _first_frame(folder: Path) -> str:
    found = []
    for number in range(ROUNDS + 2):
        terminal = Terminal([_program("lmplay-tui")], folder, 120, 40)
        found.append(terminal.until(FOOTER, 60))
        terminal.close()
        _say(name="first frame", seconds=round(found[-1], 3), round=number + 1)
    return f"{statistics.median(found[1:]):.2f} s"  # the first one fills the file cache


def _beside_training(folder: Path, seconds: float) -> dict[str, str]:
    """Headless and both sizes in turn, on the demo plan."""
    rates: dict[str, list[float]] = {}
    traffic: dict[str, list[float]] = {}
    answers: list[float] = []
    for number in range(ROUNDS):
        for where, size in (("headless", None), ("120x40", (120, 40)), ("200x60", (200, 60))):
            model = folder / f"{where}{number}"
            words = ["--training-plan", "demo", "--model", str(model)]
            if size is None:
                rate = _headless(words, model, folder, seconds)
            else:
                terminal = Terminal([_program("lmplay-tui"), *words], folder, *size)
                terminal.drain(WARM_UP_S)
                traffic.setdefault(where, []).append(terminal.drain(seconds) / seconds / 1000)
                rate = _tokens_per_s(model)
                if where == "120x40":
                    keys = (terminal.answer(key) for key in (b"3", CURVES) * 8)
                    answers += [found for found in keys if found is not None]
                terminal.close()
                _say(name=where, kB_per_s=round(traffic[where][-1], 2), tokens_per_s=round(rate), round=number + 1)
            rates.setdefault(where, []).append(rate)
    cost = 1 - statistics.median(d / h for d, h in zip(rates["120x40"], rates["headless"], strict=True))
    answers.sort()
    p95 = answers[min(int(0.95 * len(answers)), len(answers) - 1)]
    middle = statistics.median(answers)
    _say(name="keys", count=len(answers), p50_ms=round(1000 * middle, 1), p95_ms=round(1000 * p95, 1))
    return {
        "ui: key to screen, p95, training (must 50 ms)": f"{1000 * p95:.0f} ms",
        "ui: cost at 120x40 in tokens/s (must 3 %)": f"{100 * cost:.1f} %",
        "ui: traffic at 120x40 (must 6 kB/s)": f"{statistics.median(traffic['120x40']):.1f} kB/s",
        "ui: traffic at 200x60 (must 12 kB/s)": f"{statistics.median(traffic['200x60']):.1f} kB/s",
    }


def _headless(words: list[str], model: Path, folder: Path, seconds: float) -> float:
    with subprocess.Popen([_program("lmp_trainer"), *words], cwd=folder, stdout=subprocess.DEVNULL) as trainer:
        time.sleep(WARM_UP_S + seconds)
        rate = _tokens_per_s(model)
        trainer.send_signal(signal.SIGTERM)
    _say(name="headless", tokens_per_s=round(rate))
    return rate


def _tokens_per_s(model: Path) -> float:
    """By the run's own journal, without its first seconds."""
    lines = (model.parent / f"{model.name}.run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [step for line in lines if "perf/tokens_per_s" in (step := json.loads(line))]
    steady = [step for step in steps if step["elapsed_s"] > steps[0]["elapsed_s"] + 2]
    first, last = steady[0], steady[-1]
    return float((last["tokens"] - first["tokens"]) / (last["elapsed_s"] - first["elapsed_s"]))
