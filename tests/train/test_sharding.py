"""A model that lies in parts on several ranks is the model: the same run, the same checkpoint, but for rounding."""

import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed as dist

from lmplay_tui.data.samples import Sample
from lmplay_tui.errors import EXIT_TRAINING
from lmplay_tui.models.gpt2ish import GPT2ish
from lmplay_tui.options import Launch
from lmplay_tui.run.controls import Ask, ChangePlan, Command, Controls, Pin, SaveNow, Stop
from lmplay_tui.run.events import Evaluated, Event, LogLine, Predicted, RunDone, RunFailed, StepDone, Validated
from lmplay_tui.text import printable
from lmplay_tui.train.device import Precision
from lmplay_tui.train.follower import follow
from lmplay_tui.train.gradients import Gradients, Share, StepConfig
from lmplay_tui.train.launch import run_events
from lmplay_tui.train.optim import build_optimizer
from lmplay_tui.train.process_group import ProcessGroup
from lmplay_tui.train.sharding import Sharding, can_sum, mesh_of
from tests.train.ranks import together, train_together
from tests.train.runs import differences, given, last, losses, of, state_of, stop_after, train, write_plan
from tests.train.test_ranks import CLOSE, EXACT, distance, exact, weights_of  # noqa: F401

needs_sums = pytest.mark.skipif(not can_sum(), reason="an old torch, which is refused")


def ask_at_step_4(event: Event, controls: Controls) -> None:
    if isinstance(event, StepDone) and event.step == 4:
        for command in (Pin("The mill"), Ask("What is", max_tokens=5), SaveNow()):
            controls.send(command)


@pytest.mark.long
@needs_sums
def test_a_sharded_run_is_the_run_of_one(place, exact):  # noqa: F811
    """Three stages of two optimizers, dropout, validations, evaluations, predictions, a save."""
    one = train(**exact, model="one/m.lmp", out_dir="one")
    parts = train_together(
        2, given(**exact, model="parts/m.lmp", out_dir="parts", shard="full", recompute=True), act=ask_at_step_4
    )
    assert isinstance(last(parts), RunDone), last(parts)
    for a, b in zip(losses(one), losses(parts), strict=True):
        assert a[:2] == b[:2] and a[2] == pytest.approx(b[2], rel=CLOSE), (a, b)
    for kind in (Validated, Evaluated):
        assert len(of(kind, one)) == len(of(kind, parts)) > 2
    assert {event.prediction.kind for event in of(Predicted, parts)} == {"validation", "asked", "pinned"}
    assert distance(weights_of("one/m.lmp"), weights_of("parts/m.lmp")) < CLOSE
    ours, theirs = (state_of(Path(path)) for path in ("one/m.lmp", "parts/m.lmp"))
    assert not list(differences(ours["model"]["state_args"], theirs["model"]["state_args"]))
    kept, gathered = (state["optimizers"]["state"] for state in (ours, theirs))
    assert kept.keys() == gathered.keys()
    for name in kept:
        for entry in kept[name]:
            assert torch.allclose(kept[name][entry], gathered[name][entry], rtol=1e-9, atol=1e-15), (name, entry)


@pytest.mark.long
@needs_sums
def test_a_run_goes_on_sharded_and_whole_and_sharded_again(place, exact):  # noqa: F811
    """A chain of resumes, of 1, 2 in parts, 1, 3 in parts: the checkpoint is the same from each of them."""
    whole = train(**exact, model="whole/m.lmp", out_dir="whole")
    links = [(1, 3), (2, 9), (1, 14), (3, 10**6)]
    for world_size, until in links:
        options = {**exact, "model": "chain/m.lmp", "out_dir": "chain"}
        if world_size == 1:
            stop_after(until, **options)
        else:
            events = train_together(
                world_size, given(**options, shard="full"), act=partial(stop_behind, until), timeout_s=30.0
            )
    assert isinstance(last(events), RunDone), last(events)
    assert distance(weights_of("whole/m.lmp"), weights_of("chain/m.lmp")) < CLOSE
    ends = [state_of(place / path)["runner"]["state"]["progress"] for path in ("whole/m.lmp", "chain/m.lmp")]
    assert ends[0]["stages"].keys() == ends[1]["stages"].keys()
    assert (ends[0]["step"], ends[0]["rows"], ends[0]["tokens"]) == (
        ends[1]["step"],
        ends[1]["rows"],
        ends[1]["tokens"],
    )
    assert len(losses(whole)) == ends[1]["step"]


