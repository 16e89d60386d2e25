"""Datasets of this machine, in every form, and what is said where one is not as it should be."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmplay_tui.data.order import Source
from lmplay_tui.data.rows import Columns, Rows
from lmplay_tui.data.samples import Item
from lmplay_tui.data.sources import open_source
from lmplay_tui.errors import DataError, UserError
from lmplay_tui.plan.schema import DatasetSpec
from tests.data.conftest import no_report
from tests.seams import Seams

ROWS = [{"title": f"T{n}", "text": f"Text number {n}."} for n in range(4)]
ITEMS = [Item(f"Title: T{n}\n", f"Text number {n}.", True) for n in range(4)]


def open_(path: Path, **given: Any) -> Source:
    return open_source(DatasetSpec("mine", str(path), **given), datasets_folder=path / "none", report=no_report)


def all_items(rows: Rows) -> list[Item]:
    return [item for row in range(rows.num_rows) for item in rows.items(row)]


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


def write_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS), encoding="utf-8")


def write_csv(path: Path) -> None:
    path.write_text("title,text\n" + "".join(f'{row["title"]},"{row["text"]}"\n' for row in ROWS), encoding="utf-8")


def write_tsv(path: Path) -> None:
    path.write_text("title\ttext\n" + "".join(f"{row['title']}\t{row['text']}\n" for row in ROWS), encoding="utf-8")


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


WRITERS = {"a.jsonl": write_jsonl, "a.json": write_json, "a.csv": write_csv, "a.tsv": write_tsv,
           "a.parquet": write_parquet, "A.JSONL": write_jsonl}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_a_file(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    source = open_(tmp_path / name)
    assert all_items(source.train) == ITEMS
    assert source.validation is None


def test_paragraphs_of_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("One line\r\nand another.\r\n\r\n\r\n\r\nTwo é😀.\n\nThree.\n".encode())
    found = [item.truth.strip() for item in all_items(open_(tmp_path / "a.txt").train)]
    assert found == ["One line\nand another.", "Two é😀.", "Three."]


def test_a_folder_of_files_with_its_own_validation(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train-0.jsonl")
    write_jsonl(tmp_path / "train-1.jsonl")
    (tmp_path / "validation.jsonl").write_text('{"title": null, "text": "Held."}\n', encoding="utf-8")
    source = open_(tmp_path)
    assert all_items(source.train) == ITEMS * 2
    assert source.validation is not None
    assert all_items(source.validation) == [Item("", "Held.", True)]


PAIRS = [{"prompt": f"Q{n}", "completion": f"A{n}."} for n in range(4)]


def _two_splits(folder: Path, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> None:
    for name, rows in (("train", train), ("test", test)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("answer", [{}, {"completion": ""}, {"completion": None}])
def test_a_split_without_answers_is_no_validation_split(answer: dict[str, Any], tmp_path: Path) -> None:
    """Rows are held out of the others instead, which is said; named in the plan, such a split is refused."""
    _two_splits(tmp_path, PAIRS, [{"prompt": "Q"} | answer] * 3)
    source = open_(tmp_path)
    assert source.validation is None
    (note,) = [note for note in source.notes if note.startswith("its own validation split is left out, rows are held")]
    with pytest.raises(UserError, match=r"^dataset mine: its validation split test: ") as caught:
        open_(tmp_path, validation="test")
    assert str(caught.value).endswith(note.split("others: ")[1])


def test_a_validation_split_of_another_form(tmp_path: Path) -> None:
    _two_splits(tmp_path, PAIRS, [{"question": "Why?", "answer": "So."}])
    for given in ({}, {"validation": "test"}):
        source = open_(tmp_path, **given)
        assert source.validation is not None
        assert all_items(source.validation) == [Item("Why?", "So.")]
        assert source.notes[-1] == "its validation split is read by its own columns: prompt = question, truth = answer"


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("One,\nand more.\n\nTwo.", encoding="utf-8")
    (tmp_path / "test.txt").write_text("Three.", encoding="utf-8")
    source = open_(tmp_path)
    assert [item.truth for item in all_items(source.train)] == ["One,\nand more.", "Two."]
    assert source.validation is not None
    assert [item.truth for item in all_items(source.validation)] == ["Three."]


def test_what_was_saved_to_disk(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list(ROWS)
    rows.select([3, 1]).save_to_disk(tmp_path / "one")
    assert all_items(open_(tmp_path / "one").train) == [ITEMS[3], ITEMS[1]]
    datasets.DatasetDict({"train": rows, "validation": rows.select([2])}).save_to_disk(tmp_path / "several")
    source = open_(tmp_path / "several")
    assert all_items(source.train) == ITEMS
    assert source.validation is not None
    assert all_items(source.validation) == [ITEMS[2]]


def test_splits_by_name_and_in_part(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl")
    write_jsonl(tmp_path / "test.jsonl")
    assert open_(tmp_path, split="test").validation is None  # what is trained on is not what is validated on
    assert all_items(open_(tmp_path, split="train[1:3]").train) == ITEMS[1:3]
    named = open_(tmp_path, split="train[:50%]", validation="train[50%:]")
    assert named.validation is not None
    assert all_items(named.train) + all_items(named.validation) == ITEMS
    with pytest.raises(UserError, match=r"mine: there is no split tran; did you mean train\?; it has train, test"):
        open_(tmp_path, split="tran")
    with pytest.raises(UserError, match="there is no split validation; it has"):
        open_(tmp_path, validation="validation")


def test_a_selection_given_by_the_library_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows chosen by indices: the table underneath still holds them all."""
    import datasets

    chosen = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS).select([2, 0])})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: chosen)
    source = open_source(DatasetSpec("hub", "owner/name"), datasets_folder=tmp_path, report=no_report)
    assert all_items(source.train) == [ITEMS[2], ITEMS[0]]


