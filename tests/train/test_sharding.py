"""A model that lies in parts on several ranks is the model: the same run, the same checkpoint, but for rounding."""

from pathlib import Path

import pytest
import torch

from lmplay_tui.run.controls import Ask, Controls, Pin, SaveNow
from lmplay_tui.run.events import Evaluated, Event, Predicted, RunDone, StepDone, Validated
from tests.train.ranks import train_together
from tests.train.runs import differences, given, last, losses, of, state_of, stop_after, train
from tests.train.test_ranks import CLOSE, distance, exact, weights_of  # noqa: F401


def ask_at_step_4(event: Event, controls: Controls) -> None:
    if isinstance(event, StepDone) and event.step == 4:
        for command in (Pin("The mill"), Ask("What is", max_tokens=5), SaveNow()):
            controls.send(command)


def test_a_sharded_run_is_the_run_of_one(place, exact):  # noqa: F811
    """Three stages of two optimizers, dropout, validations, evaluations, predictions, a save; and back to one process."""
    one = train(**exact, model="one/m.lmp", out_dir="one")
    parts = train_together(
        2, given(**exact, model="parts/m.lmp", out_dir="parts", shard="full", recompute=True), act=ask_at_step_4
    )
    assert isinstance(last(parts), RunDone), last(parts)
    for a, b in zip(losses(one), losses(parts), strict=True):
        assert a[:2] == b[:2] and a[2] == pytest.approx(b[2], rel=CLOSE), (a, b)
    for kind in (Validated, Evaluated):
        assert len(of(kind, one)) == len(of(kind, parts)) > 2
    assert {event.prediction.kind for event in of(Predicted, parts)} == {"validation", "asked", "pinned"}
    assert distance(weights_of("one/m.lmp"), weights_of("parts/m.lmp")) < CLOSE
    ours, theirs = (state_of(Path(path)) for path in ("one/m.lmp", "parts/m.lmp"))
    assert not list(differences(ours["model"]["state_args"], theirs["model"]["state_args"]))
    kept, gathered = (state["optimizers"]["state"] for state in (ours, theirs))
    assert kept.keys() == gathered.keys()
    for name in kept:
        for entry in kept[name]:
            assert torch.allclose(kept[name][entry], gathered[name][entry], rtol=1e-9, atol=1e-15), (name, entry)
