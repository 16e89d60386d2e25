"""A box without network: store a plan's datasets where there is a hub, copy the folder, train where there is none.

The hub is a folder laid out as its repositories are: `datasets` reads `owner/name` below the working folder by the
same code as one that it has fetched. The commands run as processes, each machine with a home of its own.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch

from tests.train.runs import SENTENCES

TINY = ["--exp", "test_runner", "--num-blocks", "1", "--embed-dim", "16", "--num-heads", "2", "--context-len", "64",
        "--tokenizer", "bytes", "--batch-size", "4", "--device", "cpu"]  # fmt: skip
PLAN = """\
[stages.encyclopedia]
dataset = "wikipedia"
[stages.mixed]
datasets = ["wikipedia", "wikitext:2"]
"""


def rows(name: str, count: int, *columns: str) -> datasets.Dataset:
    return datasets.Dataset.from_dict({
        column: [f"{name} {n}" if column == "title" else " ".join((f"{name} {n}.", *SENTENCES[n % 5 :]))
                 for n in range(count)]
        for column in columns
    })  # fmt: skip


def a_hub(folder: Path) -> None:
    """Two repositories of the hub: a configuration is a folder, a split is its Parquet files."""
    for repository, config, splits, columns in (
        ("wikimedia/wikipedia", "20231101.en", {"train": 24}, ("title", "text")),
        ("Salesforce/wikitext", "wikitext-2-raw-v1", {"train": 12, "validation": 3, "test": 3}, ("text",)),
    ):
        card = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
        for split, count in splits.items():
            file = f"{config}/{split}-00000-of-00001.parquet"
            (folder / repository / config).mkdir(parents=True, exist_ok=True)
            rows(f"{config} {split}", count, *columns).to_parquet(str(folder / repository / file))
            card += [f"  - split: {split}", f"    path: {file}"]
        (folder / repository / "README.md").write_text("\n".join([*card, "---", ""]), encoding="utf-8")


def command(place: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`lmp_trainer WORDS` on the machine whose disk is `place`."""
    program = Path(sys.executable).with_name("lmp_trainer")
    own = {"HOME": str(place), "HF_HOME": str(place / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(program), *words], cwd=place, env={**os.environ, **own, **environment}, check=False, timeout=120,
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(300)
def test_stored_copied_and_trained_without_network(tmp_path: Path) -> None:
    connected, box = tmp_path / "connected", tmp_path / "box"
    for place in (connected, box):
        place.mkdir()
        (place / "plan.toml").write_text(PLAN, encoding="utf-8")
    a_hub(connected)
    stored = command(connected, "--training-plan", "plan.toml", "--save-datasets")
    assert stored.returncode == 0, stored.stderr
    names = ["Salesforce_wikitext_wikitext-2-raw-v1.train", "Salesforce_wikitext_wikitext-2-raw-v1.validation",
             "wikimedia_wikipedia_20231101_en.train"]  # fmt: skip
    assert sorted(path.name for path in (connected / "out_gpt/datasets").iterdir()) == names
    assert all(name in stored.stdout for name in names)

    without = command(box, "--training-plan", "plan.toml", "--model", "m", *TINY)
    assert without.returncode != 0
    assert "--save-datasets" in without.stderr
    assert "Traceback" not in without.stderr

    shutil.copytree(connected / "out_gpt/datasets", box / "copied")
    trained = command(box, "--training-plan", "plan.toml", "--model", "m", *TINY, LMP_DATASETS=str(box / "copied"))
    assert trained.returncode == 0, trained.stderr
    checkpoint = torch.load(box / "m.lmp", weights_only=True)
    stages = checkpoint["runner"]["state"]["step_stats"]
    assert stages["encyclopedia"]["total_train_samples"] > 0
    assert stages["mixed"]["total_train_samples"] > stages["encyclopedia"]["total_train_samples"]
    written = json.loads((box / "copied/m_train_stats.json").read_text(encoding="utf-8"))
    assert written["columns"] == ["samples", "accuracy", "loss", "tokens"]
