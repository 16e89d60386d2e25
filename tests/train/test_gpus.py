"""What a GPU is told, seen on machines without one.

torch's Python is called for real, with its checks of arguments; only what lies below it, in C, is recorded instead.
"""

import dataclasses
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lmplay_tui.errors import UserError
from lmplay_tui.models.body import body_of
from lmplay_tui.models.gpt2ish import GPT2ish
from lmplay_tui.options import Launch, TrainOptions
from lmplay_tui.run.events import CheckpointSaved, RunDone, Warned
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train import collate
from lmplay_tui.train.check import check_plan
from lmplay_tui.train.checkpoint import devices_of
from lmplay_tui.train.checkpointer import CheckpointWriter, SaveRequest
from lmplay_tui.train.collate import pack
from lmplay_tui.train.device import (
    Precision,
    can_scale_gradients,
    choose_device,
    choose_precision,
    device_failure,
)
from lmplay_tui.train.gradients import Gradients, StepClock, StepResult
from lmplay_tui.train.optim import build_optimizer
from tests.seams import raising
from tests.train.runs import PLAN, last, train, write_plan
from tests.train.test_gradients import CPU, VOCAB, sample, step_config

SECOND = torch.device("cuda:1")
META = torch.device("meta")  # where tensors have no numbers: whoever reads one raises


@pytest.fixture
def border(monkeypatch) -> list[Any]:
    """Two GPUs behind torch's border; what crossed it."""
    crossed: list[Any] = []

    def exchange(index: int) -> int:
        crossed.append(("on", index))
        return 0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "_initialized", True)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", lambda index: crossed.append(("current", index)), raising=False)
    monkeypatch.setattr(torch.cuda, "_exchange_device", exchange)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", lambda index: 0)
    monkeypatch.setattr(torch._C, "_cuda_synchronize", lambda: crossed.append("waited"), raising=False)
    return crossed


@pytest.mark.parametrize(
    ("name", "index"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)],
)  # fmt: skip
def test_a_gpu_has_a_number_and_becomes_the_current_one(border, name, index):
    assert choose_device(name) == torch.device("cuda", index)
    assert border == [("current", index)]


def test_what_is_not_there_is_said(border):
    with pytest.raises(UserError, match="cuda:2 is not there; this machine has cuda:0 to cuda:1"):
        choose_device("cuda:2")
    assert choose_device("cpu") == CPU
    assert border == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might"), "CUDA error: unspecified"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "CUDA error: uncorrectable ECC"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), ""),
        (RuntimeError("CUDA error: out of memory"), ""),
        (RuntimeError("CUDA error: device-side assert triggered"), ""),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ""),
        (KeyError("CUDA error"), ""),
    ],
)
def test_what_says_that_a_device_has_failed(error, said):
    failure = device_failure(error)
    assert failure.startswith(said) and bool(failure) == bool(said) and "\n" not in failure


class _Queue:
    """A GPU's queue below torch's border: events are marked in it."""

    def __init__(self, *args, **kwargs) -> None:
        self.marked: list[Any] = []

    def record(self, stream) -> None:
        self.marked.append(stream)

    def query(self) -> bool:
        return False


