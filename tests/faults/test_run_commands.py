"""ctl, status, runs and attach on runs that live, pause, die and are over; lines that nobody reads."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from lmplay_tui.cli import main
from lmplay_tui.commands.output import Output
from lmplay_tui.run.folder import RunFolder, status_of
from tests.faults.forks import Child
from tests.faults.terminals import until
from tests.train.runs import stop_after, train, write_plan


def test_commands_on_a_run_that_is_over(place, capsys):
    plan = write_plan(place)
    stop_after(3, training_plan=plan, model="m.lmp")
    assert main(["status", "m", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["state"] == "stopped"
    assert status["step"] == 3
    assert status["checkpoint"]["step"] == 3
    assert status["pid"] is None
    assert main(["status", "--line"]) == 0
    assert capsys.readouterr().out.startswith("m stopped ")
    assert main(["runs"]) == 0
    assert re.search(r"^m +stopped +\d+ % +3 ", capsys.readouterr().out, re.MULTILINE)
    assert main(["ctl", "m", "save"]) == 2
    assert "no process is training this run" in capsys.readouterr().err
    assert main(["ctl", "m", "fly"]) == 2
    assert main(["ctl", "nobody", "save"]) == 2
    assert main(["ctl", "m", "lr=-1"]) == 2
    assert main(["attach", "m"]) == 2
    assert not list((place / "m.run/control").iterdir())


def run_until_stopped(plan: str, report) -> None:
    train(training_plan=plan, model="m.lmp", log_interval=1)


LONG = """\
[train]
exp = "test_runner"
num_blocks = 1
embed_dim = 8
num_heads = 2
context_len = 64
tokenizer = "bytes"
batch_size = 6
validation_interval = 100000
eval_interval = 100000
[stages.stories]
dataset = "stories.jsonl"
epochs = 100000
"""


def test_ctl_waits_for_the_answer(place, capsys):
    plan = write_plan(place, LONG)
    run = RunFolder(place / "m.lmp")
    with Child(lambda report: run_until_stopped(plan, report)) as child:
        until(lambda: run.status().get("step"))
        assert main(["ctl", "m", "save"]) == 0
        assert run.model.exists()
        assert "saved m.lmp" in capsys.readouterr().out
        assert main(["ctl", "pause"]) == 0
        assert status_of(run)["state"] == "paused"
        assert main(["ctl", "m", "lr=*0.5"]) == 0
        assert main(["ctl", "m", "resume"]) == 0
        (run.control / "stop").touch()
        assert child.wait() == 0
    assert status_of(run)["state"] == "stopped"


def test_ctl_hears_when_the_run_dies(place, capsys):
    plan = write_plan(place, LONG)
    run = RunFolder(place / "m.lmp")
    with Child(lambda report: run_until_stopped(plan, report)) as child:
        until(lambda: run.status().get("step"))
        child.kill(signal.SIGSTOP)
        with Child(lambda report: os._exit(main(["ctl", "m", "save"]))) as asking:
            until(lambda: list(run.control.iterdir()))
            child.kill()
            assert asking.wait() == 2


def test_lines_never_wait_and_say_what_they_left_out():
    """A pipe that nobody empties: thousands of lines later the writer is still free."""
    reader, writer = os.pipe()
    with Output(descriptors=(writer, writer)) as lines:
        begun = time.monotonic()
        for number in range(20_000):
            lines.write(f"line {number} " + "x" * 100)
        assert time.monotonic() - begun < 60
        text = b""
        while b"lines left out" not in text:
            text += os.read(reader, 1 << 20)
            lines.write("more")
    assert text.startswith(b"line 0 ")
    os.close(reader)
    os.close(writer)


def test_lines_tell_once_that_the_reader_is_gone():
    reader, writer = os.pipe()
    os.close(reader)
    gone = []
    with Output(on_reader_gone=lambda: gone.append(1), descriptors=(writer, writer)) as lines:
        for _ in range(10):
            lines.write("x")
    assert gone == [1]
    os.close(writer)


def test_options_of_the_small_commands_are_checked(capsys):
    for name in ("ctl", "status", "runs", "attach"):
        assert main([name, "--nonsense"]) == 2
        assert "nonsense" in capsys.readouterr().err


@pytest.mark.long
def test_ctl_to_a_paused_run(place, capsys):
    """It saves, validates and stops without going on first."""
    plan = write_plan(place, LONG)
    run = RunFolder(place / "m.lmp")
    with Child(lambda report: run_until_stopped(plan, report)) as child:
        until(lambda: run.status().get("step"))
        assert main(["ctl", "m", "pause"]) == 0
        step = status_of(run)["step"]
        for command in ("save", "validate", "lr=*0.5", "pause"):
            assert main(["ctl", "m", command]) == 0, command
        assert status_of(run)["state"] == "paused"
        assert main(["ctl", "m", "stop"]) == 0
        assert "saved m.lmp" in capsys.readouterr().out
        assert child.wait() == 0
    assert status_of(run)["step"] == step


@pytest.mark.long
def test_a_detached_process_that_fails_at_once(place, capsys, monkeypatch):
    """What hindered it is said here, and by the exit status: nobody looks for a run that is none."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    write_plan(place, LONG.replace("stories.jsonl", "nothing-here.jsonl"))
    assert main(["--headless", "--detach", "--training-plan", "plan.toml", "--model", "m.lmp"]) == 2
    assert "nothing-here.jsonl" in capsys.readouterr().err
    write_plan(place, LONG)
    monkeypatch.setattr("sys.executable", "/bin/false")
    assert main(["--headless", "--detach", "--training-plan", "plan.toml", "--model", "m.lmp"]) == 3
    assert "has ended before it began" in capsys.readouterr().err
    assert not RunFolder(place / "m.lmp").alive()
