"""Commands that look at a run, or only say something, wait for nothing that takes long to import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lmplay_tui.run.folder import RunFolder

SLOW = {"pydantic", "numpy", "torch", "datasets", "pyarrow", "tiktoken", "matplotlib"}
SCREEN = {"textual", "rich"}
PROGRAM = """
import json, sys
from lmplay_tui import cli

def run():
    try:
        return getattr(cli, sys.argv[1])(sys.argv[2:])
    except SystemExit as end:
        return end.code

status = run()
print(json.dumps({"status": status, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""


@pytest.mark.parametrize(
    ("program", "words", "status"),
    [
        ("main", ["status"], 0),
        ("main", ["status", "--json"], 0),
        ("main", ["status", "--line"], 0),
        ("main", ["runs"], 0),
        ("main", ["runs", "--json"], 0),
        ("main", ["runs", "tag", "m", "short"], 0),
        ("main", ["runs", "rename", "m", "later"], 0),
        ("main", ["runs", "remove", "m"], 2),  # no terminal to ask at
        ("main", ["status", "--watch"], 0),
        ("main", ["ctl", "save"], 2),  # no process trains it
        ("main", ["attach"], 2),  # no terminal
        ("main", ["--help"], 0),
        ("main", ["--version"], 0),
        ("main", ["--lr", "-1"], 2),
        ("main", ["sttaus"], 2),
        ("trainer_main", ["--help"], 0),
        ("trainer_main", ["--version"], 0),
        ("trainer_main", ["--batch-size", "0"], 2),
    ],
)
def test_neither_a_model_nor_a_screen_is_loaded(tmp_path: Path, program: str, words: list[str], status: int) -> None:
    run = RunFolder(tmp_path / "out_gpt" / "m.lmp")
    run.create()
    run.write_status({"name": "m", "state": "finished", "step": 12, "train_loss": 3.4, "lr": 1e-3})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, program, *words], capture_output=True, text=True, check=True, cwd=tmp_path,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["status"] == status, done.stderr
    assert (SLOW | SCREEN) - set(said["modules"]) == SLOW | SCREEN
