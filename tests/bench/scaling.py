"""`scaling`: how fast 1 to 512 ranks would train, from what one rank and two processes measure here.

Measured are: a step of the real trainer (its own work, the update, the rest), reductions by gloo between processes,
orders over a TCPStore, and how fast one thread cuts samples. A simulation makes steps of many ranks of them
(`step_of`); docs/many-devices-scaling.md has its formulas, its tables, and what in them is assumed.
"""

import json
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

RANKS = (1, 8, 64, 512)
STEPS = 200  # that are simulated of each
SIZES = (1 << 10, 1 << 20, 25 << 20)  # bytes of a reduction; the last is a bucket's
ORDERS = (200, 20_000, 200_000)  # bytes
REPEATS = 15
BUCKET_BYTES = 25 << 20
BYTES_A_TOKEN = 4
CUT_TOKENS_PER_S = 1.1e6  # of one thread, as it was measured on a machine with nothing else to do


@dataclass(frozen=True)
class World:
    """What a simulated run consists of. Times in seconds, rates a second."""

    name: str
    token_s: float  # a rank's own work, for a token
    spread: Sequence[float]  # of that: how long steps took against their mean; drawn from for each rank and step
    update_s: float
    rest_s: float  # of rank 0 between steps: accuracy, journals
    gradient_bytes: float
    bandwidth: float  # bytes, of the slowest link
    latency_s: float  # of a hop from rank to rank
    order_s: float  # of rank 0, for an order without its bytes
    order_bandwidth: float  # bytes of orders that rank 0 sends
    cut_tokens_per_s: float  # that rank 0's reader cuts, beside the training
    sample_tokens: float
    mini_batch: int  # samples
    has_trees: bool = False  # reductions may go over a tree, as NCCL's do where that takes less time


@dataclass(frozen=True)
class Step:
    """A simulated step: where its seconds go."""

    orders_s: float  # until rank 0, who sends them, begins its own work
    own_s: float  # mean of the ranks
    wait_s: float  # from then until the slowest is done
    reduce_s: float
    update_s: float  # and the rest
    data_s: float  # that cutting takes longer than all this

    @property
    def whole_s(self) -> float:
        return self.orders_s + self.own_s + self.wait_s + self.reduce_s + self.update_s + self.data_s


def share_of(samples: int, mini_batch: int, ranks: int) -> int:
    """Samples of the rank that is dealt most: mini-batches are dealt by number; fewer than ranks are made smaller."""
    size = min(mini_batch, math.ceil(samples / ranks))
    return min(math.ceil(math.ceil(samples / size) / ranks) * size, samples)


def reduce_s(world: World, ranks: int) -> float:
    """The report of all ranks, then the sum of the gradients, bucket by bucket, none of it beside other work.

    A ring: 2 (W - 1) / W x bytes / bandwidth, and 2 (W - 1) hops a bucket; the report is (W - 1) hops. A tree: 2 x
    bytes / bandwidth, and 2 log2 W hops a bucket; the report is log2 W hops.
    """
    if ranks == 1:
        return 0.0
    buckets = max(math.ceil(world.gradient_bytes / BUCKET_BYTES), 1)
    once_s = world.gradient_bytes / world.bandwidth
    ring_s = 2 * (ranks - 1) / ranks * once_s + (2 * buckets + 1) * (ranks - 1) * world.latency_s
    tree_s = 2 * once_s + (2 * buckets + 1) * math.ceil(math.log2(ranks)) * world.latency_s
    return min(ring_s, tree_s) if world.has_trees else ring_s


def step_of(world: World, ranks: int, samples: int, dice: random.Random) -> Step:
    """One step of `samples` samples. Rank 0 sends the orders one after another, then does its own share."""
    share = share_of(samples, world.mini_batch, ranks) * world.sample_tokens
    order = world.order_s + share * BYTES_A_TOKEN / world.order_bandwidth
    begun = [order * rank for rank in (*range(1, ranks), ranks - 1)]  # rank 0 last
    own = [share * world.token_s * dice.choice(world.spread) for _ in range(ranks)]
    slowest = max(at + seconds for at, seconds in zip(begun, own, strict=True))
    orders_s, own_s = begun[-1], math.fsum(own) / ranks
    wait_s = max(slowest - orders_s - own_s, 0.0)
    known = Step(orders_s, own_s, wait_s, reduce_s(world, ranks), world.update_s + world.rest_s, 0.0)
    cut_s = samples * world.sample_tokens / world.cut_tokens_per_s
    return replace(known, data_s=max(cut_s - known.whole_s, 0.0))


