"""Files of text: each value as the file spells it, whatever stands in other rows; what is broken, by its line."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lmplay_tui.data.csv_files import is_plain
from lmplay_tui.data.decoding import Unreadable
from lmplay_tui.data.text_files import Found, read_batches
from lmplay_tui.data.text_rows import BY_LINE, BY_MARKS, BY_PARAGRAPH, lines_are_documents


def read(
    path: Path, kind: str | None = None, compression: str = "", most_columns: int = 1000, **how: Any
) -> tuple[list[dict[str, Any]], Found]:
    found = Found(most_columns=most_columns)
    batches = list(read_batches(path, kind or path.suffix, compression, found, lambda share: None, **how))
    names = list(found.kinds)
    rows = [dict.fromkeys(names) | row for batch in batches for row in batch.to_pylist()]
    assert all(field.type == pa.string() for batch in batches for field in batch.schema)
    return rows, found


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def write(name: str, contents: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        return path

    return write


Written = Callable[[str, str | bytes], Path]

# JSON


def test_scalars_of_json_are_spelled_as_in_the_file(written: Written) -> None:
    line = '{"a": 1.50, "b": 001e0, "c": -0, "d": true, "e": null, "f": "1910-01-10", "g": NaN, "h": "None"}\n'
    rows, found = read(written("a.jsonl", line.replace("001e0", "1e05") + '{"a": "x", "d": 12345678901234567890123}\n'))
    assert rows[0] == {"a": "1.50", "b": "1e05", "c": "-0", "d": "true", "e": None, "f": "1910-01-10", "g": None,
                       "h": "None"}  # fmt: skip
    assert rows[1] == dict.fromkeys("abcdefgh") | {"a": "x", "d": "12345678901234567890123"}
    assert found.kinds["a"] == {"number", "string"}
    assert found.kinds["d"] == {"bool", "number"}
    assert found.kinds["e"] == {"null"}
    assert found.kinds["f"] == {"string", "null"}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_nan_is_missing_and_a_string_of_these_letters_is_not(name: str, written: Written) -> None:
    cells = ['"NaN"', "NaN", "3", '[1, NaN, "NaN"]', "null", "-Infinity"]
    lines = ",\n".join(f'{{"a": {cell}}}' for cell in cells)
    rows, found = read(written(name, lines.replace(",\n", "\n") if name == "a.jsonl" else f"[{lines}]"))
    assert [row["a"] for row in rows] == ["NaN", None, "3", '[1, null, "NaN"]', None, "-Infinity"]
    assert found.kinds == {"a": {"string", "null", "number", "list"}}


def test_lists_and_objects_are_json_text_with_their_numbers_spelled(written: Written) -> None:
    rows, found = read(written("a.jsonl", '{"m": [{"é": 1.50, "b": [true, null, "\\"q\\n"]}], "o": {"a": "ü"}}\n'))
    assert rows == [{"m": '[{"é": 1.50, "b": [true, null, "\\"q\\n"]}]', "o": '{"a": "ü"}'}]
    assert found.kinds == {"m": {"list"}, "o": {"object"}}


json_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
json_values = st.recursive(
    json_scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def spelling(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@given(rows=st.lists(st.dictionaries(st.text(max_size=4), json_values, max_size=4), min_size=1, max_size=6),
       form=st.sampled_from(["lines", "ascii lines", "list", "pretty list", "pretty objects", "wrapped"]),
       block=st.sampled_from([3, 17, 1 << 20]))  # fmt: skip
def test_json_of_any_form_and_shape_comes_back(
    rows: list[dict[str, Any]], form: str, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [{"n": number, **row} for number, row in enumerate(rows)]  # also no row without a key
    text = {
        "lines": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "ascii lines": "".join(json.dumps(row) + "\r\n\r\n" for row in rows),
        "list": json.dumps(rows),
        "pretty list": json.dumps(rows, indent=2, ensure_ascii=False),
        "pretty objects": "\n".join(json.dumps(row, indent=1) for row in rows),
        "wrapped": json.dumps({"version": "1", "data": rows, "at": 1234567890}),
    }[form]
    kind = ".json" if form == "wrapped" or "list" in form else ".jsonl"
    path = tmp_path_factory.getbasetemp() / f"form{kind}"
    path.write_text(text, encoding="utf-8", newline="")
    found, _ = read(path, block=block)
    expected = [{name: spelling(value) for name, value in row.items()} for row in rows]
    assert [{name: row[name] for name in want} for row, want in zip(found, expected, strict=True)] == expected
    assert all(row[name] is None for row, want in zip(found, expected, strict=True) for name in row.keys() - want)


def test_columns_that_begin_late_are_null_before(written: Written) -> None:
    rows, found = read(written("a.jsonl", '{"a": 1}\n{"b": {}}\n{"c": 3, "a": "x"}\n'), block=10)
    assert rows == [{"a": "1", "b": None, "c": None}, {"a": None, "b": "{}", "c": None},
                    {"a": "x", "b": None, "c": "3"}]  # fmt: skip
    assert found.kinds == {"a": {"number", "null", "string"}, "b": {"null", "object"}, "c": {"null", "number"}}


def test_keys_without_end_are_left_out_and_counted(written: Written) -> None:
    lines = "".join(f'{{"text": "t{n}", "k{n}": {n}}}\n' for n in range(9))
    rows, found = read(written("a.jsonl", lines), most_columns=3)
    assert [row["text"] for row in rows] == [f"t{n}" for n in range(9)]
    assert list(found.kinds) == ["text", "k0", "k1"]
    assert found.notes == ["more than 3 different keys: those seen later are left out, but for usual names"]


def test_usual_names_are_kept_among_keys_without_end(written: Written) -> None:
    row = {**{f"k{n}": n for n in range(2000)}, "Question": "Who?", "answer": "Me."}
    rows, found = read(written("a.jsonl", json.dumps(row) + "\n"))
    assert (rows[0]["Question"], rows[0]["answer"], rows[0]["k999"]) == ("Who?", "Me.", "999")
    assert len(rows[0]) == 1002
    assert len(found.notes) == 1


DOCUMENTS: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "a list under a key": ('{"v": "1", "rows": [{"t": "a"}, {"t": 1.0}]}', [{"t": "a"}, {"t": "1.0"}], "v"),
    "a list under a nested sibling": ('{"meta": {"x": [1]}, "data": [{"t": "a"}], "n": []}', [{"t": "a"}], "meta, n"),
    "columns": ('{"q": ["a", null], "n": [1, 2.50]}', [{"q": "a", "n": "1"}, {"q": None, "n": "2.50"}], "q, n"),
    "a list of texts under a key": ('{"texts": ["a", "b"]}', [{"texts": "a"}, {"texts": "b"}], "texts"),
    "one object": ('{"title": "x", "text": "y"}', [{"title": "x", "text": "y"}], "one row"),
    "one conversation": ('{"id": 1, "messages": [{"role": "user", "content": "a"}]}',
                         [{"id": "1", "messages": '[{"role": "user", "content": "a"}]'}], "one row"),
    "texts": ('["a", "b"]', [{"text": "a"}, {"text": "b"}], "column text"),
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_that_holds_rows(name: str, written: Written) -> None:
    text, expected, said = DOCUMENTS[name]
    for spelled in (text, json.dumps(json.loads(text, parse_float=str), indent=2)) if "." not in text else (text,):
        rows, found = read(written("a.json", spelled))
        assert rows == expected
        assert len(found.notes) == 1
        assert said in found.notes[0]


def test_an_object_alone_in_a_jsonl_is_a_row(written: Written) -> None:
    for text in ('{"text": "x", "tags": [{"a": 1}]}', '{\n"text": "x", "tags":\n[{"a": 1}]}'):
        assert read(written("a.jsonl", text))[0] == [{"text": "x", "tags": '[{"a": 1}]'}]


BROKEN_JSON: dict[str, tuple[str, str, str]] = {
    "a value is missing": ("a.jsonl", '{"a": 1}\n\n{"a": \n{"a": 3}\n', "line 3: no JSON: Expecting value at column"),
    "the first line": ("a.jsonl", '{"a": 1\n{"a": 2}\n', "line 1: no JSON"),
    "the last line breaks off": ("a.jsonl", '{"a": 1}\n{"a": "two', "line 2: no JSON: Unterminated string"),
    "two rows in a line": ("a.jsonl", '{"a": 1}\n{"a": 2} {"a": 3}\n', "line 2: no JSON: Extra data at column 10"),
    "a list breaks off": ("a.json", '[\n{"a": 1},\n{"a": 2}\n', "line 4: no JSON: Expecting ','"),
    "a comma is missing": ("a.json", '[\n{"a": 1}\n{"a": 2}\n]', "line 3: no JSON: Expecting ',' at column 1"),
    "after the list": ("a.json", '[{"a": 1}]\n[{"a": 2}]', "line 2: no JSON: a list is followed by something else"),
    "a row is a list": ("a.jsonl", '{"a": 1}\n["b"]\n', "line 2: a row is a list, not an object"),
    "all rows are lists": ("a.jsonl", '["a", "b"]\n["c", "d"]\n', "line 1: a row is a list, not an object"),
    "lists, then an object": ("a.jsonl", '[{"a": 1}]\n{"a": 2}\n', "line 1: a row is a list, not an object"),
    "a row is a number": ("a.json", '[{"a": 1},\n 3]', "line 2: a row is a number, not an object"),
    "texts, then not": ("a.json", '["a",\n {"b": 1}]', "line 2: a row is an object, not a text"),
    "several lists": ("a.json", '{"train": [{"a": 1}], "test": [{"a": 2}]}', "several lists of rows (train, test)"),
    "no rows": ("a.json", '{"version": "1", "items": ["a"], "n": 1}', "its keys are version, items, n"),
    "nested without end": ("a.jsonl", '{"a": ' + "[" * 100_000 + "\n", "nested too deeply"),
}


@pytest.mark.parametrize("name", BROKEN_JSON)
def test_json_that_will_not_do_is_named_by_line(name: str, written: Written) -> None:
    file, text, said = BROKEN_JSON[name]
    with pytest.raises(Unreadable) as caught:
        read(written(file, text))
    assert said in str(caught.value)


def test_half_a_character_is_replaced_and_counted(written: Written) -> None:
    rows, found = read(written("a.jsonl", '{"t": "a\\ud83d!", "m": ["\\udc00"]}\n{"t": "\\ud83d\\ude00"}\n'))
    assert [row["t"] for row in rows] == ["a\ufffd!", "😀"]
    assert rows[0]["m"] == '["\ufffd"]'
    assert found.notes == ["2 cells hold half of a surrogate pair: U+FFFD stands for it"]


# CSV


def test_fields_of_csv_are_what_stands_there(written: Written) -> None:
    text = 'code,answer,n\r\n001,NA,\r\n,"None","1,5"\r\n1.50,null," x"\r\n"two\r\nlines","say ""hi""",nan\r\n\r\n'
    rows, found = read(written("a.csv", text))
    assert [tuple(row.values()) for row in rows] == [
        ("001", "NA", ""), ("", "None", "1,5"), ("1.50", "null", " x"), ("two\r\nlines", 'say "hi"', "nan"),
    ]  # fmt: skip
    assert found.kinds == {name: {"string"} for name in ("code", "answer", "n")}
    assert found.notes == []


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=8), separator=st.sampled_from(",;\t|"),
       quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))  # fmt: skip
