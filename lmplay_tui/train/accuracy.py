"""Word accuracy: the share of a truth's words that a prediction has right."""

import editdistance
from rapidfuzz.distance import Levenshtein


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


def _accuracy(distance: int, num_words: int) -> float | None:
    return max(0.0, 1.0 - distance / num_words) if num_words else None
