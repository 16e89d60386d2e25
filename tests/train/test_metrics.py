"""The lines of `metrics.jsonl`."""

import itertools
import json
import math
import re
from itertools import islice
from pathlib import Path

import pytest
import torch

from lmplay_tui.run.events import MetricsLogged, StepDone, Warned
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.metric_names import METRICS
from lmplay_tui.run.ranks import RankRecorder
from lmplay_tui.train.device import measured_peak, peak_flops
from lmplay_tui.train.metrics import FlopCount, LogWindow
from lmplay_tui.train.progress import Progress
from tests.run.recorded_runs import many_ranks
from tests.seams import Seams
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


def with_peak(place: Path, seams: Seams, source: str) -> tuple[str, list[float]]:
    """The one warning of a run whose device has a peak far too low, from that source; and the shares of it."""
    seams.put("peak", lambda device, dtype: (1e3, source))
    events = train(training_plan=write_plan(place, PLAN), model="m.lmp")
    (said,) = [event.message for event in events if isinstance(event, Warned) and "MFU" in event.message]
    logged = [event.values for event in events if isinstance(event, MetricsLogged)]
    shares = [values["perf/mfu"] for values in logged if "train/loss" in values]  # others hold scores alone
    assert len(shares) > 1
    return said, shares


def test_a_share_above_the_peak_is_said_once_and_shown_as_it_is(place, seams):
    """Whatever the device is: a peak that is too low is no silent success."""
    said, shares = with_peak(place, seams, "data sheet")
    assert re.fullmatch(
        r"MFU \d+ %: the peak assumed for this device, 1e-09 TFLOP/s \(data sheet\), is too low; read MFU as a "
        r"comparison with that figure", said,
    )  # fmt: skip
    assert min(shares) > 1


def test_a_peak_that_was_measured_too_low_becomes_what_the_run_reaches(place, seams):
    """Another program had the machine while it was measured: no share is above 1, and that is said once."""
    said, shares = with_peak(place, seams, "measured here")
    assert said.startswith("the peak of this device, 1e-09 TFLOP/s (measured here), is too low: ")
    assert shares[0] == 1
    assert all(0 < share <= 1 for share in shares), shares


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


def test_float16_on_a_processor_is_measured_by_small_products(monkeypatch):
    """Large ones held the start of a run up for 6 s, and gave a rate below what a small model reaches."""
    sizes: set[int] = set()

    def counted(a, b, out):
        sizes.add(len(a))
        return out

    monkeypatch.setattr(torch, "mm", counted)
    for dtype in (torch.float32, torch.float16):
        peak_flops.cache_clear()
        assert peak_flops(torch.device("cpu"), dtype) > (0.0, "")
    peak_flops.cache_clear()
    assert sizes == {1024, 256}


def step_of(step: int, step_s: float) -> StepDone:
    return StepDone(
        step=step, stage="a", rows=step, stage_rows=step, tokens=100 * step, loss_tokens=80, step_tokens=100,
        samples=2, epoch=0.0, row=step, loss=3.0, recent_loss=3.0, accuracy=None, lr=1e-3, grad_norm=1.0, elapsed_s=1.0,
        data_s=0.0, forward_s=0.1, backward_s=0.2, optimizer_s=0.01, step_s=step_s, text_shown=1.0, reduce_s=0.05,
    )  # fmt: skip


def test_a_line_of_several_ranks_has_their_figures_and_the_share_of_all_their_peaks(place):
    run = RunFolder(place / "m.lmp")
    run.create()
    recorder = RankRecorder(run.files, clock=itertools.count().__next__)
    ranks = many_ranks(4, slow=2)
    flops = FlopCount(1000, 100, 2, 8)
    window, alone = (
        LogWindow(flops, 1e9, 0, num_ranks=4, ranks=lambda step_s: recorder.interval(ranks, step_s)),
        LogWindow(flops, 1e9, 0),
    )
    progress = Progress(stage="a")
    said = []
    for step in range(1, 13):
        for each in (window, alone):
            each.add(step_of(step, 0.4))
        events = list(window.logged(progress, steps=True))
        values = next(event.values for event in events if isinstance(event, MetricsLogged))
        one = next(event.values for event in alone.logged(progress, steps=True) if isinstance(event, MetricsLogged))
        assert values["perf/mfu"] == pytest.approx(one["perf/mfu"] / 4)
        assert {name for name in values if name.startswith("ranks/")} == values.keys() - one.keys()
        assert values["ranks/slowest"] == 2 and values["ranks/wait_share"] < 0.2 and values["time/reduce_s"] == 0.05
        assert {name for name in values if "/" in name} <= METRICS.keys()
        said += [event.message for event in events if isinstance(event, Warned)]
    assert said == ["rank 2 (node0, GPU 2) is 22 % slower than the others; all wait for it"], "once"


def test_a_line_of_one_process_says_nothing_of_ranks(place):
    events = train(training_plan=write_plan(place, PLAN), model="m.lmp")
    logged = [event.values for event in events if isinstance(event, MetricsLogged)]
    assert logged and not any(name.startswith("ranks/") or name == "time/reduce_s" for line in logged for name in line)
    assert not (place / "m.run" / "ranks.json").exists()
