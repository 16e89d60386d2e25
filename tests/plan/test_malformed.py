"""Every rule of every key broken once: exactly that is said, with its file, line and key, and nothing else."""

from pathlib import Path

import pytest

from lmplay_tui import options
from lmplay_tui.errors import EXIT_USAGE
from lmplay_tui.plan.problems import PlanError, Report
from lmplay_tui.plan.reading import parse_plan, problems_of
from tests.plan.breaking import word_breaks
from tests.plan.malformed_cases import CASES, Case

HERE = Path("/nowhere")


def test_there_are_enough_cases_and_each_is_another():
    assert len(CASES) >= 300
    assert len({(case.form, case.text) for case in CASES}) >= len(CASES) - 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label[:60].encode("ascii", "replace").decode())
def test_a_broken_rule_is_said_with_its_place_and_nothing_else_is(case: Case):
    problems = problems_of(case.text, file="x.plan", folder=HERE, form=case.form)
    assert [(p.file, p.line) for p in problems] == [("x.plan", case.line)], problems
    (problem,) = problems
    assert problem.key == case.key or not case.key
    assert problem.key
    assert case.said in problem.sentence
    with pytest.raises(PlanError) as raised:
        parse_plan(case.text, name="x", file="x.plan", folder=HERE, form=case.form)
    assert raised.value.problems == (problem,)
    assert str(raised.value) == f"x.plan:{case.line}: {problem.key}: {problem.sentence}"
    assert raised.value.exit_code == EXIT_USAGE


def test_all_problems_come_at_once_in_the_order_of_their_lines():
    broken = [next(iter(word_breaks(name))) for name in options.train_names()]
    lines = [f"{name} = {entry.toml}" for name, entry in zip(options.train_names(), broken, strict=True)]
    text = "\n".join(["[stages.s]", 'dataset = "nosuch"', "epochs = -1", "[train]", *lines])
    problems = problems_of(text, file="x.toml", folder=HERE)
    assert [p.line for p in problems] == [2, 3, *range(5, 5 + len(lines))]
    assert len(str(PlanError(problems)).split("\n")) == len(lines) + 2


def test_a_key_given_twice_does_not_hide_the_other_problems():
    text = '[train]\nlr = 1\nlr = 2\n[stages.s]\ndataset = "nosuch"\n'
    assert [p.key for p in problems_of(text, file="x", folder=HERE)] == ["train.lr", "stages.s.dataset"]


def test_a_mistake_in_the_syntax_names_its_line_and_the_key_there():
    for text, line, key in (
        ('[stages.s]\ndataset = "pydocs\nlr = 1\n', 2, "stages.s.dataset"),
        ("[stages.s]\nlr = \n", 2, "stages.s.lr"),
        ("[stages.s]\nlr = 1\nepochs\n", 3, "stages.s.epochs"),
        ("[stages.s\nlr = 1\n", 1, "stages.s"),
        ("a = 1\na.b = 2", 2, "a.b"),
        ('[stages.s]\ndataset "pydocs"\n', 2, "stages.s.dataset"),
        ("[stages.s]\nlr: 1\n", 2, "stages.s.lr"),
        ("[stages.s.]\nlr = 1\n", 1, "stages.s"),
        ("[stages.s]\nweights = [1, 2\nlr = 1\n", 3, "stages.s.lr"),
        ("[stages.s]\nlr = 1 2\nepochs = 1\n", 2, "stages.s.lr"),
        ("[stages.s]\n= [1, 2]\n", 2, "file"),
    ):
        (problem,) = problems_of(text, file="x", folder=HERE)
        assert (problem.line, problem.key) == (line, key), problem
        assert problem.sentence.startswith("is not TOML: ")
    (problem,) = problems_of('{"s": {\n"dataset": }}', file="x", folder=HERE, form="json")
    assert (problem.line, problem.key) == (2, "s.dataset")
    assert problem.sentence.startswith("is not JSON: ")


def test_of_a_flood_of_problems_the_first_hundred_are_listed_and_the_others_counted():
    text = "[train]\n" + "".join(f"k{number} = 1\n" for number in range(5000)) + '[stages.s]\ndataset = "pydocs"\n'
    problems = problems_of(text, file="x", folder=HERE)
    assert len(problems) == 101
    assert problems[-1].sentence == "has 4900 more problems"


def test_whatever_a_sentence_holds_is_made_harmless():
    report = Report("x")
    report.add(("a",), "one\nline\x1b[2J " + "x" * 5_000, 3)
    (problem,) = report.problems()
    assert problem.sentence.startswith("one line␛[2J xxx")
    assert len(problem.sentence) == 500


def test_messages_hold_no_control_characters():
    evil = r"\u001b]52;c;cHduZWQ=\u0007\u009b31m\u202e"
    text = f'''[train]
exp = "{evil}"
"{evil}" = 1
optimizer = "{evil}"
[datasets."{evil}"]
path = "{evil}"
[stages."{evil}"]
dataset = "{evil}"
'''
    problems = problems_of(text, file="x\x1b[31m.toml", folder=HERE)
    assert len(problems) >= 6
    assert not set(str(PlanError(problems))) & set("\x1b\x07\x9b\u202e")
    assert len(str(PlanError(problems)).split("\n")) == len(problems)
