"""Where a text may be cut: at the ends of its sentences, else of its words."""

import re
from collections.abc import Iterator
from functools import lru_cache

# A sentence ends after its marks and the quotes and brackets that close with them, where white space follows (other
# scripts write none), and before a blank line. Possessive, and never begun inside a run of marks: the time is linear
# in the text, whatever it holds.
_SENTENCE_END = re.compile(
    r"""(?<![.!?…])[.!?…]++["'”’»)\]]*+(?=\s)"""
    r"""|(?<![。！？｡।؟۔])[。！？｡।؟۔]++["”’」』）》]*+"""
    r"""|(\r?\n[^\S\n]*+\n)"""
)
_WORD_END = re.compile(r"\S++(?=\s)")
_LOOKAHEAD = 64  # characters behind a cut that may be read to see a blank line


def sentence_ends(text: str, start: int, latest: int) -> Iterator[int]:
    """Positions after `start`, up to `latest`, where a sentence ends; at least one word lies before each."""
    first_word = -1
    for match in _SENTENCE_END.finditer(text, start, latest + _LOOKAHEAD):
        end = match.start() if match.lastindex else match.end()
        if end > latest:
            return
        if first_word < 0:
            first_word = _skip_space(text, start, end)
        if end > first_word:
            yield end


def word_ends(text: str, start: int, latest: int) -> Iterator[int]:
    """Positions after `start`, up to `latest`, where a word ends."""
    for match in _WORD_END.finditer(text, start, latest + 1):
        yield match.end()


def words_end(text: str, start: int, stop: int, count: int) -> int:
    """The end of the `count`-th word from `start`, or of the last one before `stop`; `start` without words."""
    match = _words(count).match(text, start, stop)
    assert match is not None
    return match.end()


@lru_cache(maxsize=4096)
def _words(count: int) -> re.Pattern[str]:
    return re.compile(rf"(?:\s*+\S++){{0,{count}}}+")


def sentence_start(text: str, end: int, reach: int) -> int:
    """Where the sentence begins whose last character is before `end`; at most `reach` characters back.

    It depends on nothing but the text before `end`: whoever continues there finds the same.
    """
    word_end = len(text[max(0, end - reach) : end].rstrip()) + max(0, end - reach)
    back = 256
    while True:
        low = max(0, end - min(back, reach))
        start = -1
        for position in sentence_ends(text, low, word_end - 1):
            start = position
        if start < 0 and back < reach and low > 0:
            back *= 4  # longer than expected: look further back
            continue
        return _skip_space(text, max(start, low), end)


def _skip_space(text: str, start: int, stop: int) -> int:
    match = _SPACE.match(text, start, stop)
    assert match is not None
    return match.end()


_SPACE = re.compile(r"\s*+")
