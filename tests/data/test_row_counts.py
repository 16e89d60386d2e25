"""Rows counted beforehand are the rows that are counted when the stage is opened."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from lmplay_tui.data.sources import count_rows
from lmplay_tui.data.stage_data import open_stage
from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import DatasetSpec, Stage
from tests.data.conftest import no_report

OPTIONS = TrainOptions(tokenizer="bytes", context_len=64, seed=3)
Jsonl = Callable[..., DatasetSpec]


def opened_rows(stage: Stage, folder: Path) -> int:
    return open_stage(stage, OPTIONS, load_tokenizer("bytes"), datasets_folder=folder, report=no_report).rows_total


@pytest.mark.long_after(2)
@pytest.mark.parametrize("stopping", ["first_exhausted", "all_exhausted"])
@pytest.mark.parametrize("weights", [None, (0.3, 0.7)])
def test_counted_as_opened(jsonl: Jsonl, tmp_path: Path, weights: Any, stopping: Any) -> None:
    long = jsonl([{"text": f"Row {n}."} for n in range(137)], "long")
    short = jsonl([{"text": f"Row {n}."} for n in range(41)], "short")
    topics = DatasetSpec("topics", "pydocs", config="topics")
    for specs in ((long, short), (long,), (topics,)):
        stage = Stage("s", specs, epochs=1.3, weights=weights if len(specs) == 2 else None, stopping=stopping)
        assert count_rows(stage, OPTIONS, datasets_folder=tmp_path) == opened_rows(stage, tmp_path)


def test_a_saved_dataset_with_a_split_of_its_own(tmp_path: Path) -> None:
    spec = DatasetSpec("wiki", "owner/name", saved_as="wiki")
    for name, rows in (("train", 30), ("validation", 5)):
        datasets.Dataset.from_dict({"text": ["A row."] * rows}).save_to_disk(str(tmp_path / f"wiki.{name}"))
    stage = Stage("s", (spec,), epochs=0.5)
    assert count_rows(stage, OPTIONS, datasets_folder=tmp_path) == 15 == opened_rows(stage, tmp_path)


def test_the_hub_is_asked_and_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def card(*args: Any, **kwargs: Any) -> Any:
        asked.append((*args, kwargs))
        splits = {name: SimpleNamespace(num_examples=rows) for name, rows in (("train", 1000), ("other", 0))}
        return SimpleNamespace(info=SimpleNamespace(splits=splits))

    monkeypatch.setattr(datasets, "load_dataset_builder", card)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("a download"))
    spec = DatasetSpec("wiki", "owner/name", config="en", revision="abc")
    counted = count_rows(Stage("s", (spec,), epochs=2), OPTIONS, datasets_folder=tmp_path)
    assert counted == 2 * 900  # a tenth is held out for validation
    assert asked == [("owner/name", "en", {"revision": "abc"})]
    for split in ("other", "train[:10%]", "nowhere"):  # an empty number, a part, a split that is not there
        spec = DatasetSpec("wiki", "owner/name", split=split)
        assert count_rows(Stage("s", (spec,)), OPTIONS, datasets_folder=tmp_path) is None


def test_what_cannot_be_known_is_no_trouble(monkeypatch: pytest.MonkeyPatch, jsonl: Jsonl, tmp_path: Path) -> None:
    def silent(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset_builder", silent)
    hub, gone = DatasetSpec("wiki", "owner/name"), DatasetSpec("gone", str(tmp_path / "gone.jsonl"))
    large = jsonl([{"text": "A row."}] * 50, "large")
    assert count_rows(Stage("s", (hub,)), OPTIONS, datasets_folder=tmp_path) is None
    assert count_rows(Stage("s", (large, gone)), OPTIONS, datasets_folder=tmp_path) is None
    assert count_rows(Stage("s", (large,)), OPTIONS, datasets_folder=tmp_path) == 45
    assert count_rows(Stage("s", (large,)), OPTIONS, datasets_folder=tmp_path, small_bytes=100) is None
