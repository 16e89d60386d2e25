"""`python -m tests.bench scaling`: its simulation is the formulas that docs/many-devices-scaling.md names."""

import math
import random
from dataclasses import replace

import pytest

from tests.bench.scaling import BUCKET_BYTES, World, assumed, line_of, reduce_s, ring_of, row_of, share_of, step_of

PLAIN = World(
    "plain", token_s=1e-3, spread=[1.0], update_s=0.01, rest_s=0.002, gradient_bytes=100e6, bandwidth=1e9,
    latency_s=1e-4, order_s=1e-3, order_bandwidth=1e8, cut_tokens_per_s=math.inf, sample_tokens=100.0, mini_batch=4,
)  # fmt: skip


def test_one_rank_is_what_was_measured() -> None:
    step = step_of(PLAIN, 1, 16, random.Random(0))
    assert step.whole_s == pytest.approx(16 * 100 * 1e-3 + 0.012)
    assert (step.wait_s, step.reduce_s, step.orders_s, step.data_s) == (0, 0, 0, 0)
    assert "1.0 x one rank (100%)" in row_of(PLAIN, 1, 16)


@pytest.mark.parametrize(
    ("samples", "ranks", "share"),
    [(16, 1, 16), (16, 2, 8), (16, 4, 4), (16, 8, 2), (16, 3, 8), (17, 4, 8), (16, 100, 1), (10, 4, 3), (1, 8, 1)],
)
def test_mini_batches_are_dealt_whole(samples: int, ranks: int, share: int) -> None:
    """13 mini-batches over 4 ranks: one has 4 of them; where there are fewer than ranks, they are made smaller."""
    assert share_of(samples, 4, ranks) == share


def test_a_ring_and_a_tree_by_their_formulas() -> None:
    buckets = math.ceil(100e6 / BUCKET_BYTES)
    assert reduce_s(PLAIN, 8) == pytest.approx(2 * 7 / 8 * 0.1 + (2 * buckets + 1) * 7 * 1e-4)
    tree = replace(PLAIN, has_trees=True)
    assert reduce_s(tree, 512) == pytest.approx(2 * 0.1 + (2 * buckets + 1) * 9 * 1e-4)
    assert reduce_s(tree, 512) < reduce_s(PLAIN, 512)
    assert reduce_s(tree, 2) == reduce_s(PLAIN, 2), "a ring, where that takes less"


def test_what_a_ring_took_says_its_latency_and_bandwidth() -> None:
    """By the formula's own times, for any number of processes."""
    for ranks in (2, 3, 5):
        took = {str(size): 2 * (ranks - 1) * (1e-4 + size / ranks / 5e8) for size in (1, 1 << 20, 25 << 20)}
        latency_s, bandwidth = ring_of(ranks, took)
        assert latency_s == pytest.approx(1e-4, rel=1e-3) and bandwidth == pytest.approx(5e8, rel=1e-3)
    assert line_of({"100": 1.0, "20": 0.2}) == pytest.approx((0.2, 100.0))


def test_the_slowest_is_waited_for_and_orders_come_one_after_another() -> None:
    step = step_of(replace(PLAIN, spread=[1.0, 1.5]), 8, 64, random.Random(0))
    order = 1e-3 + 8 * 100 * 4 / 1e8
    assert step.orders_s == pytest.approx(7 * order)
    assert step.whole_s - step.reduce_s - step.update_s == pytest.approx(8 * 100 * 1e-3 * 1.5 + 7 * order, rel=0.01)
    assert 0.8 < step.own_s < 1.2 and step.own_s + step.wait_s == pytest.approx(1.2)


def test_cutting_is_a_ceiling() -> None:
    rows = [row_of(assumed("x", 124e6, 32, 1e6), ranks, 4096) for ranks in (8, 64, 512)]
    assert all(row.startswith("1,000,000 tokens/s") for row in rows)


def test_more_ranks_are_never_more_efficient() -> None:
    world = replace(PLAIN, has_trees=True)
    steps = [step_of(world, ranks, 512, random.Random(0)).whole_s * ranks for ranks in (1, 2, 8, 64, 512)]
    assert steps == sorted(steps)
