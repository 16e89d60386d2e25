"""Losses that leap, steps and data that stall: said once, and nobody waits for them."""

import threading
import time
from functools import partial
from pathlib import Path

import pytest

from lmplay_tui.run.controls import Controls, Stop
from lmplay_tui.run.events import (
    RunStopped,
    Stalled,
    StepDone,
)
from lmplay_tui.run.sentences import sentence_of
from lmplay_tui.train.alerts import Unusual, Watch, robust_z
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.dataloader import Feed, Patience
from lmplay_tui.train.launch import run_events
from tests.seams import Seams
from tests.train.runs import given, last, losses, write_plan


def step(number: int, loss: float, seconds: float = 0.1) -> StepDone:
    return StepDone(
        step=number, stage="a", rows=number * 4, stage_rows=number * 4, tokens=1, loss_tokens=1, step_tokens=1,
        samples=1, epoch=0.0, row=0, loss=loss, recent_loss=loss, accuracy=None, lr=0.1, grad_norm=1.0, elapsed_s=0.0,
        data_s=0.0, forward_s=0.0, backward_s=0.0, optimizer_s=0.0, step_s=seconds, text_shown=1.0,
    )  # fmt: skip


def test_a_spike_is_marked_once_with_its_rows():
    """Also where there have been others before: a mean would have got used to them."""
    watch = Watch()
    said = []
    spikes = (110, 120, 130, 150, 151, 160, 170, 180)
    for number in range(1, 200):
        loss = 3.0 - number / 100 + 0.05 * (number % 5)
        said += watch.step_done(step(number, 9.0 if number in spikes else loss), 4 * (number - 1))
    assert [spike.step for spike in said] == [number for number in spikes if number != 151]
    spike = said[3]
    assert (spike.stage, spike.loss, spike.first_row, spike.last_row) == ("a", 9.0, 596, 599)
    assert spike.usual_loss == pytest.approx(2.1, abs=0.1)
    assert spike.z > Unusual().spike_z
    assert "rows 596 to 599 of stage a" in sentence_of(spike)[1]


def test_no_spike_in_a_quiet_or_a_falling_loss():
    watch = Watch()
    assert not [w for n in range(1, 300) for w in watch.step_done(step(n, 2.0 + 1e-6 * (n % 7)), 0)]
    assert not [w for n in range(300, 600) for w in watch.step_done(step(n, 600 / n), 0)]
    assert robust_z(5.0, [2.0] * 50) > 8 > robust_z(2.01, [2.0] * 50)


def test_a_stalled_step_is_said():
    watch = Watch()
    for number in range(1, 20):
        assert not watch.step_done(step(number, 2.0), 0)
    said = watch.step_done(step(20, 2.0, seconds=7.0), 0)
    assert said == [Stalled("step", 7.0, 0.1, 20)]
    assert sentence_of(said[0]) == ("warning", "step 20 took 7.0 s, the steps before it 0.1 s")
    assert not watch.step_done(step(21, 2.0), 0)


def stuck_after(seams: Seams, batches: int) -> threading.Event:
    """The disk gives so many batches and then nothing more, until the event is set."""
    goes_on = threading.Event()

    def source(real, *args, **kwargs):
        for number, batch in enumerate(real(*args, **kwargs)):
            if number == batches:
                goes_on.wait(600)
            yield batch

    seams.around("batches", source)
    return goes_on


@pytest.mark.long
def test_data_that_stall_are_said_and_a_stop_does_not_wait_for_them(place, seams):
    plan = write_plan(place)
    seams.put("watch", partial(Watch, Unusual(stall_s=0.3)))
    seams.put("feed", partial(Feed, patience=Patience(late_s=0.1)))
    goes_on = stuck_after(seams, 3)
    controls, events, begun = Controls(), [], 0.0
    for event in run_events(given(training_plan=plan, model="m.lmp"), controls):
        events.append(event)
        if begun:  # the loop waits no more
            goes_on.set()
        if isinstance(event, Stalled):
            controls.send(Stop())
            begun = time.monotonic()
    assert time.monotonic() - begun < 200
    assert len(losses(events)) == 3
    late = next(e for e in events if isinstance(e, Stalled))
    assert (late.what, late.step) == ("data", 3)
    assert "no batch for" in sentence_of(late)[1]
    assert isinstance(last(events), RunStopped)
    assert load_checkpoint(Path("m.lmp"))["runner"]["state"]["progress"]["step"] == 3


def test_a_stop_does_not_wait_for_a_silent_hub(place, seams):
    plan = write_plan(place)
    silent = threading.Event()
    seams.put("open a stage", lambda *_, **__: silent.wait(600))
    controls, events = Controls(), []
    begun = time.monotonic()
    for event in run_events(given(training_plan=plan, model="m.lmp"), controls):
        events.append(event)
        if "data of stage" in getattr(event, "detail", ""):
            controls.send(Stop())
    silent.set()
    assert time.monotonic() - begun < 200
    assert isinstance(last(events), RunStopped)
    assert last(events).path is None
