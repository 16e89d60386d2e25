"""The gradient of a batch that several processes compute is that of one; losses have the very bits."""

import itertools
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed as dist

from lmplay_tui.data.samples import Sample
from lmplay_tui.errors import DriftedError, TrainingError
from lmplay_tui.models.body import body_of, trunk_of
from lmplay_tui.models.registry import build_model, load_experiment
from lmplay_tui.options import TrainOptions
from lmplay_tui.train.device import Precision, RandomNumbers
from lmplay_tui.train.evaluation import losses_and_argmax
from lmplay_tui.train.follower import follow
from lmplay_tui.train.gradients import Gradients, StepConfig, StepResult
from lmplay_tui.train.leader import Leader
from lmplay_tui.train.optim import next_optimizer
from lmplay_tui.train.process_group import ProcessGroup
from lmplay_tui.train.reduction import checksum_of
from tests.train.ranks import Ranks, together
from tests.train.test_gradients import sample

CPU = torch.device("cpu")
MODELS = """\
import torch

from lmplay_tui.models.gpt2ish import GPT2ish


class Exact(GPT2ish):
    def __init__(self, *, vocab_size, context_len, num_blocks=2, embed_dim=16, num_heads=2, dropout=0.1):
        super().__init__(vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks, embed_dim=embed_dim,
                         num_heads=num_heads, dropout=dropout)
        self.double()


class Picky(torch.nn.Module):
    '''One parameter is met by long samples alone, one by none.'''

    def __init__(self, *, vocab_size, context_len):
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, vocab_size).double()
        self.of_long = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.of_none = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, ids):
        x = self.table(ids)
        return x * (1 + self.of_long) if ids.shape[1] > 20 else x


class Table(torch.nn.Module):
    '''Each token alone says what follows it, in a text of any length.'''

    def __init__(self, *, vocab_size, context_len):
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, vocab_size)

    def forward(self, ids):
        return self.table(ids)


class Centred(torch.nn.Module):
    '''Has a running mean, which passes change, and a table that it looks up anew for each length.'''

    def __init__(self, *, vocab_size, context_len):
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, vocab_size).double()
        self.register_buffer("mean", torch.zeros(vocab_size, dtype=torch.float64))
        self.register_buffer("by_length", torch.zeros(0), persistent=False)

    def forward(self, ids):
        x = self.table(ids)
        self.by_length = torch.arange(ids.shape[1])
        if self.training:
            self.mean.lerp_(x.detach().mean(dim=(0, 1)), 0.1)
        return x - self.mean
"""
NUM_SAMPLES = 13
BATCH = [sample(1 + i % 4, 2 + (5 * i) % 17, seed=i) for i in range(NUM_SAMPLES)]
# padded or packed x by tokens or by samples x the prompts' loss too x dropout
CASES = list(itertools.product([False, True], ["tokens", "samples"], [False, True], [0.0, 0.1]))


class Trained:
    """A model as rank 0 has it, and its leader where there are others."""

    def __init__(
        self, leader: Leader | None, exp: str, *, packed: bool = False, dropout: float = 0.0, scale: float | None = None
    ) -> None:
        """`scale`: of float16's gradients, which steps are then computed with."""
        self.leader = leader
        self.model, built_with = build_model(
            load_experiment(exp), vocab_size=50, context_len=32, dropout=dropout, seed=1
        )  # fmt: skip
        precision = Precision(CPU) if scale is None else Precision(CPU, torch.float16, grad_scale=True)
        hidden = body_of(self.model)
        trunk = trunk_of(self.model, CPU) if packed else None
        self.gradients = Gradients(self.model, precision, hidden=hidden, trunk=trunk)
        if scale is not None:
            assert self.gradients.scaler is not None
            self.gradients.scaler.load_state_dict(self.gradients.scaler.state_dict() | {"scale": scale})
        self.numbers = RandomNumbers(CPU)
        options = TrainOptions(optimizer="adam", lr=0.01, dropout=dropout)
        self.optimizer = next_optimizer(
            "adam", self.model, lr=0.01, weight_decay=None, device_type="cpu", before=None
        )  # fmt: skip
        if leader is not None:
            # The others begin with other weights: they take these.
            other = TrainOptions(seed=2, dropout=dropout)
            way = "forward" if hidden is None else "hidden" if trunk is None else "trunk"
            leader.build(precision, built_with, other, way)
            leader.enter_stage(self.model, self.optimizer, self.gradients.scaler, options, keeps_state=True)

    def gradient(self, config: StepConfig, step: int = 0, samples=BATCH, *, checks: bool = False) -> StepResult:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        begin = partial(self.numbers.begin_mini_batch, 7, step)
        if self.leader is None:
            return self.gradients.accumulate(samples, config, begin_mini_batch=begin)
        return self.leader.accumulate(
            self.gradients, samples, config, lambda: False, step=step, seed=7, lr=0.01, want_argmax=True,
            checks_weights=checks, begin_mini_batch=begin,
        )  # fmt: skip

    def update(self, result: StepResult) -> None:
        self.gradients.update(self.optimizer, result, lr=0.01)


