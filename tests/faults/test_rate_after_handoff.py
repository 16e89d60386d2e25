"""What a lost line costs: the real programs, each in an interpreter of its own, on a model whose steps take a while."""

import os
import sys
import time
from collections.abc import Callable
from datetime import datetime

import pytest

from lmplay_tui.run.folder import RunFolder
from tests.faults.programs import saved_step, steps_in_journal, stop_and_wait, trains
from tests.faults.terminals import Terminal, until
from tests.faults.test_viewers import shown_step
from tests.journals import read_journal
from tests.train.runs import write_plan
from tests.ui.terminal_screen import ScreenTerminal

PLAN = """\
[train]
exp = "gpt2ish"
num_blocks = 4
embed_dim = 128
num_heads = 4
context_len = 128
tokenizer = "gpt2:4096"
batch_size = 16
mini_batch_size = 16
shuffle = true
validation_interval = 100000000
eval_interval = 100000000
save_interval = 100000000
log_interval = 1
[stages.both]
dataset = "pydocs"
epochs = 100000
"""
WINDOW_S = 4.0  # a rate is measured over so long
FULL = 0.9  # of the rate before
WIDE = (160, 40)  # for some seconds the state line proves where the run went on: in a narrow one the step gives way
LIMIT_S, ATTACH_LIMIT_S = 15.0, 3.0  # on a machine that does nothing else; asserted is ten times that


def program(*words: str) -> Callable[[], int]:
    """The command as a shell starts it: nothing is imported yet."""

    def work() -> int:
        os.execv(sys.executable, [sys.executable, "-m", "lmplay_tui.cli", *words])

    return work


Steps = list[tuple[float, int]]  # when each was done, in seconds of the clock, and the tokens until then


def steps_of(run: RunFolder, beyond: int = 0) -> Steps:
    """The steps after step `beyond`."""
    rows = [row for row in read_journal(run.metrics) if row.get("step", 0) > beyond]
    return [(seconds(row["time"]), row["tokens"]) for row in rows]


def seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def rates(steps: Steps) -> list[tuple[float, float]]:
    """For each step that has a whole window after it: when it was done, and the tokens a second from there on."""
    found, end = [], 0
    for begun, tokens in steps:
        while end < len(steps) and steps[end][0] - begun < WINDOW_S:
            end += 1
        if end == len(steps):
            break
        found.append((begun, (steps[end][1] - tokens) / (steps[end][0] - begun)))
    return found


def full_rate_from(steps: Steps, rate: float) -> float | None:
    """When the first window began that has the rate of before."""
    return next((begun for begun, found in rates(steps) if found >= FULL * rate), None)


def attach_s(run: RunFolder) -> float:
    """How long a user who comes back waits for the step that the run stands at."""
    step, begun = steps_in_journal(run), time.monotonic()
    with ScreenTerminal(program("attach", "m.lmp"), WIDE) as looking:
        until(lambda: shown_step(looking) >= step)
        shown_s = time.monotonic() - begun
        looking.type("q")
        assert looking.wait() == 0
    return shown_s


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_is_soon_at_its_full_rate_again(place, count):
    """The line is lost: the rate of before holds soon, and who comes back soon sees the step."""
    write_plan(place, PLAN)
    run = RunFolder(place / "m.lmp")
    with Terminal(program("--training-plan", "plan.toml", "--model", "m.lmp", "--device", "cpu")) as terminal:
        until(trains(run, 5))
        warm = steps_in_journal(run)
        until(lambda: rates(steps_of(run, warm)))
        rate = rates(steps_of(run, warm))[-1][1]
        terminal.hang_up()
        lost = time.time()
        assert terminal.wait() == 0
    try:
        handed = next(e for e in read_journal(run.events) if e["event"] == "HandedOver")
        until(lambda: full_rate_from(steps_of(run, handed["step"]), rate), 20 * LIMIT_S)
        full_s = (full_rate_from(steps_of(run, handed["step"]), rate) or 0.0) - lost
        shown_s = attach_s(run)
    finally:
        stop_and_wait(run)
    assert saved_step(run) == steps_in_journal(run)
    count(f"full rate after {full_s:.1f} s, attach after {shown_s:.1f} s")
    assert full_s < 10 * LIMIT_S
    assert shown_s < 10 * ATTACH_LIMIT_S
