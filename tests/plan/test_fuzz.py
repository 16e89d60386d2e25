"""Whatever a file holds: problems that say so, or a plan that survives being written."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmplay_tui.plan.builtin import shipped_folder, shipped_plans
from lmplay_tui.plan.problems import Form, PlanError, locate
from lmplay_tui.plan.reading import parse_plan
from lmplay_tui.text import printable
from tests.examples import examples

SHIPPED = [(shipped_folder() / f"{name}.toml").read_text(encoding="utf-8") for name in shipped_plans()]
LMPLAY = json.dumps(
    {
        "datasets": {
            "wiki_en": {"ds_loader": "wiki", "args": ["en"]},
            "tales": {"ds_loader": "hf", "args": ["tales", "a/b"], "kwargs": {"truth_column": "text"}},
        },
        "seed": 0,
        "steps": [{"datasets": ["wiki_en", "tales"], "epochs": 1.0, "step_name": "both"}],
    },
    indent=1,
)
USERS = '{"pretraining": {"dataset": "wikipedia", "epochs": 3},\n "finetune": {"dataset": "wikitext"}}'

# What a hand may put in the wrong place.
PIECES = (
    "nan", "inf", "-1", "1e999", "true", "null", "[]", "{}", '""', "'", '"', '"""', "[[", "]]", "=", ":", ",", "\n",
    "\r", "\0", "\ufeff", "\x1b", "é", "[stages.x]\n", 'dataset = "pydocs"\n', "epochs = 2\n", "title = 'x'\n",
    "lr = 1\n", "\\u202e", "#", ".", "9" * 30, "1979-05-27", "[train]\n", "weights = [1]\n", '"seed": 1,',
    '"dataset": "pydocs",',
)  # fmt: skip

VERY_MANY = 100_000

documents = st.one_of(
    st.tuples(st.just("toml"), st.text()),
    st.tuples(st.just("json"), st.text()),
    st.tuples(st.just("toml"), st.sampled_from(SHIPPED)),
    st.tuples(st.just("json"), st.sampled_from([LMPLAY, USERS])),
)
edits = st.lists(
    st.tuples(
        st.sampled_from(["delete", "double", "swap", "insert", "replace line"]),
        st.integers(0, 3000),
        st.integers(0, 3000),
        st.sampled_from(PIECES),
    ),
    max_size=4,
)


def mutated(text: str, changes: list[tuple[str, int, int, str]]) -> str:
    for kind, place, length, piece in changes:
        at = place % (len(text) + 1)
        end = min(at + length % 20, len(text))
        if kind == "delete":
            text = text[:at] + text[end:]
        elif kind == "double":
            text = text[:end] + text[at:]
        elif kind == "swap":
            text = text[:at] + text[at:end][::-1] + text[end:]
        elif kind == "insert":
            text = text[:at] + piece + text[at:]
        else:
            lines = text.split("\n")
            lines[at % len(lines)] = piece.strip("\n")
            text = "\n".join(lines)
    return text


def check_text(form: Form, text: str, folder: Path) -> None:
    try:
        plan = parse_plan(text, name="x", file="x", folder=folder, form=form)
    except PlanError as error:
        assert error.problems
        assert all(problem.line >= 1 and problem.key and problem.sentence for problem in error.problems)
        assert all(problem.line <= text.count("\n") + 1 for problem in error.problems)
        assert len(str(error).split("\n")) == len(error.problems)
        assert printable(error) == str(error)
    else:
        assert plan.stages
        assert parse_plan(plan.text, name="x", file="y", folder=Path(plan.folder)) == plan


@examples(500, *HealthCheck)
@given(documents, edits)
def test_any_text_is_a_plan_or_a_list_of_problems(document, changes):
    form, text = document
    check_text(form, mutated(text, changes), Path("/nowhere"))


@settings(max_examples=VERY_MANY, suppress_health_check=list(HealthCheck), database=None)
@given(documents, edits)
def check_very_many(document, changes):
    form, text = document
    check_text(form, mutated(text, changes), Path("/nowhere"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_any_of_very_many_texts_is_a_plan_or_a_list_of_problems(count):
    check_very_many()
    count(f"fuzzed plans: {VERY_MANY:,}, 0 tracebacks")


@examples(300)
@given(st.text(st.sampled_from("ab.=[]{}\"'\\,:#\n \r1-")), st.sampled_from(["toml", "json"]))
def test_places_are_found_in_every_text(text, form):
    places = locate(text, form)
    assert all(1 <= line <= text.count("\n") + 1 for line in places.lines.values())
