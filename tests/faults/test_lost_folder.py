"""The run's folder is removed or moved while it trains: it is taken anew, or the run ends; two never write one run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lmplay_tui.commands.ctl import main as ctl
from lmplay_tui.errors import UserError
from lmplay_tui.run.controls import Controls, SaveNow, Stop
from lmplay_tui.run.events import CheckpointSaved, Event, HandedOver, RunFailed, RunStopped, StepDone, Warned
from lmplay_tui.run.folder import RunFolder, RunHeldError, RunLock, take_run
from lmplay_tui.run.recorder import Recorder
from lmplay_tui.train.launch import run_events
from tests.faults.programs import saved_step, steps_in_journal
from tests.journals import read_journal
from tests.train.runs import given, last, of

MOST_STEPS = 3000  # an end, should what is waited for never come


def move(run: RunFolder) -> None:
    run.folder.rename("elsewhere.run")


def remove(run: RunFolder) -> None:
    move(run)  # else the lock may be back before the rest is gone
    shutil.rmtree("elsewhere.run")


LOSSES: dict[str, Callable[[RunFolder], object]] = {
    "removed": remove,
    "moved": move,
    "its lock is removed": lambda run: run.lock_path.unlink(),
}


def train_until(end: Callable[[Event], bool], then: Stop | SaveNow, at_step_3: Callable[[], object]) -> list[Event]:
    """Train, do something at step 3, and send a command when `end` says so."""
    controls, events = Controls(), []
    for event in run_events(given(training_plan="plan.toml", model="m.lmp"), controls):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 3:
            at_step_3()
        if end(event) or (isinstance(event, StepDone) and event.step >= MOST_STEPS):
            controls.send(then)
    return events


@pytest.mark.parametrize("loss", LOSSES)
def test_the_folder_is_made_again_and_the_run_is_held(long_run, seams, loss):
    seams.put("heartbeat", 0.05)
    refused = []

    def made_again(event: Event) -> bool:
        if not (isinstance(event, Warned) and "journals begin anew" in event.message):
            return False
        with pytest.raises(RunHeldError, match="is training this run"):
            RunLock(RunFolder(Path("m.lmp"))).take()
        refused.append(event)
        return True

    events = train_until(made_again, Stop(), lambda: LOSSES[loss](long_run))
    end = last(events)
    assert isinstance(end, RunStopped), end
    assert len(refused) == 1
    assert saved_step(long_run) == end.step
    assert long_run.status()["state"] == "stopped"
    assert steps_in_journal(long_run) == end.step
    assert [row["event"] for row in read_journal(long_run.events)][-1] == "RunStopped"
    assert long_run.plan_text() == Path("plan.toml").read_bytes()
    assert not long_run.alive()


def test_a_run_that_another_process_has_taken_is_written_by_that_one_alone(long_run, seams):
    """Taken between two heartbeats, and two looks of the run's state: it is the save that finds it."""
    seams.put("heartbeat", 3600.0)
    seams.put("state written every", 3600.0)
    locks: list[RunLock] = []

    def take_it() -> None:
        remove(long_run)
        locks.append(take_run(RunFolder(Path("m.lmp"))))
        long_run.model.write_bytes(b"another's")

    events = train_until(lambda e: isinstance(e, StepDone) and e.step == 5, SaveNow(), take_it)
    end = last(events)
    assert isinstance(end, RunFailed)
    assert end.exit_code == 3
    assert "is training this run" in end.message
    assert "what this process has trained is in m.apart.lmp" in end.message
    assert not of(CheckpointSaved, events)
    assert long_run.model.read_bytes() == b"another's"
    assert saved_step(RunFolder(Path("m.apart.lmp"))) == end.step >= 5
    assert not [path for path in long_run.folder.iterdir() if path.name not in ("lock", "control")]
    locks[0].release()


@pytest.mark.parametrize("written_by", [77, 1234])
def test_the_next_processs_word_is_not_overwritten_by_a_hand_over(tmp_path, written_by):
    """The process that goes on may have spoken before the one that started it says so."""
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    recorder = Recorder(run)
    run.write_status({"pid": written_by, "state": "running", "step": 9})
    recorder.record(HandedOver(8, 1234))
    recorder.close()
    assert (run.status().get("step") == 9) == (written_by == 1234)


def test_a_command_is_not_waited_for_for_ever(tmp_path, seams):
    """What holds the run takes no commands: another program, or a process whose folder was replaced."""
    seams.put("an answer takes at most", 0.3)
    lock = take_run(RunFolder(tmp_path / "m.lmp"))
    try:
        with pytest.raises(UserError, match=r"m: no answer in .* minutes"):
            ctl([str(tmp_path / "m.lmp"), "save"], "lmplay-tui ctl")
    finally:
        lock.release()
