"""What the rows of a `.txt` are: pieces between marks, its lines, or its paragraphs."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

BY_MARKS = "rows are the pieces between its lines <|endoftext|>"
BY_LINE = "rows are its lines (it has hardly a blank one; blank lines between documents make rows of paragraphs)"
BY_PARAGRAPH = "rows are its paragraphs (pieces between blank lines)"

_MARK = re.compile(r"^\s*<\|endoftext\|>[ \t]*\n?|<\|endoftext\|>\s*$")  # not one that a sentence speaks of
_FEWEST_LINES = 10  # of a file whose lines are documents because they end as sentences do
_SOME_LINES = 20  # without any blank one: too many for a verse
_MANY_LINES = 100  # with hardly a blank one: too many for a poem or a list
_LONG_LINE = 200  # characters: no hard-wrapped line is as long
_SENTENCE_ENDS = tuple(".!?…。！？؟।॥")
_CLOSERS = "\"'”’»)]*_"
_SENTENCE_BEGINS = re.compile(r"""\w[.!?…]["'”’»)]*\s+["'“‘«(]*[^\W\d_a-z]""")


def division_of(lines: list[str]) -> str:
    """`BY_MARKS`, `BY_LINE` or `BY_PARAGRAPH`, by the first lines of a text."""
    if any(map(_MARK.search, lines)):
        return BY_MARKS
    return BY_LINE if lines_are_documents(lines) else BY_PARAGRAPH


def divided(lines: Iterable[str], division: str) -> Iterator[str]:
    """The rows of a text whose lines end in line breaks; none is blank."""
    if division == BY_MARKS:
        return _between_marks(lines)
    if division == BY_LINE:
        return (line.rstrip("\n") for line in lines if not line.isspace())
    return _paragraphs(lines)


def _between_marks(lines: Iterable[str]) -> Iterator[str]:
    """The texts between marks at the beginning or the end of a line."""
    pieces: list[str] = []
    for line in chain(lines, ("<|endoftext|>",)):
        first, *others = _MARK.split(line)
        for piece in others:
            text = "".join([*pieces, first]).strip("\n")
            if text and not text.isspace():
                yield text
            pieces, first = [], piece
        pieces.append(first)


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    paragraph: list[str] = []
    for line in chain(lines, ("\n",)):
        if not line.isspace():
            paragraph.append(line)
        elif paragraph:
            yield "".join(paragraph).rstrip("\n")
            paragraph = []


def lines_are_documents(lines: list[str]) -> bool:
    """Whether the lines of a text are documents of their own, not parts of paragraphs.

    They are where at most one line in twenty is blank, and one of these holds: most lines are long (200 characters),
    most end as a sentence does (of ten lines at least), or they are many (100; 20, where none is blank) and not
    hard-wrapped. A hard-wrapped text's lines break where the next word would not have fitted; where no line is blank,
    it must also read as prose: sentences begin within lines, and lines begin within sentences.
    """
    full = [line.rstrip() for line in lines if line and not line.isspace()]
    last = next((at for at in range(len(lines), 0, -1) if lines[at - 1].strip()), 0)
    blank = last - len(full)
    if len(full) < 2 or blank * 20 > len(full):
        return False
    lengths = sorted(map(len, full))
    if lengths[len(full) // 2] >= _LONG_LINE:
        return True
    if sum(map(_ends_sentence, full)) >= 0.6 * len(full) and len(full) >= _FEWEST_LINES:
        return True
    if len(full) < (_MANY_LINES if blank else _SOME_LINES):
        return False
    return not _is_wrapped(full, lengths) or not (blank or _is_prose(full))


def _is_wrapped(lines: list[str], lengths: list[int]) -> bool:
    """Whether the text is hard-wrapped: nine of ten lines are full or end a sentence, and half of all are full.

    A line is full if the next one's first word would have gone beyond the width that the lines keep to.
    """
    width = lengths[len(lengths) * 19 // 20]
    full = broken = 0
    for line, after in pairwise(lines):
        first, *others = after.split(maxsplit=1)
        if others and len(line) + 1 + len(first) > width:
            full += 1
        elif not _ends_sentence(line):
            broken += 1
    pairs = len(lines) - 1
    return full >= 0.5 * pairs and broken <= 0.1 * pairs


def _is_prose(lines: list[str]) -> bool:
    """Whether sentences run over the lines: some begin within one, and lines begin within one, with many words.

    A quarter of the lines begin in lower case (or in a script that has none), fewer than half with the same word, and
    a sentence begins within one line of twenty.
    """
    firsts = Counter(line.split(maxsplit=1)[0] for line in lines)
    within = sum(line.lstrip()[0].isalpha() and not line.lstrip()[0].isupper() for line in lines)
    begins = sum(_SENTENCE_BEGINS.search(line) is not None for line in lines)
    count = len(lines)
    return within >= 0.25 * count and begins >= 0.05 * count and firsts.most_common(1)[0][1] < 0.5 * count


def _ends_sentence(line: str) -> bool:
    return line.rstrip(_CLOSERS).endswith(_SENTENCE_ENDS)
