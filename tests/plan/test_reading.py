"""The forms in which a plan may come, and what a dataset's name stands for."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lmplay_tui.plan.builtin import known_dataset
from lmplay_tui.plan.problems import PlanError
from lmplay_tui.plan.reading import parse_plan, problems_of, read_plan
from lmplay_tui.plan.schema import DatasetSpec, Plan

USERS = '{"pretraining": {"dataset": "wikipedia", "epochs": 3}, "finetune": {"dataset": "wikitext", "epochs": 1}}'


def plan_of(text: str, folder: Path = Path("/nowhere"), form="toml") -> Plan:
    return parse_plan(text, name="mine", file="mine.toml", folder=folder, form=form)


def dataset_of(name: str, folder: Path = Path("/nowhere"), tables: str = "") -> DatasetSpec:
    (stage,) = plan_of(f"{tables}\n[stages.s]\ndataset = {json.dumps(name)}\n", folder).stages
    (spec,) = stage.datasets
    return spec


def test_nothing_waits_for_pydantic_and_tree_sitter_until_a_plan_is_read():
    rooms = "builtin, dataset_specs, editing, problems, reading, schema"
    code = f"import sys; from lmplay_tui.plan import {rooms}; print({{'pydantic', 'tree_sitter'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_users_json_plan(tmp_path):
    path = tmp_path / "my plan.json"
    path.write_text(USERS, encoding="utf-8")
    plan = read_plan(str(path))
    assert plan.name == "my-plan"
    assert [(stage.name, stage.epochs) for stage in plan.stages] == [("pretraining", 3), ("finetune", 1)]
    assert plan.stages[0].datasets == (known_dataset("wikipedia"),)
    assert plan.stages[1].datasets == (known_dataset("wikitext"),)
    assert "[stages.pretraining]" in plan.text


def test_the_same_with_toml_tables_at_the_top():
    text = '[train]\nlr = 0.5\n[pretraining]\ndataset = "wikipedia"\nepochs = 3\n[finetune]\ndataset = "wikitext"\n'
    plan = plan_of(text)
    assert plan.stages == plan_of(USERS, form="json").stages
    assert plan.train == {"lr": 0.5}
    assert plan.text == text


def test_lmplays_plan():
    document = {
        "datasets": {
            "wiki_en": {"ds_loader": "wiki", "args": ["en"]},
            "wiki_es": {"ds_loader": "wiki", "args": ["es"]},
            "openorca": {"ds_loader": "openorca"},
            "orcamathword200": {
                "ds_loader": "hf",
                "args": ["orcamathword200", "microsoft/orca-math-word-problems-200k"],
                "kwargs": {"truth_column": "question", "prompt_column": "answer"},
            },
            "tinystories": {
                "ds_loader": "hf",
                "args": ["tinystories", "roneneldan/TinyStories"],
                "kwargs": {"truth_column": "text"},
            },
            "smoltalk_all": {
                "ds_loader": "hf",
                "args": ["smoltalk_all", "HuggingFaceTB/smoltalk", "all"],
                "kwargs": {"truth_column": "messages"},
            },
        },
        "seed": 7,
        "steps": [
            {"datasets": ["wiki_en", "wiki_es"], "epochs": 1.0, "step_name": "wiki_en_es", "seed": 3,
             "interleve_stopping_strategy": "all_exhausted"},
            {"datasets": ["openorca", "orcamathword200", "smoltalk_all"], "epochs": 0.5},
            {"datasets": ["tinystories"]},
        ],
    }  # fmt: skip
    plan = plan_of(json.dumps(document), form="json")
    assert plan.train == {"seed": 7}
    assert [(s.name, s.epochs, s.stopping, s.seed) for s in plan.stages] == [
        ("wiki_en_es", 1, "all_exhausted", 3), ("1", 0.5, "first_exhausted", None), ("2", 1, "first_exhausted", None),
    ]  # fmt: skip
    wiki_en, wiki_es = plan.stages[0].datasets
    openorca, math, smoltalk = plan.stages[1].datasets
    (stories,) = plan.stages[2].datasets
    assert wiki_es == replace(known_dataset("wikipedia:es"), name="wiki_es")
    assert wiki_en.config == "20231101.en"
    assert openorca == known_dataset("openorca")
    assert (math.prompt, math.truth, math.saved_as) == ("answer", "question", "orcamathword200")
    assert smoltalk == replace(known_dataset("smoltalk"), name="smoltalk_all")
    assert stories == replace(known_dataset("tinystories"), validation=None)


def test_the_specifications_example():
    text = """# A purpose.
#   In two lines.

