"""What the ranks of a run do together: report a step, add their gradients up, take rank 0's state.

A report comes before the gradients: whether all have done their share. Only then is anything summed, so a step that
one of them has dropped is dropped by all.
"""

import contextlib
import enum
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from lmplay_tui.errors import DriftedError, TrainingError
from lmplay_tui.run.controls import StopRequested
from lmplay_tui.text import one_line
from lmplay_tui.train.collate import rank_of
from lmplay_tui.train.device import (
    DeviceMeter,
    DeviceUse,
    fits,
    give_memory_back,
    is_out_of_memory,
    no_memory,
    numbered_device,
)
from lmplay_tui.train.orders import Sender, TellChecksum, connected
from lmplay_tui.train.process_group import ProcessGroup, RankLostError

Computed = TypeVar("Computed")
MOST_SAID = 4000  # characters of another rank's error
NO_RESCUE = (
    "out of memory, which a sharded model is not rescued from; the last checkpoint is intact; try a smaller "
    "--mini-batch-size"
)
BUCKET_BYTES = 25 << 20
LARGE_BYTES = 4 << 20  # a matrix whose gradient is looked at for rows of zeros
_FEW = 4  # rows are few where they are not more than this part of all
_GLANCE = 64  # rows
TELLS_WITHIN_S = 10.0  # a rank that has nothing else to do
_LOOKS_EVERY_S = 0.02
_HEADER = 11


class Status(enum.IntEnum):
    """How a rank's share of a step has gone."""

    OK = 0
    STOPPED = 1
    NO_MEMORY = 2
    FAILED = 3


@dataclass(frozen=True)
class ShareReport:
    """What each rank tells all others of its share of a batch. `losses`, in nats: of its mini-batches, by number.

    `seconds`: of its own work. `checksum`: of its weights before the step, where that was wanted. `touched`: whether
    each parameter has a gradient. `has_changed_buffers`: by the passes, as running means are.
    """

    status: Status = Status.OK
    num_tokens: int = 0
    num_positions: int = 0
    seconds: float = 0.0
    use: DeviceUse = field(default_factory=DeviceUse)
    checksum: int = 0
    has_changed_buffers: bool = False
    losses: Sequence[float] = ()
    touched: Sequence[bool] = ()


def collective_device(device: torch.device) -> torch.device:
    """Where tensors must lie that the group's backend takes: NCCL takes none of the processor's."""
    return device if "nccl" in dist.get_backend() else torch.device("cpu")


def gather(
    group: ProcessGroup, report: ShareReport, num_losses: int, num_parameters: int, device: torch.device
) -> list[ShareReport]:
    """Each rank's report. `num_losses`: room for those of the rank with the most. Raises `RankLostError`."""
    values = [
        float(report.status), float(report.num_tokens), float(report.num_positions), report.seconds,
        float(report.checksum >> 32), float(report.checksum & 0xFFFFFFFF), float(report.has_changed_buffers),
        *astuple(report.use),
    ]  # fmt: skip
    losses = [*report.losses, *[0.0] * (num_losses - len(report.losses))]
    touched = [float(each) for each in report.touched] or [0.0] * num_parameters
    own = torch.tensor([*values, *losses, *touched], dtype=torch.float64, device=device)
    everyone = torch.empty(dist.get_world_size(), len(own), dtype=torch.float64, device=device)
    with connected("a rank is lost"):
        group.wait(dist.all_gather(list(everyone.unbind()), own, async_op=True))
        rows = everyone.tolist()
    return [
        ShareReport(
            Status(int(row[0])), int(row[1]), int(row[2]), row[3], DeviceUse(*row[7:_HEADER]),
            (int(row[4]) << 32) | int(row[5]), row[6] != 0.0,
            row[_HEADER : _HEADER + num_losses], [each != 0.0 for each in row[_HEADER + num_losses :]],
        )
        for row in rows
    ]  # fmt: skip


