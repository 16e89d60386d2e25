"""What a run says of rows that are held out: those whose text it trains all the same, those chosen otherwise before."""

import json
from pathlib import Path

import pytest

from lmplay_tui.run.events import LogLine, RunDone, StageDone, Warned
from lmplay_tui.train.checkpoint import load_checkpoint, write_checkpoint
from tests.train.runs import TINY, last, losses, of, stop_after, train, write_plan

TWO = (
    TINY
    + """\
batch_size = 4
validation_split = 0.25
[stages.one]
dataset = "one.jsonl"
[stages.two]
dataset = "two.jsonl"
"""
)


def write(path: Path, *numbers: int) -> None:
    path.write_text("".join(json.dumps({"text": f"Row {n} says so."}) + "\n" for n in numbers), encoding="utf-8")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "one.jsonl", *range(40))
    write(tmp_path / "two.jsonl", *range(40, 80))
    return tmp_path


def test_a_clean_run_says_once_that_it_is(files):
    events = train(training_plan=write_plan(files, TWO), model="m.lmp")
    assert isinstance(last(events), RunDone)
    said = [e.message for e in of(LogLine, events) if e.message.startswith("leak guard")]
    assert said == ["leak guard: no training row carries an evaluation text (60 rows looked at)"]
    assert not [e for e in of(Warned, events) if "leak" in e.message]


def test_copies_of_a_later_stages_rows_are_warned_of_before_that_stage(files):
    """Of all rows of the other file a quarter is held out of each; 30 of the copies in the first file are trained."""
    clean = train(training_plan=write_plan(files, TWO), model="a.lmp")
    write(files / "one.jsonl", *range(40), *range(40, 80), *range(40, 80))
    events = train(training_plan="plan.toml", model="m.lmp")
    warned = [(n, e.message) for n, e in enumerate(events) if isinstance(e, Warned) and "leak guard" in e.message]
    assert len(warned) == 1
    number, said = warned[0]
    assert said.startswith("leak guard: stage one trains ") and "of stage two's)" in said
    assert number < next(n for n, e in enumerate(events) if isinstance(e, StageDone))
    of_two = [row for row in losses(events) if row[1] == "two"]
    assert len(of_two) == len([row for row in losses(clean) if row[1] == "two"])


def test_a_resume_of_an_older_checkpoint_says_that_other_rows_are_held_out(files):
    stop_after(3, training_plan=write_plan(files, TWO), model="m.lmp")
    checkpoint = load_checkpoint(files / "m.lmp")
    progress, curriculum = checkpoint["runner"]["state"]["progress"], checkpoint["curriculum"]
    for stage in (*progress["stages"].values(), *curriculum["state"].values()):
        del stage["held_out_by"]
        stage["fingerprint"] = "of another choice"
    write_checkpoint(checkpoint, files / "m.lmp")
    said = [e.message for e in of(Warned, stop_after(5, model="m.lmp"))]
    assert sum("rows that were validated on may be trained" in line for line in said) == 1
    events = train(model="m.lmp")
    assert isinstance(last(events), RunDone)
    assert not [e for e in of(Warned, events) if "validated on" in e.message], "said once"
