"""Compiling and probing leave no trace in what is trained, and fail without harm."""

from typing import Any

import pytest
import torch

from lmplay_tui.models.gpt2ish import GPT2ish
from lmplay_tui.options import TrainOptions
from lmplay_tui.run.events import ActivityChanged, Event, LogLine, RunDone, RunStarted, RunStopped, StepDone, Warned
from lmplay_tui.train.compile import Compilation
from lmplay_tui.train.device import choose_precision, has_fast_bfloat16, use_fast_products
from lmplay_tui.train.loss import softmax_gradient, traced_softmax_gradient
from tests.train.runs import PLAN, differences, last, losses, state_of, stop_after, train, write_plan

# What torch's compiler warns of in its own code.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def untouched(function: Any, **_: Any) -> Any:
    """torch.compile, in no time; a form of the loss made for it is not for Python to run."""
    return softmax_gradient if function is traced_softmax_gradient else function


@pytest.mark.long
def test_rehearsing_changes_no_bit(place, monkeypatch):
    plan = write_plan(place)
    plain = train(training_plan=plan, model="plain/m.lmp", out_dir="plain", mini_batch_size=1)
    monkeypatch.setattr(torch, "compile", untouched)
    options = {"model": "compiled/m.lmp", "out_dir": "compiled", "mini_batch_size": 1}
    compiled = train(training_plan=plan, compile_model=True, **options)
    assert isinstance(last(compiled), RunDone), last(compiled)
    assert losses(compiled) == losses(plain)
    assert not list(differences(weights("plain"), weights("compiled")))
    activities = [e.activity for e in compiled if isinstance(e, ActivityChanged)]
    assert activities.count("compiling") == 1
    first_step = next(i for i, e in enumerate(compiled) if isinstance(e, StepDone))
    assert "compiling" in [e.activity for e in compiled[:first_step] if isinstance(e, ActivityChanged)]


def weights(folder: str) -> Any:
    from pathlib import Path

    state = state_of(Path(folder) / "m.lmp")
    return {"model": state["model"]["state"], "optimizers": state["optimizers"]}


@pytest.mark.long
def test_a_compiler_that_fails_costs_a_line(place, monkeypatch):
    def broken(function: Any, **_: Any) -> Any:
        def fails(*arguments: Any) -> Any:
            raise RuntimeError("no C++ compiler\nand more")

        return fails

    plan = write_plan(place)
    plain = train(training_plan=plan, model="plain/m.lmp", out_dir="plain", mini_batch_size=1)
    monkeypatch.setattr(torch, "compile", broken)
    events = train(training_plan=plan, model="broken/m.lmp", out_dir="broken", compile_model=True, mini_batch_size=1)
    warned = [e.message for e in events if isinstance(e, Warned)]
    assert len(warned) == 1
    assert "torch.compile failed" in warned[0]
    assert "\n" not in warned[0]
    assert losses(events) == losses(plain)


def positions(computed: list[int], **options: Any) -> tuple[list[Event], int]:
    """A run's events, and how many positions its steps have computed, padding included."""
    computed.clear()
    return train(mini_batch_size=4, **options), sum(computed)


class Padded(GPT2ish):
    """Samples as rows of their own."""

    trunk = None  # type: ignore[assignment]


@pytest.mark.long
@pytest.mark.parametrize("packed", [True, False])
def test_shapes_are_filled_up_for_graphs_and_no_more_when_compiling_fails(place, monkeypatch, seams, packed):
    if not packed:
        (place / "mine.py").write_text("from tests.train.test_compile import Padded\n", encoding="utf-8")
    exp = {} if packed else {"exp": "mine.py:Padded"}
    plan = write_plan(place, PLAN if packed else PLAN.replace('exp = "test_runner"\n', ""))
    computed: list[int] = []
    seams.watch("update", lambda _, __, result, **how: computed.append(result.num_positions))
    plain, least = positions(computed, training_plan=plan, **exp, model="plain/m.lmp", out_dir="plain")
    marks: list[int] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    seams.put("compilation", lambda *how: Compilation(*how[:2], torch.device("cuda")))
    graphs = {"training_plan": plan, **exp, "compile_model": True, "compile_mode": "reduce-overhead"}
    monkeypatch.setattr(torch, "compile", untouched)
    events, filled = positions(computed, model="filled/m.lmp", out_dir="filled", **graphs)
    assert isinstance(last(events), RunDone), last(events)
    assert filled > 1.1 * least
    assert marks
    marks.clear()

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    events, again = positions(computed, model="broken/m.lmp", out_dir="broken", **graphs)
    assert [e for e in events if isinstance(e, Warned) and "torch.compile failed" in e.message]
    assert again == least, "in every stage"
    assert not marks
    assert losses(events) == losses(plain)


