"""Weights of LMPlay's own `gpt2ish` files (.lmp), under our names."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lmplay_tui.errors import UserError
from lmplay_tui.text import one_line

TOKENIZER = "gpt2"  # the only one that LMPlay has
_OF_MODEL = {
    "tok_embed.weight": "token_embed.weight",
    "ln.weight": "ln_final.weight",
    "ln.bias": "ln_final.bias",
    "fc.weight": "head.weight",
    "fc.bias": "head.bias",
}
_OF_BLOCK = {"ln1": "ln_attn", "attn.proj": "attn.proj", "ln2": "ln_mlp", "ff.0": "mlp.expand", "ff.2": "mlp.proj"}
_QKV = ("query", "key", "value")  # in the order of our fused product
_BLOCK_NAME = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")
_MASK_NAME = re.compile(r"blocks\.\d+\.attn\.mask")  # a causal mask, stored with each block; nothing learned


def convert_lmplay(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """State and construction arguments of our `gpt2ish` from LMPlay's checkpoint; None if it is not LMPlay's.

    LMPlay keeps weights and arguments in `model.state` and `model.state_args`; before it had components, in `model`
    and `model_args`. Raises `UserError` for another of its experiments, whose parameters we have no place for.
    """
    state, arguments = _weights_of(checkpoint)
    state = {name.removeprefix("_orig_mod."): value for name, value in state.items() if isinstance(name, str)}
    if not {"tok_embed.weight", "pos_embed", "fc.weight"} <= state.keys():
        return None
    converted = {"position_embed.weight": _take(state, "pos_embed").squeeze(0)}
    for theirs, ours in _OF_MODEL.items():
        converted[ours] = _take(state, theirs)
    blocks = sorted({int(match[1]) for name in state if (match := _BLOCK_NAME.fullmatch(name))})
    for block in blocks:
        _convert_block(state, converted, f"blocks.{block}")
    unknown = [name for name in state if not _MASK_NAME.fullmatch(name)]
    if unknown or blocks != list(range(len(blocks))):
        raise UserError(f"LMPlay's weights are not of its gpt2ish: {one_line(unknown[0] if unknown else 'a block')}"
                        " has no place there")  # fmt: skip
    return converted, _arguments(converted, len(blocks), arguments)


def _weights_of(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    model = checkpoint.get("model")
    if not isinstance(model, Mapping):
        return {}, {}
    if isinstance(model.get("state"), Mapping):
        state, arguments = model["state"], model.get("state_args")
    else:
        state, arguments = model, checkpoint.get("model_args")
    return dict(state), arguments if isinstance(arguments, Mapping) else {}


def _take(state: dict[str, Any], name: str) -> Tensor:
    value = state.pop(name, None)
    if not isinstance(value, Tensor):
        raise UserError(f"LMPlay's weights are not of its gpt2ish: {name} is missing")
    return value


def _convert_block(state: dict[str, Any], converted: dict[str, Tensor], block: str) -> None:
    for kind in ("weight", "bias"):
        parts = [_take(state, f"{block}.attn.{part}.{kind}") for part in _QKV]
        converted[f"{block}.attn.qkv.{kind}"] = torch.cat(parts)
        for theirs, ours in _OF_BLOCK.items():
            converted[f"{block}.{ours}.{kind}"] = _take(state, f"{block}.{theirs}.{kind}")


def _arguments(state: Mapping[str, Tensor], num_blocks: int, theirs: Mapping[str, Any]) -> dict[str, Any]:
    vocab_size, embed_dim = state["head.weight"].shape
    num_heads = theirs.get("num_heads")
    if not isinstance(num_heads, int):  # the one part of the shape that no weight shows
        raise UserError("LMPlay's checkpoint does not say its num_heads (model.state_args)")
    dropout = theirs.get("ff_dropout")
    return {
        "exp": "gpt2ish",
        "tokenizer": TOKENIZER,
        "vocab_size": int(vocab_size),
        "context_len": int(state["position_embed.weight"].shape[0]),
        "num_blocks": num_blocks,
        "embed_dim": int(embed_dim),
        "num_heads": num_heads,
        "dropout": float(dropout) if isinstance(dropout, int | float) else 0.0,
    }
