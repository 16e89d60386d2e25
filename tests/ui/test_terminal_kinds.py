"""Terminals of all kinds: no colours wanted, sixteen of them, ASCII only, tiny, huge, and resized without end."""

import re
from pathlib import Path

import pyte
import pytest
from pyte.screens import Char
from rich.color import ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual.app import App
from textual.color import Color
from textual.pilot import Pilot
from textual.strip import Strip

from lmplay_tui.options import Launch
from lmplay_tui.run import events as happened
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.ui.run_app import run_dashboard
from lmplay_tui.ui.tty.looks import AsciiFilter
from lmplay_tui.ui.widgets.lines import bar
from lmplay_tui.ui.widgets.predictions import Predictions
from tests.faults.terminals import until
from tests.ui.conftest import Open, in_terminal, tick
from tests.ui.fake import PLAN, FakeSource, fed, prediction
from tests.ui.terminal_screen import ScreenTerminal

# Every pane and every dialog: keys, and what then stands on the screen, or with `!` no longer does.
ESCAPE = "\x1b"
TOUR = (
    ("1", "change stage"), ("\r", "Stage docstrings"), (ESCAPE, "!Stage docstrings"),
    ("x", "Stop training?"), (ESCAPE, "!Stop training?"), ("l", "Learning rate"), (ESCAPE, "!Learning rate"),
    ("b", "Bookmark"), (ESCAPE, "!Bookmark"), ("g", "Ask the model"), (ESCAPE, "!Ask the model"),
    ("r", "enter draws"), (ESCAPE, "!enter draws"), ("q", "Leave the dashboard?"), (ESCAPE, "!Leave the dashboard?"),
    ("?", "finds any action"), (ESCAPE, "!finds any action"), ("\x10", "Search for"), (ESCAPE, "!Search for"),
    ("3", "same prompt"), ("\r", "true"), ("5", "forward"), ("6", "log"), ("v", "validating after"),
    ("2", "metric"), ("4", "f8 next"),
)  # fmt: skip
MUCH_TIME = pytest.mark.timeout(300)  # a few seconds on a machine that does nothing else
SGR = re.compile(rb"\x1b\[([0-9;:]*)m")
SEQUENCE = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|[\\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\\\)|.)")


@pytest.fixture(autouse=True)
def _colours_of_this_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich's styles remember their codes, but not for how many colours; here are terminals of several kinds."""

    def render_style(style: Style, text: str, color_system: ColorSystem) -> str:
        codes = Strip.render_ansi(style, color_system)
        return f"\x1b[{codes}m{text}\x1b[0m" if codes else text

    monkeypatch.setattr(Strip, "render_style", staticmethod(render_style))


