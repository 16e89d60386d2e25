"""What a resume says of itself: where it goes on, that the next batch is as recorded, and what is not as it was."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lmplay_tui.errors import DataError
from lmplay_tui.run.controls import ChangePlan, Controls, Stop
from lmplay_tui.run.events import (
    ActivityChanged,
    CheckpointSaved,
    Event,
    LogLine,
    RunDone,
    RunFailed,
    RunStopped,
    StageStarted,
    StepDone,
    Warned,
)
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.launch import run_events
from tests.seams import Seams, for_a_while, raising
from tests.train.runs import PLAN, given, last, stop_after, train, write_plan


def stopped(place: Path) -> dict[str, Any]:
    """The checkpoint of a run that was stopped after step 3."""
    stop_after(3, training_plan=write_plan(place), model="m.lmp")
    return load_checkpoint(Path("m.lmp"))


def warnings_after_other_rows(place: Path, change: Callable[[str], str]) -> list[str]:
    """What a resume warns of where the rows of the first dataset are others than they were."""
    stopped(place)
    path = Path("stories.jsonl")
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    return [e.message for e in stop_after(5, model="m.lmp") if isinstance(e, Warned)]


def recorded(path: str = "m.lmp") -> str:
    """The next batch's name in a checkpoint."""
    name = load_checkpoint(Path(path))["runner"]["state"]["progress"]["next_batch"]
    assert name
    return str(name)


def test_log_and_state_line_say_where_it_goes_on_and_that_the_next_batch_is_the_recorded_one(place):
    plan = write_plan(place)
    stop_after(3, training_plan=plan, model="m.lmp")
    digest = recorded().rpartition("/")[2]
    events = stop_after(5, model="m.lmp")
    row = next(e.rows_done for e in events if isinstance(e, StageStarted))
    said = [e.message for e in events if isinstance(e, LogLine)]
    assert f"goes on at stage stories, row {row}, step 3: the next batch is the one the checkpoint names " in said[0]
    assert digest.startswith(said[0].rpartition("(")[2].rstrip(")"))
    before_a_step = events[: next(i for i, e in enumerate(events) if isinstance(e, StepDone))]
    assert ActivityChanged("training", f"from row {row} as recorded") in before_a_step
    assert "the next batch is the one the checkpoint names" in RunFolder(place / "m.lmp").log.read_text("utf-8")


def unreadable_after(seams: Seams, batches: int) -> None:
    """The disk gives so many batches of a stage and then an error."""

    def source(real, *args, **kwargs):
        yield from itertools.islice(real(*args, **kwargs), batches)
        raise DataError("row 7 cannot be read")

    seams.around("batches", source)


def test_a_stop_needs_no_next_batch(place):
    """The batch after it cannot be read: whoever goes on will hear of it; the stop saves."""
    plan = write_plan(place)
    with for_a_while() as seams:
        unreadable_after(seams, 3)
        end = last(stop_after(3, training_plan=plan, model="m.lmp"))
    assert isinstance(end, RunStopped), end
    assert end.saved
    assert not load_checkpoint(Path("m.lmp"))["runner"]["state"]["progress"]["next_batch"]


@pytest.mark.parametrize("resumed", [False, True])
def test_data_that_cannot_be_read_end_the_run_with_their_own_error(place, resumed):
    """... when their turn has come, not when a save or a resume asks for the next batch's name."""
    plan = write_plan(place)
    if resumed:
        stop_after(1, training_plan=plan, model="m.lmp")
    with for_a_while() as seams:
        unreadable_after(seams, 0 if resumed else 3)
        events = train(training_plan=plan, model="m.lmp", save_interval=1)
    end = last(events)
    assert isinstance(end, RunFailed)
    assert end.message == "row 7 cannot be read"
    assert not [e for e in events if isinstance(e, Warned)]
    saved = [e.step for e in events if isinstance(e, CheckpointSaved) and e.reason == "interval"]
    assert saved == ([] if resumed else [1, 2, 3])


