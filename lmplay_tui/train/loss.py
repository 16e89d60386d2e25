"""Cross-entropy over the positions that count, with the argmax that word accuracy needs.

A small model with a large vocabulary spends most of its time between its last norm and its loss. So only positions
that count meet the head, some hundred at a time; their gradient is computed where their logits are still in the
processor's cache, and written over them. No more logits than a chunk of them exist at any time.

Axes: B samples, T tokens, C width, V vocabulary, N positions in the loss, n of them in a chunk.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Rewrites logits as the gradient of the summed cross-entropy; gives each row's loss and likeliest token.
Kernel: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Of a chunk of logits. The products with the head need rows enough to run at full speed; beyond that more only costs.
_CHUNK_BYTES = {"cpu": 48 << 20, "cuda": 512 << 20, "mps": 256 << 20}
_ROW_MULTIPLE = 64


def softmax_gradient(logits_nV: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
    """Rewrite logits as `softmax - one-hot target`; gives loss_n (float32, or float64) and argmax_n (int64)."""
    exact = logits_nV if logits_nV.dtype.itemsize >= 4 else logits_nV.float()
    argmax_n = _argmax(exact)
    exact -= exact.gather(1, argmax_n[:, None])
    target_n = exact.gather(1, targets_n[:, None])  # below the largest: small, whatever the logits' size
    sum_n = exact.exp_().sum(dim=-1, keepdim=True)
    loss_n = sum_n.log() - target_n
    exact /= sum_n
    exact.scatter_add_(1, targets_n[:, None], exact.new_full(targets_n.shape, -1.0)[:, None])
    if exact is not logits_nV:
        logits_nV.copy_(exact)
    return loss_n[:, 0], argmax_n


def _argmax(x_nV: Tensor) -> Tensor:
    """The first of each row's largest. NumPy's search is vectorized, torch's on a processor is not: x4 in float32."""
    if x_nV.device.type == "cpu" and x_nV.dtype is torch.float32:
        return torch.from_numpy(x_nV.detach().numpy().argmax(axis=-1))
    return x_nV.argmax(dim=-1)