def config_of(
    normalization: str = "tokens", include_prompts: bool = False, size: int = 2, *, packed: bool = False
) -> StepConfig:
    head_work = 2.0 if packed else None
    return StepConfig(size, normalization, include_prompts, grad_clip=None, longest=32, head_work=head_work)


def on_ranks(world_size: int, work, exp: str | None = None) -> list[Any]:
    """What `work(leader)` gives on rank 0, and how the others have ended. `exp`: on the others' command lines."""

    def of_rank(group: ProcessGroup) -> Any:
        if group.rank:
            return follow(group, exp)
        leader = Leader(group)
        try:
            return work(leader)
        finally:
            leader.close()

    return together(world_size, of_rank)


def found(trained: Trained, config: StepConfig) -> tuple[float, list, dict]:
    result = trained.gradient(config)
    gradients = {name: p.grad for name, p in trained.model.named_parameters()}
    return result.loss, [tokens for _, tokens in result.predictions()], gradients


@pytest.fixture
def exp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exact.py").write_text(MODELS, encoding="utf-8")
    return "exact.py:Exact"


@pytest.mark.parametrize(
    ("world_size", "cases"),
    [
        (2, CASES[1::5]),
        pytest.param(2, CASES, marks=pytest.mark.long, id="2-all"),
        pytest.param(3, CASES, marks=pytest.mark.long, id="3-all"),
    ],
)
def test_gradient_of_several_processes_is_that_of_one(exp, world_size, cases):
    def every_case(leader: Leader | None) -> list:
        results = []
        for packed, normalization, include_prompts, dropout in cases:
            trained = Trained(leader, exp, packed=packed, dropout=dropout)
            results.append(found(trained, config_of(normalization, include_prompts, packed=packed)))
        return results

    alone, (results, *others) = every_case(None), on_ranks(world_size, every_case, exp)
    assert others == [0] * (world_size - 1)
    for case, (loss, tokens, gradients), (our_loss, our_tokens, ours) in zip(cases, alone, results, strict=True):
        assert our_loss == loss, (case, "bit by bit")
        assert our_tokens == tokens, case
        largest = max(float(each.abs().max()) for each in gradients.values())
        for name, gradient in gradients.items():
            assert float((ours[name] - gradient).abs().max()) <= 1e-12 * largest, (case, name)


def test_a_parameter_that_some_ranks_do_not_meet(exp):
    """None stays where none has met it: no optimizer moves or decays it then. Short batches leave a rank idle."""
    long, short = sample(10, 15), [sample(1, 2, seed=i) for i in range(3)]
    batches = [[long, *short], short, [long], [short[0]]]
    picky = exp.replace("Exact", "Picky")

    def of_batches(leader: Leader | None) -> list:
        trained = Trained(leader, picky)
        results = []
        for step, samples in enumerate(batches):
            result = trained.gradient(config_of(size=1), step, samples)
            results.append((result.loss, {name: p.grad for name, p in trained.model.named_parameters()}))
            trained.update(result)
        return results

    alone, (results, *_) = of_batches(None), on_ranks(3, of_batches, picky)
    for (loss, gradients), (our_loss, ours) in zip(alone, results, strict=True):
        assert our_loss == pytest.approx(loss, rel=1e-12)
        assert gradients["of_none"] is None
        for name, gradient in gradients.items():
            if gradient is None:
                assert ours[name] is None, name
            else:
                assert torch.allclose(ours[name], gradient, rtol=0, atol=1e-12), name


