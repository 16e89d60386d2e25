"""Which of several processes one is, by an environment that torchrun or srun makes."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed import HashStore

from lmplay_tui.errors import UserError
from lmplay_tui.options import TrainOptions
from lmplay_tui.text import printable
from lmplay_tui.train.agent_folder import AGENT, Agent
from lmplay_tui.train.process_group import (
    Place,
    ProcessGroup,
    RankLostError,
    first_host,
    place_of,
    processes_of,
    processors,
    step_port,
)
from lmplay_tui.train.reduction import LARGE_BYTES, ShareReport, gather, sum_gradients, take_from
from tests.seams import Seams
from tests.train.ranks import WITHIN_S, Ranks

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[03-06]",
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "16",
}  # fmt: skip
TOLD = Agent(1, "a", "folder", "lock", 0.0, 0.0, resumes=False, quiet=False, prog="lmp_trainer").environment()


def without(environment: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        ({"HOME": "/root", "PATH": "/bin"}, None),
        (TORCHRUN, Place(3, 8, 1, "torchrun")),
        (without(TORCHRUN, "LOCAL_RANK"), Place(3, 8, 3, "torchrun")),
        (TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}, None),  # torchrun of one process
        ({"RANK": "1", "WORLD_SIZE": "2"}, None),  # of another program: no store is named
        (SLURM, Place(5, 16, 1, "srun")),
        (without(SLURM, "SLURM_LOCALID"), Place(5, 16, 5, "srun")),
        (without(SLURM, "SLURM_STEP_NUM_TASKS"), None),  # sbatch's own script: one process, whatever SLURM_NTASKS says
        (SLURM | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),  # an interactive step
        (SLURM | TORCHRUN, Place(3, 8, 1, "torchrun")),  # torchrun within srun
    ],
)
def test_the_place_among_several_processes(environment: dict[str, str], place: Place | None) -> None:
    assert place_of(environment) == place


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (TORCHRUN | {"RANK": "8"}, "process 8 of 8"),
        (TORCHRUN | {"RANK": "-1"}, "RANK: must be a whole number"),
        (TORCHRUN | {"WORLD_SIZE": ""}, "WORLD_SIZE: must be a whole number, got nothing"),
        (TORCHRUN | {"WORLD_SIZE": "²"}, "WORLD_SIZE: must be a whole number"),
        (SLURM | {"SLURM_PROCID": "16"}, "SLURM_PROCID, SLURM_STEP_NUM_TASKS: process 16 of 16"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "16\x1b[31m"}, "SLURM_STEP_NUM_TASKS: must be a whole number"),
        # What a process was told and has handed down, without all that its launcher set.
        (TOLD, f"RANK: is not there, though {AGENT} says"),
        (TOLD | {"RANK": "1"}, f"WORLD_SIZE: is not there, though {AGENT} says"),
        (TORCHRUN | {AGENT: "{"}, f"{AGENT}: is not what an agent of this version says"),
        (TORCHRUN | {AGENT: '{"pid": 1}'}, f"{AGENT}: is not what an agent of this version says"),
        (TORCHRUN | {AGENT: "[]"}, f"{AGENT}: is not what an agent of this version says"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(environment: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        place_of(environment)
    assert said in str(refused.value)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu7", "gpu7"),
        ("gpu[03-06,11],x1", "gpu03"),
        ("gpu[11,3]", "gpu11"),
        ("a-b.example.org,c", "a-b.example.org"),
        ("rack1-n[001-128]-ib", "rack1-n001-ib"),
        ("10.0.0.7,10.0.0.8", "10.0.0.7"),
    ],
)
def test_the_first_host_of_a_list_of_nodes(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize("nodes", ["", "[", "\x1b"])
def test_a_list_without_a_host_is_refused(nodes: str) -> None:
    with pytest.raises(UserError, match="MASTER_ADDR"):
        first_host(nodes)


def test_a_step_has_one_port_and_two_steps_of_a_machine_have_two() -> None:
    ports = [step_port(SLURM | {"SLURM_STEP_ID": step}) for step in ("0", "1", "2")]
    assert len(set(ports)) == 3
    assert all(20_000 <= port < 30_000 for port in ports)
    assert step_port(SLURM | {"MASTER_PORT": "31000"}) == 31000
    assert step_port(SLURM | {"SLURM_JOB_ID": "4711_3", "SLURM_STEP_ID": ""}) >= 20_000  # of an array


def test_more_processes_than_memory_has_room_for_are_refused() -> None:
    """They would take the machine with them before any of them said a word."""
    count = psutil.virtual_memory().total // (200 << 20) + 1
    assert processes_of(TrainOptions(nproc=2, device="cpu")) == 2
    with pytest.raises(UserError, match=rf"--nproc: {count:,} processes take .*B before they hold a model"):
        processes_of(TrainOptions(nproc=count, device="cpu"))


@pytest.mark.parametrize(
    ("said", "count"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("", None), ("x y", None)]
)
def test_a_container_may_have_fewer_processors_than_its_machine(tmp_path: Path, said: str, count: int | None) -> None:
    all_of_them = processors(tmp_path / "none")
    assert 1 <= all_of_them <= (os.cpu_count() or 1)
    (tmp_path / "cpu.max").write_text(said)
    assert processors(tmp_path / "cpu.max") == (all_of_them if count is None else count)


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ((), ""),
        (("torch 2.13.0",) * 3, ""),
        (
            ("torch 2.13.0", "torch 2.13.0", "torch \x1b[2J" + 99 * "2"),
            f"rank 2 computes by torch {printable(chr(27))}[2J{69 * '2'}…, rank 0 by torch 2.13.0",
        ),
    ],
)
def test_a_rank_that_computes_by_other_code_is_named(codes: tuple[str, ...], said: str) -> None:
    assert ProcessGroup(0, 3, HashStore(), "a", "host", codes=codes).unlike == said


@pytest.mark.enable_socket
def test_a_port_that_another_program_has_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        step = SLURM | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_NODES": "1", "MASTER_PORT": str(taken.getsockname()[1])}
        for name, value in {**step, "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=r"MASTER_PORT: .*Address already in use.*set it to a free one"):
            ProcessGroup.of_environment("cpu")


def reports(group: ProcessGroup) -> None:
    gather(group, ShareReport(), 0, 0, torch.device("cpu"))


def sums(group: ProcessGroup) -> None:
    parameter = nn.Parameter(torch.zeros(5))
    parameter.grad = torch.ones(5)
    sum_gradients(group, [parameter], [True])


def sums_rows(group: ProcessGroup) -> None:
    matrix = nn.Parameter(torch.zeros(LARGE_BYTES // 256, 64))
    sum_gradients(group, [matrix], [True])


def takes(group: ProcessGroup) -> None:
    take_from(group, 1, [torch.zeros(5)], torch.device("cpu"))


def is_stopped(tell: Callable[[int], None]) -> None:
    tell(os.getpid())
    os.kill(os.getpid(), signal.SIGSTOP)


def has_ended(tell: Callable[[int], None]) -> None:
    """As one whose end no connection shows: those of this process stay."""
    program = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(0.3)"])
    tell(program.pid)
    program.wait()
    time.sleep(WITHIN_S)


@pytest.mark.parametrize(("end", "said"), [(is_stopped, "nothing has come of it for 1 s"), (has_ended, "has ended")])
@pytest.mark.parametrize("together", [reports, sums, sums_rows, takes])
def test_a_rank_that_is_gone_inside_of_a_collective_holds_nobody_up(
    seams: Seams, together: Callable[[ProcessGroup], None], end: Callable[..., None], said: str
) -> None:
    """On CUDA no connection says so, and torch's wait has no end. A signal's handler runs meanwhile."""
    seams.put("strays", 0.2)

    def work(group: ProcessGroup) -> tuple[str, float, float]:
        if group.rank == 1:
            dist.barrier()
            end(lambda pid: group.store.set("process", str(pid)))
        agent = Agent(0, "", "", "", 0.0, 0.0, resumes=False, quiet=False, prog="", collective_s=1.0)
        dist.barrier()
        processes = (("here", "", os.getpid()), ("here", "", int(group.store.get("process"))))
        handled: list[float] = []
        signal.signal(signal.SIGTERM, lambda *_: handled.append(time.monotonic()))
        begun = time.monotonic()
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(RankLostError) as raised:
            together(replace(group, agent=agent, processes=processes))
        return str(raised.value), handled[0] - begun, time.monotonic() - begun

    with Ranks(2, work) as ranks:  # whose own limit is a minute
        (found,) = ranks.children[0].reports(WITHIN_S / 2)
    what, handled_s, left_s = found
    assert said in what
    assert handled_s < left_s - 0.1, "before it gave up"
    assert left_s < 30
