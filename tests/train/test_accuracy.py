"""Word accuracy is 1 - word error rate, by either library. Of a text without spaces it is by characters."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.scripts import is_unspaced
from lmplay_tui.train.accuracy import (
    Accuracy,
    accuracy_of,
    character_accuracy,
    fast_accuracy_of,
    fast_word_accuracy,
    mean_accuracy,
    word_accuracy,
)

few_words = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "a.", "é", "日本", "-1", "0"]), max_size=14)
sentences = few_words.map(" ".join) | st.text(max_size=60)


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """The textbook's table (Wagner & Fischer 1974)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


@given(prediction=sentences, truth=sentences)
def test_both_libraries_give_the_textbooks_number(prediction: str, truth: str) -> None:
    words = truth.split()
    expected = max(0.0, 1 - edit_distance(prediction.split(), words) / len(words)) if words else None
    assert word_accuracy(prediction, truth) == expected
    assert fast_word_accuracy(prediction, truth) == expected


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("  the\tcat\n sat ", "the cat sat", 1.0),
        ("the dog sat", "the cat sat", 2 / 3),
        ("cat sat", "the cat sat", 2 / 3),
        ("the big cat sat", "the cat sat", 2 / 3),
        ("", "the cat sat", 0.0),
        ("a b c d e f g", "the cat", 0.0),
        ("The", "the", 0.0),
        ("word", "", None),
        ("", " \n ", None),
    ],
)
def test_examples(prediction: str, truth: str, expected: float | None) -> None:
    for accuracy in (word_accuracy, fast_word_accuracy):
        assert accuracy(prediction, truth) == (None if expected is None else pytest.approx(expected))


CHINESE = "村里的老船夫昨天修好了木船。"
THAI = "ที่นี่ไม่มีใครอยู่ในบ้านเลย"
without_spaces = st.text(st.sampled_from("村里的老船夫。、ที่นี่ไม่มี"), min_size=1, max_size=30)


@given(prediction=without_spaces | sentences, truth=without_spaces)
def test_without_spaces_it_is_the_textbooks_number_of_characters(prediction: str, truth: str) -> None:
    said, characters = " ".join(prediction.split()), " ".join(truth.split())
    expected = max(0.0, 1 - edit_distance(said, characters) / len(characters))
    assert accuracy_of(prediction, truth) == fast_accuracy_of(prediction, truth) == Accuracy(None, expected)


@given(prediction=sentences | without_spaces, truth=few_words.map(" ".join))
def test_with_spaces_it_is_the_word_accuracy_of_before(prediction: str, truth: str) -> None:
    truth = truth.replace("日本", "Japan")
    assert accuracy_of(prediction, truth) == Accuracy(word_accuracy(prediction, truth), None)
    assert fast_accuracy_of(prediction, truth) == Accuracy(fast_word_accuracy(prediction, truth), None)


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        (CHINESE, CHINESE, 1.0),
        ("村里的人", "村里的船", 3 / 4),
        ("村里船", "村里的船", 3 / 4),
        ("", CHINESE, 0.0),
        ("村 里\n\n的", "村 里 的", 1.0),
        ("whatever", " ", None),
    ],
)
def test_examples_by_characters(prediction: str, truth: str, expected: float | None) -> None:
    assert character_accuracy(prediction, truth) == expected


@pytest.mark.parametrize(
    ("text", "unspaced"),
    [
        ("The mill stood by the river.", False),
        ("Donaudampfschifffahrtsgesellschaft", False),
        ("أصلح الملاح العجوز القارب الخشبي أمس.", False),
        ("שלום לכולם", False),
        ("사람들이 강가에 앉아 있다", False),
        ("", False),
        (" \n", False),
        ("👍 ❤️", False),
        (CHINESE, True),
        ("是的", True),
        ("彼女は市場へ行った。", True),
        ("ストーリー", True),
        (THAI, True),
        ("ที่นี่ ไม่มี ใคร", True),
        ("ນີ້ແມ່ນ ເຮືອນ", True),
        ("ទីនេះ គ្មាន នរណា", True),
        ("ဒီမှာ ဘယ်သူမှ မရှိဘူး", True),
        ("ACGT" * 20, True),  # no writing of any language, and no words either
        ("0 1 0 0 " + "1" * 41, True),
        # of two kinds: what more than half of the characters are
        ("The word 船 means a boat.", False),
        ("「boat」とは船のことです。", True),
        ("ab 船夫", False),
        ("a 船夫", True),
    ],
)
def test_the_text_itself_says_whether_words_can_be_told(text: str, unspaced: bool) -> None:
    assert is_unspaced(text) is unspaced
    assert (fast_accuracy_of(text, text) == Accuracy(characters=1.0)) is unspaced


def test_of_several_truths_each_measure_has_a_mean_of_its_own() -> None:
    told = [Accuracy(words=0.5), Accuracy(characters=0.2), Accuracy(), Accuracy(words=1.0), Accuracy(characters=0.4)]
    mean = mean_accuracy(told)
    assert mean.words == 0.75
    assert mean.characters == pytest.approx(0.3)
    assert mean_accuracy([Accuracy()]) == Accuracy()
