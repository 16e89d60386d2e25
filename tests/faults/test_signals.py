"""Signals, a lost line and a stalled terminal, in real terminals: nothing that was finished is lost, nothing hangs."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from lmplay_tui.cli import main
from lmplay_tui.commands.train import main as trainer_main
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.journal import read_journal
from lmplay_tui.run.status import status_of
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.saving import strays
from tests.faults.terminals import Terminal, until
from tests.train.runs import write_plan

PLAN = """\
[train]
exp = "test_runner"
num_blocks = 2
embed_dim = 16
num_heads = 2
context_len = 64
tokenizer = "bytes"
batch_size = 6
validation_interval = 40
eval_interval = 200
eval_samples = 8
log_interval = 1
[stages.stories]
dataset = "stories.jsonl"
epochs = 100000
"""
LINE = ["--training-plan", "plan.toml", "--model", "m.lmp", "--device", "cpu", "--mini-batch-size", "2"]


@pytest.fixture
def long_run(place: Path) -> RunFolder:
    """A run that would take hours; every step is in its journal."""
    write_plan(place, PLAN)
    return RunFolder(place / "m.lmp")


def headless(*options: str):
    return lambda: trainer_main([*LINE, *options], "lmp_trainer")


def dashboard(*options: str):
    """As the real program starts it: the trainer's modules come in its thread."""
    return lambda: main([*LINE, "--refresh-hz", "10", *options])


def steps_in_journal(run: RunFolder) -> int:
    rows = read_journal(run.metrics)
    return max((row["step"] for row in rows if "step" in row), default=0)


def saved_step(run: RunFolder) -> int:
    return int(load_checkpoint(run.model)["runner"]["state"]["progress"]["step"])


def trains(run: RunFolder, steps: int = 3):
    return lambda: steps_in_journal(run) >= steps


def assert_stopped_in_order(terminal: Terminal, run: RunFolder) -> None:
    assert terminal.wait() == 0, terminal.output[-3000:]
    assert terminal.restored, terminal.output[-500:]
    assert b"Traceback" not in terminal.output
    if run.model.exists() or steps_in_journal(run):
        assert saved_step(run) == steps_in_journal(run)
    assert not strays(run)
    assert not run.alive()


SLOW = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=SLOW), signal.SIGHUP])
def test_headless(long_run, number):
    with Terminal(headless()) as terminal:
        until(trains(long_run))
        terminal.send(number)
        assert_stopped_in_order(terminal, long_run)
        assert b"go on with: lmp_trainer --model" in terminal.output


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=SLOW)])
def test_dashboard(long_run, number):
    with Terminal(dashboard()) as terminal:
        until(trains(long_run))
        terminal.send(number)
        assert_stopped_in_order(terminal, long_run)
        assert b"go on with: lmplay-tui --model" in terminal.output


def test_a_hang_up_stops_the_dashboard_if_that_is_asked_for(long_run):
    with Terminal(dashboard("--on-hangup", "stop")) as terminal:
        until(trains(long_run))
        terminal.hang_up()
        assert terminal.wait() == 0
    assert saved_step(long_run) == steps_in_journal(long_run)


def stop_and_wait(run: RunFolder) -> None:
    (run.control / "stop").touch()
    until(lambda: not run.alive())


def test_a_hang_up_hands_the_run_over(long_run, count):
    """The line is lost: the dashboard saves and leaves, a process of its own session goes on at the next step."""
    with Terminal(dashboard()) as terminal:
        until(trains(long_run))
        terminal.hang_up()
        lost = time.monotonic()
        assert terminal.wait() == 0
        left_s = time.monotonic() - lost
    try:
        assert long_run.alive(), "somebody holds the run without a gap"
        events = read_journal(long_run.events)
        handed = next(e for e in events if e["event"] == "HandedOver")
        until(lambda: steps_in_journal(long_run) > handed["step"] + 3)
        again_s = time.monotonic() - lost
        status = status_of(long_run)
        assert status["state"] == "running"
        assert status["pid"] == handed["pid"] != terminal.pid
        assert os.getsid(handed["pid"]) == handed["pid"], "a session of its own"
    finally:
        stop_and_wait(long_run)
    assert saved_step(long_run) == steps_in_journal(long_run)
    count(f"hang-up: left after {left_s:.1f} s, training again after {again_s:.1f} s")


def test_an_ignored_hang_up_is_honoured(long_run):
    """Under nohup the signal is ignored from the start, and stays so."""

    def under_nohup() -> int:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return trainer_main(LINE, "lmp_trainer")

    with Terminal(under_nohup) as terminal:
        until(trains(long_run))
        terminal.send(signal.SIGHUP)
        terminal.hang_up()
        then = steps_in_journal(long_run)
        until(trains(long_run, then + 3))
        terminal.send(signal.SIGTERM)
        assert terminal.wait() == 0
    assert saved_step(long_run) == steps_in_journal(long_run)


