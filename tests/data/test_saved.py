"""The datasets folder: whole or absent, and read by a run without network."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from lmplay_tui.data.saved import find, save_datasets, saved_names
from lmplay_tui.data.sources import open_source
from lmplay_tui.errors import DataError, UserError
from lmplay_tui.plan.schema import DatasetSpec, Plan, Stage
from tests.data.conftest import no_report

ROWS = datasets.Dataset.from_dict({"title": [f"T{n}" for n in range(20)], "text": [f"Row {n}." for n in range(20)]})
WIKI = DatasetSpec("wikipedia", "wikimedia/wikipedia", "20231101.en", text="text", title="title",
                   saved_as="wikimedia_wikipedia_20231101_en")  # fmt: skip
WIKITEXT = DatasetSpec("wikitext", "Salesforce/wikitext", "wikitext-2-raw-v1")


def plan(*specs: DatasetSpec) -> Plan:
    return Plan("p", tuple(Stage(f"s{number}", (spec,)) for number, spec in enumerate(specs)))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def load(path: str, *_: Any, **__: Any) -> Any:
        asked.append(path)
        found = datasets.DatasetDict({"train": ROWS})
        if path == WIKITEXT.path:
            found["validation"] = ROWS.select(range(3))
        return found

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def no_hub(*_: Any, **__: Any) -> None:
    raise ConnectionError("away")


def rows_of(spec: DatasetSpec, folder: Path) -> tuple[list[str], int | None]:
    source = open_source(spec, datasets_folder=folder, report=no_report)
    truths = [source.train.items(row)[0].truth for row in range(source.train.num_rows)]
    return truths, source.validation.num_rows if source.validation else None


def test_what_is_saved_is_read_without_network(hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "datasets"
    local = DatasetSpec("own", str(tmp_path / "own.jsonl"))
    before = [rows_of(spec, folder) for spec in (WIKI, WIKITEXT)]
    paths = save_datasets(plan(WIKI, WIKITEXT, local, DatasetSpec("pydocs", "pydocs"), WIKI), folder, no_report)
    assert paths == [
        folder / "wikimedia_wikipedia_20231101_en.train",
        folder / "Salesforce_wikitext_wikitext-2-raw-v1.train",
        folder / "Salesforce_wikitext_wikitext-2-raw-v1.validation",
    ]
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in paths)
    monkeypatch.setattr(datasets, "load_dataset", no_hub)
    assert [rows_of(spec, folder) for spec in (WIKI, WIKITEXT)] == before == [
        ([f"Row {n}." for n in range(20)], None), ([f"Row {n}." for n in range(20)], 3)
    ]  # fmt: skip
    assert save_datasets(plan(WIKI, WIKITEXT), folder, no_report) == paths  # what is there is not fetched again


def test_the_same_rows_are_held_out_of_a_saved_copy(hub: list[str], tmp_path: Path) -> None:
    from lmplay_tui.data.order import StagePart

    there = StagePart(open_source(WIKI, datasets_folder=tmp_path, report=no_report), share=0.1, seed=0)
    save_datasets(plan(WIKI), tmp_path, no_report)
    saved = StagePart(open_source(WIKI, datasets_folder=tmp_path, report=no_report), share=0.1, seed=0)
    assert [saved.validation(n) for n in range(2)] == [there.validation(n) for n in range(2)]
    assert saved.fingerprint() == there.fingerprint()


def places(**changes: Any) -> str:
    return json.dumps([{"identity": "a", "first": 5, "rows": 20} | changes])


STRANGE_PLACES = {
    "infinity": '[{"identity": "a", "first": 1e999, "rows": 20}]',
    "a number without an end": places(first=10**4000),
    "brackets": "[" * 100_000,
    "before the first row": places(first=-1),
    "fewer rows than none": json.dumps([{"identity": "a", "first": 0, "rows": rows} for rows in (30, -10)]),
    "true": json.dumps([{"identity": "a", "first": 0, "rows": rows} for rows in (True, 19)]),
    "a fraction": places(rows=20.5),
    "text": places(rows="20"),
    "no name": places(identity=["a"]),
    "no place": '[{"identity": "a", "rows": 20}]',
    "other rows": places(rows=19),
    "no list": '{"identity": "a"}',
    "no table": "[20]",
    "nothing": "",
}


@pytest.mark.parametrize("said", [pytest.param(said, id=name) for name, said in STRANGE_PLACES.items()])
def test_places_that_no_save_has_written_are_not_used(said: str, hub: list[str], tmp_path: Path) -> None:
    [folder] = save_datasets(plan(WIKI), tmp_path, no_report)
    (folder / "lmplay_tui_places.json").write_text(places(), encoding="utf-8")
    given = open_source(WIKI, datasets_folder=tmp_path, report=no_report).segments
    assert [(one.identity, one.first, one.rows) for one in given] == [("a", 5, 20)]
    (folder / "lmplay_tui_places.json").unlink()
    own = open_source(WIKI, datasets_folder=tmp_path, report=no_report).segments
    (folder / "lmplay_tui_places.json").write_text(said, encoding="utf-8")
    assert open_source(WIKI, datasets_folder=tmp_path, report=no_report).segments == own


def test_parts_of_a_dataset_have_names_of_their_own() -> None:
    names = {
        name
        for config in (None, "a.b")
        for revision in (None, "1")
        for split in ("train", "train[:10%]", "train[10%:]", "train[10:]", "train+test", "train[:5]+test")
        for name in saved_names(DatasetSpec("x", "owner/name", config, revision, split))
    }
    assert len(names) == 4 * (2 + 5)  # a whole split has one of plain words besides
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") for name in names)


def own(**given: str) -> DatasetSpec:
    return DatasetSpec("own", **({"path": "owner/own"} | given))


ALIKE: dict[str, list[DatasetSpec]] = {  # datasets whose names are the same words, or nearly
    "halves": [own(split="train[:50%]"), own(split="train[50%:]")],
    "rows and percent": [own(split="train[10:20]"), own(split="train[10%:20%]")],
    "sums": [own(split="train+test"), own(split="train[:3]+test"), own(split="test")],
    "a slice, then the whole": [own(split="train[:50%]"), own()],
    "the whole, then a slice": [own(), own(split="train[50%:]"), own(split="test[:2]")],
    "another to validate on": [own(), own(validation="test"), own(validation="validation")],
    "a slice to validate on": [own(), own(split="train[:90%]", validation="train[90%:]")],
    "another slice to validate on": [
        own(split="train[:90%]", validation=v) for v in ("train[90%:]", "train[95%:]", "validation[:2]")
    ],
    "a slice of another split": [
        own(validation="validation"),
        own(validation="validation[:2]"),
        own(validation="test[:2]"),
    ],
    "a configuration and a split": [own(config="test"), own(split="test")],
    "a configuration and a revision": [own(config="b"), own(revision="b")],
    "owners": [own(path="a_b/c"), own(path="a/b_c"), own(path="a/b", config="c")],
    "LMPlay's name": [own(saved_as="lm"), own(saved_as="lm", path="other/own"), own(saved_as="lm", split="train[:2]")],
}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("name", ALIKE)
def test_no_copy_is_taken_for_that_of_another(
    name: str, order: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is read from its copy as from the hub, whatever else was saved, all at once or one after the other."""

    def load(path: str, config: str | None, *, revision: str | None) -> Any:
        def split(name: str, rows: int) -> Any:
            return datasets.Dataset.from_dict(
                {"text": [f"{path} {config} {revision} {name} {n}." for n in range(rows)]}
            )

        return datasets.DatasetDict(
            {"train": split("train", 40), "validation": split("validation", 4), "test": split("test", 6)}
        )

    def read(spec: DatasetSpec, folder: Path) -> list[list[str]]:
        found = open_source(spec, datasets_folder=folder, report=no_report)
        return [
            [rows.items(row)[0].truth for row in range(rows.num_rows)]
            for rows in (found.train, found.validation)
            if rows
        ]

    monkeypatch.setattr(datasets, "load_dataset", load)
    specs = ALIKE[name][::order]
    there = [read(spec, tmp_path / "none") for spec in specs]
    for spec in specs[:1]:
        save_datasets(plan(spec), tmp_path, no_report)
    assert [read(spec, tmp_path) for spec in specs] == there  # from the hub, where the copy is another's
    paths = save_datasets(plan(*specs), tmp_path, no_report)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    monkeypatch.setattr(datasets, "load_dataset", no_hub)
    assert [read(spec, tmp_path) for spec in specs] == there


