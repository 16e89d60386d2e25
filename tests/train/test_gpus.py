"""What a GPU is told, seen on machines without one: calls at torch's border are recorded, nothing is computed there."""

from types import SimpleNamespace

import pytest
import torch

from lmplay_tui.options import TrainOptions
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.device import choose_device, choose_precision
from lmplay_tui.train.saving import Saver, SaveRequest
from lmplay_tui.train.step_clock import StepClock

SECOND = torch.device("cuda:1")


@pytest.fixture
def current(monkeypatch) -> list[torch.device]:
    """Two GPUs; the devices that were made current."""
    made: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", made.append)
    return made


def test_a_numbered_gpu_becomes_the_current_one(current):
    assert choose_device("cuda:1") == SECOND
    assert current == [SECOND]
    for name in ("auto", "cuda", "cpu"):
        choose_device(name)
    assert current == [SECOND], "without a number the current one is meant"


def test_the_clock_marks_the_queue_of_its_own_gpu(monkeypatch):
    marked: list[object] = []
    event = SimpleNamespace(record=marked.append, query=lambda: False)
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: ("queue of", device))
    StepClock(SECOND).mark()
    assert marked == [("queue of", SECOND)]


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_bfloat16_only_where_the_gpu_has_it(monkeypatch, native, dtype):
    """What torch emulates on older ones is slower than float32."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    precision = choose_precision(TrainOptions(amp=True), SECOND)
    assert (precision.dtype, precision.grad_scale) == (dtype, not native)


def test_a_save_on_the_processor_wakes_no_gpu(current, monkeypatch, tmp_path):
    """Waiting for a GPU makes a context on it, some hundred megabytes that are another's."""
    woken: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: woken.append(device))
    saver = Saver(RunFolder(tmp_path / "m.lmp"), tmp_path)
    monkeypatch.setattr(saver, "_write", lambda *_: None)
    saver.start({"model": {"state": {"w": torch.ones(2)}}, "optimizers": {}}, SaveRequest(1, 1, "s", "asked", 0, False))
    saver._thread.join()
    assert woken == []
