"""More epochs for a plan's last stage, whatever form its text has."""

from pathlib import Path

import pytest

from lmplay_tui.plan.editing import extend_plan
from lmplay_tui.plan.reading import parse_plan

TABLES = '# why\n[stages.a]\ndataset = "pydocs"\n[stages.b]\ndataset = "pydocs"  # mine\nepochs = 0.5\n'
TOP_LEVEL = '[a]\ndataset = "pydocs"\nepochs = 2\n[b]\ndataset = "pydocs"\n'
LMPLAY = """\
[datasets.wiki]
ds_loader = "wiki"
args = ["en"]
[[steps]]
step_name = "only"
datasets = ["wiki"]
epochs = 3
"""


@pytest.mark.parametrize(("text", "expected"), [(TABLES, [1, 1.25]), (TOP_LEVEL, [2, 1.75]), (LMPLAY, [3.75])])
def test_the_last_stage_gets_more_epochs(text: str, expected: list[float]) -> None:
    plan = parse_plan(text, name="p", file="p", folder=Path("/plans"))
    longer = extend_plan(plan, 0.75)
    assert [stage.epochs for stage in longer.stages] == expected
    assert [stage.datasets for stage in longer.stages] == [stage.datasets for stage in plan.stages]
    assert (longer.name, longer.folder) == (plan.name, plan.folder)
    assert ("# mine" in longer.text) == ("# mine" in text)
    assert parse_plan(longer.text, name="p", file="p", folder=Path("/plans")) == longer