def test_any_csv_comes_back(
    rows: list[tuple[str, str]], separator: str, quoting: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # A field that holds a tab and a line break may look like two fields with a quote each; which is said, or read so.
    broken = any(separator in cell and ("\n" in cell or "\r" in cell) for row in rows for cell in row)
    assume(not broken)
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, quoting=quoting)
    writer.writerows([("question", "answer"), *rows])
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    found, about = read(path)
    assert [tuple(row.values()) for row in found] == rows
    assert len(about.notes) == (separator != ",")


raw_texts = st.text(st.sampled_from('a",;\n\r é'), max_size=14)


@given(text=raw_texts, block=st.sampled_from([2, 5, 1 << 20]), separator=st.sampled_from(",;"))
def test_both_readers_of_csv_read_the_same(
    text: str, block: int, separator: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Where the fast one is taken; else the strict one is, which refuses what the fast one would garble."""
    path = tmp_path_factory.getbasetemp() / "both.csv"
    path.write_text(f"sep={separator}\nq{separator}a\n{text}\n", encoding="utf-8", newline="")
    assert is_plain(path, "", separator, block) == is_plain(path, "", separator)
    results: list[object] = []
    for look in (True, False):  # a look at the beginning, which is all of it, is the strict reader's
        try:
            results.append([tuple(row.values()) for row in read(path, look=look)[0]])
        except Unreadable as error:
            results.append(str(error))
    assert results[0] == results[1]


@pytest.mark.parametrize(("text", "plain"), [
    ('a,b\n1,"x"\n', True), ('a,b\r\n"1","x\r\n""y"""\r\n', True), ("a,b\n1,2", True), ('a,b\n"",""', True),
    ('a,b\n1,5" screen\n', False), ('a,b\n1,"x" y\n', False), ('a,b\n1,"x\n', False), ('a,b\n1, "x"\n', False),
])  # fmt: skip
@pytest.mark.parametrize("block", [1, 2, 3, 1 << 20])
def test_which_csv_is_plain(text: str, plain: bool, block: int, written: Written) -> None:
    assert is_plain(written("a.csv", text), "", ",", block) is plain
    assert is_plain(written("a.csv.gz", gzip.compress(text.encode())), ".gz", ",", block) is plain


