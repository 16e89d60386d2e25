"""What a run says of its data: the columns it reads, rows without a sample, text left out, and a stage of nothing."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from lmplay_tui.data.stage_data import open_stage
from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import DatasetSpec, Stage
from lmplay_tui.run import events as happened
from lmplay_tui.run.events import DatasetOpened, Event, RunDone, RunFailed, StageDone, StepDone, TextLeftOut
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.sentences import sentences_of
from lmplay_tui.run.view import RunView
from lmplay_tui.train.dataloader import openings
from tests.journals import read_journal
from tests.train.runs import SENTENCES, TINY, StopsAtLook, last, of, progress_of, stop_after, train, write_plan
from tests.ui.fake import follow_line

WORDS = "The mill stood by the river."


def rows_of(*texts: str) -> str:
    return "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(texts))


def plan_of(place: Path, **stages: str) -> str:
    """A plan of these stages; `validation_split` 0: every row is trained."""
    text = TINY + "batch_size = 4\nvalidation_split = 0.0\nlog_interval = 1\n"
    return write_plan(place, text + "".join(f"[stages.{name}]\n{keys}\n" for name, keys in stages.items()))


def sentences(events: list[Event]) -> list[str]:
    return [line for event in events for _, line in sentences_of(event)]


# ------------------------------------------------------------------ which columns are read


def test_each_dataset_says_once_which_columns_are_read(place):
    (place / "some.jsonl").write_text(rows_of(*[WORDS] * 12), encoding="utf-8")
    some = 'dataset = "some.jsonl"'
    plan = plan_of(place, one=some, two='datasets = ["pairs.jsonl", "some.jsonl"]', three=some)
    events = train(training_plan=plan, model="m.lmp")
    said = [line for line in sentences(events) if line.startswith("dataset ")]
    assert said == [
        "dataset some.jsonl: columns: text = text; left out: id",
        "dataset pairs.jsonl: columns: prompt = prompt, truth = truth",
    ]
    opened, _ = of(DatasetOpened, events)
    assert (opened.rows_train, opened.rows_held_out) == (12, 0)
    assert (opened.rows_looked_at, opened.rows_without_sample) == (12, 0)
    assert [r["dataset"] for r in read_journal(RunFolder(place / "m.lmp").events) if r["event"] == "DatasetOpened"] == [
        "some.jsonl", "pairs.jsonl",
    ]  # fmt: skip
    log = (place / "m.run/log.txt").read_text(encoding="utf-8")
    assert all(log.count(line) == 1 for line in said)


def test_a_resume_says_it_again(place):
    plan = plan_of(place, one='dataset = "stories.jsonl"')
    stop_after(2, training_plan=plan, model="m.lmp")
    assert [event.dataset for event in of(DatasetOpened, train(model="m.lmp"))] == ["stories.jsonl"]


def test_what_is_told_of_a_dataset_is_what_its_source_says(place):
    spec = DatasetSpec("pairs", str(place / "pairs.jsonl"))
    data = open_stage(
        Stage("one", (spec,)), TrainOptions(tokenizer="bytes", context_len=64), load_tokenizer("bytes"),
        datasets_folder=place, report=lambda *_: None,
    )  # fmt: skip
    part = data.parts[0]
    part.source = replace(part.source, columns="truth = c", notes=("a note", "another"))
    (said,) = openings(data)
    assert (said.dataset, said.columns, said.notes) == ("pairs", "truth = c", ("a note", "another"))
    assert (said.rows_train, said.rows_held_out) == (part.training_rows, part.validation_rows)


def test_notes_and_rows_without_words_are_lines_of_their_own_live_and_in_the_log():
    opened = DatasetOpened(
        "a\x1b[2J", "text = te\nxt", ("12 image parts left out", "a.csv: separated by ';'"), 90, 10, 100, 7
    )
    lines = [
        "dataset a␛[2J: columns: text = te xt",
        "dataset a␛[2J: 12 image parts left out",
        "dataset a␛[2J: a.csv: separated by ';'",
        "dataset a␛[2J: 7 of its first 100 rows give no sample: there are no words in them",
    ]
    assert [line for _, line in sentences_of(opened)] == lines
    view = RunView()
    follow_line(view, json.loads(json.dumps(opened.record())))
    assert [entry.text for entry in view.log] == lines


# ------------------------------------------------------------------ rows without a sample, stages without one


def test_rows_without_a_sample_are_counted_over_the_stage_also_after_a_resume(place):
    texts = [WORDS, "", " \n", WORDS, WORDS, "", WORDS] * 4
    (place / "gaps.jsonl").write_text(rows_of(*texts, "", ""), encoding="utf-8")
    plan = plan_of(place, gaps='dataset = "gaps.jsonl"\nepochs = 1.5')
    events = train(training_plan=plan, model="m.lmp")
    rows = 45
    without = sum(not text.strip() for text in [*texts, "", "", *texts][:rows])
    (done,) = of(StageDone, events)
    assert (done.rows, done.rows_without_sample) == (rows, without)
    assert f"{without} rows without a sample" in sentences([done])[0]
    stop_after(4, training_plan=plan, model="n.lmp")
    (again,) = of(StageDone, train(model="n.lmp"))
    assert again.rows_without_sample == without
    for name in ("m", "n"):
        totals = json.loads(next(place.glob(f"**/{name}_step_gaps_train_stats.json")).read_bytes())["totals"]
        assert (totals["total_train_samples"], totals["train_rows_without_sample"]) == (rows, without)
    steps, view = of(StepDone, events), RunView()
    for event in events:
        follow_line(view, json.loads(json.dumps(event.record())))
    assert view.stages[0].rows_without_sample == without
    assert (
        steps[-1].rows_without_sample
        == list(read_journal(place / "m.run/metrics.jsonl"))[-1]["data/rows_without_sample"]
    )


def test_a_dataset_without_a_sample_is_refused_when_it_is_opened(place):
    (place / "empty.jsonl").write_text(rows_of(*[" "] * 8), encoding="utf-8")
    end = last(train(training_plan=plan_of(place, one='dataset = "empty.jsonl"'), model="m.lmp"))
    assert isinstance(end, RunFailed)
    assert end.exit_code == 2
    assert "empty.jsonl" in end.message
    assert "\n" not in end.message
    assert not (place / "m.lmp").exists()


def nothing(place: Path) -> str:
    """A plan whose second stage reads half of its dataset, where there are no words."""
    (place / "late.jsonl").write_text(rows_of(*[""] * 9, *[WORDS] * 9), encoding="utf-8")
    pairs = 'dataset = "pairs.jsonl"'
    return plan_of(place, one=pairs, late='dataset = "late.jsonl"\nepochs = 0.5', last=pairs)


def test_a_stage_that_trained_nothing_ends_the_run_with_its_last_checkpoint_intact(place):
    events = train(training_plan=nothing(place), model="m.lmp")
    end = last(events)
    assert isinstance(end, RunFailed)
    assert end.exit_code == 3
    assert all(word in end.message for word in ("stage late", "late.jsonl", "9 rows"))
    assert [event.stage for event in of(StageDone, events)] == ["one"]
    assert progress_of("m.lmp")["stages"]["one"]["done"]
    again = last(train(model="m.lmp"))
    assert isinstance(again, RunFailed)
    assert again.exit_code == 3, "a resume finds the same, it is not done"
    without = plan_of(place, one='dataset = "pairs.jsonl"', last='dataset = "pairs.jsonl"')
    assert isinstance(last(train(model="m.lmp", training_plan=without)), RunDone), "the stage can be left out"


def test_rows_that_have_words_now_are_trained_by_a_resume(place):
    train(training_plan=nothing(place), model="m.lmp")
    (place / "late.jsonl").write_text(rows_of(*[WORDS] * 18), encoding="utf-8")
    events = train(model="m.lmp")
    assert isinstance(last(events), RunDone)
    assert sum(event.stage == "late" for event in of(StepDone, events)) == 3


def test_what_a_stage_trained_before_a_stop_counts(place):
    """The rows left after a resume hold no words: the stage has trained all the same."""
    (place / "early.jsonl").write_text(rows_of(*[WORDS] * 8, *[""] * 40), encoding="utf-8")
    plan = plan_of(place, early='dataset = "early.jsonl"')
    stop_after(2, training_plan=plan, model="m.lmp")
    events = train(model="m.lmp")
    assert not of(StepDone, events)
    assert isinstance(last(events), RunDone)


# ------------------------------------------------------------------ text left out


LONG = " ".join(SENTENCES * 40)


@pytest.mark.long_after(1)
@pytest.mark.parametrize("continue_rows", [False, True])
def test_text_left_out_is_warned_of_before_the_first_step_and_told_at_the_end(place, continue_rows):
    (place / "long.jsonl").write_text(rows_of(LONG, LONG), encoding="utf-8")
    kept = f"continue_rows = {str(continue_rows).lower()}"
    plan = plan_of(place, one=f'datasets = ["long.jsonl", "pairs.jsonl"]\n{kept}')
    events = train(training_plan=plan, model="m.lmp")
    (done,) = of(StageDone, events)
    if continue_rows:
        assert not of(TextLeftOut, events)
        assert done.text_shown == 1
        assert "text shown" not in sentences([done])[0]
        return
    (warning,) = of(TextLeftOut, events)
    assert (warning.stage, warning.dataset) == ("one", "long.jsonl")
    (sentence,) = sentences([warning])
    assert all(word in sentence for word in (f"{100 * warning.text_shown:.1f} %", "continue_rows = true", "batch_size"))
    assert events.index(warning) < events.index(of(StepDone, events)[0])
    assert done.text_shown is not None
    assert done.text_shown < 0.9
    assert f"text shown {100 * done.text_shown:.1f} %" in sentences([done])[0]
    view = RunView()
    for record in read_journal(place / "m.run/events.jsonl"):
        follow_line(view, record)
    assert view.stages[0].text_shown == done.text_shown


def test_a_stop_is_heard_while_the_first_batches_are_cut(place, seams):
    """They are cut in the thread that opens the data: a key does not wait for them."""

    def opened(real, *args, **kwargs):
        data = real(*args, **kwargs)
        data.preview = lambda *_: threading.Event().wait(600)
        return data

    seams.around("open a stage", opened)
    end = last(train(StopsAtLook(12), training_plan=plan_of(place, one='dataset = "pairs.jsonl"'), model="m.lmp"))
    assert isinstance(end, happened.RunStopped)
