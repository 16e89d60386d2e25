"""`--describe`: every parameter is counted once, and the memory is near what training really takes."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from lmplay_tui.formats import format_memory
from lmplay_tui.models.describe import STATE_VALUES, describe
from lmplay_tui.models.registry import build_model, load_experiment
from lmplay_tui.models.units import recompute
from lmplay_tui.train.optim import build_optimizer, parameter_groups


def build(**changes: Any) -> tuple[Any, dict[str, Any]]:
    settings: dict[str, Any] = {"vocab_size": 100, "context_len": 128, "num_blocks": 3} | changes
    return build_model(load_experiment("test_runner"), **settings)


def page(**changes: Any) -> str:
    model, arguments = build()
    settings: dict[str, Any] = {"optimizer": "adamw", "mini_batch_size": 4}
    return describe(model, arguments, **(settings | changes))


def as_bytes(text: str) -> float:
    number, unit = text.split()
    return float(number) * float(1024 ** ["B", "KiB", "MiB", "GiB"].index(unit))


def sizes(text: str) -> dict[str, float]:
    return {name.strip(): as_bytes(size) for name, size in re.findall(r"^  (\S[^\d]*?)  +(\d.*)$", text, re.M)}


def test_parameters_by_module_with_shapes_and_totals() -> None:
    model, _ = build()
    text = page()
    assert text.startswith("exp test_runner, vocab_size 100, context_len 128, num_blocks 3, embed_dim 64, num_heads 2")
    assert re.search(r"^token_embed\.weight +100 x 64 +1 +6,400 ", text, re.M)
    assert re.search(r"^blocks\.\*\.attn\.qkv\.weight +192 x 64 +3 +36,864 ", text, re.M)
    total = sum(p.numel() for p in model.parameters())
    embedded = 100 * 64 + 128 * 64
    assert re.search(rf"^all +{total:,}$", text, re.M)
    assert f"{total:,} parameters, {total:,} trained; {embedded:,} in embeddings, {total - embedded:,} others" in text
    rows = re.findall(r"^(?:\w[\w.*]*\.(?:weight|bias)) .*? ([\d,]+) +[\d.]+ %", text, re.M)
    assert sum(int(row.replace(",", "")) for row in rows) == total
    assert max(map(len, text.splitlines())) <= 120


def test_frozen_parameters_are_marked_and_need_no_gradient() -> None:
    model, arguments = build()
    model.head.requires_grad_(False)
    text = describe(model, arguments, optimizer="sgd", mini_batch_size=1)
    assert re.search(r"^head\.weight .* frozen$", text, re.M)
    assert text.count("frozen") == 2
    of_head = 100 * 64 + 100
    assert sizes(text)["weights"] - sizes(text)["gradients"] == pytest.approx(4 * of_head, rel=0.05)


def test_each_parameter_says_whether_it_is_trained_and_decays() -> None:
    model, arguments = build()
    model.token_embed.requires_grad_(False)
    decays = {p: group["weight_decay"] for group in parameter_groups(model, 0.05) for p in group["params"]}
    text = describe(model, arguments, optimizer="adamw", mini_batch_size=1, decays=decays)
    rows = {line.split()[0]: line.split("%")[1].split() for line in text.splitlines() if " % " in line}
    assert rows["token_embed.weight"] == ["frozen"]
    assert rows["blocks.*.mlp.expand.weight"] == ["yes", "0.05"]
    assert rows["blocks.*.mlp.expand.bias"] == ["yes", "no"]
    assert rows["ln_final.weight"] == ["yes", "no"]


def test_the_same_parameter_counts_once() -> None:
    model, arguments = build()
    model.head.weight = model.token_embed.weight
    total = sum(p.numel() for p in model.parameters())
    assert f"{total:,} parameters" in describe(model, arguments, optimizer="sgd", mini_batch_size=1)


@pytest.mark.parametrize("name", sorted(STATE_VALUES))
def test_state_of_each_optimizer_is_what_it_keeps(name: str) -> None:
    model, arguments = build()
    optimizer = build_optimizer(name, model, lr=0.1, weight_decay=None, device_type="cpu")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = sum(v.nbytes for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v))
    text = describe(model, arguments, optimizer=name, mini_batch_size=1)
    assert sizes(text)[f"{name}'s state"] == pytest.approx(kept, rel=0.02)
    assert all(other in text for other in STATE_VALUES)


@pytest.mark.parametrize("amp_dtype", [None, torch.bfloat16])
def test_activations_are_what_a_full_mini_batch_keeps(amp_dtype: torch.dtype | None) -> None:
    model, _ = build()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (pointer := tensor.untyped_storage().data_ptr()) not in own:
            kept[pointer] = tensor
        return tensor

    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp_dtype is not None)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), mixed:
        model.hidden(torch.zeros(1, 128, dtype=torch.int64))
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert sizes(page(amp_dtype=amp_dtype, mini_batch_size=1))["activations"] == pytest.approx(measured, rel=0.05)


def test_what_is_computed_again_is_kept_of_one_block_alone() -> None:
    model, arguments = build(num_blocks=16)
    settings: dict[str, Any] = {"optimizer": "adamw", "mini_batch_size": 4}
    whole = sizes(describe(model, arguments, **settings))["activations"]
    recompute(model)
    again = sizes(describe(model, arguments, **settings, recomputes=True))["activations"]
    inputs = 16 * 4 * 128 * 64 * 4  # blocks, samples, tokens, width, bytes
    assert inputs + whole / 16 < again < 1.5 * (inputs + whole / 16) < whole / 2


def test_memory_of_each_of_several_processes() -> None:
    model, arguments = build(num_blocks=16)
    settings: dict[str, Any] = {"optimizer": "adamw", "mini_batch_size": 1}
    whole = sizes(describe(model, arguments, **settings))
    copied = describe(model, arguments, **settings, num_ranks=4)
    assert "Memory of each of 4 processes to train" in copied
    assert sizes(copied) == pytest.approx(
        {**whole, "reduction": whole["gradients"], "all": whole["all"] + whole["gradients"]}, rel=0.02
    )
    assert "Memory of the host" not in copied
    said = describe(model, arguments, **settings, num_ranks=4, is_sharded=True)
    weights, state = sum(p.nbytes for p in model.parameters()), 2 * sum(p.nbytes for p in model.parameters())
    assert f"at the start: {format_memory(weights)} in each process, the whole model" in said
    assert f"rank 0 of a resume {format_memory(weights + state)} more" in said
    parts = sizes(said)
    for name in ("weights", "gradients", "adamw's state"):
        assert parts[name] == pytest.approx(whole[name] / 4, rel=0.02)
    assert parts["activations"] == whole["activations"]
    block = sum(p.nbytes for p in model.blocks[0].parameters())
    outside = sum(p.nbytes for p in model.parameters()) - 16 * block
    assert parts["gathered for a pass"] == pytest.approx(2 * outside + 3 * block, rel=0.02)


def test_the_sum_is_the_sum_and_grows_with_the_mini_batch() -> None:
    small, large = sizes(page(mini_batch_size=1)), sizes(page(mini_batch_size=8))
    for of in (small, large):
        assert of.pop("all") == pytest.approx(sum(of.values()), rel=0.05)
    assert small["logits"] == 128 * 100 * 12
    assert large["logits"] == pytest.approx(8 * small["logits"], rel=0.05)
    assert large["weights"] == small["weights"]


def test_describing_draws_no_random_number_and_leaves_no_gradient() -> None:
    model, arguments = build(dropout=0.5)
    before = torch.get_rng_state()
    describe(model, arguments, optimizer="adamw", mini_batch_size=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
