"""The chunked loss is the plain cross-entropy: same value, same argmax, same gradients."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lmplay_tui.data.samples import Sample
from lmplay_tui.models.body import body_of, trunk_of
from lmplay_tui.models.gpt2ish import GPT2ish
from lmplay_tui.train.device import Precision
from lmplay_tui.train.gradients import Gradients, StepConfig
from lmplay_tui.train.loss import (
    HeadLoss,
    few_passes_softmax_gradient,
    loss_and_argmax,
    softmax_gradient,
    traced_softmax_gradient,
)
from tests.examples import examples


def a_head(rows: int, vocab: int, dtype: torch.dtype, *, bias: bool = True) -> tuple[nn.Linear, torch.Tensor, Any]:
    torch.manual_seed(rows)
    head = nn.Linear(8, vocab, bias=bias).to(dtype)
    x_NC = torch.randn(rows, 8, dtype=dtype, requires_grad=True)
    return head, x_NC, torch.randint(0, vocab, (rows,))


KERNELS = [softmax_gradient, traced_softmax_gradient, few_passes_softmax_gradient]
QUARTER = torch.tensor(0.25, dtype=torch.float64)


def plain(head: nn.Linear, x_NC: torch.Tensor, targets_N: torch.Tensor) -> list[torch.Tensor]:
    """Loss and argmax; the gradients of a quarter of the loss by x and by the head's parameters."""
    logits_NV = head(x_NC)
    loss = F.cross_entropy(logits_NV.float() if logits_NV.dtype.itemsize < 4 else logits_NV, targets_N, reduction="sum")
    return [loss, logits_NV.argmax(-1), *torch.autograd.grad(0.25 * loss, [x_NC, *head.parameters()])]


def by_hand(memory: HeadLoss, head: nn.Linear, x_NC: torch.Tensor, targets_N: torch.Tensor) -> list[Any]:
    """The same of the chunked loss."""
    head.zero_grad()
    loss, argmax_N, grad_x_NC = memory(head, x_NC, targets_N, QUARTER)
    return [loss, argmax_N, grad_x_NC, *(p.grad for p in head.parameters())]


def assert_is_plain(memory: HeadLoss, head: nn.Linear, x_NC: torch.Tensor, targets_N: torch.Tensor) -> None:
    for mine, expected in zip(by_hand(memory, head, x_NC, targets_N), plain(head, x_NC, targets_N), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)


@examples(40)
@given(
    rows=st.integers(1, 300), vocab=st.integers(2, 70), bias=st.booleans(),
    kernel=st.sampled_from(KERNELS),
)  # fmt: skip
def test_equals_plain_cross_entropy_in_float64(rows: int, vocab: int, bias: bool, kernel) -> None:
    head, x_NC, targets_N = a_head(rows, vocab, torch.float64, bias=bias)
    memory = HeadLoss(kernel)
    for _ in range(2):  # the second time in memory that holds the first one's numbers
        assert_is_plain(memory, head, x_NC, targets_N)


def test_chunks_cover_all_rows_once() -> None:
    head, x_NC, targets_N = a_head(200, 30, torch.float64)
    memory = HeadLoss(chunk_bytes=64 * 30 * 8)
    parts = [part for part, _ in memory.chunks(x_NC.detach(), head.weight.detach(), None)]
    assert [(p.start, p.stop) for p in parts] == [(0, 64), (64, 128), (128, 192), (192, 200)]
    assert_is_plain(memory, head, x_NC, targets_N)


@pytest.mark.parametrize("kernel", KERNELS)
def test_huge_logits_stay_finite_and_ties_take_the_first(kernel) -> None:
    logits = torch.tensor([[1e4, -1e4, 1e4], [0.0, 0.0, 0.0], [-1e30, 3.0, -1e30]])
    loss_n, argmax_n = kernel(logits, torch.tensor([0, 2, 1]), torch.tensor(1.0))
    assert argmax_n.tolist() == [0, 0, 1]
    torch.testing.assert_close(loss_n, torch.tensor([2.0, 3.0, 1.0]).log())
    torch.testing.assert_close(logits, torch.tensor([[-0.5, 0, 0.5], [1 / 3, 1 / 3, -2 / 3], [0, 0, 0]]))


