"""A start that trains nothing, or not yet, loses nothing: what was asked, what is told, what is on the disk."""

import json
from pathlib import Path

import pytest

from lmplay_tui.run import controls as asked
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import (
    Bookmarked,
    Event,
    RunDone,
    RunFailed,
    RunStarted,
    RunStopped,
    StepDone,
)
from lmplay_tui.run.folder import RunFolder, find_run, saved_status, status_of
from lmplay_tui.run.sentences import sentence_of
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.launch import run_events
from tests.journals import read_journal
from tests.train.runs import PLAN, given, last, losses, progress_of, stop_after, train, write_plan


def resume_and(*commands: asked.Command, **options) -> list[Event]:
    """Resume, send the commands before the first step, and stop as soon as they are carried out."""
    controls, events = Controls(), []
    for event in run_events(given(**options), controls):
        events.append(event)
        if isinstance(event, RunStarted):
            for command in (*commands, asked.Bookmark("done")):
                controls.send(command)
        if isinstance(event, Bookmarked):
            controls.send(asked.Stop())
    return events


def steps_of(journal: Path) -> list[int]:
    return [record["step"] for record in read_journal(journal)]


@pytest.mark.long
def test_what_is_asked_before_the_first_step_is_kept(place):
    stop_after(3, training_plan=write_plan(place), model="m.lmp")
    changed = PLAN.replace("epochs = 0.2", "epochs = 0.4")
    for command in (asked.SetLearningRate(factor=0.5), asked.Pin("She went"), asked.ChangePlan(changed)):
        end = last(resume_and(command, model="m.lmp"))
        assert isinstance(end, RunStopped)
        assert end.saved, command
    assert progress_of("m.lmp")["lr_factor"] == 0.5
    assert progress_of("m.lmp")["pinned"] == ["She went"]
    assert load_checkpoint(Path("m.lmp"))["curriculum"]["state_args"]["plan"] == changed
    assert next(e.lr for e in train(model="m.lmp") if isinstance(e, StepDone)) == 0.005


def test_a_stop_that_saves_nothing_does_not_say_so(place):
    stop_after(3, training_plan=write_plan(place), model="m.lmp")
    before = (place / "m.lmp").stat().st_mtime_ns
    end = last(resume_and(model="m.lmp"))
    assert (place / "m.lmp").stat().st_mtime_ns == before
    assert isinstance(end, RunStopped)
    assert sentence_of(end) == ("good", "stopped at step 3 before anything was trained: m.lmp is as it was")


def test_a_stages_checkpoint_goes_on_as_its_run(place):
    whole = train(training_plan=write_plan(place), model="m1.lmp")
    stage_end = progress_of("m1.stories.lmp")["step"]
    stage_file = (place / "m1.stories.lmp").read_bytes()
    events = stop_after(stage_end + 1, resume="m1.stories.lmp")
    assert losses(events) == losses(whole)[stage_end : stage_end + 1]
    assert (place / "m1.stories.lmp").read_bytes() == stage_file
    assert last(events).path == "m1.lmp"
    assert not list(place.glob("m1.stories.run"))
    assert find_run("m1.stories.lmp").name == "m1"


def test_a_file_that_does_not_tell_its_run_asks_for_the_name(place):
    for name in ("a.b.c.lmp", "-x.lmp", "m..lmp"):
        end = last(train(resume=name))
        assert isinstance(end, RunFailed)
        assert end.exit_code == 2
        assert "give it with --model" in end.message
        assert "\n" not in end.message


def test_an_older_checkpoint_that_is_not_trained_on_leaves_the_journals(place):
    train(training_plan=write_plan(place), model="m.lmp", save_interval=6, keep=20)
    run = RunFolder(place / "m.lmp")
    steps = steps_of(run.metrics)
    older = str(run.numbered_checkpoints()[0])
    end = last(resume_and(resume=older))
    assert isinstance(end, RunStopped)
    assert steps_of(run.metrics) == steps
    assert f"--resume {older}" in end.command, "the newest checkpoint is still another one"

    step = progress_of(older)["step"]
    end = last(stop_after(step + 1, resume=older))
    assert isinstance(end, RunStopped)
    assert steps_of(run.metrics) == [s for s in steps if s <= step] + [step + 1]
    assert "--resume" not in end.command


KNOWN = ("stage", "step", "samples", "tokens", "train_loss", "val_loss", "lr", "checkpoint")


def known(run: RunFolder) -> dict:
    return {name: value for name, value in status_of(run).items() if name in KNOWN}


def test_a_finished_run_that_is_started_again_is_still_known(place):
    train(training_plan=write_plan(place), model="m.lmp")
    run = RunFolder(place / "m.lmp")
    before = known(run)
    assert None not in before.values()
    assert isinstance(last(train(model="m.lmp")), RunDone)
    assert known(run) == before
    assert saved_status(run).fraction_done == 1


def test_a_stage_is_done_though_its_last_rows_gave_no_step(place):
    """They have no words: who asks for the status hears that all rows have been read."""
    rows = [{"text": "The mill stood by the river. Nobody had used it for years."}] * 12 + [{"text": ""}] * 12
    (place / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    plan = write_plan(place, PLAN.partition("[stages.pairs]")[0].replace("epochs = 0.4", "epochs = 1"))
    events = train(training_plan=plan, model="m.lmp", batch_size=1)
    assert isinstance(last(events), RunDone)
    [stage] = json.loads((place / "m.run/run.json").read_bytes())["stages"]
    assert [e for e in events if isinstance(e, StepDone)][-1].stage_rows < stage["rows_total"]
    assert stage["rows_done"] == stage["rows_total"]
    assert saved_status(RunFolder(place / "m.lmp")).fraction_done == 1


def test_a_refused_start_leaves_the_run_as_it_was(place):
    train(training_plan=write_plan(place), model="m.lmp")
    run = RunFolder(place / "m.lmp")
    before, ends = known(run), [e["event"] for e in read_journal(run.events)][-1]
    end = last(train(model="m.lmp", num_blocks=3))
    assert isinstance(end, RunFailed)
    assert end.exit_code == 2
    assert end.step == before["step"], "where the run stands"
    assert status_of(run)["state"] == "finished"
    assert known(run) == before
    assert [e["event"] for e in read_journal(run.events)][-1] == ends
    assert "num-blocks" in run.log.read_text("utf-8")


def test_the_checkpoint_is_known_as_soon_as_a_resume_begins(place):
    stop_after(3, training_plan=write_plan(place), model="m.lmp")
    run = RunFolder(place / "m.lmp")
    saved = status_of(run)["checkpoint"]
    events = run_events(given(model="m.lmp"), Controls())
    for event in events:
        if isinstance(event, RunStarted):
            assert json.loads(run.run_json.read_bytes())["checkpoint"] == saved
            break
    events.close()


def test_a_new_run_knows_nothing_of_the_one_whose_checkpoint_is_gone(place):
    stop_after(6, training_plan=write_plan(place), model="m.lmp")
    (place / "m.lmp").unlink()
    run = RunFolder(place / "m.lmp")
    events = run_events(given(model="m.lmp"), Controls())
    for event in events:
        if isinstance(event, RunStarted):
            assert set(known(run).values()) == {None, 0}
            break
    events.close()


def test_a_stage_whose_last_rows_have_no_words_is_whole(place):
    rows = [{"text": "The mill stood by the river."}] * 4 + [{"text": ""}] * 8
    (place / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train(training_plan=write_plan(place, PLAN.replace("epochs = 0.4", "epochs = 1")), model="m.lmp")
    assert saved_status(RunFolder(place / "m.lmp")).fraction_done == 1
