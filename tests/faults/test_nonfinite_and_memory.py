"""Numbers that are not finite, memory that lacks, losses that jump, steps and data that stall."""

import errno
import math
import os
import zipfile
from pathlib import Path

import pytest
import torch

from lmplay_tui import cli
from lmplay_tui.errors import EXIT_TRAINING
from lmplay_tui.run.controls import Controls, Stop
from lmplay_tui.run.events import (
    CheckpointSaved,
    LogLine,
    RunDone,
    RunFailed,
    RunStopped,
    StepDone,
    Validated,
    Warned,
)
from lmplay_tui.train import train_step
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.launch import run_events
from tests.seams import Seams, for_a_while, raising
from tests.train.runs import PLAN, differences, given, last, losses, stop_after, train, write_plan

# What torch's compiler warns of in its own code.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

# As on a processor, as on a GPU, and torch.compile around the packed body.
WAYS = ["packed", "padded", pytest.param("compiled", marks=pytest.mark.slow)]


class Steps:
    """Counts the training passes of a model and lets one of them go wrong: `wrong(x, samples, number of the pass)`."""

    def __init__(self, seams: Seams, way: str, wrong=lambda x, *_: x) -> None:
        self.passes = 0
        self.options = {"compile_model": True, "compile_backend": "aot_eager"} if way == "compiled" else {}
        self._wrong = wrong
        self._is_choosing = False  # while the ways are compared before training nothing goes wrong, nothing is counted
        seams.around("choose ways", self._choose)
        if way == "padded":
            seams.put("trunk", None)
        elif way == "packed":
            seams.around("trunk", lambda real, *args: self._packed(real(*args), args[-1]))
        else:
            self._break_compiled(seams)
        seams.around("hidden", self._hidden)

    def _choose(self, real, *args, **kwargs):
        self._is_choosing = True
        try:
            return real(*args, **kwargs)
        finally:
            self._is_choosing = False

    def _trained(self, x, samples: int):
        if self._is_choosing:
            return x
        self.passes += 1
        return self._wrong(x, samples, self.passes)

    def _packed(self, x_PC, offsets):
        return self._trained(x_PC, len(offsets) - 1)

    def _hidden(self, real, model, ids_BT, cache=None):
        x_BTC = real(model, ids_BT, cache)
        if self._is_choosing:
            return x_BTC
        if not model.training or cache is not None:
            return self._wrong(x_BTC, len(ids_BT), None)
        return self._trained(x_BTC, len(ids_BT))

    def _break_compiled(self, seams: Seams) -> None:
        """The fault is around the compiled code: inside it would become a part of the program."""

        real = torch.compile

        def compiled(function, **how):
            program = real(function, **how)
            if getattr(function, "__name__", "") != "trunk":
                return program
            return lambda x_PC, offsets: self._packed(program(x_PC, offsets), offsets)

        seams.patch.setattr(torch, "compile", compiled)


def bad_loss(x, _, number):
    return x * float("nan") if number == 20 else x


def bad_gradient(x, _, number):
    if number == 20:
        x.register_hook(lambda gradient: gradient * float("inf"))
    return x


@pytest.mark.long_after(1)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("wrong", "what"), [(bad_loss, "loss"), (bad_gradient, "gradient norm")])
def test_numbers_that_are_not_finite(place, seams, wrong, what, way):
    """No update is made, the last checkpoint stays, the state goes apart, the end names stage, step and rows."""
    plan = write_plan(place)
    with for_a_while() as wrongly:
        steps = Steps(wrongly, way, wrong)
        events = train(training_plan=plan, model="m.lmp", save_interval=6, **steps.options)
    done = losses(events)[-1][0]
    end = last(events)
    assert isinstance(end, RunFailed)
    assert end.exit_code == 3
    assert f"the {what} is not finite" in end.message
    assert f"step {done + 1}, rows " in end.message
    assert "stage stories" in end.message
    saved = [e for e in events if isinstance(e, CheckpointSaved)]
    assert "before the end" not in {e.reason for e in saved}
    assert load_checkpoint(Path("m.lmp"))["runner"]["state"]["progress"]["step"] == saved[-1].step
    corrupted = load_checkpoint(Path("m.corrupted.lmp"))
    Steps(seams, way)
    stop_after(done, training_plan=plan, model="good.lmp", **steps.options)
    assert not list(differences(load_checkpoint(Path("good.lmp"))["model"]["state"], corrupted["model"]["state"]))
    assert isinstance(last(train(model="m.lmp", **steps.options)), RunDone), "it goes on from its last good checkpoint"