def stop_behind(step: int, event: Event, controls: Controls) -> None:
    if isinstance(event, StepDone) and event.step == step:
        controls.send(Stop())


WAYS = {
    "packed": {},
    "padded, by samples, prompts": {
        "loss_normalization": "samples",
        "include_prompts": True,
        "exp": "padded.py:Padded",
    },
    "all of forward": {"exp": "plain.py:Plain"},
    "fewer mini-batches than ranks": {"mini_batch_size": 6, "loss_normalization": "samples"},
    "rmsprop": {"optimizer": "rmsprop", "grad_clip": 0.5},
    "sgd": {"optimizer": "sgd"},
    "adagrad": {"optimizer": "adagrad"},
}


@pytest.mark.long_after(1)
@pytest.mark.parametrize("way", WAYS)
@needs_sums
def test_each_way_of_training_is_the_same_in_parts(place, exact, way):  # noqa: F811
    padded = EXACT.replace("class Exact", "class Padded").replace("self.double()", "self.double()\n" + NO_TRUNK)
    (place / "padded.py").write_text(padded, encoding="utf-8")
    (place / "plain.py").write_text(PLAIN, encoding="utf-8")
    options = {**exact, "training_plan": write_plan(place, ONE_STAGE), **WAYS[way]}
    one = train(**options, model="one/m.lmp", out_dir="one")
    parts = train_together(2, given(**options, model="parts/m.lmp", out_dir="parts", shard="full"))
    assert isinstance(last(parts), RunDone), last(parts)
    assert len(losses(one)) == len(losses(parts)) > 3
    assert distance(weights_of("one/m.lmp"), weights_of("parts/m.lmp")) < (1e-10 if way == "adagrad" else CLOSE)


ONE_STAGE = """\
[train]
context_len = 64
tokenizer = "bytes"
batch_size = 6
lr = 0.01
validation_interval = 12
eval_interval = 1000
eval_samples = 4
[stages.rest]
dataset = "pairs.jsonl"
epochs = 2
"""
NO_TRUNK = """
    def can_pack(self, device, dtype):
        return False
"""
PLAIN = """
from torch import nn

class Plain(nn.Module):
    def __init__(self, *, vocab_size, embed_dim=16):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, embed_dim)
        blocks = (nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, embed_dim)) for _ in "ab")
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(embed_dim, vocab_size)
        self.double()

    def forward(self, ids):
        return self.head(self.blocks(self.embed(ids)))
"""


@needs_sums
def test_what_cannot_lie_in_parts_is_refused_in_a_line(place):
    scaled = PLAIN.replace("self.double()", "self.scale = nn.Parameter(torch.ones(()))").replace(
        "from torch", "import torch\nfrom torch"
    )
    (place / "scaled.py").write_text(scaled, encoding="utf-8")
    options = {"training_plan": write_plan(place, ONE_STAGE), "exp": "scaled.py:Plain"}
    events = train_together(2, given(**options, model="m.lmp", shard="full"))
    assert isinstance(last(events), RunFailed)
    assert last(events).message.startswith("--shard: scale is a single number")
    alone = last(train(**options, model="alone.lmp", shard="full"))
    assert isinstance(alone, RunFailed)
    assert alone.message == "--shard full: there is one process alone, which keeps all"