def test_a_record_longer_than_a_block_is_read_after_those_before_it(written: Written) -> None:
    rows = [("q", "short"), *((str(n), f'say "{n}"') for n in range(300)), ("long", "word " * 900), ("q", "end")]
    out = io.StringIO()
    csv.writer(out).writerows([("q", "a"), *rows])
    assert [tuple(row.values()) for row in read(written("a.csv", out.getvalue()), block=1000)[0]] == rows


@pytest.mark.parametrize(("name", "separator", "said"), [
    ("a.csv", ",", []), ("a.csv", ";", ["separated by ';'"]), ("a.csv", "\t", ["separated by tabs"]),
    ("a.csv", "|", ["separated by '|'"]), ("a.tsv", "\t", []), ("a.tsv", ",", ["separated by ','"]),
])  # fmt: skip
def test_the_separator_is_found_and_said(name: str, separator: str, said: list[str], written: Written) -> None:
    lines = [("prompt", "truth"), *((f"What, {n}; or | else?", f"{n},5; yes") for n in range(50))]
    quoted = "\n".join(separator.join(f'"{cell}"' for cell in line) for line in lines)
    rows, found = read(written(name, quoted))
    assert rows[7] == {"prompt": "What, 7; or | else?", "truth": "7,5; yes"}
    assert found.notes == said


