"""What every cut of every text must keep. The oracle below is written apart from the code that it judges."""

import re
import time
from itertools import pairwise

import pytest
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st

from lmplay_tui.data.samples import CHARS_PER_TOKEN, Cutter, Item, Sample
from lmplay_tui.data.tokenizer import Tokenizer, load_tokenizer
from tests.data.strategies import PROSE, TEXTS
from tests.examples import examples

TOKENIZERS = st.sampled_from(["bytes", "gpt2:300", "gpt2"])
CONTEXTS = st.sampled_from([8, 9, 16, 32, 64, 200])
PROMPTS = st.one_of(st.just(""), st.text("Title: xé😀\n", max_size=80))


BLANK_LINE = re.compile(r"(?:\r|(?<!\r))\n[^\S\n]*\n")


def cut(tokenizer: Tokenizer, context_len: int, item: Item, start: int = 0) -> list[Sample]:
    return [sample for sample, _ in Cutter(tokenizer, context_len).samples(item, 7, start)]


class Watched(Tokenizer):
    """A tokenizer that notes how many characters it is given each time."""

    def __init__(self, name: str) -> None:
        vars(self).update(vars(load_tokenizer(name)))
        self.asked: list[int] = []

    def encode(self, text: str) -> list[int]:
        self.asked.append(len(text))
        return super().encode(text)


def is_sentence_end(text: str, end: int, start: int = 0) -> bool:
    """Marks after `start`, what closes with them, then white space (or another script's marks); or a blank line."""
    for marks, closers, spaced in ((".!?…", "\"'”’»)]", True), ("。！？｡।؟۔", '"”’」』）》', False)):
        place = end
        while place > start and text[place - 1] in closers:
            place -= 1
        if place > start and text[place - 1] in marks:
            follows = text[end : end + 1]
            goes_on = follows != "" and follows in closers + (marks if place == end else "")  # a run is not cut
            if follows.isspace() if spaced else not goes_on:
                return True
    return BLANK_LINE.match(text, end) is not None


def room_of(sample: Sample, context_len: int) -> int:
    return context_len - len(sample.prompt_ids)


@examples(120)
@given(TOKENIZERS, CONTEXTS, PROMPTS, TEXTS, st.booleans())
def test_nothing_is_lost_and_nothing_is_too_long(
    name: str, context_len: int, prompt: str, text: str, keep_start: bool
) -> None:
    tokenizer = load_tokenizer(name)
    samples = cut(tokenizer, context_len, Item(prompt, text, keep_start))
    assert "".join(sample.truth for sample in samples) == text
    for number, sample in enumerate(samples):
        ids = sample.truth_ids.tolist()
        assert len(sample.prompt_ids) + len(ids) <= context_len
        assert 1 <= len(sample.prompt_ids) <= context_len // 2
        assert len(ids) >= 1
        assert sample.row == 7
        # What is trained is what is shown; the mark closes the text, and nothing but the text.
        last = number == len(samples) - 1
        assert (tokenizer.eot in ids) == last
        assert tokenizer.decode(ids) == sample.truth
        assert ids.count(tokenizer.eot) == (1 if last else 0)
        assert not last or ids[-1] == tokenizer.eot
        assert tokenizer.decode(sample.prompt_ids.tolist()) == sample.prompt
        assert "�" not in sample.truth or "�" in text
        assert "�" not in sample.prompt or "�" in text + prompt


@examples(100)
@given(TOKENIZERS, CONTEXTS, TEXTS)
def test_cuts_are_at_sentence_ends_where_a_sentence_fits(name: str, context_len: int, text: str) -> None:
    """Else at a word's end where a word fits; the estimate bounds both."""
    tokenizer = load_tokenizer(name)
    samples = cut(tokenizer, context_len, Item("", text))
    start = 0
    for sample in samples[:-1]:
        end = start + len(sample.truth)
        room = room_of(sample, context_len)
        estimated = list(re.finditer(r"\S+", text[start:]))[: int(room / 1.5)]
        latest = start + (estimated[-1].end() if estimated else 0)
        last_word = start + max((word.end() for word in re.finditer(r"\S+", text[start:])), default=0)

        def fits(position: int, start: int = start, room: int = room) -> bool:
            return len(tokenizer.encode(text[start:position])) <= room

        def better(position: int, start: int = start, latest: int = latest, last_word: int = last_word) -> bool:
            return bool(text[start:position].strip()) and position <= latest and position < last_word

        if not is_sentence_end(text, end, start) or not better(end):
            ends = [p for p in range(start + 1, len(text)) if is_sentence_end(text, p, start)]
            missed = [p for p in ends if better(p) and fits(p)]
            assert not missed, (text, start, end, missed)
            word_end = not text[end - 1].isspace() and text[end].isspace()
            if not word_end or not better(end):
                words = [w.end() + start for w in re.finditer(r"\S+", text[start:])]
                assert not [p for p in words if better(p) and fits(p)], (text, start, end)
        start = end


