"""What was written reads back as the same plan: checkpoints and run folders keep plans as text."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from lmplay_tui.plan.builtin import shipped_plans
from lmplay_tui.plan.reading import parse_plan, plan_text, read_plan
from lmplay_tui.plan.schema import Plan
from tests.examples import examples
from tests.plan.strategies import documents, lmplay_documents

FAST = examples(60, *HealthCheck)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A plan's folder with some data in it."""
    folder: Path = tmp_path_factory.mktemp("plans")
    (folder / "data").mkdir()
    for name in ("data/mine.jsonl", "notes.txt", "only-here.csv"):
        (folder / name).write_text("", encoding="utf-8")
    return folder


def read_again(plan: Plan, text: str, file: Path) -> Plan:
    """The plan as a later process finds it: its text in a run folder, its name and folder beside it."""
    file.write_text(text, encoding="utf-8", newline="\n")
    written = file.read_bytes().decode("utf-8")
    return parse_plan(written, name=plan.name, file=str(file), folder=Path(plan.folder))


def assert_survives(plan: Plan, file: Path) -> None:
    assert read_again(plan, plan.text, file) == plan
    plain = replace(plan, text="", purpose="")
    assert replace(read_again(plan, plan_text(plan), file), text="", purpose="") == plain


@FAST
@given(documents(), st.sampled_from(["toml", "json"]))
def test_a_plan_says_what_was_written_and_survives_being_written_again(folder, document, form):
    text = tomli_w.dumps(document) if form == "toml" else json.dumps(document, ensure_ascii=False, indent=0)
    plan = parse_plan(text, name="mine", file="x", folder=folder, form=form)
    tables = document.get("stages") or {
        name: table for name, table in document.items() if name not in ("title", "train", "datasets")
    }
    assert [stage.name for stage in plan.stages] == list(tables)
    assert plan.train == document.get("train", {})
    assert plan.title == document.get("title")
    for stage, table in zip(plan.stages, tables.values(), strict=True):
        assert [spec.name for spec in stage.datasets] == table.get("datasets", [table.get("dataset")])
        assert stage.epochs == table.get("epochs", 1)
        assert stage.stopping == table.get("stopping", "first_exhausted")
        assert stage.seed == table.get("seed")
        own = {"dataset", "datasets", "epochs", "weights", "stopping", "seed"}
        assert stage.options == {key: value for key, value in table.items() if key not in own}
        assert (stage.weights is None) == ("weights" not in table)
        if stage.weights is not None:
            total = sum(table["weights"])
            assert sum(stage.weights) == pytest.approx(1, abs=1e-12)
            assert stage.weights == pytest.approx([weight / total for weight in table["weights"]], rel=1e-9)
        for spec in stage.datasets:
            assert "/" in spec.path or spec.path == "pydocs"
    assert_survives(plan, folder / "plan.toml")


@FAST
@given(lmplay_documents())
def test_lmplays_plans_survive_as_toml(folder, document):
    plan = parse_plan(json.dumps(document), name="mine", file="x", folder=folder, form="json")
    assert [stage.name for stage in plan.stages] == [step["step_name"] for step in document["steps"]]
    assert plan.train == ({"seed": document["seed"]} if "seed" in document else {})
    assert_survives(plan, folder / "plan.toml")


@pytest.mark.parametrize("name", shipped_plans())
def test_a_shipped_plan_survives(tmp_path, name):
    plan = read_plan(name)
    assert plan.name == name
    assert_survives(plan, tmp_path / "plan.toml")
