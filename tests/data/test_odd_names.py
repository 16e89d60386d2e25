"""A path is a path, not a pattern and not an address: each odd name is trained as itself, or refused by name."""

import gzip
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmplay_tui.data.order import Source
from lmplay_tui.data.sources import open_source
from lmplay_tui.errors import UserError
from lmplay_tui.plan.reading import parse_plan
from tests.data.conftest import no_report
from tests.data.test_sources import all_items

UNREADABLE = ("a\nb", "a\tb", "\u202ea", "\x1b[31ma")  # on a screen: a plan may not name them
NAMES = (
    "a[1]", "a[!b]", "a]b[", "[a]", "[]", "d*", "*", "**", "a?", "?", "{a,b}", "{a..c}", "a::b", "zip::a", "a:b", "C:a",
    "http:", "https:a", "file:a", "s3:a", "hf:a", "a#b", "#a", "a%20b", "%s", "a b", " a", "a ",
    "-a", "--help", "~a", "~root", "caf\u00e9", "cafe\u0301", "a\\b", "a'b", 'a"b', "a.", "a..b", "$HOME", "a;b&c|d",
    *UNREADABLE, "x" * 200, "a=1", "split=train", "a@main", "a+b", "!a", "a,b", "磨坊",
)  # fmt: skip
ADDRESSES = ("file://a", "s3://bucket/a", "hf://datasets/a", "https://example.org/a", "zip://a::b", "../../a")
DECOYS = ("a1", "a", "ab", "b", "d1", "d2", "x", "c", "main")  # what a pattern or an escape would come to


def rows(said: str) -> list[dict[str, str]]:
    return [{"text": f"{said} {n}."} for n in range(4)]


def lines(said: str) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows(said)).encode()


def a_file(place: Path, name: str, said: str) -> str:
    (place / f"{name}.jsonl").write_bytes(lines(said))
    return f"{name}.jsonl"


def a_compressed_file(place: Path, name: str, said: str) -> str:
    (place / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines(said)))
    return f"{name}.jsonl.gz"


def a_parquet_file(place: Path, name: str, said: str) -> str:
    pq.write_table(pa.Table.from_pylist(rows(said)), pa.OSFile(str(place / f"{name}.parquet"), "wb"))
    return f"{name}.parquet"


def a_csv_file(place: Path, name: str, said: str) -> str:
    (place / f"{name}.csv").write_text("text\n" + "".join(row["text"] + "\n" for row in rows(said)), encoding="utf-8")
    return f"{name}.csv"


def a_folder(place: Path, name: str, said: str) -> str:
    (place / name).mkdir()
    (place / name / "rows.jsonl").write_bytes(lines(said))
    return f"{name}/"


def a_file_in_a_folder(place: Path, name: str, said: str) -> str:
    (place / "data").mkdir(exist_ok=True)
    a_file(place / "data", name, said)
    return "data"


def a_saved_dataset(place: Path, name: str, said: str) -> str:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows(said)).save_to_disk(str(place / "saved"))
    (place / "saved").rename(place / name)
    return f"{name}/"


FORMS: tuple[Callable[[Path, str, str], str], ...] = (
    a_file, a_compressed_file, a_parquet_file, a_csv_file, a_folder, a_file_in_a_folder, a_saved_dataset,
)  # fmt: skip


def opened(place: Path, dataset: str) -> Source:
    plan = parse_plan(f"[stages.a]\ndataset = {json.dumps(dataset)}\n", name="p", file="p.toml", folder=place)
    [spec] = plan.stages[0].datasets
    return open_source(spec, datasets_folder=place / "none", report=no_report)


@pytest.mark.long_after(6)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_each_name_is_trained_as_itself(form, tmp_path):
    for i, name in enumerate(NAMES):
        place = tmp_path / str(i)
        place.mkdir()
        if form is not a_file_in_a_folder:
            for decoy in DECOYS:
                form(place, decoy, "decoy")
        dataset = form(place, name, f"own {i}")
        if (name in UNREADABLE and form is not a_file_in_a_folder) or (form is a_saved_dataset and "::" in name):
            with pytest.raises(UserError) as refused:
                opened(place, dataset)
            assert "must be text without control characters" in str(refused.value) or "the ::" in str(refused.value)
            assert str(refused.value).isprintable()
        else:
            found = [item.truth for item in all_items(opened(place, dataset).train)]
            assert found == [f"own {i} {n}." for n in range(4)], repr(name)


@pytest.mark.parametrize("name", ["../outside.arrow", "/etc/passwd", "s3::x", ".."])
@pytest.mark.parametrize("lists", ["state.json", "dataset_dict.json", "a table in dataset_dict.json"])
def test_a_saved_dataset_does_not_lead_out_of_its_folder(lists, name, tmp_path):
    place = tmp_path / a_saved_dataset(tmp_path, "mine", "own")
    if lists == "state.json":
        said = json.loads((place / lists).read_text(encoding="utf-8"))
        (place / lists).write_text(json.dumps(said | {"_data_files": [{"filename": name}]}), encoding="utf-8")
    else:
        (place / "dataset_info.json").unlink()  # without it, the library asks for the splits
        splits = [name] if lists == "dataset_dict.json" else {name: {}}
        (place / "dataset_dict.json").write_text(json.dumps({"splits": splits}), encoding="utf-8")
    with pytest.raises(UserError, match="leads out of it, and is not read"):
        opened(tmp_path, "mine")


@pytest.mark.parametrize("name", ADDRESSES)
def test_an_address_is_refused_by_name_or_is_a_path(name, tmp_path):
    with pytest.raises(UserError) as refused:
        opened(tmp_path, f"{name}.jsonl")
    assert f"{name}.jsonl" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_two_forms_of_one_letter_are_two_files(tmp_path):
    """NFC and NFD look alike; where the file system keeps them apart, so do we."""
    for form in ("NFC", "NFD"):
        a_file(tmp_path, unicodedata.normalize(form, "caf\u00e9"), form)
    for form in ("NFC", "NFD"):
        source = opened(tmp_path, unicodedata.normalize(form, "caf\u00e9") + ".jsonl")
        assert all_items(source.train)[0].truth == f"{form} 0."


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_bytes_that_are_no_utf_8(kind, tmp_path):
    """A plan cannot name them; a folder may hold them, or lie below them."""
    odd = tmp_path / "m\udcfchle"
    odd.mkdir()
    place = odd if kind == "folder" else tmp_path
    a_file(place, "a" if kind == "folder" else "m\udcfchle", "own")
    dataset = "a.jsonl" if kind == "folder" else "."
    source = opened(place, dataset)
    assert all_items(source.train)[0].truth == "own 0."


def test_a_name_that_no_disk_takes(tmp_path):
    for name in ("x" * 300 + ".jsonl", "a\x00b.jsonl", "x/" * 3000 + "a.jsonl"):
        with pytest.raises(UserError) as refused:
            opened(tmp_path, name)
        assert "\n" not in str(refused.value)
