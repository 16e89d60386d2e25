"""What is tried on a GPU, part by part: each gives rows of the table, and raises where the GPU does not do it."""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmplay_tui.options import Launch
from tests.bench.settings import SETTINGS, plan_text
from tests.gpu.ranks import ranks
from tests.gpu.start import start

Rows = dict[str, str]


@dataclass(frozen=True)
class Asked:
    """`device`: what `--device` would name. `tiny`: seconds on a processor, to try the parts themselves.

    `nproc`: the processes of the parts that want several.
    """

    device: str
    tiny: bool
    nproc: int = 1

    @property
    def setting(self) -> str:
        return "tiny" if self.tiny else "S"


def _trained(asked: Asked, folder: Path, steps: int, **options: Any) -> list[float]:
    """Train by the trainer's own path until `steps`, save and stop; the losses by step. Goes on where it has stopped.

    Raises `AssertionError` where anything is said to have failed.
    """
    from lmplay_tui.options import Launch
    from lmplay_tui.run.controls import Controls, Stop
    from lmplay_tui.run.events import CheckpointSaved, RunFailed, StepDone, Warned
    from lmplay_tui.train.launch import run_events

    plan = folder / "gpu.toml"
    plan.write_text(plan_text(SETTINGS[asked.setting], "pydocs"), encoding="utf-8")
    given = {"training_plan": str(plan), "model": str(folder / "gpu.lmp"), "out_dir": str(folder)}
    controls, losses, problems, saves = Controls(), [], [], 0
    for event in run_events(Launch(given | {"device": asked.device} | options), controls):
        match event:
            case StepDone():
                losses.append(event.loss)
                if event.step >= steps:
                    controls.send(Stop())
            case CheckpointSaved():
                saves += 1
            case Warned() | RunFailed():
                problems.append(event.message)
    assert not problems, problems
    assert saves, "no checkpoint was written"
    assert all(math.isfinite(loss) for loss in losses), losses
    return losses


def check(asked: Asked) -> Rows:
    """The pre-flight, which trains, validates and saves as a run does."""
    from lmplay_tui.train.check import check_plan

    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder, "gpu.toml")
        plan.write_text(plan_text(SETTINGS[asked.setting], "pydocs"), encoding="utf-8")
        report = check_plan(Launch({"training_plan": str(plan), "device": asked.device, "out_dir": folder}))
    assert report["ok"], [report["problems"], report["tried"]]
    return {"check": f"ok on {report['device']}"}


def attention(asked: Asked) -> Rows:
    """The kernel for packed samples against plain attention, with its gradients."""
    import torch

    from lmplay_tui.models.packed_attention import is_right
    from lmplay_tui.train.device import choose_device

    device = choose_device(asked.device)
    formats = (torch.float32,) if device.type == "cpu" else (torch.bfloat16, torch.float16)
    rows = {}
    for dtype in formats:
        for width in (32, 64, 128):
            assert is_right(device, dtype, width), f"{dtype}, heads {width} wide: other numbers than plain attention"
        rows[f"packed attention in {str(dtype).removeprefix('torch.')}"] = "as plain attention, heads 32 to 128 wide"
    return rows


def modes(asked: Asked) -> Rows:
    """Each number format and each way to compile: trains, saves, and its loss falls."""
    ways: dict[str, dict[str, Any]] = {"float32": {}, "--amp": {"amp": True}}
    ways["--amp-dtype float16"] = {"amp": True, "amp_dtype": "float16"}
    if asked.tiny:
        ways["--compile-model"] = {"compile_model": True, "compile_backend": "eager"}
    else:
        ways["--compile-model"] = {"amp": True, "compile_model": True}
        ways["reduce-overhead"] = {"amp": True, "compile_model": True, "compile_mode": "reduce-overhead"}
    rows, problems = {}, []
    for name, options in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                losses = _trained(asked, Path(folder), 6 if asked.tiny else 30, **options)
            except (AssertionError, RuntimeError) as error:
                problems.append(f"{name}: {error}")
                continue
        if not asked.tiny and losses[-1] >= losses[0]:
            problems.append(f"{name}: the loss has not fallen: {losses}")
        rows[f"{name}: loss of the first, last step"] = f"{losses[0]:.3f}, {losses[-1]:.3f}"
    assert not problems, problems
    return rows


