"""`lmplay-tui check`: what would fail in hour six, said now."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from lmplay_tui import cli
from tests import reference
from tests.commands.asked import help_of, write_stories
from tests.faults.terminals import Terminal
from tests.train.runs import SENTENCES, write_plan

TINY = ["--exp", "test_runner", "--num-blocks", "1", "--embed-dim", "16", "--num-heads", "2", "--context-len", "64",
        "--tokenizer", "bytes", "--batch-size", "4", "--device", "cpu"]  # fmt: skip
PLAN = """\
[stages.first]
dataset = "local.jsonl"
epochs = 2
[stages.second]
datasets = ["local.jsonl", "other.jsonl"]
weights = [0.5, 0.5]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_stories(tmp_path / "local.jsonl", tmp_path / "other.jsonl")
    return tmp_path


def check(*words: str) -> int:
    return cli.main(["check", *words])


def test_a_good_plan_is_shown_and_tried_and_leaves_nothing_behind(folder, capsys):
    assert check(write_plan(folder, PLAN), *TINY) == 0
    out = capsys.readouterr().out
    assert "first" in out
    assert "second" in out
    assert re.search(r'prompt: "Title: Story \d+⏎"\n', out)
    assert out.count("ok  ") == 3
    assert "estimate" in out or "(est.)" in out
    assert sorted(path.name for path in folder.iterdir()) == ["local.jsonl", "other.jsonl", "plan.toml"]


def test_json_says_the_same(folder, capsys):
    assert check(write_plan(folder, PLAN), "--json", *TINY) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    first = report["stages"][0]
    assert first["rows"] == 36
    assert first["steps_estimate"] > 0
    assert first["tokens_estimate"] > 0
    assert [step["ok"] for step in report["tried"]] == [True, True, True]
    assert report["disk"]["needed_bytes"] > 0
    page = reference.PATH.read_text(encoding="utf-8").partition("## What check says")[2].partition("\n## ")[0]
    assert {*report, *first, *first["data"][0], *first["samples"][0]} <= set(re.findall(r"`(\w+)`", page))


def test_estimates_are_near_what_training_counts(folder, capsys):
    plan = write_plan(folder, '[stages.first]\ndataset = "local.jsonl"\nepochs = 3\n')
    assert check(plan, "--json", *TINY) == 0
    stage = json.loads(capsys.readouterr().out)["stages"][0]
    from lmplay_tui.run.events import StepDone
    from tests.train.runs import train

    given = {"exp": "test_runner", "num_blocks": 1, "embed_dim": 16, "num_heads": 2, "context_len": 64}
    events = train(training_plan=plan, model="m.lmp", tokenizer="bytes", batch_size=4, **given)
    steps = [event for event in events if isinstance(event, StepDone)]
    assert stage["rows"] == steps[-1].rows
    assert stage["steps_estimate"] == pytest.approx(len(steps), rel=0.25)
    assert stage["tokens_estimate"] == pytest.approx(steps[-1].tokens, rel=0.25)


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_hub_that_cannot_be_reached_is_one_line_and_the_other_stages_are_tried(folder, capsys, form):
    plan = write_plan(folder, PLAN + '[stages.third]\ndataset = "tinystories"\n')
    assert check(plan, *form, *TINY) == 2
    out = capsys.readouterr().out
    if form:
        report = json.loads(out)
        assert report["ok"] is False
        assert len(report["problems"]) == 1
        said = report["problems"][0]
    else:
        lines = [line for line in out.splitlines() if line.startswith("NO ")]
        assert len(lines) == 1
        said = lines[0]
        assert out.count("ok  ") == 3
    assert "third" in said
    assert "tinystories" in said.lower()


def test_all_problems_of_a_bad_plan(folder, capsys):
    plan = write_plan(folder, '[stages.a]\ndataset = "local.jsonl"\nepochs = -1\nbatchsize = 3\n')
    assert check(plan, *TINY) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 2
    assert all("plan.toml:" in line for line in err)
    assert check(plan, "--json", *TINY) == 2
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 2


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_all_that_is_wrong_with_the_line_what_it_names_and_the_plan_at_once(folder, capsys, form):
    plan = write_plan(folder, '[stages.a]\ndataset = "local.jsonl"\nepochs = -1\n')
    words = ["--lr", "nonsense", "--lrr=3", "--exp", "gpt2is", "--tokenizer", "gpt5", "--shard", "full"]
    assert check(plan, *words, *form) == 2
    out, err = capsys.readouterr()
    said = json.loads(out)["problems"] if form else err.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "lmplay-tui check", "--lr", plan, "--shard full",
        "unknown experiment gpt2is; did you mean gpt2ish?; see --exp list",
        "tokenizer gpt5 is unknown; did you mean gpt2?; known",
    ]  # fmt: skip
    assert said[0] == "lmplay-tui check: unknown option '--lrr'; did you mean --lr?"


