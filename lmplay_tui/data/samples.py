"""A row's texts become samples: pieces that fit the context, cut at sentence ends, each with its prompt."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmplay_tui.data.sentences import sentence_ends, sentence_start, word_ends, words_end
from lmplay_tui.data.tokenizer import Tokenizer

TOKENS_PER_WORD = 1.5  # the document's estimate
CHARS_PER_TOKEN = 16  # no more of the rest is looked at for a token that there is room for
DOTS = "..."  # what opens the prompt of a continuation
LONGEST_END = 5  # tokens that a text may need to close: one character's four bytes and the end-of-text mark

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Item:
    """One text of a row and what stands before it. `keep_start`: a prompt that is too long loses its end."""

    prompt: str
    truth: str
    keep_start: bool = False


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
        prompt, room = item.prompt, self._prompt_room
        if not prompt:
            return "", [self.tokenizer.eot]
        if len(prompt) <= room * CHARS_PER_TOKEN:
            ids = self.tokenizer.encode(prompt)
            if len(ids) <= room:
                return prompt, ids
        if not item.keep_start:
            return self._last_tokens("", prompt, room)
        newline = self.tokenizer.encode("\n") if prompt.endswith("\n") else []
        ids = self._first_tokens(prompt.rstrip("\n")[: room * CHARS_PER_TOKEN], room - len(newline)) + newline
        return self.tokenizer.decode(ids), ids

    def _continued(self, text: str, start: int) -> tuple[str, list[int]]:
        """Three dots and the last sentence before `start`, its beginning left out where it is too long."""
        room = self._prompt_room
        sentence = text[sentence_start(text, start, room * CHARS_PER_TOKEN) : start]
        ids = self.tokenizer.encode(DOTS + sentence)
        return (DOTS + sentence, ids) if len(ids) <= room else self._last_tokens(DOTS, sentence, room)

    def _last_tokens(self, opening: str, text: str, room: int) -> tuple[str, list[int]]:
        """`opening` and as much of the end of `text` as `room` holds, in whole characters."""
        head = self.tokenizer.encode(opening) if opening else []
        ids = self.tokenizer.encode(text[-room * CHARS_PER_TOKEN :])
        first = max(0, len(ids) - (room - len(head)))
        while first < len(ids) and self._inside_character(ids[first]):
            first += 1
        ids = head + ids[first:]
        return self.tokenizer.decode(ids), ids

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

        What fits whole is not cut. Else the estimate chooses the last sentence end that should fit, and the exact
        count confirms it or moves it back to an earlier one; inside one over-long sentence to a word's end, inside
        one over-long word to a token's.
        """
        reach = min(len(text), start + room * CHARS_PER_TOKEN)
        latest = words_end(text, start, reach, int(room / TOKENS_PER_WORD))
        if reach == len(text):
            last_word = len(text) if latest == start else words_end(text, start, reach, room)
            if not text[last_word:].strip():
                ids = self.tokenizer.encode(text[start:])
                if len(ids) < room:
                    return len(text), [*ids, self.tokenizer.eot]
                # Leave a word for the next sample: a truth of white space teaches nothing.
                latest = min(latest, last_word - 1)
                if latest <= start:
                    latest = len(text) - 1
        if latest <= start:  # nothing but white space so far
            latest = reach
        for ends in (sentence_ends, word_ends):
            if (found := self._last_that_fits(ends, text, start, latest, room)) is not None:
                return found
        ids = self._first_tokens(text[start:latest], room)
        return start + len(self.tokenizer.decode(ids)), ids

    def _last_that_fits(
        self, ends: Callable[[str, int, int], Iterator[int]], text: str, start: int, latest: int, room: int
    ) -> tuple[int, list[int]] | None:
        """The last of `ends` whose text has at most `room` tokens, and these; None if none has."""
        candidates = list(ends(text, start, latest))
        while candidates:
            end = candidates.pop()
            ids = self.tokenizer.encode(text[start:end])
            if len(ids) <= room:
                return end, ids
            fits = start + len(self.tokenizer.decode(ids[:room]))
            while candidates and candidates[-1] > fits:
                candidates.pop()
        return None


def _array(ids: list[int]) -> Ids:
    return np.array(ids, dtype=np.int32)
