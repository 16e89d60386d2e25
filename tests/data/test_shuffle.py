"""Orders that are computed: shuffles and mixtures."""

import math
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.data.shuffle import BlockShuffle, Mixture, Permutation, block_counts, keyed
from tests.examples import examples

KEYS = st.integers(0, 2**64 - 1)
HUNDRED_MILLION = 100_000_000


@examples(100)
@given(st.integers(0, 700), KEYS, st.integers(1, 90))
def test_a_shuffle_is_a_permutation(size: int, key: int, block: int) -> None:
    for shuffle in (Permutation(size, key), BlockShuffle(size, key, block)):
        assert sorted(shuffle[place] for place in range(size)) == list(range(size))
        with pytest.raises(IndexError):
            shuffle[size]
        with pytest.raises(IndexError):
            shuffle[-1]


@examples(50)
@given(st.integers(1, 700), KEYS, st.integers(1, 90), st.data())
def test_a_place_does_not_depend_on_what_was_asked_before(size: int, key: int, block: int, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, size - 1), max_size=20))
    shuffle = BlockShuffle(size, key, block)
    assert [shuffle[place] for place in places] == [BlockShuffle(size, key, block)[place] for place in places]


@examples(50)
@given(st.integers(1, 2000), KEYS, st.integers(1, 300))
def test_reads_stay_in_a_block(size: int, key: int, block: int) -> None:
    """While a block is read, nothing else is: each is one run of places."""
    shuffle = BlockShuffle(size, key, block)
    blocks = [shuffle[place] // block for place in range(size)]
    changes = sum(one != other for one, other in pairwise(blocks))
    assert changes == math.ceil(size / block) - 1


def test_each_block_has_an_order_of_its_own() -> None:
    def inside(key: int) -> set[tuple[int, ...]]:
        shuffle = BlockShuffle(500, key, 100)
        return {tuple(shuffle[block * 100 + place] % 100 for place in range(100)) for block in range(5)}

    assert len(inside(1) | inside(2)) == 10


def test_places_of_a_hundred_million_rows() -> None:
    shuffle = BlockShuffle(HUNDRED_MILLION + 17, keyed(0, "x"))
    rng = random.Random(1)
    places = [*rng.sample(range(shuffle.size), 5000), 0, shuffle.size - 1]
    found = [shuffle[place] for place in places]
    assert len(set(found)) == len(set(places))
    assert all(0 <= row < shuffle.size for row in found)
    assert np.mean(found) == pytest.approx(HUNDRED_MILLION / 2, rel=0.05)


@pytest.mark.parametrize("size", [3, 10, 64])
def test_every_row_may_come_first(size: int) -> None:
    """Over many keys each row is as likely as another at each of some places (chi-squared, far out)."""
    keys = 100 * size
    for place in (0, size // 2, size - 1):
        counts = Counter(Permutation(size, keyed("fair", key))[place] for key in range(keys))
        chi = sum((counts[row] - 100) ** 2 / 100 for row in range(size))
        assert chi < size + 6 * math.sqrt(2 * size)


def test_shuffles_of_two_keys_are_two_orders() -> None:
    one, other = (BlockShuffle(20_000, keyed(0, epoch)) for epoch in (0, 1))
    equal = sum(one[place] == other[place] for place in range(20_000))
    assert equal < 20
    moved = sum(one[place] == place for place in range(20_000))
    assert moved < 20


WEIGHTS = st.lists(st.floats(0.001, 1), min_size=2, max_size=5)
SIZES = st.lists(st.integers(1, 400), min_size=2, max_size=5)


@examples(10)
@given(WEIGHTS, KEYS)
def test_mixtures_keep_their_shares_in_each_block(weights: list[float], key: int) -> None:
    total = math.fsum(weights)
    counts = block_counts(weights)
    block = sum(counts)
    assert 100 <= block <= 10_000 + len(weights)
    for weight, count in zip(weights, counts, strict=True):
        assert count >= 1
        assert abs(count / block - weight / total) < 0.001
    mixture = Mixture([10**6] * len(weights), weights, "first_exhausted", key)
    for number in (0, 7):
        found = Counter(mixture[number * block + place][0] for place in range(min(block, mixture.rows)))
        assert [found[dataset] for dataset in range(len(weights))] == counts


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ((0.7, 0.3), [70, 30]),
        ((1 / 3, 2 / 3), [34, 68]),
        ((0.25, 0.25, 0.5), [25, 25, 50]),
        ((0.999, 0.001), [999, 1]),
        ((0.1, 0.2, 0.7), [10, 20, 70]),
        ((3, 1), [75, 25]),
    ],
)
def test_usual_weights_are_met_exactly(weights: tuple[float, ...], counts: list[int]) -> None:
    assert block_counts(weights) == counts


