"""The known datasets and the shipped plans are those that the documents name."""

import re
import subprocess
import sys
import zipfile

import pytest

from lmplay_tui.plan.builtin import KNOWN_NAMES, known_dataset, shipped_folder, shipped_plans
from lmplay_tui.plan.dataset_specs import COLUMNS, column_problems
from lmplay_tui.plan.reading import read_plan

OFFLINE = ("demo", "curriculum_demo")

KNOWN = {
    "wikipedia": ("wikimedia/wikipedia", "20231101.en", ("text", "title"), "wikimedia_wikipedia_20231101_en"),
    "wikipedia:es": ("wikimedia/wikipedia", "20231101.es", ("text", "title"), "wikimedia_wikipedia_20231101_es"),
    "wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1", ("text",), None),
    "wikitext:2": ("Salesforce/wikitext", "wikitext-2-raw-v1", ("text",), None),
    "fineweb-edu": ("HuggingFaceFW/fineweb-edu", "sample-10BT", ("text",), None),
    "tinystories": ("roneneldan/TinyStories", None, ("text",), "tinystories"),
    "openorca": ("Open-Orca/OpenOrca", None, ("question", "system_prompt", "response"), "Open_Orca_OpenOrca"),
    "orcamath": ("microsoft/orca-math-word-problems-200k", None, ("question", "answer"), "orcamathword200"),
    "smoltalk": ("HuggingFaceTB/smoltalk", "all", ("messages",), "smoltalk_all"),
    "cosmopedia": ("HuggingFaceTB/smollm-corpus", "cosmopedia-v2", ("text",), "cosmopedia_v2"),
    "pydocs": ("pydocs", None, ("text", "title"), None),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_dataset_is_what_the_documents_say(name):
    spec = known_dataset(name)
    assert spec is not None
    columns = [column for column in COLUMNS if getattr(spec, column) is not None]
    assert column_problems(columns) == []
    path, config, values, saved_as = KNOWN[name]
    assert (spec.name, spec.path, spec.config, spec.saved_as) == (name, path, config, saved_as)
    assert {getattr(spec, column) for column in columns} == set(values)


def test_no_other_dataset_is_known():
    assert {name.partition(":")[0] for name in KNOWN} == set(KNOWN_NAMES)
    for name in ("", "wikipedia:", "wikipedia:EN", "wikipedia:../x", "wikitext:4", "pydocs:topics", "Wikipedia"):
        assert known_dataset(name) is None


def test_the_shipped_plans_are_those_that_the_documents_name():
    names = ["demo", "curriculum_demo", "default", "fineweb", "full", "tinystories", "wikitext3"]
    assert shipped_plans() == names


@pytest.mark.parametrize("name", shipped_plans())
def test_a_shipped_plan_says_what_it_is_for_and_how_long_it_takes(name):
    plan = read_plan(name)
    assert plan.title
    assert re.search(r"minutes|hours|days|weeks", plan.purpose)
    offline = all(spec.path == "pydocs" for stage in plan.stages for spec in stage.datasets)
    assert offline == (name in OFFLINE)
    assert "network" in plan.purpose or "downloads" in plan.purpose


def test_the_demos_show_what_they_are_for():
    demo = read_plan("demo")
    assert 2 <= len(demo.stages) <= 3
    assert demo.train["tokenizer"].startswith("gpt2:")
    curriculum = read_plan("curriculum_demo")
    assert len({stage.options["lr"] for stage in curriculum.stages}) >= 2
    assert any(stage.weights is not None and len(stage.datasets) > 1 for stage in curriculum.stages)


def test_an_installed_package_finds_the_plans_inside_it(tmp_path):
    package = tmp_path / "site-packages" / "lmplay_tui"
    (package / "plan").mkdir(parents=True)
    (package / "plans").mkdir()
    (tmp_path / "site-packages" / "plans").mkdir()
    assert shipped_folder(package) == package / "plans"
    (package / "plans").rmdir()
    assert shipped_folder(package) == tmp_path / "site-packages" / "plans"


@pytest.mark.slow
def test_the_wheel_holds_the_plans(tmp_path):
    root = shipped_folder().parent
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(root)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"lmplay_tui/plans/{name}.toml" for name in shipped_plans()} <= set(names)
