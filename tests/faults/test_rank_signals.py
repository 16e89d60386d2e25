"""Signals to several processes that train together: to their agent, to one of them, to torchrun. One save, one end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import psutil
import pytest

from lmplay_tui.process import own_environment
from lmplay_tui.run.control_files import leave_command
from lmplay_tui.run.controls import Pause
from lmplay_tui.run.folder import RunFolder, saved_status
from tests.faults.programs import PLAN, saved_step, steps_in_journal, trains
from tests.faults.terminals import ENDS_WITHIN_S, until
from tests.faults.together import Together, assert_no_orphan, crowded, events_of, line
from tests.train.runs import write_plan

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
def model(place: Path) -> Path:
    """Of a run that would take hours; every step is in its journal."""
    write_plan(place, PLAN)
    return place / "m.lmp"


def assert_stopped_in_order(together: Together, signal_name: str) -> None:
    run = together.run
    assert together.wait() == 0, together.said[-3000:]
    assert_no_orphan(run)
    (stopped,) = events_of(run, "RunStopped")
    assert stopped["reason"] == signal_name
    saved = [event["step"] for event in events_of(run, "CheckpointSaved")]
    assert saved.count(stopped["step"]) == 1
    assert saved_step(run) == steps_in_journal(run) == stopped["step"]
    assert together.said.count("go on with: lmp_trainer --model") == 1, "rank 0 alone prints"
    assert "--nproc 2" in together.said
    assert "Traceback" not in together.said
    assert not run.alive()


def test_a_follower_passes_signals_over_and_the_agent_saves_and_stops(model: Path) -> None:
    with Together(line(model)) as together:
        until(trains(together.run))
        until(lambda: shown_ranks(together.run) == together.ranks())
        for number in (*SIGNALS, signal.SIGUSR1):
            together.kill_rank(1, number)
        os.kill(together.pid, signal.SIGUSR1)
        until(lambda: events_of(together.run, "CheckpointSaved"))
        until(trains(together.run, steps_in_journal(together.run) + 2))
        os.kill(together.pid, signal.SIGTERM)
        assert_stopped_in_order(together, "SIGTERM")
        assert len(events_of(together.run, "CheckpointSaved")) == 2


def shown_ranks(run: RunFolder) -> dict[int, int | None]:
    """The ranks' processes as screens see them."""
    shown = saved_status(run).ranks
    return {} if shown is None else {each.rank: each.pid for each in shown.ranks}


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_the_agent_saves_and_stops(model: Path, number: signal.Signals) -> None:
    with Together(line(model)) as together:
        until(trains(together.run))
        os.kill(together.pid, number)
        assert_stopped_in_order(together, number.name)


@pytest.mark.long
@pytest.mark.parametrize("number", SIGNALS)
def test_rank_0_saves_and_all_stop(model: Path, number: signal.Signals) -> None:
    with Together(line(model)) as together:
        until(trains(together.run))
        together.kill_rank(0, signal.SIGUSR1)
        until(lambda: events_of(together.run, "CheckpointSaved"))
        together.kill_rank(0, number)
        assert_stopped_in_order(together, number.name)


@pytest.mark.long
def test_a_stop_holds_though_the_process_that_took_it_is_lost(model: Path) -> None:
    """The last thing that it does is to take the command's file away; all start again, and stop."""
    with Together(line(model)) as together:
        until(trains(together.run))
        rank_0 = together.kill_rank(0, signal.SIGSTOP)
        os.kill(together.pid, signal.SIGTERM)
        until(lambda: any(together.run.control.iterdir()))
        for path in together.run.control.iterdir():
            path.unlink()
        os.kill(rank_0, signal.SIGKILL)
        assert together.wait() == 0, together.said[-3000:]
        assert_no_orphan(together.run)
        assert len(events_of(together.run, "RunStopped")) == 1


@pytest.mark.long
def test_two_ctrl_c_leave_at_once(model: Path) -> None:
    with Together(line(model)) as together:
        until(trains(together.run))
        together.kill_rank(0, signal.SIGSTOP)  # whatever hangs
        os.kill(together.pid, signal.SIGINT)
        until(lambda: any(together.run.control.iterdir()))
        os.kill(together.pid, signal.SIGINT)
        assert together.wait() == 130
        assert_no_orphan(together.run)


