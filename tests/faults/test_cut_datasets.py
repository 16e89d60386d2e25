"""A dataset's file that is cut short while a run reads it: mapped pages behind its end would end the process."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lmplay_tui.data.rows import Columns, Rows
from lmplay_tui.errors import DataError
from lmplay_tui.options import Launch
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import LogLine, RunFailed, StepDone
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.launch import run_events
from tests.faults.forks import Child
from tests.train.runs import TINY, given, write_plan

PLAN = (
    TINY
    + """\
batch_size = 2
validation_interval = 3
eval_samples = 8
[stages.stories]
dataset = "{dataset}"
epochs = 50
"""
)
TEXTS = [f"Story {i}. " + "It went on and on, and then it went on. " * 200 for i in range(600)]


def arrow_file(path: Path) -> None:
    table = pa.table({"text": TEXTS})
    with path.open("wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=50)


def train_and_cut(launch: Launch, find: Callable[[], Path], report: Callable[[Any], None]) -> None:
    for event in run_events(launch, Controls()):
        if isinstance(event, StepDone):
            report(event.step)
            if event.step == 4:
                os.truncate(find(), 4096)
        elif isinstance(event, RunFailed):
            report((event.exit_code, event.message))
        elif isinstance(event, LogLine) and event.level == "traceback":
            report(event.message)


@pytest.mark.parametrize("dataset", ["rows.arrow", "rows.jsonl"])
def test_a_mapped_file_that_is_cut_short_ends_the_run_in_order(place, monkeypatch, dataset):
    """The file itself, and what the program keeps of one that it has converted."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    arrow_file(place / "rows.arrow")
    (place / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    launch = given(training_plan=write_plan(place, PLAN.format(dataset=dataset)), model="m.lmp")

    def find() -> Path:
        return max((place / "cache").rglob("rows-*.arrow")) if dataset == "rows.jsonl" else place / dataset

    with Child(lambda report: train_and_cut(launch, find, report)) as child:
        *steps, end = child.reports()
        assert child.wait() == 0
    assert end[0] == 3
    assert "was cut short while it was read" in end[1]
    assert "\n" not in end[1]
    assert steps == list(range(1, len(steps) + 1))
    assert load_checkpoint(place / "m.lmp")["runner"]["state"]["progress"]["step"] == steps[-1] >= 4


def test_a_file_that_is_replaced_or_removed_is_read_on(tmp_path):
    path = tmp_path / "rows.arrow"
    arrow_file(path)
    with pa.memory_map(str(path)) as source:
        rows = Rows("rows", pa.ipc.open_file(source).read_all(), Columns(text="text"))
    path.with_name("other").write_bytes(b"short")
    path.with_name("other").replace(path)
    assert rows.items(599)[0].truth == TEXTS[599]
    path.unlink()
    assert rows.items(300)[0].truth == TEXTS[300]


def test_the_file_of_another_row_does_not_matter(tmp_path):
    tables = []
    for name in ("one", "two"):
        arrow_file(tmp_path / name)
        with pa.memory_map(str(tmp_path / name)) as source:
            tables.append(pa.ipc.open_file(source).read_all())
    rows = Rows("rows", pa.concat_tables(tables), Columns(text="text"))
    os.truncate(tmp_path / "two", 4096)
    assert rows.items(599)[0].truth == TEXTS[599]
    with pytest.raises(DataError, match=r"dataset rows: .*/two was cut short while it was read: 4,096 bytes"):
        rows.items(600)