HALF = {"amp": True, "amp_dtype": "float16", "save_interval": 60}
MANY = PLAN.replace("epochs = 0.4", "epochs = 12")


def overflowing(first: int, last_one: float):
    """Gradients that leave float16's range in these passes."""

    def wrong(x, _, number):
        if number is not None and first <= number <= last_one:
            x.register_hook(lambda gradient: gradient * float("inf"))
        return x

    return wrong


@pytest.mark.long
def test_float16_gradients_that_always_overflow_end_the_run(place):
    """Each step is left out, at any scale: it is said once, and ends like numbers that are not finite."""
    plan = write_plan(place, MANY)
    with for_a_while() as seams:
        Steps(seams, "packed", overflowing(7, float("inf")))
        events = train(training_plan=plan, model="m.lmp", mini_batch_size=6, **HALF)
    end = last(events)
    assert isinstance(end, RunFailed), end
    assert end.exit_code == 3
    done = losses(events)[-1][0]
    learned = next(e.step for e in events if isinstance(e, StepDone) and not math.isfinite(e.grad_norm)) - 1
    skipped = done + 1 - learned
    assert 2.0 ** (16 - skipped) < train_step.LEAST_SCALE <= 2.0 ** (16 - skipped + 1), "at the first scale below it"
    assert f"stage stories, step {done + 1}, rows " in end.message
    assert f"the float16 gradients have overflowed at each of the last {skipped} steps" in end.message
    said = [e for e in events if isinstance(e, Warned) and "overflowed" in e.message]
    assert [e.step for e in said] == [learned + 20]
    assert f"stage stories, step {learned + 20}: " in said[0].message
    saved = [e for e in events if isinstance(e, CheckpointSaved)]
    assert "before the end" not in {e.reason for e in saved}
    corrupted = load_checkpoint(Path("m.corrupted.lmp"))
    stop_after(learned, training_plan=plan, model="good.lmp", mini_batch_size=6, **HALF)
    assert not list(differences(load_checkpoint(Path("good.lmp"))["model"]["state"], corrupted["model"]["state"]))


@pytest.mark.long
def test_float16_gradients_that_overflow_for_a_while_cost_their_steps_only(place):
    """The usual search for a scale is not spoken of; a long one is, once each time."""
    plan = write_plan(place, MANY)
    for number in (19, 20, 25):
        with for_a_while() as seams:
            Steps(seams, "packed", overflowing(4, 3 + number))
            events = stop_after(30, training_plan=plan, model=f"{number}.lmp", mini_batch_size=6, **HALF)
        assert isinstance(last(events), RunStopped), last(events)
        skipped = [e.step for e in events if isinstance(e, StepDone) and not math.isfinite(e.grad_norm)]
        assert len(skipped) == number
        said = [e.step for e in events if isinstance(e, Warned) and "overflowed" in e.message]
        assert said == skipped[19:20]


KINDS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"),
]


def lacking(limit: int, error: BaseException, *, training: bool = True, validation: bool = True):
    """Memory for mini-batches of at most `limit`."""

    def wrong(x, samples, number):
        asked = training if number is not None else validation
        if asked and samples > limit:
            raise error
        return x

    return wrong


