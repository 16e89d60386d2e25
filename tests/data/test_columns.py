"""Which columns are read, by the forms that people bring; the tables of text files hold strings and say their kinds."""

import datetime
import decimal
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmplay_tui.data.columns import find_columns
from lmplay_tui.data.rows import Columns
from lmplay_tui.data.samples import Item
from lmplay_tui.data.sources import open_rows
from lmplay_tui.errors import UserError
from lmplay_tui.plan.schema import DatasetSpec
from tests.data.conftest import no_report

TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
TEXT = pa.string()
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
SAID = [("Hi\n", "Hello.")]


def spec(**columns: str) -> DatasetSpec:
    return DatasetSpec("mine", "owner/mine", **columns)


def empty(**kinds: pa.DataType) -> pa.Table:
    return pa.schema(list(kinds.items())).empty_table()


def from_file(rows: list[dict[str, Any]]) -> pa.Table:
    """The table that a text file of these rows becomes."""
    columns, fields = [], []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [None if _is_nan(value := row.get(name)) else value for row in rows]
        kinds = {_kind(value) for value in values}
        columns.append(pa.array([_written(value) for value in values], TEXT))
        fields.append(pa.field(name, TEXT, metadata={b"kinds": ",".join(sorted(kinds)).encode()}))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _kind(value: Any) -> str:
    kinds = {str: "string", bool: "bool", int: "number", float: "number", list: "list", dict: "object"}
    return "null" if value is None else kinds[type(value)]


def _written(value: Any) -> str | None:
    return value if isinstance(value, str | None) else json.dumps(value, ensure_ascii=False)


def stored_as_json(rows: list[dict[str, Any]]) -> pa.Table:
    """What `datasets` makes of rows whose kinds do not agree."""
    import datasets

    table: pa.Table = datasets.Dataset.from_list(rows, on_mixed_types="use_json").data.table
    return table


def described(table: pa.Table, **columns: str) -> str:
    return find_columns(spec(**columns), table).described()


def samples(table: pa.Table, **columns: str) -> list[tuple[str, str]]:
    rows = open_rows(spec(**columns), table)
    return [(item.prompt[: item.prompt_end], item.truth) for row in range(rows.num_rows) for item in rows.items(row)]


def refusal(table: pa.Table, **columns: str) -> str:
    with pytest.raises(UserError) as caught:
        open_rows(spec(**columns), table)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- by name ---


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({"id": pa.int64(), "title": TEXT, "text": TEXT}, "text = text, title = title; left out: id"),
        ({"Text": pa.large_string()}, "text = Text"),
        ({"text": pa.string_view(), "n": pa.int8()}, "text = text; left out: n"),
        ({"text": pa.dictionary(pa.int32(), TEXT)}, "text = text"),
        ({"url": TEXT, "content": TEXT}, "text = content; left out: url"),
        ({"prompt": TEXT, "text": TEXT, "format": TEXT}, "text = text; left out: prompt, format"),  # cosmopedia
        ({"prompt": TEXT, "truth": TEXT, "text": TEXT}, "prompt = prompt, truth = truth; left out: text"),
        ({"question": TEXT, "answer": TEXT}, "prompt = question, truth = answer"),
        ({"instruction": TEXT, "output": TEXT, "x": TEXT}, "prompt = instruction, truth = output; left out: x"),
        ({"messages": TURNS, "source": TEXT}, "messages = messages; left out: source"),
        ({"conversations": TURNS}, "messages = conversations"),
        ({"line": TEXT, "label": pa.int64()}, "text = line; left out: label"),
        ({"title": TEXT, "line": TEXT}, "text = line, title = title"),
        ({"truth": TEXT, "x": TEXT}, "truth = truth; left out: x"),
    ],
)
def test_usual_columns_are_found(kinds: dict[str, pa.DataType], expected: str) -> None:
    assert described(empty(**kinds)) == expected


