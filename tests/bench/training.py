"""`train`: the real trainer's speed, alone or beside the tightest plain loop, interleaved."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.settings import TOKENIZER

CEILING_TOKENS = 1 << 20


def run(arguments: Any) -> dict[str, str]:
    """Print a JSON line for each contender and round, the ratios last; gives rows of the table."""
    asked = {
        "setting": arguments.setting, "amp": arguments.amp, "compile_model": arguments.compile_model,
        "seconds": arguments.seconds, "data": arguments.data,
    }  # fmt: skip
    lines: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        names = ["trainer"]
        if arguments.against:
            asked["tokens"] = str(_packed_tokens(asked["data"], Path(folder)))
            names.append("ceiling")
        for number in range(arguments.rounds if arguments.against else 1):
            for name in names:
                figures = in_process(name, asked)
                print(json.dumps(figures | {"round": number + 1}), flush=True)
                lines.setdefault(name, []).append(figures)
    what = f"train {arguments.setting}{' --amp' if arguments.amp else ''}"
    what += " --compile-model" if arguments.compile_model else ""
    rows = {f"{what}: tokens/s": f"{_median(lines['trainer'], 'tokens_per_s'):,.0f}"}
    if arguments.against:
        ratios = _ratios(lines)
        print(json.dumps(ratios), flush=True)
        rows[f"{what}: share of the ceiling"] = f"{ratios['tokens_per_s']:.2f}"
    return rows


def in_process(name: str, asked: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.contender", name, json.dumps(asked)],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the contender {name} has failed")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _median(lines: list[dict[str, Any]], key: str) -> float:
    return statistics.median(float(figures[key] or 0.0) for figures in lines)


def _ratios(lines: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The trainer's medians over the ceiling's."""
    keys = ("tokens_per_s", "tokens_per_cpu_s", "peak_rss_mb", "mfu")
    return {"ratio": "lmplay-tui / ceiling"} | {
        key: round(_median(lines["trainer"], key) / _median(lines["ceiling"], key), 3) for key in keys
    }


def _packed_tokens(data: str, folder: Path) -> Path:
    """The texts one after the other, as token numbers in a file."""
    from lmplay_tui.data.tokenizer import load_tokenizer
    from tests.bench.texts import texts_of

    tokenizer = load_tokenizer(TOKENIZER)
    ids: list[int] = []
    for text in texts_of(data):
        ids += [*tokenizer.encode(text), tokenizer.eot]
        if len(ids) >= CEILING_TOKENS:
            break
    path = folder / "tokens.npy"
    np.save(path, np.array(ids, dtype=np.int32))
    return path
