"""All that a machine with a GPU shall show, in at most 8 minutes: `python -m tests.gpu [--out FILE]`.

`--nproc N`: what N GPUs of it show together, in at most 8.

Each part runs in a process of its own with a time of its own, so that one failure does not lose the rest. Prints a
Markdown table for docs/performance.md. Without a GPU it says so and runs nothing. Exit 1: a part has failed.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from tests.gpu.parts import PARTS, TOGETHER, Asked


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, mps; cpu tries the parts themselves")
    parser.add_argument("--tiny", action="store_true", help="the smallest model and few steps, against mistakes here")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--nproc", type=int, default=1, metavar="N", help="several GPUs, and the parts for them alone")
    parser.add_argument(
        "--part", action="append", choices=[*PARTS, *TOGETHER], help="only this one; can be given again"
    )
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # in this process, rows as JSON
    arguments = parser.parse_args()
    asked = Asked(arguments.device, arguments.tiny, arguments.nproc)
    if arguments.alone:
        from lmplay_tui import process

        process.prepare()  # as the commands do
        print(json.dumps((PARTS | TOGETHER)[arguments.part[0]][0](asked)), flush=True)
        return 0
    found = _found(arguments.device)
    if found is None:
        print(f"no {arguments.device} here: nothing was run")
        return 0
    rows, failed = {"device": found}, 0
    for name in arguments.part or (TOGETHER if asked.nproc > 1 else PARTS):
        print(f"{name} ...", file=sys.stderr, flush=True)
        begun = time.perf_counter()
        given, problem = _apart(name, asked)
        failed += problem is not None
        rows |= given if problem is None else {f"{name}: FAILED": problem}
        print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    table = "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])
    print(table)
    if arguments.out is not None:
        arguments.out.write_text(table + "\n", encoding="utf-8")
    return 1 if failed else 0


def _found(device: str) -> str | None:
    """The device and torch, in words; None where there is no such device."""
    import torch

    from lmplay_tui.errors import UserError
    from lmplay_tui.train.device import choose_device, device_name

    try:
        return f"{device_name(choose_device(device))}, torch {torch.__version__}"
    except UserError:
        return None


def _apart(name: str, asked: Asked) -> tuple[dict[str, str], str | None]:
    """A part's rows, or what it failed by."""
    command = [sys.executable, "-m", "tests.gpu", "--device", asked.device, "--part", name, "--alone"]
    command += ["--tiny"] if asked.tiny else []
    command += ["--nproc", str(asked.nproc)]
    seconds = (PARTS | TOGETHER)[name][1] * (4 if asked.device == "cpu" else 1)  # a busy processor is no failure
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {}, f"not done after {seconds} s"
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr, flush=True)
        return {}, (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:400].replace("|", "/")
    rows: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return rows, None


if __name__ == "__main__":
    sys.exit(main())