PAIRS = [
    ("instruction input | output", "instruction + input"),
    ("instruction context category | response", "instruction + context"),
    ("context question title id | answer", "context + question"),
    ("question passage | answer", "passage + question"),
    ("question article | answer", "article + question"),
    ("question text | answer", "text + question"),
    ("context instruction question | answer", "instruction + context + question"),
    ("question system_prompt id | response", "system_prompt + question"),
    ("System Prompt, Question | Answer", "System Prompt + Question"),
    ("system prompt | completion", "system + prompt"),
    ("systemPrompt userPrompt | output", "systemPrompt + userPrompt"),
    ("problem level type | solution", "problem"),
    ("query | response", "query"),
    ("prompt | truth", "prompt"),
    ("input | output", "input"),
    ("inputs task | targets", "inputs"),
    ("source | target", "source"),
    ("user | assistant", "user"),
    ("article id | highlights", "article"),
    ("document id | summary", "document"),
    ("dialogue id | summary", "dialogue"),
    ("PROMPT | COMPLETION", "PROMPT"),
    ("q | a", "q"),
    ("context | answer", "context"),
    ("question | label", "question"),
    ("prompt id | label", "prompt"),
    ("input | Label", "input"),
    ("context question | label", "context + question"),
    ("text | summary", "text"),
    ("title text | summary", "text"),
    ("content url | summary", "content"),
    ("text | target", "text"),
    ("text | target_text", "text"),
    ("input_text | target_text", "input_text"),
    ("text | translation", "text"),
    ("task_id text | code", "text"),
    ("docstring | code", "docstring"),
]


@pytest.mark.parametrize(("names", "prompts"), PAIRS)
def test_all_columns_of_a_prompt_are_read(names: str, prompts: str) -> None:
    """In their order, a line each; those that are no part of it are named as left out."""
    before, truth = names.split(" | ")
    given = before.split(", ") if ", " in before else before.split()
    row = {name: f"The {name} {{}}." for name in [*given, truth]}
    table = pa.Table.from_pylist([{name: text.format(n) for name, text in row.items()} for n in range(3)])
    read = prompts.split(" + ")
    left = "".join(f", {name}" for name in given if name not in read).removeprefix(", ")
    assert described(table) == f"prompt = {prompts}, truth = {truth}" + (f"; left out: {left}" if left else "")
    assert samples(table)[1] == ("\n".join(row[name].format(1) for name in read), row[truth].format(1))


def test_an_empty_part_of_a_prompt_leaves_no_line() -> None:
    rows = [{"instruction": "Do.", "input": text, "output": "Done."} for text in ("", None, "With it.")]
    assert samples(pa.Table.from_pylist(rows)) == [("Do.", "Done."), ("Do.", "Done."), ("Do.\nWith it.", "Done.")]


def test_a_text_that_is_the_pair_once_more_is_left_out() -> None:
    rows = [
        {"instruction": f"Do {n}.", "input": "", "output": f"Done {n}.", "text": f"### Do {n}.\n### Answer: Done {n}."}
        for n in range(5)
    ]
    assert described(pa.Table.from_pylist(rows)) == "prompt = instruction + input, truth = output; left out: text"
    asked = [{"question": f"Why {n}?", "prompt": f"Q: Why {n}? A:", "response": "So."} for n in range(3)]
    assert described(pa.Table.from_pylist(asked)) == "prompt = prompt, truth = response; left out: question"


def test_named_columns_alone_are_read() -> None:
    rows = [{"a": "1", "b": "2", "text": "3", "truth": "4", "prompt": "5", "input": "6"}]
    table = pa.Table.from_pylist(rows)
    assert described(table, text="a") == "text = a; left out: b, text, truth, prompt, input"
    assert samples(table, text="a", title="b") == [("Title: 2\n", "1")]
    assert described(table, prompt="a", truth="b", system="text") == (
        "prompt = text + a, truth = b; left out: truth, prompt, input"
    )
    assert samples(table, prompt="a", truth="b", system="text") == [("3\n1", "2")]