def test_a_wrong_column_is_said_with_a_mistake_of_the_line_and_else_in_the_report(folder, capsys):
    plan = write_plan(
        folder, '[datasets.d]\npath = "local.jsonl"\ntext = "txt"\n[stages.a]\ndataset = "d"\n[stages.b]\n'
        'dataset = "other.jsonl"\n',
    )  # fmt: skip
    assert check(plan, "--lr", "0", *TINY) == 2
    line, column = capsys.readouterr().err.splitlines()
    assert line.startswith("--lr: ")
    assert column.startswith(f"{plan}:1: dataset d: there is no column txt")
    assert check(plan, *TINY) == 2
    out = capsys.readouterr().out
    assert "there is no column txt" in out
    assert out.count("ok  ") == 3, "the other stage is tried"


def test_a_shape_that_cannot_be_is_one_line(folder, capsys):
    words = [word if word != "2" else "3" for word in TINY]
    assert check(write_plan(folder, PLAN), *words) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_help_reads_well(capsys):
    assert help_of(check, capsys).startswith("usage: lmplay-tui check PLAN [options]")


@pytest.mark.long
@pytest.mark.parametrize("name", ["demo", "curriculum_demo"])
def test_shipped_plans_without_network_pass(name, folder, capsys):
    assert check(name, "--num-blocks", "1", "--embed-dim", "16", "--num-heads", "2", "--device", "cpu") == 0
    assert "3 stages" in capsys.readouterr().out


@pytest.mark.long_after(1)
@pytest.mark.parametrize("name", ["default", "full", "fineweb", "tinystories", "wikitext3"])
def test_shipped_plans_of_the_hub_say_in_a_line_that_it_cannot_be_reached(name, folder, capsys):
    assert check(name, *TINY) == 2
    out = capsys.readouterr().out
    problems = [line for line in out.splitlines() if line.startswith("NO")]
    assert problems
    assert len(problems) == len({line.split(":")[0] for line in problems})  # one a stage
    assert all("HF_HUB_OFFLINE is set" in line or "hub" in line for line in problems)
    assert "Traceback" not in out


def test_options_that_only_host_a_run_are_not_offered(folder, capsys):
    out = help_of(check, capsys)
    assert "--num-blocks" in out
    assert "--json" in out
    assert "--detach" not in out
    assert "--save-datasets" not in out


def no(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("NO ")]


@pytest.mark.long
def test_the_weights_to_begin_with_are_loaded(folder, capsys):
    from tests.train.runs import train

    plan = write_plan(folder, PLAN)
    given = {"exp": "test_runner", "num_blocks": 1, "num_heads": 2, "context_len": 64, "tokenizer": "bytes"}
    train(training_plan=plan, model="same.lmp", embed_dim=16, **given)
    train(training_plan=plan, model="other.lmp", embed_dim=8, **given)
    assert check(plan, *TINY, "--initial-model", "same.lmp") == 0
    assert "ok  the weights of same.lmp fit" in capsys.readouterr().out
    (folder / "half.lmp").write_bytes((folder / "same.lmp").read_bytes()[:1000])
    for name, said in (("other.lmp", "has shape"), ("half.lmp", "damaged"), ("none.lmp", "no such file")):
        assert check(plan, *TINY, "--initial-model", name) == 2
        (line,) = no(capsys.readouterr().out)
        assert line.startswith(f"NO  --initial-model: {name}: ")
        assert said in line


def test_the_disk_must_have_room_for_what_keep_holds(folder, capsys, monkeypatch):
    plan = write_plan(folder, PLAN)
    needed = {}
    for keep in (0, 3, 100_000):
        assert check(plan, *TINY, "--keep", str(keep), "--save-interval", "10", "--json") == 0
        needed[keep] = json.loads(capsys.readouterr().out)["disk"]["needed_bytes"]
    one = needed[0] // 5  # NAME.lmp, NAME.prev.lmp, NAME.best.lmp, and one a stage
    assert needed[3] == needed[0] + 3 * one
    assert needed[3] < needed[100_000] < needed[0] + 30 * one  # no more than will be saved
    disk = shutil.disk_usage(folder)._replace(free=needed[0] + one)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: disk)
    assert check(plan, *TINY, "--keep", "1") == 0
    capsys.readouterr()
    assert check(plan, *TINY, "--keep", "2", "--save-interval", "10") == 2
    (line,) = no(capsys.readouterr().out)
    assert "7 checkpoints" in line


