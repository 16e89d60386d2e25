"""docs/experiments.md: each of its examples is trained, in the way that the page promises for it."""

import re
from pathlib import Path

import pytest
import torch

from lmplay_tui.models.generation import Reading
from lmplay_tui.models.registry import build_model, load_experiment
from lmplay_tui.run.events import Warned
from lmplay_tui.train.check import describe_run
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.device import Precision
from lmplay_tui.train.model_body import choose_ways
from tests.train.runs import given, losses, of, stop_after, write_plan

PAGE = (Path(__file__).parent.parent.parent / "docs/experiments.md").read_text(encoding="utf-8")
FILES = {block.partition("\n")[0].removeprefix("# "): block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S)}
PLAN = '[train]\ntokenizer = "bytes"\ncontext_len = 64\nbatch_size = 4\n[stages.pairs]\ndataset = "pairs.jsonl"\n'
WAYS = {  # hidden and head, trunk, how text is read
    "words.py": (False, False, Reading.FORWARD),
    "recurrent.py": (True, False, Reading.FORWARD),
    "remembering.py": (True, False, Reading.BODY),
    "packed.py": (True, True, Reading.FORWARD),
    "capped.py": (False, False, Reading.CACHE),
    "scaled.py": (True, True, Reading.BODY),
    "marked.py": (True, False, Reading.FORWARD),
}


def experiment(place: Path, name: str) -> str:
    (place / name).write_text(FILES[name], encoding="utf-8")
    return f"{name}:{name.removesuffix('.py').title()}"


def test_every_example_is_here() -> None:
    assert set(FILES) == set(WAYS)


@pytest.mark.parametrize("name", WAYS)
def test_an_example_is_trained_as_the_page_says(place: Path, name: str) -> None:
    exp = experiment(place, name)
    model, _ = build_model(load_experiment(exp), vocab_size=257, context_len=64)
    ways = choose_ways(model, Precision(torch.device("cpu")), vocab_size=257, context_len=64)
    assert (ways.hidden is not None, ways.trunk is not None, ways.reading) == WAYS[name]
    events = stop_after(2, training_plan=write_plan(place, PLAN), model="m.lmp", exp=exp)
    assert len(losses(events)) == 2
    said = [event.message for event in of(Warned, events) if event.message.startswith("experiment ")]
    assert said == [f"experiment {exp}: {line}" for line in ways.notes]
    assert bool(said) == (name == "capped.py")
    if "scale" in dict(model.named_parameters()):
        assert load_checkpoint(place / "m.lmp")["model"]["state"]["scale"] != 1.0


def test_marks_do_what_the_page_says(place: Path) -> None:
    options = {"training_plan": write_plan(place, PLAN), "model": "m.lmp", "exp": experiment(place, "marked.py")}
    text = describe_run(given(**options))
    rows = {line.split()[0]: line.split("%")[1].split() for line in text.splitlines() if " % " in line}
    assert rows["gain"] == rows["mix"] == ["yes", "no"]
    assert rows["head.weight"] == ["yes", "0.01"]
    text = describe_run(given(**options, default_freeze=True))
    rows = {line.split()[0]: line.split("%")[1].split() for line in text.splitlines() if " % " in line}
    assert {name for name, row in rows.items() if row[0] == "yes"} == {"head.weight", "head.bias"}
