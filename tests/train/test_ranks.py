"""A run by several processes is the run of one: batches, counts and order exactly, weights but for rounding."""

import math
from pathlib import Path

import pytest
import torch

from lmplay_tui.run.events import Evaluated, RunDone, Validated
from tests.train.ranks import train_together
from tests.train.runs import PLAN, differences, given, last, losses, of, state_of, train, write_plan

# An experiment of the user's in float64: what rounding makes of a float32 run is not what is looked for.
EXACT = """\
from lmplay_tui.models.gpt2ish import GPT2ish


class Exact(GPT2ish):
    def __init__(self, *, vocab_size, context_len, num_blocks=2, embed_dim=16, num_heads=2, dropout=0.1):
        super().__init__(vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks, embed_dim=embed_dim,
                         num_heads=num_heads, dropout=dropout)
        self.double()
"""
CLOSE = 1e-12


@pytest.fixture
def exact(place: Path) -> dict:
    """The options of a run in float64."""
    (place / "exact.py").write_text(EXACT, encoding="utf-8")
    return {"training_plan": write_plan(place, PLAN.replace('exp = "test_runner"\n', "")), "exp": "exact.py:Exact"}


def weights_of(path: str) -> dict[str, torch.Tensor]:
    return state_of(Path(path))["model"]["state"]


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Of two sets of weights, relative to their size.

    Of all of them together: a gradient that is zero but for rounding, as an attention's bias of the keys has it, is as
    large as any other once Adam has divided it by itself.
    """
    assert a.keys() == b.keys()
    squares = [(float((a[name] - b[name]).square().sum()), float(a[name].square().sum())) for name in a]
    return math.sqrt(sum(each for each, _ in squares) / sum(each for _, each in squares))


def test_two_processes_train_the_run_of_one(place, exact):
    """Three stages, a mixture, dropout, validations and evaluations; all but rounding."""
    one = train(**exact, model="one/m.lmp", out_dir="one")
    two = train_together(2, given(**exact, model="two/m.lmp", out_dir="two"))
    assert isinstance(last(two), RunDone), last(two)
    for a, b in zip(losses(one), losses(two), strict=True):
        assert a[:2] == b[:2] and a[2] == pytest.approx(b[2], rel=CLOSE), (a, b)
    for kind in (Validated, Evaluated):
        assert len(of(kind, one)) == len(of(kind, two)) > 2
    assert distance(weights_of("one/m.lmp"), weights_of("two/m.lmp")) < CLOSE
    ours, theirs = state_of(Path("one/m.lmp")), state_of(Path("two/m.lmp"))
    counted = [state["runner"]["state"]["progress"] for state in (ours, theirs)]
    for progress in counted:
        del progress["eval_loss"]
        for stage in progress["stages"].values():
            del stage["loss_at_end"]
    assert not list(differences(*counted))
