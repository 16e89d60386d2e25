"""kill -9 at any moment of a save or of a run: what was announced is there, and the run ends as if nothing had been."""

import itertools
import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import CheckpointSaved, RunDone
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.checkpoint import load_checkpoint, newest_checkpoint, write_checkpoint
from lmplay_tui.train.checkpointer import CheckpointWriter, SaveRequest, strays
from lmplay_tui.train.launch import run_events
from tests.examples import some
from tests.faults.forks import Child
from tests.journals import read_journal
from tests.seams import Seams
from tests.train.runs import differences, given, last, state_of, statistics_of, train, write_plan


def mark(checkpoint, step: int) -> None:
    """Make it the checkpoint of a step: a file made of two saves would show it."""
    checkpoint["runner"]["state"]["progress"]["step"] = checkpoint["lr_schedulers"]["state"]["step"] = step
    for tensor in checkpoint["model"]["state"].values():
        tensor.fill_(step)


def save_for_ever(run: RunFolder, checkpoint, first: int, report) -> None:
    """Save steps `first`, `first + 1`, ...; report each beginning and each announced end."""
    saver = CheckpointWriter(run, run.model.parent / "statistics")
    for step in itertools.count(first):
        mark(checkpoint, step)
        report(("begun", step))
        saver.start(lambda: checkpoint, SaveRequest(step, step, "stories", "interval", keep=2, is_best=True))
        outcome = saver.wait()
        assert outcome is not None
        assert outcome.saved is not None, outcome.problems
        assert not outcome.problems
        report(("announced", step))


def kill_saves(run: RunFolder, times: int) -> tuple[int, int]:
    """Kill a saving process `times` times; how often inside a save, and how many kills left a temporary file."""
    checkpoint = load_checkpoint(run.model)
    dice = random.Random(1)
    inside = with_stray = 0
    announced = checkpoint["runner"]["state"]["progress"]["step"]
    mark(checkpoint, announced)
    write_checkpoint(checkpoint, run.model)
    for _ in range(times):
        with Child(partial(save_for_ever, run, checkpoint, announced + 1)) as child:
            reports = child.reports()
            next(reports)
            begun_at = time.monotonic()
            newest = next(reports)
            announced = newest[1]
            time.sleep(dice.uniform(0.0, 2.0) * (time.monotonic() - begun_at))  # as long as two saves take here and now
            child.kill()
            for newest in reports:
                if newest[0] == "announced":
                    announced = newest[1]
        inside += newest[0] == "begun"
        with_stray += bool(strays(run))
        warnings: list[str] = []
        found = newest_checkpoint(run, warnings.append)
        assert found is not None
        state = found[0]
        step = state["runner"]["state"]["progress"]["step"]
        assert not warnings
        assert step >= announced
        assert all(bool((tensor == step).all()) for tensor in state["model"]["state"].values()), "a mixture of saves"
        for path in run.model.parent.glob("*.lmp"):
            load_checkpoint(path)
        announced = step
        CheckpointWriter(run, run.model.parent).sweep()
        assert not strays(run)
        assert len(run.numbered_checkpoints()) <= 3
    return inside, with_stray


def check_killed_saves(run: RunFolder, times: int, count) -> None:
    inside, with_stray = kill_saves(run, times)
    count(f"kill -9 in saves: {times}, {inside} inside one, {with_stray} left a temporary file; 0 unreadable, 0 older")
    assert inside >= times / 2
    assert with_stray >= times / 10


@pytest.mark.sampled
def test_kill_9_in_saves(run, count):
    check_killed_saves(run, len(some(range(20), 2)), count)


@pytest.mark.slow
def test_kill_9_in_saves_1000(run, count):
    check_killed_saves(run, 1000, count)


SAVING: dict[str, Any] = {"save_interval": 9, "keep": 2, "log_interval": 1}


def train_in_child(folder: str, report, **options) -> None:
    for event in run_events(given(model=f"{folder}/m.lmp", out_dir=folder, **SAVING, **options), Controls()):
        if isinstance(event, CheckpointSaved):
            report(event.step)
    assert isinstance(event, RunDone), event


