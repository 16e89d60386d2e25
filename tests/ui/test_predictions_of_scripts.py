"""The truth in the predictions pane: whole characters of every script, however many tokens they are made of."""

import dataclasses
from unicodedata import normalize

import pytest
from pyte.screens import Char
from rich.cells import cell_len, split_graphemes

from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.run import events as happened
from lmplay_tui.ui.widgets.lines import changed_spans, flow
from lmplay_tui.ui.widgets.predictions import Predictions, shade, whole_characters
from tests.faults.terminals import until
from tests.ui.conftest import Open, in_terminal, text_of, tick
from tests.ui.fake import fed, prediction
from tests.ui.terminal_screen import ScreenTerminal

MARKS = "\u200d\ufe0f\u0301\u064e\u0e35\u0e48\u094d\u093f🏽"
FAMILY = "👨‍👩‍👧"
SCRIPTS = {
    "chinese": "村里的老船夫昨天修好了木船。", "arabic": "سَلَام عليكم", "thai": "ที่นี่ ไม่มี",
    "joined": f"a {FAMILY} b 👍🏽 ❤️",
    "marks": "e\u0301te\u0301", "indic": "क्षि",
}  # fmt: skip
LONG = {  # of no width that a row of a pane could hold
    "chinese": "村里的老船夫昨天修好了木船，孩子们在河边数着石头，然后回家吃饭。老师把「铁钥匙」放在桌子上。" * 4,
    "arabic": "أَصلح الملاح العجوز القارب الخشبي أمس. هل رأيتَ المفتاح الحديدي؟ عاد الأطفال إلى البيت. " * 4,
    "hebrew": "הַמַּלָּח הַזָּקֵן תִּקֵּן אֶת הַסִּירָה אֶתְמוֹל וְהַיְלָדִים חָזְרוּ הַבַּיְתָה. " * 4,
    "thai": "ที่นี่ไม่มีใครอยู่ในบ้านเลยเด็กเด็กนับก้อนหินอยู่ริมแม่น้ำแล้วกลับบ้านไปกินข้าว" * 4,
    "emoji": f"{FAMILY} went 👍🏽 home 🇩🇪🇫🇷 with ❤️ and 🦊🦊 " * 8,
    "english": "The internationalisation of a straightforward characterisation notwithstanding, she went home. " * 4,
}


def predicted(truth: str, tokenizer: str, low: int | None = None) -> happened.Prediction:
    """The truth in a tokenizer's tokens, all sure but one."""
    known = load_tokenizer(tokenizer)
    ids = known.encode(truth)
    chances = tuple(0.001 if i == low else 0.9 for i in range(len(ids)))
    tops = tuple(((text, p), ("x", 0.05)) for text, p in zip(known.token_texts(ids), chances, strict=True))
    texts = tuple(known.texts_of_whole_characters(ids))
    return dataclasses.replace(
        prediction(truth, truth, "of scripts"), truth_tokens=texts, truth_p=chances, top5=tops
    )  # fmt: skip


@pytest.mark.long_after(1)
@pytest.mark.parametrize(
    ("tokenizer", "size"), [("bytes", (80, 24)), ("gpt2", (80, 24)), ("gpt2", (120, 40)), ("bytes", (200, 60))]
)
async def test_the_truth_stands_as_it_was_written(dashboard: Open, tokenizer: str, size: tuple[int, int]) -> None:
    source = fed(12)
    truth = " ".join(SCRIPTS.values())
    source.waiting.append(happened.Predicted(13, "docstrings", predicted(truth, tokenizer)))
    async with dashboard(source, size) as pilot:
        await pilot.press("3", "z")
        await tick(pilot)
        shown = text_of(pilot.app)
        assert "\ufffd" not in shown
        for word in truth.split(" "):
            assert shown.count(word) >= 2, "as truth and as prediction"


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_character_is_one_piece_and_as_sure_as_its_least_sure_token(script: str) -> None:
    truth = SCRIPTS[script]
    ids = load_tokenizer("bytes").encode(truth)
    for low in range(len(ids)):
        pieces = Predictions()._truth(predicted(truth, "bytes", low))
        assert "".join(text for text, _ in pieces) == truth
        of_low = bytes(ids[: low + 1]).decode("utf-8", "ignore")
        if of_low.encode() == bytes(ids[: low + 1]):  # the last byte of a character
            place = len(of_low) - 1
        else:
            place = len(of_low)
        begin = 0
        for text, style in pieces:
            assert style == shade(0.001 if begin <= place < begin + len(text) else 0.9)
            begin += len(text)


def test_joined_emoji_and_marks_are_shown_as_one() -> None:
    groups = whole_characters(["a", " ", "👨", "\u200d", "👩", "\u200d", "👧", " e", "\u0301", "\n", "x"])
    assert groups == [range(1), range(1, 2), range(2, 7), range(7, 9), range(9, 10), range(10, 11)]


async def test_the_cursor_stands_on_the_whole_character_and_names_the_token(dashboard: Open) -> None:
    source = fed(12)
    source.waiting.append(happened.Predicted(13, "docstrings", predicted("老船", "bytes")))
    async with dashboard(source, (120, 40)) as pilot:
        await pilot.press("3", "z", "enter", "right")
        await tick(pilot)
        pane = pilot.app.screen.query_one(Predictions)
        pieces = [piece for row in pane.rows for piece in row]
        assert ("老", "p4 cursor") in pieces
        shown = text_of(pilot.app)
        assert "'老' token 2 of 3" in shown
        assert "✓  90.0 %" in shown


