"""A plan edited while it runs: each option acts, or a line refuses it; none is announced and left lying."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.options import OPTIONS, Launch, Part, TrainOptions, names_of, train_names
from lmplay_tui.run import controls as asked
from lmplay_tui.run.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    MetricsLogged,
    PlanChanged,
    RunDone,
    StepDone,
    Validated,
    Warned,
)
from lmplay_tui.train.launch import run_events
from tests.train.runs import TINY, of, train, write_plan
from tests.train.runs import given as given_on_line

BASE = (
    TINY
    + """\
batch_size = 3
lr = 0.01
dropout = 0.1
mini_batch_size = 3
validation_interval = 6
validation_batch_size = 2
eval_interval = 9
eval_samples = 3
log_interval = 2
optimizer_warmup_steps = 30
"""
)
STAGES = '[stages.one]\ndataset = "pairs.jsonl"\nepochs = 1\n[stages.two]\ndataset = "stories.jsonl"\nepochs = 0.3\n'
# Another value of each option that a plan can set. Those that are not here have no test: the first test below says so.
OTHER: dict[str, Any] = {
    "exp": "gpt2ish", "num_blocks": 2, "embed_dim": 32, "num_heads": 4, "context_len": 32, "tokenizer": "gpt2:300",
    "dropout": 0.4, "seed": 3, "batch_size": 5, "mini_batch_size": 1, "shuffle": True, "continue_rows": True,
    "include_prompts": True, "validation_split": 0.25, "optimizer": "sgd", "lr": 0.002, "lr_schedule": "linear",
    "weight_decay": 0.5, "grad_clip": 0.01, "loss_normalization": "samples", "default_freeze": True,
    "reset_optimizer": True, "optimizer_warmup_fraction": 0.5, "optimizer_warmup_steps": 3,
    "disable_optimizer_warmup": True, "validation_interval": 3, "validation_batch_size": 1, "eval_interval": 3,
    "eval_samples": 1, "save_interval": 3, "save_minutes": 1e-9, "log_interval": 1, "keep": 2,
}  # fmt: skip


def edited(option: str, text: str = BASE) -> str:
    """The plan with another value of an option."""
    value = OTHER[option]
    shown = f'"{value}"' if isinstance(value, str) else str(value).lower()
    kept = [line for line in text.splitlines() if not line.startswith(f"{option} = ")]
    return "\n".join([*kept, f"{option} = {shown}"]) + "\n"


def trained(place: Path, text: str | None, **options: Any) -> list[Event]:
    """A run of the plan, with it edited to `text` after the second step."""
    controls, events = asked.Controls(), []
    line = Launch({"device": "cpu", "training_plan": write_plan(place, BASE + STAGES), "model": "m.lmp", **options})
    for event in run_events(line, controls):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 2 and text is not None:
            controls.send(asked.ChangePlan(text + STAGES))
    return events


def doings(events: list[Event]) -> list[object]:
    """What a trainer does, without what it says and how long it takes."""
    done: list[object] = []
    for event in events:
        match event:
            case StepDone():
                done.append((event.step, event.stage, event.rows, event.loss, event.lr))
            case Validated():
                done.append((event.step, event.samples, event.loss))
            case Evaluated():
                done.append((event.step, sorted((n, dataclasses.astuple(r)) for n, r in event.sets.items())))
            case CheckpointSaved():
                done.append(("saved", event.step))
            case MetricsLogged():
                done.append(("logged", event.values["step"]))
    return done


def test_each_option_of_a_plan_has_an_edit():
    assert set(OTHER) == set(train_names())


@pytest.fixture(scope="module")
def as_it_was(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {}


@pytest.mark.long_after(8)
@pytest.mark.parametrize("option", train_names())
def test_an_edit_acts_or_is_refused_with_a_line(place, as_it_was, option):
    if not as_it_was:
        as_it_was["done"] = doings(trained(place, None, model="before.lmp"))
    events = trained(place, edited(option))
    # This experiment marks nothing with `freeze = False`: nothing would be left to train.
    refused = (
        OPTIONS[option].part in (Part.MODEL, Part.HELD_OUT, Part.ORDER, Part.BEGINNING) or option == "default_freeze"
    )
    acts = doings(events) != as_it_was["done"] or len(list(place.glob("m.step-*.lmp"))) > 0
    assert acts != refused
    assert len(of(PlanChanged, events)) == (0 if refused else 1)
    assert any(option in e.message.replace("-", "_") for e in of(Warned, events)) == refused
    assert isinstance(events[-1], RunDone)


@pytest.mark.parametrize("option", ["lr", "eval_samples", "batch_size"])
def test_what_the_command_line_holds_is_said_at_an_edit(place, option):
    value = TrainOptions(**{option: OTHER[option]})
    events = trained(place, edited(option), **{option: getattr(value, option)})
    assert [e.message for e in of(Warned, events) if "changes nothing: the command line's" in e.message]


def test_an_edit_of_a_stage_that_is_done_says_that_it_changes_nothing(place):
    controls, events = asked.Controls(), []
    text = BASE + STAGES
    line = given_on_line(training_plan=write_plan(place, text), model="m.lmp")
    for event in run_events(line, controls):
        events.append(event)
        if isinstance(event, StepDone) and event.stage == "two" and not of(PlanChanged, events):
            controls.send(asked.ChangePlan(text.replace("epochs = 1\n", "epochs = 1\nlr = 0.5\n")))
    assert any("stage one: lr" in e.message and "changes nothing" in e.message for e in of(Warned, events))


def test_data_read_no_option_that_does_not_open_them_anew(place, seams):
    """What a stage's data depend on says so in its declaration: else an edit would be announced and not applied."""
    read: set[str] = set()

    class Reading:
        def __init__(self, options: TrainOptions) -> None:
            self._options = options

        def __getattr__(self, name: str) -> Any:
            read.add(name)
            return getattr(self._options, name)

    seams.around("open a stage", lambda real, stage, options, *rest, **how: real(stage, Reading(options), *rest, **how))
    train(training_plan=write_plan(place, BASE + STAGES), model="m.lmp")
    assert {"batch_size", "eval_samples"} <= read
    assert read <= set(names_of(Part.MODEL, Part.HELD_OUT, Part.ORDER, Part.DATA))
