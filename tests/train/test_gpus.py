"""What a GPU is told, seen on machines without one: calls at torch's border are recorded, nothing is computed there."""

import dataclasses
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from lmplay_tui.options import TrainOptions
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.device import choose_device, choose_precision
from lmplay_tui.train.saving import Saver, SaveRequest
from lmplay_tui.train.step_clock import StepClock
from lmplay_tui.train.steps import accumulate_gradients
from tests.train.test_steps import VOCAB, sample, step_settings

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
    state = {"model": {"state": {"w": torch.ones(2)}}, "optimizers": {}}
    saver.start(lambda: state, SaveRequest(1, 1, "s", "asked", 0, False))
    saver._thread.join()
    assert woken == []


class Recorded(torch.autograd.Function):
    """x @ weight.T as a recorded CUDA graph gives it: its gradients lie where its next run's will lie too."""

    MEMORY: ClassVar[dict[str, torch.Tensor]] = {}

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        of_weight = grad.flatten(0, 1).t() @ x.flatten(0, 1)
        memory = Recorded.MEMORY.setdefault("weight", torch.empty_like(of_weight)).copy_(of_weight)
        return grad @ weight, torch.empty(0, dtype=memory.dtype).set_(memory.untyped_storage(), 0, memory.shape)


class Small(nn.Module):
    """A body, recorded or not, and a head."""

    def __init__(self, *, recorded: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.inner, self.head = nn.Embedding(VOCAB, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, VOCAB)
        self._recorded = recorded

    def hidden(self, ids):
        x = self.embed(ids)
        return Recorded.apply(x, self.inner.weight) if self._recorded else self.inner(x)

    def forward(self, ids):
        return self.head(self.hidden(ids))


@pytest.mark.parametrize("apart", [True, False])
def test_gradients_of_recorded_mini_batches_add_up(monkeypatch, apart):
    marks: list[str] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append("mini-batch"))
    samples = [sample(2, 5, seed=i) for i in range(6)]
    grads = {}
    for recorded in (False, True):
        model = Small(recorded=recorded).double()
        how = dataclasses.replace(step_settings(2), graphs=recorded)
        for _ in range(2):  # a step's first mini-batch finds no gradients
            model.zero_grad(set_to_none=True)
            accumulate_gradients(model, model.hidden if apart else None, samples, how)
        grads[recorded] = {name: p.grad for name, p in model.named_parameters()}
    for name, grad in grads[False].items():
        torch.testing.assert_close(grads[True][name], grad, rtol=1e-12, atol=1e-12, msg=name)
    assert len(marks) == 2 * 3
