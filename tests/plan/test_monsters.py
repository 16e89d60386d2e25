"""Files made to hurt a reader: each ends in a moment, with one line a problem or with a plan."""

import json
import time
import tracemalloc
from pathlib import Path

import pytest

from lmplay_tui.plan.problems import PlanError, locate
from lmplay_tui.plan.reading import parse_plan, read_plan

GOOD = '[stages.s]\ndataset = "pydocs"\n'
LIMIT = 64 * 1024


def _filled(line: str, limit: int = LIMIT) -> str:
    return (line * (limit // len(line) + 1))[: limit - 100].rpartition("\n")[0] + "\n"


TOML = {
    "dotted key of 64 KB": "a." * 32_000 + "b = 1\n",
    "dotted keys within the limits": _filled("a." * 950 + "{} = 1\n".format("b")),
    "other dotted keys within the limits": "".join(f"k{n}" + ".a" * 950 + " = 1\n" for n in range(30)),
    "dotted headers within the limits": "".join(f"[k{n}" + ".a" * 950 + "]\n" for n in range(30)),
    "1e5 brackets": "a = " + "[" * 100_000,
    "brackets within the limits": "a = " + _filled("[" * 1_900 + "\n"),
    "closed brackets within the limits": "a = [\n" + ("[" * 1_900 + "\n") * 16 + ("]" * 1_900 + "\n") * 16 + "]\n",
    "inline tables": "a = " + "{b = " * 300 + "1" + "}" * 300 + "\n",
    "inline tables of one line": "a = " + "{b=" * 400 + "1" + "}" * 400 + "\n" + GOOD,
    "a list of lists in a stage": GOOD + "weights = " + "[" * 90 + "]" * 90 + "\n",
    "byte order mark": "\ufeff" + GOOD,
    "NUL": "\0" + GOOD,
    "NUL in a comment": "# \0\n" + GOOD,
    "lone carriage return": GOOD.replace("\n", "\r"),
    "escape": "# \x1b[31m\n" + GOOD,
    "5,000 digits": GOOD + "epochs = " + "9" * 5_000 + "\n",
    "1,900 digits": GOOD + "epochs = " + "9" * 1_900 + "\n",
    "a hexadecimal number": GOOD + "seed = 0x" + "f" * 1_900 + "\n",
    "an exponent": GOOD + "epochs = 1e" + "9" * 1_900 + "\n",
    "a date": GOOD + "epochs = 1979-05-27T07:32:00Z\n",
    "unknown keys": "[train]\n" + "".join(f"k{n} = 1\n" for n in range(6_000)),
    "unknown keys of some length": "[train]\n" + "".join(f"learning_rate_{n:050} = 1\n" for n in range(900)),
    "empty tables": "".join(f"[stages.s{n}]\n" for n in range(4_000)),
    "tables": "".join(f'[stages.s{n}]\ndataset="x"\n' for n in range(2_500)),
    "good tables": "".join(f'[stages.s{n}]\ndataset="pydocs"\n' for n in range(1_800)),
    "an unclosed string": GOOD + 'title = """' + _filled("a\n", 60_000),
    "unclosed strings": _filled('\\"""\n'),
    "quotes": _filled('"\n'),
    "quotes in threes": _filled("'''\\\n\"\"\"\\\n"),
    "backslashes": 'a = """' + _filled("\\" * 1_000 + "\n"),
    "empty keys": '"" = 1\n"".""."" = 2\n',
    "one key twice": _filled("a = 1\n"),
    "entries": 'stages.s.dataset = "pydocs"\nstages.s.weights = [' + _filled("1,\n", 60_000) + "]\n",
    "empty lines": "\n" * 65_000,
    "spaces": _filled(" " * 1_900 + "\n"),
    "steps": _filled("[[steps]]\n"),
    "emoji": GOOD + '"' + "\U0001f468\u200d\U0001f469" * 300 + '" = 1\n',
    "half a surrogate pair": GOOD + "# \ud800\n",
}
JSON = {
    "brackets": "[" * 100_000,
    "brackets within the limits": ("[" * 1_900 + "\n") * 16 + ("]" * 1_900 + "\n") * 16,
    "braces within the limits": ('{"a":' * 380 + "\n") * 16 + "1" + ("}" * 1_900 + "\n") * 4,
    "5,000 digits": '{"s": {"dataset": "pydocs", "epochs": ' + "9" * 5_000 + "}}",
    "digits in lines": '{"s": {"dataset": "pydocs", "epochs": ' + "9" * 1_900 + "}}",
    "byte order mark": '\ufeff{"s": {"dataset": "pydocs"}}',
    "NUL": '{"s": \0}',
    "one key twice": "{" + _filled('"a": 1,\n', 60_000) + '"a": 1}',
    "null": "null",
    "a word": '"pydocs"',
    "nothing": "",
    "steps": '{"steps": [' + _filled("{},\n", 60_000) + "{}]}",
    "many stages": "{" + ",\n".join(f'"s{n}": {{"dataset": "pydocs"}}' for n in range(2_000)) + "}",
}


@pytest.mark.parametrize("form,name", [("toml", name) for name in TOML] + [("json", name) for name in JSON])
def test_a_monster_is_refused_in_a_moment(form, name):
    text = (TOML if form == "toml" else JSON)[name]
    began = time.process_time()
    try:
        plan = parse_plan(text, name="x", file="x.plan", folder=Path("/nowhere"), form=form)
    except PlanError as error:
        assert error.problems
        assert len(str(error).split("\n")) == len(error.problems)
        for problem in error.problems:
            assert problem.line >= 1
            assert problem.key
            assert len(str(problem)) < 1_000
    else:
        assert name in {"good tables"}
        assert len(plan.stages) == 1_800
    assert time.process_time() - began < 4  # promised is 1 s; other processes may share the core


def test_places_take_little_memory():
    text = TOML["other dotted keys within the limits"]
    tracemalloc.start()
    try:
        locate(text, "toml")
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_lines_end_as_windows_ends_them():
    text = "# what it is for\r\n" + GOOD.replace("\n", "\r\n") + "epochs = 2\r\n"
    plan = parse_plan(text, name="x", file="x", folder=Path("/nowhere"))
    assert plan.purpose == "what it is for"
    assert plan.stages[0].epochs == 2
    with pytest.raises(PlanError, match=r"^x:4: stages.s.epochs: must be above 0, got -2$"):
        parse_plan(text.replace("= 2", "= -2"), name="x", file="x", folder=Path("/nowhere"))


@pytest.mark.parametrize(
    "data,said",
    [
        ("# caf\xe9\n".encode("latin-1") + GOOD.encode(), r":1: file: is not UTF-8 text: byte 0xe9"),
        (GOOD.encode() + b"# \xff", r":3: file: is not UTF-8 text: byte 0xff"),
        (GOOD.encode("utf-16"), r":1: file: is not UTF-8 text: byte 0xff"),
        (b"#" * 70_000, r":1: file: must have at most 65536 bytes"),
        (b"#\n" * 40_000, r":1: file: must have at most 65536 bytes"),
        (b"\n" + b"#" * 2_001 + b"\n" + b"#" * 2_002, r":2: line: must have at most 2000 characters, has 2001\n.*:3: "),
        (b"\xef\xbb\xbf" + GOOD.encode(), r":1: file: begins with a byte order mark"),
    ],
)
def test_bytes_that_are_no_plan_are_refused_with_their_line(tmp_path, data, said):
    for name in ("x.toml", "x.json"):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(PlanError, match=said):
            read_plan(str(path))


def test_what_cannot_be_read_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.toml").mkdir()
    for name, said in (
        ("folder.toml", "folder.toml: cannot be read: is a folder, not a file"),
        ("gone.json", "gone.json: cannot be read: No such file or directory"),
        ("x" * 300 + ".toml", "cannot be read: File name too long"),
        ("a\0b.toml", "cannot be read: embedded null byte"),
        ("deom", "deom: unknown plan; did you mean demo?"),
        ("nosuch", "nosuch: unknown plan: neither a shipped plan (demo, curriculum_demo, default, "),
        ("plan.yaml", "nor a .toml or .json file"),
        ("", ": unknown plan: neither"),
    ):
        with pytest.raises(PlanError) as raised:
            read_plan(name)
        assert said in str(raised.value)
        assert len(str(raised.value).split("\n")) == 1


def test_a_text_beyond_the_limit_is_refused_by_its_size_in_bytes():
    text = GOOD + "# é\n" * 14_000
    with pytest.raises(PlanError) as raised:
        parse_plan(text, name="x", file="x", folder=Path("/nowhere"))
    assert str(raised.value) == f"x:1: file: must have at most 65536 bytes, has {len(text.encode())}"


def test_a_number_beyond_every_type_is_shown_short():
    text = json.dumps({"s": {"dataset": "pydocs", "epochs": 10**1_500}})
    with pytest.raises(PlanError) as raised:
        parse_plan(text, name="x", file="x", folder=Path("/nowhere"), form="json")
    assert len(str(raised.value)) < 200