@pytest.fixture(autouse=True)
def _validating_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tour waits for a toast: it must not be gone before a busy machine has looked."""
    notify = App.notify
    monkeypatch.setattr(App, "notify", lambda app, message, **how: notify(app, message, **how | {"timeout": 60}))


def colours_sent(output: bytes) -> set[int]:
    """The numbers of all attributes that were set: 30 to 49 and 90 to 107 are colours."""
    return {int(number or 0) for codes in SGR.findall(output) for number in re.split(b"[;:]", codes)}


def planned() -> FakeSource:
    """A run in its second stage, with its plan."""
    folder = RunFolder(Path("run.lmp"))
    folder.create()
    folder.plan.write_text(PLAN, encoding="utf-8")
    return fed(330, folder=folder)


def toured(
    environment: dict[str, str], source: FakeSource | None = None, size: tuple[int, int] = (120, 40), **options: object
) -> ScreenTerminal:
    """A terminal of that kind after the tour."""
    terminal = ScreenTerminal(in_terminal(source or planned(), **options), size, environment)
    terminal.shows("2 curves", "6 log")
    terminal.tour(TOUR)
    return terminal


@pytest.mark.long_after(1)
@MUCH_TIME
@pytest.mark.parametrize("environment", [{"TERM": "linux"}, {"TERM": "xterm-256color"}], ids=str)
def test_the_launcher_in_ascii(environment: dict[str, str]) -> None:
    with launched(environment, ascii=True) as terminal:
        pass
    text = SEQUENCE.sub("", terminal.output.decode("utf-8"))
    assert text.isascii(), set(re.sub("[ -~]", "", text))


def launched(environment: dict[str, str], **options: object) -> ScreenTerminal:
    """A terminal of that kind with the launcher."""
    terminal = ScreenTerminal(in_terminal(None, **options), (120, 40), environment)
    terminal.shows("plans", "runs", "demo")
    terminal.tour((("\x1b[B", "demo"), ("\t", "demo"), ("?", "finds any action"), (ESCAPE, "!finds any action")))
    return terminal


def row_of(terminal: ScreenTerminal, text: str) -> list[Char]:
    """The cells of this text, where it first stands."""
    for line, cells in zip(terminal.screen.split("\n"), terminal.cells, strict=True):
        if text in line:
            return cells[line.index(text) : line.index(text) + len(text)]
    raise AssertionError(f"{text!r} does not stand on the screen:\n{terminal.screen}")


def wait_reversed(terminal: ScreenTerminal, text: str) -> None:
    """Wait until this text stands reversed: its look may come with a later picture than what was waited for."""
    until(lambda: all(cell.reverse for cell in row_of(terminal, text)))


# ---- NO_COLOR


@pytest.mark.long
@MUCH_TIME
def test_without_colours_none_is_sent_and_focus_and_cursor_are_seen() -> None:
    with toured({"NO_COLOR": "1"}) as terminal:
        wait_reversed(terminal, "4 plan")
        until(lambda: sum(cell.reverse for cell in row_of(terminal, "# What it is for.")) == 1)  # the blinking cursor
        assert not any(cell.reverse for cell in row_of(terminal, "2 curves"))
        terminal.tour(((ESCAPE, "metric"), ("1", "change stage")))
        wait_reversed(terminal, "1 curriculum")
        wait_reversed(terminal, "docstrings  pydo")
        assert not any(cell.reverse for cell in row_of(terminal, "finetune"))
        terminal.tour((("x", "Stop training?"),))
        wait_reversed(terminal, "▸ n  now")
        assert not any(cell.reverse for cell in row_of(terminal, "e  at the stage's end"))
        terminal.tour(((ESCAPE, "!Stop training?"),))
    assert not [number for number in colours_sent(terminal.output) if 30 <= number <= 49 or 90 <= number <= 107]


@MUCH_TIME
def test_the_launcher_without_colours() -> None:
    with launched({"NO_COLOR": "1"}) as terminal:
        wait_reversed(terminal, "Start")  # there are no runs to go to
    assert not [number for number in colours_sent(terminal.output) if 30 <= number <= 49 or 90 <= number <= 107]


@pytest.mark.parametrize(("value", "colours"), [("", True), ("0", False)])
async def test_an_empty_no_color_means_nothing(
    dashboard: Open, source: FakeSource, monkeypatch: pytest.MonkeyPatch, value: str, colours: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", value)
    async with dashboard(source) as pilot:
        sent = colours_sent(painted(pilot).encode())
        assert any(number in sent for number in (38, 48)) is colours


async def test_without_colours_the_button_with_the_focus_is_reversed_and_the_mouse_still_works(
    dashboard: Open, source: FakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with dashboard(source) as pilot:
        pilot.app.screen.query_one("#pause").focus()
        await pilot.pause()
        reverse = "".join(cell.data for row in cells_of(pilot) for cell in row[-30:] if cell.reverse)
        assert "Pause" in reverse
        assert "Save" not in reverse
        bar = pilot.app.screen.query_one("#log").vertical_scrollbar
        assert bar.display
        style = pilot.app.screen.get_style_at(bar.region.x, bar.region.bottom - 1)
        assert style.meta.get("@mouse.down") == "grab", "what the mouse does there"


async def test_without_colours_what_they_would_tell_is_told_by_the_letters(
    dashboard: Open, source: FakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How sure the model was of each token, and what is but a label."""
    monkeypatch.setenv("NO_COLOR", "1")
    async with dashboard(source) as pilot:
        pane = pilot.app.screen.query_one(Predictions)
        styles = {name: pane._style(name) for name in ("p0", "p1", "p2", "p4", "label", "strong")}
        letters = {name: (bool(s.bold), bool(s.underline), bool(s.dim)) for name, s in styles.items()}
        assert len({letters[name] for name in ("p0", "p1", "p2", "p4")}) == 4
        assert letters["label"] != letters["strong"]
        assert letters["label"] == (False, False, True)


