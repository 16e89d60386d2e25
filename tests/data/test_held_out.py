"""Held out means held out: whatever names a row, it is trained everywhere or held out everywhere."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.data.held_out import HeldOut, HeldOutRows, pieces_of
from lmplay_tui.data.order import StagePart
from lmplay_tui.data.saved import save_datasets
from lmplay_tui.data.shuffle import keyed
from lmplay_tui.data.sources import open_source
from lmplay_tui.data.splits import Segment, SplitRows, choose, identity_of_rows, of_table
from lmplay_tui.data.stage_data import StageData
from lmplay_tui.errors import UserError
from lmplay_tui.plan.schema import DatasetSpec, Plan, Stage
from tests.data.conftest import Open, no_report
from tests.examples import examples

KEYS = st.integers(0, 2**64 - 1)
SHARES = st.one_of(
    st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.3, 0.33, 1 / 3, 0.5, 0.75, 0.9, 1e-7]), st.floats(0, 0.99, width=64)
)
SEGMENTS = st.lists(
    st.builds(Segment, st.sampled_from("abc"), st.integers(0, 60), st.integers(0, 40)), min_size=1, max_size=6
)
HUNDRED_MILLION = 100_000_000


# ---------------------------------------------------------------------- the choice


@examples(100)
@given(SHARES, KEYS, st.integers(0, 300))
def test_each_place_is_either_held_out_or_trained_and_both_are_numbered(share: float, key: int, rows: int) -> None:
    choice = HeldOut(share, key)
    count = choice.held_before(rows)
    held = [choice.held(number) for number in range(count)]
    trained = [choice.training(number) for number in range(rows - count)]
    assert sorted(held + trained) == list(range(rows))
    assert held == sorted(held)
    assert trained == sorted(trained)
    assert [choice.held_before(place) for place in held] == list(range(count))  # the inverse


@examples(100)
@given(SHARES, KEYS, st.integers(0, HUNDRED_MILLION))
def test_the_share_is_met_within_one_row(share: float, key: int, rows: int) -> None:
    assert abs(HeldOut(share, key).held_before(rows) - rows * Fraction(str(share))) < 1


@pytest.mark.parametrize(
    ("share", "held"),
    [(0.1, 100_000), (0.3, 300_000), (0.33, 330_000), (0.5, 500_000), (0.9, 900_000), (1e-6, 1), (0.0, 0)],
)
def test_a_share_is_what_is_written(share: float, held: int) -> None:
    assert HeldOut(share, 7).held_before(1_000_000) == held


@pytest.mark.parametrize("share", [0.1, 0.3, 0.45])
def test_the_choice_in_an_interval_is_fair_and_keyed(share: float) -> None:
    one, other = HeldOut(share, keyed(0, "a")), HeldOut(share, keyed(1, "a"))
    number = one.held_before(50_000)
    residues = Counter(one.held(n) % round(1 / share) for n in range(number))
    assert max(residues.values()) < 1.3 * number / round(1 / share)
    same = sum(one.held(n) == other.held(n) for n in range(number))
    assert share * 0.8 < same / number < share * 1.8


def test_places_among_a_hundred_million_are_found_at_once() -> None:
    rows = HeldOutRows(pieces_of([Segment("many", 17, HUNDRED_MILLION)], 0.3), 0)
    assert abs(rows.held_rows - 0.3 * HUNDRED_MILLION) <= 1
    choice = HeldOut(0.3, keyed(0, "held out", "many"))
    for number in range(0, rows.training_rows, 1_234_567):
        place = rows.training(number) + 17
        assert choice.held_before(place) == choice.held_before(place + 1)
    for number in range(0, rows.held_rows, 1_234_567):
        place = rows.held(number) + 17
        assert choice.held_before(place) + 1 == choice.held_before(place + 1)
    assert rows.training(rows.training_rows - 1) >= HUNDRED_MILLION - 3


@examples(100)
@given(SEGMENTS, SHARES, st.integers(0, 5))
def test_rows_of_segments_are_all_numbered_and_each_keeps_its_side(
    segments: list[Segment], share: float, seed: int
) -> None:
    rows = HeldOutRows(pieces_of(segments, share), seed)
    held = [rows.held(number) for number in range(rows.held_rows)]
    trained = [rows.training(number) for number in range(rows.training_rows)]
    assert sorted(held + trained) == list(range(sum(segment.rows for segment in segments)))
    assert held == sorted(held)
    assert trained == sorted(trained)
    sides: dict[tuple[str, int], set[bool]] = {}
    named = [(segment.identity, segment.first + n) for segment in segments for n in range(segment.rows)]
    for row, name in enumerate(named):
        sides.setdefault(name, set()).add(row in set(held))
    assert all(len(side) == 1 for side in sides.values())
    for find, count in ((rows.held, rows.held_rows), (rows.training, rows.training_rows)):
        for outside in (-1, count):
            with pytest.raises(IndexError):
                find(outside)


@examples(50)
@given(SHARES, st.integers(0, 100), st.integers(0, 100))
def test_appended_rows_never_move_the_others(share: float, rows: int, more: int) -> None:
    def held(count: int) -> set[int]:
        found = HeldOutRows(pieces_of([Segment("a", 0, count)], share), 0)
        return {found.held(number) for number in range(found.held_rows)}

    assert {place for place in held(rows + more) if place < rows} == held(rows)


def test_thousands_of_files_are_fast_to_look_through() -> None:
    rows = HeldOutRows(pieces_of([Segment(str(n), 0, 1 + n % 3) for n in range(20_000)], 0.2), 0)
    assert rows.held_rows == pytest.approx(0.2 * 40_000, rel=0.05)  # files of one row give their share too
    assert rows.held_rows + rows.training_rows == sum(1 + n % 3 for n in range(20_000))


# ---------------------------------------------------------------------- slices


SPEC = DatasetSpec("mine", "owner/mine")


def known(**sizes: int) -> dict[str, SplitRows]:
    """Splits of two files each, where they have two rows; a row is its split and its number."""
    found = {}
    for name, size in sizes.items():
        table = pa.table({"text": [f"{name} {n}" for n in range(size)]})
        cut = size // 2
        one, two = identity_of_rows(table), identity_of_rows(table.slice(cut))
        segments = (Segment(one, 0, cut), Segment(two, 0, size - cut))
        found[name] = SplitRows(table, segments)
    return found


def named(rows: SplitRows) -> list[tuple[str, int]]:
    """Each row by its file and its place in it."""
    return [(segment.identity, segment.first + n) for segment in rows.segments for n in range(segment.rows)]


SLICES = {
    "train": range(50), "train[:50%]": range(25), "train[10:20]": range(10, 20), "train[-10:]": range(40, 50),
    "train[25%:75%]": range(12, 38), "train[:-45]": range(5), "train[:10%]+train[50%:60%]": [*range(5), *range(25, 30)],
    "train[20:30] + train[:2]": [*range(20, 30), 0, 1], "train[49:]": [49], "train[10:1000]": range(10, 50),
}  # fmt: skip


@pytest.mark.parametrize("split", SLICES)
def test_a_slice_holds_the_rows_it_names_at_their_places(split: str) -> None:
    whole = known(train=50, other=8)
    rows = choose(DatasetSpec("mine", "owner/mine", split=split), whole).train
    assert rows.table["text"].to_pylist() == [f"train {n}" for n in SLICES[split]]
    everything = named(whole["train"])
    assert named(rows) == [everything[n] for n in SLICES[split]]


def test_a_sum_of_splits_is_not_validated_on_a_split_that_it_trains() -> None:
    whole = known(train=10, test=4, validation=3)
    chosen = choose(DatasetSpec("m", "owner/m", split="train+validation"), whole)
    assert chosen.train.table.num_rows == 13
    assert chosen.validation is whole["test"]
    assert choose(DatasetSpec("m", "owner/m", split="train+test+validation"), whole).validation is None
    assert choose(DatasetSpec("m", "owner/m", split="train[:50%]"), whole).validation is whole["validation"]


BAD = {
    "train[10:10]": "its split train[10:10] holds nothing in rows 10 to 10; train has 30 rows",
    "train[:1%]": "holds nothing in rows 0 to 0; train has 30 rows",
    "train[40:50]": "holds nothing in rows 30 to 30",
    "tran[:10]": "there is no split tran; did you mean train?; it has train, test",
    "train+dev": "there is no split dev; it has train, test",
    "nowhere": "there is no split nowhere; it has train, test",
    "train[:200%]": "its split train[:200%] cannot be read",
    "train[a:b]": "cannot be read (Unrecognized instruction format: train[a:b]); write train[:50%]",
    "train[:5": "cannot be read",
}


@pytest.mark.parametrize("split", BAD)
def test_a_slice_that_will_not_do_is_refused_in_one_line(split: str) -> None:
    for spec in (DatasetSpec("mine", "x/y", split=split), DatasetSpec("mine", "x/y", validation=split)):
        with pytest.raises(UserError) as caught:
            choose(spec, known(train=30, test=4))
        assert BAD[split] in str(caught.value)
        assert str(caught.value).startswith("dataset mine: ")
        assert "\n" not in str(caught.value)


def test_columns_of_a_sum_keep_what_was_seen_in_either() -> None:
    def rows(kinds: bytes, **columns: list[str]) -> SplitRows:
        fields = [pa.field(name, pa.string(), metadata={b"kinds": kinds}) for name in columns]
        return of_table(pa.table(columns, schema=pa.schema(fields)))

    splits = {"train": rows(b"number,string", text=["1"]), "test": rows(b"null", text=["2"], more=["x"])}
    table = choose(DatasetSpec("m", "x/y", split="train+test"), splits).train.table
    assert table.to_pylist() == [{"text": "1", "more": None}, {"text": "2", "more": "x"}]
    assert table.schema.field("text").metadata[b"kinds"] == b"null,number,string"


# ---------------------------------------------------------------------- the same row under every name


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("share", [0.2, 0.3, 0.5])
def test_a_row_of_a_file_keeps_its_side_in_every_slice(share: float, seed: int, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"text": f"Row {n} says so."}) + "\n" for n in range(60)), encoding="utf-8")
    specs = [DatasetSpec(f"d{n}", str(path), split=split) for n, split in enumerate(
        ("train", "train[:50%]", "train[20:]", "train[-20:]", "train[10%:30%]+train[:5]", "train[50%:]"))]  # fmt: skip
    sides: dict[str, set[bool]] = {}
    for spec in specs:
        for text, held in sides_of(spec, share, seed):
            sides.setdefault(text, set()).add(held)
    assert len(sides) == 60
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {True} for side in sides.values()) == pytest.approx(60 * share, abs=1)


def sides_of(
    spec: DatasetSpec, share: float = 0.2, seed: int = 0, folder: Path | None = None
) -> Iterator[tuple[str, bool]]:
    """The text of each row, and whether it is held out."""
    source = open_source(spec, datasets_folder=folder or Path("nowhere"), report=no_report)
    part = StagePart(source, share=share, seed=seed)
    for number in range(part.training_rows):
        yield part.training(number)[0].truth, False
    for number in range(part.validation_rows):
        yield part.validation(number)[0].truth, True


ROWS = [
    {"id": n, "score": n / 3, "title": f"T {n}", "text": f"Row {n} says\nso, at length." + " Or more." * (n % 4)}
    for n in range(40)
]


def jsonl(rows: list[dict[str, Any]], path: Path) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def saved_alone(path: Path) -> str:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(path)
    return str(path)


def saved_in_a_dict(path: Path) -> str:
    import datasets

    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(path)
    return str(path)


def parquet(path: Path, **types: Any) -> str:
    table = pa.Table.from_pylist([dict(reversed(row.items())) for row in ROWS])
    large = table.schema.get_field_index("text")
    pq.write_table(table.set_column(large, "text", table["text"].cast(pa.large_string())), path)
    return str(path)


COPIES: dict[str, Callable[[Path], str]] = {
    "renamed": lambda folder: jsonl(ROWS, folder / "renamed.jsonl"),
    "with rows appended": lambda folder: jsonl(
        [*ROWS, *({"text": f"Appended {n}."} for n in range(9))], folder / "more.jsonl"
    ),
    "without a column": lambda folder: jsonl(
        [{name: value for name, value in row.items() if name != "score"} for row in ROWS], folder / "less.jsonl"
    ),
    "parquet of other types": lambda folder: parquet(folder / "a.parquet"),
    "saved alone": lambda folder: saved_alone(folder / "alone"),
    "saved in a dict": lambda folder: saved_in_a_dict(folder / "dict"),
}


@pytest.mark.parametrize("split", ["train", "train[10:30]"])
@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_holds_out_the_same_rows(copy: str, split: str, tmp_path: Path) -> None:
    original = dict(sides_of(DatasetSpec("own", jsonl(ROWS, tmp_path / "own.jsonl"), text="text")))
    rows = list(sides_of(DatasetSpec("copy", COPIES[copy](tmp_path), text="text", split=split)))
    assert all(original[text] == held for text, held in rows if text in original)
    assert sum(text in original for text, _ in rows) == (40 if split == "train" else 20)


def test_an_identity_is_of_the_text_however_it_is_stored() -> None:
    messages = [{"role": "user", "content": "Why is it so?"}, {"role": "assistant", "content": "It is as it is."}]
    tables = [
        pa.table({"messages": [messages], "n": [1]}),
        pa.table({"n": ["1"], "messages": [json.dumps(messages)]}),
        pa.table({"conversation": [[turn | {"weight": None} for turn in messages]]}),
        pa.table({"text": pa.array(["It  is as\nit is."], pa.large_string())}),
    ]
    assert len({identity_of_rows(table) for table in tables}) == 1
    others = [pa.table({"text": ["It is not."]}), pa.table({"n": [3]}), pa.table({"n": pa.array([], pa.int64())})]
    assert len({identity_of_rows(table) for table in (tables[0], *others)}) == 4


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    )


@pytest.mark.parametrize("saved", ["train", "train[50%:]"])
@pytest.mark.parametrize("asked", ["train", "train[50%:]", "train[30:]"])
def test_a_copy_in_the_datasets_folder_holds_out_the_same_rows(
    saved: str, asked: str, hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of a slice knows its places, and a slice is cut from a copy of the whole."""
    import datasets

    def spec(split: str) -> DatasetSpec:
        return DatasetSpec("mine", "owner/mine", split=split)

    there = dict(sides_of(spec(asked)))
    save_datasets(Plan("p", (Stage("s", (spec(saved),)),)), tmp_path, no_report)
    if saved in (asked, "train"):
        monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("the hub was asked"))
    here = dict(sides_of(spec(asked), folder=tmp_path))
    assert here == there
    (folder,) = tmp_path.iterdir()
    copied = dict(sides_of(DatasetSpec("copy", str(shutil.copytree(folder, tmp_path / "by path")))))
    if saved == "train":
        assert {text: held for text, held in copied.items() if text in there} == there


