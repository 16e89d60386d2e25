"""What rank 0 tells the others comes over as it was, and nothing else comes over."""

import ast
import inspect
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed as dist
from torch.distributed import HashStore

from lmplay_tui.data.samples import Sample
from lmplay_tui.errors import EXIT_TRAINING
from lmplay_tui.train import orders
from lmplay_tui.train.orders import (
    Build,
    Compile,
    Copy,
    Done,
    EnterStage,
    GatherState,
    Idle,
    Order,
    OrderError,
    Pass,
    Receiver,
    Samples,
    SaveParts,
    Score,
    Sender,
    SetDropout,
    ShardModel,
    Step,
    TellChecksum,
    decode,
    encode,
    set_bytes,
    take_bytes,
)
from lmplay_tui.train.process_group import RankLostError
from tests.examples import examples
from tests.faults.forks import Child

CONFIG = {
    "mini_batch_size": 4, "normalization": "tokens", "include_prompts": False, "grad_clip": None, "longest": 64,
    "width_multiple": 1, "least_rows": 1, "graphs": False, "head_work": 1.8,
}  # fmt: skip


def sample(prompt: int, truth: int) -> Sample:
    dice = np.random.default_rng([prompt, truth])
    return Sample("p", "t", dice.integers(0, 99, prompt, np.int32), dice.integers(0, 99, truth, np.int32), 7)


PARTS = {0: [sample(3, 4), sample(1, 1)], 4: [sample(2, 9)]}
ORDERS: list[Order] = [
    Build("cuda", "bfloat16", True, "gpt2ish", 50_257, 1024, 12, 768, 12, 0.1, 2**63 - 1, False, False, "trunk"),
    Build("cpu", None, False, "mine.py:Mine", 256, 64, None, None, None, 0.0, 0, True, True, "forward"),
    EnterStage("adamw", 3e-4, None, False, True),
    Copy({"a.weight": {"exp_avg": ("float32", [3, 4]), "step": ("float32", [])}}, {"scale": 65536.0} | dict.fromkeys(
        ("growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"), 2.0), 96),
    SetDropout(0.1, 0.0),
    Compile(None, "reduce-overhead", 4, CONFIG),
    Step(7, 3, 1e-3, True, False, CONFIG, 5, 50, 1234, 12, Samples.of(PARTS)),
    Step(0, 0, 0.0, False, True, CONFIG, 5, 50, 1234, 12, Samples.of({})),
    Score(5, Samples.of(PARTS)),
    Idle(),
    Done(),
    ShardModel("full", 1 << 40),
    GatherState(),
    SaveParts("/runs/m.0123456789abcdef.dcp"),
    Pass(),
    TellChecksum(3),
]  # fmt: skip


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)
def test_an_order_comes_over_as_it_was(order):
    got = decode(encode(order))
    assert encode(got) == encode(order)
    if not isinstance(order, Step | Score):
        assert got == order
        return
    assert isinstance(got, Step | Score)
    parts = got.samples.mini_batches()
    assert [len(part) for part in parts.values()] == ([2, 1] if len(order.samples.rows) else [])
    for i, samples in parts.items():
        for ours, theirs in zip(PARTS[i], samples, strict=True):
            assert ours.prompt_ids.tolist() == theirs.prompt_ids.tolist()
            assert ours.truth_ids.tolist() == theirs.truth_ids.tolist()
            assert theirs.prompt == theirs.truth == "", "no text goes over the store"


def altered(data: bytes, dice: random.Random) -> bytes:
    """A few bytes of it changed, cut out, doubled, or put in."""
    for _ in range(dice.randrange(1, 4)):
        at, length = dice.randrange(len(data) + 1), dice.randrange(9)
        twice = data[at : at + length] * 2
        inserted = dice.choice([dice.randbytes(length), twice, b"", b"9" * 20, b"-", b"null", b"[["])
        data = data[:at] + inserted + data[at + dice.choice([0, length]) :]
    return data


@examples(400)
@given(st.integers(0, 2**32))
def test_altered_bytes_are_an_order_or_are_refused(seed):
    dice = random.Random(seed)
    data = altered(encode(dice.choice(ORDERS)), dice)
    try:
        order = decode(data)
    except OrderError as error:
        assert len(str(error)) < 600
    else:
        assert decode(encode(order)) is not None
        if isinstance(order, Step | Score):
            assert all(len(s.truth_ids) >= 1 for part in order.samples.mini_batches().values() for s in part)


@pytest.mark.parametrize(
    ("order", "changed"),
    [
        (ORDERS[0], (b'"cuda"', b'"cu\\u0000"')), (ORDERS[0], (b"50257", b"5e99")), (ORDERS[0], (b"0.1", b"1e999")),
        (ORDERS[0], (b'"trunk"', b'"eval"')), (ORDERS[2], (b'"adamw"', b'"__init__"')), (ORDERS[2], (b"null", b"NaN")),
        (ORDERS[3], (b'"float32"', b'"__class__"')), (ORDERS[3], (b"[3, 4]", b"[-3, 4]")),
        (ORDERS[6], (b'"num_mini_batches": 5', b'"num_mini_batches": 4')), (ORDERS[9], (b'"Idle"', b'"Exit"')),
        (ORDERS[9], (b'{"order"', b'{"more": 1, "order"')),
        (ORDERS[13], (b"/runs/m", b"runs/m")), (ORDERS[13], (b".dcp", b".ssh")), (ORDERS[13], (b"/m.", b"/")),
    ],
)  # fmt: skip
def test_a_field_out_of_its_bounds_is_refused(order, changed):
    data = encode(order)
    assert data.count(changed[0]) >= 1
    altered = data.replace(*changed)
    length = len(altered) - len(data) + int.from_bytes(data[4:8], "little")
    with pytest.raises(OrderError):
        decode(altered[:4] + length.to_bytes(4, "little") + altered[8:])