@pytest.mark.long
def test_auto_mini_batch_size_is_found_once_and_kept(place):
    plan = write_plan(place)
    options = {"training_plan": plan, "model": "auto/m.lmp", "out_dir": "auto", "mini_batch_size": "auto"}
    first = stop_after(3, **options)
    assert isinstance(last(first), RunStopped)
    assert found(first) == 1
    del options["training_plan"]
    second = train(**options)
    assert isinstance(last(second), RunDone), last(second)
    assert found(second) == 0
    size = state_of(place / "auto/m.lmp")["runner"]["state"]["progress"]["probed_mini_batch_size"]
    whole = train(training_plan=plan, model="whole/m.lmp", out_dir="whole", mini_batch_size=size)
    assert losses(first) + losses(second) == losses(whole)
    assert not list(differences(weights("auto"), weights("whole")))


def found(events: list[Event]) -> int:
    return sum("--mini-batch-size auto" in e.message for e in events if isinstance(e, LogLine))


def on_a_processor(monkeypatch, *, has_instructions: bool, has_tiles: bool) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_tiles)


@pytest.mark.parametrize(("has_instructions", "has_tiles"), [(False, False), (True, False), (False, True)])
def test_bfloat16_is_fast_where_the_processor_computes_in_it(monkeypatch, has_instructions, has_tiles):
    """AVX-512 alone emulates it: there oneDNN says that it is supported, too."""
    on_a_processor(monkeypatch, has_instructions=has_instructions, has_tiles=has_tiles)
    assert has_fast_bfloat16() == (has_instructions or has_tiles)


def test_amp_is_left_out_where_it_would_be_slow_and_the_note_says_so(place, monkeypatch):
    on_a_processor(monkeypatch, has_instructions=False, has_tiles=False)
    cpu = torch.device("cpu")
    assert choose_precision(TrainOptions(amp=True), cpu).dtype is None
    assert choose_precision(TrainOptions(amp=True, amp_dtype="bfloat16"), cpu).dtype is torch.bfloat16
    started = [
        e for e in stop_after(1, training_plan=write_plan(place), model="m.lmp", amp=True) if isinstance(e, RunStarted)
    ]
    assert "--amp is left out" in started[0].note
    on_a_processor(monkeypatch, has_instructions=True, has_tiles=True)
    assert choose_precision(TrainOptions(amp=True), cpu).dtype is torch.bfloat16


@pytest.mark.long
def test_the_note_at_the_start_says_what_was_asked_for(place):
    how = {"amp": True, "amp_dtype": "float16", "compile_model": True, "compile_backend": "eager"}
    for more, said in (({}, "mixed float16 with scaled gradients"), ({"no_grad_scale": True}, "mixed float16,")):
        events = stop_after(1, training_plan=write_plan(place), model=f"m{len(more)}.lmp", **how, **more)
        note = next(e for e in events if isinstance(e, RunStarted)).note
        assert said in note
        assert "compiled (eager)" in note and "samples packed" in note


class Switch:
    """torch.backends.mkldnn.matmul: what it is set to decides how far products are off."""

    def __init__(self) -> None:
        self.fp32_precision = "none"


@pytest.mark.parametrize(
    ("capability", "intel", "coarse", "used"),
    [
        ("AVX512", False, 1e-5, True),
        ("AVX512", False, 1e-2, False),  # hardware that would really compute in bfloat16
        ("AVX512", True, 1e-5, False),
        ("AVX2", False, 1e-5, False),
    ],
)
def test_products_go_to_onednn_only_where_they_stay_exact(monkeypatch, capability, intel, coarse, used):
    switch = Switch()
    monkeypatch.setattr(torch.backends.mkldnn, "matmul", switch, raising=False)  # torch 2.6 has none
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    error = lambda: 1e-5 if switch.fp32_precision == "none" else coarse  # noqa: E731
    assert use_fast_products(intel, error) is used
    assert switch.fp32_precision == ("bf16" if used else "none")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_resume_is_bitwise_with_everything_compiled(place):
    plan = write_plan(place)
    whole = train(training_plan=plan, model="whole/m.lmp", out_dir="whole", compile_model=True)
    assert not [e for e in whole if isinstance(e, Warned)]
    for step in (2, 7):
        torch.compiler.reset()  # as a new process: nothing is compiled yet
        folder = f"run{step}"
        first = stop_after(step, training_plan=plan, model=f"{folder}/m.lmp", out_dir=folder, compile_model=True)
        torch.compiler.reset()
        second = train(model=f"{folder}/m.lmp", out_dir=folder, compile_model=True)
        assert losses(first) + losses(second) == losses(whole)
        assert not list(differences(weights("whole"), weights(folder)))