@pytest.mark.parametrize(("world_size", "scale"), [(2, 2.0**40), (3, 2.0**16)], ids=["overflows", "in range"])
def test_float16_scales_alike_where_ranks_have_no_mini_batch(exp, world_size, scale):
    """In the first step, and behind one with work for all; the weights of all ranks are compared before each."""
    few, all_of_them = BATCH[:2], BATCH

    def of_batches(leader: Leader | None) -> list:
        trained = Trained(leader, "test_runner", scale=scale)
        assert trained.gradients.scaler is not None
        results = []
        for step, samples in enumerate((few, all_of_them, few, few)):
            result = trained.gradient(config_of(), step, samples, checks=True)
            trained.update(result)
            results.append((result.loss, result.skipped, trained.gradients.scaler.get_scale()))
        return results

    alone, (results, *others) = of_batches(None), on_ranks(world_size, of_batches)
    assert others == [0] * (world_size - 1)
    for (loss, *scaled), (our_loss, *ours) in zip(alone, results, strict=True):
        assert our_loss == pytest.approx(loss, rel=1e-3)
        assert ours == scaled
    assert [skipped for _, skipped, _ in results] == [scale == 2.0**40] * 4


@pytest.mark.parametrize("bit", [0, 51, 63])
def test_a_checksum_sees_each_bit(bit):
    model = torch.nn.Linear(3, 2).double()
    odd = torch.nn.Parameter(torch.ones(3, dtype=torch.float32))
    model.register_parameter("odd", odd)
    assert checksum_of(model) != checksum_of(torch.nn.Linear(3, 2).double())
    before = checksum_of(model)
    with torch.no_grad():
        model.bias.view(torch.int64)[1] ^= torch.tensor(1 << bit if bit < 63 else -(1 << 63))
    changed = checksum_of(model)
    assert changed != before
    with torch.no_grad():
        odd.view(torch.int32)[2] ^= 1 << min(bit, 30)
    assert checksum_of(model) not in (before, changed)
    assert 0 <= checksum_of(model) < 1 << 64


def test_a_rank_whose_weights_drift_is_named(exp, seams):
    """One bit of one rank's weights changes behind its update: the next look finds it, and says where."""

    def drift(real: Callable[..., None], gradients: Gradients, *args: Any, **named: Any) -> None:
        real(gradients, *args, **named)
        if dist.get_rank() == 1:
            with torch.no_grad():
                next(gradients.model.parameters()).view(torch.int64).flatten()[0] ^= 1

    seams.around("update", drift)

    def work(leader: Leader) -> bool:
        trained = Trained(leader, exp)
        trained.update(trained.gradient(config_of(), checks=True))
        with pytest.raises(DriftedError, match="rank 1 are not"):
            trained.gradient(config_of(), 1, checks=True)
        return True

    assert on_ranks(3, work, exp) == [True, 0, 0]


def test_a_rank_that_does_not_tell_of_its_weights_holds_no_save_up(exp):
    """Stopped, as by a debugger: what is finished is saved. Should weights differ later, that save is named."""

    def work(group: ProcessGroup) -> Any:
        if group.rank:
            return follow(group, exp)
        leader = Leader(group)
        trained = Trained(leader, exp)
        for step in range(2):
            trained.update(trained.gradient(config_of(), step))
        Path("stops").touch()
        while Path("stops").exists():
            time.sleep(0.01)
        begun = time.monotonic()
        leader.compare_weights(trained.model, 2, within_s=0.5)
        waited_s = time.monotonic() - begun
        Path("goes on").touch()
        trained.update(trained.gradient(config_of(), 2))
        with torch.no_grad():
            next(trained.model.parameters()).view(torch.int64).flatten()[0] ^= 1
        said = []
        for look in (
            lambda: leader.compare_weights(trained.model, 3),
            lambda: trained.gradient(config_of(), 3, checks=True),
        ):
            with pytest.raises(DriftedError) as raised:
                look()
            said.append(str(raised.value))
        leader.close()
        return waited_s, said

    with Ranks(2, work) as ranks:
        while not Path("stops").exists():
            time.sleep(0.01)
        ranks.children[1].kill(signal.SIGSTOP)
        Path("stops").unlink()
        while not Path("goes on").exists():
            time.sleep(0.01)
        ranks.children[1].kill(signal.SIGCONT)
        (waited_s, said), status = ranks.results()
    assert status == 0 and 0.5 <= waited_s < 10.0
    for each in said:
        assert each.startswith("behind step 3: the weights of rank 0 and of rank 1 are not the same")
        assert "behind step 0 all were equal" in each
        assert each.endswith("step 2 was saved without a look at all of them, and may have wrong ones")


