"""The plan editor: TOML in colours, what is wrong with it at its lines, and what applying it would change."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import ClassVar

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Button, TextArea
from textual.widgets.text_area import TextAreaTheme

from lmplay_tui.plan.problems import Problem
from lmplay_tui.text import one_line, printable
from lmplay_tui.ui.messages import PaneAsked, PlanApplied, PlanEdited, SavePlanAsked
from lmplay_tui.ui.theme import styles_of
from lmplay_tui.ui.tty.patches import TypedText, set_titles
from lmplay_tui.ui.widgets.lines import Lines, Row, wrapped

CHECK_AFTER_S = 0.3  # without a key
MOST_ROWS = 9  # of the notes

_SYNTAX = {  # what of TOML has which style
    "toml.type": "train", "property": "train", "string": "good", "number": "val", "float": "val",
    "toml.datetime": "val", "boolean": "accent", "comment": "dim", "toml.error": "p0",
}  # fmt: skip

Check = Callable[[str], Sequence[Problem]]


class PlanNotes(Lines, can_focus=False):
    """Problems, or the effect of a change; a click on a problem goes to its line."""

    def __init__(self) -> None:
        super().__init__(id="plan-notes")
        self._lines: list[int] = []  # the plan's line behind each row; 0: none
        self._problems: Sequence[Problem] = ()

    def show_problems(self, problems: Sequence[Problem]) -> None:
        rows: list[Row] = []
        self._problems, self._lines = problems, []
        for problem in problems:
            place = f"{problem.line:>4} " if problem.line else "   · "
            said = f"{problem.key}: {problem.sentence}" if problem.key else problem.sentence
            for i, line in enumerate(wrapped(one_line(said, 400), max(self.room.width - 8, 10))):
                rows.append(((" ✗ " if i == 0 else "   ", "bad"), (place if i == 0 else "     ", "accent"), (line, "")))
                self._lines.append(problem.line)
        self.styles.height = min(len(rows) + 1, MOST_ROWS)
        self.show_rows(rows)

    def show_effect(self, rows: Sequence[Row]) -> None:
        self._problems, self._lines = (), []
        self.show_rows(list(rows))

    def on_resize(self) -> None:
        """A pane that has just come into sight had no width before."""
        if self._problems:
            self.show_problems(self._problems)

    def on_click(self, event: events.Click) -> None:
        index = self.row_at(event)
        if 0 <= index < len(self._lines) and self._lines[index]:
            self.post_message(PlanNotes.LineAsked(self._lines[index]))

    class LineAsked(Message):
        """Go to this line of the plan."""

        def __init__(self, line: int) -> None:
            super().__init__()
            self.line = line


class PlanText(TypedText, TextArea):
    """A text area that shows control characters as signs, one for one; the text itself stays as it is."""

    def get_line(self, line_index: int) -> Text:
        line = self.document.get_line(line_index)
        return Text("".join(map(_visible, line)), end="", no_wrap=True)

    @property
    def takes_text(self) -> bool:
        return not self.read_only

    def on_resize(self) -> None:
        """The cursor may stand where the notes are now."""
        self.call_after_refresh(self.scroll_cursor_visible)


def _visible(char: str) -> str:
    """One sign for one character, so that colours and cursor keep their places; tabs are the text area's to expand."""
    return char if char == "\t" or " " <= char <= "~" else (printable(char) or "\ufffd")[:1]