def test_a_copy_of_another_validation_split_is_passed_over_and_named(hub: list[str], tmp_path: Path) -> None:
    part = replace(WIKITEXT, validation="validation[:2]")
    save_datasets(plan(WIKITEXT), tmp_path, no_report)
    said = [list(open_source(spec, datasets_folder=tmp_path, report=no_report).notes) for spec in (WIKITEXT, part)]
    line = "Salesforce_wikitext_wikitext-2-raw-v1.train in the datasets folder is of another split or validation split"
    assert said == [[], [f"{line}, and is not read"]]
    with pytest.raises(UserError, match="there is no split tset; it has train, validation"):
        open_source(replace(WIKITEXT, validation="tset"), datasets_folder=tmp_path, report=no_report)
    save_datasets(plan(part), tmp_path, no_report)
    assert rows_of(part, tmp_path)[1] == 2
    assert open_source(part, datasets_folder=tmp_path, report=no_report).notes == ()


@pytest.mark.parametrize("left", ["lmplay_tui_dataset.json", "lmplay_tui_places.json"])
def test_a_copy_that_says_nothing_of_itself_is_what_its_names_say(
    left: str, hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As LMPlay leaves them: rows of `train`, and of `validation`; another split is asked of the hub."""
    for folder in save_datasets(plan(WIKITEXT), tmp_path, no_report):
        (folder / left).unlink()
        (folder / "lmplay_tui_dataset.json").unlink(missing_ok=True)
    assert rows_of(replace(WIKITEXT, validation="validation"), tmp_path) == rows_of(WIKITEXT, tmp_path)
    assert rows_of(replace(WIKITEXT, split="train[:4]", validation="train[4:6]"), tmp_path) == (
        [f"Row {n}." for n in range(4)], 2
    )  # fmt: skip
    monkeypatch.setattr(datasets, "load_dataset", no_hub)
    with pytest.raises(DataError, match="the hub cannot be reached"):
        rows_of(replace(WIKITEXT, validation="test"), tmp_path)


@pytest.mark.parametrize("killed_at", ["validation", "train", "rename"])
def test_a_save_that_breaks_off_leaves_nothing_that_is_used(
    killed_at: str, hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, rename = datasets.Dataset.save_to_disk, Path.rename
    calls = 0

    def save(self: Any, path: str) -> None:
        nonlocal calls
        calls += 1
        real(self, path)
        if killed_at == ("validation", "train")[calls - 1]:
            raise OSError(28, "No space left on device")

    def move(self: Path, target: Path) -> Path:
        if killed_at == "rename" and target.name.endswith(".train"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(datasets.Dataset, "save_to_disk", save)
    monkeypatch.setattr(Path, "rename", move)
    with pytest.raises(DataError, match=r"dataset wikitext: .*: No space left on device"):
        save_datasets(plan(WIKITEXT), tmp_path, no_report)
    assert find(WIKITEXT, tmp_path) is None
    assert not list(tmp_path.glob(".*"))
    monkeypatch.setattr(datasets.Dataset, "save_to_disk", real)
    monkeypatch.setattr(Path, "rename", rename)
    assert len(save_datasets(plan(WIKITEXT), tmp_path, no_report)) == 2
    assert rows_of(WIKITEXT, tmp_path)[1] == 3


def test_what_a_killed_process_left_is_removed(hub: list[str], tmp_path: Path) -> None:
    name = "wikimedia_wikipedia_20231101_en.train"
    dead, alive = tmp_path / f".{name}.999999999.tmp", tmp_path / f".{name}.1.tmp"
    for left in (dead, alive):
        left.mkdir()
        (left / "data.arrow").write_bytes(b"half")
    save_datasets(plan(WIKI), tmp_path, no_report)
    assert not dead.exists()
    assert alive.exists()


def test_everything_is_on_disk_before_it_bears_its_name(
    hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    sync, rename = os.fsync, Path.rename

    def fsync(handle: int) -> None:
        said.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        sync(handle)

    def move(self: Path, target: Path) -> Path:
        said.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", move)
    save_datasets(plan(WIKI), tmp_path, no_report)
    place = said.index("rename")
    assert {"state.json", "dataset_info.json", "data-00000-of-00001.arrow"} <= set(said[:place])
    assert said[place + 1 :] == [tmp_path.name]


def test_a_folder_that_cannot_be_written(hub: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"dataset wikipedia: .*file: "):
        save_datasets(plan(WIKI), tmp_path / "file", no_report)


def test_a_user_who_stops_saving(hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(datasets.Dataset, "save_to_disk", lambda self, path: release.wait(30))

    def report(activity: str, detail: str, fraction: float | None) -> None:
        if activity == "saving":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_datasets(plan(WIKI), tmp_path, report)
    release.set()
    assert find(WIKI, tmp_path) is None


LMPLAY = {
    "Open_Orca_OpenOrca": (
        DatasetSpec("openorca", "Open-Orca/OpenOrca", prompt="question", system="system_prompt", truth="response",
                    saved_as="Open_Orca_OpenOrca"),
        {"prompt": ["Be kind.\nWhy?"] * 4, "truth": ["So."] * 4},
    ),
    "wikimedia_wikipedia_20231101_en": (WIKI, {"id": ["1"] * 4, "title": ["T"] * 4, "text": ["So."] * 4}),
    "tinystories": (
        DatasetSpec("tinystories", "roneneldan/TinyStories", text="text", saved_as="tinystories"),
        {"text": ["So."] * 4, "truth": ["So."] * 4},
    ),
    "smoltalk_all": (
        DatasetSpec("smoltalk", "HuggingFaceTB/smoltalk", "all", messages="messages", saved_as="smoltalk_all"),
        {"messages": [[{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]] * 4,
         "truth": ["[]"] * 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LMPLAY)
def test_datasets_saved_by_lmplay_are_used_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both folders, every row of the first trained, with the columns that LMPlay made of them."""
    monkeypatch.setattr(datasets, "load_dataset", no_hub)
    spec, columns = LMPLAY[name]
    rows = datasets.Dataset.from_dict(columns)
    rows.save_to_disk(tmp_path / f"{name}.train")
    rows.select([0]).save_to_disk(tmp_path / f"{name}.validation")
    assert rows_of(spec, tmp_path) == (["So."] * 4, 1)