def test_after_an_error_the_checkpoint_names_the_batch_that_comes(place):
    """... and not the one that came after the save before it."""
    plan = write_plan(place)
    with for_a_while() as seams:
        seams.put("validate", raising(KeyError("a bug")))
        events = train(training_plan=plan, model="m.lmp", save_interval=4)
    assert isinstance(last(events), RunFailed)
    steps = [e.step for e in events if isinstance(e, CheckpointSaved)]
    assert len(set(steps)) > 1
    said = [e.message for e in stop_after(steps[-1] + 1, model="m.lmp") if isinstance(e, LogLine | Warned)]
    assert "the next batch is the one the checkpoint names" in said[0]


def test_the_state_line_does_not_say_it_for_ever(place, seams):
    plan = write_plan(place)
    stop_after(3, training_plan=plan, model="m.lmp")
    seams.put("proof shown", 0.0)
    events = stop_after(4, model="m.lmp")
    shown = next(i for i, e in enumerate(events) if isinstance(e, ActivityChanged) and "recorded" in e.detail)
    assert ActivityChanged("training") in events[shown:]


def test_another_next_batch_is_said(place):
    """The rows are as many as before, and the checkpoint names another batch."""
    checkpoint = stopped(place)
    progress = checkpoint["runner"]["state"]["progress"]
    progress["next_batch"] = progress["next_batch"][:-4] + "0000"
    torch.save(checkpoint, "m.lmp")
    events = stop_after(4, model="m.lmp")
    said = [e.message for e in events if isinstance(e, Warned)]
    assert "step 3: the next batch is not the one the checkpoint names: the dataset has changed since" in said[0]
    assert [e for e in events if isinstance(e, ActivityChanged) and "NOT as recorded" in e.detail]


@pytest.mark.parametrize("others", [{"threads": 7}, {"threads": 7, "torch": "9.9.9"}], ids=len)
def test_what_is_computed_by_other_means_is_named_with_what_it_means(place, others):
    """Other threads, as where several processes share a machine, are no other machine; the numbers round otherwise."""
    checkpoint = stopped(place)
    note = checkpoint["runner"]["state"]["hardware"]
    here = dict(note)
    note |= others
    torch.save(checkpoint, "m.lmp")
    events = stop_after(4, model="m.lmp")
    [said] = [e.message for e in events if isinstance(e, Warned)]
    named = ", ".join(f"{name} {others[name]} -> {here[name]}" for name in here if name in others)
    assert said == f"not as the checkpoint was computed ({named}): results agree but for rounding"


def test_another_device_and_precision_are_named(place):
    checkpoint = stopped(place)
    hardware = checkpoint["runner"]["state"]["hardware"]
    assert hardware["device"] == "cpu"
    hardware |= {"device": "cuda", "precision": "mixed bfloat16"}
    torch.save(checkpoint, "m.lmp")
    [said] = [e.message for e in stop_after(4, model="m.lmp") if isinstance(e, Warned)]
    assert "device cuda -> cpu, precision mixed bfloat16 -> float32" in said
    assert said.endswith("results agree but for rounding and dropout"), "each device draws its own numbers"


def test_the_same_machine_is_not_named(place):
    plan = write_plan(place)
    stop_after(3, training_plan=plan, model="m.lmp")
    assert not [e for e in stop_after(4, model="m.lmp") if isinstance(e, Warned)]


def test_another_tokenizer_is_refused(place):
    """Its tokens mean other things to the model."""
    checkpoint = stopped(place)
    checkpoint["runner"]["state"]["tokenizer_fingerprint"] = "of another version"
    torch.save(checkpoint, "m.lmp")
    before = Path("m.lmp").read_bytes()
    end = last(train(model="m.lmp"))
    assert isinstance(end, RunFailed)
    assert end.exit_code == 2
    assert "tokenizer bytes is not the one that the checkpoint was trained with" in end.message
    assert Path("m.lmp").read_bytes() == before


