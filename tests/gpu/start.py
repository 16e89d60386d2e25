"""What several GPUs take while a model in parts is built: no one of them ever holds all of it.

`python -m tests.gpu.start WORDS`, started by torchrun, is one of the processes: `lmp_trainer WORDS`, stopped before its
first step.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lmplay_tui.process import leave, own_environment, prepare

if TYPE_CHECKING:
    from tests.gpu.parts import Asked, Rows

MOST = 0.75  # of the whole model, on a GPU; of two, each keeps half and sees one block of 24 whole
SHAPE = {"num_blocks": 24, "embed_dim": 512, "num_heads": 8}  # 300 MB, nearly all of it in blocks


def start(asked: "Asked") -> "Rows":
    """The most memory that a rank's GPU gave before the first step, of what the whole model takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = "".join(f"{key} = {value}\n" for key, value in SHAPE.items())
        (folder / "plan.toml").write_text(
            f'[train]\n{settings}tokenizer = "bytes"\ncontext_len = 64\n[stages.one]\ndataset = "rows.jsonl"\n', "utf-8"
        )
        row = json.dumps({"text": "The mill stood by the river. " * 2}) + "\n"
        (folder / "rows.jsonl").write_text(row * 200, encoding="utf-8")
        done = subprocess.run(
            [
                sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(asked.nproc),
                "-m", "tests.gpu.start", "--training-plan", str(folder / "plan.toml"), "--model",
                str(folder / "m.lmp"), "--out-dir", str(folder), "--device", asked.device, "--shard", "full",
            ],
            capture_output=True, text=True, check=False, env=own_environment(),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(told) == asked.nproc, done.stdout
    whole = max(each["whole"] for each in told)
    rows = {f"start in parts: most of {asked.nproc} ranks, of the whole model": "not counted on a processor"}
    if asked.device != "cpu":
        share = max(each["peak"] for each in told) / whole
        rows = dict.fromkeys(rows, f"{share:.2f} of {whole / 2**20:,.0f} MB (must {MOST})")
        assert share <= MOST, rows
    return rows


def _one(words: list[str]) -> int:
    import torch

    from lmplay_tui.commands.train import parse
    from lmplay_tui.run.controls import Controls, Stop
    from lmplay_tui.run.events import RunStarted
    from lmplay_tui.train.follower import follow
    from lmplay_tui.train.launch import exit_status, run_events
    from lmplay_tui.train.process_group import ProcessGroup

    launch = parse(words, "lmp_trainer", "", "")
    group = ProcessGroup.of_environment(launch.options.device)
    assert group is not None
    whole = 0
    if group.rank:
        status = follow(group)
    else:
        controls = Controls()
        for event in run_events(launch, controls, group=group):
            if isinstance(event, RunStarted):
                whole = 4 * event.num_parameters
                controls.send(Stop())
        status = exit_status(event)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    line = json.dumps({"rank": group.rank, "peak": peak, "whole": whole}) + "\n"
    os.write(1, line.encode())  # at once: the others write there, too
    group.close()
    return status


if __name__ == "__main__":
    from lmplay_tui.train.process_group import place_of, settle

    prepare()
    own = place_of(os.environ)
    assert own is not None
    settle(own)
    leave(_one(sys.argv[1:]))