def killed_run(folder: Path, plan: str, kills: int, dice: random.Random, length_s: float) -> int:
    """Train to the end with `kills` kills on the way; how many fell before the end."""
    announced = fell = 0
    for attempt in range(kills + 1):
        run = RunFolder(folder / "m.lmp")
        options = {} if run.model.exists() else {"training_plan": plan}
        with Child(lambda report: train_in_child(str(folder), report, **options)) as child:  # noqa: B023
            if attempt < kills:
                # After a first save: the next start has something to resume from.
                announced = max(announced, next(child.reports(), 0))
                # The first one at once: it falls, however much faster the machine has become meanwhile.
                time.sleep(dice.uniform(0.0, 0.5) * length_s / (kills + 1) if attempt else 0.0)
                child.kill()
            steps = list(child.reports())
            status = child.wait()
        announced = max([announced, *steps])
        found = newest_checkpoint(run, pytest.fail)
        assert (found[0]["runner"]["state"]["progress"]["step"] if found else 0) >= announced
        if attempt < kills and status != 0:
            fell += 1
        elif status == 0:
            break
    assert status == 0
    return fell


def best_by_journal(run: RunFolder) -> int:
    """The step of the save with the lowest evaluation, by what the run has told."""
    stage = loss = best = None
    step = 0
    for event in read_journal(run.events):
        match event["event"]:
            case "StageStarted" if event["stage"] != stage:
                stage, loss = event["stage"], None
            case "Evaluated":
                loss = event["sets"][stage]["loss"]
            case "CheckpointSaved" if loss is not None and (best is None or loss < best):
                best, step = loss, event["step"]
    return step


def assert_same_run(place: Path, folder: Path) -> None:
    """Weights, statistics and the best checkpoint are those of the undisturbed run."""
    for name in ("m.lmp", "m.best.lmp", "m.pairs.lmp"):
        assert not list(differences(state_of(place / "whole" / name), state_of(folder / name))), name
    assert statistics_of(place / "whole") == statistics_of(folder)


def train_undisturbed(place: Path, plan: str) -> None:
    assert isinstance(last(train(training_plan=plan, model="whole/m.lmp", out_dir="whole", **SAVING)), RunDone)
    best = load_checkpoint(place / "whole/m.best.lmp")["runner"]["state"]["progress"]
    assert best["step"] == best["best_step"] == best_by_journal(RunFolder(place / "whole/m.lmp"))


def check_killed_runs(place: Path, runs: int, kills: int, count) -> None:
    plan = write_plan(place)
    begun = time.monotonic()
    train_undisturbed(place, plan)
    length_s = time.monotonic() - begun
    fell = 0
    for number in range(runs):
        folder = place / f"run{number}"
        fell += killed_run(folder, plan, kills, random.Random(number), length_s)
        assert_same_run(place, folder)
    count(f"kill -9 in whole runs: {fell} kills in {runs} runs; weights, statistics, best equal to the undisturbed run")
    assert fell >= runs


def die_before(what: str, number: int) -> None:
    """In a child: be killed when a save is about to do `what` for the n-th time."""
    left = itertools.count(number, -1)

    def doomed(first, *rest, **_):
        if (what == "statistics" or rest[0].name == f"m.{what}.lmp") and next(left) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    Seams(pytest.MonkeyPatch()).watch("write statistics" if what == "statistics" else "link a checkpoint", doomed)


def killed_after_the_rename(folder: str, plan: str, what: str, number: int, report) -> None:
    die_before(what, number)
    train_in_child(folder, report, training_plan=plan)


@pytest.mark.long
@pytest.mark.parametrize("what", ["best", pytest.param("pairs", marks=pytest.mark.slow), "statistics"])
def test_what_belongs_to_a_save_that_was_killed(place, what):
    """A new `NAME.lmp` is there and its other names are not yet: the next start sees to it, of a finished run too."""
    plan = write_plan(place)
    train_undisturbed(place, plan)
    times, finished = 0, False
    for number in itertools.count(1):
        folder = place / f"run{number}"
        with Child(partial(killed_after_the_rename, str(folder), plan, what, number)) as child:
            if child.wait() == 0:
                break
        events = train(model=f"run{number}/m.lmp", out_dir=str(folder), **SAVING)
        finished = finished or last(events).already
        times += 1
        assert isinstance(last(events), RunDone)
        assert_same_run(place, folder)
    assert times >= 2
    assert finished or what != "statistics"


@pytest.mark.long
def test_kill_9_in_a_run(place, count):
    check_killed_runs(place, 1, 3, count)


@pytest.mark.slow
def test_kill_9_in_25_runs(place, count):
    check_killed_runs(place, 25, 4, count)