def test_the_clock_marks_the_queue_of_its_own_gpu(border, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(torch._C, "_cuda_getCurrentStream", lambda index: asked.append(index) or (0, index, 1),
                        raising=False)  # fmt: skip
    # The classes are made in C: without CUDA they are dummies that cannot be had.
    monkeypatch.setattr(torch.cuda.streams, "Stream", SimpleNamespace)
    monkeypatch.setattr("torch.cuda.Stream", SimpleNamespace)
    monkeypatch.setattr("torch.cuda.Event", lambda enable_timing: _Queue())
    clock = StepClock(SECOND)
    clock.mark()
    ((_, event),) = clock._marks
    assert asked == [1]
    assert [stream.device_index for stream in event.marked] == [1]


def test_on_mps_no_wait_is_the_optimizers():
    gradients_of = Gradients(nn.Module(), Precision(CPU))
    now = iter([0.0, 0.0, 1.0, 3.0, 3.0, 103.0, 104.0])
    gradients_of.clock = clock = StepClock(torch.device("mps"), now=lambda: next(now))
    clock.mark()
    clock.mark("forward")
    clock.mark("backward")
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    result = StepResult(loss_on_device=torch.tensor(1.0))
    gradients_of.update(torch.optim.SGD([weight], lr=0.1), result, lr=0.1)
    assert result.seconds == {"forward": 1.0, "backward": 102.0, "optimizer": 1.0}


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_bfloat16_only_where_the_gpu_has_it(monkeypatch, native, dtype):
    """What torch emulates on older ones is slower than float32."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    precision = choose_precision(TrainOptions(amp=True), SECOND)
    assert (precision.dtype, precision.grad_scale) == (dtype, not native)


def test_amp_is_left_out_where_torch_cannot_scale_gradients(monkeypatch):
    """As with torch 2.6 and 2.7 on MPS: the first step would end by it."""
    assert can_scale_gradients("cpu")
    error = TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    monkeypatch.setattr(torch.amp.GradScaler, "unscale_", raising(error))
    can_scale_gradients.cache_clear()
    try:
        assert not can_scale_gradients("cpu")
        precision = choose_precision(TrainOptions(amp=True), torch.device("mps"))
        assert precision.dtype is precision.scaler() is None
        assert precision.remark.startswith("--amp is left out")
        for other in ({"amp_dtype": "bfloat16"}, {"no_grad_scale": True}):
            assert choose_precision(TrainOptions(amp=True, **other), torch.device("mps")).dtype is not None
    finally:
        can_scale_gradients.cache_clear()


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "cpu"])
def test_no_save_fails_by_what_its_device_is_called(name, tmp_path: Path):
    """Without any GPU below, and nothing replaced: what is not there is not asked."""
    saver = CheckpointWriter(RunFolder(tmp_path / "m.lmp"), tmp_path, torch.device(name))
    state: dict[str, Any] = {
        "model": {"state": {"w": torch.ones(2)}}, "optimizers": {},
        "runner": {"state": {"stats": {}, "step_stats": {}}},
    }  # fmt: skip
    saver.start(lambda: state, SaveRequest(1, 1, "s", "asked", 0, False))
    outcome = saver.wait()
    assert outcome is not None and outcome.saved is not None, outcome


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
@pytest.mark.long_after(1)
def test_a_run_whose_saver_is_told_a_gpu_saves(place: Path, seams, name):
    seams.around("checkpoint writer", lambda real, run, folder, _, *rest: real(run, folder, torch.device(name), *rest))
    plan = write_plan(place, PLAN.replace("validation_interval = 5\n", "save_interval = 1\n"))
    events = train(training_plan=plan, model="m.lmp")
    assert isinstance(last(events), RunDone), last(events)
    assert [event.message for event in events if isinstance(event, Warned)] == []
    assert sum(isinstance(event, CheckpointSaved) for event in events) > 3


def test_copies_from_a_gpu_are_waited_for_on_that_gpu(border, seams, tmp_path: Path):
    with FakeTensorMode():
        weight = torch.empty(2, device="cuda:1")
    tree = {"model": {"w": weight, "b": torch.ones(1)}, "optimizers": [weight, 3]}
    assert devices_of(tree) == {SECOND, CPU}
    saver = CheckpointWriter(RunFolder(tmp_path / "m.lmp"), tmp_path, SECOND)
    seams.put("copy to save", lambda *_: {})  # tensors that no device holds cannot be copied
    saver.start(lambda: tree, SaveRequest(1, 1, "s", "asked", 0, False))
    saver.wait()
    assert border == [("on", 1), "waited"]


def test_a_save_on_the_processor_wakes_no_gpu(border, tmp_path: Path):
    """Waiting for a GPU makes a context on it, some hundred megabytes that are another's."""
    saver = CheckpointWriter(RunFolder(tmp_path / "m.lmp"), tmp_path)
    state = {"model": {"state": {"w": torch.ones(2)}}, "optimizers": {}}
    saver.start(lambda: state, SaveRequest(1, 1, "s", "asked", 0, False))
    saver.wait()
    assert border == []


def test_check_saves_as_a_run_does(place: Path, seams):
    """By the same thread and copy: what would fail in them fails in the check."""
    plan = write_plan(place, PLAN)
    assert check_plan(Launch({"training_plan": plan}))["ok"]
    seams.put("copy to save", raising(ValueError("an argument check")))
    report = check_plan(Launch({"training_plan": plan}))
    assert not report["ok"]
    (failed,) = [step["what"] for step in report["tried"] if not step["ok"]]
    assert failed.startswith("saving: ") and failed.endswith("check.lmp: not saved: ValueError: an argument check")


class Plain(nn.Module):
    """Nothing but `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB)

    def forward(self, ids):
        return self.out(self.embed(ids))


WAYS = {
    "padded": {}, "samples": {"normalization": "samples"}, "prompts": {"include_prompts": True},
    "few shapes": {"few": True}, "half head": {"half": True}, "packed": {"packed": True},
    "packed, half head": {"packed": True, "half": True}, "packed, few shapes": {"packed": True, "few": True},
    "own forward": {"model": Plain}, "own forward, few shapes": {"model": Plain, "few": True},
    "no argmax": {"argmax": False}, "packed, samples": {"packed": True, "normalization": "samples"},
}  # fmt: skip


@pytest.mark.long_after(8)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("way", "optimizer"),
    [(way, "adamw") for way in WAYS] + [("padded", name) for name in ("adam", "sgd", "adagrad", "rmsprop")],
)
def test_a_step_waits_nowhere_but_for_its_numbers(way, optimizer, scaled):
    """Two mini-batches and the update where each hidden read of a tensor raises."""
    asked = {"few": False, "half": False, "packed": False, "argmax": True, "model": None, "normalization": "tokens",
             "include_prompts": False} | WAYS[way]  # fmt: skip
    model = asked["model"]() if asked["model"] else GPT2ish(
        vocab_size=VOCAB, context_len=32, num_blocks=2, embed_dim=16, num_heads=2, dropout=0.1
    )  # fmt: skip
    model = model.to(META)
    if asked["half"]:  # as autocast does it: the body gives half precision, the head's weight lies in float32
        for name, child in model.named_children():
            if name != "head":
                child.bfloat16()
    config = dataclasses.replace(
        step_config(2, asked["normalization"], asked["include_prompts"]), longest=32,
        width_multiple=16 if asked["few"] else 1,
    )  # fmt: skip
    of = Gradients(model, WithoutAutocast(META), hidden=body_of(model), trunk=model.trunk if asked["packed"] else None)
    of.scaler = Scaler() if scaled else None
    # Where to the predictions go, and the one wait: both are of the device's own kind.
    of.to_processor = lambda tensor: tensor
    waited: list[torch.device] = []

    def wait(result, norm) -> None:
        waited.append(torch.stack((result.loss_on_device, norm.to(torch.float64))).device)
        result.loss, result.grad_norm = 1.0, 1.0

    of.wait_for_numbers = wait
    built = build_optimizer(optimizer, model, lr=0.1, weight_decay=0.01, device_type="meta")
    for _ in range(2):  # optimizers do more at their first step
        built.zero_grad(set_to_none=True)
        samples = [sample(2, 5, seed=i) for i in range(4)]
        result = of.accumulate(samples, config, want_argmax=asked["argmax"])
        of.update(built, result, lr=0.1, grad_clip=1e-3)
    assert waited == [META, META]
    assert (result.argmax_N is None) is not asked["argmax"]
    assert all(p.grad is not None for p in model.parameters())


class WithoutAutocast(Precision):
    """torch has no autocast for tensors without numbers."""

    def autocast(self) -> torch.autocast:
        return Precision(CPU).autocast()


class Scaler(torch.amp.GradScaler):
    """float16's, for tensors without numbers: whether gradients are finite is the device's own arithmetic."""

    def __init__(self) -> None:
        super().__init__("cpu")

    def unscale_(self, optimizer) -> None:
        assert self._scale is not None
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad.mul_(self._scale.reciprocal())

    def update(self, new_scale=None) -> None:
        pass


def test_where_nothing_has_numbers_each_read_raises():
    for read in (float, bool, lambda x: x.cpu(), lambda x: x.tolist(), lambda x: x.nonzero(), torch.Tensor.numpy):
        with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
            read(torch.ones((), device=META))


@pytest.mark.parametrize("packed", [False, True])
def test_one_copy_takes_a_mini_batch_to_a_gpu(packed):
    samples = [sample(2, 5), sample(3, 9)]
    make = partial(pack if packed else collate.collate, samples, include_prompts=False)
    there, here = make(device=META), make(device=CPU)
    names = [field.name for field in dataclasses.fields(here) if isinstance(getattr(here, field.name), torch.Tensor)]
    assert len(names) == (5 if packed else 3)
    assert len({getattr(there, name).untyped_storage()._cdata for name in names}) == 1
    for name in names:
        mine, expected = getattr(there, name), getattr(here, name)
        assert mine.shape == expected.shape and mine.dtype in (expected.dtype, torch.int32), name
        assert mine.storage_offset() * mine.itemsize % 16 == 0, name


def test_arrays_side_by_side_keep_their_numbers(monkeypatch):
    """What a GPU gets, seen on the processor: the same buffer, taken apart in the same way."""
    arrays = [np.arange(3, dtype=np.int32), np.arange(5), np.arange(0), np.arange(7) - 3]
    like_a_gpu: Any = SimpleNamespace(type="a GPU")
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
    for array, tensor in zip(arrays, collate.on_device(like_a_gpu, *arrays), strict=True):
        assert tensor.tolist() == array.tolist() and tensor.dtype == torch.from_numpy(array).dtype


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
        of = Gradients(model, Precision(CPU), hidden=model.hidden if apart else None)
        for _ in range(2):  # a step's first mini-batch finds no gradients
            model.zero_grad(set_to_none=True)
            of.accumulate(samples, dataclasses.replace(step_config(2), graphs=recorded))
        grads[recorded] = {name: p.grad for name, p in model.named_parameters()}
    for name, grad in grads[False].items():
        torch.testing.assert_close(grads[True][name], grad, rtol=1e-12, atol=1e-12, msg=name)
    assert len(marks) == 2 * 3
