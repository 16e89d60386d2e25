"""The alignment on screen: every word once, in order, and as many edits as the accuracy counts."""

import editdistance
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.run.events import Prediction
from lmplay_tui.ui.widgets.lines import Piece
from lmplay_tui.ui.widgets.predictions import AlignedPiece, align, align_characters, calm, num_edits

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


@pytest.mark.parametrize(
    ("words", "characters", "is_calm"),
    [(0.1, None, True), (0.5, None, False), (None, 0.1, True), (None, 0.5, False), (None, None, False)],
)
def test_what_is_wrong_has_no_colour_of_its_own_while_most_is(
    words: float | None, characters: float | None, is_calm: bool
) -> None:
    made = Prediction("validation", "p", "t", "s", words, 1.0, character_accuracy=characters)
    loud: list[Piece] = [("≠a ", "wrong"), ("+b ", "extra"), ("−c ", "missing"), ("d", "p0")]
    quiet: list[Piece] = [("e ", "good"), ("f", "p4")]
    assert calm(loud + quiet, made) == [(text, f"{style} dim" if is_calm else style) for text, style in loud] + quiet


def test_by_characters_each_stands_whole_with_its_marks() -> None:
    assert align_characters("村里的 人", "村里 的船") == [
        AlignedPiece("equal", ("村", "里"), ("村", "里")),
        AlignedPiece("insert", (), (" ",)),
        AlignedPiece("equal", ("的",), ("的",)),
        AlignedPiece("replace", (" ",), ("船",)),
        AlignedPiece("delete", ("人",), ()),
    ]
    assert align_characters("ที", "ที่") == [AlignedPiece("replace", ("ที",), ("ที่",))]
