"""One fold of a run's events: what `run.json` says is what a dashboard shows."""

import dataclasses
import json
import math
import os
from pathlib import Path

import pytest

from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder, RunHeldError, RunLock, saved_status, status_of
from lmplay_tui.run.recorder import Recorder
from lmplay_tui.run.status import RunStatus
from lmplay_tui.run.view import RunView
from lmplay_tui.ui.run_list import find_runs
from lmplay_tui.ui.source import FolderSource
from tests.seams import Seams
from tests.ui.fake import Clock, started, training


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    return run


def test_recorder_and_dashboard_say_the_same(run: RunFolder) -> None:
    recorder, view = Recorder(run), RunView()
    for event in training(150):
        recorder.record(event)
        view.follow(event)
        said = recorder.status
        stage = view.stage.name if view.stage else None
        assert (said["activity"], said["state"], said.get("stage")) == (view.activity, view.state, stage)
        assert (said["step"], said["samples"], said["tokens"]) == tuple(map(int, view.at[:3]))
        assert [each["rows_done"] for each in said["stages"]] == [each.rows_done for each in view.stages]
        assert said.get("val_loss") == view.val_loss and said.get("train_loss") == view.train_loss
        assert said.get("val_accuracy") == view.val_accuracy
    assert said["checkpoint"]["step"] == view.checkpoint.step == 100  # type: ignore[union-attr]
    recorder.record(happened.RunDone(150, "m.lmp", 1.0))
    assert (run.status()["state"], run.status()["activity"], run.status()["eta_s"]) == ("finished", "", 0.0)


def test_what_is_not_known_is_left_out(run: RunFolder) -> None:
    recorder = Recorder(run)
    recorder.record(happened.ActivityChanged("loading", "the model", 0.5))
    said = run.status()
    assert (said["state"], said["activity"], said["detail"], said["fraction"]) == (
        "running",
        "loading",
        "the model",
        0.5,
    )
    assert not {"step", "train_loss", "lr", "stages", "checkpoint", "tokens_per_s", "has_begun"} & said.keys()


def test_a_resume_carries_on_what_was_known_and_a_start_anew_does_not(run: RunFolder) -> None:
    recorder = Recorder(run)
    for event in (*training(150), happened.RunStopped(150, "m.lmp", "go on", "asked")):
        recorder.record(event)
    known = (
        "step",
        "samples",
        "tokens",
        "train_loss",
        "val_loss",
        "val_accuracy",
        "lr",
        "checkpoint",
        "stage",
        "stages",
        "device",
    )
    before = json.loads(json.dumps(recorder.status))
    again = Recorder(run)
    assert {name: before[name] for name in known} == json.loads(
        json.dumps({name: again.status[name] for name in known})
    )
    assert "command" not in again.status and not again.status.get("has_begun")
    again.record(dataclasses.replace(started(resumed_from=150), train_loss=3.0, val_loss=before["val_loss"]))
    assert again.status["val_accuracy"] == before["val_accuracy"]
    again.record(dataclasses.replace(started(resumed_from=100), train_loss=3.0, val_loss=4.0))
    assert "val_accuracy" not in again.status, "of a later validation than the one that the run goes on from"
    again.record(started())
    assert not {"train_loss", "val_loss", "val_accuracy", "lr", "checkpoint", "stage"} & again.status.keys()


def test_a_stage_name_is_recorded_as_the_plan_has_it(run: RunFolder) -> None:
    name = "a stage of more than forty characters, and a tab:\t" * 2
    infos = (happened.StageInfo(name, ("pydocs",), 1.0, 10, 0),)
    recorder = Recorder(run)
    recorder.record(happened.RunStarted("m", "cpu", 1, 0, 0, 0, infos, None, "", 1))
    recorder.record(happened.StageStarted(name, 0, 1, 10, 0, 0, 0, None))
    assert (recorder.status["stage"], recorder.status["stages"][0]["name"]) == (name, name)


def test_a_step_ends_what_was_done_between_steps() -> None:
    status = RunStatus(clock := Clock())
    events = list(training(3))
    for event in events[:-1]:
        status.follow(event)
    status.follow(happened.ActivityChanged("validating", "4 samples", 0.5))
    clock.now += 5
    status.follow(events[-1])
    assert (status.activity, status.detail, status.fraction) == ("training", "", None)
    assert status.activity_since == clock.now


@pytest.mark.parametrize("value", ["x", None, [], {"a": 1}, 10**400, math.nan])
def test_any_run_json_can_be_carried_over(run: RunFolder, value: object) -> None:
    names = ("stages", "stage", "step", "samples", "tokens", "train_loss", "val_loss", "lr", "checkpoint", "device")
    run.write_status(dict.fromkeys(names, value) | {"stages": [value, {"name": value, "rows_done": value}]})
    recorder = Recorder(run)
    recorder.record(happened.ActivityChanged("loading"))
    recorder.record(started())
    assert status_of(run)["step"] == 0


@pytest.mark.parametrize("folder", ["/a\0b", "/\ud800", "\0"])
def test_a_folder_that_no_system_has_is_not_known(run: RunFolder, folder: str) -> None:
    run.files.write("run.json", json.dumps({"name": "m", "plan_folder": folder}).encode("ascii"))
    assert not saved_status(run, alive=False).plan_folder


@pytest.mark.parametrize("value", ["x", None, [], {"a": 1}, 10**400, -1, True, "\x1b[2J"])
def test_a_holder_is_named_whatever_stands_in_run_json(run: RunFolder, value: object) -> None:
    """By the lock's message, and by what waits for the run's process."""
    names = ("pid", "host", "boot", "state", "activity", "refused", "message", "has_begun", "plan_folder")
    run.write_status(dict.fromkeys(names, value))
    lock = RunLock(run)
    lock.take()
    try:
        with pytest.raises(RunHeldError, match=r"^m: \S.* is training this run; look with: ") as refused:
            RunLock(run).take(wait_s=0)
        status = saved_status(run)
        assert status.state == "running"
        said = (str(refused.value), status.activity, status.host, status.refusal, status.message)
        assert not any("\x1b" in text or "\n" in text for text in said)
    finally:
        lock.release()


@pytest.mark.parametrize("ends_by", ["heartbeat", "release"])
def test_a_lock_closes_its_own_file_alone(run: RunFolder, ends_by: str) -> None:
    """Another part of the process has closed it, and its number is another file's by now."""
    lock = RunLock(run)
    lock.take()
    other = os.open(run.folder / "other", os.O_RDWR | os.O_CREAT)
    os.dup2(other, lock.descriptor)
    foreign = lock.descriptor
    try:
        if ends_by == "heartbeat":
            assert lock.keep() and lock.descriptor != foreign and run.alive()
        lock.release()
        assert os.path.samestat(os.fstat(foreign), os.fstat(other))
    finally:
        os.close(other)
        os.close(foreign)


@pytest.mark.parametrize("said", ["starting", "running", "paused", "stopped", "finished", "failed", ["failed"], None])
@pytest.mark.parametrize("alive", [True, False])
def test_status_launcher_and_dashboard_say_the_same_state(
    run: RunFolder, said: object, alive: bool, seams: Seams
) -> None:
    run.write_status({"state": said})
    seams.put("alive", lambda self: alive)
    source = FolderSource(run, Clock())
    while source.view.state == "starting":  # the disk is read in a thread
        source.poll()
    [entry] = find_runs(str(run.folder.parent))
    assert status_of(run)["state"] == entry.state == source.view.state
