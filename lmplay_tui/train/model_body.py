"""What a model offers beside `forward`, and whether it still is what `forward` computes.

A class may inherit the faster ways and change the plain one: then it is trained the plain way.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from lmplay_tui.train.steps import Packable


def body_of(model: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """The model's body where body and head are apart (`hidden`, `head`).

    None where only `forward` is there, or where a class that inherits `hidden` has a `forward` of its own.
    """
    hidden = getattr(model, "hidden", None)
    apart = callable(hidden) and isinstance(getattr(model, "head", None), nn.Module)
    return hidden if apart and _is_as_new(model, "hidden", "forward") else None


def _is_as_new(module: nn.Module, name: str, than: str) -> bool:
    """Whether no class below the one that defines `name` defines `than` anew: else they are of two models."""
    for kind in type(module).__mro__:
        if name in vars(kind):
            return True
        if than in vars(kind):
            return False
    return True  # one that the object itself carries


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
    own = (_is_as_new(model, "trunk", "hidden"), _is_as_new(model, "trunk", "forward"))
    parts = (_is_as_new(part, "packed", "forward") for part in model.modules() if hasattr(part, "packed"))
    return cast(Packable, model).trunk if all(own) and all(parts) and _packs(model, device, dtype) else None


def _packs(model: nn.Module, device: torch.device, dtype: torch.dtype | None) -> bool:
    """Whether `trunk` gives what `hidden` gives: tried, for an heir may have put other parts into the model."""
    packed, was_training = cast(Packable, model), model.training
    on_processor = device.type == "cpu"  # where it is tried in the weights' own format, which shows more
    ids = torch.arange(3, device=device)
    offsets = torch.tensor([0, 3], dtype=torch.int64 if on_processor else torch.int32, device=device)
    rtol, atol = (1e-3, 1e-4) if on_processor else (0.1, 0.1)
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype=dtype, enabled=not on_processor and dtype is not None):
            wanted = cast(Any, model).hidden(ids[None])[0]
            found = packed.trunk(packed.embed(ids, ids), offsets)
            return bool(torch.allclose(found.float(), wanted.float(), rtol=rtol, atol=atol))
    except Exception:  # whatever an heir's parts raise; should `hidden` itself fail, the first step says it
        return False
    finally:
        model.train(was_training)