def test_more_rows_are_said(place):
    """Rows added at a dataset's end: another fingerprint, though the next batch is what it was."""
    new = json.dumps({"title": "New", "text": "A new story. It is short."}) + "\n"
    said = warnings_after_other_rows(place, lambda rows: rows + new)
    assert [message for message in said if "its data are not those of the checkpoint" in message]


def test_a_resume_on_other_data_is_said(place):
    said = warnings_after_other_rows(place, lambda rows: rows.replace("mill", "house"))
    assert [message for message in said if "its data are not those of the checkpoint" in message]


# ---------------------------------------------------------------------------- whose plan a resume goes on with


def edited_while_running(plan: str, text: str) -> None:
    """Stop after step 4 of a run whose plan became `text` at step 2."""
    controls = Controls()
    for event in run_events(given(training_plan=plan, model="m.lmp"), controls):
        if isinstance(event, StepDone) and event.step == 2:
            controls.send(ChangePlan(text))
        if isinstance(event, StepDone) and event.step == 4:
            controls.send(Stop())


def test_a_plan_edited_while_it_ran_is_not_undone_by_its_own_file(place):
    plan = write_plan(place)
    edited_while_running(plan, PLAN.replace("lr = 0.01", "lr = 0.005"))
    events = train(training_plan=plan, model="m.lmp")
    assert [e for e in events if isinstance(e, Warned) and "going on with the edited plan" in e.message]
    assert isinstance(last(events), RunDone)
    assert {e.lr for e in events if isinstance(e, StepDone) and e.stage == "stories"} == {0.005}


def edits_said(events: list[Event]) -> list[str]:
    return [e.message for e in events if isinstance(e, Warned) and "edited" in e.message]


def test_a_plan_that_was_extended_was_not_edited(place):
    """Its file is the same: nothing is said. The file is changed then: it holds."""
    plan = write_plan(place)
    train(training_plan=plan, model="m.lmp")
    for _ in range(2):
        assert not edits_said(train(training_plan=plan, model="m.lmp", extend=0.4))
        events = train(training_plan=plan, model="m.lmp")
        assert not edits_said(events)
        assert isinstance(last(events), RunDone)
    longer = PLAN.replace("epochs = 0.2\n", "epochs = 1.5\n")
    events = train(training_plan=write_plan(place, longer), model="m.lmp")
    assert isinstance(last(events), RunDone), last(events)
    assert [e for e in events if isinstance(e, Warned) and "stage both: epochs 1 -> 1.5" in e.message]


def test_a_plan_that_was_extended_and_edited_is_said_to_be_edited(place):
    plan = write_plan(place)
    edited_while_running(plan, PLAN.replace("lr = 0.01", "lr = 0.005"))
    train(model="m.lmp", extend=0.4)
    assert len(edits_said(train(training_plan=plan, model="m.lmp"))) == 1


def test_a_plan_that_changed_in_the_file_alone_is_taken(place):
    stop_after(4, training_plan=write_plan(place), model="m.lmp")
    events = train(training_plan=write_plan(place, PLAN.replace("lr = 0.01", "lr = 0.002")), model="m.lmp")
    assert [e for e in events if isinstance(e, Warned) and "lr 0.01 -> 0.002" in e.message]
    assert {e.lr for e in events if isinstance(e, StepDone) and e.stage == "stories"} == {0.002}


def test_a_plan_that_changed_in_both_places_is_refused_with_the_difference(place):
    edited_while_running(write_plan(place), PLAN.replace("lr = 0.01", "lr = 0.005"))
    before = Path("m.lmp").read_bytes()
    end = last(train(training_plan=write_plan(place, PLAN.replace("epochs = 1.2", "epochs = 2")), model="m.lmp"))
    assert isinstance(end, RunFailed)
    assert end.exit_code == 2
    assert "stage pairs: epochs 1.2 -> 2" in end.message
    assert "lr 0.005 -> 0.01" in end.message
    assert Path("m.lmp").read_bytes() == before
    assert isinstance(last(train(model="m.lmp")), RunDone)
