"""How several processes begin and go on: detached, handed over, anew; what is refused; who can reach them."""

import os
import platform
import re
import signal
from pathlib import Path

import psutil
import pytest
import torch
from torch.backends.cpu import get_cpu_capability

from lmplay_tui.cli import main
from lmplay_tui.commands.train import main as trainer_main
from lmplay_tui.errors import UserError
from lmplay_tui.run.control_files import leave_command
from lmplay_tui.run.controls import HandOver
from lmplay_tui.run.folder import RunFolder, status_of
from tests.faults.programs import PLAN, saved_step, steps_in_journal, stop_and_wait, trains
from tests.faults.terminals import until
from tests.faults.test_handoff_kills import never_free
from tests.faults.test_rank_signals import Torchrun
from tests.faults.together import Together, assert_no_orphan, events_of, line
from tests.train.runs import write_plan

OF_THE_SHELL = ("PWD", "OLDPWD", "SHLVL", "_")  # it sets them for what it starts
OWN = """\
from lmplay_tui.models.gpt2ish import GPT2ish

class Mine(GPT2ish):
    pass
"""


@pytest.fixture
def model(place: Path) -> Path:
    """Of a run that would take hours; every step is in its journal."""
    write_plan(place, PLAN)
    return place / "m.lmp"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nproc", "2", "--device", "mps"], "--nproc: 2 processes cannot share --device mps"),
        (["--nproc", "2", "--device", "cuda:1"], "--nproc: 2 processes cannot share --device cuda:1"),
        (["--nproc", "0"], "--nproc: must be at least 1"),
        (["--nproc", "many"], "--nproc: must be a whole number"),
    ],
)
def test_what_several_processes_cannot_share_is_refused(model: Path, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        trainer_main(["--training-plan", "plan.toml", "--model", str(model), *words], "lmp_trainer")
    assert not RunFolder(model).folder.exists()


def test_torchrun_has_started_them_already(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="--nproc: torchrun has started 2 processes; leave it out"):
        trainer_main(line(model), "lmp_trainer")


@pytest.mark.long
def test_detached_and_asked_from_a_shell(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(model)
    assert trainer_main([*line(model), "--detach"], "lmp_trainer") == 0
    try:
        pid = status_of(run)["pid"]
        assert f"m: training in process {pid};" in capfd.readouterr().out
        until(trains(run))
        (agent,) = (p for p in psutil.process_iter() if p.pid == pid)
        both = agent.children()
        for process in (agent, *both):  # all that listens
            listening = [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            assert set(listening) <= {"127.0.0.1"}
        assert len(both) == 2
        assert main(["ctl", str(model), "save"]) == 0
        assert main(["ctl", str(model), "stop"]) == 0
        until(lambda: not run.alive())
        assert_no_orphan(run)
        assert saved_step(run) == steps_in_journal(run)
        assert "Traceback" not in run.log.read_text()
    finally:
        stop_and_wait(run)


@pytest.mark.long
@pytest.mark.parametrize("words", [[], ["--exp", "mine.py:Mine"]], ids=["shipped", "own experiment"])
def test_handed_over_to_another_agent(model: Path, words: list[str]) -> None:
    """An experiment of the user's own is named to each process that is to run its file."""
    (model.parent / "mine.py").write_text(OWN, encoding="utf-8")
    with Together(line(model, *words)) as together:
        run = together.run
        until(trains(run))
        with never_free(run):
            leave_command(run, HandOver())
            assert together.wait() == 0, together.said[-3000:]
            (handed,) = events_of(run, "HandedOver")
            until(trains(run, handed["step"] + 3))
            assert status_of(run)["pid"] == handed["pid"] != together.pid
            assert len(psutil.Process(handed["pid"]).children()) == 2
            victim = psutil.Process(handed["pid"]).children()[0]
            victim.kill()  # and is held while all start again
            until(lambda: len(events_of(run, "RunStarted")) == 3)
            until(trains(run, steps_in_journal(run) + 3))
        os.kill(handed["pid"], signal.SIGTERM)
        until(lambda: not run.alive())
        assert_no_orphan(run)
        assert saved_step(run) == steps_in_journal(run)


@pytest.mark.long
def test_a_start_anew_is_one_whatever_is_lost(model: Path) -> None:
    with Together(line(model)) as together:
        until(trains(together.run))
        os.kill(together.pid, signal.SIGTERM)
        assert together.wait() == 0
    with Together(line(model, "--reset-history")) as together:
        run = together.run
        until(lambda: len(together.ranks()) == 2)
        together.kill_rank(0)
        until(trains(run))
        os.kill(together.pid, signal.SIGTERM)
        assert together.wait() == 0, together.said[-2000:]
        assert_no_orphan(run)
        assert events_of(run, "RunStarted")[0]["resumed_from"] is None
    assert len(list((model.parent / "m.past").iterdir())) == 1


@pytest.mark.long_after(1)
@pytest.mark.parametrize("checkpoint", ["damaged", "not there", "whole"])
def test_what_the_line_says_holds_until_a_checkpoint_knows_it_and_is_done_once(model: Path, checkpoint: str) -> None:
    """Where `NAME.lmp` is set aside nothing has been saved yet, though another file stands there, or none."""
    short = PLAN.replace("epochs = 100000", "epochs = 2")
    write_plan(model.parent, short.replace("log_interval = 1", "log_interval = 1\nsave_interval = 3"))
    with Together(line(model)) as together:
        assert together.wait() == 0, together.said[-2000:]
    assert RunFolder(model).checkpoint("prev").exists()
    if checkpoint == "damaged":
        with model.open("r+b") as file:
            file.truncate(model.stat().st_size // 2)
    elif checkpoint == "not there":
        model.unlink()
    write_plan(model.parent, short)
    words = ("--extend", "9998", "--lr", "0.001")
    saved = len(events_of(RunFolder(model), "CheckpointSaved"))
    with Together(line(model, *words)) as together:
        run = together.run

        def until_started(times: int) -> None:
            until(lambda: len(events_of(run, "RunStarted")) > times or not together.lives)

        for times in (1, 2):
            until_started(times)
            together.kill_rank(0)
        until_started(3)
        assert len(events_of(run, "CheckpointSaved")) == saved
        os.kill(together.pid, signal.SIGUSR1)
        until(lambda: len(events_of(run, "CheckpointSaved")) > saved or not together.lives)
        together.kill_rank(0)
        until_started(4)
        os.kill(together.pid, signal.SIGTERM)
        assert together.wait() == 0, together.said[-2000:]
    _, *started = events_of(run, "RunStarted")
    assert [event["on_line"].get("lr") for event in started[:3]] == 3 * ["--lr 0.001"]
    assert ["epochs = 10000\n" in event["plan_text"] + "\n" for event in started] == 4 * [True]
    assert "lr" not in started[3]["on_line"]


@pytest.mark.long
def test_what_follows_the_end_may_take_the_run(model: Path) -> None:
    """`--on-done` is run once, when neither rank 0 nor the agent holds the run any more."""
    asked = "sleep 0.5; flock -n m.run/lock echo free $LMP_STATE >> done.txt || echo held >> done.txt"
    with Together(line(model, "--on-done", asked)) as together:
        until(trains(together.run))
        together.kill_rank(1)  # this is no end
        until(lambda: len(events_of(together.run, "RunStarted")) == 2)
        os.kill(together.pid, signal.SIGTERM)
        assert together.wait() == 0, together.said[-2000:]
    assert (model.parent / "done.txt").read_text() == "free stopped\n"


@pytest.mark.long
def test_what_follows_an_end_that_the_agent_tells_is_given_the_users_environment(model: Path) -> None:
    """All are not started again: no rank 0 runs the command, which must not take itself for one of them."""
    words = ("--on-done", "env -0 > found", "--notify-url", "http://127.0.0.1:9/secret")
    with Together(line(model, *words), most=0) as together:
        until(trains(together.run))
        together.kill_rank(1)
        assert together.wait() == 3, together.said[-2000:]
    found = dict(one.split("=", 1) for one in (model.parent / "found").read_text("utf-8").split("\0") if one)
    assert found.pop("LMP_STATE") == "failed"
    own, users = (
        {name: value for name, value in each.items() if name not in OF_THE_SHELL and not name.startswith("LMP_")}
        for each in (found, os.environ)
    )
    assert sorted(own.items() ^ users.items()) == []


@pytest.mark.long
@pytest.mark.skipif(get_cpu_capability() not in ("AVX2", "AVX512"), reason="all processors compute as this one can")
def test_a_processor_that_rounds_otherwise_is_named_before_and_behind_the_drift(model: Path) -> None:
    """Its updates have other last bits: that is no broken memory, and its user is told so at the start."""
    as_an_old_one = 'if [ "$RANK" = 1 ]; then export ATEN_CPU_CAPABILITY=default; fi; exec "$0" "$@"'
    with Torchrun(model, "--standalone", "--nproc-per-node", "2", through=("sh", "-c", as_an_old_one)) as torchrun:
        torchrun.program.wait(120)
        run = torchrun.run
        on = rf"torch {re.escape(torch.__version__)} on {platform.machine()} with"
        named = f"rank 1 computes by {on} DEFAULT, rank 0 by {on} AVX2"
        assert any(re.match(f"{named}: where they round", event["message"]) for event in events_of(run, "Warned"))
        (failed,) = events_of(run, "RunFailed")
        assert re.search(f"of rank 0 and of rank 1 are not the same.*: {named}, which may round", failed["message"])
        assert_no_orphan(run)