def row_of(world: World, ranks: int, samples: int) -> str:
    """Tokens a second, against one rank that no reader holds up, and where a step's time goes."""
    dice = random.Random(0)
    steps = [step_of(world, ranks, samples, dice) for _ in range(STEPS)]
    whole = math.fsum(step.whole_s for step in steps)
    tokens = samples * world.sample_tokens
    rate, alone = STEPS * tokens / whole, tokens / (tokens * world.token_s + world.update_s + world.rest_s)
    parts = ("own", "wait", "reduce", "update", "orders", "data")
    shares = [(part, math.fsum(getattr(step, f"{part}_s") for step in steps) / whole) for part in parts]
    said = ", ".join(f"{part} {share:.0%}" for part, share in shares if share >= 0.005)
    return f"{rate:,.0f} tokens/s, {rate / alone:.1f} x one rank ({rate / alone / ranks:.0%}); {said}"


# ---- what is measured


def _measured(arguments: Any) -> tuple[World, dict[str, str]]:
    import torch

    from tests.bench.settings import SETTINGS, gpt2ish_of
    from tests.bench.training import in_process

    setting = SETTINGS[arguments.setting]
    asked = {
        "setting": setting.name, "amp": arguments.amp, "compile_model": arguments.compile_model,
        "seconds": arguments.seconds, "data": "pydocs", "each": True,
    }  # fmt: skip
    figures = in_process("trainer", asked)
    threads = torch.get_num_threads()
    each = [[tokens, *(part / threads for part in parts)] for tokens, *parts in figures["each"]]
    tokens, own, update, rest = zip(*each, strict=True)
    token_s = math.fsum(own) / math.fsum(tokens)
    num_parameters = sum(p.numel() for p in gpt2ish_of(setting).parameters())
    two, three = _between_processes(2), _between_processes(3)
    latency_s, bandwidth = ring_of(2, two["reduce"])
    order_s, order_bandwidth = line_of(two["order"])
    world = World(
        f"{setting.name} here", token_s,
        [seconds / count / token_s for seconds, count in zip(own, tokens, strict=True)],
        statistics.median(update), statistics.median(rest), 4.0 * num_parameters,
        bandwidth, latency_s, order_s, order_bandwidth, _cutting(setting),
        math.fsum(tokens) / figures["steps"] / setting.batch_size, setting.mini_batch_size,
    )  # fmt: skip
    big = SIZES[-1]
    said = reduce_s(replace(world, gradient_bytes=big, latency_s=latency_s), 3)
    return world, {
        "machine": f"{os.cpu_count()} processors, {threads} threads, load {os.getloadavg()[0]:.1f}",
        "own work": f"{1e6 * token_s:.0f} us a token, spread {statistics.pstdev(world.spread):.1%} over "
        f"{figures['steps']} steps of {world.sample_tokens * setting.batch_size:,.0f} tokens",
        "update, rest": f"{1e3 * world.update_s:.1f} ms, {1e3 * world.rest_s:.1f} ms",
        "gradients": f"{world.gradient_bytes / 1e6:.1f} MB",
        "reduction by 2 processes": f"{bandwidth / 1e6:,.0f} MB/s, {1e3 * latency_s:.3f} ms a hop",
        "reduction of a bucket by 3": f"{1e3 * three['reduce'][str(big)]:.1f} ms; by the formula {1e3 * said:.1f} ms",
        "order": f"{1e3 * order_s:.3f} ms and {order_bandwidth / 1e6:,.0f} MB/s",
        "cutting": f"{world.cut_tokens_per_s:,.0f} tokens/s",
    }


def ring_of(ranks: int, seconds: dict[str, float]) -> tuple[float, float]:
    """Latency of a hop, and bandwidth, of a ring that reduced so many bytes in so many seconds."""
    whole_s, per_s = line_of(seconds)
    hops = 2 * (ranks - 1)
    return whole_s / hops, per_s * hops / ranks


def line_of(seconds: dict[str, float]) -> tuple[float, float]:
    """Seconds for no bytes, and bytes a second, by the smallest and the largest."""
    small, large = min(seconds, key=int), max(seconds, key=int)
    per_byte = max(seconds[large] - seconds[small], 1e-9) / (int(large) - int(small))
    return seconds[small], 1 / per_byte


def _cutting(setting: Any) -> float:
    """Tokens a second of the reader's thread."""
    from itertools import islice

    from lmplay_tui.data.batches import Position
    from tests.bench.texts import BATCHES, stage_data

    reading = iter(stage_data(setting, "pydocs").batches(Position()))
    next(reading)  # opens what is read
    begun = time.process_time()  # other programs on this machine do not count
    batches = list(islice(reading, BATCHES))
    seconds = time.process_time() - begun
    return sum(len(s.prompt_ids) + len(s.truth_ids) for batch in batches for s in batch.samples) / seconds