BAD: dict[str, tuple[bytes | None, str]] = {
    "none.jsonl": (None, "there is no file or folder"),
    "empty.jsonl": (b"", "empty.jsonl is empty"),
    "a.docx": (b"x", "is of no kind that is read: .jsonl, .json"),
    "broken.jsonl": (b'{"text": "a"}\n{"text": \n', "broken.jsonl, line 2: no JSON: Expecting value"),
    "latin.txt": ("é".encode("latin-1"), "latin.txt, line 1: byte 0xe9 is no UTF-8"),
    "no.parquet": (b"no parquet", "cannot be read: Parquet magic bytes"),
    "numbers.csv": (b"a,b\n1,2\n", "no column has a usual name for text; it has a, b"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_will_not_do(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    contents, said = BAD[name]
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(UserError) as caught:
        open_(tmp_path / name)
    assert said in str(caught.value)
    assert str(caught.value).startswith("dataset mine: ")
    assert "\n" not in str(caught.value)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")  # the libraries' own words would spoil the screen


def test_a_file_without_rows(tmp_path: Path) -> None:
    import datasets

    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text("[]", encoding="utf-8")
    rows = datasets.Dataset.from_dict({"text": []}, datasets.Features(text=datasets.Value("string")))
    rows.save_to_disk(tmp_path / "saved")
    for name in ("a.parquet", "a.json", "saved"):
        with pytest.raises(UserError, match=rf"dataset mine: .*{name} holds no rows"):
            open_(tmp_path / name)


def test_a_folder_that_will_not_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no file of a kind that is read"):
        open_(tmp_path)


def test_a_damaged_saved_folder(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(DataError, match=r"dataset mine: .*one: No such file"):
        open_(tmp_path / "one")


def test_a_row_that_the_disk_no_longer_gives() -> None:
    def gone(cell: str) -> str:
        raise OSError(5, "Input/output error")

    rows = Rows("mine", pa.table({"text": ["Text."] * 4}), Columns(text="text", decoding={"text": gone}))
    with pytest.raises(DataError, match=r"dataset mine: row 2 cannot be read .*Input/output error"):
        rows.items(2)


FAR_TIMES: dict[str, tuple[pa.DataType, int]] = {  # what Python holds none of
    "infinity of PostgreSQL": (pa.timestamp("us"), 2**63 - 1),
    "minus infinity": (pa.timestamp("us"), -(2**63) + 1),
    "the year 10000": (pa.timestamp("s"), 253_402_300_800),
    "the year 1 west of Greenwich": (pa.timestamp("us", "America/New_York"), -62_135_596_800 * 10**6),
    "a zone that is none": (pa.timestamp("ms", "Nowhere/At_all"), 5),
    "a far day": (pa.date32(), 2**31 - 1),
    "a far day of 64 bits": (pa.date64(), 86_400_000 * 10**7),
    "a long time": (pa.duration("s"), 2**62),
}


def times(kind: pa.DataType, cells: list[int]) -> pa.Array:
    return pa.array(cells, pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)


def write_table(table: pa.Table, path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("far", FAR_TIMES)
@pytest.mark.parametrize("at", [0, 17])
@pytest.mark.parametrize("kind", [".parquet", ".arrow"])
def test_a_time_that_python_cannot_hold_in_a_column_that_is_not_read(
    far: str, at: int, kind: str, tmp_path: Path
) -> None:
    of, cell = FAR_TIMES[far]
    texts = [f"Row {n} is here." for n in range(20)]
    cells = [0] * at + [cell] + [0] * (19 - at)
    source = open_(write_table(pa.table({"created": times(of, cells), "text": texts}), tmp_path / f"a{kind}"))
    assert [item.truth for item in all_items(source.train)] == texts
    assert source.columns == "text = text; left out: created"


@pytest.mark.parametrize("far", FAR_TIMES)
def test_a_time_that_python_cannot_hold_in_a_column_that_is_read(far: str, tmp_path: Path) -> None:
    """Of the rows that are looked at first, or of one that the training meets: a line that names the row."""
    of, cell = FAR_TIMES[far]
    questions = [f"When was {n}?" for n in range(2000)]
    for at in (0, 1500):
        row = 0 if far == "a zone that is none" else at  # where all of them are such
        cells = times(of, [0] * at + [cell] + [0] * (1999 - at))
        path = write_table(pa.table({"question": questions, "answer": cells}), tmp_path / f"{at}.arrow")
        with pytest.raises(DataError, match=rf"^dataset mine: row {row} cannot be read \("):
            open_(path).train.items(at)


def test_a_fingerprint_is_of_the_rows_not_of_their_place(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl")
    write_parquet(tmp_path / "b.parquet")
    one, other = open_(tmp_path / "a.jsonl").train, open_(tmp_path / "b.parquet").train
    assert one.fingerprint() == other.fingerprint()
    assert open_(tmp_path / "a.jsonl", text="text").train.fingerprint() != one.fingerprint()
    (tmp_path / "c.jsonl").write_text(
        "".join(json.dumps(row | {"text": "Other."} if row is ROWS[2] else row) + "\n" for row in ROWS),
        encoding="utf-8",
    )
    assert open_(tmp_path / "c.jsonl").train.fingerprint() != one.fingerprint()


def test_opening_reads_a_few_rows_at_most(tmp_path: Path, seams: Seams) -> None:
    pq.write_table(pa.table({"text": [f"Row {n}." for n in range(20_000)]}), tmp_path / "many.parquet")
    reads: list[int] = []
    seams.watch("row", lambda _, row: reads.append(row))
    source = open_(tmp_path / "many.parquet")
    source.train.fingerprint()
    assert source.train.num_rows == 20_000
    assert len(reads) <= 65  # those of the fingerprint, and the first, which tells the file from others
