"""Folders of files: which are a dataset's rows, of which split, by which configuration; the rest is named."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmplay_tui.data import local
from lmplay_tui.data.folders import matches
from lmplay_tui.data.splits import Splits
from lmplay_tui.errors import UserError
from lmplay_tui.plan.schema import DatasetSpec
from tests.data.conftest import no_report

Fill = Callable[..., Path]
PACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.fixture
def folder(tmp_path: Path) -> Fill:
    """A folder of files. A list of numbers is a file of rows `{"text": "Row N."}` in the form of its ending."""

    def make(files: dict[str, str | list[int]]) -> Path:
        for name, contents in files.items():
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(contents, str):
                path.write_text(contents, encoding="utf-8")
                continue
            rows = [f"Row {number}." for number in contents]
            lines = "".join(json.dumps({"text": row}) + "\n" for row in rows)
            if name.endswith(".parquet"):
                pq.write_table(pa.table({"text": rows}), path)
                continue
            bare = path.stem if path.suffix in PACK else path.name
            if bare.endswith(".txt"):
                lines = "\n\n".join(rows)
            elif bare.endswith(".csv"):
                lines = "\n".join(["text", *rows])
            path.write_bytes(PACK.get(path.suffix, bytes)(lines.encode()))
        return tmp_path / "data"

    return make


def read(folder: Path, **given: str) -> Splits:
    return local.read(DatasetSpec("mine", str(folder), **given), no_report)


def numbers(rows: object) -> list[int] | None:
    return None if rows is None else [int(text[4:-1]) for text in rows.table["text"].to_pylist()]  # type: ignore[attr-defined]


STRANGERS: dict[str, dict[str, str | list[int]]] = {
    "markdown": {"a.jsonl": [1, 2], "NOTES.md": "# Notes\n" * 99, "LICENSE.md": "MIT\n" * 99, "x/README.md": "x"},
    "metadata": {"a.jsonl": [1, 2], "meta.json": '{"text": "No."}', "dataset_info.json": '{"text": "No."}' * 99},
    "a larger licence": {"a.jsonl": [1, 2], "LICENSE.txt": "Words.\n\n" * 99, "requirements.txt": "torch\n"},
    "texts and metadata": {"a.txt": [1], "b.txt": [2], "meta.json": '{"source": "attic"}'},
    "a program": {"a.csv": [1, 2], "make.py": "print()" * 99, "data.zip": "PK", "Makefile": "x"},
    "compressed": {"a.jsonl.gz": [1], "b.jsonl": [2], "note.txt": "A note."},
    "hidden": {"a.jsonl": [1, 2], ".a.jsonl": [3], ".cache/b.jsonl": [4], "__MACOSX/c.jsonl": [5]},
    "a smaller table": {"a.parquet": list(range(1, 3)), "few.csv": [9]},
    "agent traces": {"a.jsonl": [1, 2], "task.toml": "x", "instruction.md": "Do it."},
}


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_never_change_how_data_are_read(name: str, folder: Fill) -> None:
    found = read(folder(STRANGERS[name]))
    assert numbers(found.train) == [1, 2]
    assert found.validation is None
    strangers = [file for file in STRANGERS[name] if not file.startswith((".", "__", "a.", "b."))]
    left = [note for note in found.notes if note.startswith("left out: ")]
    assert bool(left) == bool(strangers)
    assert all(file in left[0] for file in strangers)


def test_a_compressed_file_counts_as_what_it_holds(folder: Fill) -> None:
    path = folder({"a.jsonl.gz": list(range(200)), "b.csv": [7] * 20})
    packed, plain = (path / "a.jsonl.gz").stat().st_size, (path / "b.csv").stat().st_size
    assert packed < 10 * plain < 4 * packed
    assert numbers(read(path).train) == list(range(200))


QA = "".join(f'{{"question": "Who is it, {n}?", "answer": "Row {n}."}}\n' for n in range(4))
LOG = "".join(f"2026-01-02 step {n} loss 3.{n}\n" for n in range(500))
BOOK = "The heron stood by the river, and nothing moved in the reeds.\n\n" * 40
TEXTS = json.dumps([{"text": f"Story {n}."} for n in range(4)])

# The files of a folder, of which the first is its rows, and the column whose cells are looked at.
DATA_AND_STRANGERS: dict[str, tuple[dict[str, str], str]] = {
    "a large object": ({"d.jsonl": QA, "stats.json": json.dumps({"a": "x" * 5000})}, "answer"),
    "an object with a text": ({"data.json": TEXTS, "info.json": '{"text": "my set", "version": 1}'}, "text"),
    "two objects": ({"data.json": TEXTS, "a.json": '{"text": "x"}', "b.json": '{"text": "y"}'}, "text"),
    "an object with a list": (
        {"d.jsonl": QA, "trainer_state.json": '{"log_history": [{"loss": 1, "step": 2}]}'}, "answer",
    ),
    "objects that hold no rows": ({"data.json": TEXTS, "a.json": '{"a": [1, 2], "b": "x"}', "b.json": "{}"}, "text"),
    "a list of names": ({"data.json": TEXTS, "index.json": '[{"title": "x", "text_file": "data.json"}]'}, "text"),
    "a log": ({"d.jsonl": QA, "run1.txt": LOG}, "answer"),
    "a log beside a table": ({"d.csv": "question,answer\nWho?,Me.\n", "run1.txt": LOG}, "answer"),
    "figures": ({"d.jsonl": QA, "results.csv": "step,loss\n" + "1,2.5\n" * 900}, "answer"),
    "a table of the files": ({"book.txt": BOOK, "origin.csv": "file,description\nbook.txt,A book.\n"}, "text"),
    "a small table of words": ({"book.txt": BOOK, "people.csv": "id,said\n1,Hello there.\n"}, "text"),
    "a broken table": ({"d.jsonl": QA, "odd.csv": "a,b\n1\n2,3,4\n"}, "answer"),
    "addresses": ({"book.txt": BOOK, "where.txt": "https://a.org/b\nhttps://a.org/c d\n".replace(" d", "")}, "text"),
    "things to do": ({"book.txt": BOOK, "todo.txt": "- more books\n- fewer birds\n"}, "text"),
    "Markdown and an object": ({"a.md": BOOK, "workspace.json": '{"open": ["a.md"], "n": 1}'}, "text"),
    "Markdown and settings": ({"a.md": BOOK, "app.json": '{"theme": "dark side"}'}, "text"),
    "a state of something else": ({"d.jsonl": QA, "state.json": '{"step": 3}'}, "answer"),
    "a list of splits of something else": ({"d.jsonl": QA, "dataset_dict.json": '{"splits": ["train"]}'}, "answer"),
    "another form": ({"a.jsonl": QA, "b.jsonl": '{"text": "A text."}\n'}, "answer"),
    "no form": ({"a.jsonl": QA, "b.jsonl": '{"step": 1, "loss": 2.5}\n' * 99}, "answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA_AND_STRANGERS)
def test_strangers_are_left_out_and_named(name: str, folder: Fill) -> None:
    files, column = DATA_AND_STRANGERS[name]
    data, *strangers = files
    path = folder(files)
    found = read(path)
    alone = local.read(DatasetSpec("mine", str(path / data)), no_report)
    assert found.train.table[column].to_pylist() == alone.train.table[column].to_pylist()
    assert found.validation is None
    left = " ".join(note for note in found.notes if note.startswith("left out"))
    assert all(stranger in left for stranger in strangers)


TWINS: dict[str, tuple[list[str], list[str]]] = {  # files of the same rows: those that are read, those left out
    "gzip -k": (["train.jsonl"], ["train.jsonl.gz"]),
    "of many": (["a.jsonl", "b.jsonl", "c.jsonl.gz"], ["b.jsonl.gz"]),
    "another spelling of the kind": (["train.ndjson"], ["train.jsonl.gz"]),
    "packed twice": (["train.jsonl.gz"], ["train.jsonl.xz", "train.jsonl.bz2"]),
    "of each split": (["train.jsonl", "test.jsonl"], ["train.jsonl.gz", "test.jsonl.gz"]),
    "texts": (["book.txt"], ["book.txt.gz"]),
    "beside another kind": (["train.jsonl"], ["train.jsonl.gz", "train.csv", "train.csv.gz"]),
    "by a README": (["train.jsonl"], ["train.jsonl.gz"]),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_file_and_its_compressed_copy_are_read_once(name: str, folder: Fill) -> None:
    taken, left = TWINS[name]
    number = dict(zip(dict.fromkeys(file.split(".")[0] for file in taken), range(1, 9), strict=False))
    readme = (
        {"README.md": "---\nconfigs:\n- config_name: x\n  data_files: 'train.*'\n---\n"} if "README" in name else {}
    )
    found = read(folder({file: [number[file.split(".")[0]]] for file in (*taken, *left)} | readme))
    rows = [*(numbers(found.train) or []), *(numbers(found.validation) or [])]
    assert sorted(rows) == sorted(number.values())
    said = " ".join(note for note in found.notes if note.startswith("left out"))
    assert sorted(said.removeprefix("left out: ").split(", ")) == sorted(left)


def test_files_of_other_names_are_no_copies(folder: Fill) -> None:
    files: dict[str, str | list[int]] = {"a.jsonl": [1], "a.ndjson": [2], "b.jsonl.gz": [3], "x/a.jsonl.gz": [4]}
    assert numbers(read(folder(files)).train) == [1, 2, 3, 4]


def test_two_kinds_of_rows_are_refused_and_listed(folder: Fill) -> None:
    path = folder({"a.jsonl": [1, 2, 3], "b.csv": [4, 5, 6]})
    with pytest.raises(UserError, match=r"several kinds \(\.jsonl: a\.jsonl; \.csv: b\.csv\): name a file.*data_files"):
        read(path)
    with pytest.raises(UserError, match=r"several kinds"):
        read(folder({"c.txt": BOOK, "b.csv": "id,said\n" + "1,Hello there my dear.\n" * 90, "a.jsonl": ""}))


def test_kinds_of_which_none_gives_a_sample_are_refused_for_what_the_larger_holds(folder: Fill) -> None:
    found = read(folder({"a.csv": "x,y\n1,2\n", "b.json": '{"k": 1}'}))
    assert found.train.table.column_names == ["x", "y"]
    with pytest.raises(UserError, match="holds no rows"):
        read(folder({"empty/a.jsonl": "", "empty/b.csv": "\n"}) / "empty")


def test_the_same_rows_in_two_forms_are_read_once(folder: Fill) -> None:
    found = read(folder({"b/a.csv": [1, 2], "b/a.jsonl": [1, 2]}))
    assert numbers(found.train) == [1, 2]
    assert "left out: b/a.csv" in found.notes


def test_a_column_that_the_plan_names_decides(folder: Fill) -> None:
    path = folder({"a.jsonl": QA, "b.csv": "id,said\n1,Hello.\n"})
    assert read(path, text="said").train.table.num_rows == 1
    assert read(path).train.table.num_rows == 4


def test_documents_of_one_object_each_are_rows(folder: Fill) -> None:
    rows = {f"{n}.json": json.dumps({"title": f"T{n}", "text": f"Row {n}."}) for n in range(9)}
    found = read(folder({**rows, "stats.json": '{"count": 9}', "labels.csv": "n,label\n1,2\n"}))
    assert numbers(found.train) == list(range(9))


def test_a_broken_file_of_rows_is_not_passed_over_for_a_text(folder: Fill) -> None:
    with pytest.raises(UserError, match=r"d\.jsonl, line 3: no JSON"):
        read(folder({"d.jsonl": '{"text": \n{"text": \n', "book.txt": BOOK}))


def test_markdown_alone_is_read(folder: Fill) -> None:
    pages = {"a.md": "Row 1.\n\nRow 2.\n", "b/c.md": "Row 3.\n", "README.md": "# Notes\n", "LICENSE.md": "x"}
    found = read(folder(pages))
    assert numbers(found.train) == [1, 2, 3]
    with pytest.raises(UserError, match="holds no file of a kind that is read"):
        read(folder({"empty/README.md": "x"}) / "empty")


def test_metadata_alone_are_data(folder: Fill) -> None:
    assert numbers(read(folder({"metadata.jsonl": [1, 2], "README.md": "x"})).train) == [1, 2]


SPLITS: dict[str, tuple[dict[str, str | list[int]], list[int], list[int] | None]] = {
    "no word": ({"b.jsonl": [2], "a.jsonl": [1], "c/d.jsonl": [3]}, [1, 2, 3], None),
    "in names": ({"train-1.jsonl": [2], "train-0.jsonl": [1], "my_valid.jsonl": [9], "x.test.jsonl": [8]}, [1, 2], [9]),
    "in folders": ({"train/a.jsonl": [1], "train/b/c.jsonl": [2], "dev/a.jsonl": [9]}, [1, 2], [9]),
    "in capitals": ({"Train.jsonl": [1], "TEST.jsonl": [9]}, [1], [9]),
    "with digits": ({"train2.jsonl": [1], "val1.jsonl": [9]}, [1], [9]),
    "a name above a folder": ({"test/train.jsonl": [1], "train/test.jsonl": [9]}, [1], [9]),
    "within words": ({"latest.jsonl": [1], "training_wheels.jsonl.gz": [], "devil.jsonl": [2]}, [], None),
    "the others are train": ({"books.jsonl": [1], "eval.jsonl": [9]}, [1], [9]),
    "shards": ({"data/train-00000-of-00002.parquet": [1], "data/train-00001-of-00002.parquet": [2],
                "data/test-00000-of-00001.parquet": [9]}, [1, 2], [9]),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in SPLITS if name != "within words"])
def test_splits_by_names(name: str, folder: Fill) -> None:
    files, train, validation = SPLITS[name]
    found = read(folder(files))
    assert numbers(found.train) == train
    assert numbers(found.validation) == validation


KINDS_OF_SPLITS: dict[str, dict[str, str | list[int]]] = {
    "names": {"train.jsonl": [1], "test.csv": list(range(2, 90))},
    "names of texts": {"train.jsonl": [1], "test.txt": list(range(2, 90)), "log.txt": LOG},
    "a README": {"README.md": "---\nconfigs:\n- config_name: a\n  data_files: {train: a.jsonl, test: b.csv}\n---\n",
                 "a.jsonl": [1], "b.csv": list(range(2, 90)), "c.parquet": [7]},
    "patterns": {"README.md": "---\nconfigs:\n- config_name: a\n  data_files: {train: 'a*', test: ['b*', c.md]}\n---\n",
                 "a.jsonl": [1], "a.txt": LOG, "b.csv": list(range(2, 90))},
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS_OF_SPLITS)
def test_each_split_may_have_its_own_kind(name: str, folder: Fill) -> None:
    path = folder(KINDS_OF_SPLITS[name])
    if name == "patterns":
        (path / "c.md").write_text("Row 90.", encoding="utf-8")
    found = read(path)
    assert numbers(found.train) == [1]
    assert numbers(found.validation) == list(range(2, 91 if name == "patterns" else 90))


def test_a_word_within_a_longer_name_makes_no_split_where_nothing_says_train(folder: Fill) -> None:
    for word in ("dev", "test", "val", "eval"):
        found = read(folder({f"{word}/{word}_blog.jsonl": [1], f"{word}/xnews.jsonl": [2]}) / word)
        assert (numbers(found.train), found.validation) == ([1, 2], None)
    folders = read(folder({"y/dev_notes/a.jsonl": [1], "y/b.jsonl": [2]}) / "y")
    assert (sorted(numbers(folders.train) or []), folders.validation) == ([1, 2], None)


def test_splits_taken_from_names_are_said(folder: Fill) -> None:
    found = read(folder({"news_train.jsonl": [1], "dev_blog.jsonl": [9]}))
    assert numbers(found.validation) == [9]
    assert "splits by the files' names: train: news_train.jsonl; validation: dev_blog.jsonl" in found.notes
    assert not any("splits" in note for note in read(folder({"x/a.jsonl": [1], "x/b.jsonl": [2]}) / "x").notes)


def test_words_within_words_are_none(folder: Fill) -> None:
    found = read(folder({"latest.jsonl": [1], "contest.jsonl": [2], "devil.jsonl": [3]}))
    assert (numbers(found.train), found.validation) == ([2, 3, 1], None)


def test_files_beside_a_split_that_is_called_train_are_named(folder: Fill) -> None:
    found = read(folder({"train.jsonl": [1], "more.jsonl": [2]}))
    assert numbers(found.train) == [1]
    assert "left out, for others are called train: more.jsonl" in found.notes


def test_shards_of_splits_of_any_name(folder: Fill) -> None:
    files: dict[str, str | list[int]] = {f"data/{name}-00000-of-00001.parquet": [n] for n, name in
                                         enumerate(("train_sft", "test_sft"))}  # fmt: skip
    assert numbers(read(folder(files), split="train_sft").train) == [0]
    with pytest.raises(UserError, match=r"there is no split train; did you mean train_sft\?; it has "):
        read(folder(files))


def test_each_file_is_a_segment(folder: Fill) -> None:
    found = read(folder({"a.jsonl": [1, 2], "b.jsonl": [], "c.jsonl": [3, 4, 5]}))
    assert [(segment.first, segment.rows) for segment in found.train.segments] == [(0, 2), (0, 3)]
    apart = read(folder({"x/c.jsonl": [3, 4, 5]}) / "x").train.segments
    assert found.train.segments[1:] == apart


# README.md


def header(*configs: str) -> str:
    return "---\nlicense: mit\nconfigs:\n" + "\n".join(configs) + "\n---\n# Data\n"


FORMAL = "- config_name: formal\n  data_files: formal.jsonl\n  default: true"
SLANG = "- config_name: slang\n  data_files: slang.jsonl"


def test_the_configuration_that_is_named_is_read(folder: Fill) -> None:
    path = folder({"README.md": header(FORMAL, SLANG), "formal.jsonl": [1], "slang.jsonl": [2]})
    assert numbers(read(path).train) == [1]
    assert numbers(read(path, config="formal").train) == [1]
    slang = read(path, config="slang")
    assert numbers(slang.train) == [2]
    assert "config slang of its README.md" in slang.notes
    with pytest.raises(UserError, match=r"there is no config slag; did you mean slang\?; it has formal, slang"):
        read(path, config="slag")


def test_without_a_default_one_must_be_named(folder: Fill) -> None:
    plain = FORMAL.replace("\n  default: true", "")
    path = folder({"README.md": header(plain, SLANG), "formal.jsonl": [1], "slang.jsonl": [2]})
    with pytest.raises(UserError, match="set config to one of formal, slang"):
        read(path)
    assert numbers(read(path, config="slang").train) == [2]
    only = folder({"README.md": header(SLANG)})
    assert numbers(read(only).train) == [2]


@pytest.mark.parametrize("change", [
    lambda text: text.replace("\n", "\r\n"), lambda text: "\n \n" + text, lambda text: "\ufeff" + text,
    lambda text: "\ufeff\r\n" + text.replace("\n", "\r\n"), lambda text: text.replace("---\n", "---  \n"),
])  # fmt: skip
def test_a_readme_written_anywhere(change: Callable[[str], str], folder: Fill) -> None:
    path = folder({"formal.jsonl": [1], "slang.jsonl": [2]})
    (path / "README.md").write_bytes(change(header(FORMAL, SLANG)).encode())
    assert numbers(read(path).train) == [1]
    assert numbers(read(path, config="slang").train) == [2]


PATTERNS: dict[str, tuple[str, list[int], list[int] | None]] = {
    "a list": ("data_files:\n  - b.jsonl\n  - a.jsonl", [2, 1], None),
    "a pattern": ('data_files: "[!t]*.jsonl"', [1, 2], None),
    "splits": ("data_files:\n  - split: train\n    path: a.jsonl\n  - split: test\n    path: [b.jsonl]", [1], [2]),
    "a table of splits": ("data_files:\n    train: ./a.jsonl\n    validation: 'x/**'", [1], [7, 8]),
    "all below": ("data_files: '**/*.jsonl'", [1, 2, 3, 7, 8], None),
    "a folder": ("data_dir: x", [8], [7]),
    "files of a folder": ("data_dir: x\n  data_files: test.jsonl", [7], None),
    "patterns in a folder": ("data_dir: ./x/\n  data_files: {train: 'y/*', test: '*.jsonl'}", [8], [7]),
    "a folder as files": ("data_files: x", [7, 8], None),
    "a name like a pattern": ("data_files: 'odd[1].jsonl'", [6], None),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_the_files_of_a_configuration(name: str, folder: Fill) -> None:
    said, train, validation = PATTERNS[name]
    path = folder({"README.md": header(f"- config_name: one\n  {said}"), "a.jsonl": [1], "b.jsonl": [2],
                   "t.jsonl": [3], "x/test.jsonl": [7], "x/y/train.jsonl": [8]})  # fmt: skip
    if "odd" in said:
        folder({"odd[1].jsonl": [6], "odd1.jsonl": [5]})
    found = read(path)
    assert numbers(found.train) == train
    assert numbers(found.validation) == validation


LEADING_OUT = ["../other.jsonl", "/etc/passwd", "x/../../other.jsonl", "hf://x/y.jsonl", "~/a.jsonl"]


@pytest.mark.parametrize("given", LEADING_OUT)
@pytest.mark.parametrize("key", ["data_files", "data_dir"])
def test_a_readme_does_not_lead_out_of_its_folder(given: str, key: str, folder: Fill, tmp_path: Path) -> None:
    path = folder({"README.md": header(f"- config_name: one\n  {key}: {given}"), "a.jsonl": [1]})
    (tmp_path / "other.jsonl").write_text('{"text": "Row 9."}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"config one: .* leads out of its folder"):
        read(path)


def test_a_file_that_a_configuration_misses(folder: Fill) -> None:
    with pytest.raises(UserError, match=r"README\.md, config slang: there is no file slang\.jsonl"):
        read(folder({"README.md": header(SLANG), "a.jsonl": [1]}))


# A list of a few hundred bytes that is 10^7 words when it is written out.
LAUGHS = "\n".join(
    ["a: &a [ha,ha,ha,ha,ha,ha,ha,ha,ha,ha]"]
    + [f"{name}: &{name} [{','.join([f'*{last}'] * 10)}]" for last, name in pairwise("abcdefg")]
)
BAD_HEADERS = [
    "configs: [", "configs: 3", "configs:\n- one", "configs:\n- data_files: {train: 3}", "configs: !!python/x 1",
    f"{LAUGHS}\nconfigs:\n- config_name: *g", f"{LAUGHS}\nconfigs:\n- data_dir: *g",
    f"{LAUGHS}\nconfigs:\n- data_files: [{{split: *g, path: a.jsonl}}]", f"{LAUGHS}\nconfigs: *g",
    f"{LAUGHS}\nconfigs:\n- data_files: *g", "configs:\n- config_name: !!set {a, b}",
]  # fmt: skip


@pytest.mark.parametrize("said", BAD_HEADERS)
def test_a_header_that_is_no_header_is_said_and_not_used(said: str, folder: Fill) -> None:
    path = folder({"README.md": f"---\n{said}\n---\n", "a.jsonl": [1]})
    found = read(path)
    assert numbers(found.train) == [1]
    assert any("header of its README.md" in note for note in found.notes)
    with pytest.raises(UserError, match=r"has no config slang: the header of its README\.md"):
        read(path, config="slang")


def test_what_has_no_configurations_refuses_one(folder: Fill) -> None:
    path = folder({"README.md": "---\nlicense: mit\n---\n", "a.jsonl": [1]})
    assert numbers(read(path, config="default").train) == [1]
    for place in (path, path / "a.jsonl"):
        with pytest.raises(UserError, match="no config slang"):
            read(place, config="slang")
    with pytest.raises(UserError, match="revision is nothing that"):
        read(path, revision="main")


@pytest.mark.parametrize(("pattern", "name", "fits"), [
    ("*.jsonl", "a.jsonl", True), ("*.jsonl", "x/a.jsonl", False), ("**/*.jsonl", "a.jsonl", True),
    ("**/*.jsonl", "x/y/a.jsonl", True), ("x/**", "x/y/a.jsonl", True), ("data/*-[0-9].csv", "data/a-1.csv", True),
    ("data/*-[0-9].csv", "data/a-b.csv", False), ("?.csv", "a.csv", True), ("a.csv", "axcsv", False),
    ("[]a].csv", "].csv", True), ("[!a].csv", "a.csv", False), ("a[.csv", "a[.csv", True),
])  # fmt: skip
def test_patterns(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


# Columns of several files


def test_files_whose_columns_differ(folder: Fill) -> None:
    found = read(folder({"a.jsonl": '{"text": "Row 1.", "note": null}\n',
                         "b.jsonl": '{"id": 7, "text": "Row 2.", "note": "x"}\n',
                         "c.jsonl": '{"text": "Row 3.", "note": [1]}\n'}))  # fmt: skip
    assert numbers(found.train) == [1, 2, 3]
    table = found.train.table
    assert table["note"].to_pylist() == [None, "x", "[1]"]
    assert table["id"].to_pylist() == [None, "7", None]
    kinds = {field.name: field.metadata[b"kinds"] for field in table.schema}
    assert kinds == {"text": b"string", "note": b"list,null,string", "id": b"null,number"}


NATIVE: dict[str, tuple[list[pa.Array], list[object]]] = {
    "null and text": ([pa.nulls(1), pa.array(["x"])], [None, "x"]),
    "whole and broken numbers": ([pa.array([1]), pa.array([1.5])], [1.0, 1.5]),
    "numbers and texts": ([pa.array([1]), pa.array(["x"])], ["1", "x"]),
    "texts of two sizes": ([pa.array(["x"]), pa.array(["y"], pa.large_string())], ["x", "y"]),
    "categories": ([pa.array(["x"]).dictionary_encode(), pa.array(["y"])], ["x", "y"]),
}


@pytest.mark.parametrize("name", NATIVE)
def test_parquet_files_whose_types_differ(name: str, folder: Fill) -> None:
    given, expected = NATIVE[name]
    path = folder({"z.md": ""})
    for number, column in enumerate(given):
        pq.write_table(pa.table({"text": [f"Row {number}."], "note": column}), path / f"{number}.parquet")
    found = read(path)
    assert numbers(found.train) == [0, 1]
    assert found.train.table["note"].to_pylist() == expected


def test_a_column_without_a_common_type_is_left_out_and_said(folder: Fill) -> None:
    path = folder({"z.md": ""})
    for number, cell in enumerate(([1], "x")):
        pq.write_table(pa.table({"text": [f"Row {number}."], "note": [cell]}), path / f"{number}.parquet")
    found = read(path)
    assert numbers(found.train) == [0, 1]
    assert found.train.table.column_names == ["text"]
    assert any(note.startswith("column note is left out: it holds ") for note in found.notes)


# Links and names


def test_links_are_read_by_the_names_they_bear(folder: Fill, tmp_path: Path) -> None:
    path = folder({"train.jsonl": [1]})
    (tmp_path / "blobs").mkdir()
    (path / "train.jsonl").rename(tmp_path / "blobs/9f2c")
    (path / "train.jsonl").symlink_to("../blobs/9f2c")
    (path / "more").symlink_to(path, target_is_directory=True)  # a circle
    (path / "gone.jsonl").symlink_to("nowhere")
    found = read(path)
    assert numbers(found.train) == [1]
    assert "left out, for they are links to nothing: gone.jsonl" in found.notes
    assert numbers(read(path / "train.jsonl").train) == [1]


@pytest.mark.parametrize("name", ["a[1].jsonl", "d*.jsonl", "a::b.jsonl", "http:x.jsonl", "{a,b}.jsonl", "ü 😀.jsonl"])
def test_a_path_is_a_path(name: str, folder: Fill) -> None:
    path = folder({name: [1], "a1.jsonl": [2], "dd.jsonl": [3]})
    assert numbers(read(path / name).train) == [1]
