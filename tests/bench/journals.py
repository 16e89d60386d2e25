"""`journal`: what it costs a dashboard to open a run that has trained for a million steps."""

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

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
    return json.dumps(values, separators=(",", ":"))


def run(arguments: Any) -> dict[str, str]:
    """Until an attached dashboard has read all of it, and the longest that one of its looks keeps it."""
    from lmplay_tui.run.folder import RunFolder
    from lmplay_tui.ui.source import FolderSource

    with tempfile.TemporaryDirectory() as folder:
        found = RunFolder(Path(folder, "long.lmp"))
        found.create()
        lines = (_line(step) for step in range(LOG_INTERVAL, STEPS + 1, LOG_INTERVAL))
        found.metrics.write_text("\n".join(lines) + "\n", encoding="utf-8")
        source, looks = FolderSource(found), []
        begun_cpu = time.process_time()
        while True:
            begun = time.perf_counter()
            if not source.poll():
                break
            looks.append(time.perf_counter() - begun)
        cpu = time.process_time() - begun_cpu
        assert source.view.at.step == STEPS
    return {
        "journal of 1,000,000 steps: read whole": f"{sum(looks):.2f} s ({cpu:.2f} s of processor time)",
        "journal: longest look": f"{1000 * max(looks):.0f} ms, {len(looks)} looks",
    }
