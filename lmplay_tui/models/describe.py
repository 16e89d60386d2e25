"""What a model is made of and what training it takes, for `--describe`."""

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmplay_tui.formats import counted, format_memory, format_percent
from lmplay_tui.models.units import computed_once, units_of
from lmplay_tui.text import one_line

STATE_VALUES = {"adamw": 2, "adam": 2, "adagrad": 1, "sgd": 1, "rmsprop": 1}  # numbers kept for each parameter
_INDEX = re.compile(r"(?<=\.)\d+(?=\.)")
_PROBE_TOKENS = (8, 16)


@dataclass
class _Row:
    """Parameters that differ only in the number of their block."""

    name: str
    shape: tuple[int, ...]
    frozen: bool
    decay: float
    count: int = 0

    @property
    def num_values(self) -> int:
        return self.count * torch.Size(self.shape).numel()


def describe(
    model: nn.Module, model_args: Mapping[str, Any], *, optimizer: str, mini_batch_size: int,
    amp_dtype: torch.dtype | None = None, decays: Mapping[nn.Parameter, float] | None = None,
    recomputes: bool = False, num_ranks: int = 1, is_sharded: bool = False,
) -> str:  # fmt: skip
    """A page of text: parameters by module with their shapes, totals, and the memory that training takes.

    Each with whether it is trained, and with its weight decay where `decays` has one for it.

    `recomputes`: its blocks' activations are computed again (`units.recompute`). `num_ranks`: processes that train
    together, each of which takes that memory; `is_sharded`: each holds a part of the model.

    The memory is an estimate for `mini_batch_size` samples as long as the context. What the forward pass keeps for
    the backward pass is measured on a few tokens of this very model and scaled; it may be a user's own.
    """
    shown = ", ".join(f"{key} {one_line(value, 60)}" for key, value in model_args.items())
    parts = [shown, _parameter_table(model, decays or {}), _totals(model)]
    sizes = _memory(model, model_args, optimizer, mini_batch_size, amp_dtype, recomputes=recomputes)
    at_start = _memory_at_start(sizes, optimizer) if num_ranks > 1 and is_sharded else ""
    if num_ranks > 1:
        sizes = _of_rank(sizes, model, num_ranks, is_sharded=is_sharded)
    parts.append(
        _memory_table(
            sizes, model, optimizer, num_ranks, mini_batch_size=mini_batch_size,
            num_tokens=mini_batch_size * int(model_args["context_len"]), amp_dtype=amp_dtype,
        )
    )  # fmt: skip
    return "\n\n".join(filter(None, (*parts, at_start)))


def _parameter_table(model: nn.Module, decays: Mapping[nn.Parameter, float]) -> str:
    rows: dict[tuple[str, tuple[int, ...], bool, float], _Row] = {}
    for name, parameter in model.named_parameters():
        pattern = _INDEX.sub("*", name)
        key = (pattern, tuple(parameter.shape), not parameter.requires_grad, decays.get(parameter, 0.0))
        rows.setdefault(key, _Row(*key)).count += 1
    total = sum(row.num_values for row in rows.values())
    lines = [("parameter", "shape", "times", "values", "share", "trained", "decay")]
    for row in rows.values():
        shape = " x ".join(map(str, row.shape)) or "1"
        share = format_percent(row.num_values / max(total, 1), 1)
        trained = ("frozen", "") if row.frozen else ("yes", f"{row.decay:g}" if row.decay else "no")
        lines.append((one_line(row.name, 60), shape, str(row.count), f"{row.num_values:,}", share, *trained))
    lines.append(("all", "", "", f"{total:,}", "", "", ""))
    return _columns(lines, left=(0, 1, 5, 6))


def _totals(model: nn.Module) -> str:
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    embedded = sum(p.numel() for p in embeddings)
    total = sum(p.numel() for p in parameters)
    return f"{total:,} parameters, {trained:,} trained; {embedded:,} in embeddings, {total - embedded:,} others"


def _memory(
    model: nn.Module, model_args: Mapping[str, Any], optimizer: str, mini_batch_size: int,
    amp_dtype: torch.dtype | None, *, recomputes: bool,
) -> dict[str, int]:  # fmt: skip
    """Bytes by what they are for. Logits count three times: themselves, their log-softmax and their gradient."""
    num_tokens = mini_batch_size * int(model_args["context_len"])
    gradients = _bytes_of_gradients(model)
    with computed_once(model):
        each_token, fixed = _kept_for_backward(model, amp_dtype)
    if recomputes and (units := units_of(model)):  # what all keep, and while its gradients are computed what one does
        each_outside, fixed_outside = _kept_for_backward(model, amp_dtype)
        each_token = each_outside + max(each_token - each_outside, 0) // len(units)
        fixed = fixed_outside + max(fixed - fixed_outside, 0) // len(units)
    return {
        "weights": sum(t.nbytes for t in (*model.parameters(), *model.buffers())),
        "gradients": gradients,
        f"{optimizer}'s state": gradients * STATE_VALUES[optimizer],
        "activations": fixed + each_token * num_tokens,
        "logits": num_tokens * int(model_args["vocab_size"]) * (12 if amp_dtype is None else 16),
    }


