"""Cross-entropy over the positions that count, with the argmax that word accuracy needs.

Axes: B samples, T tokens, C width, V vocabulary, N positions in the loss.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F


def loss_and_argmax(
    model: nn.Module,
    hidden: Callable[[Tensor], Tensor] | None,
    ids_BT: Tensor,
    index_N: Tensor,
    targets_N: Tensor,
) -> tuple[Tensor, Tensor]:
    """The summed loss in nats (scalar, float32, or float64 in a float64 model) and the likeliest tokens (N, int64).

    `hidden`: the model's body where it has body and `head` apart: then only positions that count meet the head,
    which is most of the arithmetic of a small model with a large vocabulary. A padded position is never computed on.
    """
    if hidden is None:
        logits_NV = model(ids_BT).flatten(0, 1).index_select(0, index_N)
    else:
        head = model.head
        assert isinstance(head, nn.Module)
        logits_NV = head(hidden(ids_BT).flatten(0, 1).index_select(0, index_N))
    # Softmax over half-precision logits loses the small differences that the loss is made of.
    exact_NV = logits_NV if logits_NV.dtype.itemsize >= 4 else logits_NV.float()
    return F.cross_entropy(exact_NV, targets_N, reduction="sum"), logits_NV.detach().argmax(dim=-1)
