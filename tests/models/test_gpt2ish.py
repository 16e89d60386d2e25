"""The model computes what its formula says, with and without a cache, and starts as GPT-2's paper has it."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from lmplay_tui.models.gpt2ish import GPT2ish
from tests.examples import examples

VOCAB, CONTEXT, BLOCKS, WIDTH, HEADS = 50, 24, 3, 32, 4


def make(dropout: float = 0.0, **changes: int) -> GPT2ish:
    shape = {"vocab_size": VOCAB, "context_len": CONTEXT, "num_blocks": BLOCKS, "embed_dim": WIDTH, "num_heads": HEADS}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return GPT2ish(**(shape | changes), dropout=dropout)


def text(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def reference(model: Any, ids: Tensor) -> Any:
    """The formula written out: masked softmax over explicit scores, no fused kernel."""
    B, T = ids.shape
    x = model.token_embed.weight[ids] + model.position_embed.weight[:T]
    for block in model.blocks:
        q, k, v = (
            part.reshape(B, T, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in block.attn.qkv(block.ln_attn(x)).split(WIDTH, dim=2)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(WIDTH // HEADS)
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf"))
        x = x + block.attn.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, WIDTH))
        x = x + block.mlp.proj(functional.gelu(block.mlp.expand(block.ln_mlp(x))))
    return model.head(model.ln_final(x))


def test_logits_are_those_of_the_formula() -> None:
    model = make().double()
    ids = text(2, CONTEXT)
    torch.testing.assert_close(model(ids), reference(model, ids), rtol=0, atol=1e-12)
    torch.testing.assert_close(model(ids), model.head(model.hidden(ids)), rtol=0, atol=0)


@pytest.mark.parametrize(("blocks", "width", "heads"), [(6, 768, 12), (24, 1024, 16)])
def test_parameter_count(blocks: int, width: int, heads: int) -> None:
    with torch.device("meta"):
        model = GPT2ish(vocab_size=50257, context_len=1024, num_blocks=blocks, embed_dim=width, num_heads=heads)
    of_block = 12 * width**2 + 13 * width  # 4 + 8 matrices; biases 9 x width; two norms 4 x width
    expected = 2 * 50257 * width + 50257 + 1024 * width + blocks * of_block + 2 * width
    assert sum(p.numel() for p in model.parameters()) == expected
    assert not list(model.buffers())


def test_a_later_token_changes_nothing_before_it() -> None:
    model = make()
    ids = text(1, CONTEXT)
    changed = ids.clone()
    changed[0, 10:] = (changed[0, 10:] + 1) % VOCAB
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


@examples(40)
@given(cuts=st.sets(st.integers(1, CONTEXT - 1)), seed=st.integers(0, 1000))
def test_cache_in_any_portions_gives_the_uncached_answer(cuts: set[int], seed: int) -> None:
    model = make().eval()
    ids = text(2, CONTEXT, seed=seed)
    cache = model.new_cache(2)
    bounds = [0, *sorted(cuts), CONTEXT]
    with torch.no_grad():
        whole = model(ids)
        portions = torch.cat([model(ids[:, a:b], cache) for a, b in pairwise(bounds)], dim=1)
    torch.testing.assert_close(portions, whole, rtol=0, atol=1e-5)
    assert torch.equal(portions.argmax(-1), whole.argmax(-1))
    assert cache.length == CONTEXT


def test_beyond_the_context_is_refused() -> None:
    model = make()
    with pytest.raises(ValueError, match="25 tokens do not fit a context of 24"):
        model(text(1, CONTEXT + 1))
    cache = model.new_cache(1)
    model(text(1, CONTEXT), cache)
    with pytest.raises(ValueError, match="25 tokens"):
        model(text(1, 1), cache)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="embed_dim 32 is not a multiple of num_heads 5"):
        make(num_heads=5)


def test_initialisation_is_that_of_the_paper() -> None:
    model = make(embed_dim=128, vocab_size=500, context_len=128)
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        if name.endswith("bias"):
            assert torch.equal(values, torch.zeros_like(values)), name
        elif ".ln_" in f".{name}":
            assert torch.equal(values, torch.ones_like(values)), name
        else:
            expected = 0.02 / math.sqrt(2 * BLOCKS) if name.endswith("proj.weight") else 0.02
            assert float(values.std()) == pytest.approx(expected, rel=0.03), name
            assert abs(float(values.mean())) < expected / 20, name


def test_an_untrained_model_knows_nothing() -> None:
    model = make(vocab_size=500)
    ids = torch.randint(0, 500, (8, CONTEXT), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        loss = functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(500), abs=0.1)


def test_the_head_is_its_own_and_everything_is_trained() -> None:
    model = make(dropout=0.1)
    assert isinstance(model.head.bias, nn.Parameter)
    assert model.head.weight is not model.token_embed.weight
    model(text(2, CONTEXT)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_dropout_only_while_training() -> None:
    model = make(dropout=0.5)
    ids = text(1, CONTEXT)
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))
    torch.testing.assert_close(model(ids), make(dropout=0.0)(ids))


def test_dropout_acts_on_embeddings_and_both_sublayers() -> None:
    model = make(dropout=0.25)
    shares = []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _module, _inputs, y: shares.append(float((y == 0).float().mean())))
    model(text(8, CONTEXT))
    assert shares == pytest.approx([0.25] * (1 + 2 * BLOCKS), abs=0.05)


@pytest.mark.long
def test_compiles_as_one_graph_for_every_length() -> None:
    model = make(dropout=0.1)
    graphs = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(model.hidden, backend=backend, fullgraph=True, dynamic=True)
    for length in (CONTEXT, 7, 12):
        assert compiled(text(2, length)).shape == (2, length, WIDTH)
    assert len(graphs) == 1
