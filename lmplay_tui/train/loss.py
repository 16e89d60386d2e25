"""Cross-entropy over the positions that count, with the argmax that word accuracy needs.

A small model with a large vocabulary spends most of its time between its last norm and its loss. So only positions
that count meet the head, some hundred at a time; their gradient is computed where their logits are still in the
processor's cache, and written over them. No more logits than a chunk of them exist at any time.

Axes: B samples, T tokens, C width, V vocabulary, N positions in the loss, n of them in a chunk.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Rewrites logits as the gradient of the summed cross-entropy, times a factor; gives each row's loss, and its likeliest
# token where that is wanted, as the last argument says.
Kernel: TypeAlias = Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]

# Of a chunk of logits. The products with the head need rows enough to run at full speed; beyond that more only costs.
_CHUNK_BYTES = {"cpu": 128 << 20, "cuda": 512 << 20, "mps": 256 << 20}
# Matrix products prepare code for each shape that they meet, and keep it: few shapes cost less time and memory.
_ROW_MULTIPLE = 64
SCORED_ROWS = 512  # without gradients, also of a head of the user's own, whose logits' width is not known beforehand


def softmax_gradient(
    logits_nV: Tensor, targets_n: Tensor, factor: Tensor, want_argmax: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Rewrite logits as `factor * (softmax - one-hot target)`.

    Gives loss_n without the factor (float32, or float64) and argmax_n (int64; None where it is not wanted).
    """
    if logits_nV.device.type != "cpu":
        return few_passes_softmax_gradient(logits_nV, targets_n, factor, want_argmax)
    exact = logits_nV if logits_nV.dtype.itemsize >= 4 else logits_nV.float()
    argmax_n = _argmax(exact) if want_argmax else None
    exact -= exact.amax(dim=-1, keepdim=True) if argmax_n is None else exact.gather(1, argmax_n[:, None])
    target_n = exact.gather(1, targets_n[:, None])  # below the largest: small, whatever the logits' size
    sum_n = exact.exp_().sum(dim=-1, keepdim=True)
    loss_n = sum_n.log() - target_n
    exact *= factor / sum_n
    exact.scatter_add_(1, targets_n[:, None], -factor.to(exact.dtype).expand(len(targets_n), 1))
    if exact is not logits_nV:
        logits_nV.copy_(exact)
    return loss_n[:, 0], argmax_n


def few_passes_softmax_gradient(
    logits_nV: Tensor, targets_n: Tensor, factor: Tensor, want_argmax: bool = True
) -> tuple[Tensor, Tensor | None]:
    """`softmax_gradient` for devices where each operation goes through the memory of all logits.

    Three times beside the argmax: torch's own kernel finds largest and sum and changes the number format in one.
    """
    argmax_n = logits_nV.argmax(dim=-1) if want_argmax else None
    log_p_nV = logits_nV.log_softmax(dim=-1, dtype=logits_nV.dtype if logits_nV.dtype.itemsize >= 4 else torch.float32)
    at_target_n1 = targets_n[:, None]
    log_p_n1 = log_p_nV.gather(1, at_target_n1)
    factor = factor.to(log_p_nV.dtype)
    torch.mul(log_p_nV.exp_(), factor, out=logits_nV)
    # In full precision: a probability near 1, rounded first, would leave nothing of its difference from 1.
    logits_nV.scatter_(1, at_target_n1, (log_p_n1.expm1() * factor).to(logits_nV.dtype))
    return -log_p_n1[:, 0], argmax_n


def _argmax(x_nV: Tensor) -> Tensor:
    """The first of each row's largest. NumPy's search is vectorized, torch's on a processor is not: x4 in float32."""
    if x_nV.device.type == "cpu" and x_nV.dtype is torch.float32:
        return torch.from_numpy(x_nV.detach().numpy().argmax(axis=-1))
    return x_nV.argmax(dim=-1)


