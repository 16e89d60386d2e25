"""Causal attention of samples that lie one behind the other, without padding, on a processor.

Each sample is attended to by torch's own kernel for processors. One operator around them all, so that a compiled body
sees a single step whatever the samples' lengths are.

Axes: P positions of all samples, H heads, D width of a head, S samples.
"""

import itertools
from typing import Any

import torch
from torch import Tensor

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _samples(offsets: Tensor) -> list[slice]:
    ends: list[int] = offsets.tolist()
    return [slice(begin, end) for begin, end in itertools.pairwise(ends) if end > begin]


def _as_batch(x_PHD: Tensor, rows: slice) -> Tensor:
    """One sample as the kernel wants it, (1, H, T, D)."""
    return x_PHD[rows].transpose(0, 1)[None]


@torch.library.custom_op("lmplay_tui::packed_attention", mutates_args=(), device_types="cpu")
def _packed_attention(q_PHD: Tensor, k_PHD: Tensor, v_PHD: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    y_PHD = torch.empty_like(q_PHD, memory_format=torch.contiguous_format)
    exact = torch.float64 if q_PHD.dtype == torch.float64 else torch.float32
    log_sum_PH = q_PHD.new_empty(q_PHD.shape[:2], dtype=exact)
    for rows in _samples(offsets):
        y, log_sum = _attend(
            _as_batch(q_PHD, rows), _as_batch(k_PHD, rows), _as_batch(v_PHD, rows), is_causal=True
        )  # fmt: skip
        y_PHD[rows] = y[0].transpose(0, 1)
        log_sum_PH[rows] = log_sum[0].transpose(0, 1)
    return y_PHD, log_sum_PH


@_packed_attention.register_fake
def _(q_PHD: Tensor, k_PHD: Tensor, v_PHD: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    exact = torch.float64 if q_PHD.dtype == torch.float64 else torch.float32
    y_PHD = torch.empty_like(q_PHD, memory_format=torch.contiguous_format)
    return y_PHD, q_PHD.new_empty(q_PHD.shape[:2], dtype=exact)


@torch.library.custom_op("lmplay_tui::packed_attention_backward", mutates_args=(), device_types="cpu")
def _packed_attention_backward(  # noqa: PLR0917 - an operator's schema
    grad_y_PHD: Tensor, q_PHD: Tensor, k_PHD: Tensor, v_PHD: Tensor, y_PHD: Tensor, log_sum_PH: Tensor, offsets: Tensor
) -> Tensor:
    """The gradients of queries, keys and values side by side, (P, 3, H, D)."""
    P, H, D = q_PHD.shape
    grad_P3HD = q_PHD.new_zeros(P, 3, H, D)
    for rows in _samples(offsets):
        q, k, v, y, grad_y = (_as_batch(x, rows) for x in (q_PHD, k_PHD, v_PHD, y_PHD, grad_y_PHD))
        log_sum = log_sum_PH[rows].transpose(0, 1)[None]
        for index, grad in enumerate(_attend_backward(grad_y, q, k, v, y, log_sum, 0.0, True)):
            grad_P3HD[rows, index] = grad[0].transpose(0, 1)
    return grad_P3HD


@_packed_attention_backward.register_fake
def _(  # noqa: PLR0917
    grad_y_PHD: Tensor, q_PHD: Tensor, k_PHD: Tensor, v_PHD: Tensor, y_PHD: Tensor, log_sum_PH: Tensor, offsets: Tensor
) -> Tensor:
    P, H, D = q_PHD.shape
    return q_PHD.new_empty(P, 3, H, D)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output, inputs[3])


def _backward(ctx: Any, grad_y_PHD: Tensor, _grad_log_sum: Tensor) -> tuple[Tensor | None, ...]:
    q_PHD, k_PHD, v_PHD, y_PHD, log_sum_PH, offsets = ctx.saved_tensors
    grad_P3HD = _packed_attention_backward(grad_y_PHD, q_PHD, k_PHD, v_PHD, y_PHD, log_sum_PH, offsets)
    return (*grad_P3HD.unbind(1), None)


_packed_attention.register_autograd(_backward, setup_context=_keep)


def packed_attention(q_PHD: Tensor, k_PHD: Tensor, v_PHD: Tensor, offsets: Tensor) -> Tensor:
    """What each position reads of its own sample up to itself, (P, H, D).

    `offsets`: int64 (S + 1), where each sample begins, and P.
    """
    y_PHD: Tensor = _packed_attention(q_PHD, k_PHD, v_PHD, offsets)[0]
    return y_PHD
