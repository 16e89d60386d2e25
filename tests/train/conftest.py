"""Small real runs: a plan on local files, a tiny model, seconds a test."""

from pathlib import Path

import pytest
import torch

from tests.train.runs import write_rows


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two small datasets: `stories.jsonl` (title, text) and `pairs.jsonl` (prompt, truth)."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    return tmp_path
