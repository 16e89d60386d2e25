"""Data made by the tests: nothing of the developer's caches is read or written."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.data.stage_data import StageData, open_stage
from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.options import resolve
from lmplay_tui.plan.schema import DatasetSpec, Stage

Open = Callable[..., StageData]


@pytest.fixture(autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
    yield


def no_report(activity: str, detail: str, fraction: float | None) -> None:
    """A report that is not read."""


def write_splits(folder: Path, /, **splits: list[dict[str, Any]]) -> None:
    """A file of rows for each split, called by its name."""
    for name, rows in splits.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8", newline="\n")


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Open a stage over one dataset or several; options by keyword."""

    def open_(*specs: DatasetSpec, epochs: float = 1.0, weights: tuple[float, ...] | None = None,
              stopping: str = "first_exhausted", name: str = "stage", **options: object) -> StageData:  # fmt: skip
        given = resolve(options, {"tokenizer": "bytes", "context_len": 64, "batch_size": 4})
        stage = Stage(name, specs, epochs=epochs, weights=weights, stopping=stopping)  # type: ignore[arg-type]
        return open_stage(
            stage, given, load_tokenizer(given.tokenizer), datasets_folder=tmp_path / "datasets", report=no_report
        )

    return open_


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., DatasetSpec]:
    """A dataset of our own: a JSONL file with these rows."""

    def make(rows: list[dict[str, Any]], name: str = "own", **columns: str) -> DatasetSpec:
        write_splits(tmp_path, **{name: rows})
        return DatasetSpec(name, str(tmp_path / f"{name}.jsonl"), **columns)

    return make
