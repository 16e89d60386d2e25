"""LMPlay's own files give the same logits here as by LMPlay's formula, written out below over LMPlay's names."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lmplay_tui.errors import UserError
from lmplay_tui.models.lmplay_weights import convert_lmplay
from lmplay_tui.models.registry import build_model, load_experiment
from lmplay_tui.train.checkpoint import load_archive

VOCAB, CONTEXT, BLOCKS, WIDTH, HEADS = 61, 12, 2, 24, 4


def their_state(vocab: int = VOCAB) -> dict[str, Tensor]:
    """The names and shapes of LMPlay's gpt2ish: one product each for key, value, query; a mask in each block."""
    generator = torch.Generator().manual_seed(1)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    state = {"pos_embed": some(1, CONTEXT, WIDTH), "tok_embed.weight": some(vocab, WIDTH)}
    for i in range(BLOCKS):
        shapes = {
            "ln1": (WIDTH,), "ln2": (WIDTH,), "attn.key": (WIDTH, WIDTH), "attn.value": (WIDTH, WIDTH),
            "attn.query": (WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH), "ff.0": (4 * WIDTH, WIDTH),
            "ff.2": (WIDTH, 4 * WIDTH),
        }  # fmt: skip
        for name, shape in shapes.items():
            state[f"blocks.{i}.{name}.weight"] = some(*shape)
            state[f"blocks.{i}.{name}.bias"] = some(shape[0])
        state[f"blocks.{i}.attn.mask"] = torch.tril(torch.ones(CONTEXT, CONTEXT))[None, None]
    state |= {"ln.weight": some(WIDTH), "ln.bias": some(WIDTH), "fc.weight": some(vocab, WIDTH), "fc.bias": some(vocab)}
    return state


THEIR_ARGS: dict[str, Any] = {
    "max_len": CONTEXT, "num_heads": HEADS, "num_blocks": BLOCKS, "embed_dim": WIDTH, "attn_dropout": 0.1,
    "ff_dropout": 0.2, "embed_dropout": 0.1, "version": "gpt2ish",
}  # fmt: skip


def their_logits(state: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Pre-LayerNorm blocks, exact GELU, scores over sqrt(head width), an untied head with a bias."""
    B, T = ids.shape

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"]
            + state[f"{name}.bias"]
        )

    x = state["tok_embed.weight"][ids] + state["pos_embed"][:, :T]
    for i in range(BLOCKS):
        normed = norm(x, f"blocks.{i}.ln1")
        q, k, v = (
            linear(normed, f"blocks.{i}.attn.{part}").reshape(B, T, HEADS, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        scores = (q @ k.transpose(2, 3)) / math.sqrt(WIDTH // HEADS)
        scores = scores.masked_fill(state[f"blocks.{i}.attn.mask"][:, :, :T, :T] == 0, float("-inf"))
        x = x + linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, -1), f"blocks.{i}.attn.proj")
        x = x + linear(functional.gelu(linear(norm(x, f"blocks.{i}.ln2"), f"blocks.{i}.ff.0")), f"blocks.{i}.ff.2")
    return linear(norm(x, "ln"), "fc")


def with_components(state: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "model": {"state_args": THEIR_ARGS, "state": state},
        "runner": {"state_args": {}, "state": {"stats": {"total_train_samples": 5}, "step_stats": {}}},
        "optimizers": {"state_args": [], "state": []},
        "lr_schedulers": {"state_args": [], "state": []},
        "curriculum": {"state_args": {"current_step": "step1"}, "state": {}},
    }


def before_components(state: dict[str, Tensor]) -> dict[str, Any]:
    return {"model": state, "model_args": THEIR_ARGS, "optimizer": {}, "optimizer_args": {}, "stats": {}}


def compiled(state: dict[str, Tensor]) -> dict[str, Any]:
    return with_components({f"_orig_mod.{name}": value for name, value in state.items()})


@pytest.mark.parametrize("layout", [with_components, before_components, compiled])
def test_a_file_of_lmplays_layout_gives_lmplays_logits(layout: Any, tmp_path: Path) -> None:
    torch.save(layout(their_state()), tmp_path / "theirs.lmp")
    converted = convert_lmplay(load_archive(tmp_path / "theirs.lmp"))
    assert converted is not None
    state, arguments = converted
    assert arguments == {
        "exp": "gpt2ish", "tokenizer": "gpt2", "vocab_size": VOCAB, "context_len": CONTEXT, "num_blocks": BLOCKS,
        "embed_dim": WIDTH, "num_heads": HEADS, "dropout": 0.2,
    }  # fmt: skip
    shape = {key: value for key, value in arguments.items() if key not in ("exp", "tokenizer")}
    model, _ = build_model(load_experiment(arguments["exp"]), **shape)
    model.load_state_dict(state)
    model.eval().double()
    ids = torch.randint(0, VOCAB, (3, CONTEXT), generator=torch.Generator().manual_seed(2))
    theirs = their_logits({name: value.double() for name, value in their_state().items()}, ids)
    torch.testing.assert_close(model(ids), theirs, rtol=0, atol=1e-10)


def test_what_is_not_lmplays() -> None:
    ours, _ = build_model(load_experiment("test_runner"), vocab_size=9, context_len=8)
    as_ours = {"model": {"state_args": {}, "state": ours.state_dict()}}
    others: list[dict[str, Any]] = [{}, {"model": 3}, {"model": {}}, as_ours]
    for checkpoint in others:
        assert convert_lmplay(checkpoint) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blocks.0.attn.scale.weight": torch.ones(2, 2)}, "blocks.0.attn.scale.weight has no place there"),
        ({"blocks.1.attn.key_norm.bias": torch.ones(2)}, "blocks.1.attn.key_norm.bias has no place there"),
        ({"blocks.1.attn.value.bias": None}, "blocks.1.attn.value.bias is missing"),
        ({"fc.bias": None}, "fc.bias is missing"),
    ],
)
def test_other_experiments_of_lmplay_are_refused(change: dict[str, Tensor | None], said: str) -> None:
    state = {name: value for name, value in (their_state() | change).items() if value is not None}
    with pytest.raises(UserError) as caught:
        convert_lmplay(with_components(state))
    assert str(caught.value) == f"LMPlay's weights are not of its gpt2ish: {said}"


def test_a_missing_block_is_noticed() -> None:
    state = {name: value for name, value in their_state().items() if not name.startswith("blocks.0.")}
    with pytest.raises(UserError, match="not of its gpt2ish"):
        convert_lmplay(with_components(state))


def test_the_number_of_heads_must_be_said() -> None:
    with pytest.raises(UserError, match="does not say its num_heads"):
        convert_lmplay({"model": their_state()})
