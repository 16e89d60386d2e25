"""Rows that any stage of the plan validates on are trained in none, however they are named."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from lmplay_tui.data.batches import Position
from lmplay_tui.data.leak_guard import look_for_leaks
from lmplay_tui.data.sources import count_rows
from lmplay_tui.data.stage_data import StageData, open_stage
from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.data.worker import Job
from lmplay_tui.errors import UserError
from lmplay_tui.options import TrainOptions
from lmplay_tui.plan.schema import DatasetSpec, Stage
from tests.data.conftest import no_report

OPTIONS = TrainOptions(tokenizer="bytes", context_len=128, batch_size=4)
WORDS = "one of the many rows that teachers wrote down for the file"


def rows_of(name: str, count: int) -> list[dict[str, Any]]:
    return [{"text": f"{name} {n} is {WORDS}"} for n in range(count)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset with splits: 100 rows to train on, 40 to test."""
    for name, count in (("train", 100), ("test", 40)):
        write(tmp_path / "f" / f"{name}.jsonl", rows_of(name, count))
    return tmp_path / "f"


def plan(*given: DatasetSpec | Sequence[DatasetSpec]) -> tuple[Stage, ...]:
    every = [(one,) if isinstance(one, DatasetSpec) else tuple(one) for one in given]
    return tuple(Stage(name, specs) for name, specs in zip(("one", "two", "three"), every, strict=False))


def opened(stage: Stage, stages: tuple[Stage, ...], tmp_path: Path) -> StageData:
    data = open_stage(
        stage, OPTIONS, load_tokenizer("bytes"), datasets_folder=tmp_path / "saved", report=no_report, stages=stages
    )
    counted = count_rows(stage, OPTIONS, datasets_folder=tmp_path / "saved", stages=stages)
    assert counted == data.rows_total
    there = Job(stage, OPTIONS, "bytes", tmp_path / "saved", stages).open()
    assert there.fingerprint == data.fingerprint
    return data


def trained(data: StageData) -> set[str]:
    return {sample.truth for batch in data.batches(Position()) for sample in batch.samples}


def validated(data: StageData) -> set[str]:
    order = data.orders()[1]
    return {item.truth for row in range(order.rows) for item in order.items(row)}


def assert_apart(stages: tuple[Stage, ...], tmp_path: Path) -> list[StageData]:
    every = [opened(stage, stages, tmp_path) for stage in stages]
    on = {text for data in every for text in validated(data)}
    for data in every:
        assert trained(data)
        assert not trained(data) & on
    assert look_for_leaks([(stage.name, data) for stage, data in zip(stages, every, strict=True)]).leaked == 0
    return every


def notes(data: StageData) -> list[str]:
    return [note for part in data.parts for note in part.source.notes]


@pytest.mark.parametrize("other", [
    {"split": "train+test"}, {"split": "test[:30]+train[:20]"}, {"split": "train[50%:]+test[50%:]"},
])  # fmt: skip
@pytest.mark.parametrize("first", [0, 1])
def test_a_split_that_one_stage_validates_on_is_not_trained(
    folder: Path, tmp_path: Path, other: dict[str, str], first: int
) -> None:
    specs = [DatasetSpec("f", str(folder)), DatasetSpec("g", str(folder), **other)]
    stages = plan(specs[first], specs[1 - first])
    data = assert_apart(stages, tmp_path)[1 - first]
    name = stages[first].name
    assert any(f"rows that stage {name} validates on are not trained" in note for note in notes(data))


@pytest.mark.parametrize("name", ["split", "file", "link", "copy", "saved"])
def test_where_nothing_is_left_to_train_both_stages_are_named(folder: Path, tmp_path: Path, name: str) -> None:
    path = folder / "test.jsonl"
    if name == "link":
        (tmp_path / "l.jsonl").symlink_to(path)
        path = tmp_path / "l.jsonl"
    elif name == "copy":
        path = tmp_path / "copy.csv"
        path.write_text("id,text\n" + "".join(f"{n},test {n} is {WORDS}\n" for n in range(40)), encoding="utf-8")
    elif name == "saved":
        path = tmp_path / "disk"
        datasets.Dataset.from_list(rows_of("test", 40)).save_to_disk(str(path))
    spec = DatasetSpec("g", str(folder), split="test") if name == "split" else DatasetSpec("g", str(path))
    stages = plan(DatasetSpec("f", str(folder)), spec)
    with pytest.raises(UserError, match=r"(?s)g .*stage one validates on the 40 rows that stage two would train"):
        opened(stages[1], stages, tmp_path)


def test_a_file_with_rows_appended_to_those_that_are_validated_on(folder: Path, tmp_path: Path) -> None:
    longer = write(tmp_path / "longer.jsonl", rows_of("test", 60))
    data = assert_apart(plan(DatasetSpec("f", str(folder)), DatasetSpec("g", str(longer))), tmp_path)[1]
    assert "40 rows that stage one validates on are not trained" in notes(data)
    assert data.parts[0].training_rows + data.parts[0].validation_rows == 20