# ---- 256 colours: what ssh gives, which hands no COLORTERM on


def contrast(a: str, b: str) -> float:
    """The contrast ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        shares = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def faint_letters(terminal: ScreenTerminal, dialog: str = "") -> set[tuple[str, str, str]]:
    """(letter, its colour, its ground) where these are too near; of the dialog of this title alone, where one is given.

    What lies behind a dialog stands back.
    """
    rows = terminal.cells
    if dialog:
        y = next(y for y, line in enumerate(terminal.screen.split("\n")) if re.search(f"╭.*{re.escape(dialog)}", line))
        line = "".join(cell.data or " " for cell in rows[y])
        middle = line.index(dialog)
        left, right = line.rindex("╭", 0, middle), line.index("╮", middle)
        bottom = next(below for below in range(y, len(rows)) if rows[below][left].data == "╰")
        rows = [row[left : right + 1] for row in rows[y : bottom + 1]]
    letters = {(cell.data, cell.fg, cell.bg) for row in rows for cell in row if cell.data.isalnum()}
    assert len(letters) > 10
    return {(char, fg, bg) for char, fg, bg in letters if contrast(fg, bg) < 4.5}


PANES = (("1", "change stage"), ("2", "metric"), ("3", "same prompt"), ("\r", "true"), (ESCAPE, "!true"),
         ("4", "f8 next"), ("x", "edited"), (ESCAPE, "metric"), ("5", "log"), ("6", "log"))  # fmt: skip
DIALOGS = (("x", "Stop training?"), ("l", "Learning rate"), ("q", "Leave the dashboard?"), ("?", "keys"))


@MUCH_TIME
@pytest.mark.long_after(1)
@pytest.mark.parametrize("theme", ["lmplay", "lmplay-light"])
def test_in_256_colours_every_letter_can_be_read_on_its_ground(theme: str) -> None:
    environment = {"TERM": "xterm-256color", "COLORTERM": "", "TEXTUAL_THEME": theme}
    with ScreenTerminal(in_terminal(planned()), (120, 40), environment) as terminal:
        terminal.shows("2 curves", "6 log")
        for stop in PANES:
            terminal.tour([stop])
            assert not faint_letters(terminal), stop
        for key, title in DIALOGS:
            terminal.tour([(key, title)])
            assert not faint_letters(terminal, title), title
            terminal.tour([(ESCAPE, f"!{title}")])
    assert not re.search(rb"[34]8;2;", terminal.output), "none that the terminal would have to guess"
    numbers = {int(number) for number in re.findall(rb"[34]8;5;(\d+)", terminal.output)}
    assert min(numbers) >= 16, "of the cube or of the greys: the sixteen are the user's own"


@MUCH_TIME
@pytest.mark.parametrize(("theme", "quiet"), [("lmplay", "9e9e9e"), ("lmplay-light", "585858")])
def test_in_256_colours_a_button_that_does_nothing_can_be_read_and_stands_back(theme: str, quiet: str) -> None:
    environment = {"TERM": "xterm-256color", "COLORTERM": "", "TEXTUAL_THEME": theme}
    source = planned()
    source.waiting.append(happened.RunDone(340, "out_gpt/run.lmp", 9.0))
    with ScreenTerminal(in_terminal(source), (120, 40), environment) as terminal:
        terminal.shows("the plan is done")
        until(lambda: all(cell.fg == quiet for cell in row_of(terminal, "Pause")))
        assert not faint_letters(terminal)


# ---- sixteen colours


def painted(pilot: Pilot[int]) -> str:
    """The whole screen as it would be sent to the terminal."""
    app = pilot.app
    update = app.screen._compositor.render_update(full=True, screen_stack=app._background_screens)
    return update.render_segments(app.console)  # type: ignore[union-attr]


def cells_of(pilot: Pilot[int]) -> list[list[Char]]:
    """The cells of a terminal that the screen was sent to."""
    width, height = pilot.app.size
    screen = pyte.Screen(width, height)
    pyte.Stream(screen).feed(painted(pilot).replace("\n", "\r\n"))
    return [[screen.buffer[y][x] for x in range(width)] for y in range(height)]


def unreadable(sent: str) -> list[str]:
    """The pieces of text whose letters have the same one of the sixteen colours as their ground."""
    pieces = []
    for codes, text in re.findall("\x1b\\[([0-9;]*)m([^\x1b]*)", sent):
        numbers = {int(code or 0) for code in codes.split(";")}
        letters = {number for number in numbers if 30 <= number <= 37 or 90 <= number <= 97}
        if text.strip() and any(number + 10 in numbers for number in letters):
            pieces.append(text)
    return pieces


@MUCH_TIME
def test_no_more_than_sixteen_colours_are_sent() -> None:
    with ScreenTerminal(in_terminal(fed(60)), (120, 40), {"TERM": "xterm"}) as terminal:
        terminal.shows("2 curves", "6 log")
    sent = colours_sent(terminal.output)
    assert sent & set(range(90, 98))
    assert not sent & {38, 48}


STOPS = (
    "1 enter", "escape r", "escape question_mark", "escape ctrl+p", "escape 3 enter v", "4 shift+down x f8", "f2",
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("theme", ["lmplay", "lmplay-light", "ansi-dark"])
async def test_every_letter_can_be_read_in_sixteen_colours(
    dashboard: Open, monkeypatch: pytest.MonkeyPatch, theme: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TEXTUAL_THEME", theme)
    async with dashboard(planned()) as pilot:
        assert pilot.app.console.color_system == "standard"
        for keys in STOPS:
            await pilot.press(*keys.split())
            await tick(pilot)
            sent = painted(pilot)
            assert not colours_sent(sent.encode()) & {38, 48}, keys
            assert not unreadable(sent), keys


# ---- ASCII


def texts_sent(output: bytes) -> str:
    """What was sent but for the sequences that a terminal acts upon, of which all are of known kinds."""
    text = CUT_OFF.sub("", output.decode("utf-8"))
    for sequence in SEQUENCE.findall(text):
        assert re.fullmatch(KNOWN, sequence), repr(sequence)
    return SEQUENCE.sub("", text)


# Attributes, places, private modes, questions, the keyboard's modes of kitty: what the Linux console takes or drops.
KNOWN = r"\x1b\[(?:[\d;]*[mHn]|\?[\d;]*(?:h|l|\$p)|[<>]\d*u)"
CUT_OFF = re.compile(r"\x1b(?:\[[0-?]*[ -/]*)?\Z")  # the program is killed at the end, perhaps in the midst of one


def test_a_sequence_that_the_kill_has_cut_off_is_none() -> None:
    whole = b"\x1b[?2004h\x1b[1;32mgreen\x1b[?25$p"
    for end in range(len(whole)):
        assert "green".startswith(texts_sent(whole[:end]))
    for unknown in (b"\x1b[2Jx", b"\x1b]0;x\x07", b"\x1b[?1c", b"\x1bc"):
        with pytest.raises(AssertionError):
            texts_sent(unknown)


@pytest.mark.long
@MUCH_TIME
def test_the_linux_console_is_sent_ascii_and_nothing_that_it_would_show() -> None:
    source = planned()
    source.waiting = [happened.LossSpiked(330, "docstrings", 8.25, 3.1, 21.0, 390, 399)]  # it rings
    with toured({"TERM": "linux"}, source) as terminal:
        assert "> docstrings" in terminal.screen
    text = texts_sent(terminal.output)
    assert text.isascii(), set(re.sub("[ -~]", "", text))
    assert "\a" in text, "the bell, without the notification on the desktop"
    assert not colours_sent(terminal.output) & {38, 48}


FOREIGN = "Ça naïve “Ωmega” 東京 … жук → end"
LETTERS = set("ÇaïΩ東京жук")
MORE = (
    ("x", "edited"), ("\x1b[19~", "f8 next"),  # f8: to the problem
    ("\x1bOQ", "Save the plan"), (ESCAPE, "!Save the plan"), ("\x1bOS", "f8 next"),  # f2; f4
    (ESCAPE, "metric"), ("/", "Filter the curves"), (ESCAPE, "!Filter the curves"), ("[", "step"), ("m", "metric"),
    ("y", "metric"), ("3", "same prompt"), ("v", "prompt"), ("\x1b[D", "prompt"), ("z", "prompt"), ("z", "2 curves"),
    ("t", "2 curves"), ("t", "2 curves"), ("q", "Leave the dashboard?"), (ESCAPE, "!Leave the dashboard?"),
)  # fmt: skip


def with_foreign_text() -> FakeSource:
    """Its run says and shows what is not ASCII, and has news of all kinds."""
    source = planned()
    source.waiting = [
        happened.Predicted(330, "docstrings", prediction(FOREIGN, f"{FOREIGN} {FOREIGN}", FOREIGN)),
        happened.Warned(f"{FOREIGN}: not read", 330),
        happened.LossSpiked(330, "docstrings", 8.25, 3.1, 21.0, 390, 399),
        happened.Bookmarked(330, FOREIGN),
        happened.CheckpointSaved("out/a.lmp", 330, 3300, 5, 0.1, 0.1, "asked"),
    ]
    return source


@pytest.mark.parametrize(("share", "shown"), [(0.0, "------------"), (0.77, "#########---"), (1.0, "############")])
def test_a_bar_in_ascii_tells_how_full_it_is_without_colours(share: float, shown: str) -> None:
    filled, left = bar(share, 12)
    segments = [Segment(filled, Style(color="blue")), Segment(left, Style())]
    plain = AsciiFilter().apply(segments, Color(0, 0, 0))
    assert "".join(segment.text for segment in plain) == shown


def test_a_line_break_in_ascii_is_that_of_strings_in_as_many_cells() -> None:
    said = ["one↵ two", "↵", " three", "four↵", "", "five"]
    plain = AsciiFilter().apply([Segment(text) for text in said], Color(0, 0, 0))
    assert "".join(segment.text for segment in plain) == "one\\ntwo\\nthreefour\\five"


@MUCH_TIME
@pytest.mark.parametrize("ascii_only", [True, False])
def test_what_the_shell_is_told_at_the_end_is_in_the_signs_of_the_screen(ascii_only: bool) -> None:
    """A control character in a name is shown by a sign of ours."""
    run = RunFolder(Path("r\x1bun.lmp"))
    run.create()
    with ScreenTerminal(
        lambda: run_dashboard(Launch({"ascii": ascii_only, "tz": "UTC"}), attach=run),
        (100, 30),
        {"TERM": "xterm-256color"},
    ) as terminal:
        terminal.shows("curriculum")
        terminal.type("q")
        until(lambda: b"has ended at step" in terminal.output)
    text = SEQUENCE.sub("", CUT_OFF.sub("", terminal.output.decode("utf-8")))
    assert text.isascii() is ascii_only, set(re.sub("[ -~]", "", text))
    assert ("r?un: its process has ended" in text) is ascii_only


@pytest.mark.long
@MUCH_TIME
def test_with_the_option_for_ascii_letters_of_foreign_texts_are_all_that_is_more() -> None:
    """In a terminal that knows all signs: not in a title, a notification on the desktop or a tooltip either."""
    with toured({"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}, with_foreign_text(), ascii=True) as terminal:
        terminal.tour(MORE)
    sent = terminal.output.decode("utf-8")
    assert "]2;39 % 2.67 ETA" in sent
    assert "]9;" in sent
    assert "東" in sent
    assert not {char for char in sent if not char.isascii()} - LETTERS
