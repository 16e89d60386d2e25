"""`new`: a plan from data files that trains, says what was found, and writes nothing over."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmplay_tui.cli import main, trainer_main
from lmplay_tui.commands.new import LARGE, SMALL, Measured, plan_text
from lmplay_tui.data.rows import Columns
from lmplay_tui.plan.reading import parse_plan, read_plan
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.run.folder import RunFolder
from tests.data.conftest import _own_caches as _own_caches  # noqa: PLC0414  (a fixture)
from tests.journals import read_journal

TEXTS = [f"The mill number {i} stood by the river. Nobody had used it for {i} years." for i in range(30)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": i, "title": f"Mill {i}", "text": text} for i, text in enumerate(TEXTS)]
    Path("stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with Path("q & a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("question", "answer"), *((f"What is {i} and {i}?", 2 * i) for i in range(30))])
    turns = [
        [{"role": "user", "content": f"River {i}?"}, {"role": "assistant", "content": "The Esk."}] for i in range(30)
    ]
    pq.write_table(pa.table({"messages": turns}), "chat.parquet")
    Path("lines.txt.gz").write_bytes(gzip.compress("\n\n".join(TEXTS).encode()))
    Path("book/part").mkdir(parents=True)
    for number in range(3):
        Path(f"book/part/{number}.txt").write_text("\n\n".join(TEXTS[10 * number : 10 * number + 10]), encoding="utf-8")
    alpaca = [{"instruction": f"Add {i}.", "input": "3", "output": str(i + 3)} for i in range(30)]
    Path("alpaca.json").write_text(json.dumps(alpaca), encoding="utf-8")
    return tmp_path


def new(*words: str) -> int:
    return main(["new", *words, "--device", "cpu"])


def test_a_plan_of_every_kind_of_file_says_what_was_found(folder: Path, capsys) -> None:
    data = ["stories.jsonl", "q & a.csv", "chat.parquet", "lines.txt.gz", "book", "alpaca.json"]
    assert new(*data, "-o", "all.toml", "--no-check") == 0
    assert (
        capsys.readouterr().out == "wrote all.toml\ntrain it with: lmplay-tui --training-plan all.toml --device cpu\n"
    )
    plan = read_plan("all.toml")
    texts, answers = plan.stages
    assert {spec.name: (spec.text, spec.title) for spec in texts.datasets} == {
        "stories": ("text", "title"), "lines": ("text", None), "book": ("text", None),
    }  # fmt: skip
    assert {spec.name: (spec.prompt, spec.truth, spec.messages) for spec in answers.datasets} == {
        "q-a": ("question", "answer", None), "chat": (None, None, "messages"), "alpaca": (None, None, None),
    }  # fmt: skip
    assert texts.weights is not None and sum(texts.weights) == pytest.approx(1)
    text = Path("all.toml").read_text(encoding="utf-8")
    assert "# Columns: text = text, title = title; left out: id\n[datasets.stories]\n" in text
    assert "# Columns: prompt = instruction + input, truth = output\n[datasets.alpaca]\n" in text
    assert 'path = "q & a.csv"' in text, "relative: plan and data may move together"
    assert "27 rows to train on, 3 held out of them to validate on" in text


@pytest.mark.long
def test_what_is_written_is_checked_and_trains(folder: Path, capsys) -> None:
    assert new("stories.jsonl") == 0
    out = capsys.readouterr().out
    assert out.startswith("wrote stories.toml\nplan stories: 1 stage; ")
    assert "\nok  two mini-batches of " in out and "NO" not in out
    command = out.splitlines()[-1].removeprefix("train it with: lmplay-tui ").split()
    small = ["--num-blocks", "1", "--embed-dim", "16", "--num-heads", "2"]
    assert trainer_main([*command, "--model", "m.lmp", *small]) == 0
    assert any("train/loss" in row for row in read_journal(RunFolder(Path("m.lmp")).metrics))


def test_no_file_is_written_over(folder: Path, capsys) -> None:
    Path("stories.toml").write_text("mine", encoding="utf-8")
    assert new("stories.jsonl") == 2
    assert capsys.readouterr().err == "stories.toml: is there already; choose another name with -o FILE\n"
    assert Path("stories.toml").read_text(encoding="utf-8") == "mine"
    assert new("stories.jsonl", "-o", "plan.json") == 2
    assert new("stories.jsonl", "-o", "nowhere/plan.toml", "--no-check") == 2
    assert "nowhere/plan.toml" in capsys.readouterr().err.splitlines()[-1]


def test_each_thing_that_cannot_be_read_is_said_and_nothing_is_written(folder: Path, capsys) -> None:
    Path("ragged.csv").write_text("question,answer\nwhat,that\nonly one\n", encoding="utf-8")
    Path("broken.jsonl").write_text('{"text": "a"}\n{"text": \n', encoding="utf-8")
    Path("picture.png").write_bytes(b"\x89PNG")
    Path("empty").mkdir()
    assert new("gone\x1b[31m.txt", "picture.png", "stories.jsonl") == 2
    missing, picture = capsys.readouterr().err.splitlines()
    assert missing == "gone␛[31m.txt: no such file or folder"
    assert picture.startswith("picture.png: must be a folder or a file that ends in .jsonl")
    assert new("ragged.csv", "broken.jsonl", "empty", "stories.jsonl", "-o", "p.toml") == 2
    ragged, broken, empty = capsys.readouterr().err.splitlines()
    assert "ragged.csv" in ragged and "line 3" in ragged
    assert "broken.jsonl" in broken and "line 2" in broken
    assert "empty" in empty
    assert not list(folder.glob("*.toml"))


def test_a_plan_that_has_problems_is_kept_and_the_status_says_so(folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("LMP_DATASETS", "~nobody-at-all/x")
    assert new("stories.jsonl") == 2
    assert "LMP_DATASETS" in capsys.readouterr().err
    assert not Path("stories.toml").exists()


def test_names_that_files_have_and_plans_cannot(folder: Path) -> None:
    names = ["prev.jsonl", "ÄÖ ü.jsonl", "step-00000001.jsonl", "a.b.jsonl", "A-b.jsonl", f"{'x' * 90}.jsonl"]
    for name in names:
        Path(name).write_bytes(Path("stories.jsonl").read_bytes())
    assert new(*names, "-o", "names.toml", "--no-check") == 0
    found = [spec.name for spec in read_plan("names.toml").stages[0].datasets]
    assert len({name.lower() for name in found}) == len(names)
    assert new("ÄÖ ü.jsonl", "--no-check") == 0, "the plan's own name too"


def measured(rows: int, lengths: list[int], text: str | None = "text") -> Measured:
    spec = DatasetSpec("d", "/data/d.jsonl")
    columns = Columns(text=text, truth=None if text else "truth")
    return Measured(spec, columns, "text = text", (), rows, rows // 10, False, 1000, lengths, [n + 1 for n in lengths])


@pytest.mark.parametrize("suits", [SMALL, LARGE])
@pytest.mark.parametrize("rows", [1, 3, 40, 5_000, 10_000_000])
@pytest.mark.parametrize("lengths", [[1], [20] * 90 + [5000] * 10, [100_000], []])
def test_whatever_is_measured_gives_a_plan(suits, rows: int, lengths: list[int], tmp_path: Path) -> None:
    text = plan_text([measured(rows, lengths)], suits, "cpu", tmp_path / "p.toml")
    plan = parse_plan(text.replace("/data/d.jsonl", str(tmp_path)), name="p", file="p", folder=tmp_path)
    assert 32 <= plan.train["context_len"] <= 1024 and plan.train["batch_size"] >= 4
    assert plan.train["eval_interval"] >= 1 and all(1 <= stage.epochs <= 10 for stage in plan.stages)
    if lengths and rows > 1000 and len(lengths) > 1:
        assert plan.train["context_len"] == (64 if suits is LARGE else 32), "nine rows in ten fit"
        assert plan.train["batch_size"] == suits.batch_size