def is_of_connection(error: BaseException) -> bool:
    """Whether another rank's end is what a collective inside of a pass has failed by; torch has no kind for gloo's."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def touched_by_any(reports: Sequence[ShareReport]) -> list[bool]:
    """Of each parameter: whether any rank has a gradient of it."""
    return [any(each) for each in zip(*(report.touched for report in reports), strict=True)]


def buffers_of(model: nn.Module) -> list[Tensor]:
    """The buffers that belong to the model's state; those of them that are no more than a memory of its own do not."""
    if next(model.buffers(), None) is None:
        return []
    parameters = set(model.parameters())
    return [each for each in dict.fromkeys(model.state_dict(keep_vars=True).values()) if each not in parameters]


def marks_of(buffers: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Others than before where one of them has been written to, or replaced."""
    return [(id(each), each._version) for each in buffers]


def sum_gradients(group: ProcessGroup, parameters: Sequence[nn.Parameter], touched: Sequence[bool]) -> None:
    """Each parameter's `grad` becomes the sum of all ranks'; None stays where no rank has one, as `touched` says.

    Every rank has the same bits afterwards. Of a large matrix with few rows that are not zero on any rank, as an
    embedding's gradient is, these alone are sent. Raises `RankLostError`, and `TrainingError` where memory lacks: the
    others wait for this rank then, so that nothing can be tried again.
    """
    summed = [parameter for parameter, is_touched in zip(parameters, touched, strict=True) if is_touched]
    with connected("a rank is lost"):
        rows_of = _few_rows(group, [each for each in summed if each.ndim == 2 and each.nbytes >= LARGE_BYTES])
        in_rows = [(parameter, rows, _selected(parameter, rows)) for parameter, rows in rows_of.items()]
        rows_under_way = [dist.all_reduce(part, async_op=True) for _, _, part in in_rows]
        under_way = []
        for bucket in _buckets([parameter for parameter in summed if parameter not in rows_of]):
            flat = _fitting(partial(_flat, bucket))
            under_way.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for (parameter, rows, part), work in zip(in_rows, rows_under_way, strict=True):
            assert parameter.grad is not None
            group.wait(work)
            parameter.grad.index_copy_(0, rows, part)
        for bucket, flat, work in under_way:
            group.wait(work)
            for parameter, part in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
                parameter.grad = part.view(parameter.shape)


def _few_rows(group: ProcessGroup, matrices: Sequence[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
    """Of matrices whose gradients are zero in most rows, on all ranks: the numbers (int64) of the others.

    All ranks find the same. Raises `TrainingError`.
    """
    if not matrices:
        return {}
    # The largest byte of a row says exactly whether any bit of it is set: 0 + 0 is what the sum of all others is.
    largest = _fitting(lambda: torch.cat([_largest_bytes(each) for each in matrices]))
    group.wait(dist.all_reduce(largest, dist.ReduceOp.MAX, async_op=True))
    found = zip(matrices, torch.split(largest, [len(each) for each in matrices]), strict=True)
    rows_of = {each: of_each.nonzero()[:, 0] for each, of_each in found}
    return {each: rows for each, rows in rows_of.items() if len(rows) <= len(each) // _FEW}


def _largest_bytes(matrix: nn.Parameter) -> Tensor:
    """Of each row of its gradient (uint8): 0 where all bits are zero. Where a glance shows many that are not: 1."""
    if matrix.grad is None:
        return torch.zeros(len(matrix), dtype=torch.uint8, device=matrix.device)
    bits = _gradient(matrix).contiguous().view(torch.uint8)
    if int(bits[:: max(len(bits) // _GLANCE, 1)].amax(dim=1).count_nonzero()) > _GLANCE // _FEW:
        return bits.new_ones(len(bits))
    return bits.amax(dim=1)


def _selected(parameter: nn.Parameter, rows: Tensor) -> Tensor:
    """These rows of its gradient, which is there from now on, dense."""
    parameter.grad = _fitting(partial(_gradient, parameter))
    return _fitting(partial(parameter.grad.index_select, 0, rows))


def _fitting(make: Callable[[], Tensor]) -> Tensor:
    """What `make` gives. Raises `TrainingError` where memory lacks."""
    fitted, made = fits(make)
    if not fitted:
        raise TrainingError("no memory for the sum of the gradients; try a smaller model or mini-batch")
    assert made is not None
    return made


def _flat(bucket: Sequence[nn.Parameter]) -> Tensor:
    """The gradients one behind the other; a single one as it lies, which the sum then overwrites."""
    parts = [_gradient(parameter).flatten() for parameter in bucket]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.to_dense()


def _buckets(tensors: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one number format, up to 25 MB of them together."""
    bucket: list[nn.Parameter] = []
    size = 0
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or size + tensor.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


def take_from_rank_0(group: ProcessGroup, tensors: Sequence[Tensor], device: torch.device) -> None:
    """Give each tensor the bits of rank 0's, which must be as many and as large. Raises `RankLostError`."""
    take_from(group, 0, tensors, device)


def share_buffers(group: ProcessGroup, model: nn.Module, reports: Sequence[ShareReport]) -> None:
    """Where passes change buffers, all ranks take those of the rank with the batch's first mini-batch.

    As with one process, they know a part of the batch better than the rest, but they are the same everywhere. Raises
    `RankLostError`.
    """
    if any(report.has_changed_buffers for report in reports):
        buffers = buffers_of(model)
        device = buffers[0].device
        take_from(group, rank_of(0, len(reports)), buffers, collective_device(device))


def take_from(group: ProcessGroup, rank: int, tensors: Sequence[Tensor], device: torch.device) -> None:
    """`take_from_rank_0`, from another one."""
    is_source = dist.get_rank() == rank
    for tensor in tensors:
        if not tensor.numel():
            continue
        flat = tensor.detach().to(device).contiguous().flatten().view(torch.uint8)
        for part in torch.split(flat, BUCKET_BYTES):
            with connected("a rank is lost"):
                group.wait(dist.broadcast(part, src=rank, async_op=True))
        if not is_source:
            tensor.detach().copy_(flat.view(tensor.dtype).view(tensor.shape))


@torch.no_grad()
def checksum_of(model: nn.Module) -> int:
    """A number of 64 bits that any changed bit of the weights changes."""
    total = 0
    for i, parameter in enumerate(model.parameters()):
        flat = parameter.detach().contiguous().flatten()
        # Eight bytes at a time where they are as many: several times as fast, and no bit of a sum modulo 2^64 is lost.
        bits = flat.view(torch.int64 if flat.nbytes % 8 == 0 else _WHOLE[flat.element_size()])
        # Times odd numbers alone, which lose no bit.
        total = (total * 31 + (2 * i + 1) * int(bits.sum(dtype=torch.int64))) % (1 << 64)
    return total


def have_drifted(reports: Sequence[ShareReport]) -> bool:
    """Whether not all ranks have the same weights."""
    return len({report.checksum for report in reports}) > 1


class SameWeights:
    """What rank 0 knows of whether all ranks have the same weights, as they should, bit by bit."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self._looks = 0  # before a save
        self.equal_behind: int | None = None  # this step, by the last look at them
        self._saved_unseen: int | None = None  # a step behind that, saved without a look

    def begin(self, step: int) -> None:
        """Before the first look: all have begun with rank 0's, behind this step."""
        if self.equal_behind is None:
            self.equal_behind = step

    def told(self, model: nn.Module, sender: Sender, within_s: float) -> list[int]:
        """Each rank's checksum, asked for; fewer where one is lost, or does not tell in time.

        Not by a collective: one that a rank does not come to ends the run, and has its own time for that.
        """
        self._looks += 1
        store, number = self._group.store, self._looks
        keys = [checksum_key(number, rank) for rank in range(1, self._group.world_size)]
        deadline = time.monotonic() + within_s
        said: list[str] = []
        with contextlib.suppress(RankLostError):
            sender.send_all(TellChecksum(number))
            own = str(checksum_of(model))
            with connected("the orders' store is gone"):
                while not store.check(keys):
                    if self._group.ended() or time.monotonic() > deadline:
                        return []
                    time.sleep(_LOOKS_EVERY_S)
                said = [own, *(bytes(store.get(key)).decode("ascii", "replace") for key in keys)]
                for key in keys:
                    store.delete_key(key)
        return [int(each) for each in said if each.isdecimal()]

    def compare(self, step: int, checksums: Sequence[int]) -> None:
        """Whether those of all ranks behind `step` are the same; fewer show nothing. Raises `DriftedError`."""
        if len(checksums) < self._group.world_size:
            self._saved_unseen = step
            return
        if len(set(checksums)) > 1:
            raise DriftedError(self._said(step, checksums))
        self.equal_behind, self._saved_unseen = step, None

    def _said(self, step: int, checksums: Sequence[int]) -> str:
        """Which ranks have others, where most are alike; and what is known of the time before."""
        ranks: dict[int, list[int]] = {}
        for rank, each in enumerate(checksums):
            ranks.setdefault(each, []).append(rank)
        alike = max(ranks.values(), key=len)
        if 2 * len(alike) > len(checksums):
            others = ", ".join(str(rank) for rank in range(len(checksums)) if rank not in alike)
            what = f"the weights of rank {others} are not those of the others"
            why = "memory or a library computes wrongly there"
        else:
            what = " and ".join(f"of rank {', '.join(map(str, each))}" for each in ranks.values())
            what = f"the weights {what} are not the same, and which are right is not known"
            why = "memory or a library computes wrongly on one of them"
        if unlike := self._group.unlike:
            why = f"{unlike}, which may round otherwise"
        before = "" if self.equal_behind is None else f"; behind step {self.equal_behind} all were equal bit by bit"
        if self._saved_unseen is not None:
            saved = f"step {self._saved_unseen} was saved without a look at all of them, and may have wrong ones"
        else:
            saved = "the last checkpoint is of no step behind that"
        return f"behind step {step}: {what}{before}: {why}; nothing more is saved, {saved}"


_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}