@pytest.mark.long_after(1)
@pytest.mark.parametrize(("way", "error"), [*((way, error) for way in ("packed", "padded") for error in KINDS),
                                            ("compiled", KINDS[1]),
                                            pytest.param("compiled", KINDS[0], marks=pytest.mark.slow)])  # fmt: skip
def test_a_lack_of_memory_halves_the_mini_batch(place, seams, way, error, count):
    """The same batch is tried again: no row is lost or repeated, and the weights are those of the small mini-batch."""
    plan = write_plan(place)
    with for_a_while() as undisturbed:
        steps = Steps(undisturbed, way)
        small = train(training_plan=plan, model="small.lmp", mini_batch_size=1, **steps.options)
    Steps(seams, way, lacking(1, error, validation=False))
    events = train(training_plan=plan, model="m.lmp", mini_batch_size=4, **steps.options)
    said = [e.message for e in events if isinstance(e, Warned)]
    stages = ("stories", "pairs", "both")
    assert len(said) == 2 * len(stages), "each stage begins with what was asked for: its samples may be shorter"
    for stage, first, second in zip(stages, said[::2], said[1::2], strict=True):
        assert stage in first
        assert "mini-batches of 4; going on with 2" in first
        assert "mini-batches of 2; going on with 1" in second
    assert isinstance(last(events), RunDone)
    assert losses(events) == losses(small), "gradients cleared, random numbers put back"
    assert [lowered(stage) for stage in stages] == [1, 1, 1]
    count(f"out of memory, {way}: 4 -> 2 -> 1, losses equal to a run with 1 from the start")


def test_a_lack_of_memory_behind_a_mini_batch_leaves_nothing_of_it(place, seams):
    """What the first mini-batch has added is forgotten before the batch is tried again."""
    plan = write_plan(place)
    small = stop_after(1, training_plan=plan, model="small.lmp", mini_batch_size=1)

    def second_pass(x, _, number):
        if number == 2:
            raise KINDS[0]
        return x

    Steps(seams, "packed", second_pass)
    events = stop_after(1, training_plan=plan, model="m.lmp", mini_batch_size=2)
    assert len([e for e in events if isinstance(e, Warned) and "going on with 1" in e.message]) == 1
    norms = [[e.grad_norm for e in run if isinstance(e, StepDone)] for run in (events, small)]
    assert norms[0] == norms[1]


def lowered(stage: str) -> int | None:
    return load_checkpoint(Path("m.lmp"))["runner"]["state"]["progress"]["stages"][stage]["mini_batch_size"]


@pytest.mark.long
def test_a_smaller_mini_batch_holds_for_its_stage_also_after_a_resume(place, seams):
    """The next stage begins with what was asked for."""
    plan, sizes = write_plan(place), []

    def lacks_at_first(x, samples, number):
        sizes.append((samples, number))
        if number == 1:
            raise KINDS[0]
        return x

    Steps(seams, "padded", lacks_at_first)
    first = stop_after(3, training_plan=plan, model="m.lmp", mini_batch_size=4)
    assert [e.message for e in first if isinstance(e, Warned)]
    assert lowered("stories") == 2
    sizes.clear()
    at_stage: dict[str, int] = {}
    for event in run_events(given(model="m.lmp", mini_batch_size=4), Controls()):
        if isinstance(event, StepDone):
            trained = [samples for samples, number in sizes if number is not None]
            at_stage[event.stage] = max(at_stage.get(event.stage, 0), *trained)
            sizes.clear()
        assert not isinstance(event, Warned)
    assert at_stage["stories"] == 2
    assert at_stage["pairs"] == 4
    assert lowered("pairs") is None


