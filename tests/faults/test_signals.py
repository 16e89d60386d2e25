"""Signals at any time, in real terminals: nothing that was finished is lost, nothing hangs."""

import random
import signal
import time

import pytest

from lmplay_tui.commands.train import main as trainer_main
from lmplay_tui.run.folder import RunFolder
from tests.faults.programs import LINE, assert_stopped_in_order, dashboard, headless, trains
from tests.faults.terminals import Terminal, until

SLOW = pytest.mark.slow


@pytest.mark.long_after(1)
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


def test_a_second_ctrl_c_leaves_at_once(long_run):
    """The first is held up (here by a save that takes long): the second does not wait; what was saved stands."""

    def slow() -> int:
        from lmplay_tui.train import checkpointer

        setattr(checkpointer, "write_checkpoint", lambda *_, **__: time.sleep(600))  # noqa: B010  (a name that it imports)
        return trainer_main(LINE, "lmp_trainer")

    with Terminal(slow) as terminal:
        until(trains(long_run))
        terminal.send(signal.SIGINT)
        until(lambda: long_run.status().get("activity") == "saving")
        assert terminal.interrupt_until_it_leaves() == 130
    assert not list(long_run.model.parent.glob("*.lmp"))


def check_random_signals(run: RunFolder, times: int, count) -> None:
    dice = random.Random(5)
    kinds = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    for number in range(times):
        with Terminal(dashboard("--on-hangup", "stop") if number % 2 else headless()) as terminal:
            terminal.until_it_catches(*kinds)  # before that no program can do anything
            time.sleep(dice.uniform(0.0, 3.0))
            terminal.send(dice.choice(kinds))
            assert_stopped_in_order(terminal, run)
    count(f"signals at random times: {times}, all steps saved, terminal restored")


@pytest.mark.long
def test_signals_at_random_times(long_run, count):
    check_random_signals(long_run, 3, count)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_signals_at_random_times_100(long_run, count):
    check_random_signals(long_run, 100, count)
