"""The alignment on screen: every word once, in order, and as many edits as the accuracy counts."""

import editdistance
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.ui.widgets.predictions import AlignedPiece, align, num_edits

few_words = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "a.", "é", "日本", "-1"]), max_size=14)
sentences = few_words.map(" ".join) | st.text(max_size=60)


@given(prediction=sentences, truth=sentences)
def test_edits_are_the_distance_that_accuracy_counts(prediction: str, truth: str) -> None:
    pieces = align(prediction, truth)
    assert num_edits(pieces) == editdistance.eval(prediction.split(), truth.split())


@given(prediction=sentences, truth=sentences)
def test_every_word_is_in_one_piece_in_order(prediction: str, truth: str) -> None:
    pieces = align(prediction, truth)
    assert [word for piece in pieces for word in piece.prediction_words] == prediction.split()
    assert [word for piece in pieces for word in piece.truth_words] == truth.split()


@given(prediction=sentences, truth=sentences)
def test_a_pieces_name_is_what_it_holds(prediction: str, truth: str) -> None:
    for piece in align(prediction, truth):
        ours, theirs = piece.prediction_words, piece.truth_words
        assert {
            "equal": ours == theirs and bool(ours),
            "replace": len(ours) == len(theirs) > 0 and all(a != b for a, b in zip(ours, theirs, strict=True)),
            "insert": not ours and bool(theirs),
            "delete": bool(ours) and not theirs,
        }[piece.op]


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        ("", "", []),
        ("the cat", "the cat", [AlignedPiece("equal", ("the", "cat"), ("the", "cat"))]),
        ("the dog sat", "the cat sat", [
            AlignedPiece("equal", ("the",), ("the",)), AlignedPiece("replace", ("dog",), ("cat",)),
            AlignedPiece("equal", ("sat",), ("sat",)),
        ]),
        ("the sat", "the cat sat", [
            AlignedPiece("equal", ("the",), ("the",)), AlignedPiece("insert", (), ("cat",)),
            AlignedPiece("equal", ("sat",), ("sat",)),
        ]),
        ("so the cat", "the cat", [
            AlignedPiece("delete", ("so",), ()), AlignedPiece("equal", ("the", "cat"), ("the", "cat")),
        ]),
    ],
)  # fmt: skip
def test_examples(prediction: str, truth: str, expected: list[AlignedPiece]) -> None:
    assert align(prediction, truth) == expected
