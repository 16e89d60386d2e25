"""Conversations in the spellings that people bring, as Arrow's own types, as JSON text, and as files make them."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lmplay_tui.data.columns import find_columns
from lmplay_tui.data.rows import Columns
from lmplay_tui.data.samples import Item
from tests.data.test_columns import CHAT, SAID, described, from_file, refusal, samples, spec, stored_as_json

TWO = [("Hi\n", "Hello."), ("Hi\nHello.\nHow?\n", "Well.")]
SPELLINGS: dict[str, tuple[list[Any], list[tuple[str, str]]]] = {
    "role and content": (CHAT, SAID),
    "from and value": ([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}], SAID),
    "LangChain's": ([{"role": "human", "content": "Hi"}, {"role": "ai", "content": "Hello."}], SAID),
    "type of speaker": ([{"speaker": "User", "text": "Hi"}, {"speaker": "Bot", "text": "Hello."}], SAID),
    "Gemini's": ([{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": [{"text": "Hello."}]}], SAID),
    "capitals": ([{"Role": "User", "Content": "Hi"}, {"Role": "Assistant", "Content": "Hello."}], SAID),
    "LangChain's types": ([{"type": "human", "content": "Hi"}, {"type": "ai", "content": "Hello."}], SAID),
    "LangChain's stored messages": (
        [{"type": "system", "data": {"content": "Be brief.", "type": "system"}},
         {"type": "human", "data": {"content": "Hi", "example": False}},
         {"type": "ai", "data": {"content": "Hello.", "example": False}}],
        [("Be brief.\nHi\n", "Hello.")],
    ),
    "OASST's": ([{"role": "prompter", "text": "Hi"}, {"role": "assistant", "text": "Hello."}], SAID),
    "input and output": ([{"input": "Hi", "output": "Hello."}, {"input": "How?", "output": "Well."}], TWO),
    "question and answer": ([{"question": "Hi", "answer": "Hello."}, {"question": "How?", "answer": "Well."}], TWO),
    "prompt and response": ([{"prompt": "Hi", "response": "Hello."}], SAID),
    "speakers as keys": ([{"user": "Hi", "assistant": "Hello."}, {"user": "How?", "assistant": "Well."}], TWO),
    "answers first": ([{"assistant": "Hello.", "human": "Hi"}], SAID),
    "a key a turn": ([{"human": "Hi"}, {"assistant": "Hello."}, {"human": "How?"}, {"assistant": "Well."}], TWO),
    "a system turn": ([{"role": "system", "content": "Be brief."}, *CHAT], [("Be brief.\nHi\n", "Hello.")]),
    "observations": (
        [
            {"from": "human", "value": "Hi"}, {"from": "function_call", "value": "look()"},
            {"from": "observation", "value": "A boat."}, {"from": "gpt", "value": "Hello."},
        ],
        [("Hi\n", "look()"), ("Hi\nlook()\nA boat.\n", "Hello.")],
    ),
    "OpenAI's keys": (
        [{"role": "user", "content": "Hi", "name": "Ann"},
         {"role": "assistant", "content": "Hello.", "weight": 1}], SAID,
    ),
    "a call without words": (
        [CHAT[0], {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]},
         {"role": "tool", "content": "A boat.", "tool_call_id": "a"}, CHAT[1]],
        [("Hi\n\nA boat.\n", "Hello.")],
    ),
    "thoughts beside": ([CHAT[0], {"role": "assistant", "content": "Hello.", "thinking": "Hm."}], SAID),
    "text parts": (
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}]},
         {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]}], SAID,
    ),
    "several parts": (
        [{"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]}, CHAT[1]],
        [("One\nTwo\n", "Hello.")],
    ),
    "strings as parts": ([{"role": "user", "content": ["Hi"]}, {"role": "assistant", "content": ["Hello."]}], SAID),
    "content as an object": (
        [{"role": "user", "content": {"type": "text", "text": "Hi"}},
         {"role": "assistant", "content": {"type": "text", "text": "Hello."}}], SAID,
    ),
    "ChatGPT's export": (
        [{"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["Hi"]}},
         {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["Hello."]}}], SAID,
    ),
    "numbers as content": ([CHAT[0], {"role": "assistant", "content": 42}], [("Hi\n", "42")]),
    "lists of two": ([["user", "Hi"], ["assistant", "Hello."]], SAID),
}  # fmt: skip


def _stored(rows: list[dict[str, Any]]) -> pa.Table | None:
    try:
        return pa.Table.from_pylist(rows)
    except pa.ArrowException:  # kinds that no Arrow type holds
        return None


@pytest.mark.parametrize("name", ["messages", "conversations", "conversation", "dialogue", "turns", "chat", "contents"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_spelling_of_conversations(spelling: str, name: str) -> None:
    cell, expected = SPELLINGS[spelling]
    rows = [{"id": f"c-{n}", name: cell} for n in range(2)]
    table = _stored(rows)
    if table is not None:
        assert samples(table) == expected * 2
    assert samples(from_file(rows)) == expected * 2
    assert described(from_file(rows)) == f"messages = {name}; left out: id"
    as_text = pa.table({name: [json.dumps(cell)] * 2})
    assert samples(as_text) == samples(as_text, messages=name) == expected * 2


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_conversations_as_python_and_numpy_print_them(spelling: str) -> None:
    """What pandas writes into a CSV."""
    cell, expected = SPELLINGS[spelling]
    objects = np.empty(len(cell), object)
    objects[:] = cell
    for printed in (repr(cell), str(objects)) if isinstance(cell[0], dict) else (repr(cell),):
        table = from_file([{"id": "1", "messages": printed}] * 2)
        assert samples(table) == samples(table, messages="messages") == expected * 2


@pytest.mark.parametrize("content", ["it's", "a \"b\" 'c'", "} {", "{'a': 1} {'b': 2}", "a\nb\\", "]", "é😀", "None"])
def test_printed_conversations_keep_every_character(content: str) -> None:
    cell = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
    objects = np.empty(2, object)
    objects[:] = cell
    assert (
        samples(from_file([{"conversations": repr(cell)}, {"conversations": str(objects)}]))
        == [(content + "\n", content)] * 2
    )


@pytest.mark.parametrize("cell", ["[{'role': 'user', 'content': oops}]", "{'a': <b>}", '[{"role": "user", "content"}]'])
def test_a_conversation_that_cannot_be_read_is_no_text(cell: str) -> None:
    for name in ("messages", "conversations", "dialog", "contents"):
        said = refusal(from_file([{name: cell}] * 2))
        assert f"column {name} holds lists or objects written as text (such as {cell[:9]}" in said


def test_all_spellings_in_one_column() -> None:
    """As files have them, and as `datasets` stores them: as JSON, from where they begin to differ."""
    for chosen in (SPELLINGS, {name: SPELLINGS[name] for name in SPELLINGS if name != "lists of two"}):
        rows = [{"messages": cell} for cell, _ in chosen.values()]
        expected = [sample for _, found in chosen.values() for sample in found]
        table = from_file(rows) if chosen is SPELLINGS else stored_as_json(rows)
        assert samples(table) == expected
    assert "json" in str(table.schema.field("messages").type)


@pytest.mark.parametrize("content", ['a "quoted"\nword', "[1, 2]", '{"a": 1}', "007", "null", "true"])
def test_contents_that_differ_in_kind_are_decoded_once(content: str) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": content}]}, CHAT[1]]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content, "weight": 1}]},
    ]
    for table in (stored_as_json(rows), from_file(rows)):
        assert samples(table) == [(content + "\n", "Hello."), ("Hi\n", content)]


def test_both_key_pairs_with_nulls_between() -> None:
    rows = [
        {"messages": [{"role": "user", "content": "Hi", "from": None, "value": None},
                      {"role": "assistant", "content": "Hello.", "from": None, "value": None}]},
        {"messages": [{"role": None, "content": None, "from": "human", "value": "Hi"},
                      {"role": None, "content": None, "from": "gpt", "value": "Hello."}]},
    ]  # fmt: skip
    for table in (pa.Table.from_pylist(rows), from_file(rows), stored_as_json(rows)):
        assert samples(table) == SAID * 2


@pytest.mark.parametrize(
    "cell",
    [
        {"role": ["user", "assistant"], "content": ["Hi", "Hello."]},
        {"from": ["human", "gpt"], "value": ["Hi", "Hello."], "weight": [None, 1]},
        {"user": ["Hi"], "assistant": ["Hello."]},
        {"messages": CHAT, "system": None},
        {"conversations": CHAT},
        {"user": "Hi", "assistant": "Hello."},
    ],
)
def test_a_struct_that_holds_a_conversation(cell: dict[str, Any]) -> None:
    rows = [{"conversation": cell}] * 2
    assert samples(pa.Table.from_pylist(rows)) == samples(from_file(rows)) == SAID * 2


def test_a_column_of_another_name_that_holds_conversations() -> None:
    assert described(pa.table({"id": ["a-1"], "sft": [CHAT]})) == "messages = sft; left out: id"
    two = pa.table({"one": [CHAT], "two": [CHAT]})
    assert "no column has a usual name for text; it has one, two" in refusal(two)
    assert samples(two, messages="two") == SAID


def test_a_system_column_comes_first_where_the_conversation_has_no_rules() -> None:
    ruled = [{"role": "system", "content": "Own rules."}, *CHAT]
    table = pa.table({"system": ["Be brief.", "", "Not read."], "messages": [CHAT, CHAT, ruled], "model": ["m"] * 3})
    assert described(table) == "system = system, messages = messages; left out: model"
    assert samples(table) == [("Be brief.\nHi\n", "Hello."), *SAID, ("Own rules.\nHi\n", "Hello.")]


def test_parts_that_are_no_text_are_left_out_and_counted() -> None:
    seen = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "Hi"}]
    rows = [{"messages": [{"role": "user", "content": seen}, CHAT[1]]}] * 3
    for table in (stored_as_json(rows), from_file(rows)):
        assert samples(table) == SAID * 3
        assert find_columns(spec(), table).notes == (
            "messages: 3 parts of kind image_url are left out (in the first 3 rows)",
        )


@pytest.mark.parametrize("weight", [0, 0.0])
def test_a_turn_of_weight_zero_is_a_prompt(weight: float) -> None:
    first = [CHAT[0], {"role": "assistant", "content": "Hello.", "weight": weight}]
    rows = [{"messages": [*first, {"role": "user", "content": "How?"}, {"role": "assistant", "content": "Well."}]}] * 2
    for table in (pa.Table.from_pylist(rows), from_file(rows), stored_as_json(rows)):
        assert samples(table) == [("Hi\nHello.\nHow?\n", "Well.")] * 2
        assert "2 turns of weight 0 are read as prompts" in find_columns(spec(), table).notes[0]


# --- roles that are not known, and what else is refused ---


def test_roles_that_are_not_known() -> None:
    rows = [{"messages": [{"role": "knight", "content": "Hi"}, {"role": "dragon", "content": "Roar."}]}] * 3
    for table in (pa.Table.from_pylist(rows), from_file(rows)):
        said = refusal(table)
        assert "none of its 3 rows gives a sample (messages = messages): no turn is that of a model" in said
        assert "the roles are knight (3), dragon (3)" in said
    some = [{"messages": [{"role": "narrator", "content": "A hall."}, *CHAT]}]
    assert samples(pa.Table.from_pylist(some)) == [("A hall.\nHi\n", "Hello.")]
    assert find_columns(spec(), pa.Table.from_pylist(some)).notes == (
        "roles that are not known are read as prompts: narrator",
    )


def test_messages_whose_answers_are_empty() -> None:
    rows = [{"messages": [CHAT[0], {"role": "assistant", "content": ""}]}] * 2
    assert "what the model is to say is empty in all of them; the roles are user (2)" in refusal(
        pa.Table.from_pylist(rows)
    )


def test_strings_in_turn_are_read_where_they_are_named() -> None:
    table = pa.table({"id": ["dlg-0", "dlg-1"], "turns": [["Hi", "Hello.", "How?", "Well."], ["Hi", "Hello."]]})
    assert "messages = \"turns\" reads them as a user's and a model's, in turn" in refusal(table)
    assert samples(table, messages="turns") == [*TWO, *SAID]
    assert "in turn" in find_columns(spec(messages="turns"), table).notes[0]


def test_a_column_that_holds_no_conversation_is_refused() -> None:
    table = pa.table({"words": ["Hi"], "numbers": [[1, 2]], "pairs": [{"en": "a", "fr": "b"}], "text": ["x"]})
    assert "column words holds string, not a list of messages" in refusal(table, messages="words")
    assert "column numbers holds list<" in refusal(table, messages="numbers")
    assert "column pairs holds struct<" in refusal(table, messages="pairs")
    assert described(pa.table({"dialogue": ["Words, many."]})) == "text = dialogue"


# --- answers of two kinds, and texts within answers ---

CHOSEN = "of chosen and rejected answers, the chosen ones are read"
PREFERENCES: dict[str, tuple[dict[str, Any], str, list[tuple[str, str]]]] = {
    "strings": (
        {"prompt": "Hi", "chosen": "Hello.", "rejected": "Go."},
        "prompt = prompt, truth = chosen; left out: rejected",
        [("Hi", "Hello.")],
    ),
    "Orca's": (
        {"system": "Be brief.", "question": "Hi", "chosen": "Hello.", "rejected": "Go."},
        "prompt = system + question, truth = chosen; left out: rejected",
        [("Be brief.\nHi", "Hello.")],
    ),
    "strings without a prompt": (
        {"chosen": "Hello.", "rejected": "Go."},
        "truth = chosen; left out: rejected",
        [("", "Hello.")],
    ),
    "HH-RLHF's": (
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: How?\n\nAssistant: Well.", "rejected": "\n\nHuman: x"},
        "truth = chosen; left out: rejected",
        TWO,
    ),
    "whole conversations": (
        {"prompt": "Hi", "chosen": CHAT, "rejected": CHAT},
        "messages = chosen; left out: prompt, rejected",
        SAID,
    ),
    "answers as messages": (
        {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:]},
        "messages = prompt + chosen; left out: rejected",
        SAID,
    ),
    "an answer after a text": (
        {"prompt": "Hi", "chosen": CHAT[1:], "rejected": CHAT[1:]},
        "prompt = prompt, messages = chosen; left out: rejected",
        SAID,
    ),
    "an answer that is a text": (
        {"prompt": CHAT[:1], "chosen": "Hello.", "rejected": "Go."},
        "messages = prompt, truth = chosen; left out: rejected",
        SAID,
    ),
    "LLaMA-Factory's": (
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello."},
            "rejected": {"from": "gpt", "value": "Go."},
        },
        "messages = conversations + chosen; left out: rejected",
        SAID,
    ),
    "messages, then messages": (
        {"messages": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:]},
        "messages = messages + chosen; left out: rejected",
        SAID,
    ),
    "messages, then a text": (
        {"rejected": "Go.", "chosen": "Hello.", "messages": CHAT[:1]},
        "messages = messages, truth = chosen; left out: rejected",
        SAID,
    ),
    "a conversation that goes on": (
        {
            "conversation": [*CHAT, {"role": "user", "content": "How?"}],
            "chosen": [{"role": "assistant", "content": "Well."}],
            "rejected": [{"role": "assistant", "content": "x"}],
        },
        "messages = conversation + chosen; left out: rejected",
        TWO,
    ),
    "a question and both as conversations": (
        {"messages": CHAT[:1], "chosen": CHAT, "rejected": CHAT},
        "messages = chosen; left out: messages, rejected",
        SAID,
    ),
}


@pytest.mark.parametrize("form", PREFERENCES)
@pytest.mark.parametrize("make", [pa.Table.from_pylist, from_file])
def test_of_two_answers_the_chosen_one_is_read(form: str, make: Any) -> None:
    row, expected, found = PREFERENCES[form]
    table = make([row] * 2)
    assert described(table) == expected
    assert samples(table) == found * 2
    assert find_columns(spec(), table).notes[0] == CHOSEN


ASIDE: dict[str, tuple[dict[str, Any], str, list[tuple[str, str]]]] = {
    "answers to a question": (
        {"question": "Hi", "messages": CHAT[1:]}, "prompt = question, messages = messages", SAID,
    ),
    "an answer to a conversation": (
        {"messages": [*CHAT, {"role": "user", "content": "How?"}], "response": "Well."},
        "messages = messages, truth = response", TWO,
    ),
    "turns before an instruction": (
        {"context": CHAT, "instruction": "How?", "response": "Well."},
        "history = context, prompt = instruction, truth = response", TWO,
    ),
    "LLaMA-Factory's history": (
        {"instruction": "How?", "input": "", "output": "Well.", "history": [["Hi", "Hello."]]},
        "history = history, prompt = instruction + input, truth = output", TWO,
    ),
    "a history before a chosen answer": (
        {"instruction": "How?", "chosen": "Well.", "rejected": "No.", "history": [["Hi", "Hello."]]},
        "history = history, prompt = instruction, truth = chosen; left out: rejected", TWO,
    ),
    "printed messages and a chosen one": (
        {"conversations": repr(CHAT[:1]), "chosen": repr(CHAT[1]), "rejected": "{}"},
        "messages = conversations + chosen; left out: rejected", SAID,
    ),
    "after a system text": (
        {"system": "Be kind.", "instruction": "How?", "output": "Well.", "history": [["Hi", "Hello."]]},
        "system = system, history = history, prompt = instruction, truth = output",
        [("Be kind.\nHi\n", "Hello."), ("Be kind.\nHi\nHello.\nHow?\n", "Well.")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ASIDE)
@pytest.mark.parametrize("make", [pa.Table.from_pylist, from_file])
def test_turns_that_stand_in_other_columns(form: str, make: Any) -> None:
    row, expected, found = ASIDE[form]
    assert described(make([row] * 2)) == expected
    assert samples(make([row] * 2)) == found * 2


def test_an_empty_history_is_none() -> None:
    row: dict[str, Any] = {"instruction": "Hi", "output": "Hello.", "history": []}
    assert described(from_file([row])) == "prompt = instruction, truth = output; left out: history"
    passages = {"context": ["A boat.", "A lake."], "question": "Hi", "answer": "Hello."}
    assert described(from_file([passages])) == "prompt = question, truth = answer; left out: context"
    later = {"instruction": "How?", "output": "Well.", "history": [["Hi", "Hello."]]}
    assert samples(from_file([row, later])) == SAID + TWO


@pytest.mark.parametrize("make", [pa.Table.from_pylist, from_file])
def test_a_pair_of_message_lists(make: Any) -> None:
    assert samples(make([{"prompt": CHAT[:1], "completion": CHAT[1:]}])) == SAID
    assert samples(make([{"input": CHAT[:1], "output": "Hello."}])) == SAID
    assert samples(make([{"messages": CHAT[:1], "response": "Hello."}])) == SAID


@pytest.mark.parametrize("make", [pa.Table.from_pylist, from_file])
def test_the_first_of_the_answers_within_an_object(make: Any) -> None:
    squad = [
        {"context": "A hall.", "question": "Where?", "answers": {"text": texts, "answer_start": [0] * len(texts)}}
        for texts in (["In a hall", "hall"], [])
    ]
    assert described(make(squad)) == "prompt = context + question, truth = answers"
    assert samples(make(squad)) == [("A hall.\nWhere?", "In a hall")]
    assert samples(make(squad), prompt="question", truth="answers") == [("Where?", "In a hall")]
    assert find_columns(spec(), make(squad)).notes == ("of the answers in answers the first is read",)
    trivia = [{"question": "Where?", "answer": {"value": "A hall", "aliases": ["Hall"]}}]
    assert samples(make(trivia)) == [("Where?", "A hall")]


@pytest.mark.parametrize("cell", ["['a', 'b']", '["a"]', '{"text": ["a"]}', "{'text': array(['a'], dtype=object)}"])
@pytest.mark.parametrize("name", ["answers", "targets", "outputs"])
def test_several_answers_written_as_text_are_refused(name: str, cell: str) -> None:
    table = from_file([{"question": "Where?", name: cell}] * 2)
    for said in (refusal(table), refusal(table, prompt="question", truth=name)):
        assert f"column {name} holds lists or objects written as text (such as {cell}), not one text" in said
    assert samples(from_file([{"question": "Where?", name: "[sic]"}])) == [("Where?", "[sic]")]


# --- what a conversation becomes ---


def test_each_assistant_turn_is_a_truth() -> None:
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "How?"},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": "Well."},
    ]
    columns = Columns(messages=("m",))
    assert [(item.prompt[: item.prompt_end], item.truth) for item in columns.items({"m": turns})] == [
        ("Be kind.\nHi\n", "Hello."),
        ("Be kind.\nHi\nHello.\nHow?\n\n", "Well."),
    ]
    shared = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
    assert columns.items({"m": shared}) == [Item("Hi\nHello.\n", "Hello.", prompt_end=3)]
    assert columns.items({"m": None}) == columns.items({"m": [None, "x"]}) == columns.items({"m": turns[:2]}) == []


def test_a_long_conversation_is_kept_once() -> None:
    turns = [{"role": "assistant", "content": f"Turn {n}."} for n in range(2000)]
    items = Columns(messages=("m",)).items({"m": turns})
    assert len({id(item.prompt) for item in items}) == 1
    assert items[-1].prompt[: items[-1].prompt_end].endswith("Turn 1998.\n")


def test_halves_of_characters_do_no_harm() -> None:
    cell = '[{"role": "user", "content": "a\\ud83db"}, {"role": "assistant", "content": "\\ud83d\\ude00 \\uDE00"}]'
    (found,) = samples(pa.table({"messages": [cell]}))
    assert found == ("a\ufffdb\n", "\U0001f600 \ufffd")
