"""A step that did not happen leaves nothing in a model's buffers: running means are those of the steps that did.

Whatever it was dropped for: a stop, too little memory, a process that is lost; with one process and with two.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.run.controls import Controls, Stop
from lmplay_tui.run.events import Event, RunDone, RunFailed, RunStopped, StepDone, Warned
from lmplay_tui.train.follower import follow
from lmplay_tui.train.launch import run_events
from lmplay_tui.train.process_group import ProcessGroup
from tests.train.ranks import WITHIN_S, Ranks, train_together
from tests.train.runs import StopsAtLook, differences, given, last, losses, of, state_of, write_plan

# Batch normalisation, a mean of its own that is written behind torch's back, and one that no checkpoint keeps.
MODEL = """\
import os
import signal
from pathlib import Path

import torch
from torch import distributed, nn


class Centred(nn.Module):
    passes = 0

    def __init__(self, *, vocab_size, embed_dim=16):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, embed_dim)
        self.norm = nn.BatchNorm1d(embed_dim)
        self.head = nn.Linear(embed_dim, vocab_size)
        self.register_buffer("mean", torch.zeros(embed_dim))

    def forward(self, ids):
        if self.training:
            self.mishap()
        x = self.norm(self.embed(ids).transpose(1, 2)).transpose(1, 2)
        if self.training:
            self.mean.data.lerp_(x.detach().mean(dim=(0, 1)) + 1, 0.1)
        return self.head(x - self.mean)

    def mishap(self):
        Centred.passes += 1
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        if Path("mishap").exists() and Path("mishap").read_text() == f"{rank} {Centred.passes}":
            WHAT


class Forgetful(Centred):
    def __init__(self, *, vocab_size, embed_dim=16):
        super().__init__(vocab_size=vocab_size, embed_dim=embed_dim)
        self.register_buffer("recent", torch.zeros(embed_dim), persistent=False)

    def forward(self, ids):
        if self.training:
            self.recent = 0.5 * self.recent + 0.1
        return super().forward(ids) * (1 + self.recent.mean())
"""
ONE_STAGE = """\
[train]
context_len = 64
tokenizer = "bytes"
batch_size = 12
lr = 0.01
validation_interval = 12
validation_batch_size = 2
eval_interval = 1000
eval_samples = 4
[stages.rest]
dataset = "pairs.jsonl"
epochs = 3
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
LACKS_MEMORY = "raise MemoryError"


@pytest.fixture
def options(place: Path) -> dict[str, Any]:
    (place / "own.py").write_text(MODEL.replace("WHAT", LACKS_MEMORY), encoding="utf-8")
    return {"training_plan": write_plan(place, ONE_STAGE), "exp": "own.py:Centred"}


def stop_behind(step: int) -> Callable[[Event, Controls], None]:
    def act(event: Event, controls: Controls) -> None:
        if isinstance(event, StepDone) and event.step == step:
            controls.send(Stop())

    return act


def trained_bits(path: Path) -> list[Any]:
    """Weights, buffers, and the optimizer's."""
    state = state_of(path)
    return [state["model"]["state"], state["optimizers"]["state"]]


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_stop_amidst_a_step(place, options, world_size):
    """Between any two mini-batches: what is saved goes on to the bits of the run that was not stopped."""
    whole = train_together(world_size, given(**options, model="whole/m.lmp", out_dir="whole"))
    assert isinstance(last(whole), RunDone), last(whole)
    mean = state_of(place / "whole/m.lmp")["model"]["state"]["mean"]
    assert float(mean.abs().min()) > 0.1, "passes have changed it"
    stopped = []
    for look in range(8, 60, 3):
        name = f"look{look}"
        where = {"model": f"{name}/m.lmp", "out_dir": name}
        first = train_together(world_size, given(**options, **where), lambda look=look: StopsAtLook(look))
        if isinstance(last(first), RunDone):
            break
        assert isinstance(last(first), RunStopped), last(first)
        if not losses(first):
            continue
        stopped.append(len(losses(first)))
        second = train_together(world_size, given(exp=options["exp"], **where))
        assert losses(first) + losses(second) == losses(whole)
        assert not list(differences(state_of(place / "whole/m.lmp"), state_of(place / name / "m.lmp"))), look
    assert len(stopped) > len(set(stopped)) > 1, "several in one step, and in several steps"


@pytest.mark.parametrize("model", ["Centred", "Forgetful"])
@pytest.mark.parametrize(
    "where",
    [(1, 0, 4), *(pytest.param((2, *at), marks=pytest.mark.long) for at in ((0, 2), (0, 3), (1, 2), (1, 3)))],
    ids=str,
)
def test_too_little_memory_amidst_a_step(place, options, where, model):
    """Behind some of its mini-batches the first step is made of smaller ones: the run is the one that began with them.

    `where`: processes, the one that lacks memory, and in which of its passes.
    """
    world_size, rank, number = where
    options["exp"] = f"own.py:{model}"
    small = given(**options, model="small.lmp").with_options(mini_batch_size=1)
    expected = train_together(world_size, small, act=stop_behind(4))
    Path("mishap").write_text(f"{rank} {number}")
    events = train_together(world_size, given(**options, model="m.lmp"), act=stop_behind(4))
    (warned,) = of(Warned, events)
    assert "step 1: out of memory with mini-batches of 2; going on with 1" in warned.message
    assert losses(events) == losses(expected)
    assert not list(differences(trained_bits(place / "small.lmp"), trained_bits(place / "m.lmp")))


def test_a_rank_that_is_killed_amidst_a_step(place, options):
    """Rank 0 has done all of its share by then. What it saves goes on to the bits of the run that lost none."""
    whole = train_together(2, given(**options, model="whole/m.lmp", out_dir="whole"))
    assert isinstance(last(whole), RunDone), last(whole)
    (place / "own.py").write_text(MODEL.replace("WHAT", KILLED), encoding="utf-8")
    where = {"model": "lost/m.lmp", "out_dir": "lost"}
    Path("mishap").write_text("1 6")

    def work(group: ProcessGroup) -> Any:
        if group.rank:
            return follow(group, options["exp"])
        return list(run_events(given(**options, **where), Controls(), group=group))

    with Ranks(2, work) as ranks:
        first = next(ranks.children[0].reports(WITHIN_S))
    assert isinstance(last(first), RunFailed), last(first)
    assert [event.step for event in of(StepDone, first)] == [1, 2]
    Path("mishap").unlink()
    second = train_together(2, given(exp=options["exp"], **where))
    assert losses(first) + losses(second) == losses(whole)
    assert not list(differences(state_of(place / "whole/m.lmp"), state_of(place / "lost/m.lmp")))
