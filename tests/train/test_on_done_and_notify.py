"""What a run does for a user who is away: the command at its end, messages, an end of its time."""

import json
import os
import shlex
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from lmplay_tui.commands.train import main
from lmplay_tui.errors import UserError
from lmplay_tui.options import OPTIONS
from lmplay_tui.plan.reading import parse_plan
from lmplay_tui.process import lay_over
from lmplay_tui.run import notify
from lmplay_tui.run.controls import Controls, HandOver, Pause, Stop
from lmplay_tui.run.events import HandedOver, LogLine, RunDone, RunFailed, RunStopped, StepDone, Warned
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.handoff import SPENT, TimeLimit, command_of
from lmplay_tui.train.launch import run_events
from tests.train.runs import PLAN, given, last, losses, stop_after, train, write_plan

FACTS = (
    'printf "%s|%s|%s|%s|%s|%s\\n" "$LMP_STATE" "$LMP_EXIT_STATUS" "$LMP_RUN" "$LMP_CHECKPOINT" "$LMP_STEP" '
    '"$LMP_MESSAGE" >> facts.txt'
)


def warnings(events) -> list[str]:
    return [event.message for event in events if isinstance(event, Warned)]


def test_the_command_is_told_how_the_run_ended(place):
    plan = write_plan(place)
    stopped = stop_after(2, training_plan=plan, model="m.lmp", on_done=FACTS)
    assert isinstance(last(stopped), RunStopped)
    done = train(model="m.lmp", on_done=FACTS)
    assert isinstance(last(done), RunDone)
    bad = train(model="m.lmp", training_plan="missing.toml", on_done=FACTS)
    assert isinstance(last(bad), RunFailed)
    steps = losses(done)[-1][0]
    lines = (place / "facts.txt").read_text("utf-8").splitlines()
    assert lines[0] == "stopped|0|m|m.lmp|2|stopped at step 2, saved m.lmp"
    assert lines[1] == f"finished|0|m|m.lmp|{steps}|the plan is done at step {steps}, saved m.lmp"
    assert lines[2].startswith(f"failed|2|m|m.lmp|{steps}|failed: missing.toml")
    assert len(lines) == 3
    assert not warnings(done)


def test_its_output_is_in_the_log_and_nobody_holds_the_run_any_more(place):
    command = "echo to-out; echo to-err >&2; cat m.run/run.json; flock -n m.run/lock echo nobody-holds-it"
    train(training_plan=write_plan(place), model="m.lmp", on_done=command)
    log = (place / "m.run/log.txt").read_text("utf-8")
    for said in ("to-out", "to-err", '"state": "finished"', "nobody-holds-it"):
        assert said in log
    assert log.index("the plan is done") < log.index("--on-done begins") < log.index("to-out")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo why; exit 3", "--on-done: ended with status 3; what it said is in m.run/log.txt"),
        ("kill -9 $$", "--on-done: ended by signal 9; what it said is in m.run/log.txt"),
        ("no-such-program-here", "--on-done: ended with status 127; what it said is in m.run/log.txt"),
        ("a\0b", "--on-done: could not be started (embedded null byte)"),
    ],
)
def test_a_command_that_fails_is_one_warning(place, command, said):
    events = stop_after(1, training_plan=write_plan(place), model="m.lmp", on_done=command)
    assert warnings(events) == [said]
    assert isinstance(last(events), RunStopped), "the end stays the last event"


def test_the_command_is_given_the_users_environment_not_that_of_one_of_several_processes(place, monkeypatch):
    """Else a job that it starts would compute on rank 0's device, by its share of the processors, over the loopback."""
    before = {"CUDA_VISIBLE_DEVICES": "2,3", "GLOO_SOCKET_IFNAME": "eth0", "EMPTY": ""}
    without = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    monkeypatch.setattr(os, "environ", without | before)
    lay_over({"CUDA_VISIBLE_DEVICES": "2,3", "OMP_NUM_THREADS": "4", "GLOO_SOCKET_IFNAME": "lo", "EMPTY": "1"})
    lay_over({"CUDA_VISIBLE_DEVICES": "3", "OMP_NUM_THREADS": "1"})
    stop_after(1, training_plan=write_plan(place), model="m.lmp", on_done="env -0 > found")
    found = dict(one.split("=", 1) for one in (place / "found").read_text("utf-8").split("\0") if one)
    assert {name: found.get(name) for name in (*before, "OMP_NUM_THREADS")} == before | {"OMP_NUM_THREADS": None}
    assert not [name for name in found if name.startswith("LMPLAY_TUI")]


