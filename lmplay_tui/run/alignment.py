"""How a prediction's words lie beside the truth's: what the screen colours, and what word accuracy counts."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

Op = Literal["equal", "replace", "insert", "delete"]


class Piece(NamedTuple):
    """A run of words with one fate on the way from the prediction to the truth.

    equal: the same words. replace: wrong words, as many as in the truth. insert: the prediction lacks the truth's
    words. delete: the prediction has words that the truth has not.
    """

    op: Op
    prediction_words: tuple[str, ...]
    truth_words: tuple[str, ...]

    @property
    def num_edits(self) -> int:
        """Edit operations of this run."""
        return 0 if self.op == "equal" else max(len(self.prediction_words), len(self.truth_words))


def align(prediction: str, truth: str) -> list[Piece]:
    """The fewest edits that make the prediction's words the truth's, in order; every word of both is in one piece."""
    from rapidfuzz.distance import Levenshtein  # not before a first frame, in which nothing is compared

    predicted, true = prediction.split(), truth.split()
    return [
        Piece(cast(Op, step.tag), tuple(predicted[step.src_start : step.src_end]),
              tuple(true[step.dest_start : step.dest_end]))
        for step in Levenshtein.opcodes(predicted, true)
    ]  # fmt: skip


def num_edits(pieces: Sequence[Piece]) -> int:
    """The edit distance that word accuracy is made of: insertions, deletions and replacements, a word each."""
    return sum(piece.num_edits for piece in pieces)