@pytest.mark.parametrize("make", [pa.Table.from_pylist, from_file])
def test_a_text_with_what_tells_of_it_stays_running_text(make: Any) -> None:
    told = {"url": "https://a.b/c", "timestamp": "2019-04-25T12:57:54Z", "label": 1, "target": 0, "summary": None}
    for name in ("text", "content"):
        for other, cell in told.items():
            row = {name: "Some words.", "title": "A title.", other: cell}
            assert described(make([row] * 3)).startswith(f"text = {name}, title = title; left out: {other}")
        assert described(make([{name: "Words."} | told] * 3)).startswith(f"text = {name}; left out: url, ")
        assert described(make([{name: "Words.", "label": "good"}] * 3)) == f"text = {name}; left out: label"


@pytest.mark.parametrize("make", [pa.Table.from_pylist, from_file])
@pytest.mark.parametrize("asks", ["question", "prompt", "instruction", "input", "query"])
def test_a_question_without_its_answer_is_no_text(asks: str, make: Any) -> None:
    assert samples(make([{asks: "Is it?", "label": label} for label in (0, 1)])) == [("Is it?", "0"), ("Is it?", "1")]
    for answer in ("answer", "output", "response", "label"):
        said = refusal(make([{asks: "Is it?", answer: None}] * 3))
        assert said.endswith(f"(prompt = {asks}, truth = {answer}): {answer} is empty or null in all of them")
    for told in ("score", "human_rating", "class"):
        assert "no column has a usual name for text" in refusal(make([{asks: "Is it?", told: 3}] * 3))


def test_a_column_without_a_value_is_not_there() -> None:
    rows = [{"text": "Words.", "output": None, "prompt": "x", "note": None}]
    assert described(pa.Table.from_pylist(rows)) == "text = text; left out: output (all null), prompt, note (all null)"
    assert described(from_file(rows)) == "text = text; left out: output (all null), prompt, note (all null)"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": "tixt"}, "dataset mine: there is no column tixt; did you mean text?; it has id, text, title, turns"),
        ({"text": "text", "title": "x\x1by"}, "there is no column x␛y; it has"),
        ({"text": "id"}, "column id holds int64, not text"),
        ({"messages": "text"}, "column text holds string, not a list of messages"),
        ({"prompt": "text", "truth": "answer"}, "there is no column answer"),
        ({"text": "turns"}, "column turns holds list<"),
        ({"text": "text", "title": "turns"}, "column turns holds list<"),
        ({"prompt": "text", "truth": "turns"}, "column turns holds list<"),
        ({"prompt": "turns", "truth": "text"}, "column turns holds list<"),
        ({"prompt": "text", "truth": "text", "system": "turns"}, "column turns holds list<"),
    ],
)
def test_a_named_column_that_will_not_do(columns: dict[str, str], said: str) -> None:
    table = pa.table({
        "id": [1], "text": ["A text."], "title": ["A title."], "turns": pa.array([["a", "b"]], pa.list_(TEXT)),
    })  # fmt: skip
    assert said in refusal(table, **columns)


@pytest.mark.parametrize("make", [pa.Table.from_pylist, from_file])
@pytest.mark.parametrize("role", ["text", "title", "prompt", "truth", "system"])
@pytest.mark.parametrize("cell", [["One", "Two"], {"en": "One", "fr": "Un"}])
def test_lists_and_objects_are_no_text(make: Any, role: str, cell: Any) -> None:
    roles = {"text": ("text", "title"), "title": ("text", "title")}.get(role, ("prompt", "truth", "system"))
    rows = [{name: cell if name == role else "A text." for name in roles}] * 3
    said = refusal(make(rows), **{name: name for name in roles})
    assert said.startswith(f"dataset mine: column {role} holds ")
    assert said.endswith("not text")
    assert ("struct" if isinstance(cell, dict) else "list") in said or "object" in said


def test_a_cell_that_is_a_list_among_texts() -> None:
    rows: list[dict[str, Any]] = [{"question": "Why?", "answer": "So."}, {"question": "Who?", "answer": ["He", "She"]}]
    for table in (from_file(rows), stored_as_json(rows)):
        assert "column answer holds" in refusal(table)
        assert "column answer holds" in refusal(table, prompt="question", truth="answer")


# --- what else may be an answer, and what is no text ---