@pytest.mark.parametrize("kernel", KERNELS)
def test_numbers_that_are_not_finite_reach_the_loss(kernel) -> None:
    for bad in (float("nan"), float("inf")):
        loss_n, _ = kernel(torch.tensor([[0.0, bad, 1.0]]), torch.tensor([0]), torch.tensor(1.0))
        assert not loss_n.isfinite().all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_bfloat16_agrees_with_autocast(kernel) -> None:
    head, x_NC, targets_N = a_head(100, 60, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, argmax_N, *gradients = by_hand(HeadLoss(kernel), head, x_NC, targets_N)
        expected_loss, expected_argmax_N, *expected = plain(head, x_NC, targets_N)
    assert torch.equal(argmax_N, expected_argmax_N)
    torch.testing.assert_close(loss, expected_loss)
    for mine, plain_one in zip(gradients, expected, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, plain_one, rtol=0.02, atol=0.005)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gradients_add_to_what_is_there(dtype: torch.dtype) -> None:
    head, x_NC, targets_N = a_head(70, 2100, torch.float32)
    memory = HeadLoss()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
        memory(head, x_NC, targets_N, QUARTER)
        once = [p.grad.clone() for p in head.parameters() if p.grad is not None]
        memory(head, x_NC, targets_N, QUARTER)
    for p, first in zip(head.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, 2 * first, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", [softmax_gradient, few_passes_softmax_gradient])
def test_without_the_argmax_the_rest_is_the_same_to_the_bit(kernel, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits_nV, targets_n = (5 * torch.randn(40, 70)).to(dtype), torch.randint(0, 70, (40,))
    with_it, without = logits_nV.clone(), logits_nV.clone()
    loss_n, argmax_n = kernel(with_it, targets_n, QUARTER)
    loss_alone_n, nothing = kernel(without, targets_n, QUARTER, False)
    assert nothing is None and torch.equal(argmax_n, logits_nV.argmax(-1))
    assert torch.equal(loss_n, loss_alone_n) and torch.equal(with_it, without)


class Products(TorchDispatchMode):
    """Writes matrix products down."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self.said = said

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            self.said.append("product")
        return func(*args, **(kwargs or {}))


def test_what_the_head_computes_for_gradients_is_no_forward_pass() -> None:
    """In each chunk: the logits, then what they give to the rows and to the weight."""
    head, x_NC, targets_N = a_head(70, 64, torch.float32)
    said: list[str] = []
    with Products(said):
        HeadLoss(chunk_bytes=32 * 64 * 4)(head, x_NC, targets_N, QUARTER, mark=said.append)
    chunk = ["product", "forward", "product", "product", "backward"]
    assert said == chunk * (len(said) // 5) and len(said) > 5


class Passes(TorchDispatchMode):
    """Operations that go through all logits: those that read or give a tensor as large."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [x for x in (*args, found) if isinstance(x, torch.Tensor)]
        of_rows = name in ("gather", "scatter_", "detach", "alias")
        if not of_rows and any(x.numel() == self.size for x in tensors):
            self.found.append(name)
        return found


@pytest.mark.parametrize("want_argmax", [False, True])
def test_a_gpus_logits_are_gone_through_three_times(want_argmax: bool) -> None:
    """In float32: of half precision torch's kernel for CUDA makes float32 on its way, which is seen only there."""
    logits_nV, targets_n = torch.empty(8, 500, device="meta"), torch.empty(8, dtype=torch.int64, device="meta")
    factor = torch.empty((), dtype=torch.float64, device="meta")
    with Passes(logits_nV.numel()) as passes:
        softmax_gradient(logits_nV, targets_n, factor, want_argmax)
    assert len(passes.found) == 3 + want_argmax, passes.found
    assert ("argmax" in passes.found) is want_argmax


def test_frozen_parts_get_no_gradient() -> None:
    head, x_NC, targets_N = a_head(10, 20, torch.float64)
    head.weight.requires_grad_(False)
    _, _, grad_x_NC = HeadLoss()(head, x_NC.detach(), targets_N, torch.tensor(1.0))
    assert grad_x_NC is None
    assert head.weight.grad is None
    logits_NV = head(x_NC.detach()).detach().requires_grad_()
    F.cross_entropy(logits_NV, targets_N, reduction="sum").backward()
    assert head.bias.grad is not None
    torch.testing.assert_close(head.bias.grad, logits_NV.grad.sum(0), rtol=0, atol=1e-12)


def a_step(seed: int) -> list[Sample]:
    """Two samples, one with a prompt."""
    ids = torch.randint(0, 3000, (2, 41), generator=torch.Generator().manual_seed(seed)).int().numpy()
    return [Sample("", "", ids[0, :10], ids[0, 10:41], 0), Sample("", "", ids[1, :1], ids[1, 1:33], 0)]


def losses_of_20_steps(model: GPT2ish, how: str) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01)
    cpu = torch.device("cpu")
    config = StepConfig(mini_batch_size=2, normalization="tokens", include_prompts=False, grad_clip=None)
    trunk = trunk_of(model, cpu) if how == "packed" else None
    gradients = Gradients(model, Precision(cpu), hidden=body_of(model), trunk=trunk)
    losses = []
    for step in 5 * [0, 1, 2, 3]:
        optimizer.zero_grad()
        if how != "plain":
            losses.append(gradients.accumulate(a_step(step), config).loss)
        else:
            sums, count = torch.zeros(()), 0
            for sample in a_step(step):
                ids = torch.from_numpy(np.concatenate((sample.prompt_ids, sample.truth_ids))).long()
                first = len(sample.prompt_ids) - 1
                logits = model(ids[None, :-1])[0, first:]
                sums = sums + F.cross_entropy(logits, ids[first + 1 :], reduction="sum")
                count += len(sample.truth_ids)
            (sums / count).backward()
            losses.append(sums.item() / count)
        optimizer.step()
    return losses


@pytest.mark.parametrize("how", ["padded", "packed"])
def test_twenty_steps_in_float32_follow_the_plain_loop(how: str) -> None:
    torch.manual_seed(0)
    model = GPT2ish(vocab_size=3000, context_len=40, num_blocks=2, embed_dim=64, num_heads=2, dropout=0.0)
    expected = losses_of_20_steps(copy.deepcopy(model), "plain")
    got = losses_of_20_steps(model, how)
    assert max(abs(a - b) for a, b in zip(expected, got, strict=True)) < 1e-5
    assert got[0] - got[-1] > 0.01


class Scaled(nn.Linear):
    """A head that is more than its weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * super().forward(x)


def test_a_head_of_the_users_own_is_called_as_it_is() -> None:
    torch.manual_seed(0)
    model = GPT2ish(vocab_size=20, context_len=8, num_blocks=1, embed_dim=8, num_heads=1, dropout=0.0)
    model.head = Scaled(8, 20)
    ids, index, targets = torch.randint(0, 20, (1, 8)), torch.arange(8), torch.randint(0, 20, (8,))
    loss, _ = loss_and_argmax(model, body_of(model), ids, index, targets)
    torch.testing.assert_close(loss, F.cross_entropy(model(ids)[0], targets, reduction="sum"))


def test_the_weights_copy_in_half_precision_is_of_this_step() -> None:
    """It is made once for all mini-batches of a step, and anew once the optimizer has moved the weights."""
    torch.manual_seed(0)
    model = GPT2ish(vocab_size=3000, context_len=40, num_blocks=1, embed_dim=32, num_heads=2, dropout=0.0)
    cpu = torch.device("cpu")

    config = StepConfig(mini_batch_size=1, normalization="tokens", include_prompts=False, grad_clip=None)

    def gradients() -> Gradients:
        return Gradients(model, Precision(cpu, torch.bfloat16), hidden=body_of(model))

    kept = gradients()
    for step in range(3):
        found = kept.accumulate(a_step(step), config).loss
        assert found == gradients().accumulate(a_step(step), config).loss
        with torch.no_grad():
            model.head.weight *= 3