@pytest.mark.long
def test_a_checkpoint_that_has_one_mini_batch_size_for_the_run_is_read(place):
    """As versions before wrote it: it is the stage's that is under way."""
    plan = write_plan(place)
    stop_after(3, training_plan=plan, model="m.lmp")
    checkpoint = load_checkpoint(Path("m.lmp"))
    progress = checkpoint["runner"]["state"]["progress"]
    progress["mini_batch_size"] = 1
    for stage in (*progress["stages"].values(), *checkpoint["curriculum"]["state"].values()):
        del stage["mini_batch_size"]
    torch.save(checkpoint, "m.lmp")
    stop_after(4, model="m.lmp", mini_batch_size=4)
    assert lowered("stories") == 1
    assert isinstance(last(train(model="m.lmp", mini_batch_size=4)), RunDone)
    assert lowered("pairs") is None


@pytest.mark.long_after(1)
@pytest.mark.parametrize("way", WAYS)
def test_memory_for_not_even_one_sample(place, seams, way):
    plan = write_plan(place)
    stop_after(3, training_plan=plan, model="m.lmp")
    before = Path("m.lmp").read_bytes()
    steps = Steps(seams, way, lacking(0, KINDS[0]))
    events = train(model="m.lmp", **steps.options)
    end = last(events)
    assert isinstance(end, RunFailed)
    assert end.exit_code == 3
    assert "--mini-batch-size is 1 already" in end.message
    tried = [event.message for event in events if isinstance(event, Warned) and "out of memory with" in event.message]
    assert tried, "what was tried before it is told"
    assert "going on with 1 " in tried[-1]
    assert "\n" not in end.message
    assert Path("m.lmp").read_bytes() == before


@pytest.mark.long_after(1)
@pytest.mark.parametrize("way", WAYS)
def test_steps_before_the_lack_of_memory_are_saved(place, seams, way):
    plan = write_plan(place)

    def wrong(x, _, number):
        if number is not None and number > 12:
            raise KINDS[0]
        return x

    steps = Steps(seams, way, wrong)
    events = train(training_plan=plan, model="m.lmp", **steps.options)
    assert isinstance(last(events), RunFailed)
    assert load_checkpoint(Path("m.lmp"))["runner"]["state"]["progress"]["step"] == losses(events)[-1][0] > 0


@pytest.mark.long_after(1)
@pytest.mark.parametrize("error", KINDS)
def test_auto_finds_the_largest_mini_batch_that_fits(place, seams, error):
    plan = write_plan(place)
    Steps(seams, "packed", lacking(2, error, validation=False))
    events = train(training_plan=plan, model="m.lmp", mini_batch_size="auto")
    assert isinstance(last(events), RunDone), last(events)
    found = [e.message for e in events if isinstance(e, LogLine) and "--mini-batch-size auto:" in e.message]
    assert found[0].split()[2] in ("1,", "2,")


def test_a_stop_while_the_mini_batch_size_is_looked_for(place, seams):
    """It does not wait for the sizes that are left."""
    plan = write_plan(place)
    controls, tried = Controls(), set()

    def stop_at_two(x, samples, _):
        tried.add(samples)
        if samples == 2:
            controls.send(Stop())
        return x

    Steps(seams, "packed", stop_at_two)
    end = list(run_events(given(training_plan=plan, model="m.lmp", mini_batch_size="auto"), controls))[-1]
    assert isinstance(end, RunStopped)
    assert end.path is None
    assert tried == {1, 2}


@pytest.mark.long
def test_a_save_that_finds_no_memory_for_its_copy(place, seams):
    """Training goes on, and the next save tries again."""
    plan = write_plan(place)
    whole = train(training_plan=plan, model="whole.lmp", save_interval=6)
    lacks = iter([True])

    def copy(*_):
        if next(lacks, False):
            raise KINDS[1]

    seams.watch("copy to save", copy)
    events = train(training_plan=plan, model="m.lmp", save_interval=6)
    assert isinstance(last(events), RunDone), last(events)
    assert losses(events) == losses(whole)
    said = [e.message for e in events if isinstance(e, Warned)]
    assert len(said) == 1
    assert "not saved: no memory for a copy of the weights; training goes on" in said[0]