def test_numbers_dates_and_truth_values_are_answers() -> None:
    day, moment = datetime.date(1910, 1, 10), datetime.datetime.fromisoformat("1910-01-10 12:30:00")
    cells = {
        "42": 42,
        "0.1": 0.1,
        "1e+20": 1e20,
        "true": True,
        "1910-01-10": day,
        "1910-01-10 12:30:00": moment,
        "1.50": decimal.Decimal("1.50"),
        "1000": decimal.Decimal("1E+3"),
    }
    for expected, cell in cells.items():
        table = pa.Table.from_pylist([{"question": "What?", "answer": cell}])
        assert samples(table) == [("What?", expected)]
        assert samples(table, prompt="question", truth="answer") == [("What?", expected)]
    midnight = pa.table({"question": ["When?"], "answer": pa.array(["1910-01-10"]).cast(pa.timestamp("us"))})
    assert samples(midnight) == [("When?", "1910-01-10")]
    single = pa.table({"question": ["How much?"], "answer": pa.array([0.1], pa.float32())})
    assert samples(single) == [("How much?", "0.1")]


@pytest.mark.parametrize("nan", [float("nan"), None])
def test_what_pandas_lacks_is_empty(nan: float | None) -> None:
    rows = [{"instruction": "Do.", "input": cell, "output": "Done."} for cell in (nan, "With it.")]
    found = [("Do.", "Done."), ("Do.\nWith it.", "Done.")]
    assert samples(from_file(rows)) == samples(stored_as_json(rows)) == found
    for kind in (pa.float64(), pa.float32(), pa.float16()):
        column = pa.array([float("nan"), 2.0], kind)
        table = pa.table({"instruction": ["Do."] * 2, "input": column, "output": ["Done."] * 2})
        assert samples(table) == [("Do.", "Done."), ("Do.\n2.0", "Done.")]


@pytest.mark.parametrize(("other", "said"), [
    ("No.", ["No."]), (3, ["3"]), (2.5, ["2.5"]), (True, ["true"]), (None, []), (float("nan"), []),
])  # fmt: skip
def test_a_string_of_the_letters_nan_is_an_answer(
    other: object, said: list[str], jsonl: Callable[..., DatasetSpec]
) -> None:
    from lmplay_tui.data import local

    asked = jsonl([{"question": "What?", "answer": "NaN"}, {"question": "Which?", "answer": other}])
    assert [truth for _, truth in samples(local.read(asked, no_report).train.table)] == ["NaN", *said]


def test_a_label_is_told_by_its_name(tmp_path: Path) -> None:
    import datasets

    from lmplay_tui.data import local

    names = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"question": datasets.Value("string"), "label": names})
    rows = {"question": ["Is it?", "Or not?", "Who knows?"], "label": [1, 0, -1]}
    table = datasets.Dataset.from_dict(rows, features=features).data.table
    pq.write_table(table, tmp_path / "a.parquet")
    read = local.read(DatasetSpec("mine", str(tmp_path)), no_report).train.table
    for one in (table, read):
        assert samples(one) == [("Is it?", "yes"), ("Or not?", "no")]


@pytest.mark.parametrize("answers", [["001", "007"], ["None", "NA"], ["1910-01-10", "1911-02-11"], ["true", "false"]])
def test_answers_are_spelled_as_in_the_file(answers: list[str]) -> None:
    table = from_file([{"question": "What?", "answer": answer} for answer in answers])
    assert samples(table) == [("What?", answer) for answer in answers]


def test_numbers_of_a_file_are_answers() -> None:
    rows = [{"question": f"What is {n}?", "answer": n if n else None} for n in range(3)]
    assert described(from_file(rows)) == "prompt = question, truth = answer"
    assert samples(from_file(rows)) == [("What is 1?", "1"), ("What is 2?", "2")]
    mixed = [{"question": "What?", "answer": answer} for answer in (1, "one", 1.5, True)]
    for table in (from_file(mixed), stored_as_json(mixed)):
        assert [truth for _, truth in samples(table)] == ["1", "one", "1.5", "true"]