@pytest.mark.long_after(1)
@pytest.mark.parametrize("way", ["packed", "padded", "changed plan"])
@needs_sums
def test_auto_tries_no_size_of_a_mini_batch(place, exact, way):  # noqa: F811
    """Rank 0 would make passes by itself, in which it gathers with the others, who wait for its orders."""
    (place / "exact.py").write_text(EXACT + (NO_TRUNK if way == "padded" else ""), encoding="utf-8")
    plan = ONE_STAGE.replace("epochs = 2", "epochs = 0.5")
    with_auto = plan.replace("[train]", '[train]\nmini_batch_size = "auto"')

    def change(event: Event, controls: Controls) -> None:
        if way == "changed plan" and isinstance(event, StepDone) and event.step == 1:
            controls.send(ChangePlan(with_auto))

    options = {**exact, "training_plan": write_plan(place, plan if way == "changed plan" else with_auto)}
    launch = given(**options, model="m.lmp", shard="full").without("mini_batch_size")
    events = train_together(2, launch, act=change, timeout_s=10.0)
    assert isinstance(last(events), RunDone), last(events)
    said = [event.message for event in of(LogLine, events) if "auto" in event.message]
    assert said == ["--mini-batch-size auto: 4; with --shard none other is tried"]
    assert state_of(Path("m.lmp"))["runner"]["state"]["progress"]["probed_mini_batch_size"] is None


@pytest.mark.long
@needs_sums
def test_hybrid_needs_hosts_of_as_many_processes(place):
    options = {"training_plan": write_plan(place, ONE_STAGE)}
    events = train_together(2, given(**options, model="m.lmp", shard="hybrid"))
    assert "it needs two hosts and more" in last(events).message


AVERAGES = """
class Averages(Plain):
    def __init__(self, *, vocab_size, embed_dim=16):
        super().__init__(vocab_size=vocab_size, embed_dim=embed_dim)
        self.norm = nn.BatchNorm1d(embed_dim, dtype=torch.float64)
        self.register_buffer("passes", torch.zeros(1))
        self.register_buffer("training_passes", torch.zeros(1))
        self.register_buffer("lonely", torch.zeros(1))

    def forward(self, ids):
        self.passes += 1
        self.training_passes += self.training
        self.lonely += ids.numel() == 1
        return self.head(self.blocks(self.norm(self.embed(ids).transpose(1, 2)).transpose(1, 2)))
"""


@pytest.mark.long
@pytest.mark.parametrize("mini_batch_size", [3, 2], ids=["as many for each rank", "more for rank 0"])
@needs_sums
def test_passes_that_only_gather_leave_a_model_as_it_is(place, mini_batch_size):
    """Running means and counts, of any mode: those with which a rank follows another's prediction, score or share."""
    (place / "averages.py").write_text(f"import torch\n{PLAIN}\n{AVERAGES}", encoding="utf-8")
    options = {"exp": "averages.py:Averages", "mini_batch_size": mini_batch_size, "validation_batch_size": 5}
    options["training_plan"] = write_plan(place, ONE_STAGE)
    for shard in ("none", "full"):
        launch = given(**options, model=f"{shard}/m.lmp", out_dir=shard, shard=shard)
        events = train_together(2, launch, act=ask_at_step_4)
        assert isinstance(last(events), RunDone), last(events)
    whole, parts = weights_of("none/m.lmp"), weights_of("full/m.lmp")
    assert whole["training_passes"] > 4 and whole["passes"] > whole["training_passes"] and not whole["lonely"]
    for name in ("passes", "training_passes", "lonely", "norm.num_batches_tracked"):
        assert torch.equal(whole[name], parts[name]), (name, whole[name], parts[name])
    assert distance(whole, parts) < CLOSE