@pytest.mark.long
def test_compiling_is_tried(folder, capsys):
    plan = write_plan(folder, PLAN)
    assert check(plan, *TINY, "--compile-model", "--compile-backend", "eager") == 0
    assert "ok  compiled, eager" in capsys.readouterr().out
    assert check(plan, *TINY, "--compile-model", "--compile-backend", "nonsense") == 2
    (line,) = no(capsys.readouterr().out)
    assert line.startswith("NO  compiling: torch.compile failed")


# ------------------------------------------------------------------ what is read of the data


def write_rows(folder: Path, name: str, rows: list[dict]) -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def report_of(capsys, *words: str) -> dict:
    check(*words, "--json")
    return json.loads(capsys.readouterr().out)


def test_each_dataset_of_a_mixture_shows_what_is_read_of_it_and_its_own_first_rows(folder, capsys):
    write_rows(folder, "pairs.jsonl", [{"id": i, "prompt": f"Ask\n{i}?", "truth": f"Say\t{i}.\n"} for i in range(40)])
    plan = write_plan(folder, '[stages.both]\ndatasets = ["local.jsonl", "pairs.jsonl"]\n')
    assert check(plan, *TINY) == 0
    out = capsys.readouterr().out
    assert "dataset local.jsonl: columns: text = text, title = title" in out
    assert "dataset pairs.jsonl: columns: prompt = prompt, truth = truth; left out: id" in out
    assert re.search(r'prompt: "Title: Story \d+⏎"\n', out)
    assert '    prompt: "Ask⏎' in out
    assert '    truth:  "Say    ' in out
    assert '.⏎"<|endoftext|>' in out
    report = report_of(capsys, plan, *TINY)
    texts, pairs = report["stages"][0]["data"]
    assert (texts["name"], pairs["name"]) == ("local.jsonl", "pairs.jsonl")
    assert pairs["columns"] == "prompt = prompt, truth = truth; left out: id"
    assert pairs["notes"] == []
    assert pairs["rows"] + pairs["rows_held_out"] == 40
    sample = pairs["samples"][0]
    assert sample["prompt"].startswith("Ask\n")
    assert sample["truth"].startswith("Say\t")
    assert sample["ends"] is True
    assert texts["samples"][0]["ends"] is False, "it goes on in the next sample"


def test_an_empty_prompt_is_shown_as_the_mark_that_it_is(folder, capsys):
    write_rows(folder, "bare.jsonl", [{"text": f"Row {i}."} for i in range(20)])
    assert check(write_plan(folder, '[stages.bare]\ndataset = "bare.jsonl"\n'), *TINY) == 0
    assert '    prompt: <|endoftext|>\n    truth:  "Row ' in capsys.readouterr().out


def test_a_dataset_that_stages_read_alike_is_shown_once(folder, capsys):
    same = 'dataset = "local.jsonl"\n'
    assert check(write_plan(folder, f"[stages.a]\n{same}[stages.b]\n{same}"), *TINY) == 0
    assert capsys.readouterr().out.count("columns: ") == 1


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("blank", [{"text": " "}] * 20),
        ("truths", [{"prompt": "a", "truth": ""}] * 20),
        ("roles", [{"messages": [{"role": "narrator", "content": "Once."}, {"role": "x", "content": "y"}]}] * 20),
    ],
)
def test_a_dataset_without_a_sample_is_one_sentence_that_names_it(folder, capsys, name, rows):
    write_rows(folder, f"{name}.jsonl", rows)
    plan = write_plan(folder, f'[stages.good]\ndataset = "local.jsonl"\n[stages.bad]\ndataset = "{name}.jsonl"\n')
    assert check(plan, *TINY) == 2
    out = capsys.readouterr().out
    (line,) = no(out)
    assert line.startswith(f"NO  stage bad: dataset {name}.jsonl: ")
    assert "Error" not in out
    assert out.count("ok  ") == 3, "the other stage is tried all the same"
    report = report_of(capsys, plan, *TINY)
    assert [problem.startswith("stage bad: ") for problem in report["problems"]] == [True]


def test_a_stage_that_would_train_nothing_is_a_problem(folder, capsys):
    """Its dataset has words, but not in the rows that the stage reads."""
    write_rows(folder, "late.jsonl", [{"text": ""}] * 9 + [{"text": "Words."}] * 9)
    plan = write_plan(folder, '[stages.late]\ndataset = "late.jsonl"\nepochs = 0.5\n')
    assert check(plan, *TINY, "--validation-split", "0") == 2
    out = capsys.readouterr().out
    assert no(out) == ["NO  stage late: nothing would be trained in it: none of its 9 rows gives a sample"]
    assert "Error" not in out


