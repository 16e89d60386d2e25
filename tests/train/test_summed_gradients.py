"""What ranks add up: to the bit what all of it is, though rows that are zero on all of them are not sent."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from lmplay_tui.train.process_group import ProcessGroup
from lmplay_tui.train.reduction import LARGE_BYTES, sum_gradients
from tests.train.ranks import together

WIDTH = 64
ROWS = LARGE_BYTES // (4 * WIDTH)  # just large enough in float32
Gradient = Callable[[int], Tensor | None]  # of a rank


def with_rows(rank: int, rows: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers in these rows, other ones on each rank; zeros in all others."""
    gradient = torch.zeros(ROWS, WIDTH * 4 // dtype.itemsize, dtype=dtype)
    generator = torch.Generator().manual_seed(rank)
    gradient[list(rows)] = torch.randn(len(rows), gradient.shape[1], generator=generator).to(dtype)
    return gradient


def with_value(rank: int, row: int, value: float) -> Tensor:
    """One number in a row, its last."""
    gradient = with_rows(rank, [3])
    gradient[row, -1] = value
    return gradient


FEW: dict[str, Gradient] = {
    "other rows on each": lambda rank: with_rows(rank, range(rank * 10, rank * 10 + 5)),
    "some rows on both": lambda rank: with_rows(rank, range(rank * 2, rank * 2 + 5)),
    "the last row": lambda rank: with_rows(rank, [ROWS - 1]),
    "on one rank alone": lambda rank: None if rank else with_rows(rank, [7, 9]),
    "no row at all": lambda rank: with_rows(rank, []),
    "float64": lambda rank: with_rows(rank, [5, rank], torch.float64),
    "bfloat16": lambda rank: with_rows(rank, [5, rank], torch.bfloat16),
    "a sparse layout": lambda rank: with_rows(rank, [5, rank]).to_sparse(1),
    "not contiguous": lambda rank: with_rows(rank, [5, rank]).t().contiguous().t(),
    "one number, the smallest": lambda rank: with_value(rank, 100 + rank, 1e-45),
    "minus zero": lambda rank: with_value(rank, 100, -0.0),
    "minus zero on one rank": lambda rank: with_value(rank, 100 + rank, -0.0),
    "not a number": lambda rank: with_value(rank, 100 + rank, float("nan")),
    "infinite": lambda rank: with_value(rank, 100, float("inf")),
}
MANY: dict[str, Gradient] = {
    "each row": lambda rank: with_rows(rank, range(ROWS)),
    "each row of one rank": lambda rank: with_rows(rank, range(ROWS) if rank else [1]),
    "the first half": lambda rank: with_rows(rank, range(ROWS // 2)),
    "each second one, none that a glance meets": lambda rank: with_rows(rank, range(1, ROWS, 2)),
}
ALL = FEW | MANY


class Sent(TorchDispatchMode):
    """Counts the bytes of what is summed over ranks."""

    num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "allreduce" in func.overloadpacket.__name__:
            self.num_bytes += sum(tensor.nbytes for tensor in args[0])
        return func(*args, **(kwargs or {}))


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.contiguous().view(torch.uint8).numpy())


def test_to_the_bit_what_the_sum_of_all_rows_is():
    """Beside parameters that are small, or have a gradient nowhere."""

    def work(group: ProcessGroup) -> dict[str, tuple[bool, int]]:
        found = {}
        for name, gradient_of in ALL.items():
            both = [gradient_of(rank) for rank in range(group.world_size)]
            dense = [torch.zeros(ROWS, WIDTH) if each is None else each.to_dense() for each in both]
            expected = bits(dense[0] + dense[1])
            matrix = nn.Parameter(torch.zeros_like(dense[0]))
            small, untouched = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(ROWS, WIDTH))
            matrix.grad, small.grad = both[group.rank], torch.full((5,), group.rank + 1.0)
            with Sent() as sent:
                sum_gradients(group, [small, untouched, matrix], [True, False, True])
            assert matrix.grad is not None and small.grad.tolist() == [3.0] * 5 and untouched.grad is None
            found[name] = (bits(matrix.grad) == expected, sent.num_bytes)
        return found

    for of_rank in together(2, work):
        assert [name for name, (is_same, _) in of_rank.items() if not is_same] == []
        assert [name for name in FEW if of_rank[name][1] > LARGE_BYTES // 10] == [], "few rows are sent alone"
        assert [name for name in MANY if of_rank[name][1] < LARGE_BYTES] == []


@pytest.mark.long
def test_three_ranks_find_the_same_bits():
    def work(group: ProcessGroup) -> list[tuple[bytes, float]]:
        found = []
        for gradient_of in (FEW["some rows on both"], FEW["on one rank alone"], MANY["each row of one rank"]):
            parts = [gradient_of(rank) for rank in range(3)]
            matrix = nn.Parameter(torch.zeros(ROWS, WIDTH))
            expected = torch.stack([part.double() for part in parts if part is not None]).sum(dim=0)
            matrix.grad = parts[group.rank]
            sum_gradients(group, [matrix], [True])
            assert matrix.grad is not None
            found.append((bits(matrix.grad), float((matrix.grad - expected).abs().max())))
        dist.barrier()
        return found

    first, *others = together(3, work)
    assert all(other == first for other in others)
    assert all(distance < 1e-6 for _, distance in first)
