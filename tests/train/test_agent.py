"""The agent with processes that add up their ranks: they find each other, and are started again when one is killed."""

import inspect
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from torch.distributed.elastic.multiprocessing.api import PContext, SubprocessContext

from lmplay_tui.errors import UserError
from lmplay_tui.process import is_alive, own_command, own_environment
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.agent import RestartLimit, refuse_old_launcher
from lmplay_tui.train.agent_folder import Agent
from lmplay_tui.train.process_group import processors
from tests.faults.terminals import until

ENDS_WITHIN_S = 600  # eleven starts of two processes, each of which loads torch, beside other tests


def is_refused() -> bool:
    """Whether this torch is too old for the agent."""
    try:
        refuse_old_launcher()
    except UserError as error:
        return "too old" in str(error)
    return False


pytestmark = pytest.mark.skipif(is_refused(), reason="an old torch, which is refused")


class Started:
    """An agent's process in a folder of its own, with `count` processes that do as they are told.

    `environment`: that it is started in, where that is not the test's.
    """

    def __init__(self, folder: Path, count: int, environment: Mapping[str, str] | None = None, **words: str) -> None:
        self.folder = folder
        self.run = RunFolder(folder / "m.lmp")
        self.program = subprocess.Popen(
            own_command("tests.train.sum_worker", "agent", str(count), *(f"{k}={v}" for k, v in words.items())),
            cwd=folder, env=environment or own_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self) -> int:
        self.output, self.errors = self.program.communicate(timeout=ENDS_WITHIN_S)
        return self.program.returncode

    def leave_at_once(self) -> int:
        """By Ctrl+C twice."""
        self.program.send_signal(signal.SIGINT)
        time.sleep(0.2)
        self.program.send_signal(signal.SIGINT)
        return self.end()

    @property
    def said(self) -> list[dict]:
        try:
            return [json.loads(line) for line in (self.folder / "said.jsonl").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def workers(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.program.pid).children()]


