"""What the model made of samples: where its words differ from the truth, and how surely it expected each token.

`align` compares word by word with as many edits as the accuracy counts. A truth that is measured by characters is
compared by whole ones, each with its marks and joiners.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, cast

from rich.cells import split_graphemes
from textual import events
from textual.actions import SkipAction
from textual.binding import Binding, BindingType

from lmplay_tui.formats import format_percent
from lmplay_tui.run.controls import Pin
from lmplay_tui.run.events import Prediction
from lmplay_tui.run.view import PredictionSeen, RunView
from lmplay_tui.text import one_line, printable
from lmplay_tui.ui.legend import SHADES, WORDS
from lmplay_tui.ui.messages import CommandAsked, KeysChanged
from lmplay_tui.ui.tty.patches import set_titles
from lmplay_tui.ui.widgets.lines import Lines, Piece, Row, fitted, labelled, right, row_width, spread

Op = Literal["equal", "replace", "insert", "delete"]


class AlignedPiece(NamedTuple):
    """A run of words (or characters) with one fate on the way from the prediction to the truth.

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


def align(prediction: str, truth: str) -> list[AlignedPiece]:
    """The fewest edits that make the prediction's words the truth's, in order; every word of both is in one piece."""
    return _aligned(prediction.split(), truth.split())


def align_characters(prediction: str, truth: str) -> list[AlignedPiece]:
    """The same by whole characters; white space of any length is one space, and none at the ends."""
    return _aligned(_characters(prediction), _characters(truth))


def _characters(text: str) -> list[str]:
    text = " ".join(text.split())
    return [text[begin:end] for begin, end, _ in split_graphemes(text)[0]]


def _aligned(predicted: list[str], true: list[str]) -> list[AlignedPiece]:
    from rapidfuzz.distance import Levenshtein  # not before a first frame, in which nothing is compared

    return [
        AlignedPiece(cast(Op, step.tag), tuple(predicted[step.src_start : step.src_end]),
              tuple(true[step.dest_start : step.dest_end]))
        for step in Levenshtein.opcodes(predicted, true)
    ]  # fmt: skip


def num_edits(pieces: Sequence[AlignedPiece]) -> int:
    """The edit distance that word accuracy is made of: insertions, deletions and replacements, a word each."""
    return sum(piece.num_edits for piece in pieces)


KINDS = ("all", "validation", "pinned", "asked")
LEAST_LISTED = 4  # predictions: for fewer the space below one is left free
MAX_SHOWN = 4000  # characters of a text
_FIRST = {  # what makes the first prediction of a kind
    "all": "the first validation makes one", "validation": "the first validation makes one",
    "pinned": "i pins the prompt of a prediction; each evaluation answers it", "asked": "g asks the model",
}  # fmt: skip
# an edit's sign and style
_MARKED = {op: (sign.removesuffix("word"), style) for op, (sign, style, _) in WORDS.items()}
CALM_BELOW = 0.25  # accuracy
_LOUD = ("wrong", "extra", "missing", "p0", "p1")
_SPOKEN = {"validation": "model", "pinned": "says", "asked": "says"}


def shown(text: object) -> str:
    """Foreign text in one paragraph: line ends are signs."""
    return printable(text, MAX_SHOWN).replace("\n", "↵ ")


def shade(probability: float) -> str:
    """The style of a truth token that the model expected so surely."""
    return f"p{sum(probability >= bound for bound in SHADES)}"


def calm(pieces: Sequence[Piece], made: Prediction) -> list[Piece]:
    """What is wrong or hardly expected without its colour where that is most of it: the signs and lines stay.

    Early in a run all is wrong, and the eye shall find the loss first.
    """
    accuracy = made.accuracy if made.character_accuracy is None else made.character_accuracy
    if accuracy is None or accuracy >= CALM_BELOW:
        return list(pieces)
    return [(text, f"{style} dim" if style in _LOUD else style) for text, style in pieces]