def drop_key(turn: int) -> str:
    """Set while rank 0 wants a share dropped. `turn`: how many shares were dealt before it."""
    return f"drop/{turn}"


def argmax_key(turn: int, rank: int) -> str:
    """The likeliest tokens of a rank's share, int32, mini-batch by mini-batch."""
    return f"argmax/{turn}/{rank}"


def checksum_key(number: int, rank: int) -> str:
    """A rank's checksum of its weights, in digits; empty: it has no model that could be trained."""
    return f"checksum/{number}/{rank}"


def error_key(rank: int) -> str:
    """What has gone wrong in a rank's share, or why it leaves, in words: the run ends with it."""
    return f"error/{rank}"


def device_key(rank: int) -> str:
    """How a rank's device has failed, in words: all start again, without it where it cannot be used then."""
    return f"device/{rank}"


def hindrance_key(rank: int) -> str:
    """What a rank cannot do, in words: all go on without it."""
    return f"hindrance/{rank}"


def parts_key(folder: str, rank: int) -> str:
    """What a rank has written into a folder of parts, or what hindered it: JSON, as `PART_REPORT` has it."""
    return f"parts/{folder}/{rank}"


def phase_key(rank: int) -> str:
    """How many shares a rank has done, and what it is at, in a word; by lines."""
    return f"phase/{rank}"


