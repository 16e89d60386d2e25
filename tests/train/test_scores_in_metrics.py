"""What `events.jsonl` tells of scores stands in `metrics.jsonl` too: at its own step and stage, once."""

import csv
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.run import controls as asked
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import StepDone
from lmplay_tui.run.export import CsvFile, export_metrics
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.journal import rounded
from lmplay_tui.train.launch import run_events
from tests.journals import read_journal
from tests.train.runs import TINY, StopsAtLook, given, stop_after, train, was_stopped, write_plan

NAMES = ("loss", "accuracy", "bits_per_byte")


def told_by_events(run: RunFolder) -> Counter[tuple[Any, ...]]:
    """(step, stage, rows, column, value) of each score that the events tell."""
    told: Counter[tuple[Any, ...]] = Counter()
    for event in read_journal(run.events):
        if event["event"] not in ("Validated", "Evaluated"):
            continue
        sets = {event["stage"]: event} if event["event"] == "Validated" else event["sets"]
        for name, scores in sets.items():
            kind = "val" if event["event"] == "Validated" else "eval"
            prefix = kind if name == event["stage"] else f"{kind}/{name}"
            told.update(
                (event["step"], event["stage"], event["rows"], f"{prefix}/{key}", rounded(scores[key]))
                for key in NAMES
                if scores.get(key) is not None
            )
    return told


def told_by_metrics(run: RunFolder) -> Counter[tuple[Any, ...]]:
    return Counter(
        (line["step"], line["stage"], line["samples"], name, value)
        for line in read_journal(run.metrics)
        for name, value in line.items()
        if name.startswith(("val/", "eval/"))
    )


def plan(place: Path, seed: int) -> str:
    """A plan of one to three stages, of any length, with any intervals."""
    dice = random.Random(seed)
    stages = ""
    for i in range(dice.randint(1, 3)):
        dataset, epochs = dice.choice(["stories", "pairs", "few"]), dice.choice([0.3, 1])
        stages += f'[stages.s{i}]\ndataset = "{dataset}.jsonl"\nepochs = {epochs}\n'
    intervals = {name: dice.choice([1, 3, 4, 7, 1000]) for name in ("validation_interval", "eval_interval")}
    options = {
        **intervals, "batch_size": dice.choice([3, 4]), "log_interval": dice.choice([1, 2, 3, 10]), "eval_samples": 2,
        "validation_batch_size": 1, "save_interval": dice.choice([4, 1000]),
    }  # fmt: skip
    (place / "few.jsonl").write_text("".join('{"prompt": "a b", "truth": "c d"}\n' for _ in range(9)), "utf-8")
    return write_plan(place, TINY + "".join(f"{name} = {value}\n" for name, value in options.items()) + stages)


@pytest.mark.long_after(6)
@pytest.mark.parametrize("seed", range(12))
def test_every_score_stands_in_metrics_at_its_own_step_and_stage(place, seed):
    """Whatever the lengths and intervals, through stops and resumes; the last line ends the run or its stage."""
    dice, file = random.Random(seed), plan(place, seed)
    while seed % 3 and dice.random() < 0.7:
        stop_after(dice.randint(1, 12), training_plan=file, model="m.lmp")
    steps = [event.step for event in train(training_plan=file, model="m.lmp") if isinstance(event, StepDone)]
    run = RunFolder(place / "m.lmp")
    told = told_by_events(run)
    assert told_by_metrics(run) == told
    assert max(told.values()) == 1, "nothing twice"
    for end in (event for event in read_journal(run.events) if event["event"] == "StageDone"):
        there = [line for line in read_journal(run.metrics) if line["step"] == end["step"] and "eval/loss" in line]
        assert [line["stage"] for line in there] == [end["stage"]]
    last = read_journal(run.metrics)[-1]
    assert last["step"] == (max(steps) if steps else last["step"])
    assert "eval/loss" in last