def whole_characters(tokens: Sequence[object]) -> list[range]:
    """The tokens that are shown together: those of one character, with the marks and joiners that belong to it.

    The journal keeps a character's text with its first token, and none with the others.
    """
    texts = [shown(token) for token in tokens]
    begins = {start for start, _, _ in split_graphemes("".join(texts))[0]}
    groups: list[range] = []
    place = 0
    for i, text in enumerate(texts):
        if groups and (not text or place not in begins):
            groups[-1] = range(groups[-1].start, i + 1)
        else:
            groups.append(range(i, i + 1))
        place += len(text)
    return groups


def alignment_pieces(prediction: str, truth: str) -> list[Piece]:
    """The prediction's words with what is wrong marked: `≠wrong`, `+too many`, `−lacking`."""
    pieces: list[Piece] = []
    for op, predicted, true in align(prediction, truth):
        sign, style = _MARKED[op]
        pieces += [(f"{sign}{word} ", style) for word in (true if op == "insert" else predicted)]
    return pieces


def character_pieces(prediction: str, truth: str) -> list[Piece]:
    """The same by characters: each run of them that is wrong stands between spaces."""
    pieces: list[Piece] = []
    for op, predicted, true in align_characters(prediction, truth):
        run = "".join(true if op == "insert" else predicted)
        pieces.append((run, "good") if op == "equal" else (f" {_MARKED[op][0]}{run} ", _MARKED[op][1]))
    return pieces