def resume(asked: Asked) -> Rows:
    """The losses after a stop and a resume are as near to another run's as two runs are to each other."""
    steps = 8 if asked.tiny else 30
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder, name) for name in ("one", "other", "stopped")]
        for place in places:
            place.mkdir()
        one, other = (_trained(asked, place, steps) for place in places[:2])
        stopped = _trained(asked, places[2], steps // 2)
        resumed = _trained(asked, places[2], steps)
    assert len(stopped) + len(resumed) == len(one), "steps were repeated or left out"
    band = max(abs(a - b) for a, b in zip(one, other, strict=True))
    off = max(abs(a - b) for a, b in zip(one, stopped + resumed, strict=True))
    assert off <= max(3 * band, 1e-4), f"off by {off:.2g}; two runs differ by {band:.2g}"
    return {"resume: largest difference of a loss, of two runs / after a resume": f"{band:.1e} / {off:.1e}"}


def speed(asked: Asked) -> Rows:
    """The trainer beside a compiled plain loop, in turn, on the same texts cut to the same length."""
    name = "tiny" if asked.tiny else "GPT-2"
    setting = SETTINGS[name]
    with tempfile.TemporaryDirectory() as folder:
        data, tokens = _same_batches(Path(folder), setting.context_len)
        how = {
            "setting": name, "amp": not asked.tiny, "compile_model": not asked.tiny, "device": asked.device,
            "seconds": 1.0 if asked.tiny else 20.0, "data": data, "tokens": tokens, "plain": asked.tiny,
        }  # fmt: skip
        found: dict[str, list[dict[str, Any]]] = {"trainer": [], "ceiling": []}
        for _ in range(1 if asked.tiny else 2):
            for who, lines in found.items():
                lines.append(_contender(who, how))
    ours, plain = (max(lines, key=lambda line: line["tokens_per_s"]) for lines in found.values())
    ratio = ours["tokens_per_s"] / plain["tokens_per_s"]
    rows = {
        f"{name}: tokens/s, ours / compiled plain loop": f"{ours['tokens_per_s']:,.0f} / {plain['tokens_per_s']:,.0f}",
        f"{name}: ratio (must 0.95)": f"{ratio:.3f}",
        f"{name}: MFU, ours / plain": f"{ours['mfu']} / {plain['mfu']}",
        f"{name}: peak of the device's memory, ours / plain": f"{ours['device_mb']} / {plain['device_mb']} MB",
    }
    if not asked.tiny:
        print(json.dumps(rows), flush=True)  # also where the ratio is too low
        assert ratio >= 0.95, rows
    return rows


def _contender(who: str, how: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.contender", who, json.dumps(how)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return line


def _same_batches(folder: Path, context_len: int) -> tuple[str, str]:
    """Rows of more tokens than the context, and the tokens that are read of each, one row behind the other."""
    import numpy as np

    from lmplay_tui.data.tokenizer import load_tokenizer
    from tests.bench.texts import texts_of

    tokenizer = load_tokenizer("gpt2")
    ids: list[int] = []
    for text in texts_of("pydocs"):
        ids += tokenizer.encode(text)
        if len(ids) > 400 * (context_len + 200):
            break
    pieces = [ids[at : at + context_len + 200] for at in range(0, len(ids) - context_len - 200, context_len + 200)]
    path = folder / "data" / "train.jsonl"
    path.parent.mkdir()
    rows = [json.dumps({"text": tokenizer.decode(piece)}) for piece in pieces]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    np.save(folder / "tokens.npy", np.array([piece[: context_len + 1] for piece in pieces], dtype=np.int32).ravel())
    return str(path), str(folder / "tokens.npy")


def dashboard(asked: Asked) -> Rows:
    """What the dashboard costs a training on this device (must 1 %), in a real terminal."""
    if asked.tiny:
        return {"dashboard": "not with --tiny: python -m tests.bench ui measures it on a processor"}
    command = [sys.executable, "-m", "tests.bench", "ui", "--seconds", "10"]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = [line.partition("  ") for line in output.splitlines() if "tokens/s" in line and "  " in line]
    assert lines, output
    return {f"dashboard: {name}": value.strip() for name, _, value in lines}


# With the seconds that each may take: eight minutes together.
PARTS: dict[str, tuple[Callable[[Asked], Rows], int]] = {
    "check": (check, 40), "attention": (attention, 30), "resume": (resume, 60), "speed": (speed, 170),
    "modes": (modes, 120), "dashboard": (dashboard, 60),
}  # fmt: skip
TOGETHER = {"start": (start, 60), "ranks": (ranks, 400)}  # of several GPUs: run with `--nproc` alone
