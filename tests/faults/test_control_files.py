"""Control files, the commands over them, one process a run, and journals on a disk that refuses."""

import fcntl
import os
import time
from pathlib import Path

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from lmplay_tui.run import control_files, controls
from lmplay_tui.run.control_files import ControlFiles, leave_command
from lmplay_tui.run.controls import Controls, Refused, SaveNow, SetLearningRate, Stop
from lmplay_tui.run.events import (
    RunDone,
    RunFailed,
    RunStopped,
    Stalled,
    StepDone,
    Warned,
)
from lmplay_tui.run.folder import RunFolder, status_of
from lmplay_tui.train.launch import run_events
from tests.examples import examples
from tests.faults.forks import Child, limit_file_size, no_locks
from tests.journals import read_journal
from tests.train.runs import answers, given, last, statistics_of, train, write_plan


@pytest.fixture
def files(tmp_path: Path) -> ControlFiles:
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    return ControlFiles(run, clock=iter(range(0, 10**6, 10)).__next__)


def folder_of(files: ControlFiles) -> Path:
    return files._folder


def test_a_command_arrives_once_with_its_identity(files):
    run = RunFolder(folder_of(files).parent.with_suffix(".lmp"))
    first = leave_command(run, SetLearningRate(factor=0.5))
    second = leave_command(run, SaveNow())
    (folder_of(files) / "pause").touch()
    found = files()
    assert {c.id for c in found} == {first, second, "pause"}
    assert [c.id for c in found][:2] == [first, second], "in the order they came"
    assert isinstance(found[0], SetLearningRate)
    assert found[0].factor == 0.5
    assert not files()
    assert not list(folder_of(files).iterdir())


def test_it_looks_at_most_twice_a_second(tmp_path):
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    now = [0.0]
    files = ControlFiles(run, clock=lambda: now[0])
    assert not files()
    (run.control / "save").touch()
    now[0] = 0.49
    assert not files()
    now[0] = 0.51
    assert files()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b""), ("a.json", b"{"), ("a.json", b"[]"), ("a.json", b"\xff\xfe"), ("a.json", b'{"command": 3}'),
        ("a.json", b'{"command": "Exit"}'), ("a.json", b'{"command": ["SaveNow"]}'),
        ("a.json", b'{"command": "Stop", "when": "never"}'), ("a.json", b'{"command": "Stop", "then": 1}'),
        ("a.json", b'{"command": "SetLearningRate", "factor": 1e999}'),
        ("a.json", b'{"command": "SetLearningRate", "factor": true}'),
        ("a.json", b'{"command": "Ask"}'), ("a.json", b"[" * 100_000), ("a.json", b'"' + b"x" * (1 << 19) + b'"'),
        ("remove-everything", b""), ("\x1b[2J.json", b"{}"),
    ],
)  # fmt: skip
def test_what_is_no_command_is_refused_in_one_line(files, name, content):
    (folder_of(files) / name).write_bytes(content)
    [refused] = files()
    assert isinstance(refused, Refused)
    assert refused.reason.startswith("control/")
    assert refused.reason.isprintable()
    assert not list(folder_of(files).iterdir())


def test_no_strange_file_holds_the_run_up(files):
    """A pipe that nobody writes to, a device, a folder, a link that leads out: refused at once, nothing followed."""
    folder = folder_of(files)
    os.mkfifo(folder / "pipe.json")
    (folder / "zero.json").symlink_to("/dev/zero")
    (folder / "folder.json").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "x").touch()
    begun = time.monotonic()
    found = files()
    assert time.monotonic() - begun < 60
    assert len(found) == 4
    assert all(isinstance(command, Refused) for command in found)
    assert not files(), "what cannot be removed is refused once"
    assert Path("/dev/zero").exists()


@given_any(st.binary(max_size=200))
@examples(200)
def test_any_bytes_are_a_command_or_refused(tmp_path_factory, content):
    run = RunFolder(tmp_path_factory.getbasetemp() / "any.lmp")
    run.create()
    (run.control / "a.json").write_bytes(content)
    [command] = ControlFiles(run)()
    assert isinstance(command, controls.Command)
    assert not list(run.control.iterdir())


def test_a_file_under_way_is_left_until_it_is_whole(files):
    (folder_of(files) / "1.json.tmp").write_bytes(b'{"comm')
    assert not files()
    (folder_of(files) / "1.json.tmp").rename(folder_of(files) / "1.json")
    assert files()


def test_every_command_is_answered(place):
    """Also those that ask for what cannot be, and those that come when the run is over."""
    plan = write_plan(place)
    run = RunFolder(place / "m.lmp")
    asked: dict[str, str] = {}
    events = []
    for event in run_events(given(training_plan=plan, model="m.lmp"), Controls()):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 2:
            for name in ("SaveNow", "ValidateNow", "Pause", "Resume"):
                asked[name] = leave_command(run, getattr(controls, name)())
            asked["lr"] = leave_command(run, SetLearningRate(factor=0.5))
            asked["bad lr"] = leave_command(run, SetLearningRate(factor=-1.0))
            asked["bad plan"] = leave_command(run, controls.ChangePlan("= 3"))
            (run.control / "nonsense").touch()
            time.sleep(control_files.POLL_S)
        if isinstance(event, StepDone) and event.step == 4:
            asked["Stop"] = leave_command(run, Stop())
            time.sleep(control_files.POLL_S)
    assert isinstance(last(events), RunStopped)
    said = answers(events)
    assert {name: said[identity].ok for name, identity in asked.items()} == {
        "SaveNow": True, "ValidateNow": True, "Pause": True, "Resume": True, "lr": True, "bad lr": False,
        "bad plan": False, "Stop": True,
    }  # fmt: skip
    assert not said["nonsense"].ok
    assert said[asked["SaveNow"]].message == "m.lmp"
    assert "stopped at step 4, saved m.lmp" in said[asked["Stop"]].message
    journal = [record for record in read_journal(run.events) if record["event"] == "Answered"]
    assert {record["id"] for record in journal} == set(said)