def _bytes_of_gradients(model: nn.Module) -> int:
    return sum(p.nbytes for p in model.parameters() if p.requires_grad)


def _of_rank(sizes: Mapping[str, int], model: nn.Module, num_ranks: int, *, is_sharded: bool) -> dict[str, int]:
    """What one of several processes takes of it: all, and the gradients once more while they are summed; or its parts.

    Of a sharded model what lies outside of the blocks is gathered for a pass, and one block with its gradients and the
    weights of the next.
    """
    if not is_sharded:
        return {**sizes, "reduction": sizes["gradients"]}
    blocks = [sum(p.nbytes for p in unit.parameters()) for unit in units_of(model)]
    outside = sum(p.nbytes for p in model.parameters()) - sum(blocks)
    parts = {name: size if name in ("activations", "logits") else -(-size // num_ranks) for name, size in sizes.items()}
    return {**parts, "gathered for a pass": 2 * outside + 3 * max(blocks, default=0)}


def _memory_at_start(sizes: Mapping[str, int], optimizer: str) -> str:
    """What a model in parts takes before it lies in parts, in its host's memory."""
    weights = sizes["weights"]
    resumed = weights + sizes[f"{optimizer}'s state"]
    return (
        f"Memory of the host at the start: {format_memory(weights)} in each process, the whole model, which goes to "
        f"the device block by block; in rank 0 of a resume {format_memory(resumed)} more, the checkpoint"
    )


def _memory_table(
    sizes: Mapping[str, int], model: nn.Module, optimizer: str, num_ranks: int, *, mini_batch_size: int,
    num_tokens: int, amp_dtype: torch.dtype | None,
) -> str:  # fmt: skip
    precision = "float32" if amp_dtype is None else f"mixed {str(amp_dtype).removeprefix('torch.')}"
    of_each = f" of each of {num_ranks} processes" if num_ranks > 1 else ""
    title = (
        f"Memory{of_each} to train, estimated: {precision}, mini-batches of {counted(mini_batch_size, 'sample')} "
        f"as long as the context ({num_tokens:,} tokens)"
    )
    gradients = _bytes_of_gradients(model)
    others = ", ".join(
        f"{name} {format_memory(gradients * k)}" for name, k in STATE_VALUES.items() if name != optimizer
    )
    rows = {**sizes, "all": sum(sizes.values())}
    table = _columns([(f"  {name}", format_memory(size)) for name, size in rows.items()], left=(0,))
    return f"{title}\n{table}\nState of the other optimizers{', of the whole model' if num_ranks > 1 else ''}: {others}"


def _kept_for_backward(model: nn.Module, amp_dtype: torch.dtype | None) -> tuple[int, int]:
    """Bytes that a forward pass keeps: for each token, and once (copies of weights in the smaller format)."""
    few, more = _PROBE_TOKENS
    kept_few, kept_more = _saved_bytes(model, few, amp_dtype), _saved_bytes(model, more, amp_dtype)
    each_token = (kept_more - kept_few) // (more - few)
    return each_token, max(kept_few - each_token * few, 0)


def _saved_bytes(model: nn.Module, num_tokens: int, amp_dtype: torch.dtype | None) -> int:
    first = next(model.parameters(), torch.empty(0))
    hidden = getattr(model, "hidden", None)
    forward = hidden if callable(hidden) else model
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # by storage; the tensors are held so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        if (pointer := tensor.untyped_storage().data_ptr()) not in own:
            kept[pointer] = tensor
        return tensor

    def keep_inputs(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        for tensor in inputs:
            if isinstance(tensor, Tensor):
                keep(tensor)

    hooks = [unit.register_forward_pre_hook(keep_inputs) for unit in units_of(model)]
    ids_BT = torch.zeros(1, num_tokens, dtype=torch.int64, device=first.device)
    mixed = nullcontext() if amp_dtype is None else torch.autocast(first.device.type, dtype=amp_dtype)
    devices = [first.device] if first.is_cuda else []
    with (
        torch.random.fork_rng(devices=devices),  # dropout draws
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        mixed,
    ):
        forward(ids_BT)
    for hook in hooks:
        hook.remove()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _columns(rows: Sequence[tuple[str, ...]], left: tuple[int, ...]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