def test_a_column_of_texts_is_not_divided_by_what_they_hold(written: Written) -> None:
    rows, found = read(written("a.csv", "text\nOne; two; three\nFour | five; six\n"))
    assert [row["text"] for row in rows] == ["One; two; three", "Four | five; six"]
    assert found.notes == []


def test_a_spreadsheet_may_say_its_separator(written: Written) -> None:
    assert read(written("a.csv", "sep=;\r\na;b\r\n1,5;2\r\n"))[0] == [{"a": "1,5", "b": "2"}]


def test_columns_without_a_name_or_with_the_same_one(written: Written) -> None:
    rows, found = read(written("a.csv", ",text,text\n0,a,b\n"))
    assert rows == [{"column 1": "0", "text": "a", "text 2": "b"}]
    assert found.notes == ["column text is there more than once: column 3 is called text 2"]


def test_a_field_may_hold_a_book(written: Written) -> None:
    book = "word " * 200_000
    assert read(written("a.csv", f'id,text\n1,"{book}"\n2,short\n'))[0][0]["text"] == book


@pytest.mark.parametrize(("text", "said"), [
    ("a,b\n1,2\n3\n4,5\n", "line 3: 1 fields, where the header names 2"),
    ('a,b\n"x\ny",2\n\n3,4,5\n', "line 5: 3 fields, where the header names 2"),
    ('a,b\n1,2\n"3,4\n5,6\n', "line 3: the quotes"),
    ('a,b\n1,"x "y" z"\n5,6\n', "line 2: the quotes"),
])  # fmt: skip
def test_records_that_do_not_fit_are_named_by_line(text: str, said: str, written: Written) -> None:
    with pytest.raises(Unreadable) as caught:
        read(written("a.csv", text))
    assert str(caught.value).startswith(said)


