"""Several processes that train together, forked from the test: the real ones but for who starts them."""

import os
import socket
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import distributed as dist

from lmplay_tui.options import Launch
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import Event
from lmplay_tui.train.follower import follow
from lmplay_tui.train.launch import run_events
from lmplay_tui.train.process_group import ProcessGroup
from tests.faults.forks import Child

WITHIN_S = 100.0
TIMEOUT_S = 60.0  # of their collectives


class Ranks:
    """`world_size` processes with a group of gloo's, each of which does `work`; what it gives is its result."""

    def __init__(self, world_size: int, work: Callable[[ProcessGroup], Any], *, timeout_s: float = TIMEOUT_S) -> None:
        # The store is the test's, as it is torchrun's: it outlives each of the ranks.
        self.store = dist.TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
        attempt = uuid.uuid4().hex
        port = self.store.port
        # None comes to the store before all are forked: its thread would answer meanwhile, and a process that is forked
        # while that thread holds a lock of the C library never gets the lock.
        all_there, forking = os.pipe()

        def joined(rank: int, report: Callable[[Any], None]) -> None:
            os.close(forking)
            os.read(all_there, 1)
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
            torch.set_num_threads(1)
            within = timedelta(seconds=timeout_s)
            store = dist.PrefixStore(attempt, dist.TCPStore("127.0.0.1", port, None, is_master=False, timeout=within))
            store.set(f"process/{rank}", str(os.getpid()))
            dist.init_process_group(
                "gloo", store=dist.PrefixStore("group", store), rank=rank, world_size=world_size, timeout=within
            )
            host = socket.gethostname()
            pids = [int(store.get(f"process/{each}")) for each in range(world_size)]
            processes = tuple((host, "", pid) for pid in pids)
            report(work(ProcessGroup(rank, world_size, store, attempt, host, processes=processes)))

        self.children = [Child(partial(joined, rank)) for rank in range(world_size)]
        os.close(forking)
        os.close(all_there)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.__exit__()

    def results(self) -> list[Any]:
        """What each gave, None for one that has failed. The others are not waited for where rank 0 has."""
        self._see_ends()
        found = [next(self.children[0].reports(WITHIN_S), None)]
        if found[0] is None:
            return found
        found += [next(child.reports(WITHIN_S), None) for child in self.children[1:]]
        for child in self.children:
            child.wait(WITHIN_S)
        return found

    def _see_ends(self) -> None:
        """Until rank 0 has something to say: see who has ended, as their agent does. The others cannot before that."""
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline and not self.children[0].has_said(0.05):
            for child in self.children[1:]:
                child.see_end()


def together(world_size: int, work: Callable[[ProcessGroup], Any], **how: Any) -> list[Any]:
    """What `work` gives on each of so many ranks."""
    with Ranks(world_size, work, **how) as ranks:
        return ranks.results()


def train_together(
    world_size: int, launch: Launch, controls: Callable[[], Controls] = Controls,
    act: Callable[[Event, Controls], None] = lambda *_: None, **how: Any,
) -> list[Event]:  # fmt: skip
    """The events of a run by so many processes, in this one if it is one. `act`: called on rank 0 with each event."""

    def work(group: ProcessGroup) -> Any:
        if group.rank:
            return follow(group, launch.line.get("exp"))
        return trained(group)

    def trained(group: ProcessGroup | None) -> list[Event]:
        events: list[Event] = []
        own = controls()
        for event in run_events(launch, own, events.append, group):
            events.append(event)
            act(event, own)
        return events

    if world_size == 1:
        return trained(None)
    results = together(world_size, work, **how)
    assert isinstance(results[0], list), "rank 0 has failed"
    assert results[1:] == [0] * (world_size - 1), "each of the others ends well"
    return results[0]
