"""The arithmetic of a step: gradients do not depend on the cut, and the document's formula is the document's."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lmplay_tui.data.samples import Sample
from lmplay_tui.models.body import body_of, trunk_of
from lmplay_tui.models.gpt2ish import GPT2ish
from lmplay_tui.run.controls import StopRequested
from lmplay_tui.train.collate import FewShapes, collate, mini_batches, pack
from lmplay_tui.train.device import Precision
from lmplay_tui.train.gradients import Gradients, StepConfig, StepResult
from tests.examples import examples

Summed = tuple[StepResult, dict[str, torch.Tensor]]  # by the names of the parameters
VOCAB = 50
CPU = torch.device("cpu")


def sample(prompt_len: int, truth_len: int, seed: int = 0) -> Sample:
    rng = np.random.default_rng([seed, prompt_len, truth_len])
    return Sample(
        prompt="p", truth="t", row=0,
        prompt_ids=rng.integers(0, VOCAB, prompt_len, dtype=np.int32),
        truth_ids=rng.integers(0, VOCAB, truth_len, dtype=np.int32),
    )  # fmt: skip


def model64() -> GPT2ish:
    torch.manual_seed(0)
    model = GPT2ish(vocab_size=VOCAB, context_len=32, num_blocks=2, embed_dim=16, num_heads=2, dropout=0.0)
    return model.double()


def step_config(mini_batch_size: int, normalization: str = "tokens", include_prompts: bool = False) -> StepConfig:
    return StepConfig(
        mini_batch_size=mini_batch_size, normalization=normalization, include_prompts=include_prompts, grad_clip=None
    )


def of_model(model, *, apart: bool = True, packed: bool = False) -> Gradients:
    """Its gradients by body and head, by `forward` alone, or of packed samples."""
    trunk = trunk_of(model, CPU) if packed else None
    assert packed is (trunk is not None)
    return Gradients(model, Precision(CPU), hidden=body_of(model) if apart else None, trunk=trunk)


def gradients_of(
    model, samples, *, packed: bool = False, width_multiple: int = 1, head_work: float | None = None, **kwargs
) -> Summed:
    model.zero_grad()
    config = dataclasses.replace(
        step_config(**kwargs), width_multiple=width_multiple, longest=model.context_len, head_work=head_work
    )  # fmt: skip
    result = of_model(model, packed=packed).accumulate(samples, config)
    return result, {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_equal(got: Summed, expected: Summed) -> None:
    """Loss and gradients, but for rounding in float64."""
    assert got[0].loss == pytest.approx(expected[0].loss, abs=1e-12)
    for name in expected[1]:
        assert torch.allclose(expected[1][name], got[1][name], rtol=0, atol=1e-12), name


lengths = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 15)), min_size=1, max_size=9)


@examples(60)
@given(lengths, st.integers(1, 10), st.booleans(), st.sampled_from([None, 0.0, 8.5]), st.sampled_from([1, 8, 20]))
def test_gradient_does_not_depend_on_the_cut(shapes, mini_batch_size, include_prompts, head_work, width_multiple):
    """Padded, by length; packed, so that each has as much work."""
    model = model64()
    samples = [sample(p, t, seed=i) for i, (p, t) in enumerate(shapes)]
    whole = gradients_of(model, samples, mini_batch_size=len(samples), include_prompts=include_prompts)
    how = {"mini_batch_size": mini_batch_size, "include_prompts": include_prompts}
    shapes_of = {"packed": head_work is not None, "head_work": head_work, "width_multiple": width_multiple}
    assert_equal(gradients_of(model, samples, **shapes_of, **how), whole)


@examples(30)
@given(lengths, st.integers(1, 10))
def test_samples_normalization_is_the_documents_formula(shapes, mini_batch_size):
    """loss of a mini-batch (mean over its truth tokens) x mini_batch_size / batch_size, mini-batches in order."""
    model = model64()
    samples = [sample(p, t, seed=i) for i, (p, t) in enumerate(shapes)]
    result, got = gradients_of(model, samples, mini_batch_size=mini_batch_size, normalization="samples")
    model.zero_grad()
    total = 0.0
    for begin in range(0, len(samples), mini_batch_size):
        part = samples[begin : begin + mini_batch_size]
        losses = []
        for one in part:
            tokens = torch.from_numpy(np.concatenate((one.prompt_ids, one.truth_ids)).astype(np.int64))
            logits = model(tokens[None, :-1])[0, len(one.prompt_ids) - 1 :]
            losses.append(F.cross_entropy(logits, tokens[len(one.prompt_ids) :], reduction="none"))
        loss = torch.cat(losses).mean() * (len(part) / len(samples))
        loss.backward()
        total += loss.item()
    assert result.loss == pytest.approx(total, abs=1e-12)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, got[name], rtol=0, atol=1e-12), name


def test_fifty_by_four_is_thirteen_mini_batches():
    samples = [sample(2, 3 + i % 5, seed=i) for i in range(50)]
    for by_length in (False, True):
        parts = list(mini_batches(samples, 4, by_length=by_length))
        assert [len(part) for part in parts] == [4] * 12 + [2]
        assert {id(s) for part in parts for s in part} == {id(s) for s in samples}
    assert [s for part in mini_batches(samples, 4, by_length=False) for s in part] == samples


def test_collate_pads_right_and_counts_truth_only():
    one, two = sample(3, 2), sample(1, 5)
    mini = collate([one, two], include_prompts=False, device=CPU)
    assert mini.ids.shape == (2, 5)
    assert mini.num_tokens == 4 + 5
    assert mini.targets_N.tolist() == [*one.truth_ids, *two.truth_ids]
    assert mini.index_N.tolist() == [2, 3, 5, 6, 7, 8, 9]
    assert [mini.targets_N[rows].tolist() for rows in mini.truth_rows] == [list(one.truth_ids), list(two.truth_ids)]
    with_prompts = collate([one, two], include_prompts=True, device=CPU)
    assert with_prompts.num_loss_tokens == 9
    assert [with_prompts.targets_N[rows].tolist() for rows in with_prompts.truth_rows] == [
        list(one.truth_ids), list(two.truth_ids),
    ]  # fmt: skip
    assert collate([one], include_prompts=False, device=CPU, multiple=8).ids.shape == (1, 8)
    assert collate([one], include_prompts=False, device=CPU, multiple=8, most=6).ids.shape == (1, 6)
    two_rows = collate([one], include_prompts=False, device=CPU, least_rows=2)
    assert two_rows.ids.shape == (2, 4)
    assert (two_rows.num_tokens, two_rows.targets_N.tolist()) == (4, one.truth_ids.tolist())


def test_padding_changes_nothing():
    model = model64()
    _, narrow = gradients_of(model, [sample(3, 4)], mini_batch_size=1)
    model.zero_grad()
    of_model(model).accumulate([sample(3, 4)], dataclasses.replace(step_config(1), width_multiple=16))
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, narrow[name], rtol=0, atol=1e-14), name


def test_packed_samples_lie_one_behind_the_other():
    mini = pack([sample(2, 4), sample(9, 9)], include_prompts=False, device=CPU)
    assert mini.offsets.tolist() == [0, 16, 48]
    assert mini.positions_P.tolist() == [0, 1, 2, 3, 4, *[4] * 11, *range(17), *[16] * 15]
    assert mini.ids.tolist()[5:16] == [0] * 11
    assert mini.ids.tolist()[33:] == [0] * 15
    assert mini.index_N.tolist() == [1, 2, 3, 4, *range(24, 33)]
    assert mini.num_tokens == 5 + 17
    assert mini.truth_rows == (slice(0, 4), slice(4, 13))


@pytest.mark.parametrize("packed", [False, True])
def test_argmax_belongs_to_its_sample(packed):
    model = model64()
    samples = [sample(2, 3 + i, seed=i) for i in range(5)]
    result, _ = gradients_of(model, samples, mini_batch_size=2, packed=packed)
    for one, argmax in result.predictions():
        tokens = torch.from_numpy(np.concatenate((one.prompt_ids, one.truth_ids)).astype(np.int64))
        expected = model(tokens[None, :-1])[0, len(one.prompt_ids) - 1 :].argmax(-1)
        assert argmax == expected.tolist()
    assert {id(s) for s, _ in result.predictions()} == {id(s) for s in samples}


def test_a_model_without_body_and_head_gives_the_same_loss():
    model = model64()
    samples = [sample(2, 4, seed=i) for i in range(3)]
    fast = of_model(model).accumulate(samples, step_config(2)).loss
    plain = of_model(model, apart=False).accumulate(samples, step_config(2)).loss
    assert fast == pytest.approx(plain, abs=1e-12)


def test_stop_is_looked_for_before_each_mini_batch():
    looks = []

    def stop() -> bool:
        looks.append(1)
        return len(looks) == 3

    with pytest.raises(StopRequested):
        of_model(model64(), apart=False).accumulate([sample(1, 2, seed=i) for i in range(6)], step_config(1), stop)
    assert len(looks) == 3


def test_clipping_limits_the_norm_and_reports_it_before():
    model = model64()
    of = of_model(model)
    result = of.accumulate([sample(2, 4)], step_config(2))
    of.update(torch.optim.SGD(model.parameters(), lr=0.0), result, lr=0.0, grad_clip=0.01)
    assert result.grad_norm > 0.01
    total = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert float(total) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_numbers_that_are_not_finite_move_no_weight(bad, where):
    model = model64()
    before = copy.deepcopy(model.state_dict())
    of = of_model(model)
    result = of.accumulate([sample(2, 4)], step_config(1))
    if where == "loss":
        result.loss = bad
    else:
        next(model.parameters()).grad.view(-1)[0] = bad
    of.update(torch.optim.AdamW(model.parameters()), result, lr=1.0)
    assert not result.is_finite
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@examples(60)
@given(st.lists(st.integers(1, 48), min_size=1, max_size=6), st.sampled_from([16, 24, 48]))
def test_few_shapes_of_packed_samples_for_programs_that_are_recorded(lengths, width_multiple):
    few = FewShapes(num_samples=6, total_multiple=6 * width_multiple, longest=48)
    mini = pack([sample(1, n) for n in lengths], include_prompts=False, device=CPU, few_shapes=few)
    plain = pack([sample(1, n) for n in lengths], include_prompts=False, device=CPU)
    assert mini.ids.numel() in range(6 * width_multiple, 48 * 6 + 6 * width_multiple, 6 * width_multiple)
    sizes = np.diff(mini.offsets.numpy())
    assert len(sizes) == len(np.diff(few.filled(np.array([0, 16])))), "always as many samples"
    assert sizes.min() >= 0 and sizes.max() <= 48 and sizes.sum() == mini.ids.numel()
    assert torch.equal(mini.index_N, plain.index_N) and torch.equal(mini.targets_N, plain.targets_N)
    filled = len(plain.ids)
    assert torch.equal(mini.ids[:filled], plain.ids) and torch.equal(mini.positions_P[:filled], plain.positions_P)
    assert not mini.ids[filled:].any() and not mini.positions_P[filled:].any()


class Reads(TorchDispatchMode):
    """Counts the operations that a GPU would have to be waited for."""

    WAITED_FOR = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.WAITED_FOR:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_step_reads_its_numbers_once(packed, scaled):
    """One wait for the device, before the optimizer, where loss and gradient norm are read together."""
    model = model64()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    of = of_model(model, packed=packed)
    of.scaler = torch.amp.GradScaler("cpu") if scaled else None
    waited: list[int] = []
    wait = of.wait_for_numbers

    def counted(*args) -> None:
        waited.append(len(reads.found))
        wait(*args)

    of.wait_for_numbers = counted
    samples = [sample(2, 5, seed=i) for i in range(5)]
    with Reads() as reads:
        result = of.accumulate(samples, step_config(2))
        of.update(optimizer, result, lr=0.1, grad_clip=1e-3)
    assert (waited, reads.found) == ([0], [])
    assert result.grad_norm > 1e-3
    with Reads() as reads:
        float(torch.ones(()))
    assert reads.found == ["_local_scalar_dense"]


@pytest.mark.parametrize("overflows", [False, True])
def test_an_overflow_skips_the_update_and_halves_the_scale(overflows):
    model = model64()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    of = of_model(model)
    of.scaler = scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    result = of.accumulate([sample(2, 5)], step_config(2))
    if overflows:
        model.head.weight.grad[3, 2] = float("inf")
    before = copy.deepcopy(model.state_dict())
    of.update(optimizer, result, lr=0.1)
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert (result.skipped, bool(moved)) == (overflows, not overflows)
    assert scaler.get_scale() == (512.0 if overflows else 1024.0)
    assert result.is_finite