@examples(100)
@given(TOKENIZERS, CONTEXTS, PROSE)
@example("bytes", 16, "a... \r\n\r\n。。")
def test_a_cut_takes_the_last_sentence_that_fits(name: str, context_len: int, text: str) -> None:
    """No sentence end between the cut and what the estimate and the count allow was passed over."""
    tokenizer = load_tokenizer(name)
    start = 0
    for sample in cut(tokenizer, context_len, Item("", text))[:-1]:
        end, room = start + len(sample.truth), room_of(sample, context_len)
        words = list(re.finditer(r"\S+", text[start:]))
        latest = min(start + words[: int(room / 1.5)][-1].end(), start + words[-1].end() - 1) if words else start
        passed = [p for p in range(end + 1, latest + 1) if is_sentence_end(text, p, start) and text[end:p].strip()]
        assert not [p for p in passed if len(tokenizer.encode(text[start:p])) <= room], (text, start, end)
        start = end


@examples(120)
@given(TOKENIZERS, CONTEXTS, TEXTS)
def test_what_fits_whole_is_not_cut(name: str, context_len: int, text: str) -> None:
    tokenizer = load_tokenizer(name)
    start = 0
    for sample in cut(tokenizer, context_len, Item("", text)):
        room, rest = room_of(sample, context_len), text[start:]
        if len(rest) <= room * CHARS_PER_TOKEN and len(tokenizer.encode(rest)) < room:
            assert start + len(sample.truth) == len(text)
        start += len(sample.truth)


@examples(120)
@given(TOKENIZERS, CONTEXTS, TEXTS, st.data())
def test_going_on_in_the_middle_is_the_same(name: str, context_len: int, text: str, data: st.DataObject) -> None:
    tokenizer = load_tokenizer(name)
    found = list(Cutter(tokenizer, context_len).samples(Item("Title: x\n", text, True), 0))
    if len(found) < 2:
        return
    number = data.draw(st.integers(1, len(found) - 1))
    again = cut(tokenizer, context_len, Item("Title: x\n", text, True), found[number - 1][1])
    for (sample, _), other in zip(found[number:], again, strict=True):
        assert (sample.prompt, sample.truth) == (other.prompt, other.truth)
        assert sample.prompt_ids.tolist() == other.prompt_ids.tolist()
        assert sample.truth_ids.tolist() == other.truth_ids.tolist()


@examples(100)
@given(TEXTS)
def test_tokens_are_those_of_the_shown_text(text: str) -> None:
    """But where a word was cut, for want of a better place."""
    tokenizer = load_tokenizer("gpt2")
    end = 0
    for sample in cut(tokenizer, 32, Item("", text)):
        end += len(sample.truth)
        ids = [number for number in sample.truth_ids.tolist() if number != tokenizer.eot]
        if end == len(text) or text[end].isspace() or is_sentence_end(text, end):
            assert ids == tokenizer.encode(sample.truth)
        assert tokenizer.decode(ids) == sample.truth


PROSE_TEXT = (
    "The quick brown fox jumps over the lazy dog. It was not amused! Was the dog? Nobody knows. "
    'He said "No." And then he left (in a hurry.) The end came soon, as it must, for all of them…  \n\nA new part. Bye.'
)


def test_prompts_are_as_the_document_draws_them() -> None:
    tokenizer = load_tokenizer("gpt2")
    samples = cut(tokenizer, 40, Item("Title: Foxes\n", PROSE_TEXT, True))
    assert samples[0].prompt == "Title: Foxes\n"
    assert samples[0].truth.startswith("The quick brown fox")
    for before, after in pairwise(samples):
        assert after.prompt.startswith("...")
        assert before.truth.endswith(after.prompt[3:])
        assert is_sentence_end(PROSE_TEXT, PROSE_TEXT.index(after.prompt[3:]) + len(after.prompt[3:]))
    assert [sample.prompt for sample in samples[1:]] == ['...He said "No."']


def test_white_space_between_two_cuts_opens_the_second() -> None:
    samples = cut(load_tokenizer("gpt2"), 12, Item("", "One two three four. Five six seven eight. Nine ten eleven."))
    assert samples[0].truth.endswith("four.")
    assert samples[1].truth.startswith(" Five")


def test_an_empty_prompt_is_the_end_of_text_mark() -> None:
    tokenizer = load_tokenizer("bytes")
    (sample,) = cut(tokenizer, 16, Item("", "ab"))
    assert (sample.prompt, sample.prompt_ids.tolist()) == ("", [tokenizer.eot])
    assert sample.truth_ids.tolist() == [97, 98, tokenizer.eot]
    assert sample.truth_ids.dtype == sample.prompt_ids.dtype == "int32"


