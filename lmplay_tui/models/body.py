"""What a model may offer beside `forward`, so that it is computed faster (docs/experiments.md).

A body (`hidden`) and a `head` apart: then only positions that count meet the head. `Packable`: a body that reads
samples one behind the other, without padding. `train/model_body.py` compares what is offered with `forward` first.

Axes: T tokens, C width, P positions of packed samples.
"""

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn


class Packable(Protocol):
    """A model that reads samples one behind the other: P positions without padding."""

    def can_pack(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether `trunk` runs there."""

    def embed(self, ids_P: Tensor, positions_P: Tensor) -> Tensor:
        """What goes into `trunk`, (P, C), without a graph."""

    def embed_backward(self, grad_PC: Tensor, ids_P: Tensor, positions_P: Tensor) -> None:
        """Add what the gradient of `embed`'s output gives to its parameters."""

    def trunk(self, x_PC: Tensor, offsets: Tensor) -> Tensor:
        """What goes into the head, (P, C); `offsets`: where each sample begins, and P."""


def body_of(model: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The model's body where body and head are apart (`hidden`, `head`).

    None where only `forward` is there, or where a class that inherits `hidden` has a `forward` of its own.
    """
    hidden = getattr(model, "hidden", None)
    apart = callable(hidden) and isinstance(getattr(model, "head", None), nn.Module)
    return hidden if apart and is_as_new(model, "hidden", "forward") else None


def trunk_of(
    model: nn.Module, device: torch.device, dtype: torch.dtype | None = None
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The model's body for packed samples, where the model has one that runs on `device` under autocast to `dtype`.

    A linear head of torch's own is needed too: any other is called with what the model's author expects. A model or a
    block that inherits it, and computes in a way of its own, has none.
    """
    names = ("can_pack", "embed", "embed_backward", "trunk")
    if type(getattr(model, "head", None)) is not nn.Linear:
        return None
    if not all(callable(getattr(model, name, None)) for name in names):
        return None
    if not cast(Packable, model).can_pack(device, dtype or torch.float32):
        return None
    own = (is_as_new(model, "trunk", "hidden"), is_as_new(model, "trunk", "forward"))
    parts = (is_as_new(part, "packed", "forward") for part in model.modules() if hasattr(part, "packed"))
    return cast(Packable, model).trunk if all(own) and all(parts) else None


def is_as_new(module: nn.Module, name: str, than: str) -> bool:
    """Whether no class below the one that defines `name` defines `than` anew: else they are of two models."""
    for kind in type(module).__mro__:
        if name in vars(kind):
            return True
        if than in vars(kind):
            return False
    return True  # one that the object itself carries