def traced_softmax_gradient(logits_nV: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
    """`softmax_gradient` as torch.compile likes it: reductions and one expression, all vectorized over the row.

    Its own argmax is not vectorized and takes as long as all the rest: so the smallest index of the largest value is
    looked for, among indices as float32 (exact up to 2**24).
    """
    exact = logits_nV.float() if logits_nV.dtype.itemsize < 4 else logits_nV
    V = exact.shape[1]
    index_V = torch.arange(V, dtype=torch.float32, device=exact.device)
    max_n = exact.amax(dim=-1, keepdim=True)
    argmax_n = torch.where(exact == max_n, index_V, float(V - 1)).amin(dim=-1).long()
    exp_nV = (exact - max_n).exp()
    sum_n = exp_nV.sum(dim=-1, keepdim=True)
    loss_n = sum_n.log() - (exact.gather(1, targets_n[:, None]) - max_n)
    is_target_nV = (index_V == targets_n[:, None].float()).to(exact.dtype)
    logits_nV.copy_(exp_nV * sum_n.reciprocal() - is_target_nV)
    return loss_n[:, 0], argmax_n


class HeadLoss:
    """The head and the loss behind it, chunk by chunk, in memory that is kept from step to step."""

    def __init__(self, kernel: Kernel = softmax_gradient) -> None:
        self.kernel = kernel
        self._memory: dict[str, Tensor] = {}

    def __call__(self, head: nn.Linear, x_NC: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """The summed loss (scalar; with gradients for `x_NC` and the head) and the argmax of each row."""
        loss, argmax_N = _HeadLoss.apply(x_NC, head.weight, head.bias, targets_N, self)  # type: ignore[no-untyped-call]
        return loss, argmax_N

    def chunks(self, x_NC: Tensor, weight_VC: Tensor, bias_V: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
        """The logits of some rows at a time, in memory that the next chunk overwrites."""
        V = weight_VC.shape[0]
        rows = _CHUNK_BYTES.get(x_NC.device.type, 1 << 26) // (V * x_NC.element_size())
        rows = min(max(rows // _ROW_MULTIPLE, 1) * _ROW_MULTIPLE, len(x_NC))
        memory = self.kept("logits", rows * V, x_NC)
        for begin in range(0, len(x_NC), rows):
            part = slice(begin, min(begin + rows, len(x_NC)))
            logits_nV = memory[: (part.stop - begin) * V].view(-1, V)
            if bias_V is None:
                torch.mm(x_NC[part], weight_VC.t(), out=logits_nV)
            else:
                torch.addmm(bias_V, x_NC[part], weight_VC.t(), out=logits_nV)
            yield part, logits_nV

    def kept(self, name: str, size: int, like: Tensor) -> Tensor:
        """Memory of at least `size` elements: fresh memory costs more than what is computed in it."""
        memory = self._memory.get(name)
        if memory is None or memory.numel() < size or memory.dtype != like.dtype or memory.device != like.device:
            memory = self._memory[name] = torch.empty(size, dtype=like.dtype, device=like.device)
        return memory

    def in_format(self, tensor: Tensor, name: str, dtype: torch.dtype) -> Tensor:
        """`tensor` in the number format of the products."""
        if tensor.dtype == dtype:
            return tensor.detach()
        like = tensor.new_empty(0, dtype=dtype)
        return self.kept(name, tensor.numel(), like)[: tensor.numel()].view(tensor.shape).copy_(tensor.detach())


class _HeadLoss(torch.autograd.Function):
    """Gradients are computed on the way forward: each chunk's logits are then never needed again."""

    @staticmethod
    def forward(  # noqa: PLR0917 - `apply` takes no keywords
        ctx: Any, x_NC: Tensor, weight_VC: Tensor, bias_V: Tensor | None, targets_N: Tensor, loss: HeadLoss
    ) -> tuple[Tensor, Tensor]:
        device = x_NC.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_NC.dtype
        exact = dtype if dtype.itemsize >= 4 else torch.float32
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        with torch.autocast(device, enabled=False):
            x = x_NC.detach().to(dtype)
            weight = loss.in_format(weight_VC, "weight", dtype)
            bias = None if bias_V is None else bias_V.detach().to(dtype)
            losses, argmaxes = [], []
            grad_x = torch.empty_like(x) if wants_x else None
            grad_weight: Tensor | None = None
            grad_bias = torch.zeros_like(bias_V, dtype=exact) if wants_bias and bias_V is not None else None
            for part, logits_nV in loss.chunks(x, weight, bias):
                loss_n, argmax_n = loss.kernel(logits_nV, targets_N[part])
                losses.append(loss_n)
                argmaxes.append(argmax_n)
                if grad_x is not None:
                    torch.mm(logits_nV, weight, out=grad_x[part])
                if wants_weight:
                    grad_weight = _add_product(grad_weight, logits_nV, x[part], exact)
                if grad_bias is not None:
                    grad_bias += logits_nV.sum(dim=0, dtype=exact)
        ctx.gradients = grad_x, grad_weight, grad_bias
        ctx.dtypes = [None if t is None else t.dtype for t in (x_NC, weight_VC, bias_V)]
        argmax_N = torch.cat(argmaxes)
        ctx.mark_non_differentiable(argmax_N)
        return torch.cat(losses).sum(), argmax_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("a loss has been sent backward a second time; its gradients are made once")
        scaled = [
            None if gradient is None else gradient.to(dtype).mul_(scale)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None)


def _add_product(sum_VC: Tensor | None, grad_nV: Tensor, x_nC: Tensor, exact: torch.dtype) -> Tensor:
    """Add the weight's gradient of a chunk; sums of half-precision products are kept in float32."""
    if sum_VC is None:
        return torch.mm(grad_nV.t(), x_nC).to(exact)
    if grad_nV.dtype == exact:
        return sum_VC.addmm_(grad_nV.t(), x_nC)
    return sum_VC.add_(torch.mm(grad_nV.t(), x_nC))


def loss_and_argmax(
    model: nn.Module,
    hidden: Callable[[Tensor], Tensor] | None,
    ids_BT: Tensor,
    index_N: Tensor,
    targets_N: Tensor,
    *,
    head_loss: HeadLoss | None = None,
) -> tuple[Tensor, Tensor]:
    """The summed loss in nats (scalar, float32, or float64 in a float64 model) and the likeliest tokens (N, int64).

    `hidden`: the model's body where it has body and `head` apart: then only positions that count meet the head,
    which is most of the arithmetic of a small model with a large vocabulary. A padded position is never computed on.
    `head_loss`: holds memory from call to call. Where a gradient is wanted and the head is a plain linear layer.
    """
    if hidden is None:
        logits_NV = model(ids_BT).flatten(0, 1).index_select(0, index_N)
    else:
        x_NC = hidden(ids_BT).flatten(0, 1).index_select(0, index_N)
        head = model.head
        if type(head) is nn.Linear and torch.is_grad_enabled():
            return (head_loss or HeadLoss())(head, x_NC, targets_N)
        assert isinstance(head, nn.Module)
        logits_NV = head(x_NC)
    # Softmax over half-precision logits loses the small differences that the loss is made of.
    exact_NV = logits_NV if logits_NV.dtype.itemsize >= 4 else logits_NV.float()
    return F.cross_entropy(exact_NV, targets_N, reduction="sum"), logits_NV.detach().argmax(dim=-1)
