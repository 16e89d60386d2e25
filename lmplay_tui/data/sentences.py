"""Where a text may be cut: at the ends of its sentences, else of its words."""

import re
from functools import lru_cache

# A sentence ends after its marks and the quotes and brackets that close with them, where white space follows (other
# scripts write none), and before a blank line. One class of characters opens every match, which `re` seeks quickly;
# nothing begins inside a run of marks and nothing is given back, so the time is linear in the text, whatever it holds.
_SENTENCE_END = re.compile(
    r"""[.!?…。！？｡।؟۔\n](?:"""
    r"""(?<=[.!?…])(?<![.!?…][.!?…])[.!?…]*+["'”’»)\]]*+(?=\s)"""
    r"""|(?<=[。！？｡।؟۔])[。！？｡।؟۔]*+["”’」』）》]*+"""
    r"""|(?<=\n)([^\S\n]*+\n))"""
)
_WORD_END = re.compile(r"(?<!\S)\S++(?=\s)")
_SPACE = re.compile(r"\s*+")
_LOOKAHEAD = 64  # characters behind a cut that may be read to see a blank line
_FIRST_LOOK = 256  # characters looked at first for an end; most sentences are shorter


def last_sentence_end(text: str, start: int, latest: int) -> int:
    """The last position after `start`, up to `latest`, where a sentence ends; `start` if there is none.

    At least one word lies between.
    """
    back = _FIRST_LOOK
    while True:
        low = max(start, latest - back)
        look = text[low : latest + _LOOKAHEAD]  # a run of marks that was cut may go on: what lies before is not seen
        found = start
        for match in _SENTENCE_END.finditer(look):
            end = match.end()
            if match.lastindex:  # a blank line: its line break opens the next piece
                end = match.start() - look.endswith("\r", 0, match.start())
            if low + end > latest:
                break
            found = low + end
        if found > start and (low > start or not text[start:found].isspace()):
            return found
        if low == start:
            return start
        back *= 4


def last_word_end(text: str, start: int, latest: int) -> int:
    """The last position after `start`, up to `latest`, where a word ends and white space follows; else `start`."""
    back = _FIRST_LOOK
    while True:
        low = max(start, latest - back)
        found = start
        for match in _WORD_END.finditer(text[low : latest + 1]):  # a word that was cut counts from there
            found = low + match.end()
        if found > start or low == start:
            return found
        back *= 4


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
    earliest = max(0, end - reach)
    last_word = earliest + len(text[earliest:end].rstrip())
    begin = last_sentence_end(text, earliest, last_word - 1) if last_word > earliest else earliest
    match = _SPACE.match(text, begin, end)
    assert match is not None
    return match.end()
