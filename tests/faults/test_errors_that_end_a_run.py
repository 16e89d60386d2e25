"""Whatever ends a run, a bug included: finished steps are saved, and the first error is the one that is reported."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from lmplay_tui.errors import EXIT_BUG, EXIT_TRAINING
from lmplay_tui.run.events import Event, LogLine, RunDone, RunFailed, StepDone, Warned
from lmplay_tui.run.folder import RunFolder
from tests.faults.test_failing_saves import failing
from tests.faults.test_nonfinite_and_memory import Steps
from tests.seams import Seams, for_a_while, raising
from tests.train.runs import differences, last, losses, state_of, statistics_of, step_of, stop_after, train, write_plan


def bug(*_: object, **__: object):
    raise KeyError("no such thing")


def in_a_mini_batch(seams: Seams) -> None:
    def wrong(x, _, number):
        return bug() if number == 11 else x

    Steps(seams, "packed", wrong)


def in_validation(seams: Seams) -> None:
    seams.put("validate", bug)


def in_the_metrics(seams: Seams) -> None:
    seams.around("metrics", lambda take, *args, **named: bug() if take(*args, **named) else None)


def assert_a_bug_is_reported(events: list[Event]) -> None:
    end = last(events)
    assert isinstance(end, RunFailed), end
    assert end.exit_code == EXIT_BUG
    assert "KeyError: 'no such thing'" in end.message


@pytest.mark.parametrize("place_of_bug", [in_a_mini_batch, in_validation, in_the_metrics])
@pytest.mark.long_after(1)
def test_a_bug_loses_no_finished_step(place, place_of_bug):
    """... and the run goes on from there as if nothing had been."""
    plan = write_plan(place)
    whole = train(training_plan=plan, model="whole/m.lmp", out_dir="whole")
    with for_a_while() as seams:
        place_of_bug(seams)
        events = train(training_plan=plan, model="run/m.lmp", out_dir="run")
    assert_a_bug_is_reported(events)
    assert step_of(place / "run/m.lmp") == losses(events)[-1][0] > 0
    rest = train(model="run/m.lmp", out_dir="run")
    assert isinstance(last(rest), RunDone), last(rest)
    assert losses(events) + losses(rest) == losses(whole)
    assert not [e.message for e in rest if isinstance(e, Warned)]
    assert not list(differences(state_of(place / "whole/m.lmp"), state_of(place / "run/m.lmp")))
    assert statistics_of(place / "whole") == statistics_of(place / "run")


@pytest.mark.parametrize("books", ["record", "notify"])
@pytest.mark.parametrize("lasts", [False, True], ids=["once", "from then on"])
@pytest.mark.long_after(1)
def test_a_bug_in_what_is_written_down_or_sent_loses_no_step(place, books, lasts):
    """The trainer is whole: it stops in order, saved; one traceback is told, and the run can go on."""
    steps = []

    def wrong(_, event):
        steps.extend([event] * isinstance(event, StepDone))
        if len(steps) == 2 and (lasts or isinstance(event, StepDone)):
            bug()

    plan = write_plan(place)
    with for_a_while() as seams:
        seams.watch(books, wrong)
        events = train(training_plan=plan, model="m.lmp")
    assert_a_bug_is_reported(events)
    assert step_of(place / "m.lmp") == steps[-1].step >= 2
    assert len([e for e in events if isinstance(e, LogLine) and e.level == "traceback"]) == 1
    log = RunFolder(place / "m.lmp").log.read_text(encoding="utf-8")
    assert log.count("Traceback") == 1
    assert re.search(r"^\S+Z error   KeyError: 'no such thing'$", log, re.MULTILINE), log
    assert isinstance(last(train(model="m.lmp")), RunDone)


def test_an_update_that_was_broken_off_is_not_saved(place, seams):
    """Some weights may have moved: the checkpoint before it stays."""
    updates = []

    def update(real, *args, **kwargs):
        real(*args, **kwargs)
        updates.append(args)
        return bug() if len(updates) == 3 else None

    plan = write_plan(place)
    stop_after(2, training_plan=plan, model="m.lmp", optimizer="adamw")
    seams.around("update", update)
    events = train(model="m.lmp", optimizer="adamw")
    assert_a_bug_is_reported(events)
    assert losses(events)[-1][0] == 4
    assert step_of(place / "m.lmp") == 2


def cannot_be_written(_: Seams):
    return failing(99)


def cannot_be_copied(seams: Seams):
    seams.put("state to save", raising(RuntimeError("the device has failed")))
    return nullcontext()


@pytest.mark.parametrize(
    ("trouble", "why"), [(cannot_be_written, "disk full"), (cannot_be_copied, "the device has failed")]
)
def test_where_that_save_fails_too_it_is_told_and_the_first_error_is_the_reason(place, seams, trouble, why):
    plan = write_plan(place)
    in_validation(seams)
    with trouble(seams):
        events = train(training_plan=plan, model="m.lmp")
    assert_a_bug_is_reported(events)
    said = [e.message for e in events if isinstance(e, Warned)]
    assert len(said) == 1
    assert "not saved" in said[0]
    assert why in said[0]
    assert "goes on" not in said[0]
    assert not Path("m.lmp").exists()


def test_a_save_that_ends_the_run_is_not_tried_twice(place):
    plan = write_plan(place)
    with failing(99):
        events = train(training_plan=plan, model="m.lmp")
    end = last(events)
    assert isinstance(end, RunFailed)
    assert end.exit_code == EXIT_TRAINING
    at_the_end = [e for e in events if isinstance(e, Warned) and e.step == losses(events)[-1][0]]
    assert len(at_the_end) == 1
    assert "goes on" not in at_the_end[0].message