@pytest.mark.parametrize("validation", ["train[90%:]", "train[:10%]", "train[13:29]"])
def test_a_slice_to_validate_on_is_not_trained_by_itself_nor_as_a_file(
    folder: Path, tmp_path: Path, validation: str
) -> None:
    sliced = DatasetSpec("f", str(folder), validation=validation)
    for stages in (plan(sliced), plan(sliced, DatasetSpec("g", str(folder / "train.jsonl"))), plan([sliced])):
        assert_apart(stages, tmp_path)


def test_configurations_that_share_a_file(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "r" / f"{name}.jsonl", rows_of(name, 30))
    (tmp_path / "r" / "README.md").write_text(
        "---\nconfigs:\n- config_name: p\n  data_files: [{split: train, path: [a.jsonl, c.jsonl]}]\n"
        "- config_name: q\n  data_files: [{split: train, path: b.jsonl}, {split: test, path: a.jsonl}]\n---\n",
        encoding="utf-8",
    )
    specs = [DatasetSpec(config, str(tmp_path / "r"), config=config) for config in ("p", "q")]
    for stages in (plan(*specs), plan(*reversed(specs)), plan(specs)):
        assert_apart(stages, tmp_path)


def test_rows_that_one_stage_holds_out_are_not_trained_where_the_dataset_has_a_split_of_its_own(
    folder: Path, tmp_path: Path
) -> None:
    stages = plan(DatasetSpec("f", str(folder)), DatasetSpec("g", str(folder / "train.jsonl")))
    one, two = assert_apart(stages, tmp_path)
    assert trained(one) == trained(two)
    assert "10 rows that stage two validates on are not trained" in notes(one)
    assert one.fingerprint != opened(stages[0], stages[:1], tmp_path).fingerprint


def test_splits_that_only_begin_alike_are_trained_whole(tmp_path: Path) -> None:
    same = rows_of("greeting", 1)
    write(tmp_path / "f" / "train.jsonl", same + rows_of("train", 50))
    write(tmp_path / "f" / "test.jsonl", same + rows_of("test", 20))
    spec = DatasetSpec("f", str(tmp_path / "f"))
    assert opened(plan(spec)[0], plan(spec), tmp_path).rows_total == 51


def test_short_answers_alone_make_no_rows_the_same(tmp_path: Path) -> None:
    for name in ("train", "test"):
        rows = [{"prompt": f"{name} {n}?", "truth": "yes" if n % 3 else "no"} for n in range(40)]
        write(tmp_path / "f" / f"{name}.jsonl", rows)
    spec = DatasetSpec("f", str(tmp_path / "f"))
    assert opened(plan(spec)[0], plan(spec), tmp_path).rows_total == 40


def test_another_split_of_the_same_dataset_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(path: str, *_: Any, **__: Any) -> Any:
        assert path == "owner/name", "a download"
        return datasets.DatasetDict(
            {name: datasets.Dataset.from_list(rows_of(name, count)) for name, count in (("train", 50), ("test", 20))}
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    stages = plan(
        DatasetSpec("f", "owner/name"), DatasetSpec("g", "owner/name", split="train+test"),
        DatasetSpec("h", "owner/other"),
    )  # fmt: skip
    every = [
        open_stage(stage, OPTIONS, load_tokenizer("bytes"), datasets_folder=tmp_path, report=no_report, stages=stages)
        for stage in stages[:2]
    ]
    on = validated(every[0]) | validated(every[1])
    assert not (trained(every[0]) | trained(every[1])) & on


LONG = "a source that says at great length where all of this was found, by whom, and when, and why it was kept at all"
QA = [{"instruction": f"What is {n}?", "input": "", "output": f"It is {n}, as everybody knows who ever counted so far"}
      for n in range(40)]  # fmt: skip
COPIES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "a longer column beside the text": (rows_of("train", 40), [{"source": LONG} | row for row in rows_of("train", 40)]),
    "a rendered text": (QA, [row | {"text": f"Below it is said. {row['instruction']} {row['output']}"} for row in QA]),
    "a conversation": (QA, [
        {"messages": [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]}
        for row in QA
    ]),
    "other names": (QA, [{"id": f"{n} {LONG}", "prompt": row["instruction"], "truth": row["output"]}
                         for n, row in enumerate(QA)]),
}  # fmt: skip


@pytest.mark.parametrize("name", COPIES)
def test_what_is_read_decides_what_is_held_out_not_the_columns_beside_it(name: str, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate(COPIES[name])]
    one, other = (DatasetSpec(f"d{n}", str(file)) for n, file in enumerate(files))
    every = [opened(stage, (), tmp_path) for stage in plan(one, other)]
    assert validated(every[0]) == validated(every[1])
    assert len(validated(every[0])) == 4


def test_an_own_split_without_answers_gives_way_to_rows_held_out(tmp_path: Path) -> None:
    write(tmp_path / "f" / "train.jsonl", [{"prompt": f"What is {n}?", "truth": f"{n} it is."} for n in range(40)])
    write(tmp_path / "f" / "test.jsonl", [{"prompt": f"Who is {n}?", "truth": ""} for n in range(9)])
    data = opened(plan(DatasetSpec("f", str(tmp_path / "f")))[0], (), tmp_path)
    assert (data.parts[0].training_rows, data.parts[0].validation_rows) == (36, 4)
    assert any("its own validation split is left out, rows are held out" in note for note in notes(data))
    assert data.evaluation()