LONE = [
    ({"line": "Some words."}, "text = line"),
    ({"line": "Some words.", "id": "a-1"}, "text = line; left out: id"),
    ({"review": "Some words.", "stars": 4}, "text = review; left out: stars"),
    ({"review": "Some words.", "category": "books", "doc_id": 7}, "text = review; left out: category, doc_id"),
    ({"line": "Some words.", "pageUrl": "https://a.b/c"}, "text = line; left out: pageUrl"),
    ({"line": "Some words.", "x": "https://a.b/c"}, "text = line; left out: x"),
    ({"line": "Some words.", "embedding": [0.1, 0.2]}, "text = line; left out: embedding"),
    ({"line": "Some words.", "vector": [0.1, 0.2]}, "text = line; left out: vector"),
    ({"word": "banana"}, "text = word"),
    ({"zeile": "村里的老船夫昨天修好了木船2"}, "text = zeile"),
]


@pytest.mark.parametrize(("row", "expected"), LONE)
def test_a_lone_column_of_words_is_running_text(row: dict[str, Any], expected: str) -> None:
    assert described(pa.Table.from_pylist([row] * 3)) == expected


NO_TEXT: list[dict[str, Any]] = [
    {"id": "dlg-00001", "turns": ["Hi.", "Hello."]},
    {"id": "dlg-00001", "data": ["Hi.", "Hello."]},
    {"name": "dlg-00001"},
    {"version": "1"},
    {"release": "1.0"},
    {"url": "https://a.b/c"},
    {"x": "true"},
    {"moment": "1910-01-10 12:30"},
    {"sha256": "ab" * 32, "size": 7},
    {"x": "0123456789abcdef0123"},
    {"frage": "Wieviele Brote?", "antwort": 3},
    {"frage": "Wann?", "antwort": "1910-01-10"},
    {"frage": "Wo?", "antwort": "B12"},
    {"frage": "Stimmt es?", "antwort": True},
    {"frage": "Wer?", "antwort": ["Er", "Sie"]},
    {"line": "Some words.", "other": {"en": "Some more."}},
    {"a": "Some words.", "b": "More words."},
    {"translation": {"en": "The boat.", "fr": "Le bateau."}},
    {"passage": "Some words.", "question": "Why?"},
    {"a": 1, "b": 2.0},
]


@pytest.mark.parametrize("make", [pa.Table.from_pylist, from_file])
@pytest.mark.parametrize("row", NO_TEXT)
def test_what_is_no_text_alone_is_refused(row: dict[str, Any], make: Any) -> None:
    said = refusal(make([row] * 3))
    assert said.startswith(f"dataset mine: no column has a usual name for text; it has {', '.join(row)}. Say in ")