# not this
title = "Wikipedia, then WikiText"
[train]
exp = "gpt2ish"
context_len = 512
[datasets.stories]
path = "roneneldan/TinyStories"
config = "default"
text = "text"
[stages.pretraining]
dataset = "wikipedia"
epochs = 3
[stages.finetune]
datasets = ["wikitext", "stories"]
weights = [7, 3]
stopping = "first_exhausted"
epochs = 1
lr = 1e-4
"""
    plan = plan_of(text)
    assert plan.title == "Wikipedia, then WikiText"
    assert plan.purpose == "A purpose. In two lines."
    assert plan.train == {"exp": "gpt2ish", "context_len": 512}
    finetune = plan.stage("finetune")
    assert finetune.weights == (0.7, 0.3)
    assert finetune.options == {"lr": 1e-4}
    assert finetune.datasets[1] == DatasetSpec("stories", "roneneldan/TinyStories", config="default", text="text")


def test_local_files_start_at_the_plans_folder_then_at_the_working_folder(tmp_path, monkeypatch):
    plans, work = tmp_path / "plans", tmp_path / "work"
    for folder, names in ((plans, ["a.txt", "both.csv"]), (work, ["b.JSONL", "both.csv", "c.parquet"])):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    (plans / "owner").mkdir()
    (plans / "owner" / "name").mkdir()
    monkeypatch.chdir(work)
    assert dataset_of("a.txt", plans) == DatasetSpec("a.txt", str(plans / "a.txt"))
    assert dataset_of("both.csv", plans).path == str(plans / "both.csv")
    assert dataset_of("b.JSONL", plans).path == str(work / "b.JSONL")
    assert dataset_of("../plans/a.txt", plans).path == str(plans / "a.txt")
    assert dataset_of(str(work / "c.parquet"), plans).path == str(work / "c.parquet")
    assert dataset_of("owner/name", plans).path == str(plans / "owner" / "name")
    assert dataset_of("owner/other", plans).path == "owner/other"
    (work / "d.zip").touch()
    (problem,) = problems_of('[stages.s]\ndataset = "d.zip"', file="x", folder=plans)
    assert "must be a folder or a file that ends in .jsonl" in problem.sentence


def test_a_plan_whose_files_lie_in_the_working_folder_is_found_from_elsewhere(tmp_path, monkeypatch):
    plans, work, elsewhere = (tmp_path / name for name in ("plans", "work", "elsewhere"))
    for folder in (plans, work, elsewhere):
        folder.mkdir()
    (work / "b.txt").touch()
    (plans / "a.txt").touch()
    monkeypatch.chdir(work)
    plan = plan_of('[stages.s]\ndataset = "b.txt"', plans)
    assert plan.folder == str(work)
    monkeypatch.chdir(elsewhere)
    assert plan_of(plan.text, Path(plan.folder)) == plan
    monkeypatch.chdir(work)
    assert plan_of('[stages.s]\ndatasets = ["b.txt", "a.txt"]', plans).folder == str(plans)
    assert plan_of('[stages.s]\ndataset = "pydocs"', plans).folder == str(plans)


def test_a_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.txt").touch()
    assert dataset_of("~/mine.txt").path == str(tmp_path / "mine.txt")


def test_the_working_folder_may_be_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileNotFoundError):
        os.getcwd()  # noqa: PTH109
    (problem,) = problems_of('[stages.s]\ndataset = "x.txt"', file="x", folder=tmp_path)
    assert problem.sentence == "no such file or folder: 'x.txt'"


def test_a_link_is_read_by_the_name_that_it_bears(tmp_path, monkeypatch):
    blobs, plans = tmp_path / "blobs", tmp_path / "plans"
    for folder in (blobs, plans, plans / "deep"):
        folder.mkdir()
    (blobs / "9f2c51d0aa").touch()
    (plans / "stories.jsonl").symlink_to("../blobs/9f2c51d0aa")
    (plans / "folder").symlink_to("../blobs")
    (plans / "data.bin").symlink_to(plans / "stories.jsonl")
    monkeypatch.chdir(plans / "deep")
    for name in ("stories.jsonl", "./stories.jsonl", "../plans/stories.jsonl", str(plans / "stories.jsonl")):
        assert dataset_of(name, plans).path == str(plans / "stories.jsonl")
    assert dataset_of("../stories.jsonl", tmp_path).path == str(plans / "stories.jsonl")
    assert dataset_of("folder", plans).path == str(plans / "folder")
    assert dataset_of("folder/..", plans).path == str(tmp_path)  # where the link leads to, one up
    (problem,) = problems_of('[stages.s]\ndataset = "data.bin"', file="x", folder=plans)
    assert "must be a folder or a file that ends in .jsonl" in problem.sentence


KINDS = ["a.jsonl", "a.JSON", "a.ndjson", "a.csv", "a.tsv", "a.txt", "a.text", "a.md", "a.parquet", "a.arrow",
         "a.jsonl.gz", "a.csv.zst", "a.json.bz2", "a.TXT.XZ", "a[1].jsonl", "a::b.jsonl"]  # fmt: skip
NO_KINDS = ["a", "a.gz", "a.parquet.gz", "a.zip", "a.jsonl.zip", "jsonl", ".jsonl", "a.docx"]


@pytest.mark.parametrize("name", [*KINDS, *NO_KINDS])
def test_kinds_of_files_by_their_names(name, tmp_path):
    (tmp_path / name).touch()
    text = f"[datasets.mine]\npath = {name!r}\n[stages.s]\ndataset = 'mine'"
    found = problems_of(text, file="x", folder=tmp_path)
    if name in KINDS:
        assert found == []
        assert plan_of(text, tmp_path).stages[0].datasets[0].path == str(tmp_path / name)
    else:
        assert [problem.sentence.split(" that ends in ")[0] for problem in found] == ["must be a folder or a file"]


def test_a_file_that_is_not_there_is_no_name_on_the_hub(tmp_path):
    for name in ("none.jsonl.gz", "data/none.arrow", "owner/none.csv.zst"):
        (problem,) = problems_of(f'[stages.s]\ndataset = "{name}"', file="x", folder=tmp_path)
        assert problem.sentence == f"no such file or folder: '{name}'"


def test_links_in_a_circle_are_no_file(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "b.txt")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    (problem,) = problems_of('[stages.s]\ndataset = "a.txt"', file="x", folder=tmp_path)
    assert problem.sentence == "no such file or folder: 'a.txt'"


def test_a_table_may_change_a_known_dataset():
    table = '[datasets.wikipedia]\npath = "wikipedia"\nconfig = "20231101.fr"'
    french = dataset_of("wikipedia", tables=table)
    assert (french.path, french.config, french.text, french.saved_as) == (
        "wikimedia/wikipedia", "20231101.fr", "text", None,
    )  # fmt: skip
    same = dataset_of("mine", tables='[datasets.mine]\npath = "smoltalk"')
    assert same == replace(known_dataset("smoltalk"), name="mine")
    other = dataset_of("mine", tables='[datasets.mine]\npath = "smoltalk"\ntext = "messages"')
    assert (other.text, other.messages) == ("messages", None)
    topics = dataset_of("topics", tables='[datasets.topics]\npath = "pydocs"\nconfig = "topics"')
    assert topics == replace(known_dataset("pydocs"), name="topics", config="topics")


def test_a_mistake_in_a_dataset_is_said_once_however_often_it_is_named():
    text = '[datasets.d]\npath = 3\n[stages.a]\ndataset = "d"\n[stages.b]\ndatasets = ["d", "pydocs"]\n'
    assert [p.key for p in problems_of(text, file="x", folder=Path("/nowhere"))] == ["datasets.d.path"]


def test_a_plan_and_a_path_of_one_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.toml").write_text('[stages.mine]\ndataset = "pydocs"\n', encoding="utf-8")
    assert read_plan("demo").stages[0].name != "mine"
    assert read_plan("demo.toml").stages[0].name == "mine"
    assert read_plan("./demo.toml").folder == str(tmp_path)
    with pytest.raises(PlanError, match="unknown plan"):
        read_plan("DEMO")


def stages(*splits: float | None) -> str:
    tables = (
        f'[stages.s{i}]\ndataset = "pydocs"\n' + ("" if split is None else f"validation_split = {split}\n")
        for i, split in enumerate(splits)
    )
    return "".join(tables)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (stages(0.2, 0.2), []),
        (stages(0.2), []),
        (stages(None, 0.1), []),  # 0.1 is the default
        ("[train]\nvalidation_split = 0.3\n" + stages(None, 0.3), []),
        (stages(0.2, 0.3, 0.2), [6]),
        (stages(None, 0.2), [5]),
        ("[train]\nvalidation_split = 0.3\n" + stages(0.3, 0.2, 0.25), [8, 11]),
        ("[train]\nvalidation_split = 0.3\n" + stages(0.2, 0.2), [5, 8]),
    ],
)
def test_rows_are_held_out_alike_in_every_stage(text, lines):
    problems = problems_of(text, file="mine.toml", folder=Path("/nowhere"))
    assert [problem.line for problem in problems] == lines
    for problem in problems:
        assert problem.key.endswith(".validation_split")
        assert "trained in another; set it once, in [train]" in problem.sentence


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (r'{"train": {"\ud800": 1, "lr": -1}, "s": {"dataset": "pydocs"}}', ["unknown key", "must be above 0, got -1"]),
        (r'{"s": {"dataset": "pydocs", "\ud800": 2}}', ["unknown key"]),
        (r'{"\ud800": 1, "s": {"dataset": "pydocs"}}', ["unknown key"]),
        (r'{"s": {"datasets": ["pydocs", "\ud800"]}}', [r"must be text, got '\ud800'"]),
        (r'{"datasets": {"\ud800": {"path": "a/b"}}, "s": {"dataset": "pydocs"}}', ["is no dataset name"]),
        (r'{"steps": [{"datasets": ["pydocs"], "\ud800": 1}]}', ["unknown key"]),
    ],
)
def test_half_a_character_is_a_mistake_where_it_stands_and_hides_no_other(text, said):
    problems = problems_of(text, file="mine.json", folder=Path("/nowhere"), form="json")
    assert [found.sentence[: len(words)] for found, words in zip(problems, said, strict=True)] == said
