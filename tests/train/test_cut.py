"""How a batch is cut: packed mini-batches with as much work each; a checkpoint of before goes on by length."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmplay_tui.data.samples import Sample
from lmplay_tui.run.events import RunDone, RunStopped, StepDone
from lmplay_tui.train.checkpoint import load_checkpoint, write_checkpoint
from lmplay_tui.train.collate import mini_batches, mini_batches_of_like_work, num_positions
from lmplay_tui.train.gradients import Share
from tests.examples import examples
from tests.train.ranks import train_together
from tests.train.runs import (
    PLAN,
    StopsAtLook,
    differences,
    last,
    losses,
    of,
    state_of,
    stop_after,
    train,
    write_plan,
)
from tests.train.runs import (
    given as launch_of,
)
from tests.train.test_gradients import sample, step_config

SHORT = PLAN.partition("[stages.pairs]")[0]  # 16 rows, 6 a step


def works_of(parts: list[list[Sample]]) -> list[int]:
    return [sum(map(num_positions, part)) for part in parts]


@examples(200)
@example([400, 1, 1, 1], 2)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=40), st.integers(1, 12))
def test_mini_batches_of_like_work(lengths, size):
    samples = [sample(1, n, seed=i) for i, n in enumerate(lengths)]
    parts = list(mini_batches_of_like_work(samples, size, num_positions))
    works = works_of(parts)
    whole, rest = divmod(len(samples), size)
    assert [len(part) for part in parts] == [size] * whole + [rest] * (rest > 0)
    assert sorted(id(s) for part in parts for s in part) == sorted(map(id, samples))
    assert works[:whole] == sorted(works[:whole], reverse=True), "a lack of memory shows at once"
    # No two of the samples with most work meet.
    largest = sorted(map(num_positions, samples), reverse=True)[: len(parts)]
    tops = sorted((max(map(num_positions, part)) for part in parts), reverse=True)
    assert tops == largest
    again = list(mini_batches_of_like_work(samples, size, num_positions))
    assert [[id(s) for s in part] for part in again] == [[id(s) for s in part] for part in parts]


def test_two_mini_batches_are_done_at_the_same_time():
    samples = [sample(1, n, seed=n) for n in (512, 260, 250, 90, 80, 70, 60, 50)]
    by_length = works_of(list(mini_batches(samples, 4, by_length=True)))
    by_work = works_of(list(mini_batches_of_like_work(samples, 4, num_positions)))
    assert max(by_length) > 1.5 * sum(by_length) / 2
    assert max(by_work) < 1.05 * sum(by_work) / 2


@pytest.mark.parametrize("include_prompts", [False, True])
def test_a_position_in_the_loss_is_more_work(include_prompts):
    """Long prompts cost less than long truths of as many tokens, unless they count too."""
    prompts, truths = [sample(90, 10, seed=i) for i in range(2)], [sample(10, 90, seed=i) for i in range(2)]
    config = dataclasses.replace(step_config(2, include_prompts=include_prompts), head_work=4.0)
    samples = [prompts[0], truths[0], prompts[1], truths[1]]
    parts = list(Share.of_batch(samples, config).mini_batches.values())
    truth_tokens = [sum(len(s.truth_ids) for s in part) for part in parts]
    assert truth_tokens == ([100, 100] if not include_prompts else truth_tokens)
    assert works_of(parts) == [198, 198]


def test_what_a_cut_changes_the_meaning_of_is_not_cut_by_work():
    """By `samples` each mini-batch's mean counts: neighbours stay together."""
    samples = [sample(1, n, seed=n) for n in (3, 90, 4, 80)]
    config = dataclasses.replace(step_config(2, "samples"), head_work=1.0)
    assert [list(part) for part in Share.of_batch(samples, config).mini_batches.values()] == [samples[:2], samples[2:]]


def as_of_before(path: Path) -> None:
    """Make of a checkpoint one of a version before: it did not say how batches are cut."""
    checkpoint = load_checkpoint(path)
    assert checkpoint["runner"]["state"].pop("cut") == "work"
    write_checkpoint(checkpoint, path)


@pytest.mark.long
def test_a_checkpoint_of_before_is_cut_by_length_to_its_end(place):
    """Stopped anywhere and resumed it stays the run that it was, which is another than one that is cut by work."""
    plan = write_plan(place, SHORT)
    paths = {name: Path(name, "m.lmp") for name in ("before", "stopped", "now")}
    for name, path in paths.items():
        stop_after(1, training_plan=plan, model=str(path), out_dir=name)
        if name != "now":
            as_of_before(path)
    for name in ("before", "now"):
        assert isinstance(last(train(model=str(paths[name]), out_dir=name)), RunDone)
    stops = 0
    for look in range(2, 40):
        events = train(StopsAtLook(look), model=str(paths["stopped"]), out_dir="stopped")
        if isinstance(last(events), RunDone):
            break
        assert isinstance(last(events), RunStopped)
        stops += not losses(events)
    assert stops >= 3, "stops inside a step"
    before, stopped, now = (state_of(path) for path in paths.values())
    assert (before["runner"]["state"]["cut"], now["runner"]["state"]["cut"]) == ("length", "work")
    assert not list(differences(before, stopped))
    assert list(differences(before["model"]["state"], now["model"]["state"])), "another cut is another rounding"


@pytest.mark.long
def test_several_processes_cut_a_checkpoint_of_before_as_one_does(place):
    """In float32 sums differ in their order alone; another cut would draw other dropout."""
    plan = write_plan(place, SHORT)
    for name in ("one", "two"):
        stop_after(1, training_plan=plan, model=f"{name}/m.lmp", out_dir=name)
        as_of_before(Path(name, "m.lmp"))
    one = train(model="one/m.lmp", out_dir="one")
    two = train_together(2, launch_of(model="two/m.lmp", out_dir="two"))
    assert isinstance(last(two), RunDone), last(two)
    assert len(of(StepDone, one)) == len(of(StepDone, two)) >= 2
    for ours, theirs in zip(of(StepDone, two), of(StepDone, one), strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert state_of(Path("two/m.lmp"))["runner"]["state"]["cut"] == "length"