STANDING: dict[str, list[tuple[str, str]]] = {
    "open and closed two lines on": [('"Hello there', "Hi you"), ('Who is it"', "Me it is"), ("Last one", "yes sir")],
    "words in quotes": [('He said "go"', '"Yes" he said'), ("x", "y")],
    "never closed": [("x", '"y'), ("z", "w")],
    "inches": [('5"', "a"), ('"6', "b")],
}


@pytest.mark.parametrize("name", STANDING)
@pytest.mark.parametrize("ending", [".tsv", ".csv"])
def test_quotes_stand_in_tab_separated_lines(name: str, ending: str, written: Written) -> None:
    lines = [("question", "answer"), *STANDING[name]]
    rows, found = read(written(f"a{ending}", "\n".join("\t".join(line) for line in lines)))
    assert [tuple(row.values()) for row in rows] == STANDING[name]
    assert "its quotes are read as they stand: each line has the header's number of fields" in found.notes


def test_quotes_around_whole_fields_are_no_part_of_them(written: Written) -> None:
    rows, found = read(written("a.tsv", 'q\ta\n"x\ty"\t"say ""hi"""\n"two\nlines"\tb\n"c"\td\n'))
    assert [tuple(row.values()) for row in rows] == [("x\ty", 'say "hi"'), ("two\nlines", "b"), ("c", "d")]
    assert found.notes == []


def test_a_quote_that_swallows_records_is_said(written: Written) -> None:
    text = 'q,a\n1,one\n"Hello there,Hi you\nWho is it",Me it is\nLast one,yes sir\n'
    rows, found = read(written("a.csv", text))
    assert len(rows) == 3
    assert [note for note in found.notes if note.startswith("line 3: its quote is closed in another line")]
    assert not read(written("b.csv", 'q,a\n"Two\nlines, and more, of it",x\n'))[1].notes


def test_a_quote_within_a_field_is_one(written: Written) -> None:
    assert read(written("a.csv", 'a,b\n5" screen,2\n'))[0] == [{"a": '5" screen', "b": "2"}]


# Text


def test_lines_of_white_space_separate_as_empty_ones_do(written: Written) -> None:
    rows, found = read(written("a.txt", "One\r\nline.\r\n \t\r\nTwo.\n\n\n\n\tThree\r four.  \n\u3000\n"))
    assert [row["text"] for row in rows] == ["One\nline.", "Two.", "\tThree\n four.  "]
    assert found.notes == [BY_PARAGRAPH]


def wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)


SENTENCES = [f"The {word} number {n} stood {'near the old mill ' * (n % 4)}by the river." for n in range(300)
             for word in ("heron", "ferryman")]  # fmt: skip
PROSE = " ".join(SENTENCES)

WORDS = [a + b + "rn" for a in ("ba", "co", "di", "fe", "gu", "ha", "le", "mi") for b in "aeiou"]