@pytest.mark.parametrize("program", [pytest.param(headless, marks=SLOW), dashboard])
def test_a_terminal_that_does_not_read_holds_nothing_up(long_run, program):
    """A frozen connection: training goes on, and SIGTERM still saves and ends."""
    with Terminal(program("--verbose")) as terminal:
        until(trains(long_run))
        terminal.stall()
        then = steps_in_journal(long_run)
        until(trains(long_run, then + 60), 60)
        terminal.send(signal.SIGTERM)
        assert terminal.wait() == 0
    assert saved_step(long_run) == steps_in_journal(long_run)


def test_a_second_ctrl_c_leaves_at_once(long_run):
    """The first is held up (here by a save that takes long): the second does not wait; what was saved stands."""

    def slow() -> int:
        from lmplay_tui.train import saving

        setattr(saving, "write_checkpoint", lambda *_, **__: time.sleep(60))  # noqa: B010  (a name that it imports)
        return trainer_main(LINE, "lmp_trainer")

    with Terminal(slow) as terminal:
        until(trains(long_run))
        terminal.send(signal.SIGINT)
        time.sleep(0.5)
        terminal.send(signal.SIGINT)
        assert terminal.wait(10) == 130
    assert not list(long_run.model.parent.glob("*.lmp"))


def test_ctrl_z_and_resizes(long_run):
    """Stopped by the shell, continued, and resized a hundred times: the run goes on."""
    with Terminal(dashboard()) as terminal:
        until(trains(long_run))
        dice = random.Random(0)
        for _ in range(100):
            terminal.resize(dice.randint(5, 60), dice.randint(20, 200))
            time.sleep(0.002)
        terminal.send(signal.SIGSTOP)
        time.sleep(0.1)
        terminal.send(signal.SIGCONT)
        then = steps_in_journal(long_run)
        until(trains(long_run, then + 3))
        terminal.send(signal.SIGTERM)
        assert_stopped_in_order(terminal, long_run)


def test_the_reader_of_a_pipe_leaves(long_run):
    """`lmp_trainer | head`: nobody reads any more, so the run is saved and ends."""

    def piped() -> int:
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(writer)
        os.close(reader)
        return trainer_main(LINE, "lmp_trainer")

    with Terminal(piped) as terminal:
        assert terminal.wait() == 0
    assert saved_step(long_run) == steps_in_journal(long_run) if long_run.model.exists() else True
    ends = [e for e in read_journal(long_run.events) if e["event"] == "RunStopped"]
    assert ends[-1]["reason"] == "nobody reads the output"


def test_attach_leaves_and_the_run_stays(long_run, count):
    """A viewer is signalled, hung up, killed: the run does not notice."""
    with Terminal(headless("--on-hangup", "continue")) as trainer:
        until(trains(long_run))
        for way in (signal.SIGTERM, signal.SIGKILL, None):
            begun = time.monotonic()
            with Terminal(lambda: main(["attach", "m.lmp"])) as viewer:
                until(lambda: b"stories" in viewer.output)
                shown_s = time.monotonic() - begun
                if way is None:
                    viewer.hang_up()
                else:
                    viewer.send(way)
                assert viewer.wait() == (-signal.SIGKILL if way == signal.SIGKILL else 0)
                assert way == signal.SIGKILL or way is None or viewer.restored
        then = steps_in_journal(long_run)
        until(trains(long_run, then + 2))
        trainer.send(signal.SIGTERM)
        assert_stopped_in_order(trainer, long_run)
    count(f"attach: three viewers came and went, the last saw the run after {shown_s:.1f} s")


def check_random_signals(run: RunFolder, times: int, count) -> None:
    dice = random.Random(5)
    before_it_began = 0
    for number in range(times):
        kind = dice.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        with Terminal(dashboard("--on-hangup", "stop") if number % 2 else headless()) as terminal:
            time.sleep(dice.uniform(0.0, 3.0))
            terminal.send(kind)
            if terminal.wait() in (-kind, 130) and not terminal.output:  # our program had not yet got to its handlers
                before_it_began += 1
                assert not run.alive()
                continue
            assert_stopped_in_order(terminal, run)
    assert before_it_began <= 1 + times / 10
    count(f"signals at random times: {times} ({before_it_began} before anything), all steps saved, terminal restored")


def test_signals_at_random_times(long_run, count):
    check_random_signals(long_run, 3, count)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_signals_at_random_times_100(long_run, count):
    check_random_signals(long_run, 100, count)
