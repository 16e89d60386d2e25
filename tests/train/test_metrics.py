"""The lines of `metrics.jsonl`."""

import json
import math
from itertools import islice

import pytest

from lmplay_tui.run.events import MetricsLogged, StepDone
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
