"""docs/prompt-forms.md cannot lie: its rows are read by the real code, and give what stands beneath them."""

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from lmplay_tui.command_line import parse_line
from lmplay_tui.commands.check import sample_lines
from lmplay_tui.commands.generate import assign_words, parser, prompt_of
from lmplay_tui.data.stage_data import StageData, open_stage
from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import DatasetSpec, Stage
from lmplay_tui.train.check import shown_sample
from lmplay_tui.train.gradients import num_loss_tokens
from tests.data.conftest import _own_caches as _own_caches  # noqa: PLC0414  (a fixture)

PAGE = Path(__file__).parent.parent / "docs/prompt-forms.md"
PROMPTS = PAGE.with_name("prompts.md")
_EXAMPLE = re.compile(r"```json(?: context_len=(\d+))?\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


class Example(NamedTuple):
    """Rows of a form, in a context of so many tokens, and what the page says that the model sees."""

    name: str
    context_len: int
    rows: list[dict[str, object]]
    said: list[str]


def examples() -> list[Example]:
    found = []
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        name = section.partition("\n")[0]
        for context_len, rows, said in _EXAMPLE.findall(section):
            found.append(
                Example(name, int(context_len or 512), [json.loads(r) for r in rows.splitlines()], said.splitlines())
            )
    return found


def opened(example: Example, folder: Path) -> StageData:
    """The example's rows, many times over: none of them is held out."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in example.rows), encoding="utf-8")
    options = TrainOptions(tokenizer="bytes", context_len=example.context_len, validation_split=0.0)
    spec = DatasetSpec("rows", str(path))
    return open_stage(
        Stage("one", (spec,)), options, load_tokenizer("bytes"), datasets_folder=folder, report=lambda *_: None
    )


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_the_page_shows_what_the_model_sees(example: Example, tmp_path: Path) -> None:
    data = opened(example, tmp_path)
    seen = [f"columns: {data.parts[0].source.columns}"]
    for sample in data.first_samples(0, 100):
        assert sample.row < len(example.rows)
        seen += [line.strip() for line in sample_lines(shown_sample(sample, data.eot))[1:]]
    assert seen == example.said


def test_the_page_has_each_form_and_every_fence_is_an_example() -> None:
    names = {example.name for example in examples()}
    assert len(names) == 11
    assert PAGE.read_text(encoding="utf-8").count("```") == 4 * len(examples())


def test_the_loss_is_where_the_page_says(tmp_path: Path) -> None:
    for example in examples():
        if example.name not in ("Text", "Text with a title", "Prompt and truth"):
            continue
        for sample in opened(example, tmp_path).first_samples(0, 1):
            truth, prompt = len(sample.truth.encode()) + 1, max(len(sample.prompt.encode()), 1)
            assert num_loss_tokens([sample], include_prompts=False) == truth
            assert num_loss_tokens([sample], include_prompts=True) == truth + prompt - 1


def test_the_page_of_prompts_types_what_the_model_has_seen() -> None:
    """Each command of docs/prompts.md, read by a shell, gives the prompt beside it; the forms' own page has it too."""
    seen = PAGE.read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (.+?) \| `(lmplay-tui generate .+?)` \| (.+?) \|$", PROMPTS.read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) == 9
    for name, command, given in rows:
        words = subprocess.run(
            ["bash", "-c", command.replace("lmplay-tui generate", r"printf '%s\0'")], capture_output=True, check=True
        ).stdout.decode().split("\0")[:-1]  # fmt: skip
        line = parse_line(parser("generate"), words)
        assign_words(line)
        prompt = prompt_of(line).replace("\n", "⏎")
        assert f"`{prompt}`" == given or (prompt, given) == ("", "the end-of-text mark"), name
        assert name == "texts" or f'prompt: "{prompt}"' in seen or not prompt, f"{name}: {prompt}"
