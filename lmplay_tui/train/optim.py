"""Which parameters are updated and how: weight decay's exceptions, the optimizers and their state, what is frozen."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lmplay_tui.errors import UserError

NO_DECAY_PATTERNS = (".bias", "_bias", ".ln", "_ln", "embed")
NO_DECAY_MODULES = (nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.EmbeddingBag)


def _uncompiled(kind: type[Optimizer]) -> type[Optimizer]:
    """The same optimizer, whose methods do not import `torch._dynamo` (1.5 s of a run's start).

    torch wraps these methods to keep a compiler from looking into them, and each wrapper imports the compiler when it
    is first called (torch/optim/optimizer.py, torch/_compile.py). No optimizer is compiled here. The wrapper of `step`
    also switches gradients off.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})


_BUILDERS: dict[str, Callable[..., Optimizer]] = {
    "adamw": _uncompiled(torch.optim.AdamW),
    "adam": _uncompiled(torch.optim.Adam),
    "adagrad": _uncompiled(torch.optim.Adagrad),
    "sgd": _uncompiled(torch.optim.SGD),
    "rmsprop": _uncompiled(torch.optim.RMSprop),
}
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_SETTINGS: dict[str, dict[str, Any]] = {"sgd": {"momentum": 0.9}}
_FUSED_IN_PARTS = ("adam", "adamw")  # of those that torch has as one kernel, those that it has for sharded parameters
DEFAULT_WEIGHT_DECAY = {"adamw": 0.01}  # the others: 0


