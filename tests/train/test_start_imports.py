"""What a start of training does not import, because nothing of it is needed: each costs up to 1.5 s."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.runs import PLAN, write_plan

LIBRARIES = ["torch._dynamo", "torch._inductor", "sympy", "datasets", "matplotlib", "scipy", "torchvision"]
OF_RANKS = [f"lmplay_tui.train.{name}" for name in ("leader", "rank_states", "orders", "reduction", "sharding")]
NEEDLESS = [*LIBRARIES, *OF_RANKS]

# Two stages with another optimizer, evaluations, saves; then the same run from its checkpoint.
PROGRAM = """
import json, sys
from lmplay_tui import cli

words = json.loads(sys.argv[1])
assert cli.trainer_main(words) == 0
compiled = sys.modules.get("torch._dynamo")
graphs = compiled.utils.counters["stats"]["unique_graphs"] if compiled else 0
print(json.dumps([sorted(sys.modules), graphs]))
"""


def trained(folder: Path, *words: str) -> tuple[list[str], list[str], int]:
    """What a run prints, the modules that it has at its end, and the number of its compiled graphs."""
    line = json.dumps(["--model", "m", "--device", "cpu", *words])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, line], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.splitlines()
    modules, graphs = json.loads(last)
    return said, modules, graphs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("stories", "pairs"):
        rows = ({"text": f"The mill number {number} stood by the river for years."} for number in range(24))
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_plan(tmp_path, PLAN)
    return tmp_path


def test_a_training_imports_no_compiler_and_nothing_else_that_it_does_not_use(folder: Path) -> None:
    said, modules, _ = trained(folder, "--training-plan", "plan.toml")
    assert any("the plan is done" in line for line in said)
    assert [name for name in NEEDLESS if name in modules] == []


def test_the_modules_of_ranks_have_these_names() -> None:
    assert all(importlib.util.find_spec(name) for name in OF_RANKS)


@pytest.mark.long
def test_a_resume_imports_none_of_them_either(folder: Path) -> None:
    trained(folder, "--training-plan", "plan.toml")
    said, modules, _ = trained(folder, "--extend", "1")
    assert any("the plan is done" in line for line in said)
    assert [name for name in NEEDLESS if name in modules] == []


@pytest.mark.long
def test_a_compiled_training_compiles(folder: Path) -> None:
    said, _, graphs = trained(
        folder, "--training-plan", "plan.toml", "--compile-model", "--compile-backend", "aot_eager"
    )
    assert any("the plan is done" in line for line in said)
    assert not any("torch.compile failed" in line for line in said)
    assert graphs > 0
