"""Nothing that a terminal acts upon passes the gate."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest

from lmplay_tui.text import can_name_a_file, one_line, printable
from tests.examples import some

PAYLOADS = ["\x1b[2J", "\x1b]52;c;aGk=\x07", "\x1b]0;title\x07", "\x9b31m", "\u202egnp.exe", "a\rb", "\x07", "\x7f",
            "\ud800", "\u2028", "\u2066x\u2069", "\ufeff", "\x00"]  # fmt: skip


def is_acted_upon(char: str) -> bool:
    """Controls, text direction, line separators, format characters but the two joiners, surrogates, private use."""
    return char != "\n" and char not in "\u200c\u200d" and unicodedata.category(char) in (
        "Cc", "Cf", "Cs", "Co", "Zl", "Zp",
    )  # fmt: skip


def code_points() -> Sequence[int]:
    """All up to U+07FF and the general punctuation, where most of what a terminal acts upon lies; some of the rest."""
    return [*range(0x800), *range(0x2000, 0x2100), *some(range(0x800, 0x110000), 11)]


@pytest.mark.sampled
def test_no_code_point_passes_that_a_terminal_acts_upon():
    passed = [i for i in code_points() if any(is_acted_upon(c) for c in printable(chr(i)))]
    assert passed == []


@pytest.mark.sampled
def test_every_other_character_stays():
    changed = [i for i in code_points() if not is_acted_upon(chr(i)) and printable(chr(i)) != chr(i)]
    assert all(unicodedata.category(chr(i)) in ("Cn", "Mn") for i in changed), "only what is not assigned, or new"
    assert len(changed) < 20


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payloads_are_harmless_wherever_they_stand(payload):
    shown = printable(f"before{payload}after")
    assert shown.startswith("before")
    assert shown.endswith("after")
    assert not any(is_acted_upon(c) for c in shown)
    assert "\n" not in one_line(f"a\n{payload}\nb")


def test_controls_are_seen():
    assert printable("\x1b\x00\x7f") == "␛␀␡"
    assert printable("a\tb") == "a    b"


def test_limits():
    assert printable("abcdef", 4) == "abc…"
    assert printable("abcd", 4) == "abcd"
    assert len(printable("\t" * 50, 20)) == 20
    assert one_line("  a \n\n b ", 10) == "a b"


def test_marks_do_not_pile_up() -> None:
    assert printable("e\u0301te\u0301, vie\u0323\u0302t") == "e\u0301te\u0301, vie\u0323\u0302t"
    assert printable("Z" + "\u0301\u0489" * 150 + "a\u0301") == "Z" + "\u0301\u0489" * 2 + "a\u0301"


def test_what_can_name_a_file_is_what_the_system_can_be_asked_for():
    for char in ("a", "é", "\U0001f600", "\x01", "\n", "\0", *map(chr, range(0xD7FF, 0xE001))):
        try:
            Path(f"no such/{char}").stat()
        except FileNotFoundError:
            can = True
        except ValueError:
            can = False
        assert can_name_a_file(f"no such/{char}") == can, ascii(char)