def test_nothing_is_pickled_over_the_store():
    imported = {
        name.name
        for node in ast.walk(ast.parse(inspect.getsource(orders)))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert not imported & {"pickle", "marshal", "shelve", "copyreg", "broadcast_object_list"}


def test_orders_come_in_their_order_and_leave_nothing_behind():
    store = HashStore()
    sender = Sender(store, 3, idle_every_s=1000)
    large = Samples.of({0: [sample(1, 3_000_000)]})
    sender.send(lambda rank: SetDropout(0.0, rank / 10))
    sender.send_all(Score(1, large))
    sender.close()
    for rank in (1, 2):
        receiver = Receiver(store, rank)
        assert receiver.next() == SetDropout(0.0, rank / 10)
        scored = receiver.next()
        assert isinstance(scored, Score) and len(scored.samples.ids) == 3_000_001, "more than a store takes at once"
        assert receiver.next() == Done()
    assert store.num_keys() == 0


@pytest.mark.parametrize("size", [0, 1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 11_000_001])
def test_what_a_rank_tells_may_be_of_any_size(size: int) -> None:
    """A real store closes the connection to who sends it more than 8 MB at once."""
    server = dist.TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
    store = dist.PrefixStore("attempt", dist.TCPStore("127.0.0.1", server.port, None, is_master=False))
    keys = store.num_keys()
    told = random.Random(size).randbytes(size)
    set_bytes(store, "told/1", told)
    assert store.check(["told/1"])
    assert take_bytes(store, "told/1") == told
    assert store.num_keys() == keys, "nothing is left"


@pytest.mark.parametrize("set_instead", [b"", b"abc", b"\0\0\0\0", b"\xff\xff\xff\xff and more"])
def test_what_does_not_come_in_parts_is_refused(set_instead: bytes) -> None:
    store = HashStore()
    store.set("told", set_instead)  # type: ignore[arg-type]
    with pytest.raises(OrderError, match="parts"):
        take_bytes(store, "told")


def test_what_is_under_way_beside_the_wait_is_looked_at_until_it_is_done():
    store = HashStore()
    left = iter([True, True, False])
    receiver = Receiver(store, 1, silent_s=0.5)
    with pytest.raises(RankLostError, match="has said nothing"):
        receiver.next(lambda: next(left, False))
    assert next(left, None) is None
    Sender(store, 2, idle_every_s=1000).send_all(Pass())
    assert receiver.next(lambda: True) == Pass()


def hear_signs(receiver: Receiver) -> None:
    """For longer than this receiver would bear silence."""
    begun = time.monotonic()
    while time.monotonic() - begun < 2.5:
        assert receiver.next() == Idle()


def next_order(receiver: Receiver) -> object:
    """The next one that is no mere sign of life."""
    while (order := receiver.next()) == Idle():
        pass
    return order


def test_where_there_is_nothing_to_say_there_is_a_sign():
    """A pause of hours: the others wait for an order, and would leave without one."""
    store = HashStore()
    looks = []

    def look() -> None:
        looks.append(1)
        raise ValueError("nothing can be shown")

    sender = Sender(store, 2, idle_every_s=0.1, look=look)
    receiver = Receiver(store, 1, silent_s=2.0)
    hear_signs(receiver)
    threading.Timer(0.3, sender.close).start()
    assert next_order(receiver) == Done() and len(looks) > 3


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_look_that_is_held_up_holds_no_order_up(tmp_path: Path, comes_back: bool):
    """A folder on a network that does not answer: here a pipe without a reader. A look of before is no last one."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    looks: list[bytes] = []

    def look() -> None:
        pipe.write_bytes(b"looked")
        looks.append(b"looked")

    store = HashStore()
    sender = Sender(store, 2, idle_every_s=0.1, look=look)
    receiver = Receiver(store, 1, silent_s=2.0)
    hear_signs(receiver)
    assert not looks
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) if comes_back else None
    begun = time.monotonic()
    sender.close()
    assert time.monotonic() - begun < 30.0
    assert (len(looks) >= 2) is comes_back, "the last one is of the end"
    if reader is not None:
        os.close(reader)
    assert next_order(receiver) == Done()


def test_silence_ends_the_wait():
    with pytest.raises(RankLostError, match="said nothing"):
        Receiver(HashStore(), 1, silent_s=0.2).next()


def test_a_follower_leaves_a_rank_0_that_is_stopped_with_the_store_in_its_hands() -> None:
    """Torch's store then answers nothing, and a wait for it has no end of its own."""

    def rank_0(report: Callable[[Any], None]) -> None:
        store = dist.TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
        report(store.port)
        time.sleep(1000)

    with Child(rank_0) as leader:
        port = next(leader.reports())

        def follower(report: Callable[[Any], None]) -> None:
            store = dist.TCPStore("127.0.0.1", port, None, is_master=False)
            report("joined")
            Receiver(store, 1, silent_s=1.0).next()

        with Child(follower) as other:
            assert next(other.reports()) == "joined"
            leader.kill(signal.SIGSTOP)
            assert other.wait(60) == EXIT_TRAINING
