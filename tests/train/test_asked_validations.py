"""A validation and a prompt that are asked for: answered when they are done, or with why they are not."""

import pytest

from lmplay_tui.errors import UserError
from lmplay_tui.run import controls as asked
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import Answered, Predicted, RunDone, RunFailed, RunStopped, StepDone, Validated, Warned
from lmplay_tui.text import one_line
from lmplay_tui.train.launch import run_events
from tests.seams import raising
from tests.train.runs import PLAN, Broken, ask_at, given, last, of, train, write_plan

QUIET = PLAN.replace("validation_interval = 5", "validation_interval = 100000")


@pytest.mark.long
def test_validate_now(place):
    plan = write_plan(place, QUIET)
    assert not of(Validated, train(training_plan=plan, model="a.lmp"))
    assert [e.step for e in of(Validated, ask_at(2, asked.ValidateNow(), training_plan=plan, model="b.lmp"))] == [2]


def test_a_validation_and_a_prompt_are_answered_when_they_are_done(place):
    """Not before: who waits for it reads the figure next."""
    commands = (asked.ValidateNow(id="v"), asked.ValidateNow(id="w"), asked.Ask("The mill", max_tokens=4, id="a"))
    events = ask_at(2, *commands, training_plan=write_plan(place, QUIET), model="m.lmp")
    order = [event for event in events if isinstance(event, Validated | Answered | Predicted)]
    validated, shown, first, second, predicted, third = order[:6]
    assert isinstance(validated, Validated)
    assert isinstance(shown, Predicted)
    assert isinstance(predicted, Predicted)
    assert len(of(Validated, events)) == 1, "one serves both"
    said = f"validated {validated.samples} samples at step 2: loss {validated.loss:.4f}"
    assert [(e.id, e.ok, e.message) for e in (first, second)] == [("v", True, said), ("w", True, said)]
    assert (third.id, third.ok) == ("a", True)
    assert third.message == one_line(predicted.prediction.prediction, 400)


def test_a_validation_that_cannot_be_is_refused(place):
    rows = QUIET.replace("[train]", "[train]\nvalidation_split = 0.0")
    events = ask_at(2, asked.ValidateNow(id="v"), training_plan=write_plan(place, rows), model="m.lmp")
    said = "stage stories has no rows to validate on"
    assert [(e.id, e.ok, e.message) for e in of(Answered, events)] == [("v", False, said)]
    assert said in [e.message for e in of(Warned, events)], "on the dashboard too, which waits for no answer"
    assert isinstance(last(events), RunDone)


@pytest.mark.long
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("the model's numbers are not finite"), "no answer: the model's numbers are not finite"),
        (MemoryError(), "no answer: not enough memory for it beside the training"),
    ],
)
def test_a_prompt_that_the_model_cannot_go_on_with_costs_the_answer_not_the_run(place, seams, error, said):
    seams.put("generate", raising(error))
    events = ask_at(2, asked.Ask("The mill", id="a"), training_plan=write_plan(place, QUIET), model="m.lmp")
    assert [(e.id, e.ok, e.message) for e in of(Answered, events)] == [("a", False, said)]
    assert isinstance(last(events), RunDone)


@pytest.mark.parametrize("work", ["validation", "prompt"])
def test_what_a_stop_cuts_short_is_not_called_done(place, seams, work):
    """Stopped while it is at it: between two mini-batches of a score, between two tokens of an answer."""
    controls, answering = Controls(), []
    controls.sources.append(lambda: [asked.Stop()] if answering else [])
    command = asked.ValidateNow(id="1") if work == "validation" else asked.Ask("The mill", id="1")
    for name in ("validate", "answer"):
        seams.watch(name, lambda *_: answering.append(1))
    events = []
    for event in run_events(given(training_plan=write_plan(place, QUIET), model="m.lmp"), controls):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 2:
            controls.send(command)
    assert isinstance(last(events), RunStopped)
    assert [(e.id, e.ok, e.message) for e in of(Answered, events)] == [("1", False, "the run has ended")]
    assert not of(Validated, events)
    assert not of(Predicted, events)


@pytest.mark.parametrize("command", [asked.ValidateNow(id="1"), asked.Ask("The mill", id="1")])
def test_what_was_asked_for_before_the_run_failed_is_answered_with_why(place, command):
    events = ask_at(3, command, Broken(), training_plan=write_plan(place, QUIET), model="m.lmp")
    end = last(events)
    assert isinstance(end, RunFailed)
    assert [(e.id, e.ok, e.message) for e in of(Answered, events)] == [("1", False, end.message)]


@pytest.mark.long
@pytest.mark.parametrize(
    "error", [RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), MemoryError()]
)
def test_a_pinned_prompt_that_lacks_memory_costs_its_answer_not_the_run(place, seams, error):
    seams.put("generate", raising(error))
    events = ask_at(2, asked.Pin("The mill"), training_plan=write_plan(place, QUIET), model="m.lmp")
    assert isinstance(last(events), RunDone)
    said = "no answer to the pinned prompt 'The mill': not enough memory for it beside the training"
    assert said in [e.message for e in of(Warned, events)]


@pytest.mark.long
def test_a_shown_prediction_that_lacks_memory_costs_itself_not_the_validation(place, seams):
    seams.put("predict", raising(MemoryError()))
    events = train(training_plan=write_plan(place), model="m.lmp")
    assert isinstance(last(events), RunDone)
    assert of(Validated, events)
    assert any("out of memory for the prediction" in e.message for e in of(Warned, events))
