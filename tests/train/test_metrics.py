"""The lines of `metrics.jsonl`."""

import json
import math
import re
from itertools import islice

import pytest
import torch

from lmplay_tui.run.events import MetricsLogged, StepDone, Warned
from lmplay_tui.train.device import measured_peak
from tests.train.runs import PLAN, train, write_plan


def test_a_line_has_the_means_of_its_steps_in_no_more_digits_than_they_are_worth(place):
    events = train(training_plan=write_plan(place, PLAN.replace("log_interval = 2", "log_interval = 3")), model="m.lmp")
    steps = (event for event in events if isinstance(event, StepDone))
    logged = [event.values for event in events if isinstance(event, MetricsLogged)]
    first = list(islice(steps, 3))
    tokens = [step.loss_tokens for step in first]
    loss = math.fsum(step.loss * n for step, n in zip(first, tokens, strict=True)) / sum(tokens)
    assert logged[0]["train/loss"] == pytest.approx(loss, rel=1e-8)
    lines = [json.loads(line) for line in (place / "m.run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(logged) > 3
    for line, values in zip(lines, logged, strict=True):
        assert line.items() >= values.items()
        assert all(float(f"{v:.9g}") == v for v in line.values() if isinstance(v, float)), line


def test_a_share_above_the_peak_is_said_once_and_shown_as_it_is(place, seams):
    """Whatever the device is: a peak that is too low is no silent success."""
    seams.put("peak", lambda device, dtype: (1e3, "data sheet"))
    events = train(training_plan=write_plan(place, PLAN), model="m.lmp")
    said = [event.message for event in events if isinstance(event, Warned) and "MFU" in event.message]
    assert len(said) == 1
    assert re.fullmatch(
        r"MFU \d+ %: the peak assumed for this device, 1e-09 TFLOP/s \(data sheet\), is too low; read MFU as a "
        r"comparison with that figure", said[0],
    )  # fmt: skip
    logged = [event.values for event in events if isinstance(event, MetricsLogged)]
    shares = [values["perf/mfu"] for values in logged if "train/loss" in values]  # others hold scores alone
    assert len(shares) > 1 and min(shares) > 1


def test_an_unknown_device_is_measured_by_work_enough(monkeypatch):
    """As much at a time as keeps it busy, and less where memory lacks."""
    sizes: list[int] = []
    mm = torch.mm

    def counted(a, b, out):
        sizes.append(len(a))
        if len(a) > 64:
            raise torch.OutOfMemoryError("no memory")
        return mm(a, b, out=out)

    monkeypatch.setattr(torch, "mm", counted)
    sides = ((128, 3), (64, 3))
    assert measured_peak(torch.device("cpu"), torch.float32, seconds=0.0, by=sides) > 0
    assert sizes == [128, 64, 64, 64, 64]
    assert measured_peak(torch.device("meta"), torch.float32) == 0