@pytest.mark.long_after(2)
@pytest.mark.parametrize("look", range(1, 60, 6))
def test_a_stop_at_any_moment_loses_no_score_and_doubles_none(place, look):
    file = write_plan(place, TINY + """\
batch_size = 3
validation_interval = 3
eval_interval = 6
eval_samples = 4
validation_batch_size = 2
log_interval = 3
[stages.one]
dataset = "pairs.jsonl"
epochs = 2
[stages.two]
dataset = "pairs.jsonl"
epochs = 0.3
""")  # fmt: skip
    stopped = list(run_events(given(training_plan=file, model="m.lmp"), StopsAtLook(look)))
    run = RunFolder(place / "m.lmp")
    assert was_stopped(stopped)
    assert told_by_metrics(run) == told_by_events(run)
    train(training_plan=file, model="m.lmp")
    assert told_by_metrics(run) == told_by_events(run)
    train(training_plan=file, model="whole.lmp")
    whole = told_by_events(RunFolder(place / "whole.lmp"))
    assert told_by_events(run) == whole, "as if it had never been stopped"


def test_a_validation_asked_for_has_a_line_of_its_own(place):
    """At a step that is logged already, at one that is not, twice at one step."""
    file = write_plan(place, TINY + 'batch_size = 3\nlog_interval = 2\n[stages.one]\ndataset = "pairs.jsonl"\n')
    controls, events = Controls(), []
    for event in run_events(given(training_plan=file, model="m.lmp"), controls):
        events.append(event)
        if isinstance(event, StepDone) and event.step in (2, 3):
            controls.send(asked.ValidateNow())
        if type(event).__name__ == "Validated" and sum(type(e).__name__ == "Validated" for e in events) == 1:
            controls.send(asked.ValidateNow())
    run = RunFolder(place / "m.lmp")
    assert told_by_metrics(run) == told_by_events(run)
    lines = [(line["step"], "train/loss" in line, "val/loss" in line) for line in read_journal(run.metrics)]
    assert lines[:5] == [(2, True, False), (2, False, True), (2, False, True), (3, False, True), (4, True, False)]


def test_a_stages_end_is_one_line_and_the_next_stage_knows_nothing_of_it(place):
    """Of stages of as many steps as the log interval it stood at the next stage's first line, or nowhere."""
    file = write_plan(place, TINY + """\
batch_size = 2
log_interval = 3
validation_interval = 1000
eval_samples = 4
[stages.first]
dataset = "pairs.jsonl"
epochs = 0.3
[stages.second]
dataset = "pairs.jsonl"
epochs = 0.3
""")  # fmt: skip
    train(training_plan=file, model="m.lmp")
    lines = read_journal(place / "m.run/metrics.jsonl")
    columns = [(line["step"], line["stage"], {n for n in line if n.endswith("/loss")}) for line in lines]
    assert columns == [
        (3, "first", {"train/loss", "eval/loss"}),
        (6, "second", {"train/loss", "eval/loss", "eval/first/loss"}),
    ]
    run = RunFolder(place / "m.lmp")
    sink = CsvFile(place / "m.csv")
    assert export_metrics(run, sink, follow=False) == 2
    with (place / "m.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert [float(row["eval/loss"]) for row in rows] == [line["eval/loss"] for line in lines]
    assert rows[0]["eval/first/loss"] == ""


def test_samples_per_s_counts_what_samples_counts(place):
    """Rows: here each is cut into several samples, and some give none."""
    options = "batch_size = 3\nlog_interval = 2\nvalidation_interval = 3\n"
    train(training_plan=write_plan(place, TINY + options + '[stages.one]\ndataset = "stories.jsonl"\n'), model="m.lmp")
    lines = [line for line in read_journal(place / "m.run/metrics.jsonl") if "train/loss" in line]
    assert len(lines) > 3
    rows = 0
    for line in lines:
        seconds = (line["samples"] - rows) / line["perf/samples_per_s"]
        assert seconds == pytest.approx(2 * line["time/step_s"], rel=0.3) or line is lines[-1]
        rows = line["samples"]
