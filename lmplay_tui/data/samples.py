"""A row's texts become samples: pieces that fit the context, each with its prompt.

A text is cut at the ends of its sentences, else of its words, else of its tokens.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from lmplay_tui.data.tokenizer import Tokenizer

TOKENS_PER_WORD = 1.5  # the document's estimate
CHARS_PER_TOKEN = 16  # no more of the rest is looked at for a token that there is room for
CHARS_PER_PROMPT_TOKEN = 8  # nor of a sentence that becomes a prompt
DOTS = "..."  # what opens the prompt of a continuation
LONGEST_END = 5  # tokens that a text may need to close: one character's four bytes and the end-of-text mark
_SEAM = 2  # tokens that two pieces encoded apart may have more than together

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Item:
    """One text of a row and what stands before it.

    `keep_start`: a prompt that is too long loses its end. `prompt_end`: only so many characters of `prompt` are it;
    the turns of a conversation share one text, which would else grow with their square.
    """

    prompt: str
    truth: str
    keep_start: bool = False
    prompt_end: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What the model sees of a row at once: `len(prompt_ids) + len(truth_ids) <= context_len`.

    `prompt_ids` of an empty prompt is the end-of-text mark, so that the first truth token has something before it.
    `truth_ids` ends with that mark where the text closes; `truth` is without it. `row`: of the epoch, in reading order.
    """

    prompt: str
    truth: str
    prompt_ids: Ids
    truth_ids: Ids
    row: int


