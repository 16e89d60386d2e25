"""What several GPUs shall show together (`--nproc N`): the run of one, faster, and a model in parts in less memory."""

import json
import math
import signal
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lmplay_tui.process import own_command, own_environment
from tests.bench.settings import SETTINGS, plan_text

if TYPE_CHECKING:
    from tests.gpu.parts import Asked, Rows

APART = 0.02  # of a loss: two kinds of sums, in TF32
WORTH_IT = 0.9  # of N times one's tokens a second


def ranks(asked: "Asked") -> "Rows":
    """The same losses by one process, by N, and by N with the model in parts; saved, and ended by SIGTERM with 0."""
    steps = 8 if asked.tiny else 60
    ways = {"one": (), "all": ("--nproc", str(asked.nproc)), "parts": ("--nproc", str(asked.nproc), "--shard", "full")}
    rows, found = {}, {}
    for name, words in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = _Run(asked, Path(folder), steps, *words)
        rows[f"{name}: tokens/s, largest memory of a rank"] = (
            f"{found[name].tokens_per_s:,.0f}, {found[name].memory_mb:,.0f} MB"
        )
    for name in ("all", "parts"):
        off = max(abs(a - b) / b for a, b in zip(found[name].losses, found["one"].losses, strict=False))
        rows[f"{name}: a loss differs from one process's by at most"] = f"{100 * off:.2g} %"
        assert off <= APART, rows
    share = found["all"].tokens_per_s / (asked.nproc * found["one"].tokens_per_s)
    rows[f"tokens/s of {asked.nproc}, of {asked.nproc} times one's (must {WORTH_IT})"] = f"{share:.2f}"
    if not asked.tiny:
        print(json.dumps(rows), flush=True)  # also where the ratio is too low
        assert share >= WORTH_IT, rows
    return rows


class _Run:
    """A run by the command itself, ended by SIGTERM behind so many steps. Raises `AssertionError` where it is not 0."""

    def __init__(self, asked: "Asked", folder: Path, steps: int, *words: str) -> None:
        plan = folder / "gpu.toml"
        text = plan_text(SETTINGS[asked.setting], "pydocs").replace("[train]\n", "[train]\nlog_interval = 1\n")
        plan.write_text(text, encoding="utf-8")
        command = [
            *own_command("lmplay_tui.cli"), "--headless", "--json", "--training-plan", str(plan), "--device",
            asked.device, "--model", str(folder / "gpu.lmp"), "--out-dir", str(folder), "--log-interval", "1", *words,
        ]  # fmt: skip
        started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own_environment())
        self.losses: list[float] = []
        rates: list[float] = []
        memory: list[float] = []
        saved = False
        assert started.stdout is not None
        for line in started.stdout:
            said = json.loads(line)
            saved = saved or said.get("event") == "CheckpointSaved"
            if "train/loss" not in said:
                continue
            self.losses.append(said["train/loss"])
            rates.append(said["perf/tokens_per_s"])
            memory += [rank.get("memory_bytes") or 0.0 for rank in _ranks(folder / "gpu.run")]
            if said["step"] == steps:
                started.send_signal(signal.SIGTERM)
        assert started.wait() == 0, f"{words}: ended with {started.returncode}"
        assert saved, f"{words}: no checkpoint was written"
        assert all(map(math.isfinite, self.losses)), self.losses
        self.tokens_per_s = statistics.median(rates[len(rates) // 2 :])
        self.memory_mb = max(memory, default=0.0) / 2**20


def _ranks(run: Path) -> list[dict[str, float]]:
    path = run / "ranks.json"
    found: list[dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))["ranks"] if path.exists() else []
    return found
