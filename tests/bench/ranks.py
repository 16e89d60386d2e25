"""`ranks`: two processes with a thread each against one with two threads, the real trainer, interleaved."""

import json
import os
import socket
import statistics
import subprocess
import sys
from typing import Any

ALONE, TOGETHER = "1 process x 2 threads", "2 processes x 1 thread"


def run(arguments: Any) -> dict[str, str]:
    """Print a JSON line for each contender and round; gives rows of the table."""
    rows: dict[str, str] = {}
    for setting in ("S", "M"):
        asked = {"setting": setting, "seconds": arguments.seconds, "data": arguments.data, "device": "cpu"}
        asked |= {"amp": False, "compile_model": False}
        lines: dict[str, list[dict[str, Any]]] = {ALONE: [], TOGETHER: []}
        for number in range(arguments.rounds):
            for name, count in ((ALONE, 1), (TOGETHER, 2)):
                figures = _contender(asked, count)
                print(json.dumps(figures | {"name": name, "round": number + 1}), flush=True)
                lines[name].append(figures)
        for what, key in (("tokens/s", "tokens_per_s"), ("tokens a processor second", "tokens_per_cpu_s")):
            ratio = statistics.median(
                float(together[key]) / float(alone[key])
                for alone, together in zip(lines[ALONE], lines[TOGETHER], strict=True)
            )
            rows[f"ranks {setting}: {what}, {TOGETHER} / {ALONE}"] = f"{ratio:.2f}"
        for what, key in (("reduction and waiting", "reduce_share"), ("waiting of a rank, mean", "wait_share")):
            known = [float(figures[key]) for figures in lines[TOGETHER] if key in figures]
            said = f"{100 * statistics.median(known):.1f} %" if known else "too few steps"
            rows[f"ranks {setting}: share of a step, {what}"] = said
    return rows


def _contender(asked: dict[str, Any], count: int) -> dict[str, Any]:
    """The figures of a training by so many processes, started as torchrun starts them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if count > 1 else {}
    environment = os.environ | group | {"OMP_NUM_THREADS": str(max(2 // count, 1))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.contender", "trainer", json.dumps(asked)], stdout=subprocess.PIPE,
            text=True, env=environment | ({"RANK": str(rank)} if group else {}),
        )
        for rank in range(count)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"{count} processes: one has failed")
    figures: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    return figures