@examples(60)
@given(SIZES, st.booleans(), st.sampled_from(["first_exhausted", "all_exhausted"]), KEYS, st.data())
def test_a_mixture_reads_each_dataset_in_order_and_ends_as_interleaving_does(
    sizes: list[int], weighted: bool, stopping: str, key: int, data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.floats(0.05, 1), min_size=len(sizes), max_size=len(sizes))) if weighted else None
    mixture = Mixture(sizes, weights, stopping, key)  # type: ignore[arg-type]
    seen = [0] * len(sizes)
    for row in range(mixture.rows):
        used_up = [count >= size for count, size in zip(seen, sizes, strict=True)]
        if weighted:  # the row that uses up the last dataset that counts is the last row
            assert not (any if stopping == "first_exhausted" else all)(used_up)
        dataset, earlier = mixture[row]
        assert earlier == seen[dataset]
        seen[dataset] += 1
    used_up = [count >= size for count, size in zip(seen, sizes, strict=True)]
    assert (any if stopping == "first_exhausted" else all)(used_up)
    with pytest.raises(IndexError):
        mixture[mixture.rows]


@examples(10)
@given(SIZES, st.sampled_from(["first_exhausted", "all_exhausted"]))
def test_turns_are_those_of_the_datasets_library(sizes: list[int], stopping: str) -> None:
    import datasets

    parts = [datasets.Dataset.from_dict({"x": [f"{n}:{row}" for row in range(size)]}) for n, size in enumerate(sizes)]
    theirs = datasets.interleave_datasets(parts, stopping_strategy=stopping)["x"]
    mixture = Mixture(sizes, None, stopping, 0)  # type: ignore[arg-type]
    ours = [mixture[row] for row in range(mixture.rows)]
    assert [f"{dataset}:{earlier % sizes[dataset]}" for dataset, earlier in ours] == list(theirs)


def test_a_row_of_a_mixture_is_found_at_once() -> None:
    mixture = Mixture([HUNDRED_MILLION, 30_000_000], (0.7, 0.3), "all_exhausted", 5)
    assert mixture.rows == pytest.approx(HUNDRED_MILLION / 0.7, rel=1e-5)
    dataset, earlier = mixture[123_456_789]
    assert earlier == pytest.approx(123_456_789 * (0.7, 0.3)[dataset], abs=100)
    other = Mixture([HUNDRED_MILLION, 30_000_000], (0.7, 0.3), "all_exhausted", 5)
    other[0]
    assert other[123_456_789] == (dataset, earlier)


def test_mixtures_of_two_seeds_are_two_orders() -> None:
    one, other = (Mixture([1000, 1000], (0.5, 0.5), "first_exhausted", key) for key in (1, 2))
    assert [one[row] for row in range(100)] != [other[row] for row in range(100)]
    assert [one[row][0] for row in range(100)] != [one[row][0] for row in range(100, 200)]


def test_keys_depend_on_every_part() -> None:
    keys = {keyed(0, "ab", "c"), keyed(0, "a", "bc"), keyed(1, "ab", "c"), keyed(0, "ab"), keyed(0, "ab", "d")}
    assert len(keys) == 5
    assert keyed(0, "a") == 15270482384145340437  # a run goes on after an update of ours