def traced_softmax_gradient(
    logits_nV: Tensor, targets_n: Tensor, factor: Tensor, want_argmax: bool = True
) -> tuple[Tensor, Tensor]:
    """`softmax_gradient` as torch.compile likes it: reductions and one expression, all vectorized over the row.

    `want_argmax` changes nothing: the argmax costs little among the reductions, a second program would cost more.

    Its own argmax is not vectorized and takes as long as all the rest: so the smallest index of the largest value is
    looked for, among indices as float32 (exact up to 2**24).
    """
    exact = logits_nV.float() if logits_nV.dtype.itemsize < 4 else logits_nV
    V = exact.shape[1]
    index_V = torch.arange(V, dtype=torch.float32, device=exact.device)
    max_n = exact.amax(dim=-1, keepdim=True)
    argmax_n = torch.where(exact == max_n, index_V, float(V - 1)).amin(dim=-1).long()
    # Twice `exp`, of two differences: kept between its two uses it would be a fresh float32 copy of all logits.
    below_nV = exact - max_n
    log_sum_n = below_nV.exp().sum(dim=-1, keepdim=True).log()
    loss_n = log_sum_n - below_nV.gather(1, targets_n[:, None])
    is_target_nV = (index_V == targets_n[:, None].float()).to(exact.dtype)
    logits_nV.copy_(((below_nV - log_sum_n).exp() - is_target_nV) * factor)
    return loss_n[:, 0], argmax_n