def test_a_title_loses_its_end_and_a_sentence_its_start() -> None:
    tokenizer = load_tokenizer("bytes")
    title = "Title: " + "abcdefghij" * 10 + "\n"
    text = "x" * 100 + "yz. And so on it went for a long while."
    samples = cut(tokenizer, 40, Item(title, text, keep_start=True))
    assert samples[0].prompt == title[:19] + "\n"
    assert len(samples[0].prompt_ids) == 20
    after = next(s for s in samples if s.truth.lstrip().startswith("And"))
    assert after.prompt == "..." + "x" * 14 + "yz."
    long_question = cut(tokenizer, 40, Item("q" * 100 + " really?", "Yes."))[0]
    assert long_question.prompt == "q" * 12 + " really?"


def test_a_turn_sees_what_was_said_before_it_alone() -> None:
    tokenizer = load_tokenizer("bytes")
    conversation = "Hi\nHello.\nHow?\nWell.\n"
    (sample,) = cut(tokenizer, 64, Item(conversation, "Hello.", prompt_end=3))
    assert (sample.prompt, sample.truth) == ("Hi\n", "Hello.")
    (sample,) = cut(tokenizer, 64, Item(conversation, "Hi", prompt_end=0))
    assert sample.prompt_ids.tolist() == [tokenizer.eot]
    (sample,) = cut(tokenizer, 20, Item("x" * 500 + conversation, "Well.", prompt_end=515))
    assert sample.prompt == "llo.\nHow?\n"


def test_the_exact_count_has_the_last_word() -> None:
    """A cut inside what the tokenizer takes as one word may cost more tokens than the piece that held it."""
    mark = "。".encode()
    merges = [mark[2:] + b"b", mark[1:] + b"b", mark + b"b", b"a" + mark + b"b", b"aa" + mark + b"b"]
    ranks = {bytes([b]): b for b in range(256)} | {token: 256 + n for n, token in enumerate(merges)}
    encoding = tiktoken.Encoding("x", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={"<|e|>": 300})
    tokenizer = Tokenizer("x", encoding, [*ranks, *([b""] * 40)], eot=300)
    text = "aa。b" * 40
    assert len(tokenizer.encode(text)) == 40
    samples = cut(tokenizer, 16, Item("", text))
    assert "".join(sample.truth for sample in samples) == text
    assert all(len(sample.prompt_ids) + len(sample.truth_ids) <= 16 for sample in samples)
    assert all(sample.truth.endswith("。") for sample in samples[:-1])


def test_a_prompt_without_room_for_its_only_character() -> None:
    tokenizer = load_tokenizer("bytes")
    for keep_start in (True, False):
        (sample,) = cut(tokenizer, 8, Item("😀", "X.", keep_start))
        assert (sample.prompt, sample.prompt_ids.tolist()) == ("", [tokenizer.eot])


def test_the_smallest_context_holds_the_longest_character() -> None:
    samples = cut(load_tokenizer("bytes"), 8, Item("", "a. 😀😀"))
    assert "".join(sample.truth for sample in samples) == "a. 😀😀"


def test_half_a_character_is_never_shown() -> None:
    tokenizer = load_tokenizer("bytes")
    for context_len in range(8, 40):
        samples = cut(tokenizer, context_len, Item("Title: " + "é😀中" * 20 + "\n", "é中😀" * 30, keep_start=True))
        assert "�" not in "".join(s.prompt + s.truth for s in samples)


@pytest.mark.parametrize("name", ["bytes", "gpt2"])
@pytest.mark.parametrize("piece", ["a", "é", "😀", "中", " ", "\n", "\r\n", ".", '."', "a.", "\0", "。", "a b. "])
def test_endless_texts_take_time_in_proportion(name: str, piece: str) -> None:
    """Of an endless text never more than a bounded prefix is encoded for a sample, whatever it holds."""
    tokenizer = Watched(name)
    text = piece * (6000 // len(piece))
    samples = cut(tokenizer, 32, Item("", text))
    assert "".join(sample.truth for sample in samples) == text
    assert max(tokenizer.asked) <= 32 * 16
    assert len(samples) <= len(text.encode()) / 8 + 1


@pytest.mark.parametrize("piece", [".", "a", '"', " ", "\n", "。", ". "])
def test_no_text_makes_the_search_for_ends_slow(piece: str) -> None:
    """Milliseconds each; a search that begins again at every character takes seconds."""
    began = time.process_time()
    for number, _ in enumerate(Cutter(load_tokenizer("gpt2"), 1024).samples(Item("", piece * 200_000), 0)):
        if number == 4:
            break
    assert time.process_time() - began < 0.9


def test_a_very_long_text_is_not_read_to_its_end_for_a_sample() -> None:
    tokenizer = Watched("gpt2")
    text = PROSE_TEXT * 200
    samples = cut(tokenizer, 64, Item("", text))
    assert "".join(sample.truth for sample in samples) == text
    assert sum(tokenizer.asked) < 3 * len(text)