def test_a_slice_of_a_copy_with_a_name_of_its_own_is_cut(hub: None, tmp_path: Path) -> None:
    """As LMPlay's are called: the whole lies under the name, and only a slice was asked for."""

    def spec(split: str) -> DatasetSpec:
        return DatasetSpec("mine", "owner/mine", split=split, saved_as="own_name")

    save_datasets(Plan("p", (Stage("s", (spec("train"),)),)), tmp_path, no_report)
    assert [folder.name for folder in tmp_path.iterdir()] == ["own_name.train"]
    whole = dict(sides_of(spec("train"), folder=tmp_path))
    half = dict(sides_of(spec("train[:50%]"), folder=tmp_path))
    assert (len(whole), len(half)) == (40, 20)
    assert all(whole[text] == held for text, held in half.items())


@pytest.mark.long
def test_a_part_of_pydocs_holds_out_what_the_whole_does() -> None:
    whole = dict(sides_of(DatasetSpec("pydocs", "pydocs")))
    for config in ("topics", "docstrings"):
        part = dict(sides_of(DatasetSpec(config, "pydocs", config=config)))
        assert 0.1 < sum(part.values()) / len(part) < 0.3
        assert all(whole[text] == held for text, held in part.items())
    half = dict(sides_of(DatasetSpec("half", "pydocs", config="docstrings", split="train[:50%]")))
    assert all(whole[text] == held for text, held in half.items())
    assert len(half) < 0.6 * len(whole)