def place_key(rank: int) -> str:
    """A rank's host, device and process, by lines."""
    return f"place/{rank}"


def replicated(
    model: nn.Module, optimizer_state: Mapping[str, Mapping[str, Tensor]]
) -> list[Tensor]:  # fmt: skip
    """What all ranks have alike, in one order: the model's tensors, and the optimizer's."""
    tensors = list(dict.fromkeys(model.state_dict(keep_vars=True).values()))
    return [*tensors, *(value for entries in optimizer_state.values() for value in entries.values())]


def own_place(group: ProcessGroup, device: torch.device) -> str:
    """This process's host, device and number, by lines."""
    return f"{group.host}\n{numbered_device(device, os.environ.get('CUDA_VISIBLE_DEVICES', ''))}\n{os.getpid()}"


def said_of(error: BaseException) -> str:
    """An error of a follower, for rank 0 to tell."""
    if is_out_of_memory(error):
        return str(no_memory(error))
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" ({frame.filename}:{frame.lineno})" for frame in where)
    return one_line(f"{type(error).__name__}: {error}{place}", MOST_SAID)


class Shares:
    """How each process does its share, rank 0 as the others: compute, report, and learn what all have reported."""

    def __init__(self, group: ProcessGroup, device: torch.device) -> None:
        self._group = group
        self._device = device
        self._meter = DeviceMeter(device)
        self.turn = 0
        self.problem: Exception | None = None  # of this process's share
        self.in_parts = False  # of a sharded model: what fails leaves the others waiting, so it is raised

    def compute(self, work: Callable[[], Computed]) -> tuple[Status, Computed | None, float]:
        """Do `work`; how that went, what it gave, and the seconds that it took."""
        begun = time.perf_counter()
        self.problem = None
        status, computed = Status.OK, None
        try:
            computed = work()
        except StopRequested:
            status = Status.STOPPED
        except Exception as error:
            if self.in_parts:
                raise
            status = Status.NO_MEMORY if is_out_of_memory(error) else Status.FAILED
            # A lack of memory is not kept: its frames hold the tensors of the failed pass.
            self.problem = error if status is Status.FAILED else None
        if status is Status.NO_MEMORY:
            give_memory_back(self._device)
        return status, computed, time.perf_counter() - begun

    def report(self, report: ShareReport, num_mini_batches: int, num_parameters: int) -> list[ShareReport]:
        """Tell all others, and learn what they tell. Raises `RankLostError`."""
        most = -(-num_mini_batches // self._group.world_size)
        self.turn += 1
        return gather(
            self._group, replace(report, use=self._meter()), most, num_parameters, collective_device(self._device)
        )  # fmt: skip

    def hindrance(self, own: str) -> str:
        """What hinders one of the ranks, with its number; empty: nothing. All ask it together.

        `own`: what hinders this one. Raises `RankLostError`.
        """
        if own:
            with connected("the orders' store is gone"):
                self._group.store.set(hindrance_key(self._group.rank), own)
        reports = self.report(ShareReport(Status.FAILED if own else Status.OK), 0, 0)
        hindered = [rank for rank, report in enumerate(reports) if report.status is not Status.OK]
        return f"rank {hindered[0]}: {self.words_under(hindrance_key(hindered[0]))}" if hindered else ""

    def words_under(self, key: str) -> str:
        """What a rank has said, which is waited for. Raises `RankLostError`."""
        with connected("the orders' store is gone"):
            return one_line(bytes(self._group.store.get(key)).decode("utf-8", "replace"), MOST_SAID)

    def losses_in_order(self, reports: Sequence[ShareReport], num_mini_batches: int) -> list[float]:
        """Of each mini-batch, by its number."""
        world_size = self._group.world_size
        return [reports[rank_of(i, world_size)].losses[i // world_size] for i in range(num_mini_batches)]

    def total(self, reports: Sequence[ShareReport], num_mini_batches: int) -> float:
        """The batch's loss, as one process sums it."""
        total = 0.0
        for loss in self.losses_in_order(reports, num_mini_batches):
            total += loss
        return total
