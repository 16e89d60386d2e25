"""Dialogs: a choice by key, and a line to type. Each gives its answer to the callback it was pushed with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from lmplay_tui.ui.key_order import TypedLine
from lmplay_tui.ui.messages import ChoiceClicked
from lmplay_tui.ui.widgets.lines import Lines, Row, fitted
from lmplay_tui.ui.widgets.titles import set_titles

Value = TypeVar("Value")


@dataclass(frozen=True)
class Choice(Generic[Value]):
    """One way to answer: its letter, what it is called, what it does."""

    key: str
    label: str
    hint: str
    value: Value


class ChoiceList(Lines):
    """The choices of a dialog, one a row."""

    def __init__(self, choices: Sequence[Choice[Value]]) -> None:
        super().__init__(id="choices")
        self._choices = choices
        self.chosen = 0

    def on_mount(self) -> None:
        self.styles.height = len(self._choices)
        self.draw()

    def on_resize(self) -> None:
        self.draw()

    def draw(self) -> None:
        cells = max(len(choice.label) for choice in self._choices) + 2
        rows: list[Row] = []
        for i, choice in enumerate(self._choices):
            here = " cursor" if i == self.chosen else ""
            sign = "▸" if i == self.chosen else " "
            hint = fitted(choice.hint, max(self.size.width - cells - 6, 0))
            rows.append(
                (
                    (f"{sign} ", "accent" + here), (choice.key, "key" + here), ("  ", here.strip()),
                    (choice.label.ljust(cells), "strong" + here), (hint, "dim" + here),
                )
            )  # fmt: skip
        self.show_rows(rows)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is not None and offset.y < len(self._choices):
            self.post_message(ChoiceClicked(offset.y))


class Dialog(ModalScreen[Value | None], Generic[Value]):
    """Gives one answer, or none."""

    def answer(self, value: Value | None) -> None:
        """Close with it. A second answer, by a key or a click that came while it closed, is none."""
        if self.is_current:
            self.dismiss(value)


class ChoiceDialog(Dialog[Value], Generic[Value]):
    """Asks for one of a few choices: by its letter, or arrows and Enter (which takes the first), or the mouse."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up"),
        Binding("down,j,tab", "move(1)", "down"),
        Binding("enter", "take", "take"),
        Binding("escape", "dismiss_none", "stay"),
    ]

    def __init__(self, title: str, text: str, choices: Sequence[Choice[Value]]) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._choices = list(choices)

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog") as box:
            set_titles(box, self._title, "esc back")
            if self._text:
                yield Static(Text(self._text), id="dialog-text")
            yield ChoiceList(self._choices)

    def on_mount(self) -> None:
        self.query_one(ChoiceList).focus()

    def action_move(self, by: int) -> None:
        listed = self.query_one(ChoiceList)
        listed.chosen = (listed.chosen + by) % len(self._choices)
        listed.draw()

    def action_take(self) -> None:
        self.answer(self._choices[self.query_one(ChoiceList).chosen].value)

    def action_dismiss_none(self) -> None:
        self.answer(None)

    def on_choice_clicked(self, message: ChoiceClicked) -> None:
        self.answer(self._choices[message.index].value)

    def on_key(self, event: events.Key) -> None:
        for choice in self._choices:
            if choice.key in (event.key, event.character):
                event.stop()
                self.answer(choice.value)
                return


@dataclass(frozen=True)
class Field:
    """One line to type. `check` gives what is wrong with it, or None."""

    label: str
    value: str = ""
    placeholder: str = ""
    check: Callable[[str], str | None] = lambda _text: None


class TypingDialog(Dialog[list[str]]):
    """Asks for one or more lines of text; Enter in the last takes them once all are right."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss_none", "back")]

    def __init__(self, title: str, text: str, fields: Sequence[Field]) -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._fields = list(fields)

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog") as box:
            set_titles(box, self._title, "enter takes it · esc back")
            if self._text:
                yield Static(Text(self._text), id="dialog-text")
            for i, field in enumerate(self._fields):
                with Horizontal(classes="dialog-field"):
                    yield Static(Text(field.label), classes="dialog-label")
                    yield TypedLine(field.value, placeholder=field.placeholder, id=f"field-{i}", compact=True)
            yield Static("", id="dialog-problem")

    def on_mount(self) -> None:
        self.query_one("#field-0", Input).focus()

    def _values(self) -> list[str]:
        return [self.query_one(f"#field-{i}", Input).value for i in range(len(self._fields))]

    def _problem(self) -> tuple[int, str] | None:
        for i, (field, value) in enumerate(zip(self._fields, self._values(), strict=True)):
            wrong = field.check(value)
            if wrong:
                return i, f"{field.label}: {wrong}"
        return None

    def on_input_changed(self) -> None:
        self.query_one("#dialog-problem", Static).update(Text(""))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        problem = self._problem()
        if problem is None:
            self.answer(self._values())
            return
        index, sentence = problem
        self.query_one("#dialog-problem", Static).update(Text(sentence))
        self.query_one(f"#field-{index}", Input).focus()

    def action_dismiss_none(self) -> None:
        self.answer(None)
