"""`journal`: what it costs a dashboard to open a run that has trained for a million steps."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lmplay_tui import process
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.journal import rounded

STEPS, LOG_INTERVAL = 1_000_000, 10


def _line(step: int) -> str:
    """A line as the trainer writes it, of the usual length."""
    ripple = math.sin(step)
    values: dict[str, Any] = {
        "time": "2026-11-25T02:03:31.123Z", "elapsed_s": 0.1 * step, "step": step, "samples": 50 * step,
        "stage_samples": 50 * step, "tokens": 20000 * step, "stage": "pretraining", "epoch": step / STEPS,
        "row": 50 * step, "train/loss": 4 + ripple, "train/lr": 6e-4, "train/accuracy": 0.3 + ripple / 10,
        "train/grad_norm": 0.8 + ripple / 10, "perf/tokens_per_s": 20000 + ripple, "perf/samples_per_s": 50 + ripple,
        "perf/mfu": 0.3 + ripple / 100, "data/text_shown": 0.97, "time/data_s": 1e-4, "time/forward_s": 0.0312,
        "time/backward_s": 0.0612, "time/optimizer_s": 0.0051, "time/step_s": 0.1012, "sys/cpu": 99.1,
        "sys/ram": 12.3, "memory/rss": 123456789,
    }  # fmt: skip
    return json.dumps({name: rounded(value) for name, value in values.items()}, separators=(",", ":"))


def _write(path: Path, interval: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_line(step) + "\n" for step in range(interval, STEPS + 1, interval))
        file.flush()
        os.fsync(file.fileno())  # else the disk takes it while it is read


def _open(found: RunFolder) -> tuple[float, list[float], float]:
    """How long an attached dashboard takes to read all, what each look takes, and the processor's time of all."""
    from lmplay_tui.ui.source import FolderSource

    looks: list[float] = []
    source = FolderSource(found)
    begun_all, begun_cpu = time.perf_counter(), time.process_time()
    while not looks or source.behind:
        begun = time.perf_counter()
        source.poll()
        looks.append(time.perf_counter() - begun)
        if source.behind:
            time.sleep(0.001)  # as a dashboard does, for keys
    assert source.view.at.step == STEPS
    return time.perf_counter() - begun_all, looks, time.process_time() - begun_cpu


def _opened(folder: Path, interval: int, times: int) -> dict[str, str]:
    """Each time in a process of its own: what is imported on the way belongs to it."""
    found = RunFolder(folder / f"every-{interval}.lmp")
    found.create()
    _write(found.metrics, interval)
    size = found.metrics.stat().st_size
    command = [sys.executable, "-m", __name__, str(found.model)]
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(times)]
    found.metrics.unlink()
    wall, looks, cpu = sorted(json.loads(output) for output in outputs)[times // 2]
    name = f"journal of {STEPS:,} steps, a line each {interval} ({size / 1e6:.0f} MB)"
    return {
        f"{name}: read whole": f"{wall:.2f} s ({cpu:.2f} s of processor time)",
        f"{name}: first, longest look": f"{1000 * looks[0]:.0f}, {1000 * max(looks):.0f} ms of {len(looks)}",
    }


def run(arguments: Any) -> dict[str, str]:
    """As the default --log-interval writes it, the median of five, and with a line for each step."""
    with tempfile.TemporaryDirectory() as folder:
        return _opened(Path(folder), LOG_INTERVAL, times=5) | _opened(Path(folder), 1, times=1)


if __name__ == "__main__":
    process.prepare()  # as the commands do
    print(json.dumps(_open(RunFolder(Path(sys.argv[1])))))
