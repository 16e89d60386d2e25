"""Files spoilt in the ways that disks, transfers, editors and other hands spoil them, made from a seed."""

import json
import random
from typing import Any

# What is put into a text in the place of some of it: bytes that are no UTF-8, halves of characters, marks, the
# terminal's own sequences, and what a parser of JSON, CSV or TOML takes for the beginning of something.
SNIPPETS = (
    b"\0", b"\0" * 4096, b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1a",
    b"\r", b"\n\n", b"\x0b\x0c\x1c\xc2\x85\xe2\x80\xa8", b"\x1b]52;c;aGk=\x07", b"\xe2\x80\xae", b'"', b'""', b"'",
    b"\\", b"\\u0000", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"\t", b";", b"#", b"=", b"[" * 100_000,
    b'{"a":' * 2000, b"9" * 5000, b"1e999", b"-0", b"NaN", b"x" * 1_000_000,
)  # fmt: skip
# A value of JSON, as it is written: what no parser of ours may take on trust.
RAW_VALUES = (
    "null", "true", "-1", "0", "0.5", "1e999", "-1e999", "NaN", "1e-400", "9" * 30, "9" * 5000, '""', '"text"',
    '"\\u0000"', '"\\ud800"', '"\\u001b]52;c;aGk=\\u0007"', '"[/nope]"', '"' + "x" * 100_000 + '"', "[]", "{}", "[[]]",
    '{"a": 1, "a": {}}', "[" * 300 + "]" * 300, "[" * 100_000 + "]" * 100_000, "[1, [2, {}], null]", '["a", "b"]',
    str(2**63), str(-(2**63) - 1), '{"": ""}', "[" + "0, " * 50_000 + "0]",
)  # fmt: skip


def spoilt(data: bytes, dice: random.Random) -> bytes:
    """The bytes of a file with one thing wrong, or a few."""
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        data = _once(data, dice)
    return data


def with_a_flipped_bit(data: bytes, at: int, dice: random.Random) -> bytes:
    """Some bit of the byte at that place is the other way."""
    return data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :]


def _once(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data) + 1)
    until = min(len(data), at + dice.choice([0, 1, 3, 17, 300]))
    match dice.randrange(8):
        case 0:
            return data[:at]
        case 1 | 2 if at < len(data):
            return with_a_flipped_bit(data, at, dice)
        case 3:
            return data[:at] + data[until:]
        case 4:
            return data[:until] + data[at:until] * dice.choice([1, 1, 50]) + data[until:]
        case 5:
            return data[:at] + bytes(until - at) + data[until:]
        case 6:
            return data[:at] + dice.randbytes(dice.choice([1, 4, 100])) + data[until:]
    return data[:at] + dice.choice(SNIPPETS) + data[until:]


def spoilt_json(value: Any, dice: random.Random) -> str:
    """JSON text of `value`, where one value is another, missing, there twice, or under another name."""
    places = list(_places(value))
    path = dice.choice(places) if places else ()
    mark = "\ue000place"
    way = dice.randrange(10)

    def changed(tree: Any, path: tuple[Any, ...]) -> Any:
        if not path:
            return mark
        key, rest = path[0], path[1:]
        if isinstance(tree, list):
            inner = [] if way == 0 and not rest else [changed(tree[key], rest)]
            return [*tree[:key], *inner, *tree[key + 1 :]]
        made = {}
        for name, inner in tree.items():
            if name != key:
                made[name] = inner
            elif rest or way > 1:
                made[name] = changed(inner, rest)
                if not rest and way == 2:
                    made[name + "\ue000twice"] = inner
            elif way == 1:
                made[dice.choice(["", name + "x", "\0", "__class__", "[/x]"])] = inner
        return made

    text = json.dumps(changed(value, path), ensure_ascii=False).replace("\ue000twice", "")
    return text.replace(f'"{mark}"', dice.choice(RAW_VALUES))


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Any:
    if path:
        yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:3]) if isinstance(tree, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def spoilt_lines(data: bytes, dice: random.Random) -> bytes:
    """Lines of JSON, of which one is spoilt by its structure, is elsewhere, twice, or not there."""
    lines = data.splitlines()
    at, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    match dice.randrange(6):
        case 0:
            del lines[at]
        case 1:
            lines.insert(other, lines[at])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case _:
            lines[at] = spoilt_json(json.loads(lines[at]), dice).encode("utf-8", "surrogatepass")
    return b"\n".join(lines) + dice.choice([b"\n", b"\n", b"", b"\n\n", b"\r\n"])