def _decays(name: str, module: nn.Module, parameter: nn.Parameter) -> bool:
    if parameter.ndim < 2:  # biases, scales, the weights of norms, also of those written by hand
        return False
    if isinstance(module, NO_DECAY_MODULES) or getattr(parameter, "skip_weight_decay", False):
        return False
    dotted = f".{name}"  # so that a parameter of the model itself (`bias`, `ln_f.weight`) matches `.bias`, `.ln` too
    return not any(pattern in dotted for pattern in NO_DECAY_PATTERNS)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimizer: the parameters that decay, and those that do not.

    Left out of decay: vectors and single numbers, names with one of the document's patterns, what lies directly in a
    norm or an embedding, and what carries `skip_weight_decay`. A parameter with several names or places is in one
    group, once, and does not decay if any of them is left out. Frozen parameters are in a group as well: a later stage
    may thaw them, and their optimizer state must outlive the stage between. Without a gradient no optimizer moves or
    decays them.
    """
    decays: dict[nn.Parameter, bool] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for short, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{prefix}.{short}" if prefix else short
            decays[parameter] = decays.get(parameter, True) and _decays(name, module, parameter)
    return [
        {"params": [p for p, decay in decays.items() if decay], "weight_decay": weight_decay},
        {"params": [p for p, decay in decays.items() if not decay], "weight_decay": 0.0},
    ]


def build_optimizer(
    name: str, model: nn.Module, *, lr: float, weight_decay: float | None, device_type: str, fused: bool = True
) -> Optimizer:
    """The optimizer called `name` over all of the model's parameters, in one kernel a group where the device has it.

    `fused`: False: also where it has one, as torch computes it everywhere.

    `weight_decay` None: the optimizer's own default (the document's table: adamw 0.01, the others 0).
    """
    decay = decay_of(name, weight_decay)
    settings = dict(_SETTINGS.get(name, {}))
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        fused = fused and name in _FUSED_IN_PARTS
    if fused and all(_has_fused(name, device_type, dtype) for dtype in dtypes):
        settings["fused"] = True
    return _BUILDERS[name](parameter_groups(model, decay), lr=lr, **settings)


def next_optimizer(
    name: str, model: nn.Module, *, lr: float, weight_decay: float | None, device_type: str, before: Optimizer | None
) -> Optimizer:
    """The optimizer of a stage that begins. `before`: the one whose state of each parameter goes on; None: none."""
    optimizer = build_optimizer(name, model, lr=lr, weight_decay=weight_decay, device_type=device_type)
    if before is not None:
        known = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        optimizer.state.update((p, values) for p, values in before.state.items() if p in known)
    return optimizer


def decay_of(name: str, weight_decay: float | None) -> float:
    """The weight decay that an optimizer has: `weight_decay`, or where that is None its own."""
    return DEFAULT_WEIGHT_DECAY.get(name, 0.0) if weight_decay is None else weight_decay


@cache
def _has_fused(name: str, device_type: str, dtype: torch.dtype) -> bool:
    """Whether this torch has the optimizer as one kernel for the device: found out by using it once."""
    if name == "rmsprop":
        return False
    probe = torch.zeros(1, dtype=dtype, device=device_type, requires_grad=True)
    probe.grad = torch.zeros_like(probe)
    try:
        _BUILDERS[name]([probe], fused=True).step()
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return True


def freeze(model: nn.Module, default_freeze: bool) -> None:
    """Say which parameters are trained; can be called again at each stage.

    A `freeze` attribute (true or false) on a module holds for all parameters in it, one on a parameter for itself;
    the innermost wins. `default_freeze` freezes what carries none; without it, that stays as the model made it.
    Raises `UserError` if nothing would be left to train.
    """
    marks: dict[nn.Parameter, bool | None] = dict.fromkeys(model.parameters())
    for module in model.modules():  # outer modules come before those inside them
        if isinstance(mark := getattr(module, "freeze", None), bool):
            marks.update(dict.fromkeys(module.parameters(), mark))
    for parameter, of_module in marks.items():
        mark = getattr(parameter, "freeze", None)
        _set_frozen(parameter, mark if isinstance(mark, bool) else of_module, default_freeze)
    if not any(parameter.requires_grad for parameter in marks):
        raise UserError(
            "--default-freeze: the model marks nothing with `freeze = False`, so every parameter is frozen; leave it "
            "out, or mark what shall be trained in an experiment of your own (self.head.freeze = False; --exp "
            "file.py:Name)"
            if default_freeze
            else "every parameter of the model is frozen by its `freeze = True`: nothing can be trained"
        )


def _set_frozen(parameter: nn.Parameter, mark: bool | None, default_freeze: bool) -> None:
    if mark is not None:
        parameter.requires_grad_(not mark)
    elif default_freeze and parameter.requires_grad:
        parameter.requires_grad_(False)
        parameter.frozen_by_default = True  # type: ignore[attr-defined]
    elif not default_freeze and getattr(parameter, "frozen_by_default", False):
        parameter.requires_grad_(True)
        parameter.frozen_by_default = False  # type: ignore[attr-defined]
    if not parameter.requires_grad:
        parameter.grad = None  # one left from before would still be applied


def without_gradient(model: nn.Module) -> list[str]:
    """Names of the parameters that the last backward pass did not reach, frozen ones marked (`--check-grads`)."""
    return [
        name if parameter.requires_grad else f"{name} (frozen)"
        for name, parameter in model.named_parameters()
        if parameter.grad is None
    ]


def set_dropout(model: nn.Module, before: float, after: float) -> bool:
    """Give every layer that drops out with `before` another probability; whether there is one."""
    layers = [layer for layer in model.modules() if isinstance(layer, _DROPOUTS) and layer.p == before]
    for layer in layers:
        layer.p = after
    return bool(layers)


def state_by_name(optimizer: Optimizer, model: nn.Module) -> dict[str, dict[str, Any]]:
    """The optimizer's state by the parameters' names: it then survives another order or freezing of parameters."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: dict(values) for parameter, values in optimizer.state.items()}


def load_by_name(optimizer: Optimizer, model: nn.Module, state: dict[str, dict[str, Any]]) -> None:
    """The inverse of `state_by_name`: tensors go to their parameter's device, step counters stay where they belong."""
    indices = {id(p): i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    by_index = {
        indices[id(parameter)]: state[name]
        for name, parameter in model.named_parameters()
        if name in state and id(parameter) in indices
    }
    # torch's own loader knows which entries follow the parameter's device and which do not.
    optimizer.load_state_dict({"state": by_index, "param_groups": optimizer.state_dict()["param_groups"]})
