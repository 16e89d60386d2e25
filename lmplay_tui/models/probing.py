"""For comparing two ways of computing a model: it is put where its terms show, and put back bit by bit."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_SMALL_VALUES = 1 << 21  # of all small parameters together: moving and comparing more would delay a start
_LOGITS = 8.0  # the size of a trained model's logits: a softcap bends them
_MOST_GAIN = 10  # powers of two


@contextmanager
def kept(model: nn.Module) -> Iterator["Kept"]:
    """What a forward or backward pass may change of a model: afterwards as before, mode and gradients too."""
    state = Kept(model)
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    try:
        yield state
    finally:
        state.restore()
        for module, training in modes:
            module.training = training
        for parameter, gradient, requires_grad in gradients:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient


class Kept:
    """A model's buffers as they were: statistics, tables, power iterations."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]

    @torch.no_grad()
    def restore(self) -> None:
        for module, name, buffer, values in self._buffers:
            now = module._buffers.get(name)
            if now is not None and now.shape != values.shape:
                continue  # a table that a pass has made longer: beside it the model may have noted how long it is
            if not torch.equal(buffer, values):  # else it would look as if a pass had changed it
                buffer.copy_(values)
            module._buffers[name] = buffer  # a forward pass may have put another tensor there


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Passes that count nothing: mode and buffers are those of before afterwards, gradients are added to.

    In evaluation mode: running means stay, no random numbers are drawn, and a single position is enough.
    """
    buffers, was_training = Kept(model), model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        buffers.restore()


@contextmanager
def general_position(model: nn.Module) -> Iterator[None]:
    """Weights at which no term of a model is without effect; afterwards they are bit by bit those of before.

    At the start of training much cannot be seen: a learned scale is 1, a bias or a gate 0, and logits are too small
    for a softcap to bend them. So small parameters, and larger ones that hold a single value, are moved by numbers of
    their own, and the weights of `head` are multiplied by a power of two (which can be undone
    exactly) until logits are as large as a trained model's. Larger matrices are drawn at random already: they stay.
    """
    weight = getattr(getattr(model, "head", None), "weight", None)
    known = {p for p in model.parameters() if p.is_floating_point() and p.numel()}
    small = small_parameters(model)
    saved = [(p, p.detach().clone()) for p in model.parameters() if p in known and (p in small or _is_constant(p))]
    generator = torch.Generator().manual_seed(0)
    gain = 1.0
    try:
        with torch.no_grad():
            for parameter, _ in saved:
                parameter.copy_(_moved(parameter, generator))
            if isinstance(weight, nn.Parameter) and weight in known and weight.ndim == 2:
                gain = _gain(weight)
                weight.mul_(gain)
        yield
    finally:
        with torch.no_grad():
            if gain != 1.0:
                assert isinstance(weight, nn.Parameter)
                weight.mul_(1.0 / gain)
            for parameter, values in saved:
                parameter.copy_(values)


def small_parameters(model: nn.Module) -> set[nn.Parameter]:
    """The smallest parameters, of about `_SMALL_VALUES` values: norms, biases, scales; all of a small model."""
    small: set[nn.Parameter] = set()
    values = 0
    for parameter in sorted((p for p in model.parameters() if p.is_floating_point()), key=torch.Tensor.numel):
        values += parameter.numel()
        if small and values > _SMALL_VALUES:
            break
        small.add(parameter)
    return small


def _is_constant(parameter: Tensor) -> bool:
    few = parameter.detach().flatten()[:4096]
    return bool((few == few[0]).all())


def _moved(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Vectors and numbers by a factor of 1.25 to 1.5 and a bit, which leaves positive ones positive; matrices by
    noise that makes of an input of size 1 an output of size 1/2."""
    shape = parameter.shape
    if parameter.ndim < 2:
        moved = 0.25 * torch.rand(shape, generator=generator).to(parameter.device) + 1.25
        return parameter.float() * moved + 0.05 + 0.1 * torch.rand(shape, generator=generator).to(parameter.device)
    noise = torch.randn(shape, generator=generator) * (0.5 / math.sqrt(max(shape[-1], 1)))
    return parameter.float() + noise.to(parameter.device)


def _gain(weight_VC: Tensor) -> float:
    size = float(weight_VC[:256].float().square().mean().sqrt()) * math.sqrt(weight_VC.shape[1])
    if not 0 < size < _LOGITS:
        return 1.0
    return float(2.0 ** min(round(math.log2(_LOGITS / size)), _MOST_GAIN))
