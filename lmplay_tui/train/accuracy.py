"""How much of a truth was predicted: by words, or by characters where words cannot be told by the spaces."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import editdistance
from rapidfuzz.distance import Levenshtein

from lmplay_tui.scripts import is_unspaced


class Accuracy(NamedTuple):
    """Of one truth or of several, 0 to 1; None where none is measured so."""

    words: float | None = None
    characters: float | None = None


def accuracy_of(prediction: str, truth: str) -> Accuracy:
    """By words, or by characters where the truth is written without spaces. For validation and evaluation."""
    return _measured(prediction, truth, word_accuracy)


def fast_accuracy_of(prediction: str, truth: str) -> Accuracy:
    """The same numbers for training, where every batch is scored."""
    return _measured(prediction, truth, fast_word_accuracy)


def mean_accuracy(accuracies: Iterable[Accuracy]) -> Accuracy:
    """Means over truths: each measure's over those that are measured so."""
    known = list(accuracies)
    return Accuracy(
        _mean([each.words for each in known if each.words is not None]),
        _mean([each.characters for each in known if each.characters is not None]),
    )


def word_accuracy(prediction: str, truth: str) -> float | None:
    """1 - word error rate, at least 0; None if the truth has no words. For validation and evaluation.

    Word error rate: edit distance over the two lists of words (insertions, deletions, substitutions), divided by the
    number of the truth's words (Morris et al. 2004).
    """
    words = truth.split()
    return _accuracy(editdistance.eval(prediction.split(), words), len(words))


def fast_word_accuracy(prediction: str, truth: str) -> float | None:
    """The same number by a library that is twice as fast. For training, where every batch is scored."""
    words = truth.split()
    return _accuracy(Levenshtein.distance(prediction.split(), words), len(words))


def character_accuracy(prediction: str, truth: str) -> float | None:
    """1 - character error rate, at least 0; None if the truth has no words.

    A character is a Unicode code point, so that the figure depends on no version of Unicode's tables; white space of
    any length counts as one space, and none at the ends.
    """
    characters = " ".join(truth.split())
    return _accuracy(Levenshtein.distance(" ".join(prediction.split()), characters), len(characters))


def _measured(prediction: str, truth: str, by_words: Callable[[str, str], float | None]) -> Accuracy:
    if is_unspaced(truth):
        return Accuracy(characters=character_accuracy(prediction, truth))
    return Accuracy(words=by_words(prediction, truth))


def _accuracy(distance: int, length: int) -> float | None:
    return max(0.0, 1.0 - distance / length) if length else None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