def test_a_follower_that_cannot_build_the_model_says_why(exp, tmp_path):
    broken = "from torch import distributed\nif distributed.is_initialized() and distributed.get_rank() == 1:\n"
    (tmp_path / "broken.py").write_text(f"{broken}    raise OSError('not on this machine')\n{MODELS}", encoding="utf-8")

    said, status = on_ranks(2, partial(failed_build, "broken.py:Exact"), "broken.py:Exact")
    assert "rank 1" in said and "not on this machine" in said and status == 0


def failed_build(exp: str, leader: Leader) -> str:
    with pytest.raises(TrainingError) as raised:
        Trained(leader, exp)
    return str(raised.value)


@pytest.mark.parametrize("typed", [None, "test_runner", "exact.py:Exact", "planted.py:Picky", "./planted.py:Exact"])
def test_an_order_makes_no_file_run_that_the_command_line_does_not_name(exp, tmp_path, typed):
    """All users of a machine reach the store, and it knows no passwords."""
    says = "from pathlib import Path\nfrom torch import distributed\nif distributed.is_initialized():\n"
    text = f"{says}    Path(f'ran-{{distributed.get_rank()}}').touch()\n{MODELS}"
    (tmp_path / "planted.py").write_text(text, encoding="utf-8")
    said, status = on_ranks(2, partial(failed_build, "planted.py:Exact"), typed)
    assert "rank 1" in said and "say so with --exp planted.py:Exact" in said and status == 0
    assert [path.name for path in tmp_path.glob("ran-*")] == ["ran-0"], "rank 0's own command line, as it were"


@pytest.mark.parametrize(("of", "name"), [(torch.nn.Module, "to"), (torch.optim.Optimizer, "__setstate__")])
def test_a_follower_without_memory_for_what_it_loads_says_so(exp, monkeypatch, of, name):
    real = getattr(of, name)

    def load(self, *given, **named):
        if dist.get_rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 148.00 MiB")
        return real(self, *given, **named)

    monkeypatch.setattr(of, name, load)

    def work(leader: Leader) -> str:
        with pytest.raises(TrainingError) as raised:
            Trained(leader, exp).gradient(config_of())
        return str(raised.value)

    said, status = on_ranks(2, work, exp)
    assert said.startswith("rank 1: there is not enough memory for the model") and status == 0


def test_predictions_may_be_more_than_a_store_takes_at_once(exp):
    """More than 8 MB of one rank, of four bytes a token: of an evaluation, and of a step whose words are compared."""
    samples = [sample(1, 300_000, seed=i) for i in range(16)]
    parts = [samples[i : i + 1] for i in range(len(samples))]
    table = exp.replace("Exact", "Table")

    def work(leader: Leader) -> list[bool]:
        trained = Trained(leader, table)
        compute = partial(losses_and_argmax, trained.model, None, Precision(CPU), should_stop=lambda: False)
        scored = leader.score(parts, compute)
        result = trained.gradient(replace(config_of(size=1), longest=None), samples=samples)
        found = {id(each): tokens for each, tokens in result.predictions()}
        likeliest = trained.model.get_parameter("table.weight").argmax(dim=1)
        expected = [likeliest[ids_of(each)].tolist() for each in samples]
        return [
            tokens == found[id(each)] == truth
            for (_, tokens), each, truth in zip(scored, samples, expected, strict=True)
        ]

    assert on_ranks(2, work, table) == [[True] * len(samples), 0]


def ids_of(each: Sample) -> torch.Tensor:
    """The tokens before each of the truth's."""
    return torch.from_numpy(np.concatenate([each.prompt_ids[-1:], each.truth_ids[:-1]])).long()


def test_buffers_that_passes_change_are_the_same_on_all_ranks(exp):
    """Else the ranks would score with other models than the one that is saved."""

    centred = exp.replace("Exact", "Centred")

    def work(leader: Leader) -> tuple[list, list, list]:
        trained = Trained(leader, centred)
        for step, samples in enumerate((BATCH, BATCH[:1], BATCH[:5])):
            trained.update(trained.gradient(config_of(), step, samples))
        compute = partial(losses_and_argmax, trained.model, None, Precision(CPU), should_stop=lambda: False)
        parts = [BATCH[i : i + 2] for i in range(0, NUM_SAMPLES, 2)]
        return leader.score(parts, compute), compute(parts), trained.model.get_buffer("mean").tolist()

    (together_, alone, changed), *others = on_ranks(3, work, centred)
    assert together_ == alone and any(changed) and others == [0, 0]
