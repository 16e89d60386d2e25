"""Which value of an option holds while plans are edited and runs are resumed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lmplay_tui.plan.reading import parse_plan
from lmplay_tui.plan.schema import Plan
from lmplay_tui.run.events import RunStarted, StepDone
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.settings import Settings
from tests.train.runs import PLAN, stop_after, write_plan


def plan_of(train_options: str, **stages: str) -> Plan:
    text = f"[train]\n{train_options}\n" + "".join(
        f'[stages.{name}]\ndataset = "pydocs"\n{options}\n' for name, options in stages.items()
    )
    return parse_plan(text, name="plan", file="plan", folder=Path())


def rates(settings: Settings) -> dict[str, Any]:
    return {stage.name: settings.for_stage(stage).lr for stage in settings.plan.stages}


def resumed(settings: Settings, **line: Any) -> Settings:
    """The settings of the next start."""
    return Settings(settings.plan, line, settings.to_remember(), settings.overruled_since())


def test_an_edit_of_train_leaves_a_stages_own_value() -> None:
    settings = Settings(plan_of("lr = 1e-3", a="", b="lr = 1e-4"), {})
    settings = settings.with_plan(plan_of("lr = 5e-4", a="", b="lr = 1e-4"))
    assert rates(settings) == {"a": 5e-4, "b": 1e-4}
    assert rates(resumed(settings)) == {"a": 5e-4, "b": 1e-4}


def test_an_edit_beats_what_an_earlier_command_line_gave_for_good() -> None:
    settings = resumed(Settings(plan_of("lr = 1e-3", a="", b="lr = 1e-4"), {"lr": 2e-3}))
    assert rates(settings) == {"a": 2e-3, "b": 2e-3}
    settings = settings.with_plan(plan_of("lr = 5e-4", a="", b="lr = 1e-4"))
    assert rates(settings) == {"a": 5e-4, "b": 2e-3}, "the stage's own value was not edited"
    settings = settings.with_plan(plan_of("lr = 5e-4", a="epochs = 2", b="lr = 1e-4"))
    assert rates(settings) == {"a": 5e-4, "b": 2e-3}, "a second edit does not undo the first"
    assert rates(resumed(settings)) == {"a": 5e-4, "b": 2e-3}
    assert settings.for_run().lr == 5e-4


def test_a_new_stages_own_value_holds_for_it_alone() -> None:
    settings = resumed(Settings(plan_of("lr = 1e-3", a=""), {"lr": 2e-3}))
    settings = settings.with_plan(plan_of("lr = 1e-3", a="", c="lr = 7e-5", d=""))
    assert rates(settings) == rates(resumed(settings)) == {"a": 2e-3, "c": 7e-5, "d": 2e-3}


def test_a_newer_command_line_beats_older_edits() -> None:
    settings = Settings(plan_of("lr = 1e-3", a=""), {}).with_plan(plan_of("lr = 5e-4", a=""))
    settings = resumed(settings, lr=3e-3)
    assert rates(settings) == {"a": 3e-3}
    assert rates(resumed(settings)) == {"a": 3e-3}
    assert rates(replace(settings, line={})) == {"a": 5e-4}


def test_what_an_edit_overruled_is_in_the_checkpoint(place) -> None:
    stop_after(1, training_plan=write_plan(place), model="m.lmp", lr=2e-3)
    stop_after(2, training_plan=write_plan(place, PLAN.replace("lr = 0.01", "lr = 5e-4")), model="m.lmp")
    assert load_checkpoint(place / "m.lmp")["runner"]["state_args"]["overruled"]["stories"] == ["lr"]
    events = stop_after(3, model="m.lmp")
    assert [event.lr for event in events if isinstance(event, StepDone)] == [5e-4]


def test_a_start_says_what_its_command_line_keeps_from_the_plan(place) -> None:
    events = stop_after(1, training_plan=write_plan(place), model="m.lmp", lr=3e-4, shuffle=False, max_hours=9.0)
    (begun,) = [event for event in events if isinstance(event, RunStarted)]
    assert {name: begun.on_line[name] for name in ("lr", "shuffle")} == {"lr": "--lr 0.0003", "shuffle": "--no-shuffle"}
    assert not {"max_hours", "training_plan", "model"} & begun.on_line.keys()
    (again,) = [event for event in stop_after(2, model="m.lmp") if isinstance(event, RunStarted)]
    assert "lr" not in again.on_line, "an edit is heard again"
