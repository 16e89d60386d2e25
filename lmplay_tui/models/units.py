"""A model's units, the blocks that it is stacked of: what is computed again in the backward pass, one after the other.

Chen et al. 2016, https://arxiv.org/abs/1604.06174: of each unit its input alone is kept; what it computed in the
forward pass is computed once more when its gradients are, with the same random numbers. So a deep model's activations
take the memory of one unit and of the inputs of all; a step takes about a third more time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import nn

_WAYS = ("forward", "packed")  # a unit's ways of computing: `forward`, and `packed` for samples without padding
_PLAIN = "_computed_once"  # set on a unit while it keeps all that it computes


def units_of(model: nn.Module) -> list[nn.Module]:
    """The members of the model's outermost lists (`nn.ModuleList`, `nn.Sequential`) of blocks; none where it has none.

    A block is a module with modules of its own: a list of single layers is no list of blocks. The gradient of a model
    is the same whichever parts of it are units: they only say what is kept.
    """
    units: list[nn.Module] = []
    ahead = [model]
    while ahead:
        for child in ahead.pop(0).children():
            if isinstance(child, nn.ModuleList | nn.Sequential) and all(any(unit.children()) for unit in child):
                units += child
            else:
                ahead.append(child)
    return units


def recompute(model: nn.Module) -> int:
    """Let each unit compute its activations again in the backward pass; the number of units.

    Losses and gradients are bit by bit what they were. Weights, names and hooks stay as they are.
    """
    units = units_of(model)
    for unit in units:
        for way in _WAYS:
            if callable(computed := getattr(unit, way, None)):
                setattr(unit, way, _recomputed(unit, computed))
    return len(units)


def _recomputed(unit: nn.Module, compute: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(compute)
    def way(*arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled() or getattr(unit, _PLAIN, False):
            return compute(*arguments, **named)
        from torch.utils.checkpoint import checkpoint  # here: it imports the compiler (1.5 s), for those who use it

        return checkpoint(compute, *arguments, use_reentrant=False, **named)

    return way


@contextmanager
def computed_once(model: nn.Module) -> Iterator[None]:
    """All activations are kept meanwhile, as without `recompute`."""
    units = units_of(model)
    try:
        for unit in units:
            setattr(unit, _PLAIN, True)
        yield
    finally:
        for unit in units:
            delattr(unit, _PLAIN)
