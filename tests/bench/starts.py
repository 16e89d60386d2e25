"""`starts`: how long it takes until something is there: first frames, `status`, the first step of a training.

A frame is there when the footer's last word has come.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.terminal import Terminal

ROUNDS = 7  # after one that fills the file cache
FOOTER = b"quit"
WHOLE = b"time here"  # the title of a column that the launcher draws once it has read the plans

# Small, so that its first step is the end of its start.
PLAN = """\
[train]
num_blocks = 1
embed_dim = 16
num_heads = 2
context_len = 64
tokenizer = "bytes"
batch_size = 4
log_interval = 1
[stages.stories]
dataset = "stories.jsonl"
"""


def run(_arguments: Any) -> dict[str, str]:
    """A JSON line for each figure; rows of the table, with what they must be."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = [{"text": f"The mill number {number} stood by the river."} for number in range(40)]
        (folder / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / "small.toml").write_text(PLAN, encoding="utf-8")
        training = ["--training-plan", "demo", "--model", "first"]
        kinds: dict[str, Callable[[], float]] = {
            "first step of a training, headless": lambda: _first_step(folder),
            "status of a run (must 0.2 s)": lambda: _status(folder),  # of the run that the line before has left
            "first frame of the launcher (must 0.6 s)": lambda: _frame(folder, [], FOOTER),
            "the launcher with all its plans read": lambda: _frame(folder, [], WHOLE),
            "first frame of a dashboard that trains (must 0.5 s)": lambda: _frame(folder, training, FOOTER),
        }
        found: dict[str, list[float]] = {name: [] for name in kinds}
        for number in range(ROUNDS + 1):
            for name, measure in kinds.items():
                found[name].append(measure())
                print(json.dumps({"name": name, "seconds": round(found[name][-1], 3), "round": number}), flush=True)
    return {f"start: {name}": f"{statistics.median(seconds[1:]):.2f} s" for name, seconds in found.items()}


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _frame(folder: Path, words: list[str], last: bytes) -> float:
    terminal = Terminal([_program("lmplay-tui"), *words], folder, 120, 40)
    seconds = terminal.until(last, 60)
    terminal.close()
    return seconds


def _status(folder: Path) -> float:
    begun = time.perf_counter()
    subprocess.run([_program("lmplay-tui"), "status", "small"], cwd=folder, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def _first_step(folder: Path) -> float:
    words = ["--training-plan", "small.toml", "--model", "small", "--reset-history", "--device", "cpu", "--json"]
    begun = time.perf_counter()
    with subprocess.Popen([_program("lmp_trainer"), *words], cwd=folder, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        seconds = next(time.perf_counter() - begun for line in trainer.stdout if '"train/loss"' in line)
        trainer.stdout.read()
    return seconds
