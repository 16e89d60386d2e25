"""A batch in mini-batches, and each as tensors: samples side by side and padded, or one behind the other.

Axes: B samples of a mini-batch, T tokens, N positions in the loss (flat over B and T), P positions of packed samples.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmplay_tui.data.samples import Sample

PACKED_MULTIPLE = 16  # positions, from which on each packed sample begins
_ALIGNED = 16  # bytes; compiled programs copy what lies otherwise


@dataclass(frozen=True)
class MiniBatch:
    """Samples side by side, padded on the right; or packed: one behind the other.

    `ids` int64 (B, T), or (P,): what the model reads (each sample without its last token). `index_N`: the flat
    positions whose next token counts in the loss; `targets_N`: those tokens. `truth_rows`: for each sample the slice
    of N that holds its truth. `offsets`: where each packed sample begins, and P (int64, on a GPU int32); None: padded.
    """

    samples: tuple[Sample, ...]
    ids: Tensor
    index_N: Tensor
    targets_N: Tensor
    truth_rows: tuple[slice, ...]
    num_tokens: int  # positions read, without padding
    offsets: Tensor | None = None
    positions_P: Tensor | None = None

    @property
    def num_loss_tokens(self) -> int:
        return int(self.targets_N.numel())


def mini_batches(samples: Sequence[Sample], size: int, *, by_length: bool) -> Iterator[list[Sample]]:
    """Cut a batch into mini-batches of `size`; the last may be smaller.

    `by_length`: longest first, so that little is padding and a lack of memory shows at once. Only right where the
    loss does not depend on who shares a mini-batch (`tokens` normalisation).
    """
    ordered = sorted(samples, key=lambda s: -(len(s.prompt_ids) + len(s.truth_ids))) if by_length else list(samples)
    for begin in range(0, len(ordered), size):
        yield ordered[begin : begin + size]


def mini_batches_of_like_work(
    samples: Sequence[Sample], size: int, work: Callable[[Sample], float]
) -> Iterator[list[Sample]]:
    """Cut a batch into mini-batches of `size`, each with about as much work; the last may be smaller.

    For samples that are packed: none is padded to another's length, and whoever computes one of the mini-batches is
    done when the others are. Greedy: the sample with most work comes first, each goes to the mini-batch that has least
    so far and room (Graham 1969, https://doi.org/10.1137/0117039). Of those of `size` the one with most is the first.
    """
    made: list[list[Sample]] = [[] for _ in range(-(-len(samples) // size))]
    room = [min(size, len(samples) - size * number) for number in range(len(made))]
    least = [(0.0, number) for number in range(len(made))]  # a heap: the least work so far, then the first
    done: list[tuple[float, int]] = []
    for sample in sorted(samples, key=lambda s: -work(s)):
        so_far, number = heapq.heappop(least)
        made[number].append(sample)
        heap = least if len(made[number]) < room[number] else done
        heapq.heappush(heap, (so_far + work(sample), number))
    for _, number in sorted(done, key=lambda each: (room[each[1]] < size, -each[0], each[1])):
        yield made[number]


def rank_of(number: int, world_size: int) -> int:
    """Which rank computes a mini-batch: in turns of one for each, there and back again.

    The one with most work comes first: always the same way round, the first rank would have the most of each turn.
    Rank 0, which has all else to do, begins last.
    """
    turn, place = divmod(number, world_size)
    return place if turn % 2 else world_size - 1 - place


def collate(
    samples: Sequence[Sample],
    *,
    include_prompts: bool,
    device: torch.device,
    multiple: int = 1,
    most: int | None = None,
    least_rows: int = 1,
) -> MiniBatch:
    """Lay samples side by side.

    T is rounded up to `multiple`, at most to `most`, and B is at least `least_rows`: compiled code meets few shapes.
    """
    lengths = [num_positions(s) for s in samples]
    width = -(-max(lengths) // multiple) * multiple
    if most is not None:
        width = min(width, most)
    rows = max(len(samples), least_rows)
    begins = [b * width for b in range(len(samples))]
    arrays, truth_rows = _laid_out(samples, begins, rows * width, include_prompts=include_prompts)
    ids, index_N, targets_N = on_device(device, *arrays)
    return MiniBatch(
        samples=tuple(samples),
        ids=ids.view(rows, width),
        index_N=index_N,
        targets_N=targets_N,
        truth_rows=truth_rows,
        num_tokens=sum(lengths),
    )


@dataclass(frozen=True)
class FewShapes:
    """What packed samples are filled up to with samples of nothing, so that a recorded program fits many of them.

    `total_multiple` positions; as many samples always as `num_samples` and what a fill needs, none over `longest`.
    """

    num_samples: int
    total_multiple: int
    longest: int

    def filled(self, offsets: np.ndarray) -> np.ndarray:
        """Where all samples begin, and the end."""
        end = -(-int(offsets[-1]) // self.total_multiple) * self.total_multiple
        begins = np.append(offsets, np.arange(offsets[-1] + self.longest, end, self.longest))
        most = self.num_samples + -(-self.total_multiple // self.longest)
        return np.append(begins, np.full(most + 1 - len(begins), end))


def pack(
    samples: Sequence[Sample], *, include_prompts: bool, device: torch.device, few_shapes: FewShapes | None = None
) -> MiniBatch:
    """Lay samples one behind the other, each from a multiple of `PACKED_MULTIPLE` on.

    Attention and matrix products prepare code for each length that they meet, and keep it: with lengths of all kinds
    that takes more time and memory than the few positions between the samples.
    """
    lengths = [num_positions(s) for s in samples]
    begins = np.cumsum([0, *(-(-length // PACKED_MULTIPLE) * PACKED_MULTIPLE for length in lengths)])
    offsets = begins if few_shapes is None else few_shapes.filled(begins)
    P = int(offsets[-1])
    sizes = np.diff(offsets)
    positions_P = np.arange(P) - np.repeat(offsets[:-1], sizes)
    last = np.zeros(len(sizes), dtype=np.int64)  # behind a sample no position that a model has not
    last[: len(lengths)] = np.array(lengths) - 1
    arrays, truth_rows = _laid_out(samples, begins[:-1].tolist(), P, include_prompts=include_prompts)
    starts = offsets if device.type == "cpu" else offsets.astype(np.int32)
    placed = on_device(device, starts, *arrays, np.minimum(positions_P, np.repeat(last, sizes)))
    return MiniBatch(
        samples=tuple(samples),
        ids=placed[1],
        index_N=placed[2],
        targets_N=placed[3],
        truth_rows=truth_rows,
        num_tokens=sum(lengths),
        offsets=placed[0],
        positions_P=placed[4],
    )


def truth_rows_of(samples: Sequence[Sample], *, include_prompts: bool) -> tuple[slice, ...]:
    """Where the truth of each of a mini-batch's samples lies among its positions in the loss."""
    rows = []
    counted = 0
    for sample in samples:
        before = len(sample.prompt_ids) - 1 if include_prompts else 0
        rows.append(slice(counted + before, counted + before + len(sample.truth_ids)))
        counted = rows[-1].stop
    return tuple(rows)


def num_positions(sample: Sample) -> int:
    """Positions that a model reads of a sample: all tokens but the last."""
    return len(sample.prompt_ids) + len(sample.truth_ids) - 1


def _laid_out(
    samples: Sequence[Sample], begins: Sequence[int], size: int, *, include_prompts: bool
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], tuple[slice, ...]]:
    """The tokens of samples at the flat places where they begin, what counts in the loss, and each one's truth."""
    ids = np.zeros(size, dtype=np.int64)
    index, targets = [], []
    for sample, begin in zip(samples, begins, strict=True):
        tokens = np.concatenate((sample.prompt_ids, sample.truth_ids))
        length = len(tokens) - 1
        ids[begin : begin + length] = tokens[:-1]
        # Position t predicts token t + 1: the first truth token is predicted at the prompt's last position.
        first_truth = len(sample.prompt_ids) - 1
        first = 0 if include_prompts else first_truth
        index.append(np.arange(begin + first, begin + length))
        targets.append(tokens[first + 1 :])
    arrays = ids, np.concatenate(index), np.concatenate(targets).astype(np.int64)
    return arrays, truth_rows_of(samples, include_prompts=include_prompts)


def on_device(device: torch.device, *arrays: np.ndarray) -> list[Tensor]:
    """Flat arrays on the device; where a copy has to be begun for each, side by side in one pinned buffer."""
    if device.type in ("cpu", "mps"):
        return [torch.from_numpy(array).to(device) for array in arrays]
    begins = np.cumsum([0, *(-(-array.nbytes // _ALIGNED) * _ALIGNED for array in arrays)]).tolist()
    buffer = torch.empty(begins[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    places = [slice(begin, begin + array.nbytes) for begin, array in zip(begins, arrays, strict=False)]
    for place, array in zip(places, arrays, strict=True):
        buffer.numpy()[place] = array.view(np.uint8)
    copied = buffer.to(device, non_blocking=True)
    return [copied[place].view(torch.from_numpy(array[:0]).dtype) for place, array in zip(places, arrays, strict=True)]
