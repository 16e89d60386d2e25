"""Checkpoints in parts as several processes leave them, made by one."""

import copy
from pathlib import Path
from typing import Any

import torch

from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.checkpoint import load_checkpoint, num_bytes, write_checkpoint
from lmplay_tui.train.checkpoint_parts import OwnRows, PartsSave, Written, new_folder, whole, write_part


def rows_of(key: str, tensor: torch.Tensor, rank: int, num_ranks: int) -> list[OwnRows]:
    """What a rank holds of a tensor: as many rows as each, the last ones fewer or none."""
    size = -(-len(tensor) // num_ranks)
    rows = tensor[rank * size : (rank + 1) * size]
    return [OwnRows(key, tuple(tensor.shape), rank * size, rows)]


def save_in_parts(checkpoint: dict[str, Any], run: RunFolder, num_ranks: int = 3) -> int:
    """Write a checkpoint as so many ranks of a sharded model write it."""
    return write_checkpoint(in_parts(checkpoint, run, num_ranks), run.model, previous=run.checkpoint("prev"))


def in_parts(
    checkpoint: dict[str, Any], run: RunFolder, num_ranks: int = 3, problem: OSError | None = None
) -> dict[str, Any]:
    """A checkpoint whose parts so many ranks are about to write. `problem`: what hinders the last one."""
    own: list[list[OwnRows]] = [[] for _ in range(num_ranks)]
    keys: dict[int, str] = {}

    def placed(key: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.ndim:
            return value
        if id(value) not in keys:
            keys[id(value)] = key
            for rank in range(num_ranks):
                own[rank] += rows_of(key, value, rank, num_ranks)
        return keys[id(value)]

    head = copy.copy(checkpoint)
    weights, states = checkpoint["model"]["state"], checkpoint["optimizers"]["state"]
    head["model"] = head["model"] | {"state": {name: placed(f"model/{name}", it) for name, it in weights.items()}}
    moments = {
        name: {entry: placed(f"optimizer/{entry}/{name}", whole(it)) for entry, it in held.items()}
        for name, held in states.items()
    }
    head["optimizers"] = head["optimizers"] | {"state": moments}
    size = num_bytes([each.rows for rank in own for each in rank])

    def others() -> list[Written]:
        written = [each for rank in range(1, num_ranks) for each in write_part(folder, rank, own[rank])]
        if problem is not None:
            raise problem
        return written

    try:
        folder = new_folder(run, size)
    except OSError as error:
        parts = PartsSave(None, (), list, 0, problem=error)
    else:
        parts = PartsSave(folder, own[0], others, size)
    head["runner"] = head["runner"] | {"state": head["runner"]["state"] | {"parts": parts}}
    return head


def tensors_of(path: Path) -> dict[str, Any]:
    """Weights and optimizer of a checkpoint, wherever they lie."""
    return in_memory(load_checkpoint(path))


def in_memory(checkpoint: dict[str, Any]) -> dict[str, Any]:
    states = checkpoint["optimizers"]["state"]
    return {
        "weights": checkpoint["model"]["state"],
        "optimizer": {name: {key: whole(it) for key, it in held.items()} for name, held in states.items()},
    }