def test_rows_without_a_sample_are_estimated(folder, capsys):
    write_rows(folder, "gaps.jsonl", [{"text": "Words." if i % 4 else ""} for i in range(400)])
    plan = write_plan(folder, '[stages.gaps]\ndataset = "gaps.jsonl"\nepochs = 2\n')
    assert check(plan, *TINY, "--validation-split", "0") == 0
    out = capsys.readouterr().out
    (stage,) = report_of(capsys, plan, *TINY, "--validation-split", "0")["stages"]
    assert stage["rows_without_sample_estimate"] == pytest.approx(200, rel=0.1)
    assert stage["steps_estimate"] == pytest.approx(150, rel=0.1)
    assert f"about {stage['rows_without_sample_estimate']} of 800 rows give no sample (est.)" in out
    assert stage["data"][0]["rows_sampled"] < 400


@pytest.mark.parametrize("kept", [False, True])
def test_text_left_out_is_warned_of_with_figure_and_remedy(folder, capsys, kept):
    write_rows(folder, "long.jsonl", [{"text": " ".join(SENTENCES * 60)}] * 4)
    options = f"batch_size = 10\ncontinue_rows = {str(kept).lower()}\n"
    plan = write_plan(folder, f'[stages.both]\ndatasets = ["local.jsonl", "long.jsonl"]\n{options}')
    words = [word for word in TINY if word not in ("--batch-size", "4")]
    assert check(plan, *words) == 0
    warned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARN ")]
    report = report_of(capsys, plan, *words)
    assert report["ok"] is True
    if kept:
        assert warned == report["warnings"] == []
        return
    figure = report["stages"][0]["data"][1]["text_shown"]
    assert figure < 0.5
    assert f"WARN {report['warnings'][-1]}" == warned[-1]
    assert all(word in warned[-1] for word in ("long.jsonl", f"{100 * figure:.1f} %", "continue_rows = true"))


@pytest.mark.parametrize("duplicates", [0, 3])
def test_rows_that_carry_an_evaluation_text_are_counted(folder, capsys, duplicates):
    """`other.jsonl` has rows of its own, and copies of a split that the first stage validates on."""
    rows = [{"text": f"Row {n} says so."} for n in range(30)]
    for name, part in (("train", rows[:20]), ("validation", rows[20:])):
        (folder / "split").mkdir(exist_ok=True)
        (folder / f"split/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    own = [{"text": f"Another row, {n}."} for n in range(17)] + rows[20 : 20 + duplicates]
    (folder / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")
    plan = write_plan(
        folder, '[train]\nvalidation_split = 0.0\n[stages.a]\ndataset = "split"\n[stages.b]\ndataset = "other.jsonl"\n'
    )
    assert check(plan, "--json", *TINY) == 0
    found = json.loads(capsys.readouterr().out)["leak_guard"]
    looked = 20 + 17 + duplicates
    assert (found["leaked"], found["rows_looked_at"], found["evaluation_rows"]) == (duplicates, looked, 10)
    assert found["by_stage"]["b"]["of_evaluation_of"] == ({"a": duplicates} if duplicates else {})
    assert found["by_stage"]["a"]["leaked"] == 0
    assert check(plan, *TINY) == 0
    said = "stage b trains 3 of 20 rows whose text is in an evaluation set (3 of stage a's)" if duplicates else (
        "no training row carries an evaluation text (37 rows looked at)"
    )  # fmt: skip
    assert f"leak guard: {said}" in capsys.readouterr().out.splitlines()


@pytest.mark.long
def test_in_a_terminal_it_shows_what_it_is_at(folder: Path) -> None:
    """In one line, which is gone when the report comes."""
    plan = write_plan(folder, PLAN)
    words = [sys.executable, "-m", "lmplay_tui.cli", "check", plan, *TINY]
    with Terminal(lambda: os.execv(sys.executable, words)) as terminal:  # torch is not for a forked process
        assert terminal.wait() == 0
    first_line, _, report = terminal.output.decode().partition("plan plan:")
    shown = [text for text in first_line.split("\r\x1b[K") if text]
    wanted = [
        "loading the tokenizer",
        "opening stage first",
        "opening stage second",
        "trying training",
        "trying saving",
    ]
    places = [next(i for i, text in enumerate(shown) if text.startswith(words)) for words in wanted]
    assert places == sorted(places)
    assert first_line.endswith("\r\x1b[K")
    assert all(len(text) < 80 and "\n" not in text for text in shown)
    assert "\x1b" not in report


def test_without_a_terminal_only_the_report_is_printed(folder, capsys):
    assert check(write_plan(folder, PLAN), *TINY) == 0
    assert capsys.readouterr().err == ""
