"""A process of a group that trains nothing: the processes add up their ranks, and one of them does what is asked.

`agent N word=value ...` is the agent, which starts N such processes with these words.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil

from lmplay_tui.process import leave, own_command, users_environment
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.folder import LOCK_FROM, RunFolder, take_run
from lmplay_tui.train import agent as agent_module
from lmplay_tui.train.agent import Processes, RestartLimit
from lmplay_tui.train.handoff import SPENT
from lmplay_tui.train.process_group import ProcessGroup, place_of, settle

SAID = Path("said.jsonl")


def agent(count: int, words: list[str]) -> int:
    run = RunFolder(Path("m.lmp"))
    lock = take_run(run)
    lock.lend()
    limit = RestartLimit(int(_values(words).get("most", "3")))
    agent_module.SAVES_WITHIN_S = int(_values(words).get("killed_after_s", agent_module.SAVES_WITHIN_S))

    def told_lost(what: str, left: int) -> bool:
        print(what, "left:", left, flush=True)
        return limit.allows_one_more()

    command = own_command("tests.train.sum_worker", *words)
    processes = Processes(
        run, lock, command, count, quiet=False, prog="", told_lost=told_lost, devices=range(count)
    )  # fmt: skip
    processes.catch_signals(Controls())
    return processes.train()


def _values(words: list[str]) -> dict[str, str]:
    return dict(word.split("=") for word in words)


def worker(what: dict[str, str]) -> int:
    place = place_of(os.environ)
    assert place is not None
    settle(place)
    device = None if place.agent is None else place.agent.devices[place.rank]
    if place.agent is not None and what.get("without_device") == str(device):
        place.agent.device_is_lost(place.rank, "it has fallen off the bus")
        return 3
    import torch

    group = ProcessGroup.of_environment("cpu")
    assert group is not None
    for name in (LOCK_FROM, SPENT):  # as a run does
        os.environ.pop(name, None)
    if group.agent is not None and group.rank == 0 and what.get("signs") != "no":
        group.agent.give_sign("here", "computing")
    total = torch.tensor([group.rank + 1.0], dtype=torch.float64)
    torch.distributed.all_reduce(total)
    starts = 1 + len(SAID.read_text().splitlines()) // group.world_size if SAID.exists() else 1
    torch.distributed.barrier()
    listening = [c.laddr.ip for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
    said = {
        "rank": group.rank, "pid": os.getpid(), "sum": total.item(), "attempt": group.attempt,
        "device": device, "threads": torch.get_num_threads(), "listens": listening,
        "users_environment": users_environment(),
        "left_in_environment": sorted(name for name in os.environ if "RANK" in name or "ELASTIC" in name),
    }  # fmt: skip
    with SAID.open("a") as file:
        file.write(json.dumps(said) + "\n")
    torch.distributed.barrier()
    if what.get("waits") == "yes":
        signal.signal(signal.SIGTERM, lambda *_: leave(3))
        while True:
            time.sleep(0.05)
    if "dies" in what and starts <= int(what["times"]):
        if "saves_s" in what:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            torch.distributed.barrier()
        if what["dies"] == str(group.rank):
            os.kill(os.getpid(), signal.SIGKILL)
        while not group.ended():  # as one that computes with the others
            time.sleep(0.02)
        if "saves_s" in what:  # a large model
            time.sleep(float(what["saves_s"]))
            Path("saved").touch()
        return 3
    group.close()
    status = int(what.get("status", "0")) if group.rank == 0 else 0
    if group.agent is not None and group.rank == 0:
        group.agent.end_is_known(status)
    return status


if __name__ == "__main__":
    if sys.argv[1:2] == ["agent"]:
        sys.exit(agent(int(sys.argv[2]), sys.argv[3:]))
    leave(worker(_values(sys.argv[1:])))
