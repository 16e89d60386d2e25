"""Small real runs: a plan on local files, a tiny model, seconds a test."""

import json
from pathlib import Path

import pytest
import torch

from tests.train.runs import SENTENCES


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two small datasets: `stories.jsonl` (title, text) and `pairs.jsonl` (prompt, truth)."""
    monkeypatch.chdir(tmp_path)
    rows = [{"title": f"Story {i}", "text": " ".join(SENTENCES[i % 7 :] * (1 + i % 3))} for i in range(40)]
    rows[5]["text"] = ""
    (tmp_path / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pairs = [{"prompt": f"What is {i} and {i}?", "truth": f"It is {2 * i}. Of course."} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
    return tmp_path