def test_commands_for_a_process_that_is_no_more_are_swept(place):
    plan = write_plan(place)
    run = RunFolder(place / "m.lmp")
    run.create()
    (run.control / "stop").touch()
    leave_command(run, Stop())
    assert isinstance(last(train(training_plan=plan, model="m.lmp")), RunDone)
    assert not list(run.control.iterdir())


# ---------------------------------------------------------------------------- one process a run


def hold(plan: str, report) -> None:
    for event in run_events(given(training_plan=plan, model="m.lmp"), Controls()):
        if isinstance(event, StepDone) and event.step == 2:
            report(os.getpid())
            time.sleep(600)


def test_a_second_trainer_is_refused_and_a_killed_one_frees_the_run(place):
    plan = write_plan(place)
    run = RunFolder(place / "m.lmp")
    with Child(lambda report: hold(plan, report)) as child:
        pid = next(child.reports())
        assert run.alive()
        assert status_of(run)["state"] == "running"
        end = last(train(training_plan=plan, model="m.lmp"))
        assert isinstance(end, RunFailed)
        assert end.exit_code == 2
        assert f"process {pid} on " in end.message
        assert "\n" not in end.message
        child.kill()
    assert not run.alive()
    assert status_of(run)["state"] == "dead"
    assert isinstance(last(train(training_plan=plan, model="m.lmp")), RunDone)


def test_where_the_file_system_cannot_lock_the_heartbeat_tells(place, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    plan = write_plan(place)
    run = RunFolder(place / "m.lmp")
    with Child(lambda report: hold(plan, report)) as child:
        pid = next(child.reports())
        assert run.alive()
        end = last(train(training_plan=plan, model="m.lmp"))
        assert isinstance(end, RunFailed)
        assert f"process {pid} on " in end.message
        child.kill()
    assert not run.alive(), "the process is no more"
    run.write_status(run.status() | {"host": "elsewhere"})
    os.utime(run.lock_path)
    assert run.alive(), "of another machine only the heartbeat is known"
    os.utime(run.lock_path, times=(time.time() - 100, time.time() - 100))
    assert not run.alive()
    events = train(training_plan=plan, model="m.lmp")
    assert [e for e in events if isinstance(e, Warned) and "cannot be locked" in e.message]
    assert isinstance(last(events), RunDone)


FULL_AT_BYTES = 1 << 22


def train_on_a_full_disk(plan: str, report) -> None:
    """Train where no file grows beyond a size that one of the run's own has already."""
    limit_file_size(FULL_AT_BYTES)
    for event in train(training_plan=plan, model="m.lmp"):
        if isinstance(event, Warned | RunDone | RunFailed):
            report(event)


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl", "log.txt", "run.json"])
def test_a_journal_that_cannot_be_written_costs_lines_only(place, name):
    plan = write_plan(place)
    run = RunFolder(place / "m.lmp")
    run.create()
    if name == "run.json":
        (run.folder / name).mkdir()
    else:
        (run.folder / name).write_bytes(b"\n" * FULL_AT_BYTES)
    with Child(lambda report: train_on_a_full_disk(plan, report)) as child:
        events = list(child.reports())
    assert isinstance(last(events), RunDone)
    said = [e.message for e in events if isinstance(e, Warned)]
    assert len([m for m in said if "cannot be written" in m]) <= 1, "once"
    if name.endswith(".jsonl"):
        assert said


def test_a_clock_that_goes_back_changes_nothing(place, monkeypatch):
    plan = write_plan(place)
    train(training_plan=plan, model="a/m.lmp", out_dir="a", save_interval=9)
    now = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    monkeypatch.setenv("TZ", "Pacific/Apia")
    begun = time.monotonic()
    events = train(training_plan=plan, model="b/m.lmp", out_dir="b", save_interval=9)
    assert isinstance(last(events), RunDone)
    assert statistics_of(place / "a") == statistics_of(place / "b")
    run = RunFolder(place / "b/m.lmp")
    assert run.status()["state"] == "finished"
    assert not [e for e in events if isinstance(e, Stalled)]
    rows = [row for row in read_journal(run.metrics) if "step" in row]
    elapsed = [0.0, *(row["elapsed_s"] for row in rows), time.monotonic() - begun]
    assert elapsed == sorted(elapsed), "durations are no differences of clock times"
    rows = [row for row in rows if "train/loss" in row]  # others hold scores alone
    for row in rows:
        assert 0 <= row["time/data_s"] <= row["time/step_s"] <= elapsed[-1]
    assert all(row["perf/tokens_per_s"] > 0 for row in rows)


@pytest.mark.parametrize("what", ["file", "link to nowhere"])
def test_a_run_folder_that_is_none(place, what):
    plan = write_plan(place)
    if what == "file":
        (place / "m.run").write_text("", encoding="utf-8")
    else:
        (place / "m.run").symlink_to(place / "nowhere" / "deep")
    end = last(train(training_plan=plan, model="m.lmp"))
    assert isinstance(end, RunFailed)
    assert end.exit_code == 2
    assert "\n" not in end.message
    assert not (place / "nowhere").exists()
