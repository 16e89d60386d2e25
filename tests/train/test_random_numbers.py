"""What dropout draws: each mini-batch by itself; in a checkpoint of before one sequence for all steps, as it was."""

from pathlib import Path

import pytest
import torch

from lmplay_tui.errors import DamagedFileError
from lmplay_tui.run.events import RunDone, RunStopped
from lmplay_tui.train.checkpoint import load_checkpoint, write_checkpoint
from lmplay_tui.train.device import RandomNumbers
from tests.train.runs import PLAN, StopsAtLook, differences, last, losses, state_of, stop_after, train, write_plan

CPU = torch.device("cpu")
SHORT = PLAN.partition("[stages.pairs]")[0]  # 16 rows, 6 a step


def drawn(numbers: RandomNumbers, *place: int) -> list[float]:
    numbers.begin_mini_batch(*place)
    return torch.rand(4).tolist()


def test_each_mini_batch_draws_its_own_numbers_whatever_came_before():
    numbers = RandomNumbers(CPU)
    places = [(seed, step, number) for seed in (0, 1) for step in (0, 1) for number in (0, 1)]
    first = {place: drawn(numbers, *place) for place in places}
    assert len(set(map(tuple, first.values()))) == len(places)
    torch.rand(3)
    assert {place: drawn(numbers, *place) for place in reversed(places)} == first
    assert drawn(RandomNumbers(CPU), 2**63 - 1, 2**40, 2**20) != first[0, 0, 0], "no number is too large"


def as_of_before(path: Path, generator_seed: int) -> None:
    """Make of a checkpoint one of a version before: it recorded where one sequence of random numbers stood."""
    checkpoint = load_checkpoint(path)
    state = checkpoint["runner"]["state"]
    del state["random_numbers"]
    state["rng"] = {"cpu": torch.Generator().manual_seed(generator_seed).get_state()}
    write_checkpoint(checkpoint, path)


def folder_of_before(name: str, generator_seed: int, plan: str) -> Path:
    path = Path(name, "m.lmp")
    stop_after(1, training_plan=plan, model=str(path), out_dir=name)
    as_of_before(path, generator_seed)
    return path


@pytest.mark.long
def test_a_checkpoint_of_before_goes_on_with_its_sequence(place):
    """Stopped between the mini-batches of a step and resumed, it draws on where the last finished step ended."""
    plan = write_plan(place, SHORT)
    paths = {name: folder_of_before(name, seed, plan) for name, seed in (("a", 5), ("b", 5), ("c", 6))}
    for name in ("a", "c"):
        assert isinstance(last(train(model=str(paths[name]), out_dir=name)), RunDone)
    stops = 0
    for look in range(2, 40):
        events = train(StopsAtLook(look), model=str(paths["b"]), out_dir="b")
        if isinstance(last(events), RunDone):
            break
        assert isinstance(last(events), RunStopped)
        stops += not losses(events)
    assert stops >= 3, "stops inside a step"
    whole, stopped, other = (state_of(path) for path in paths.values())
    assert not list(differences(whole, stopped))
    assert list(differences(whole["model"]["state"], other["model"]["state"])), "the sequence's place is taken"
    state = whole["runner"]["state"]
    assert state["random_numbers"] == "running"
    assert not torch.equal(state["rng"]["cpu"], torch.Generator().manual_seed(5).get_state()), "it has moved on"


@pytest.mark.parametrize("bad", [torch.zeros(5056, dtype=torch.uint8), torch.zeros(16, dtype=torch.uint8), None])
def test_a_damaged_sequence_is_refused(place, bad):
    path = folder_of_before("m", 5, write_plan(place, SHORT))
    checkpoint = load_checkpoint(path)
    checkpoint["runner"]["state"]["rng"]["cpu"] = bad
    torch.save(checkpoint, path)
    with pytest.raises(DamagedFileError, match="runner/state/rng/cpu"):
        load_checkpoint(path)