def test_processes_add_up_their_ranks_on_127_0_0_1_alone(tmp_path: Path) -> None:
    started = Started(tmp_path, 2, status="3")
    assert started.end() == 3, started.errors  # rank 0's own end, which starts nothing again
    assert started.errors == ""
    said = sorted(started.said, key=lambda one: one["rank"])
    assert [one["sum"] for one in said] == [3.0, 3.0]
    assert {ip for one in said for ip in one["listens"]} == {"127.0.0.1"}
    assert {one["threads"] for one in said} == {max(1, processors() // 2)}
    assert {tuple(one["left_in_environment"]) for one in said} == {()}  # what they start is none of them
    assert not started.run.alive()


def elsewhere() -> str:
    """An interface of this machine that other machines reach, where it has one."""
    has_address = {name: {each.family for each in found} for name, found in psutil.net_if_addrs().items()}
    return next((name for name, found in has_address.items() if name != "lo" and socket.AF_INET in found), "eth0")


EXPORTED = {
    "by a cluster's profile": {"GLOO_SOCKET_IFNAME": elsewhere(), "NCCL_SOCKET_IFNAME": elsewhere()},
    "nothing": {},
    "by the user": {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "INFO", "PYTHONPATH": "mine", "MINE": "a\udcff=b"},
}


@pytest.mark.long
@pytest.mark.parametrize("exported", EXPORTED)
def test_whatever_is_exported_they_listen_on_127_0_0_1_alone_and_the_users_commands_find_it(
    tmp_path: Path, exported: str
) -> None:
    names = ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    given = {name: value for name, value in own_environment().items() if name not in names} | EXPORTED[exported]
    started = Started(tmp_path, 2, given)
    assert started.end() == 0, started.errors
    assert {ip for one in started.said for ip in one["listens"]} == {"127.0.0.1"}
    for one in started.said:
        assert sorted(one["users_environment"].items() ^ given.items()) == []


@pytest.mark.long
@pytest.mark.timeout(ENDS_WITHIN_S)
@pytest.mark.parametrize(("rank", "times"), [(0, 2), (1, 10)])
def test_one_that_is_killed_takes_all_down_and_all_start_again(tmp_path: Path, rank: int, times: int) -> None:
    started = Started(tmp_path, 2, dies=str(rank), times=str(times), most=str(times))
    assert started.end() == 0, started.errors
    assert started.output.count(f"rank {rank} (") == times
    assert started.output.count("SIGKILL") == times  # the others, which ended because of it, are not blamed
    ends = started.said[-2:]
    assert sorted(one["rank"] for one in ends) == [0, 1]
    assert {one["sum"] for one in ends} == {3.0}
    assert len({one["attempt"] for one in started.said}) == times + 1


@pytest.mark.long
def test_rank_0_has_its_time_to_save_when_another_is_lost(tmp_path: Path) -> None:
    started = Started(tmp_path, 2, dies="1", times="1", saves_s="35")
    assert started.end() == 0, started.errors
    assert (tmp_path / "saved").exists()


@pytest.mark.long
def test_one_that_torchs_launcher_had_to_kill_is_not_blamed(tmp_path: Path) -> None:
    """It did not see that it was to end, as where a GPU holds it up."""
    started = Started(tmp_path, 2, dies="1", times="1", saves_s="35", killed_after_s="2")
    assert started.end() == 0, started.errors
    assert not (tmp_path / "saved").exists()
    assert "rank 1 (" in started.output and "rank 0 (" not in started.output


@pytest.mark.long
def test_the_others_go_on_without_a_device_that_is_lost(tmp_path: Path) -> None:
    started = Started(tmp_path, 3, without_device="1")
    assert started.end() == 0, started.errors
    assert "has no device: it has fallen off the bus left: 2" in started.output
    assert {(one["device"], one["rank"]) for one in started.said} == {(0, 0), (2, 1)}
    assert {one["sum"] for one in started.said} == {3.0}


@pytest.mark.long
def test_it_gives_up_after_a_few_times(tmp_path: Path) -> None:
    started = Started(tmp_path, 2, dies="1", times="9", most="2")
    assert started.end() == 3, started.errors
    assert len({one["attempt"] for one in started.said}) == 3
    assert not started.run.alive()


ENDS = {
    "in order": {"status": "3"},
    "behind a restart": {"dies": "1", "times": "1"},
    "not started again": {"dies": "0", "times": "9", "most": "0"},
    "by Ctrl+C twice": {"waits": "yes"},
}


@pytest.mark.long_after(1)
@pytest.mark.parametrize("end", ENDS)
def test_nothing_of_theirs_stays_in_the_temporary_folder_however_it_ends(tmp_path: Path, end: str) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    started = Started(tmp_path, 2, own_environment() | {"TMPDIR": str(folder)}, **ENDS[end])
    if "waits" in ENDS[end]:
        until(lambda: len(started.said) == 2)
        assert list(folder.iterdir()), "they tell each other by files"
        assert started.leave_at_once() == 130
    else:
        started.end()
    assert started.said, started.errors
    assert [path.name for path in folder.iterdir()] == []


@pytest.mark.long
def test_an_agent_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    started = Started(tmp_path, 2, waits="yes")
    until(lambda: len(started.said) == 2)
    workers = started.workers()
    started.program.kill()
    until(lambda: not any(is_alive(pid) for pid in workers), seconds=5.0)
    assert not started.run.alive()
    started.end()


@pytest.mark.long
def test_a_process_that_is_stopped_does_not_hold_the_others_back_for_ever(tmp_path: Path) -> None:
    started = Started(tmp_path, 2, waits="yes")
    until(lambda: len(started.said) == 2)
    by_rank = {one["rank"]: one["pid"] for one in started.said}
    os.kill(by_rank[1], signal.SIGSTOP)
    os.kill(by_rank[0], signal.SIGKILL)
    until(lambda: len(started.said) == 4)  # all were started again
    assert not is_alive(by_rank[1])
    assert started.leave_at_once() == 130
    until(lambda: not any(is_alive(one["pid"]) for one in started.said), seconds=5.0)


@pytest.mark.long
def test_a_rank_0_that_is_stopped_before_it_has_begun_does_not_hold_the_others_back(tmp_path: Path) -> None:
    started = Started(tmp_path, 2, waits="yes", signs="no")
    until(lambda: len(started.said) == 2)
    by_rank = {one["rank"]: one["pid"] for one in started.said}
    os.kill(by_rank[0], signal.SIGSTOP)
    os.kill(by_rank[1], signal.SIGKILL)
    until(lambda: len(started.said) == 4)  # all were started again
    assert not is_alive(by_rank[0])
    assert started.leave_at_once() == 130
    assert "was ended by SIGKILL, rank 0 (process" in started.output and "has not begun left: 2" in started.output


def test_torch_gives_survivors_half_a_minute_and_has_no_option_for_it() -> None:
    """Else what the agent puts in its place, `_prepare_environment`, is not needed any more, or does not do it."""
    assert inspect.signature(PContext.close).parameters.keys() == {"self", "death_sig", "timeout"}
    assert PContext.close.__defaults__ == (None, 30)
    source = inspect.getsource(SubprocessContext._poll)
    assert "self.close()" in source, "where a process has failed, torch closes without a timeout of its own"


def test_restarts_are_counted_within_an_hour() -> None:
    now = 0.0
    limit = RestartLimit(2, clock=lambda: now)
    assert [limit.allows_one_more() for _ in range(3)] == [True, True, False]
    now = 3599.0
    assert not limit.allows_one_more()
    now = 3600.0
    assert [limit.allows_one_more() for _ in range(3)] == [True, True, False]
    assert limit.count == 2


def test_the_end_that_rank_0_tells_is_read_once_it_is_there(tmp_path: Path) -> None:
    agent = Agent(1, "a", str(tmp_path), "lock", 0.0, 0.0, resumes=False, quiet=False, prog="lmp_trainer")
    assert agent.known_end() is None
    (tmp_path / "ended").touch()  # and not written yet
    assert agent.known_end() is None
    agent.end_is_known(2)
    assert agent.known_end() == 2


@pytest.mark.long
@pytest.mark.parametrize("nodes", [1, 2])
def test_processes_as_srun_starts_them(tmp_path: Path, nodes: int) -> None:
    """On one machine the store is at 127.0.0.1 alone; on several at the first of them."""
    step = {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": str(nodes), "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": str(nodes), "SLURM_STEP_NODELIST": "localhost,far-away",
    }  # fmt: skip
    both = [
        subprocess.Popen(
            own_command("tests.train.sum_worker"), cwd=tmp_path, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=own_environment() | step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}, text=True,
        )
        for rank in (1, 0)
    ]  # fmt: skip
    ends = [one.communicate(timeout=ENDS_WITHIN_S)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], ends
    said = [json.loads(one) for one in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert sorted(one["sum"] for one in said) == [3.0, 3.0]
    assert len({one["attempt"] for one in said}) == 1
    if nodes == 1:
        assert {ip for one in said for ip in one["listens"]} == {"127.0.0.1"}
