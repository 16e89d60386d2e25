"""Each key's line is found: checked against parsed documents whose values are the line numbers."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.plan.problems import MAX_DEPTH, locate
from tests.examples import examples

TOML = '''
# comment [not.a.table]
title = "x = 1 # no" # comment = 2
'single' = 'a "quoted" \\'
long = """
[not.a.table]
key = 1
\\""" still inside ""
"""
literal = \'\'\'
[nor.this]
\'\'\'
[train]
lr = 1e-3
  batch_size=2
a.b . "c d" = 3
[ stages . one ]
weights = [
  0.5, # half
  0.5,
]
inline = {x = 1, y = {z = 2}}
[stages."two words"]
epochs = 2
[[steps]]
epochs = 1
[steps.inner]
a = 1
[[steps]]
epochs = 2
'''

LINES = {
    ("title",): 3, ("single",): 4, ("long",): 5, ("literal",): 10, ("train",): 13, ("train", "lr"): 14,
    ("train", "batch_size"): 15, ("train", "a"): 16, ("train", "a", "b"): 16, ("train", "a", "b", "c d"): 16,
    ("stages",): 17, ("stages", "one"): 17, ("stages", "one", "weights"): 18, ("stages", "one", "weights", 0): 19,
    ("stages", "one", "weights", 1): 20, ("stages", "one", "inline"): 22, ("stages", "one", "inline", "x"): 22,
    ("stages", "one", "inline", "y", "z"): 22, ("stages", "two words"): 23, ("stages", "two words", "epochs"): 24,
    ("steps",): 25, ("steps", 0): 25, ("steps", 0, "epochs"): 26, ("steps", 0, "inner"): 27,
    ("steps", 0, "inner", "a"): 28, ("steps", 1): 29, ("steps", 1, "epochs"): 30,
}  # fmt: skip


def test_every_key_of_a_toml_text_has_its_line():
    tomllib.loads(TOML)
    places = locate(TOML, "toml")
    assert {path: line for path, line in places.lines.items() if path in LINES} == LINES
    assert set(places.lines) - set(LINES) == {("stages", "one", "inline", "y")}
    assert places.duplicates == []


def test_what_has_no_line_has_that_of_the_table_around_it():
    places = locate(TOML, "toml")
    assert places.line(("stages", "one", "dataset")) == 17
    assert places.line(("nothing",)) == 1
    assert places.key_in(14) == ("train", "lr")
    assert places.key_in(1) == ()


def test_every_key_of_a_json_text_has_its_line():
    text = '{\n"a": {"b"\n: [1,\n{"c": "x, \\"y\\": [" , "d": null}]},\n"e\\u0041": {}}'
    json.loads(text)
    lines = locate(text, "json").lines
    assert lines == {
        ("a",): 2, ("a", "b"): 2, ("a", "b", 0): 3, ("a", "b", 1): 4, ("a", "b", 1, "c"): 4, ("a", "b", 1, "d"): 4,
        ("eA",): 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    "form,text,expected",
    [
        ("toml", "a = 1\na = 2\n", [(("a",), 2, 1)]),
        ("toml", "[a]\nx = 1\n[b]\n[a]\n", [(("a",), 4, 1)]),
        ("toml", "[[a]]\nx = 1\n[[a]]\nx = 1\n", []),
        ("toml", "a.b = 1\na.c = 1\n'a'.\"b\" = 1", [(("a", "b"), 3, 1)]),
        ("toml", "a = {x = 1, x = 2}", [(("a", "x"), 1, 1)]),
        ("json", '{"a": [{"x": 1}, {"x": 1,\n"x": 2}], "a": 1}', [(("a", 1, "x"), 2, 1), (("a",), 2, 1)]),
    ],
)
def test_keys_that_are_there_twice_are_found(form, text, expected):
    assert locate(text, form).duplicates == expected


def test_deep_paths_are_cut():
    places = locate("a." * 40 + "b = 1\n" + "a." * 40 + "c = 1\n", "toml")
    assert max(len(path) for path in places.lines) == MAX_DEPTH
    assert places.duplicates == []


def _numbered(value, path=()):
    """Every leaf of a document whose leaves are the numbers of their lines."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbered(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _numbered(inner, (*path, index))
    else:
        yield path, value


shapes = st.recursive(
    st.none(),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(st.text('ab"\\]}:,.# é\n', max_size=3), inner, min_size=1, max_size=3)
    ),
    max_leaves=12,
)


@examples(60)
@given(st.dictionaries(st.text("ab[{'\n", max_size=3), shapes, min_size=1))
def test_a_leaf_that_holds_its_line_number_is_found_there(shape):
    text = json.dumps(shape, indent=1)  # each leaf in a line of its own
    numbered = "\n".join(line.replace("null", str(number)) for number, line in enumerate(text.split("\n"), 1))
    places = locate(numbered, "json")
    for path, number in _numbered(json.loads(numbered)):
        assert places.line(path[:MAX_DEPTH]) <= number
        if len(path) <= MAX_DEPTH:
            assert places.line(path) == number