class HeadLoss:
    """The head, the loss behind it and their gradients, chunk by chunk, in memory that is kept from step to step.

    The gradients are computed by hand on the way forward: a chunk's logits are then never needed again, and what they
    give to the head's parameters is added where it belongs, without a copy of the size of the head.
    """

    def __init__(self, kernel: Kernel = softmax_gradient, chunk_bytes: int | None = None) -> None:
        """`chunk_bytes`: of the logits computed at a time; None: as the device has room for them."""
        self.kernel = kernel
        self._chunk_bytes = chunk_bytes
        self._memory: dict[str, Tensor] = {}
        self._converted: Tensor | None = None  # the weight whose copy in another format holds for this step

    def begin_step(self) -> None:
        """The weights have moved since the last call: nothing made of them holds any more."""
        self._converted = None

    def __call__(
        self, head: nn.Linear, x_NC: Tensor, targets_N: Tensor, factor: Tensor, *, want_argmax: bool = True,
        mark: Callable[[str], None] = lambda _: None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        """The summed loss (scalar), the argmax of each row, and the gradient of `factor` times the loss by `x_NC`.

        Adds the gradients of `factor` times the loss to the head's parameters. `factor` is a scalar on the device.
        `mark`: called with "forward" and "backward", each where so much of a chunk's work ends.
        """
        device = x_NC.device.type
        is_mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if is_mixed else x_NC.dtype
        with torch.no_grad(), torch.autocast(device, enabled=False) if is_mixed else nullcontext():
            N = len(x_NC)
            x = F.pad(x_NC.detach().to(dtype), (0, 0, 0, -N % _ROW_MULTIPLE))
            weight = self._in_format(head.weight, dtype)
            bias = None if head.bias is None else head.bias.to(dtype)
            grad_x = torch.empty_like(x) if x_NC.requires_grad else None
            losses, argmaxes = [], []
            for part, logits_nV in self.chunks(x, weight, bias):
                n = min(part.stop, N) - part.start
                loss_n, argmax_n = self.kernel(logits_nV[:n], targets_N[part], factor, want_argmax)
                logits_nV[n:] = 0.0  # rows behind the last: they only make the shape a usual one
                losses.append(loss_n)
                if argmax_n is not None:
                    argmaxes.append(argmax_n)
                mark("forward")
                if grad_x is not None:
                    torch.mm(logits_nV, weight, out=grad_x[part])
                if head.weight.requires_grad:
                    self._add_product(head.weight, logits_nV, x[part])
                if head.bias is not None and head.bias.requires_grad:
                    _add_column_sums(head.bias, logits_nV)
                mark("backward")
            argmax_N = torch.cat(argmaxes) if want_argmax else None
            return torch.cat(losses).sum(), argmax_N, None if grad_x is None else grad_x[:N].to(x_NC.dtype)

    def chunks(self, x_NC: Tensor, weight_VC: Tensor, bias_V: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
        """The logits of some rows at a time, about as many each time, in memory that the next chunk overwrites."""
        N, V = len(x_NC), weight_VC.shape[0]
        chunk_bytes = self._chunk_bytes or _CHUNK_BYTES.get(x_NC.device.type, 1 << 26)
        most = max(chunk_bytes // (V * x_NC.element_size()), _ROW_MULTIPLE)
        rows = -(-N // -(-N // most))
        rows = min(-(-rows // _ROW_MULTIPLE) * _ROW_MULTIPLE, N)
        memory = self._kept("logits", rows * V, x_NC.dtype, x_NC.device)
        for part in _blocks(N, rows):
            logits_nV = memory[: (part.stop - part.start) * V].view(-1, V)
            if bias_V is None:
                torch.mm(x_NC[part], weight_VC.t(), out=logits_nV)
            else:
                torch.addmm(bias_V, x_NC[part], weight_VC.t(), out=logits_nV)
            yield part, logits_nV

    def _kept(self, name: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory of at least `size` elements: fresh memory costs more than what is computed in it."""
        memory = self._memory.pop(name, None)
        if memory is None or memory.numel() < size or memory.dtype != dtype or memory.device != device:
            memory = None  # freed before the new one is made
            memory = torch.empty(size, dtype=dtype, device=device)
        self._memory[name] = memory
        return memory

    def _in_format(self, weight_VC: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight in the number format of the products; made once a step, for all of its mini-batches."""
        if weight_VC.dtype == dtype:
            return weight_VC.detach()
        size = weight_VC.numel()
        known = self._memory.get("weight")
        memory = self._kept("weight", size, dtype, weight_VC.device)
        converted_VC = memory[:size].view(weight_VC.shape)
        if memory is not known or self._converted is not weight_VC:
            converted_VC.copy_(weight_VC)
            self._converted = weight_VC
        return converted_VC

    def _add_product(self, weight_VC: Tensor, grad_nV: Tensor, x_nC: Tensor) -> None:
        """Add the weight's gradient of a chunk; sums of half-precision products are kept in the weight's format."""
        if weight_VC.dtype == grad_nV.dtype:
            if weight_VC.grad is None:
                weight_VC.grad = torch.mm(grad_nV.t(), x_nC)
            else:
                weight_VC.grad.addmm_(grad_nV.t(), x_nC)
            return
        size = weight_VC.numel()
        product_VC = self._kept("product", size, grad_nV.dtype, weight_VC.device)[:size].view(weight_VC.shape)
        torch.mm(grad_nV.t(), x_nC, out=product_VC)
        if weight_VC.grad is None:
            weight_VC.grad = product_VC.to(weight_VC.dtype)
            return
        # On a processor torch first makes a float32 copy of what is added: block by block that stays in the cache.
        for rows in _blocks(len(weight_VC), 1024 if weight_VC.device.type == "cpu" else len(weight_VC)):
            weight_VC.grad[rows] += product_VC[rows]


def _add_column_sums(bias_V: Tensor, grad_nV: Tensor) -> None:
    """Add the bias's gradient of a chunk. On a processor torch copies half precision to float32 first: in blocks."""
    if bias_V.grad is None:
        bias_V.grad = torch.zeros_like(bias_V)
    is_copied = grad_nV.dtype != bias_V.dtype and grad_nV.device.type == "cpu"
    for rows in _blocks(len(grad_nV), 32 if is_copied else len(grad_nV)):
        bias_V.grad += grad_nV[rows].sum(dim=0, dtype=bias_V.dtype)


def _blocks(length: int, rows: int) -> Iterator[slice]:
    return (slice(begin, min(begin + rows, length)) for begin in range(0, length, rows))


def loss_and_argmax(
    model: nn.Module, hidden: Callable[[Tensor], Tensor] | None, ids_BT: Tensor, index_N: Tensor, targets_N: Tensor,
    *, want_argmax: bool = True,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The summed loss in nats (scalar, float32, or float64 in a float64 model) and the likeliest tokens (N, int64).

    `hidden`: the model's body where it has body and `head` apart: then only positions that count meet the head.
    """
    losses, argmaxes = [], []
    for part, exact_nV in logits_by_rows(model, hidden, ids_BT, index_N):
        losses.append(F.cross_entropy(exact_nV, targets_N[part], reduction="sum"))
        if want_argmax:
            argmaxes.append(_argmax(exact_nV.detach()))
    return torch.stack(losses).sum(), torch.cat(argmaxes) if want_argmax else None


def logits_by_rows(
    model: nn.Module, hidden: Callable[[Tensor], Tensor] | None, ids_BT: Tensor, index_N: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Logits of the positions that count, in float32 or more, a few hundred at a time; all at once for a gradient.

    For a gradient all of them are kept in any case.
    """
    head: Callable[[Tensor], Tensor] = (lambda logits_NV: logits_NV) if hidden is None else model.get_submodule("head")
    x_PC = (model if hidden is None else hidden)(ids_BT).flatten(0, 1)
    for part in _blocks(len(index_N), len(index_N) if torch.is_grad_enabled() else SCORED_ROWS):
        logits_nV = head(x_PC.index_select(0, index_N[part]))
        # Softmax over half-precision logits loses the small differences that the loss is made of.
        yield part, logits_nV if logits_nV.dtype.itemsize >= 4 else logits_nV.float()
