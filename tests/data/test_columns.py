import pyarrow as pa
import pytest

from lmplay_tui.data.columns import Columns, find_columns
from lmplay_tui.data.samples import Item
from lmplay_tui.errors import UserError
from lmplay_tui.plan.schema import DatasetSpec

TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def spec(**columns: str) -> DatasetSpec:
    return DatasetSpec("mine", "owner/mine", **columns)


def schema(**kinds: pa.DataType) -> pa.Schema:
    return pa.schema(list(kinds.items()))


TEXT = pa.string()


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({"id": pa.int64(), "title": TEXT, "text": TEXT}, Columns(text="text", title="title")),
        ({"Text": pa.large_string()}, Columns(text="Text")),
        ({"url": TEXT, "content": TEXT}, Columns(text="content")),
        ({"prompt": TEXT, "text": TEXT, "format": TEXT}, Columns(text="text")),  # cosmopedia
        ({"prompt": TEXT, "truth": TEXT, "text": TEXT}, Columns(prompt="prompt", truth="truth")),
        ({"question": TEXT, "answer": TEXT}, Columns(prompt="question", truth="answer")),
        ({"instruction": TEXT, "output": TEXT, "x": TEXT}, Columns(prompt="instruction", truth="output")),
        ({"messages": TURNS, "source": TEXT}, Columns(messages="messages")),
        ({"conversations": TURNS}, Columns(messages="conversations")),
        ({"line": TEXT, "label": pa.int64()}, Columns(text="line")),
        ({"title": TEXT, "line": TEXT}, Columns(text="line", title="title")),
        ({"truth": TEXT, "x": TEXT}, Columns(truth="truth")),
    ],
)
def test_usual_columns_are_found(kinds: dict[str, pa.DataType], expected: Columns) -> None:
    assert find_columns(spec(), schema(**kinds)) == expected


def test_named_columns_are_taken() -> None:
    kinds = schema(a=TEXT, b=TEXT, text=TEXT, truth=TEXT, prompt=TEXT)
    assert find_columns(spec(text="a"), kinds) == Columns(text="a")
    assert find_columns(spec(text="a", title="b"), kinds) == Columns(text="a", title="b")
    assert find_columns(spec(prompt="a", truth="b", system="text"), kinds).used() == ["a", "text", "b"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": "tixt"}, "dataset mine: there is no column tixt; did you mean text?; it has id, text, title, turns"),
        ({"text": "text", "title": "x\x1by"}, "there is no column x␛y; it has"),
        ({"text": "id"}, "column id holds int64, not text"),
        ({"messages": "text"}, "column text holds string, not a list of messages"),
        ({"prompt": "text", "truth": "answer"}, "there is no column answer"),
    ],
)
def test_a_named_column_that_will_not_do(columns: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        find_columns(spec(**columns), schema(id=pa.int64(), text=TEXT, title=TEXT, turns=TURNS))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_column_fits() -> None:
    with pytest.raises(UserError, match=r"dataset mine: no column has a usual name for text; it has a, b, n. Say") as e:
        find_columns(spec(), schema(a=TEXT, b=TEXT, n=pa.int64()))
    assert "\n" not in str(e.value)
    with pytest.raises(UserError, match="it has no columns"):
        find_columns(spec(), schema())


def test_a_text_has_its_title_before_it() -> None:
    columns = Columns(text="text", title="title")
    assert columns.items({"text": "Body.", "title": " A\n title "}) == [Item("Title: A title\n", "Body.", True)]
    assert columns.items({"text": "Body.", "title": None}) == [Item("", "Body.", True)]
    assert columns.items({"text": "Body.", "title": "  "}) == [Item("", "Body.", True)]
    assert Columns(text="text").items({"text": " Body.\n"}) == [Item("", " Body.\n", True)]


@pytest.mark.parametrize("cell", [None, "", " ", "\n\t \r\n\u3000"])
def test_a_row_without_words_has_no_text(cell: str | None) -> None:
    assert Columns(text="text").items({"text": cell}) == []
    assert Columns(prompt="p", truth="t").items({"p": "Say it.", "t": cell}) == []
    assert Columns(messages="m").items({"m": [{"role": "assistant", "content": cell}]}) == []


def test_pairs_and_the_system_column() -> None:
    columns = Columns(prompt="q", system="s", truth="a")
    assert columns.items({"q": "Why?", "s": "Be kind.", "a": "So."}) == [Item("Be kind.\nWhy?", "So.")]
    assert columns.items({"q": "Why?", "s": "", "a": "So."}) == [Item("Why?", "So.")]
    assert columns.items({"q": None, "s": None, "a": 42}) == [Item("", "42")]
    assert Columns(truth="a").items({"a": "So."}) == [Item("", "So.")]


def test_each_assistant_turn_is_a_truth() -> None:
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "How?"},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": "Well."},
    ]
    columns = Columns(messages="m")
    assert [(item.prompt[: item.prompt_end], item.truth) for item in columns.items({"m": turns})] == [
        ("Be kind.\nHi\n", "Hello."),
        ("Be kind.\nHi\nHello.\nHow?\n\n", "Well."),
    ]
    shared = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
    assert columns.items({"m": shared}) == [Item("Hi\nHello.\n", "Hello.", prompt_end=3)]
    assert columns.items({"m": None}) == columns.items({"m": [None, "x"]}) == columns.items({"m": turns[:2]}) == []


def test_a_long_conversation_is_kept_once() -> None:
    turns = [{"role": "assistant", "content": f"Turn {n}."} for n in range(2000)]
    items = Columns(messages="m").items({"m": turns})
    assert len({id(item.prompt) for item in items}) == 1
    assert items[-1].prompt[: items[-1].prompt_end].endswith("Turn 1998.\n")
