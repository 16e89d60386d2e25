"""Causal attention of samples that lie one behind the other, without padding.

On a processor each sample is attended to by torch's own kernel; one operator around them all, so that a compiled body
sees a single step whatever the samples' lengths are. A GPU has a kernel that reads them all at once.

Axes: P positions of all samples, H heads, D width of a head, S samples.
"""

import inspect
import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _samples(offsets: Tensor) -> list[slice]:
    ends: list[int] = offsets.tolist()
    return [slice(begin, end) for begin, end in itertools.pairwise(ends) if end > begin]


def _as_batch(x_PHD: Tensor, rows: slice) -> Tensor:
    """One sample as the kernel wants it, (1, H, T, D)."""
    return x_PHD[rows].transpose(0, 1)[None]


# What `torch.library.custom_op` would make of them, but for a wrapper that imports `torch._dynamo` (1.5 s) at the first
# call, compiled or not, to keep the compiler from looking into what runs inside its own graph, where it does not look.
torch.library.define(
    "lmplay_tui::packed_attention",
    "(Tensor q_PHD, Tensor k_PHD, Tensor v_PHD, Tensor offsets) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "lmplay_tui::packed_attention_backward",
    "(Tensor grad_y_PHD, Tensor q_PHD, Tensor k_PHD, Tensor v_PHD, Tensor y_PHD, Tensor log_sum_PH, Tensor offsets)"
    " -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl("lmplay_tui::packed_attention", "cpu")
def _attend_packed(q_PHD: Tensor, k_PHD: Tensor, v_PHD: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
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


@torch.library.register_fake("lmplay_tui::packed_attention")  # type: ignore[untyped-decorator]
def _(q_PHD: Tensor, k_PHD: Tensor, v_PHD: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    exact = torch.float64 if q_PHD.dtype == torch.float64 else torch.float32
    y_PHD = torch.empty_like(q_PHD, memory_format=torch.contiguous_format)
    return y_PHD, q_PHD.new_empty(q_PHD.shape[:2], dtype=exact)


@torch.library.impl("lmplay_tui::packed_attention_backward", "cpu")
def _attend_packed_backward(  # noqa: PLR0917 - an operator's schema
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


@torch.library.register_fake("lmplay_tui::packed_attention_backward")  # type: ignore[untyped-decorator]
def _(  # noqa: PLR0917
    grad_y_PHD: Tensor, q_PHD: Tensor, k_PHD: Tensor, v_PHD: Tensor, y_PHD: Tensor, log_sum_PH: Tensor, offsets: Tensor
) -> Tensor:
    P, H, D = q_PHD.shape
    return q_PHD.new_empty(P, 3, H, D)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output, inputs[3])


def _backward(ctx: Any, grad_y_PHD: Tensor, _grad_log_sum: Tensor) -> tuple[Tensor | None, ...]:
    q_PHD, k_PHD, v_PHD, y_PHD, log_sum_PH, offsets = ctx.saved_tensors
    grad_P3HD = torch.ops.lmplay_tui.packed_attention_backward(
        grad_y_PHD, q_PHD, k_PHD, v_PHD, y_PHD, log_sum_PH, offsets
    )
    return (*grad_P3HD.unbind(1), None)


torch.library.register_autograd("lmplay_tui::packed_attention", _backward, setup_context=_keep)


Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]

# What tells the kernel to be causal: found at its first use, which `can_pack` makes. Asking costs as much as a layer,
# and a cached function would not do: torch.compile looks through the cache, and warns.
how_causal: dict[str, Any] = {}


def flash(q_PHD: Tensor, k_PHD: Tensor, v_PHD: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """torch's kernel for GPUs, from torch 2.10 on; which word says that it is causal differs between versions."""
    from torch.nn.attention import varlen

    attend: Any = varlen.varlen_attn
    if not how_causal:
        has_window = "window_size" in inspect.signature(attend).parameters
        how_causal.update({"window_size": (-1, 0)} if has_window else {"is_causal": True})
    y_PHD: Tensor = attend(q_PHD, k_PHD, v_PHD, offsets, offsets, longest, longest, **how_causal)
    return y_PHD


def packed_attention(q_PHD: Tensor, k_PHD: Tensor, v_PHD: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """What each position reads of its own sample up to itself, (P, H, D).

    `offsets`: where each sample begins, and P; int64 on a processor, int32 on a GPU (samples + 1). `longest`: no
    sample is longer.
    """
    if q_PHD.device.type != "cpu":
        return flash(q_PHD, k_PHD, v_PHD, offsets, longest)
    y_PHD: Tensor = torch.ops.lmplay_tui.packed_attention(q_PHD, k_PHD, v_PHD, offsets)[0]
    return y_PHD


@cache
def can_pack(device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether `packed_attention` is to be had there: on a processor, and on a GPU whose kernel gives the right numbers.

    A GPU's kernel needs a half-precision format, a torch that has it, and a GPU that it was built for. All this shows
    when it is tried, once.
    """
    if device.type == "cpu":
        return True
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    try:
        return is_right(device, dtype, head_width)
    except Exception:  # no such module, no kernel for this GPU or width: whatever it is, padded samples need none of it
        return False


def is_right(device: torch.device, dtype: torch.dtype, head_width: int, attend: Attend = packed_attention) -> bool:
    """Whether three samples of different lengths, one of them empty, get what each gets alone, and its gradients."""
    lengths = (40, 0, 16, 72)
    ends = list(itertools.accumulate(lengths, initial=0))
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(3, ends[-1], 2, head_width, generator=generator)
    weights_PHD = torch.randn(ends[-1], 2, head_width, generator=generator).to(device, dtype)
    qkv = numbers.to(device, dtype).requires_grad_()
    offsets = torch.tensor(ends, dtype=torch.int64 if device.type == "cpu" else torch.int32, device=device)
    q, k, v = qkv.unbind(0)
    packed_PHD = attend(q, k, v, offsets, max(lengths))
    alone = []
    for rows in _samples(offsets):
        q1, k1, v1 = (_as_batch(x_PHD, rows) for x_PHD in (q, k, v))
        alone.append(functional.scaled_dot_product_attention(q1, k1, v1, is_causal=True)[0].transpose(0, 1))
    alone_PHD = torch.cat(alone)
    pairs = [(packed_PHD, alone_PHD)]
    pairs += zip(*(torch.autograd.grad((y * weights_PHD).sum(), qkv) for y in (packed_PHD, alone_PHD)), strict=True)
    most = 0.05 if dtype.itemsize == 2 else 1e-4
    return all(torch.allclose(mine.float(), expected.float(), rtol=most, atol=most) for mine, expected in pairs)
