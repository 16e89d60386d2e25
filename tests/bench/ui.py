"""`ui`: the dashboard in a real pseudo-terminal: its keys, its bytes, and what it takes from training.

A key is answered by the first bytes after it, in a moment when the screen was still. What is shown is read from the
bytes, so that no terminal emulator is needed.
"""

import itertools
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.bench.terminal import Terminal

ROUNDS = 3
STEADY_AFTER = 3  # lines of the journal, ten steps each
STARTS_WITHIN_S = 120.0
STALL_S = 30.0
KEYS = (b"3", b"2", b"m", b"y")  # predictions, curves, smoothing, log scale: each changes much of the screen


def run(arguments: Any) -> dict[str, str]:
    """A JSON line for each figure; rows of the table, with what they must be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = _beside_training(folder, arguments.seconds)
        rows |= _slow_line(folder)
    rows |= _many_points()
    return rows


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _say(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


def _beside_training(folder: Path, seconds: float) -> dict[str, str]:
    """Headless and both sizes in turn, on the demo plan."""
    rates: dict[str, list[float]] = {}
    traffic: dict[str, list[float]] = {}
    answers: list[float] = []
    ages: list[float] = []
    pauses: list[float] = []
    busy: list[float] = []
    for number in range(ROUNDS):
        for where, size in (("headless", None), ("120x40", (120, 40)), ("200x60", (200, 60))):
            model = folder / f"{where}{number}"
            words = ["--training-plan", "demo", "--model", str(model)]
            if size is None:
                rate = _headless(words, model, folder, seconds)
            else:
                terminal = Terminal([_program("lmplay-tui"), *words], folder, *size)
                _until_steady(model, terminal.drain)
                seen, before, used = [], terminal.bytes, terminal.screen_thread_s
                terminal.shown.curves_at.clear()
                for _ in range(round(seconds / 0.2)):
                    terminal.drain(0.2)
                    seen.append((time.time(), terminal.shown.step))
                traffic.setdefault(where, []).append((terminal.bytes - before) / seconds / 1000)
                if where == "120x40":
                    busy.append((terminal.screen_thread_s - used) / seconds)
                rate = _tokens_per_s(model)
                at = terminal.shown.curves_at
                pauses += [later - earlier for earlier, later in itertools.pairwise(at)]
                if where == "120x40":
                    keys = (terminal.answer(key) for key in KEYS * 6)
                    answers += [found for found in keys if found is not None]
                ages += _ages(seen, model)
                terminal.close()
                _say(name=where, kB_per_s=round(traffic[where][-1], 2), tokens_per_s=round(rate), round=number + 1)
            rates.setdefault(where, []).append(rate)
    cost = 1 - statistics.median(d / h for d, h in zip(rates["120x40"], rates["headless"], strict=True))
    p95 = _p95(answers)
    middle = statistics.median(answers)
    _say(name="keys", count=len(answers), p50_ms=round(1000 * middle, 1), p95_ms=round(1000 * p95, 1))
    return {
        "ui: key to screen, p95, training (must 50 ms)": f"{1000 * p95:.0f} ms",
        "ui: cost at 120x40 in tokens/s (must 3 %)": f"{100 * cost:.1f} %",
        "ui: its thread at 120x40, of one core": f"{100 * statistics.median(busy):.1f} %",
        "ui: traffic at 120x40 (must 6 kB/s)": f"{statistics.median(traffic['120x40']):.1f} kB/s",
        "ui: traffic at 200x60 (must 12 kB/s)": f"{statistics.median(traffic['200x60']):.1f} kB/s",
        "ui: age of the shown step, p95 (must 1 s)": f"{_p95(ages):.2f} s",
        "ui: pause between new curves, p95 (must 5 s)": f"{_p95(pauses):.1f} s",
    }


def _p95(values: list[float]) -> float:
    """Of a hundred values, that below which 95 lie; 0 of none."""
    return sorted(values)[min(int(0.95 * len(values)), len(values) - 1)] if values else 0.0


def _metrics(model: Path) -> list[dict[str, Any]]:
    journal = model.parent / f"{model.name}.run" / "metrics.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    return [row for line in lines if "perf/tokens_per_s" in (row := json.loads(line))]


def _until_steady(model: Path, wait: Callable[[float], object]) -> None:
    """Until it has trained for some steps, however long its start takes on this machine."""
    end = time.monotonic() + STARTS_WITHIN_S
    while len(_metrics(model)) < STEADY_AFTER:
        if time.monotonic() > end:
            raise SystemExit(f"{model.name} has not begun to train in {STARTS_WITHIN_S:.0f} s")
        wait(0.2)


def _ages(seen: list[tuple[float, int]], model: Path) -> list[float]:
    """How long the step after the shown one had been done when it was looked at; by the journal, between its lines."""
    rows = _metrics(model)
    times = [datetime.fromisoformat(row["time"]).timestamp() for row in rows]
    steps = [row["step"] for row in rows]
    ages = []
    for at, shown in seen:
        after = next((i for i, step in enumerate(steps) if step > shown), None)
        if after:
            share = (shown + 1 - steps[after - 1]) / (steps[after] - steps[after - 1])
            ages.append(max(at - times[after - 1] - share * (times[after] - times[after - 1]), 0.0))
    return ages


def _slow_line(folder: Path) -> dict[str, str]:
    """A line of 64 kbit/s that stalls while training goes on: how soon afterwards the present step is shown."""
    found = []
    for where, size in (("120x40", (120, 40)), ("200x60", (200, 60))):
        model = folder / f"slow{where}"
        words = ["--training-plan", "demo", "--model", str(model)]
        terminal = Terminal([_program("lmplay-tui"), *words], folder, *size)
        _until_steady(model, terminal.drain)
        terminal.crawl(5.0)
        time.sleep(STALL_S)
        present, begun, before = _metrics(model)[-1]["step"], time.perf_counter(), terminal.bytes
        while terminal.shown.step < present and time.perf_counter() - begun < 30:
            terminal.crawl(0.05)
        found.append(time.perf_counter() - begun)
        _say(name="slow line", size=where, seconds=round(found[-1], 2), bytes=terminal.bytes - before)
        terminal.close()
    return {"ui: 64 kbit/s, stalled for 30 s: the present step after (must 2 s)": f"{found[0]:.1f} / {found[1]:.1f} s"}


def _many_points() -> dict[str, str]:
    """In a process of its own, so that its memory is its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.many_points"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit("tests.bench.many_points has failed")
    rows: dict[str, str] = {}
    for line in done.stdout.splitlines():
        figures = json.loads(line)
        _say(**figures)
        if figures["name"] == "refresh":
            title = f"ui: refresh of all panes at {figures['size']}, 1,000,000 points (must 25 ms)"
            rows[title] = f"{figures['all_panes_ms']:.0f} ms, every cell {figures['every_cell_ms']:.0f} ms"
        else:
            rows["ui: memory after 0.1 / 0.5 / 1 million steps (must be flat)"] = (
                " / ".join(f"{megabytes:.0f}" for megabytes in figures["rss_mb"]) + " MB"
            )
    return rows


def _headless(words: list[str], model: Path, folder: Path, seconds: float) -> float:
    with subprocess.Popen([_program("lmp_trainer"), *words], cwd=folder, stdout=subprocess.DEVNULL) as trainer:
        try:
            _until_steady(model, time.sleep)
            time.sleep(seconds)
            rate = _tokens_per_s(model)
        finally:
            trainer.send_signal(signal.SIGTERM)
    _say(name="headless", tokens_per_s=round(rate))
    return rate


def _tokens_per_s(model: Path) -> float:
    """By the run's own journal, without its first seconds."""
    steps = _metrics(model)
    steady = steps[STEADY_AFTER - 1 :]
    if len(steady) < 2:
        raise SystemExit(f"{model.name}: too few steps to measure by; give it more --seconds")
    first, last = steady[0], steady[-1]
    return float((last["tokens"] - first["tokens"]) / (last["elapsed_s"] - first["elapsed_s"]))