def test_a_fingerprint_names_the_choice_only_where_rows_are_held_out(tmp_path: Path) -> None:
    """A run on a split of its own goes on unwarned, for its rows are those of before."""
    for name, rows in (("train", ROWS), ("validation", ROWS[:3])):
        jsonl(rows, tmp_path / f"{name}.jsonl")

    def fingerprint(**given: Any) -> str:
        spec = DatasetSpec("mine", str(tmp_path), **given)
        source = open_source(spec, datasets_folder=tmp_path / "none", report=no_report)
        return StagePart(source, share=0.2, seed=0).fingerprint()

    assert "held out by place" not in fingerprint()
    assert fingerprint(split="train+validation").endswith("held out by place")


# ---------------------------------------------------------------------- few rows


def opened_with(opened: Open, tmp_path: Path, rows: int, **given: Any) -> StageData:
    spec = DatasetSpec("own", jsonl(ROWS[:rows], tmp_path / f"{rows}.jsonl"), split=given.pop("split", "train"))
    return opened(spec, **given)


@pytest.mark.parametrize("seed", range(8))
def test_the_only_row_is_trained_and_that_none_is_held_out_is_said(seed: int, opened: Open, tmp_path: Path) -> None:
    data = opened_with(opened, tmp_path, 1, validation_split=0.9, seed=seed)
    assert data.rows_total == 1
    (part,) = data._parts
    assert part.source.notes == (
        "no row is held out of own: 1 row; give it a validation split, or a larger --validation-split",
    )
    assert not opened_with(opened, tmp_path, 1, validation_split=0.0, seed=seed)._parts[0].source.notes
    assert not opened_with(opened, tmp_path, 40, validation_split=0.3, seed=seed)._parts[0].source.notes


def test_a_slice_of_held_out_rows_alone_is_refused(opened: Open, tmp_path: Path) -> None:
    texts = dict(sides_of(DatasetSpec("own", jsonl(ROWS, tmp_path / "40.jsonl"))))
    row = next(n for n, rows in enumerate(ROWS) if texts[str(rows["text"])])
    with pytest.raises(UserError, match=r"no rows to train on in its split train\[.*: all are held out for validation"):
        opened_with(opened, tmp_path, 40, split=f"train[{row}:{row + 1}]", validation_split=0.2)
