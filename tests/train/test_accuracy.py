"""Word accuracy is 1 - word error rate, by either library."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.train.evaluation import fast_word_accuracy, word_accuracy

few_words = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "a.", "é", "日本", "-1", "0"]), max_size=14)
sentences = few_words.map(" ".join) | st.text(max_size=60)


def edit_distance(a: list[str], b: list[str]) -> int:
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