SOMETIMES = """
class Sometimes(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.always, self.rare = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x, on):
        return x + self.always(self.norm(x)) + (self.rare(x) if on else 0.0)


class Reached(nn.Module):
    def __init__(self, *, vocab_size, embed_dim=16):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, embed_dim)
        self.blocks = nn.ModuleList(Sometimes(embed_dim) for _ in "abc")
        self.rare = nn.Linear(embed_dim, embed_dim)
        self.never = nn.Linear(embed_dim, embed_dim)
        self.head = nn.Linear(embed_dim, vocab_size)
        self.double()

    def hidden(self, ids):
        x, on = self.embed(ids), int(ids.sum()) % 3 == 0
        for block in self.blocks:
            x = block(x, on)
        return self.rare(x) if on else x

    def forward(self, ids):
        return self.head(self.hidden(ids))
"""


@pytest.mark.long_after(1)
@pytest.mark.parametrize("way", ["body and head apart", "recomputed", "all of forward", "one sample for a rank"])
@needs_sums
def test_parameters_that_some_inputs_reach_have_gradients_in_the_steps_that_reach_them(place, way):
    """On one rank alone, in a pass that only gathers, on none: a decay or a moment by a gradient of zero would show."""
    code = SOMETIMES.replace("def hidden", "def body").replace("self.hidden(", "self.body(")
    (place / "reached.py").write_text(
        f"import torch\n{PLAIN}{code if way == 'all of forward' else SOMETIMES}", encoding="utf-8"
    )
    plan = ONE_STAGE.replace("batch_size = 6", "batch_size = 5" if way == "one sample for a rank" else "batch_size = 6")
    options = {"exp": "reached.py:Reached", "training_plan": write_plan(place, plan), "recompute": way == "recomputed"}
    one = train(**options, model="one/m.lmp", out_dir="one")
    parts = train_together(2, given(**options, model="parts/m.lmp", out_dir="parts", shard="full"), timeout_s=10.0)
    assert isinstance(last(one), RunDone) and isinstance(last(parts), RunDone), last(parts)
    assert distance(weights_of("one/m.lmp"), weights_of("parts/m.lmp")) < CLOSE
    ours, theirs = (state_of(Path(path))["optimizers"]["state"] for path in ("one/m.lmp", "parts/m.lmp"))
    assert ours.keys() == theirs.keys() and "never.weight" not in ours
    steps = {float(state["step"]) for state in ours.values()}
    assert min(steps) < max(steps), "some steps reach less than all"
    assert {name: state["step"] for name, state in ours.items()} == {
        name: state["step"] for name, state in theirs.items()
    }


PATHS = {
    "left out by chance": ("range(3)", "if torch.is_grad_enabled() and i == 1 and get_rank() == 1: continue"),
    "the last left out": ("range(3)", "if torch.is_grad_enabled() and i == 2 and get_rank() == 0: continue"),
    "in another order": ("order", "pass"),
}


@pytest.mark.long_after(1)
@pytest.mark.parametrize("path", PATHS)
@needs_sums
def test_a_pass_through_other_blocks_is_refused_in_a_line(place, path):
    """Gathered with the other rank's, a block would have that one's weights, where all are of one shape in silence."""
    order, leaves_out = PATHS[path]
    code = SOMETIMES.replace(
        "        for block in self.blocks:\n            x = block(x, on)\n",
        "        from torch.distributed import get_rank\n"
        "        order = [0, 2, 1] if torch.is_grad_enabled() and get_rank() == 1 else [0, 1, 2]\n"
        f"        for i in {order}:\n            {leaves_out}\n            x = self.blocks[i](x, on)\n",
    )
    assert code != SOMETIMES
    (place / "other.py").write_text(f"import torch\n{PLAIN}{code}", encoding="utf-8")
    options = {"training_plan": write_plan(place, ONE_STAGE), "exp": "other.py:Reached", "mini_batch_size": 3}
    end, status = ends_of_two(given(**options, model="m.lmp", shard="full"))
    assert isinstance(end, RunFailed) and end.exit_code == 3, end
    assert "--shard: each pass must call the same blocks in the same order" in end.message, end.message
    assert status == 3


LOOPED = SOMETIMES.replace("for block in self.blocks:", "for block in (*self.blocks, *self.blocks):")