async def test_a_journal_whose_tokens_have_lost_their_bytes_shows_the_truth_plain(dashboard: Open) -> None:
    old = dataclasses.replace(predicted("老船", "bytes"), truth_tokens=("\ufffd",) * 6)
    source = fed(12)
    source.waiting.append(happened.Predicted(13, "docstrings", old))
    async with dashboard(source, (80, 24)) as pilot:
        await pilot.press("3", "z")
        await tick(pilot)
        shown = text_of(pilot.app)
        assert "\ufffd" not in shown
        assert shown.count("老船") >= 2


def test_what_is_invalid_in_a_prediction_is_still_a_replacement_character() -> None:
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.decode(tokenizer.encode("老")[:2]) == "\ufffd"


@pytest.mark.parametrize("script", SCRIPTS)
def test_lines_are_never_cut_inside_a_character(script: str) -> None:
    text = SCRIPTS[script].replace(" ", "") * 3
    for width in range(2, 9):
        rows = flow([(text, "")], width)
        assert "".join(part for row in rows for part, _ in row) == text
        for row in rows[1:]:
            assert row[0][0][0] not in MARKS, "a mark stands with its letter"


def test_cells_behind_a_joined_character_are_counted_as_the_terminal_counts_them() -> None:
    assert changed_spans(((FAMILY + "ab", ""),), ((FAMILY + "aX", ""),)) == [(3, 4)]


def characters_of(text: str) -> list[str]:
    return [text[begin:end] for begin, end, _ in split_graphemes(text)[0]]


@pytest.mark.parametrize("script", LONG)
@pytest.mark.parametrize("width", [40, 68, 110])
def test_lines_break_between_words_or_where_words_are_not_told_between_characters(script: str, width: int) -> None:
    """The pieces are a tokenizer's, whatever they cut."""
    known = load_tokenizer("gpt2")
    made = predicted(LONG[script], "gpt2")
    assert len(known.encode(LONG[script])) == len(made.truth_tokens)
    rows = ["".join(text for text, _ in row) for row in flow(Predictions()._truth(made), width)]
    assert all(cell_len(row) <= width for row in rows)
    assert "".join(rows).replace(" ", "") == LONG[script].replace(" ", "")
    assert [char for row in rows for char in characters_of(row) if char != " "] == [
        char for char in characters_of(LONG[script]) if char != " "
    ], "no row begins inside a character"
    if script in ("chinese", "thai"):
        assert all(cell_len(row) >= width - 3 for row in rows[:-1]), "rows are filled"
    else:
        assert [word for row in rows for word in row.split()] == LONG[script].split(), "no word is cut"


def test_what_closes_begins_no_row_and_what_opens_ends_none() -> None:
    """Tried at every width, for at most of them no such character comes where a row is full."""
    closing = opening = 0
    for width in range(8, 80):
        rows = ["".join(text for text, _ in row) for row in flow([(LONG["chinese"], "")], width)]
        assert not [row for row in rows if row[0] in "，。」"], width
        assert not [row for row in rows if row[-1] == "「"], width
        room = [width // 2 * 2 - cell_len(row) for row in rows]  # each of its characters takes two cells
        opening += sum(left > 0 and behind[0] == "「" for left, behind in zip(room, rows[1:], strict=False))
        closing += sum(left > 0 and behind[1] in "，。」" for left, behind in zip(room, rows[1:], strict=False))
    assert min(closing, opening) > 10, "rows that end earlier because of it"


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=str)
def test_a_real_terminal_shows_every_script_in_its_cells(size: tuple[int, int]) -> None:
    """What each cell holds, and in which colour: the least sure character's is another than the others'."""
    source = fed(12)
    truths = [SCRIPTS["chinese"], SCRIPTS["arabic"], SCRIPTS["thai"], "a 🦊 b 👍🏽 ❤️ c"]
    for i, truth in enumerate(truths):
        made = dataclasses.replace(predicted(truth, "bytes", low=0), prompt=f"prompt {i}")
        source.waiting.append(happened.Predicted(13 + i, "docstrings", made))
    with ScreenTerminal(in_terminal(source), size, {"TERM": "xterm-256color", "COLORTERM": ""}) as terminal:
        terminal.shows("1 curriculum")
        terminal.tour((("3", "same prompt"), ("z", "prompt 3")))
        for truth in reversed(truths):
            until(lambda: truth_cells(terminal)[0].data.startswith(truth[0]))  # noqa: B023  (called at once)
            assert_cells(truth_cells(terminal), truth)
            terminal.type("\x1b[D")  # the one before


def truth_cells(terminal: ScreenTerminal) -> list[Char]:
    """The cells behind the label of the truth's first row."""
    y = next(y for y, line in enumerate(terminal.screen.split("\n")) if "│ truth " in line)
    return terminal.cells[y][10:]


def assert_cells(cells: list[Char], truth: str) -> None:
    """Each character in cells of its own, as many as it is wide; the first one, least sure, in its own colour."""
    x, colours = 0, []
    for begin, end, width in split_graphemes(truth)[0]:
        char = truth[begin:end]
        assert normalize("NFC", cells[x].data)[:1] == normalize("NFC", char)[:1]
        if not char.startswith("👍"):  # this emulator gives the skin tone a cell of its own, and ours is put over it
            assert normalize("NFC", cells[x].data) == normalize("NFC", char)
        if width == 2 and not char.startswith("❤"):  # which it takes to be narrow
            assert not cells[x + 1].data
        if char != " ":
            colours.append(cells[x].fg)
        x += width
    assert colours[0] != colours[1]
    assert len(set(colours[1:])) == 1
