"""`shard`: the most memory that a rank takes of a model in parts, and how fast it trains, against the whole model.

The commands themselves are started. A process's memory is what the system has counted for it at the most, less that of
a run whose model is next to nothing.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lmplay_tui.process import own_command, own_environment

STEPS = 6
SHAPE = {"num_blocks": 24, "embed_dim": 512, "num_heads": 8}  # 75 million parameters, nearly all of them in blocks
NOTHING = {"num_blocks": 1, "embed_dim": 16, "num_heads": 1}


def run(_: Any) -> dict[str, str]:
    """Needs Linux: `/proc` says what a process has taken at the most."""
    if sys.platform != "linux":
        return {"shard": "needs Linux"}
    base, _rate = _peaks(NOTHING)
    base_of_ranks, _rate = _peaks(NOTHING, "--nproc", "2", "--shard", "full")
    whole, rate = _peaks(SHAPE)
    parts, rate_in_parts = _peaks(SHAPE, "--nproc", "2", "--shard", "full")
    ratio = (max(parts) - min(base_of_ranks)) / (max(whole) - min(base))
    return {
        "shard: peak of one process / of each of two in parts, MB": f"{max(whole):.0f} / {max(parts):.0f}",
        "shard: of that without any model, MB": f"{min(base):.0f} / {min(base_of_ranks):.0f}",
        "shard: a rank's model in parts, of the whole (must 0.6)": f"{ratio:.2f}",
        "shard: tokens/s of one process / of two in parts": f"{rate:,.0f} / {rate_in_parts:,.0f}",
    }


def _peaks(shape: dict[str, int], *words: str) -> tuple[list[float], float]:
    """Megabytes that each of a run's processes has taken at the most, and its median tokens a second."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = "".join(f"{key} = {value}\n" for key, value in shape.items())
        plan = folder / "plan.toml"
        plan.write_text(
            f'[train]\n{settings}tokenizer = "bytes"\ncontext_len = 64\nbatch_size = 4\nmini_batch_size = 2\n'
            "validation_interval = 100000\neval_interval = 100000\nlog_interval = 2\neval_samples = 1\n"
            '[stages.one]\ndataset = "rows.jsonl"\n',
            encoding="utf-8",
        )
        row = json.dumps({"text": "The mill stood by the river. " * 2}) + "\n"
        (folder / "rows.jsonl").write_text(row * (STEPS * 4 + 10), encoding="utf-8")
        started = subprocess.Popen(
            [*own_command("lmplay_tui.cli"), "--headless", "--json", "--training-plan", str(plan), "--model",
             str(folder / "m.lmp"), "--out-dir", str(folder), "--device", "cpu", *words],
            stdout=subprocess.PIPE, text=True, env=own_environment() | {"OMP_NUM_THREADS": "1"}, cwd=folder,
        )  # fmt: skip
        peaks: dict[int, float] = {}
        rates: list[float] = []
        assert started.stdout is not None
        for line in started.stdout:
            said = json.loads(line)
            if "perf/tokens_per_s" in said:
                rates.append(said["perf/tokens_per_s"])
                for pid in _trainers(started.pid, folder / "m.run"):
                    peaks[pid] = max(peaks.get(pid, 0.0), _peak_mb(pid))
        if started.wait():
            raise RuntimeError(f"the run ended with {started.returncode}")
    return list(peaks.values()), sorted(rates)[len(rates) // 2]


def _trainers(pid: int, run: Path) -> list[int]:
    """The processes that hold the model: this one, or those of its ranks."""
    ranks = run / "ranks.json"
    if not ranks.exists():
        return [pid]
    return [rank["pid"] for rank in json.loads(ranks.read_text(encoding="utf-8"))["ranks"] if rank.get("pid")]


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
