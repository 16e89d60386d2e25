"""Samples one behind the other attend each to itself; where a device's kernel does not, samples are padded."""

import inspect
import itertools
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lmplay_tui.models.packed_attention import can_pack, flash, is_right
from tests.train.test_gradients import CPU, assert_equal, gradients_of, model64, sample


def of_each(q, k, v, offsets, longest: int, *, causal: bool):
    """What a GPU's kernel computes, by the plain attention of each sample."""
    assert offsets.dtype in (torch.int32, torch.int64)
    parts = []
    for begin, end in itertools.pairwise(offsets.tolist()):
        assert 0 <= end - begin <= longest
        q1, k1, v1 = (x[begin:end].transpose(0, 1)[None] for x in (q, k, v))
        parts.append(F.scaled_dot_product_attention(q1, k1, v1, is_causal=causal)[0].transpose(0, 1))
    return torch.cat(parts)


def by_window(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)):  # noqa: PLR0917 - as torch has it
    """torch 2.11's signature, and later."""
    assert (cu_seq_q is cu_seq_k, max_q) == (True, max_k)
    return of_each(q, k, v, cu_seq_q, max_q, causal=window_size == (-1, 0))


def by_flag(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):  # noqa: PLR0917
    """torch 2.10's."""
    return of_each(q, k, v, cu_seq_q, max_q, causal=is_causal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_processors_kernel_is_right(dtype) -> None:
    assert is_right(CPU, dtype, 16)


@pytest.mark.parametrize("kernel", [by_window, by_flag])
def test_a_gpus_kernel_is_called_as_its_torch_wants_it(monkeypatch, seams, kernel) -> None:
    """The model's numbers by the GPU's way, on a processor: those of padded samples."""
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="torch 2.10 and later")  # imports the compiler
    asked: list[object] = []
    signature = inspect.signature

    def counted(of: Any) -> inspect.Signature:
        asked.append(of)
        return signature(of)

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr("lmplay_tui.models.packed_attention.how_causal", {})
    monkeypatch.setattr(inspect, "signature", counted)
    seams.put("packed attention", flash)
    model = model64()
    samples = [sample(1 + i % 3, 2 + 3 * i, seed=i) for i in range(7)]
    padded = gradients_of(model, samples, mini_batch_size=3)
    for width_multiple in (1, 16):
        packed = gradients_of(model, samples, packed=True, mini_batch_size=3, width_multiple=width_multiple)
        assert_equal(packed, padded)
    assert asked.count(kernel) == 1, "once, not for each layer of each mini-batch"


def not_causal(*arguments):
    return of_each(*arguments, causal=False)


def without_borders(q, k, v, offsets, longest):
    return of_each(q, k, v, offsets[[0, -1]], len(q), causal=True)


@pytest.mark.parametrize("wrong", [not_causal, without_borders])
def test_a_kernel_that_is_wrong_is_found_out(wrong) -> None:
    assert not is_right(CPU, torch.bfloat16, 16, attend=wrong)


def test_where_there_is_no_kernel_samples_are_padded() -> None:
    assert can_pack(CPU, torch.float32, 16)
    assert not can_pack(torch.device("cuda"), torch.float32, 16)
    assert not can_pack(torch.device("cuda"), torch.bfloat16, 16), "this machine has none"
    assert not can_pack(torch.device("mps"), torch.bfloat16, 16)