def test_a_command_that_takes_long_is_left_alone(place, seams):
    seams.put("on done", partial(notify.run_on_done, wait_s=0.3))
    command = "sleep 2; echo late >> late.txt"
    events = stop_after(1, training_plan=write_plan(place), model="m.lmp", on_done=command)
    said = [event.message for event in events if isinstance(event, LogLine)]
    assert any("--on-done goes on by itself in process" in line for line in said)
    assert not (place / "late.txt").exists()
    deadline = time.monotonic() + 30
    while not (place / "late.txt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_neither_plan_nor_checkpoint_can_make_it_run(place):
    stop_after(1, training_plan=write_plan(place), model="m.lmp", on_done="echo ran >> ran.txt")
    assert (place / "ran.txt").read_text() == "ran\n"
    assert "on_done" not in repr(load_checkpoint(place / "m.lmp"))
    train(model="m.lmp")
    assert (place / "ran.txt").read_text() == "ran\n"
    for where in ("[train]\n", "[stages.stories]\n"):
        with pytest.raises(UserError, match="on_done"):
            parse_plan(PLAN.replace(where, where + 'on_done = "echo ran"\n'), name="p", file="p", folder=place)


def test_handing_over_leaves_it_to_the_process_that_goes_on(place, seams):
    started: list[dict[str, object]] = []

    def start(run, given, lock, *, resumes, spent_s):
        started.append({"words": command_of(run, given, resumes=resumes), "spent_s": spent_s})
        return 4711

    seams.put("start a process", start)
    controls, events = Controls(), []
    options = {"on_done": "echo ran >> ran.txt", "max_hours": 5.0}
    for event in run_events(given(training_plan=write_plan(place), model="m.lmp", **options), controls):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 2:
            controls.send(HandOver())
    assert isinstance(last(events), HandedOver)
    assert not (place / "ran.txt").exists()
    words = started[0]["words"]
    for name, value in options.items():
        assert words[words.index(OPTIONS[name].flag) + 1] == str(value)
    assert 0 < started[0]["spent_s"] < 600


def test_a_run_that_another_process_holds_runs_nothing(place):
    """`--on-done poweroff` of a start that was refused must not end the run that goes on."""
    run = RunFolder(place / "m.lmp")
    run.create()
    holder = subprocess.Popen(["flock", str(run.lock_path), "sleep", "60"])
    try:
        deadline = time.monotonic() + 20
        while not run.alive():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        events = train(training_plan=write_plan(place), model="m.lmp", on_done="echo ran >> ran.txt")
    finally:
        holder.kill()
        holder.wait()
    assert isinstance(last(events), RunFailed)
    assert not (place / "ran.txt").exists()


def test_the_address_for_messages_is_written_nowhere(place, seams, capsys):
    posts: list[tuple[str, str]] = []

    def post(url, title, text, *_):
        posts.append((title, text))
        return "127.0.0.1 answered with 500"

    seams.put("post", post)
    plan = write_plan(place)
    options = {"notify_url": "http://127.0.0.1:1/s3cret-topic"}
    events = stop_after(2, training_plan=plan, model="m.lmp", verbose=True, **options)
    assert warnings(events) == [
        "--notify-url: 127.0.0.1 answered with 500; training does not need it, and this is said once"
    ]
    assert [title for title, _ in posts] == ["m: stopped"]
    assert main(["--model", "m.lmp", "--device", "cpu", "--notify-url", options["notify_url"]], "lmp_trainer") == 0
    assert [title for title, _ in posts[1:]] == ["m: stage done"] * 3 + ["m: finished"]
    for path in place.rglob("*"):
        if path.is_file():
            assert b"s3cret" not in path.read_bytes(), path
    said = capsys.readouterr()
    assert "s3cret" not in said.out + said.err


# ---- --max-hours


def test_the_time_limit_stops_with_a_checkpoint(place):
    events = train(training_plan=write_plan(place, PLAN.replace("epochs = 0.4", "epochs = 500")), model="m.lmp",
                   max_hours=2.0 / 3600)  # fmt: skip
    end = last(events)
    assert isinstance(end, RunStopped)
    assert end.reason == "--max-hours"
    assert load_checkpoint(place / "m.lmp")["runner"]["state"]["progress"]["step"] == end.step
    assert f"--max-hours {2.0 / 3600}" in end.command, "each start anew"


@pytest.mark.long
def test_it_counts_while_training_is_paused(place):
    controls, events = Controls(), []
    plan = write_plan(place)
    for event in run_events(given(training_plan=plan, model="m.lmp", max_hours=3.0 / 3600), controls):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 1:
            controls.send(Pause())
    assert isinstance(last(events), RunStopped)
    assert last(events).reason == "--max-hours"


def test_the_hours_of_the_processes_before_count(monkeypatch):
    monkeypatch.setenv(SPENT, "5400")
    now = [100.0]
    limit = TimeLimit(2.0, lambda: now[0])
    assert SPENT not in os.environ, "not for what this process starts"
    assert limit() == []
    now[0] += 1799
    assert limit() == []
    now[0] += 2
    assert limit.spent_s == 7201
    assert limit() == [Stop(reason="--max-hours")]
    assert limit() == [], "asked once"
    assert TimeLimit(None, lambda: 1e12)() == []


def test_the_command_line_says_it_all(place):
    """As a user types it, headless, in a process of its own."""
    write_plan(place)
    line = f"lmp_trainer --training-plan plan.toml --model m.lmp --device cpu --on-done {shlex.quote(FACTS)}"
    assert main(shlex.split(line)[1:], "lmp_trainer") == 0
    assert (place / "facts.txt").read_text("utf-8").startswith("finished|0|m|m.lmp|")
    events = [json.loads(line) for line in Path("m.run/events.jsonl").read_text("utf-8").splitlines()]
    assert events[-1]["event"] == "RunDone"
