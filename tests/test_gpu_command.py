"""`python -m tests.gpu`, which waits for a machine with a GPU, works: tried on a processor."""

import subprocess
import sys

import pytest
import torch

from tests.gpu.parts import PARTS


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.gpu", *words], capture_output=True, text=True, check=False)


def test_eight_minutes_are_enough():
    assert sum(seconds for _, seconds in PARTS.values()) <= 480


@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_nothing_is_run():
    done = _run()
    assert (done.returncode, done.stdout) == (0, "no cuda here: nothing was run\n")


@pytest.mark.slow
def test_all_parts_on_a_processor(tmp_path):
    done = _run("--device", "cpu", "--tiny", "--out", str(tmp_path / "table.md"))
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert table == done.stdout
    for said in ("check | ok", "packed attention", "after a resume", "compiled plain loop", "--compile-model"):
        assert said in table, table


@pytest.mark.slow
def test_the_part_of_several_gpus_on_two_processes():
    done = _run("--device", "cpu", "--tiny", "--nproc", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "start in parts: most of 2 ranks, of the whole model" in done.stdout
    assert "parts: a loss differs from one process's by at most" in done.stdout
