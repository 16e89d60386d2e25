"""What several GPUs shall show together (`--nproc N`): the run of one, faster, and a model in parts in less memory."""

import json
import math
import os
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lmplay_tui.process import own_command, own_environment
from tests.bench.settings import SETTINGS, plan_text

if TYPE_CHECKING:
    from tests.gpu.parts import Asked, Rows

APART = 0.02  # of a loss: two kinds of sums, in TF32
WORTH_IT = 0.9  # of N times one's tokens a second
AGAIN_WITHIN_S = 120.0  # all train again, where one was killed: it is seen, what is finished is saved, torch starts


def ranks(asked: "Asked") -> "Rows":
    """The same losses by one process, by N, and by N with the model in parts; saved, and ended by SIGTERM with 0.

    And a rank that is killed inside of a run: what was finished is saved, and all train again.
    """
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
    with tempfile.TemporaryDirectory() as folder:
        lost = _Run(asked, Path(folder), steps, *ways["all"], kills=True)
    rows["a rank killed by SIGKILL: s until the next step, steps trained again"] = (
        f"{lost.until_next_s:.1f}, {lost.again}"
    )
    assert lost.until_next_s <= AGAIN_WITHIN_S and lost.again <= 1, rows
    share = found["all"].tokens_per_s / (asked.nproc * found["one"].tokens_per_s)
    rows[f"tokens/s of {asked.nproc}, of {asked.nproc} times one's (must {WORTH_IT})"] = f"{share:.2f}"
    if not asked.tiny:
        print(json.dumps(rows), flush=True)  # also where the ratio is too low
        assert share >= WORTH_IT, rows
    return rows


class _Run:
    """A run by the command itself, ended by SIGTERM behind so many steps. Raises `AssertionError` where it is not 0.

    `kills`: the last rank is killed behind them; a step behind the restart it is ended then. `until_next_s`: from one
    to the other; `again`: steps that were trained twice by then.
    """

    def __init__(self, asked: "Asked", folder: Path, steps: int, *words: str, kills: bool = False) -> None:
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
        self.until_next_s, self.again = math.inf, 0
        killed_at, before, has_restarted, is_over = math.inf, 0, False, False
        assert started.stdout is not None
        for line in started.stdout:
            said = json.loads(line)
            saved = saved or said.get("event") == "CheckpointSaved"
            has_restarted = has_restarted or (said.get("event") == "RunStarted" and killed_at < math.inf)
            if "train/loss" not in said:
                continue
            self.losses.append(said["train/loss"])
            rates.append(said["perf/tokens_per_s"])
            if has_restarted and self.until_next_s == math.inf:
                self.until_next_s, self.again = time.monotonic() - killed_at, before + 1 - said["step"]
            known = _ranks(folder / "gpu.run")
            if kills and said["step"] >= steps and killed_at == math.inf and known:  # each second or so they are told
                os.kill(int(known[-1]["pid"]), signal.SIGKILL)
                killed_at = time.monotonic()
            before = said["step"]
            memory += [rank.get("memory_bytes") or 0.0 for rank in known]
            if said["step"] >= steps and not is_over and (not kills or self.until_next_s < math.inf):
                is_over = True
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
