"""What an edit of the plan would do, as it is told before it is applied; what the run would refuse."""

import dataclasses
from pathlib import Path

import pytest

from lmplay_tui.data.batches import Position
from lmplay_tui.errors import UserError
from lmplay_tui.plan.reading import parse_plan
from lmplay_tui.train.progress import Progress, StageProgress
from lmplay_tui.train.settings import describe_changes
from lmplay_tui.ui.screens.plan_effect import effect_rows, refusals
from tests.ui.conftest import joined
from tests.ui.fake import PLAN, fed, started


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("epochs = 0.5", "epochs = 0.5\nlr = 0.1"), "finetune lr (not set) -> 0.1"),
        (("[stages.topics]", "[train]\nlr = 6e-3\n[stages.topics]"), "train lr (not set) -> 0.006"),
        (("# What it is for.", "# Else."), "nothing that trains changes"),
    ],
)
def test_effects_say_all_that_changes(change: tuple[str, str], said: str) -> None:
    view = fed(330).view
    rows = effect_rows(PLAN, PLAN.replace(*change), view, Path.cwd(), None)
    assert said in joined(rows)
    assert not refusals(PLAN, PLAN.replace(*change), view, Path.cwd())


def test_several_effects_are_summed() -> None:
    rows = effect_rows(PLAN, PLAN.replace("1.5", "2").replace("0.5", "0.25"), fed(330).view, Path.cwd(), 2.0)
    said = [" ".join(line.split()) for line in joined(rows).splitlines()]
    assert said == [
        "~ docstrings epochs 1.5 -> 2 +1,600 rows +40 s +0.02",
        "~ finetune epochs 0.5 -> 0.25 -1,200 rows −30 s −0.02",
        "all together +400 rows +10 s +0.01",
    ]
    same = effect_rows(
        PLAN, PLAN.replace("1.5", "2").replace("0.5", "0.16666666666666666"), fed(330).view, Path.cwd(), 2.0
    )
    assert joined(same).splitlines()[-1] == " all together  as many rows as before"


KEPT = "holds, after a resume too; this edit changes nothing: only another --lr at a start does"
ON_LINE = {"lr": "--lr 0.0003", "mini_batch_size": "--mini-batch-size 4"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("epochs = 0.5", "epochs = 0.5\nlr = 1e-4"),
         [" nothing that trains changes", f" ! lr: the command line's --lr 0.0003 {KEPT}"]),
        (("epochs = 0.5", "epochs = 1\nmini_batch_size = 8"),
         [" ~ finetune epochs 0.5 -> 1  +2,400 rows", " ! mini_batch_size: the command line's --mini-batch-size 4 "
          "holds; this edit changes nothing until a start without it"]),
        (("epochs = 0.5", 'epochs = 0.5\n[stages.new]\ndataset = "pydocs"\nlr = 1e-4'),
         [" + new new, 1 epoch  rows are counted when it is applied",
          f" ! lr: the command line's --lr 0.0003 {KEPT}"]),
    ],
)  # fmt: skip
def test_what_the_command_line_overrules_is_said_to_change_nothing(change: tuple[str, str], said: list[str]) -> None:
    view = fed(330).view
    view.follow(dataclasses.replace(started(), on_line=ON_LINE))
    assert joined(effect_rows(PLAN, PLAN.replace(*change), view, Path.cwd(), None)).splitlines() == said


def test_another_order_of_what_has_not_begun_is_said() -> None:
    text = PLAN + '[stages.last]\ndataset = "pydocs"\n'
    swapped = text.replace("stages.finetune", "stages.x").replace("stages.last", "stages.finetune")
    swapped = swapped.replace("stages.x", "stages.last").replace("epochs = 0.5\n", "") + "epochs = 0.5\n"
    assert "stages another order" in joined(effect_rows(text, swapped, fed(330).view, Path.cwd(), None))


REFUSED = [
    (("epochs = 1.5", "epochs = 0.1"), 8),
    (('[stages.topics]\ndataset = "pydocs"\nepochs = 1\n', ""), 3),
    (("epochs = 1.5", "epochs = 1.5\nshuffle = true"), 9),
    (("[stages.topics]", "[train]\nshuffle = true\n[stages.topics]"), 4),
    (("[stages.topics]", "[train]\ncontext_len = 64\n[stages.topics]"), 3),
    (("[stages.topics]", "[train]\nseed = 7\n[stages.topics]"), 3),
    (('[stages.topics]\ndataset = "pydocs"', '[stages.topics]\ndataset = "wikitext"'), 2),
]


@pytest.mark.parametrize(("change", "line"), REFUSED)
def test_the_editor_refuses_what_the_trainer_would_refuse_in_its_words(change: tuple[str, str], line: int) -> None:
    text = PLAN.replace(*change)
    old, new = (parse_plan(each, name="plan", file="plan", folder=Path.cwd()) for each in (PLAN, text))
    topics = StageProgress(Position(row=1200), rows_total=1200, rows_per_epoch=1200, done=True)
    progress = Progress(stages={"topics": topics, "docstrings": StageProgress(Position(row=2100), rows_per_epoch=3200)})
    with pytest.raises(UserError) as refused:
        describe_changes(old, new, progress)
    problems = refusals(PLAN, text, fed(330).view, Path.cwd())
    assert "\n".join(f"{problem.key}: {problem.sentence}" for problem in problems) == str(refused.value)
    assert min(problem.line for problem in problems) == line