def listed_rows(listed: Sequence[PredictionSeen], index: int, height: int, width: int) -> list[Row]:
    """The predictions around the one looked at, a row each below a row of titles: how they have become better."""
    first = max(min(index - height // 2, len(listed) - height + 1), 0)
    rows: list[Row] = [((fitted("     step  accuracy    loss  kind        prompt", width), "label"),)]
    for i, seen in enumerate(listed[first : first + height - 1], start=first):
        here, made = i == index, seen.prediction
        prompt = fitted(one_line(made.prompt, 300), max(width - 42, 0))
        rows.append(
            (
                (" ▸ " if here else "   ", "accent"),
                (right(f"{seen.step:,}", 6), "strong" if here else ""),
                (right(_listed_accuracy(made), 10), ""),
                (right(_score(made.loss), 8), "val"),
                (f"  {fitted(one_line(made.kind), 12)}", "dim"),
                (prompt, "" if here else "dim"),
            )
        )
    return rows


def _listed_accuracy(made: Prediction) -> str:
    if made.character_accuracy is None:
        return _score(made.accuracy)
    return f"char {_score(made.character_accuracy)}"


def _score(score: float | None) -> str:
    return f"{score:.2f}" if score is not None and math.isfinite(score) else "–"


class Predictions(Lines):
    """One prediction at a time, the newest until the user goes back."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "sideways(-1)", "step", key_display="←→", tooltip="the prediction before"),
        Binding("right", "sideways(1)", "later", show=False, tooltip="the next prediction"),
        Binding("up", "kind(1)", "kind", key_display="↑↓", tooltip="all, validation, pinned, asked"),
        Binding("down", "kind(-1)", "kind", show=False, tooltip="asked, pinned, validation, all"),
        Binding(
            "left_square_bracket",
            "same_prompt(-1)",
            "same prompt",
            key_display="[ ]",
            tooltip="the same prompt earlier",
        ),
        Binding(
            "right_square_bracket", "same_prompt(1)", "same prompt later", show=False, tooltip="the same prompt later"
        ),
        Binding("enter", "cursor", "tokens", tooltip="cursor: the likeliest tokens"),
        Binding("i", "pin", "pin", tooltip="pin: answer it at each evaluation"),
        Binding("home", "edge(0)", "first", show=False, tooltip="the first prediction"),
        Binding("end", "edge(-1)", "newest", show=False, tooltip="the newest prediction"),
        Binding("escape", "leave_cursor", "back", show=False, tooltip="put the cursor away"),
    ]

    def __init__(self) -> None:
        super().__init__(id="predictions", classes="pane")
        set_titles(self, "3 predictions")
        self._view: RunView | None = None
        self._kind = "all"
        self._number: int | None = None  # of the prediction looked at; None: the newest
        self._token: int | None = None
        self._shown: tuple[object, ...] = ()

    # ---- data

    def show(self, view: RunView) -> None:
        self._view = view
        state = (
            view,
            view.predictions_count,
            self._kind,
            self._number,
            self._token,
            self.size,
            tuple(view.pinned),
        )
        if state != self._shown:
            self._shown = state
            self._redraw(view)

    def on_resize(self) -> None:
        if self._view is not None:
            self.show(self._view)

    def _listed(self, view: RunView) -> list[PredictionSeen]:
        return [seen for seen in view.predictions if self._kind in ("all", seen.prediction.kind)]

    def _index(self, listed: Sequence[PredictionSeen]) -> int:
        """Of the one looked at; where it was thinned away, of the next."""
        if self._number is None:
            return len(listed) - 1
        return min(sum(seen.number < self._number for seen in listed), len(listed) - 1)

    def _redraw(self, view: RunView) -> None:
        listed = self._listed(view)
        kind = "" if self._kind == "all" else f"{self._kind} only · "
        if not listed:
            set_titles(self, subtitle=kind.rstrip("· "))
            self.show_rows([((f" none yet: {_FIRST[self._kind]}", "dim"),)])
            return
        index = self._index(listed)
        place = f"{index + 1}/{len(listed)}" if self._number is not None else f"newest of {len(listed)}"
        set_titles(self, subtitle=kind + place)
        rows = self._laid_out(view, listed[index])
        room = self.size.height - len(rows) - 1
        if room >= LEAST_LISTED + 1:
            rows += [(), *listed_rows(listed, index, room, self.room.width)]
        self.show_rows(rows)

    # ---- drawing

    def _laid_out(self, view: RunView, seen: PredictionSeen) -> list[Row]:
        width = self.room.width
        made = seen.prediction
        kind, prompt, truth = one_line(made.kind, 20), made.prompt, made.truth
        pinned = "pinned " if prompt in view.pinned else ""
        head: list[Piece] = [
            (" step ", "dim"),
            (f"{seen.step:,}", "strong"),
            (f"  {seen.stage}  {pinned}{kind}  ", "dim"),
        ]
        scores = self._scores(made)
        if row_width(head) + row_width(scores) <= width:
            rows: list[Row] = [spread(head, scores, width), ()]
        else:
            rows = [tuple(head), ((" ", ""), *scores)]
        if self._token is not None and truth:  # what the cursor is about comes first
            pieces = self._truth(made)  # puts the cursor on a token that there is
            rows += [*self._top_five(made, width), (), *labelled("truth", pieces, width), ()]
        rows += labelled("prompt", [(shown(prompt), "dim")], width)
        if truth and self._token is None:
            rows += labelled("truth", calm(self._truth(made), made), width)
            compared = alignment_pieces if made.character_accuracy is None else character_pieces
            pieces = calm(compared(shown(made.prediction), shown(truth)), made)
            rows += labelled(_SPOKEN.get(kind, "says"), pieces, width)
        elif not truth:
            rows += labelled(_SPOKEN.get(kind, "says"), [(shown(made.prediction), "")], width)
        return rows

    @staticmethod
    def _scores(made: Prediction) -> list[Piece]:
        pieces: list[Piece] = []
        if made.accuracy is not None:
            pieces += [("accuracy ", "dim"), (f"{made.accuracy:.2f} ", "strong")]
        if made.character_accuracy is not None:
            pieces += [("character accuracy ", "dim"), (f"{made.character_accuracy:.2f} ", "strong")]
        if made.loss is not None:
            pieces += [(" loss ", "dim"), (f"{made.loss:.2f} ", "strong")]
        return pieces

    def _truth(self, made: Prediction) -> list[Piece]:
        """The truth's tokens, shaded by probability; the plain text where there are none.

        Tokens that share a character are one piece, as sure as the least of them.
        """
        tokens, chances = made.truth_tokens, made.truth_p
        if not tokens or len(tokens) != len(chances):
            return [(shown(made.truth), "")]
        if self._token is None and "\ufffd" in "".join(tokens) and "\ufffd" not in made.truth:
            return [(shown(made.truth), "")]  # a journal of before: its tokens have lost what lay in several of them
        if self._token is not None:
            self._token = min(max(self._token, 0), len(tokens) - 1)
        pieces = []
        for group in whole_characters(tokens):
            style = shade(min(chances[i] for i in group))
            text = shown("".join(tokens[i] for i in group))
            pieces.append((text, f"{style} cursor" if self._token in group else style))
        return pieces

    def _top_five(self, made: Prediction, width: int) -> list[Row]:
        tokens, chances, tops = made.truth_tokens, made.truth_p, made.top5
        if self._token is None or self._token >= min(len(tops), len(tokens)):
            return [((" token probabilities are kept for the newest predictions only", "dim"),)]
        group = next(group for group in whole_characters(tokens) if self._token in group)
        own, chance = tokens[self._token], chances[self._token]
        part = ((f" token {self._token - group.start + 1} of {len(group)} ", "dim"),) if len(group) > 1 else ()
        rows: list[Row] = [
            (
                (" true ", "label"),
                (f"'{shown(''.join(tokens[i] for i in group))}'", "strong"),
                *part,
                (f" {format_percent(chance, 1)}", ""),
            )
        ]
        for text, share in tops[self._token][:5]:
            # A token that is part of a character only is known by its probability.
            same = text == own or (len(group) > 1 and share == chance)
            cells = max(round(share * min(width - 30, 30)), 0)
            rows.append(
                (
                    (" ✓ " if same else "   ", "good"),
                    (f"{format_percent(share, 1):>7} ", "strong" if same else "dim"),
                    ("█" * cells + " ", "done"),
                    (f"'{shown(text)}'", "good" if same else ""),
                )
            )
        return rows

    # ---- keys

    def keys_now(self) -> Mapping[str, str]:
        if self._token is None:
            return {"leave_cursor": ""}
        return {"sideways(-1)": "token", "cursor": "no cursor", "leave_cursor": "back"}

    def _looked_at(self) -> tuple[list[PredictionSeen], int]:
        listed = self._listed(self._view) if self._view is not None else []
        return listed, self._index(listed)

    def _look_at(self, listed: Sequence[PredictionSeen], index: int) -> None:
        index = min(max(index, 0), len(listed) - 1)
        self._number = None if index >= len(listed) - 1 else listed[index].number
        self._update()

    def _update(self) -> None:
        if self._view is not None:
            self.show(self._view)

    def action_sideways(self, by: int) -> None:
        listed, index = self._looked_at()
        if not listed:
            return
        if self._token is not None:
            self._token = max(self._token + by, 0)
            self._update()
        else:
            self._look_at(listed, index + by)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """To the prediction before, in the list too; where the pane has more rows than room they are scrolled."""
        self._wheel(event, -1)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._wheel(event, 1)

    def _wheel(self, event: events.MouseEvent, by: int) -> None:
        if not self.max_scroll_y:
            event.stop()
            event.prevent_default()
            self.action_sideways(by)

    def action_edge(self, index: int) -> None:
        listed, _ = self._looked_at()
        if listed:
            self._look_at(listed, index % len(listed))

    def action_kind(self, by: int) -> None:
        self.choose_kind(KINDS[(KINDS.index(self._kind) + by) % len(KINDS)])

    def choose_kind(self, kind: str) -> None:
        """Show predictions of one kind only, the newest first."""
        self._kind, self._number, self._token = kind, None, None
        self._update()

    def action_same_prompt(self, by: int) -> None:
        """Go to where the same prompt was answered before or after."""
        listed, index = self._looked_at()
        if not listed:
            return
        prompt = listed[index].prediction.prompt
        step = index + by
        while 0 <= step < len(listed):
            if listed[step].prediction.prompt == prompt:
                self._look_at(listed, step)
                return
            step += by

    def action_cursor(self) -> None:
        """A cursor over the truth's tokens, with the five likeliest; again: away."""
        listed, index = self._looked_at()
        if not listed:
            return
        if self._token is None:
            self._token = 0
            self._number = listed[index].number  # it shall not change under the cursor
        else:
            self._token = None
        self._update()
        self.post_message(KeysChanged())

    def action_leave_cursor(self) -> None:
        if self._token is None:
            raise SkipAction  # the screen's own way back
        self._token = None
        self._update()
        self.post_message(KeysChanged())

    def action_pin(self) -> None:
        """Answer this prompt at each evaluation from now on, or no longer."""
        listed, index = self._looked_at()
        if listed:
            self.post_message(CommandAsked(Pin(listed[index].prediction.prompt)))