@pytest.mark.parametrize(
    "cell", ["https://a.b/c", "www.a.b/c", "ab" * 16, "0" * 64, "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "1910-01-10",
             "1910-01-10T12:30:00Z", "10.01.1910"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["text", "content", "code", "document"])
def test_identifiers_addresses_and_dates_are_no_text_under_any_name(name: str, cell: str) -> None:
    for row in ({name: cell}, {"id": 1, name: cell}):
        said = refusal(pa.Table.from_pylist([row] * 3))
        assert said.endswith(f"; {name} holds identifiers, addresses, dates or numbers")
        assert samples(pa.Table.from_pylist([row]), text=name) == [("", cell)]
    mixed = pa.Table.from_pylist([{name: cell}, {name: "Some words."}])
    assert samples(mixed) == [("", cell), ("", "Some words.")]
    assert described(pa.table({name: [cell], "body": ["Some words."]})) == f"text = body; left out: {name}"


@pytest.mark.parametrize(("cell", "kind"), [(b"bytes", "binary"), (42, "int64"), (4.5, "double"), (True, "bool")])
def test_a_text_column_of_another_type_is_named_with_it(cell: Any, kind: str) -> None:
    for name in ("text", "content", "code"):
        assert refusal(pa.Table.from_pylist([{"id": 1, name: cell}] * 3)).endswith(f"; {name} holds {kind}")
    assert refusal(from_file([{"id": 1, "code": "000,001"}] * 3)).endswith(
        "; code holds identifiers, addresses, dates or numbers"
    )


def test_a_named_identifier_is_read() -> None:
    assert samples(pa.Table.from_pylist([{"id": "dlg-1", "url": "x"}]), text="id") == [("", "dlg-1")]


def test_no_column_fits() -> None:
    assert "no column has a usual name for text; it has a, b, n. Say" in refusal(empty(a=TEXT, b=TEXT, n=pa.int64()))
    assert "it has no columns" in refusal(empty())


# --- what a row says ---


def test_a_text_has_its_title_before_it() -> None:
    columns = Columns(text="text", title="title")
    assert columns.items({"text": "Body.", "title": " A\n title "}) == [Item("Title: A title\n", "Body.", True)]
    assert columns.items({"text": "Body.", "title": None}) == [Item("", "Body.", True)]
    assert columns.items({"text": "Body.", "title": "  "}) == [Item("", "Body.", True)]
    assert Columns(text="text").items({"text": " Body.\n"}) == [Item("", " Body.\n", True)]


@pytest.mark.parametrize("cell", [None, "", " ", "\n\t \r\n\u3000", "\ufeff"])
def test_a_row_without_words_has_no_text(cell: str | None) -> None:
    assert Columns(text="text").items({"text": cell}) == []
    assert Columns(prompt=("p",), truth="t").items({"p": "Say it.", "t": cell}) == []
    assert Columns(messages=("m",)).items({"m": [{"role": "assistant", "content": cell}]}) == []


def test_pairs_and_the_system_column() -> None:
    columns = Columns(prompt=("q",), system="s", truth="a")
    assert columns.items({"q": "Why?", "s": "Be kind.", "a": "So."}) == [Item("Be kind.\nWhy?", "So.")]
    assert columns.items({"q": "Why?", "s": "", "a": "So."}) == [Item("Why?", "So.")]
    assert columns.items({"q": None, "s": None, "a": 42}) == [Item("", "42")]
    assert Columns(truth="a").items({"a": "So."}) == [Item("", "So.")]
    assert columns.items({"q": "Why?", "s": None, "a": ["So."]}) == []  # no text that could be told


def test_a_byte_order_mark_never_reaches_a_text() -> None:
    assert samples(pa.table({"title": ["\ufeffT"], "text": ["\ufeffBody"]})) == [("Title: T\n", "Body")]
    assert samples(pa.table({"question": ["\ufeffQ"], "answer": ["\ufeffA"]})) == [("Q", "A")]
    turns = [{"role": "user", "content": "\ufeffHi"}, {"role": "assistant", "content": "\ufeffHello."}]
    assert samples(pa.table({"messages": [turns]})) == SAID
    assert described(pa.table({"\ufeffquestion": ["Q"], "answer": ["A"]})).endswith("question, truth = answer")


def test_a_text_that_looks_like_json_stays_itself() -> None:
    for text in ('{"a": 1}', '["x"]', '"quoted"', "42", '{"role": "assistant", "content": "no"}'):
        assert samples(pa.table({"question": [text], "answer": [text]})) == [(text, text)]
        assert samples(from_file([{"text": text}])) == [("", text)]
        chat = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
        for table in (pa.table({"messages": [chat]}), from_file([{"messages": chat}])):
            assert samples(table) == [(text + "\n", text)]


# --- rows of several forms ---

SAID_IN_TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
FORMS: list[tuple[dict[str, Any], list[tuple[str, str]], str]] = [
    ({"messages": CHAT}, SAID, "messages = messages"),
    ({"conversations": SAID_IN_TURNS}, SAID, "messages = conversations"),
    ({"prompt": "Hi", "completion": "Hello."}, [("Hi", "Hello.")], "prompt = prompt, truth = completion"),
    ({"question": "Hi", "answer": "So."}, [("Hi", "So.")], "prompt = question, truth = answer"),
    ({"instruction": "Hi", "input": "1", "output": "2"}, [("Hi\n1", "2")],
     "prompt = instruction + input, truth = output"),
    ({"text": "Some words."}, [("", "Some words.")], "text = text"),
]  # fmt: skip


@pytest.mark.parametrize("make", [pa.Table.from_pylist, from_file])
@pytest.mark.parametrize("rows", [3, 1200])
@pytest.mark.parametrize(("one", "two"), list(itertools.combinations(range(len(FORMS)), 2)))
def test_rows_of_two_forms_are_all_read(one: int, two: int, rows: int, make: Any) -> None:
    """Also where the second form comes after the rows that are looked at first, and whichever is first."""
    for (first, said, form), (second, more, other) in [(FORMS[one], FORMS[two]), (FORMS[two], FORMS[one])]:
        names = dict.fromkeys((*first, *second))
        table = make([{name: row.get(name) for name in names} for row in [*[first] * rows, *[second] * 2]])
        found = described(table)
        assert set(found.split("; or ")) == {form, other}
        assert samples(table) == said * rows + more * 2
        (note,) = [note for note in find_columns(spec(), table).notes if "several forms" in note]
        assert note.startswith("rows of several forms: ")


def test_rows_of_two_forms_with_empty_cells_between_are_all_read() -> None:
    """As a CSV has them, which knows no null."""
    rows = [{"question": "Q", "answer": "A"}, {"prompt": "P", "completion": "C"}]
    empty = dict.fromkeys((*rows[0], *rows[1]), "")
    assert samples(from_file([empty | row for row in rows])) == [("Q", "A"), ("P", "C")]


def test_rows_of_three_forms_are_all_read() -> None:
    chosen = [FORMS[0], FORMS[3], FORMS[5]]
    rows = [dict.fromkeys(name for row, _, _ in chosen for name in row) | row for row, _, _ in chosen * 3]
    assert samples(from_file(rows)) == [sample for _, found, _ in chosen for sample in found] * 3


def test_other_columns_of_the_same_rows_are_no_other_form() -> None:
    """An answer that lacks does not make a passage, or another reply, a text."""
    rows = [
        {"context": "A.", "question": "What?", "answer": None if n % 2 else "It.", "text": "More.", "solution": "x"}
        for n in range(10)
    ]
    assert described(from_file(rows)) == "prompt = context + text + question, truth = answer; left out: solution"
    both = [{"conversations": SAID_IN_TURNS, "messages": CHAT if n else None} for n in range(4)]
    assert described(from_file(both)) == "messages = messages; or messages = conversations"
    assert samples(from_file(both)) == SAID * 4
    assert described(from_file(both[1:])) == "messages = messages; left out: conversations"


# --- what gives no sample ---


@pytest.mark.parametrize("cell", [None, "", "  \n"])
def test_a_dataset_without_a_sample_is_refused(cell: str | None) -> None:
    table = pa.table({"question": ["Why?"] * 40, "answer": pa.array([cell] * 40, TEXT)})
    said = refusal(table, prompt="question", truth="answer")
    assert said == (
        "dataset mine: none of its 40 rows gives a sample (prompt = question, truth = answer): answer is empty or null "
        "in all of them"
    )


def test_samples_behind_the_first_rows_are_found() -> None:
    late = pa.table({"text": [""] * 30_000 + ["Words."] * 30_000})
    assert open_rows(spec(), late).num_rows == 60_000
    none = pa.table({"text": [""] * 60_000})
    assert "none of the 1,512 rows looked at, of 60,000, gives a sample" in refusal(none)


def test_another_split_is_read_as_the_first() -> None:
    """Even where its own first rows would be read otherwise."""
    first = find_columns(spec(), pa.table({"question": ["Q"], "input": ["More."], "answer": ["A"]}))
    other = pa.table({"answer": ["A"], "question": ["Q"], "input": pa.array([None], TEXT), "extra": ["x"]})
    found = find_columns(spec(), other, first)
    assert found.described() == "prompt = input + question, truth = answer; left out: extra"
    assert find_columns(spec(), pa.table({"text": ["Words."]}), first).described() == "text = text"
    secret = pa.table({"question": ["Q"], "input": ["More."], "answer": [""]})
    assert open_rows(spec(), secret, first).items(0) == []
    lacks = dict.fromkeys(("question", "input", "answer"), pa.nulls(1, TEXT))
    own = open_rows(spec(), pa.table(lacks | {"prompt": ["P"], "completion": ["C"]}), first)
    assert own.items(0) == [Item("P", "C")]