class Cutter:
    """Cuts texts for one tokenizer and one context length (tokens).

    White space between two pieces opens the second: GPT-2's tokens carry their space in front, so prompt and truth
    together read as the uncut text does. The truths of a text, joined, are that text, character by character.
    """

    def __init__(self, tokenizer: Tokenizer, context_len: int) -> None:
        self.tokenizer = tokenizer
        self.context_len = context_len
        self._prompt_room = min(context_len // 2, context_len - LONGEST_END)

    def samples(self, item: Item, row: int, start: int = 0) -> Iterator[tuple[Sample, int]]:
        """The samples of `item` from character `start` on, each with the character that follows it."""
        text = item.truth
        while start < len(text):
            prompt, prompt_ids = self._continued(text, start) if start else self._opened(item)
            end, truth_ids = self._cut(text, start, self.context_len - len(prompt_ids))
            yield Sample(prompt, text[start:end], _array(prompt_ids), _array(truth_ids), row), end
            start = end

    def _opened(self, item: Item) -> tuple[str, list[int]]:
        """The prompt that a row gives, shortened to its room."""
        room = self._prompt_room
        prompt = item.prompt
        if item.prompt_end is not None:
            prompt = prompt[max(0, item.prompt_end - room * CHARS_PER_TOKEN) : item.prompt_end]
        ids = self.tokenizer.encode(prompt) if len(prompt) <= room * CHARS_PER_TOKEN else None
        if ids is None or len(ids) > room:
            ids = self._shortened(prompt, room, keep_start=item.keep_start)
            prompt = self.tokenizer.decode(ids)
        return (prompt, ids) if ids else ("", [self.tokenizer.eot])

    def _shortened(self, prompt: str, room: int, *, keep_start: bool) -> list[int]:
        if not keep_start:
            return self._last_tokens(self.tokenizer.encode(prompt[-room * CHARS_PER_TOKEN :]), room)
        newline = self.tokenizer.encode("\n") if prompt.endswith("\n") else []
        return self._first_tokens(prompt.rstrip("\n")[: room * CHARS_PER_TOKEN], room - len(newline)) + newline

    def _continued(self, text: str, start: int) -> tuple[str, list[int]]:
        """Three dots and the last sentence before `start`, its beginning left out where it is too long."""
        room = self._prompt_room
        prompt = DOTS + text[sentence_start(text, start, room * CHARS_PER_PROMPT_TOKEN) : start]
        ids = self.tokenizer.encode(prompt)
        if len(ids) <= room:
            return prompt, ids
        dots = self.tokenizer.encode(DOTS)
        ids = dots + self._last_tokens(ids, room - len(dots))
        return self.tokenizer.decode(ids), ids

    def _last_tokens(self, ids: list[int], room: int) -> list[int]:
        """As many of the last tokens as `room` holds, in whole characters."""
        first = max(0, len(ids) - room)
        while first < len(ids) and self._inside_character(ids[first]):
            first += 1
        return ids[first:]

    def _first_tokens(self, text: str, room: int) -> list[int]:
        """As many tokens of the beginning of `text` as `room` holds, in whole characters."""
        ids = self.tokenizer.encode(text)
        stop = min(len(ids), room)
        while 0 < stop < len(ids) and self._inside_character(ids[stop]):
            stop -= 1
        return ids[:stop]

    def _inside_character(self, token: int) -> bool:
        """Whether the token begins with a later byte of a character of several bytes."""
        (first,) = self.tokenizer.token_bytes([token])
        return bool(first) and first[0] & 0xC0 == 0x80

    def _cut(self, text: str, start: int, room: int) -> tuple[int, list[int]]:
        """Where the truth ends that begins at `start`, and its tokens, at most `room`.

        What fits whole is not cut (but where tokens have more than `CHARS_PER_TOKEN`). Else the estimate chooses the
        last sentence end that should fit, and the exact count confirms it or moves it back to an earlier one; inside
        one over-long sentence to a word's end, inside one over-long word to a token's.
        """
        reach = min(len(text), start + room * CHARS_PER_TOKEN)
        estimate = words_end(text, start, reach, int(room / TOKENS_PER_WORD))
        if estimate == start:  # white space alone
            estimate = reach
        piece = _Tokenized(self.tokenizer, text[start:estimate])
        latest, stop = estimate, reach
        if reach == len(text):
            last_word = words_end(text, estimate, reach, room)
            if not text[last_word:].strip():
                if (whole := self._whole(text, start, piece, room)) is not None:
                    return len(text), whole
                # Leave a word for the next sample: a truth of white space teaches nothing.
                latest, stop = min(latest, last_word - 1), len(text) - 1
        latest = min(latest, start + piece.chars(room))
        for last_end in (last_sentence_end, last_word_end):
            end = latest
            while (end := last_end(text, start, end)) > start:
                ids = piece.ids_up_to(end - start) or self.tokenizer.encode(text[start:end])
                if len(ids) <= room:
                    return end, ids
                end -= 1
        ids = self._first_tokens(text[start:stop], room)
        return start + len(self.tokenizer.decode(ids)), ids

    def _whole(self, text: str, start: int, piece: "_Tokenized", room: int) -> list[int] | None:
        """The tokens of all that is left, closed, where they fit; `piece` is its beginning."""
        rest = text[start + len(piece.text) :]
        # A word is a token at least: most texts that are too long are known to be without encoding them.
        if len(piece.ids) + len(rest.split()) >= room + _SEAM:
            return None
        whole = self.tokenizer.encode(piece.text + rest) if rest else piece.ids
        return [*whole, self.tokenizer.eot] if len(whole) < room else None


class _Tokenized:
    """A stretch of text, its tokens, and the byte after each of them."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self.text = text
        self.ids = tokenizer.encode(text)
        self._stops = list(accumulate(map(tokenizer.token_sizes.__getitem__, self.ids)))
        self._one_byte_each = text.isascii()

    def chars(self, count: int) -> int:
        """The whole characters that the first `count` tokens spell."""
        if count >= len(self.ids):
            return len(self.text)
        stop = self._stops[count - 1]
        return stop if self._one_byte_each else len(_utf8(self.text)[:stop].decode("utf-8", "ignore"))

    def ids_up_to(self, chars: int) -> list[int] | None:
        """The tokens of the first `chars` characters; None where a token crosses their end.

        Byte pairs are joined by rank alone, so where none was joined across the end, those before it are as they
        would be without what follows.
        """
        stop = chars if self._one_byte_each else len(_utf8(self.text[:chars]))
        count = bisect_left(self._stops, stop) + 1
        return self.ids[:count] if count <= len(self.ids) and self._stops[count - 1] == stop else None


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _array(ids: list[int]) -> Ids:
    return np.array(ids, dtype=np.int32)


# ---- where a text may be cut

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

    It depends on nothing but the text before `end`, so each continuation from there finds the same.
    """
    earliest = max(0, end - reach)
    last_word = earliest + len(text[earliest:end].rstrip())
    begin = last_sentence_end(text, earliest, last_word - 1) if last_word > earliest else earliest
    match = _SPACE.match(text, begin, end)
    assert match is not None
    return match.end()