class Torchrun:
    """A real torchrun with two processes of the real trainer. Use as a context.

    `through`: a program that starts the trainer, with the words that come before it.
    """

    def __init__(self, model: Path, *options: str, through: Sequence[str] = ()) -> None:
        self.run = RunFolder(model)
        self._output = model.with_suffix(".out")
        with self._output.open("ab") as output:
            self.program = subprocess.Popen(
                [
                    sys.executable, "-m", "torch.distributed.run", *options, "--no-python", *through,
                    str(Path(sys.executable).with_name("lmp_trainer")), *line(model, count=None),
                ],
                env=own_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.program.kill()
        self.program.wait()

    def trains(self, steps: int) -> None:
        until(lambda: steps_in_journal(self.run) >= steps or self.program.poll() is not None)
        assert steps_in_journal(self.run) >= steps, self.said[-3000:]

    def rank(self, rank: int) -> psutil.Process:
        children = psutil.Process(self.program.pid).children()
        return next(child for child in children if child.environ()["RANK"] == str(rank))

    @property
    def said(self) -> str:
        return self._output.read_text()


@pytest.mark.long
def test_torchrun_is_told_to_stop(model: Path) -> None:
    with Torchrun(model, "--standalone", "--nproc-per-node", "2", "--shutdown-timeout", "300") as torchrun:
        torchrun.trains(3)
        torchrun.program.send_signal(signal.SIGTERM)
        torchrun.program.wait(120)
        run = torchrun.run
        assert_no_orphan(run)
        (stopped,) = events_of(run, "RunStopped")
        assert saved_step(run) == steps_in_journal(run) == stopped["step"]
        assert torchrun.said.count("go on with: ") == 1


@pytest.mark.long
def test_torchrun_starts_all_again_when_one_is_killed(model: Path) -> None:
    options = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "2", "--shutdown-timeout", "300")
    with Torchrun(model, *options) as torchrun:
        run = torchrun.run
        for times in (1, 2):
            torchrun.trains(steps_in_journal(run) + 3)
            torchrun.rank(times % 2).kill()
            until(lambda times=times: len(events_of(run, "RunStarted")) == times + 1)  # type: ignore[misc]
        torchrun.trains(steps_in_journal(run) + 3)
        torchrun.program.send_signal(signal.SIGTERM)
        torchrun.program.wait(120)
        assert_no_orphan(run)
        assert saved_step(run) == steps_in_journal(run)


@pytest.mark.long
def test_a_torchrun_that_is_killed_leaves_no_process(model: Path) -> None:
    with Torchrun(model, "--standalone", "--nproc-per-node", "2") as torchrun:
        torchrun.trains(3)
        torchrun.program.kill()
        torchrun.program.wait()
        run = torchrun.run
        assert_no_orphan(run)
        ends = [*events_of(run, "RunFailed"), *events_of(run, "RunStopped")]
        assert len(ends) == 1
        assert "what has started this process is no more" in (ends[0].get("message") or ends[0]["reason"])
        assert saved_step(run) == steps_in_journal(run) == ends[0]["step"]


@pytest.mark.long
@pytest.mark.enable_socket
def test_two_machines_of_which_one_is_lost(model: Path) -> None:
    """Two torchruns with one rendezvous, one of them killed: the other ends by itself, and a new start goes on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = (
        "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}",
        "--rdzv-id", "two", "--shutdown-timeout", "60",
    )  # fmt: skip
    for lost in (1, 0):
        with Torchrun(model, *options) as first, Torchrun(model, *options) as second:
            run = first.run
            first.trains(steps_in_journal(run) + 3)
            both = [first, second]
            by_rank = sorted(both, key=lambda one: psutil.Process(one.program.pid).children()[0].environ()["RANK"])
            victim, other = by_rank[lost], by_rank[1 - lost]
            victim.program.kill()
            assert other.program.wait(ENDS_WITHIN_S) != 0
            assert_no_orphan(run, within_s=15.0)
            assert saved_step(run) == steps_in_journal(run)
    with Together(line(model)) as together:
        until(trains(run, steps_in_journal(run) + 3))
        os.kill(together.pid, signal.SIGTERM)
        assert together.wait() == 0


@pytest.mark.long
def test_what_was_asked_of_a_process_that_is_lost_is_done_by_the_next(model: Path) -> None:
    with Together(line(model, mini_batch_size=6)) as together:
        run = together.run
        until(trains(run))
        (idle,) = [e for e in events_of(run, "Warned") if "give work to 1 of 2 processes" in e["message"]]
        assert idle["message"].startswith("mini-batches of 6")
        asked = leave_command(run, Pause())
        until(lambda: any(event["id"] == asked for event in events_of(run, "Answered")))
        together.kill_rank(1)
        until(lambda: len(events_of(run, "RunStarted")) == 2)
        until(lambda: len(events_of(run, "Paused")) == 2)  # it was paused, and is
        (run.control / "resume").touch()
        until(trains(run, steps_in_journal(run) + 3))
        (run.control / "stop").touch()
        assert together.wait() == 0
        assert_no_orphan(run)


@pytest.mark.long
def test_a_stop_before_anything_runs_is_heeded(model: Path) -> None:
    with Together(line(model)) as together:
        until(lambda: "starting 2 processes" in together.said)
        os.kill(together.pid, signal.SIGTERM)
        assert together.wait() == 0, together.said[-2000:]
        assert_no_orphan(together.run)
        assert not model.exists()


@pytest.mark.long
def test_a_hang_up_is_passed_over_where_the_run_goes_on(model: Path) -> None:
    with Together(line(model, "--on-hangup", "continue")) as together:
        until(trains(together.run))
        for pid in (together.pid, *together.ranks().values()):
            os.kill(pid, signal.SIGHUP)
        until(trains(together.run, steps_in_journal(together.run) + 3))
        os.kill(together.pid, signal.SIGTERM)
        assert_stopped_in_order(together, "SIGTERM")


@pytest.mark.long
def test_an_agent_that_is_killed_while_all_start_leaves_no_process(model: Path) -> None:
    """At any of the moments in which they import, find each other and load."""
    for moment in (0.0, 0.5, 1.5, 3.0):
        with Together(line(model)) as together:
            until(lambda: len(together.ranks()) == 2)
            time.sleep(moment * crowded() / 2)
            together.kill()
            assert_no_orphan(together.run)
