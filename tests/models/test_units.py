"""What is computed again in the backward pass: the same numbers, of less that is kept."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmplay_tui.models.gpt2ish import GPT2ish
from lmplay_tui.models.units import computed_once, recompute, units_of

VOCAB, CONTEXT, BLOCKS = 50, 32, 4


def make(*, recomputes: bool, dropout: float = 0.1) -> GPT2ish:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = GPT2ish(
            vocab_size=VOCAB, context_len=CONTEXT, num_blocks=BLOCKS, embed_dim=32, num_heads=4, dropout=dropout
        )
    if recomputes:
        assert recompute(model) == BLOCKS
    return model


def padded(model: GPT2ish) -> Tensor:
    ids = torch.arange(2 * CONTEXT).view(2, CONTEXT) % VOCAB
    return model(ids)


def packed(model: GPT2ish) -> Tensor:
    ids, positions = torch.arange(CONTEXT) % VOCAB, torch.arange(CONTEXT) % 16
    embedded = model.embed(ids, positions).requires_grad_()
    return model.head(model.trunk(embedded, torch.tensor([0, 16, CONTEXT])))


def gradients(model: GPT2ish, way: Callable[[GPT2ish], Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(2)  # of the dropout
    way(model).square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def kept_bytes(model: GPT2ish, way: Callable[[GPT2ish], Tensor]) -> int:
    """Bytes of what a forward pass keeps within the blocks, for the backward pass."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        way(model)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("way", [padded, packed])
def test_gradients_are_bit_by_bit_those_of_a_model_that_keeps_all(way: Callable[[GPT2ish], Tensor]) -> None:
    expected, found = (gradients(make(recomputes=again), way) for again in (False, True))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("way", [padded, packed])
def test_less_is_kept_and_all_of_it_where_that_is_asked_for(way: Callable[[GPT2ish], Tensor]) -> None:
    all_of_it, least = (kept_bytes(make(recomputes=again), way) for again in (False, True))
    assert least < all_of_it / 2
    model = make(recomputes=True)
    with computed_once(model):
        assert kept_bytes(model, way) == all_of_it
    assert kept_bytes(model, way) == least


def test_without_gradients_nothing_is_computed_otherwise() -> None:
    plain, again = make(recomputes=False).eval(), make(recomputes=True).eval()
    with torch.no_grad():
        assert torch.equal(padded(plain), padded(again))
    assert plain.state_dict().keys() == again.state_dict().keys()


class _Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))  # layers, no blocks
        self.body = nn.ModuleDict({"blocks": nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in "ab"))})


def test_units_are_blocks_wherever_they_lie_and_layers_are_none() -> None:
    nested: Any = _Nested()
    assert units_of(nested) == list(nested.body["blocks"])
    assert units_of(nested.head) == []
    model = make(recomputes=False)
    assert units_of(model) == list(model.blocks)