LINES: dict[str, list[str]] = {
    "sentences": SENTENCES,
    "few sentences": SENTENCES[:10],
    "sentences in quotes": [f"“{line}”" for line in SENTENCES],
    "questions": [line.replace(".", "?") for line in SENTENCES],
    "Chinese": [f"第{n}个老渡工把沉重的石头搬到山上。" for n in range(40)],
    "one blank line, at the end": [*SENTENCES, "", ""],
    "hardly a blank line": [*SENTENCES[:100], "", *SENTENCES[100:]],
    "long lines without an end": ["word " * 80 + str(n) for n in range(5)],
    "a log": [f"2026-01-02 12:{n % 60:02d} INFO worker-{n % 7} took {n * n % 977} ms {'again ' * (n % 3)}" for n in
              range(400)],
    "lines of nearly one length": [f"doc number {n} about cats" for n in range(150)],
    "few of them": [f"doc number {n} about cats" for n in range(25)],
    "names": [f"User{n:04} said hello to Bob" for n in range(200)],
    "lines of one length": [f"{'abcdefgh '[: 1 + n % 8]}{'the cat ran ' * 9}"[:57] for n in range(400)],
    "words of one length each": [" ".join(WORDS[(n * 7 + k * k) % 40] for k in range(8)) for n in range(400)],
    "a log of sentences": [f"12:{n % 60:02} worker {n % 10} failed. Retrying once" for n in range(300)],
    "commands": [f"cp -r /mnt/a{n:03} /mnt/b{n:03} && echo done" for n in range(60)],
    "words": [f"{'ab' * (n % 5)}word{n}" for n in range(400)],
    "titles": [f"Chapter {n}: {'of the sea ' * (n % 3)}and the hill" for n in range(150)],
}  # fmt: skip
PARAGRAPHS: dict[str, list[str]] = {
    "wrapped prose": wrapped(PROSE, 72),
    "short wrapped prose": wrapped(PROSE[:2500], 60),
    "wrapped prose in another script": wrapped(PROSE.translate(str.maketrans("aeiotnrsTh", "αειοτνρσΤχ")), 72),
    "wrapped prose, narrow": wrapped(PROSE, 40),
    "wrapped prose of indented paragraphs": [
        line for n in range(0, 600, 12) for line in wrapped("  " + " ".join(SENTENCES[n : n + 12]), 78)
    ],
    "wrapped prose with blank lines": [line for n in range(30) for line in [*wrapped(PROSE[:900], 72), ""]],
    "long paragraphs of wrapped prose": [line for n in range(4) for line in [*wrapped(PROSE[:9000], 72), ""]],
    "a sentence a line, in paragraphs": [line for n in range(0, 60, 3) for line in [*SENTENCES[n : n + 3], ""]],
    "a sonnet": ["Shall I compare thee to a summer's day?", "Thou art more lovely and more temperate:",
                 "Rough winds do shake the darling buds of May,", "And summer's lease hath all too short a date:"] * 4,
    "a poem in verses": ["The woods are lovely, dark and deep,", "But I have promises to keep,", ""] * 60,
    "one huge line": [PROSE],
    "two lines": ["One line.", "Another."],
    "a few lines": SENTENCES[:9],
    "nothing": [""],
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_lines_that_are_documents(name: str, written: Written) -> None:
    assert lines_are_documents(LINES[name])
    rows, found = read(written("a.txt", "\n".join(LINES[name])))
    assert [row["text"] for row in rows] == [line for line in LINES[name] if line]
    assert found.notes == [BY_LINE]


@pytest.mark.parametrize("name", PARAGRAPHS)
def test_lines_that_are_parts_of_paragraphs(name: str, written: Written) -> None:
    assert not lines_are_documents(PARAGRAPHS[name])
    text = "\n".join(PARAGRAPHS[name])
    rows, found = read(written("a.txt", text))
    assert [row["text"] for row in rows] == [piece for piece in text.rstrip("\n").split("\n\n") if piece]
    assert found.notes == [BY_PARAGRAPH]


MARKED = {
    "on lines": "One.\n\nTwo.\n<|endoftext|>\nThree.\n<|endoftext|>\n",
    "at the ends": "One.\n\nTwo.<|endoftext|>\nThree.<|endoftext|>",
    "at the beginnings": "<|endoftext|>One.\n\nTwo.\n  <|endoftext|>Three.",
    "after one another": "\ufeffOne.\r\n\r\nTwo.\r\n<|endoftext|>\r\n<|endoftext|> \r\nThree.\r\n",
}


@pytest.mark.parametrize("name", MARKED)
def test_marks_of_the_end_of_a_text_are_between_rows(name: str, written: Written) -> None:
    rows, found = read(written("a.txt", MARKED[name]))
    assert [row["text"] for row in rows] == ["One.\n\nTwo.", "Three."]
    assert found.notes == [BY_MARKS]


def test_a_sentence_may_speak_of_the_mark(written: Written) -> None:
    rows, found = read(written("a.txt", "The mark <|endoftext|> ends it.\n\nSo be it.\n"))
    assert [row["text"] for row in rows] == ["The mark <|endoftext|> ends it.", "So be it."]
    assert found.notes == [BY_PARAGRAPH]


# Bytes


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be"])
@pytest.mark.parametrize(("name", "text"), [
    ("a.txt", "naïve 😀"), ("a.jsonl", '{"text": "naïve 😀"}'), ("a.json", '[{"text": "naïve 😀"}]'),
    ("a.csv", "text\nnaïve 😀"),
])  # fmt: skip
def test_a_byte_order_mark_never_reaches_a_text(name: str, text: str, encoding: str, written: Written) -> None:
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    assert read(written(name, mark + text.encode(encoding)))[0] == [{"text": "naïve 😀"}]


def test_files_put_together_with_their_marks(written: Written) -> None:
    assert [r["text"] for r in read(written("a.jsonl", '\ufeff{"text": "a"}\n\ufeff{"text": "b"}\n'))[0]] == ["a", "b"]
    assert [r["text"] for r in read(written("a.txt", "\ufeff\ufeffa\n\n\ufeffb\n"))[0]] == ["a", "b"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_bytes_that_are_no_characters_are_named_by_line(name: str, written: Written) -> None:
    lines = {"a.txt": b"%s\n", "a.jsonl": b'{"text": "%s"}\n', "a.csv": b"%s\n"}[name]
    path = written(name, b"".join(lines % word for word in (b"text", b"fine", b"caf\xe9", b"last")))
    with pytest.raises(Unreadable, match=r"^line 3: byte 0xe9 is no UTF-8"):
        read(path)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}  # fmt: skip


@pytest.mark.parametrize("compression", PACKERS)
def test_compressed_files(compression: str, written: Written) -> None:
    lines = "".join(f'{{"text": "Row {n} é."}}\n' for n in range(3000)).encode()
    packed = PACKERS[compression](lines[:30_000]) + PACKERS[compression](lines[30_000:])  # as `cat` makes them
    rows, _ = read(written(f"a.jsonl{compression}", packed), ".jsonl", compression)
    assert [row["text"] for row in rows] == [f"Row {n} é." for n in range(3000)]
    for bad in (PACKERS[compression](lines)[:-20], b"no such thing"):
        with pytest.raises(Unreadable, match=r"breaks off|is no sound \."):
            read(written(f"b.jsonl{compression}", bad), ".jsonl", compression)


@pytest.mark.parametrize("compression", PACKERS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_compressed_file_whose_name_does_not_say_so(name: str, compression: str, written: Written) -> None:
    text = '{"text": "Row é."}\n' if "json" in name else "text\nRow é.\n" if "csv" in name else "Row é."
    rows, found = read(written(name, PACKERS[compression](text.encode())))
    assert rows == [{"text": "Row é."}]
    assert f"is compressed as a {compression} file is, though its name does not say so" in found.notes
    assert read(written("b.txt", "BZh is how such a file begins."))[0] == [{"text": "BZh is how such a file begins."}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_wide_characters_without_a_mark_are_refused(name: str, encoding: str, written: Written) -> None:
    with pytest.raises(Unreadable, match="without its mark"):
        read(written(name, '{"text": "Row."}\n'.encode(encoding)))


def test_how_far_the_reading_is(written: Written) -> None:
    path = written("a.jsonl", "".join(f'{{"n": {n}}}\n' for n in range(300_000)))
    shares: list[float] = []
    for _ in read_batches(path, ".jsonl", "", Found(), shares.append, block=1 << 16):
        pass
    assert shares == sorted(shares)
    assert (shares[0] < 0.5, shares[-1]) == (True, 1.0)

    def enough(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(read_batches(path, ".jsonl", "", Found(), enough, block=1 << 16))