@pytest.mark.long
@needs_sums
def test_a_model_that_goes_through_its_blocks_twice_is_trained_as_by_one_process(place):
    (place / "looped.py").write_text(f"import torch\n{PLAIN}{LOOPED}", encoding="utf-8")
    options = {"exp": "looped.py:Reached", "training_plan": write_plan(place, ONE_STAGE)}
    train(**options, model="one/m.lmp", out_dir="one")
    parts = train_together(2, given(**options, model="parts/m.lmp", out_dir="parts", shard="full"))
    assert isinstance(last(parts), RunDone), last(parts)
    assert distance(weights_of("one/m.lmp"), weights_of("parts/m.lmp")) < CLOSE


FAILS = """
    def forward(self, ids):
        from torch import distributed, is_grad_enabled
        if distributed.is_initialized() and distributed.get_rank() == 1 and WHERE:
            raise ERROR
        return self.head(self.blocks(self.embed(ids)))
"""
A_PASS, A_SCORE, A_PREDICTION = "is_grad_enabled()", "not is_grad_enabled()", "ids.numel() == 1"
HOSTILE = printable("\x1b[2Jmine")
NO_RESCUE = "out of memory, which a sharded model is not rescued from; the last checkpoint is intact; try a smaller"


def failing_model(place: Path, where: str, error: str) -> dict[str, Any]:
    """The options of a run whose own model raises that error on rank 1, in such a pass."""
    code = PLAIN.replace(PLAIN[PLAIN.index("\n    def forward") :], FAILS)
    (place / "fails.py").write_text(code.replace("WHERE", where).replace("ERROR", error), encoding="utf-8")
    return {"training_plan": write_plan(place, ONE_STAGE), "exp": "fails.py:Plain", "model": "m.lmp", "shard": "full"}


@pytest.mark.long_after(1)
@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        pytest.param(A_PASS, "MemoryError('none')", NO_RESCUE, id="no memory for a pass"),
        pytest.param(A_PREDICTION, "MemoryError('none')", NO_RESCUE, id="no memory for a pass with rank 0's"),
        pytest.param(A_PASS, "RuntimeError('\\x1b[2Jmine')", f"RuntimeError: {HOSTILE} (", id="its code fails"),
        pytest.param(A_SCORE, "KeyError('mine')", "KeyError: 'mine' (", id="its code fails in a score"),
    ],
)
@needs_sums
def test_a_rank_that_fails_says_why_before_it_leaves(place, where, error, said):
    """The others see no more than that its connection ends; a new start would come to the same."""
    end, status = ends_of_two(given(**failing_model(place, where, error), mini_batch_size=1))
    assert end.message.startswith(f"rank 1: {said}"), end.message
    assert (end.exit_code, status) == (3, 3)


@pytest.mark.long
@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param("MemoryError('none')", f"rank 1: {NO_RESCUE}", id="no memory"),
        pytest.param("SystemExit('as if it were killed')", "rank 1 (process ", id="it ends"),
    ],
)
@needs_sums
def test_a_rank_that_is_lost_in_an_answer_is_lost_to_the_run(place, error, said):
    """The answer alone fails by it, as by any other error; the next step ends the run, as any that lacks a rank."""
    end, _ = ends_of_two(given(**failing_model(place, A_PREDICTION, error)), Ask("What is", max_tokens=5))
    assert end.message.startswith(said) and end.exit_code == 3, end.message