NO_ROOM = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
STALE = OSError(errno.ESTALE, os.strerror(errno.ESTALE))


@pytest.mark.parametrize(
    ("of", "name", "error", "said"),
    [
        (torch, "load", KINDS[1], "no memory to load it"),
        (torch, "load", NO_ROOM, "cannot be read: No space left on device"),
        (zipfile.ZipFile, "testzip", STALE, "cannot be read: Stale file handle"),
        (os, "open", NO_ROOM, "cannot be read: No space left on device"),
    ],
)
def test_a_whole_checkpoint_that_cannot_be_had_now_is_not_called_damaged(  # noqa: PLR0917
    place, monkeypatch, of, name, error, said
):
    """Setting it aside would lose what was trained since the one before it."""
    plan = write_plan(place)
    stop_after(3, training_plan=plan, model="m.lmp")
    stop_after(5, model="m.lmp")
    before = {path.name: path.read_bytes() for path in place.glob("*.lmp")}

    real = getattr(of, name)

    def load(*given, **named):
        if of is os and not str(given[0]).endswith("m.lmp"):
            return real(*given, **named)
        raise error

    monkeypatch.setattr(of, name, load)
    end = last(train(model="m.lmp"))
    assert isinstance(end, RunFailed)
    assert end.exit_code == 3
    assert said in end.message
    assert {path.name: path.read_bytes() for path in place.glob("*.lmp")} == before


@pytest.mark.long
def test_validation_has_its_own_limit(place, seams):
    plan = write_plan(place)
    whole = train(training_plan=plan, model="whole.lmp", validation_batch_size=4)
    Steps(seams, "packed", lacking(1, KINDS[1], training=False))
    events = train(training_plan=plan, model="m.lmp", validation_batch_size=4)
    said = [e.message for e in events if isinstance(e, Warned)]
    assert said == [
        "validation: out of memory with 4 samples at a time; going on with 2",
        "validation: out of memory with 2 samples at a time; going on with 1",
    ]
    assert losses(events) == losses(whole)
    scores, expected = ([e.loss for e in es if isinstance(e, Validated)] for es in (events, whole))
    assert scores == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("error", KINDS)
@pytest.mark.parametrize(
    ("of", "name", "resumes"),
    [(torch.nn.Module, "to", False), (torch.nn.Module, "to", True), (torch.optim.Optimizer, "__setstate__", True)],
)
@pytest.mark.long_after(3)
def test_no_memory_for_a_model_or_its_optimizer_is_no_bug(place, monkeypatch, of, name, resumes, error):  # noqa: PLR0917
    """Another program has filled the GPU: the weights are put on it at a start, the optimizer's tensors at a resume."""
    plan = write_plan(place)
    if resumes:
        stop_after(2, training_plan=plan, model="m.lmp")
    before = {path.name: path.read_bytes() for path in place.glob("*.lmp")}
    monkeypatch.setattr(of, name, raising(error))
    end = last(train(model="m.lmp") if resumes else train(training_plan=plan, model="m.lmp"))
    assert isinstance(end, RunFailed)
    assert end.exit_code == EXIT_TRAINING
    assert end.message.startswith("there is not enough memory for the model") and "close other programs" in end.message
    assert {path.name: path.read_bytes() for path in place.glob("*.lmp")} == before


@pytest.mark.parametrize("error", KINDS)
def test_commands_that_load_a_model_say_in_a_line_that_memory_lacks(place, monkeypatch, capsys, error):
    plan = write_plan(place)
    stop_after(1, training_plan=plan, model="m.lmp")
    monkeypatch.setattr(torch.nn.Module, "to", raising(error))
    for words in (["check", plan], ["generate", "--model", "m.lmp", "The mill"]):
        capsys.readouterr()
        assert cli.main([*words, "--device", "cpu"]) == EXIT_TRAINING
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith("there is not enough memory for the model")
