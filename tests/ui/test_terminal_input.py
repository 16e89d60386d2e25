"""Any bytes from the terminal: known sequences are what Textual makes of them, all others do nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual import events
from textual.message import Message

from lmplay_tui.ui.tty.terminal_input import (
    MOST_PASTED,
    PASTE,
    PASTE_END,
    PASTE_SILENCE_S,
    SEQUENCE_SILENCE_S,
    TerminalInput,
    bounded,
)


def said(messages: list[Message]) -> list[str]:
    """Keys by their names; of what is pasted the text; of all else the kind."""
    named = []
    for message in messages:
        match message:
            case events.Key():
                named.append(message.key)
            case events.Paste():
                named.append(f"pasted {message.text}")
            case _:
                named.append(type(message).__name__)
    return named


def read(*parts: bytes, then_s: float = 10.0) -> list[str]:
    """What these bytes say, read part by part; then the terminal is silent."""
    typed, messages = TerminalInput(), list[Message]()
    for part in parts:
        messages += typed.feed(part)
    messages += typed.tick(then_s)
    return said(messages)


KNOWN = {
    b"ab\r\t\x7f": ["a", "b", "enter", "tab", "backspace"],
    "äñ→中".encode(): ["ä", "ñ", "rightwards_arrow", "中"],
    b"\x1b": ["escape"],
    b"\x1b\x1b": ["escape", "escape"],
    b"\x1b\x1b[A": ["escape", "up"],
    b"\x1b[A\x1b[1;5C\x1b[3~\x1bOQ": ["up", "ctrl+right", "delete", "f2"],
    b"\x1b[[A\x1b[[E": ["f1", "f5"],
    b"\x1ba\x1bA": ["alt+a", "alt+shift+a"],
    b"\x1b[97u\x1b[97;5u": ["a", "ctrl+a"],
    b"\x1b[<0;10;5M\x1b[<0;10;5m\x1b[<64;10;5M": ["MouseDown", "MouseUp", "MouseScrollUp"],
    b"\x1b[I\x1b[O": ["AppFocus", "AppBlur"],
    b"\x1b[12;40R": ["CursorPosition"],
    b"\x1b[?2026;2$y": ["TerminalSupportsSynchronizedOutput"],
    b"\x1b[200~two\nlines\x1b[201~x": ["pasted two\nlines", "x"],
    b"\x1b[200~\x1b[31mred\x1b]0;t\x07\xfc\x1b[201~": ["pasted \x1b[31mred\x1b]0;t\x07\ufffd"],
}
UNKNOWN = {
    "no UTF-8": (b"a\xfcb", ["a", "replacement_character", "b"]),
    "half a character": (b"\xe4\xb8x", ["replacement_character", "x"]),
    "a code point that there is not": (b"\x1b[99999999999ux", ["x"]),
    "half a character by its number": (b"\x1b[55296u\x1b[65;1;56320ux", ["x"]),
    "a number of many digits": (b"\x1b[" + b"9" * 5000 + b"ux", ["x"]),
    "a key of another protocol": (b"\x1b[99;5Xx", ["x"]),
    "what the terminal is": (b"\x1b[?62;22c\x1b[>41;354;0cx", ["x"]),
    "a colour": (b"\x1b]11;rgb:1e1e/1e1e/1e1e\x07x\x1b]11;rgb:00/00/00\x1b\\x", ["x", "x"]),
    "a clipboard": (b"\x1b]52;c;" + b"QUJD" * 20_000 + b"\x07x", ["x"]),
    "a string that another sequence ends": (b"\x1bPnever\x1b[Ax", ["up", "x"]),
    "a mouse without digits": (b"\x1b[M !!x", ["x"]),
    "a control sign within a sequence": (b"\x1b[12;\x01x", ["ctrl+a", "x"]),
    "private signs": (b"\x1b[1 q\x1b[?1;2;3;4yx", ["x"]),
}


@pytest.mark.parametrize("sequence", KNOWN, ids=repr)
def test_what_is_known(sequence: bytes) -> None:
    assert read(sequence) == KNOWN[sequence]


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_does_nothing(name: str) -> None:
    sequence, wanted = UNKNOWN[name]
    assert read(sequence) == wanted


PIECES = [*KNOWN, *(sequence for sequence, _ in UNKNOWN.values() if len(sequence) < 100)]
NOISE = st.one_of(st.binary(max_size=12), st.sampled_from(PIECES), st.sampled_from([PASTE, PASTE_END]).map(str.encode))


@given(st.lists(NOISE, max_size=8).map(b"".join), st.data())
def test_how_the_bytes_are_cut_makes_no_difference(sequence: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(sequence)), max_size=6)))
    parts = [sequence[start:end] for start, end in zip([0, *cuts], [*cuts, len(sequence)], strict=True)]
    assert _joined(read(*parts)) == _joined(read(sequence))


def _joined(messages: list[str]) -> list[str]:
    for message in messages:
        message.encode()  # nothing that no terminal and no file can take
    return messages


@given(st.binary(max_size=40))
def test_the_key_after_any_noise_is_that_key(noise: bytes) -> None:
    typed = TerminalInput()
    list(typed.feed(noise))
    for silent_s in (1, 2):
        list(typed.tick(silent_s * max(PASTE_SILENCE_S, SEQUENCE_SILENCE_S)))
    assert said(list(typed.feed(b"\x1b[A")))[-1:] == ["up"]


def test_a_paste_without_an_end_ends_when_the_terminal_is_silent() -> None:
    typed = TerminalInput()
    assert not list(typed.feed(b"\x1b[200~begun\x1b[20"))
    assert not list(typed.tick(PASTE_SILENCE_S / 2))
    assert said(list(typed.tick(PASTE_SILENCE_S))) == ["pasted begun\x1b[20"]
    assert said(list(typed.feed(b"\x03"))) == ["ctrl+c"]


def test_a_paste_of_any_length_is_taken_in_parts() -> None:
    typed = TerminalInput()
    messages = list(typed.feed(b"\x1b[200~"))
    for _ in range(2 * MOST_PASTED // 4096):
        messages += typed.feed(b"x" * 4096)
    messages += typed.feed(b"\x1b[201~")
    texts = [message.text for message in messages if isinstance(message, events.Paste)]
    assert len(texts) == len(messages) >= 2
    assert sum(map(len, texts)) == 2 * MOST_PASTED // 4096 * 4096


def test_a_sequence_that_a_slow_line_cuts_in_two_is_one() -> None:
    typed = TerminalInput()
    assert not list(typed.feed(b"\x1b[1;"))
    assert not list(typed.tick(SEQUENCE_SILENCE_S * 0.9))
    assert said(list(typed.feed(b"5C"))) == ["ctrl+right"]


@pytest.mark.parametrize("size", [(10**9, 10**9), (0, 0), (-5, 3)])
def test_the_picture_has_a_size_that_can_be_painted(size: tuple[int, int]) -> None:
    width, height = bounded(*size)
    assert 1 <= width <= 1000
    assert 1 <= height <= 400