@pytest.mark.long_after(1)
@pytest.mark.parametrize("shard", ["none", pytest.param("full", marks=needs_sums)])
def test_a_rank_that_cannot_update_says_why_before_it_leaves(place, seams, shard):
    """It fails behind the step's reports, where nothing can be dropped any more, sharded or not."""

    def lacks(real, *args, **named):
        if dist.get_rank() == 1:
            raise MemoryError("none for its moments")
        return real(*args, **named)

    (place / "plain.py").write_text(PLAIN, encoding="utf-8")
    seams.around("update", lacks)
    options = {"training_plan": write_plan(place, ONE_STAGE), "exp": "plain.py:Plain"}
    end, _ = ends_of_two(given(**options, model="m.lmp", shard=shard))
    said = NO_RESCUE if shard == "full" else "there is not enough memory for the model and what goes with it (none "
    assert end.message.startswith(f"rank 1: {said}"), end.message
    assert end.exit_code == 3


@pytest.mark.long
@needs_sums
def test_a_rank_that_is_lost_where_a_stage_begins_is_lost_to_all(place):
    """Torch says there that a connection has ended, and no more: that is no bug, and no error of another rank's own."""
    (place / "plain.py").write_text(PLAIN, encoding="utf-8")
    launch = given(training_plan=write_plan(place, ONE_STAGE), exp="plain.py:Plain", model="m.lmp", shard="full")

    def die(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name == "freeze_gathered":
            os._exit(9)

    def work(group: ProcessGroup) -> Event | int:
        if group.rank == 1:
            sys.setprofile(die)
        if group.rank:
            return follow(group, launch.line.get("exp"))
        *_, end = run_events(launch, Controls(), lambda _: None, group)
        return end

    end, _, status = together(3, work)
    assert isinstance(end, RunFailed) and end.exit_code == EXIT_TRAINING, end
    assert re.match(r"rank 1 \(process \d+ on .+\).* has ended", end.message), end.message
    assert status == EXIT_TRAINING


def ends_of_two(launch: Launch, *commands: Command) -> tuple[Event, int | None]:
    """The last event of a run by two processes, and the status that rank 1 gives; None: it has raised.

    `commands`: asked of it at its beginning.
    """

    def work(group: ProcessGroup) -> Event | int:
        if group.rank:
            return follow(group, launch.line.get("exp"))
        controls = Controls()
        for command in commands:
            controls.send(command)
        *_, end = run_events(launch, controls, lambda _: None, group)
        return end

    end, status = together(2, work)
    return end, status


def two_hosts(group: ProcessGroup) -> list[float]:
    """The loss after some steps of a model that two "hosts" have a copy of each, in parts on their two ranks."""
    torch.manual_seed(0)
    model = GPT2ish(vocab_size=51, context_len=32, num_blocks=2, embed_dim=12, num_heads=2, dropout=0.0).double()
    samples = [np.arange(n, n + 9, dtype=np.int32) for n in range(8)]
    batch = [Sample("", "", ids[:3], ids[3:], 0) for ids in samples]
    gradients = Gradients(model, Precision(torch.device("cpu")), hidden=model.hidden, trunk=model.trunk)
    config = StepConfig(mini_batch_size=1, normalization="tokens", include_prompts=False, grad_clip=1.0)
    share = Share.of_batch(batch, config)
    if group.world_size > 1:
        sharding = Sharding(group, model, mesh_of("hybrid", "cpu", 4, 2), has_hidden=True, trunk=model.trunk)
        gradients.sharding, gradients.hidden = sharding, sharding.hidden
        share = share.of_rank(group.rank, group.world_size)
    optimizer = build_optimizer("adamw", model, lr=0.01, weight_decay=0.1, device_type="cpu")
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        result = gradients.accumulate_share(
            share, config, lambda: False, want_argmax=False, begin_mini_batch=lambda _: None
        )
        loss = torch.tensor([sum(gradients.losses_of(result))], dtype=torch.float64)
        dist.all_reduce(loss)
        result.loss_on_device = float(loss)
        gradients.update(optimizer, result, lr=0.01, grad_clip=1.0)
        losses.append(float(loss))
    return losses


@pytest.mark.long
@needs_sums
def test_hosts_with_a_copy_each_train_the_same():
    expected, *_ = together(1, two_hosts)
    for found in together(4, two_hosts):
        assert found == pytest.approx(expected, rel=CLOSE)