def _between_processes(ranks: int) -> dict[str, Any]:
    """What `ranks` processes of this machine need for reductions and orders at least, in seconds, by bytes."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.bench.scaling", folder]
        processes = [
            subprocess.Popen([*command, str(rank), str(ranks)], stdout=subprocess.PIPE, text=True, env=environment)
            for rank in range(ranks)
        ]
        told = [process.communicate(timeout=300)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a process of the reduction has failed")
    found: dict[str, Any] = json.loads(told[0])
    return found


def _one_of(folder: Path, rank: int, ranks: int) -> None:
    """A process of the measurement; the first one prints what was found. All that listens does so on 127.0.0.1."""
    import torch
    from torch import distributed
    from torch.distributed import FileStore, PrefixStore, TCPStore

    told = FileStore(str(folder / "meeting"), ranks)
    distributed.init_process_group("gloo", store=PrefixStore("group", told), rank=rank, world_size=ranks)
    reduce = {}
    for size in SIZES:
        values, seconds = torch.ones(size // 4), []
        for _ in range(REPEATS):
            distributed.barrier()
            begun = time.perf_counter()
            distributed.all_reduce(values.fill_(1.0))
            seconds.append(time.perf_counter() - begun)
        reduce[str(size)] = min(seconds)
    if rank == 0:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        orders = TCPStore(
            "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )  # fmt: skip
        told.set("port", str(port))
    else:
        orders = TCPStore("127.0.0.1", int(told.get("port")))
    order = {str(size): _order_s(orders, rank, size) for size in ORDERS}
    distributed.barrier()
    if rank == 0:
        print(json.dumps({"reduce": reduce, "order": order}), flush=True)
    os._exit(0)  # no rank waits for another's store to let go


def _order_s(store: Any, rank: int, size: int) -> float:
    """Rank 0's time for handing out an order of `size` bytes that rank 1 has when it is done: the least of many."""
    seconds, payload = [], bytes(size)
    for number in range(3 * REPEATS):
        name = f"{size}/{number}"
        if rank == 0:
            begun = time.perf_counter()
            store.set(name, payload)
            store.get(f"{name}/taken")
            seconds.append(time.perf_counter() - begun)
        elif rank == 1:
            store.get(name)
            store.set(f"{name}/taken", b"1")
    return min(seconds) / 2 if seconds else 0.0  # the way there, and the way back


# ---- what is assumed where there is no such machine


def assumed(name: str, parameters: float, mini_batch: int, cut_tokens_per_s: float) -> World:
    """Ranks of a GPU of a size that is sold: 40 % of 989 TFLOP/s, a network of 50 GB/s a rank and 15 us a hop.

    Besides: float32 gradients; an update that moves 32 bytes a parameter at 2.5 TB/s; steps that differ by 2 %.
    """
    dice = random.Random(1)
    return World(
        name, 6 * parameters / (0.4 * 989e12), [max(dice.gauss(1.0, 0.02), 0.5) for _ in range(500)],
        32 * parameters / 2.5e12, 0.002, 4 * parameters, 50e9, 15e-6, 0.13e-3, 0.5e9, cut_tokens_per_s, 1024.0,
        mini_batch, has_trees=True,
    )  # fmt: skip


def run(arguments: Any) -> dict[str, str]:
    """What was measured, then the simulated rates: of such machines as this one, and of assumed GPUs."""
    world, measured = _measured(arguments)
    rows = {f"measured: {name}": value for name, value in measured.items()}
    for ranks in RANKS:
        rows[f"simulated: {world.name}, batch 1024, {ranks} ranks"] = row_of(world, ranks, 1024)
    for ranks in RANKS:
        rows[f"simulated: {world.name}, 16 samples a rank, {ranks} ranks"] = row_of(world, ranks, 16 * ranks)
    for name, parameters, mini_batch in (("124 M parameters", 124e6, 32), ("1.5 B parameters", 1.5e9, 8)):
        for limit, rate in (("", CUT_TOKENS_PER_S), (" if cutting were no limit", math.inf)):
            gpu = assumed(name, parameters, mini_batch, rate)
            for ranks in RANKS:
                rows[f"assumed GPUs: {name}, batch 4096{limit}, {ranks} ranks"] = row_of(gpu, ranks, 4096)
    return rows


if __name__ == "__main__":
    _one_of(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
