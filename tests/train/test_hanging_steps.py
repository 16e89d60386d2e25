"""A step that does not end is said while it hangs: in the journal, in `run.json`, headless and on the dashboard."""

import json
import threading
import time
from functools import partial

import pytest

from lmplay_tui import cli
from lmplay_tui.run.controls import Controls, StopRequested
from lmplay_tui.run.events import ActivityChanged, Event, RunDone, Stalled, StepDone
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.sentences import sentence_of
from lmplay_tui.train.alerts import HangDetector, Unusual, Watch
from lmplay_tui.train.launch import run_events
from lmplay_tui.ui.session import LiveSource
from tests.journals import read_journal
from tests.train.runs import given, last, write_plan

HANGS = 6  # the step


@pytest.fixture
def goes_on(seams) -> threading.Event:
    """Step 6 hangs until it is set; what hangs for good fails."""
    calls, event = [], threading.Event()

    def update(*_, **__) -> None:
        calls.append(1)
        if len(calls) == HANGS:
            assert event.wait(120), "nobody has said that the step hangs"

    seams.watch("update", update)
    seams.put("watch", partial(Watch, Unusual(stall_s=0.2), look_every_s=0.02))
    return event


def of_the_step(events: list[Event]) -> list[Stalled]:
    return [event for event in events if isinstance(event, Stalled) and event.step == HANGS]


def test_it_is_written_and_told_before_the_step_ends(place, goes_on):
    run, heard, found = RunFolder(place / "m.lmp"), [], []

    def tell(event: Event) -> None:
        heard.append(event)
        if event in of_the_step([event]):
            found.append([record for record in read_journal(run.events) if record["event"] == "Stalled"][-1])
            found.append(json.loads(run.run_json.read_bytes())["detail"])
            goes_on.set()

    events = list(run_events(given(training_plan=write_plan(place), model="m.lmp"), Controls(), tell=tell))
    assert isinstance(last(events), RunDone)
    assert (found[0]["step"], found[0]["lasts"]) == (HANGS, True)
    assert found[1] == "step 6 has not ended"
    said = of_the_step(heard)
    assert len(said) == 1, "once"
    assert "step 6 has not ended after" in sentence_of(said[0])[1]
    assert [stalled.lasts for stalled in of_the_step(events)] == [False], "how long it took in the end"
    number = next(i for i, event in enumerate(events) if isinstance(event, StepDone) and event.step == HANGS)
    assert ActivityChanged("training") in events[number + 1 : number + 4], "the state line speaks of it no more"
    assert not [thread for thread in threading.enumerate() if thread.name == "hanging steps"]


def test_headless_it_goes_to_standard_error(place, goes_on, capfd, seams):
    seams.put("pictures", lambda *_: None)
    look = threading.Thread(target=_set_when_written, args=(RunFolder(place / "m.lmp"), goes_on))
    look.start()
    plan = write_plan(place)
    words = ["--training-plan", plan, "--model", "m.lmp", "--device", "cpu", "--mini-batch-size", "2"]
    assert cli.trainer_main(words) == 0
    look.join()
    assert "step 6 has not ended after" in capfd.readouterr().err


def _set_when_written(run: RunFolder, goes_on: threading.Event) -> None:
    while not [r for r in read_journal(run.events) if r["event"] == "Stalled" and r["step"] == HANGS]:
        time.sleep(0.05)
    goes_on.set()


def test_the_dashboard_shows_it(place, goes_on):
    source = LiveSource(given(training_plan=write_plan(place), model="m.lmp"))
    source._draw_pictures = lambda: None
    source.start()
    deadline = time.monotonic() + 100
    while not any("step 6 has not ended after" in entry.text for entry in source.view.log):
        assert time.monotonic() < deadline
        source.poll()
        time.sleep(0.02)
    assert source.view.detail == "step 6 has not ended"
    assert source.view.at.step == HANGS - 1
    goes_on.set()
    assert source.wait(120)
    while source.poll():
        pass
    assert source.view.state == "finished"
    assert source.exit_status == 0


def test_a_step_that_is_dropped_hangs_no_more():
    heard: list[Event] = []
    hanging = HangDetector(look_every_s=0.001)
    with hanging.reporting(heard.append):
        with pytest.raises(StopRequested), hanging.step(7, limit_s=60.0, usual_s=6.0):
            raise StopRequested
        with hanging.step(9, limit_s=0.0, usual_s=0.0):
            while not hanging.has_reported:
                time.sleep(0.001)
    assert [event.step for event in heard if isinstance(event, Stalled)] == [9]


def test_the_first_step_of_all_has_nothing_to_be_compared_with():
    watch = Watch()
    with watch.step_under_way(1):
        assert watch._hangs._step is None