class PlanPane(Vertical):
    """Keeps what was typed until it is applied, saved elsewhere or given up on purpose."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "apply", "apply"),
        Binding("f2", "save_as", "save as"),
        Binding("f4", "revert", "revert"),
        Binding("f9", "take_offered", "take the changed file", show=False),
        Binding("f8", "next_problem", "next problem"),
        Binding("ctrl+home", "edge(False)", "start of the plan", show=False),
        Binding("ctrl+end", "edge(True)", "end of the plan", show=False),
        Binding("escape", "leave", "back"),
    ]

    def __init__(self, check: Check) -> None:
        super().__init__(id="plan", classes="pane")
        set_titles(self, "4 plan")
        self._check = check
        self._base = ""  # the text that holds
        self._saved: str | None = None  # the text that lies on disk under another name
        self._offered: str | None = None  # another text for the editor, from a file that has changed
        self._problems: Sequence[Problem] = ()
        self._failure: Sequence[Problem] = ()  # why the run could not begin with the text that holds
        self._timer: Timer | None = None
        self.locked = False  # nothing can be applied: the run is over

    def compose(self) -> ComposeResult:
        yield PlanText(
            "", id="plan-text", show_line_numbers=True, compact=True, tab_behavior="focus", soft_wrap=False,
            language="toml", theme="css",
        )  # fmt: skip
        yield PlanNotes()
        with Horizontal(id="plan-buttons"):
            yield Button("Apply ^s", id="plan-apply", compact=True)
            yield Button("Save as F2", id="plan-save-as", compact=True)
            yield Button("Revert F4", id="plan-revert", compact=True)

    def on_mount(self) -> None:
        self.query_one(TextArea).load_text(self._base)
        self._show_title()
        self.watch(self.app, "theme", self._colour_text)

    def _colour_text(self, theme: str) -> None:
        """The text in colours of the app's theme: those of Textual's editors are for a dark ground."""
        styles = styles_of(self.app.get_css_variables(), colours=not self.app.no_color)
        syntax = {name: styles[style] for name, style in _SYNTAX.items()}
        text = self.query_one(TextArea)
        text.register_theme(TextAreaTheme(f"lmplay-{theme}", syntax_styles=syntax))
        text.theme = f"lmplay-{theme}"

    # ---- data

    @property
    def text(self) -> str:
        """What stands in the editor."""
        return self.query_one(TextArea).text if self.is_mounted else self._base

    @property
    def edited(self) -> bool:
        """Whether there is text that could be applied."""
        return self.text != self._base

    @property
    def unsaved(self) -> bool:
        """Whether there is text that is applied or saved nowhere."""
        return self.text not in (self._base, self._saved)

    @property
    def problems(self) -> Sequence[Problem]:
        return self._problems

    @property
    def notes_width(self) -> int:
        """How wide what `show_effect` shows may be."""
        return self.query_one(PlanNotes).room.width

    def load(self, text: str) -> bool:
        """Another plan holds now. What the user has typed stays; whether the editor shows the new one."""
        if text == self._base:
            return True
        keep = self.edited and self.text != text
        self._base = text
        area = self.query_one(TextArea) if self.is_mounted else None
        if area is not None and not keep and area.text != text:
            place = area.cursor_location
            area.load_text(text)
            area.move_cursor(place)
        self._show_title()
        return not keep

    def saved(self, text: str) -> None:
        """This text lies on disk under another name: nothing is lost by leaving it."""
        self._saved = text

    def show_failure(self, problems: Sequence[Problem]) -> None:
        """The run could not begin with this plan: show why, and the first line that is at fault."""
        self._failure = problems
        self.check_now()
        first = min(problem.line for problem in problems if problem.line)
        self.query_one(TextArea).move_cursor((first - 1, 0), center=True)  # without the focus: `q` is still a key

    def offer(self, text: str) -> bool:
        """A file has another text: take it in as an edit where nothing was typed; whether it was."""
        self._offered = text
        if self.unsaved:
            return False
        self.action_take_offered()
        return True

    def show_effect(self, rows: Sequence[Row]) -> None:
        """What applying the text would change; shown while nothing is wrong with it."""
        if not self._problems:
            self._notes(len(rows))
            self.query_one(PlanNotes).show_effect(rows)

    def replace_text(self, text: str) -> None:
        """Put a changed plan into the editor, to be looked at and applied; undo (ctrl+z) brings back what was there."""
        area = self.query_one(TextArea)
        # From the line that differs on: the cursor goes there, and what stands above stays as it is.
        old, new = area.text.split("\n"), text.split("\n")
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old[:-1], new[:-1], strict=False)))
        if len(old) == area.document.line_count:
            area.replace("\n".join(new[same:]), (same, 0), area.document.end)
            area.move_cursor((same, 0))
        else:  # there are other line ends, each a character of its own
            area.replace(text, (0, 0), area.document.end)
        self.check_now()

    def action_take_offered(self) -> None:
        """The text of the file that has changed."""
        if self._offered is None:
            self.notify("no file of this plan has changed")
        else:
            self.replace_text(self._offered)
            self.saved(self._offered)

    def check_now(self) -> None:
        """Look for problems at once, and have the effect shown."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        text = self.text
        self._problems = self._check(text) if self.edited else self._failure
        self._show_title()
        notes = self.query_one(PlanNotes)
        if self._problems:
            notes.show_problems(self._problems)
        else:
            self.post_message(PlanEdited(text))

    def _notes(self, count: int) -> None:
        self.query_one(PlanNotes).styles.height = min(max(count, 1) + 1, MOST_ROWS) if count else 0

    def _show_title(self) -> None:
        title = "4 plan" + (" · edited" if self.edited else "")
        count = len(self._problems)
        wrong = f"{count} problem{'s' if count > 1 else ''}" if count else "ok" if self.edited else "as it runs"
        set_titles(self, title, wrong)

    # ---- keys and buttons

    @on(TextArea.Changed)
    def _typed(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(CHECK_AFTER_S, self.check_now)

    @on(PlanNotes.LineAsked)
    def _go_to(self, message: PlanNotes.LineAsked) -> None:
        self._show_line(message.line)

    def _show_line(self, line: int) -> None:
        area = self.query_one(TextArea)
        area.move_cursor((max(line - 1, 0), 0), center=True)
        area.focus()

    def action_next_problem(self) -> None:
        """Go to the next line with a problem, round and round."""
        lines = sorted({problem.line for problem in self._problems if problem.line})
        if lines:
            here = self.query_one(TextArea).cursor_location[0] + 1
            self._show_line(next((line for line in lines if line > here), lines[0]))

    def action_edge(self, last: bool) -> None:
        """Go to where the text begins or ends."""
        area = self.query_one(TextArea)
        area.move_cursor(area.document.end if last else area.document.start)

    @on(Button.Pressed, "#plan-apply")
    def action_apply(self) -> None:
        self.check_now()
        if self.locked:
            self.notify("this run takes no changes any more", severity="warning")
        elif self._problems:
            self.notify(one_line(self._problems[0]), title="not applied", severity="error", markup=False)
        elif not self.edited:
            self.notify("nothing is changed")
        else:
            self.post_message(PlanApplied(self.text))

    @on(Button.Pressed, "#plan-save-as")
    def action_save_as(self) -> None:
        self.post_message(SavePlanAsked(self.text))

    @on(Button.Pressed, "#plan-revert")
    def action_revert(self) -> None:
        """Give up what was typed; undo (ctrl+z) brings it back."""
        if self.edited:
            self.replace_text(self._base)

    def action_leave(self) -> None:
        """Back to the curves; where there is room for one pane only, they have to be shown first."""
        self.post_message(PaneAsked("curves"))
