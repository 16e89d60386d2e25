"""Dialogs: a choice by key, or lines to type; then those of the dashboard, each with what its answers mean.

A dialog gives its answer, or None, to the callback that it was pushed with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from lmplay_tui.formats import counted, format_lr
from lmplay_tui.ui.messages import StageChange
from lmplay_tui.ui.tty.patches import TypedLine, set_titles
from lmplay_tui.ui.widgets.lines import Lines, Row, fitted

# What a run's dialogs are about comes with them: the launcher, which has a dialog too, stands before any of it is read.
if TYPE_CHECKING:
    from lmplay_tui.run.controls import Ask
    from lmplay_tui.run.status import StageView

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

    @dataclass
    class Clicked(Message):
        """A choice was clicked."""

        index: int

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
            self.post_message(self.Clicked(offset.y))


class Dialog(ModalScreen[Value | None], Generic[Value]):
    """Gives one answer, or none."""

    def answer(self, value: Value | None) -> None:
        """Close with it. A second answer, by a key or a click that came while it closed, is none."""
        if self.is_current:
            self.dismiss(value)


class ChoiceDialog(Dialog[Value], Generic[Value]):
    """Asks for one of a few choices: by its letter, or arrows and Enter (which takes the first), or the mouse."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "choose", key_display="↑↓"),
        Binding("down,j,tab", "move(1)", "down", show=False),
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

    def on_choice_list_clicked(self, message: ChoiceList.Clicked) -> None:
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


StopAnswer = Literal["now", "stage_end"]
QuitAnswer = Literal["stop", "detach", "stay"]


def stop_dialog(stage: str) -> ChoiceDialog[StopAnswer]:
    at_end = f"when stage {stage} is done" if stage else "when the stage is done"
    return ChoiceDialog(
        "Stop training?",
        "What has been trained is saved; the command that resumes is shown when the run has stopped.",
        [
            Choice("n", "now", "after this mini-batch: some seconds", "now"),
            Choice("e", "at the stage's end", at_end, "stage_end"),
        ],
    )


def quit_dialog() -> ChoiceDialog[QuitAnswer]:
    return ChoiceDialog(
        "Leave the dashboard?",
        "The run is in this window: end it here, or let it go on by itself.",
        [
            Choice("s", "stop and save", "resume later with the command that is shown", "stop"),
            Choice("d", "detach", "goes on by itself; see lmplay-tui attach", "detach"),
            Choice("c", "stay", "go on looking", "stay"),
        ],
    )


def lr_dialog(now: float | None, factor: float) -> TypingDialog:
    from lmplay_tui.run.learning_rate import parse_lr

    scaled = f", {factor:g} times the schedule." if factor != 1 else "."
    said = "" if now is None else f"It is {format_lr(now)} now{scaled}"
    return TypingDialog(
        "Learning rate",
        f"{said} *0.5 halves it, 1e-4 sets it. The schedule goes on below it; kept on a resume.".strip(),
        [
            Field(
                "new",
                placeholder="*0.5",
                check=lambda t: None if parse_lr(t) else "a number above 0, or * and a factor",
            )
        ],
    )


def bookmark_dialog(step: int) -> TypingDialog:
    return TypingDialog("Bookmark", f"Marks step {step:,} on the curves and in the log.", [Field("note")])


def _temperature(text: str) -> str | None:
    try:
        return None if 0 <= float(text) <= 10 else "from 0 to 10"
    except ValueError:
        return "a number from 0 to 10"


def _count(text: str, *, least: int, optional: bool = False) -> str | None:
    if optional and not text.strip():
        return None
    return None if text.strip().isdigit() and least <= int(text) <= 100_000 else f"a whole number, at least {least}"


def ask_dialog() -> TypingDialog:
    return TypingDialog(
        "Ask the model",
        "Answered with the weights of the next step. The training is not changed by it.",
        [
            Field("prompt", check=lambda t: None if t else "must not be empty"),
            Field("temperature", "0", "0: always the likeliest", _temperature),
            Field("top k", "", "all", lambda t: _count(t, least=1, optional=True)),
            Field("tokens", "64", "", lambda t: _count(t, least=1)),
        ],
    )


def asked(answers: list[str]) -> "Ask":
    """The command behind the answers of `ask_dialog`."""
    from lmplay_tui.run.controls import Ask

    prompt, temperature, top_k, tokens = answers
    return Ask(
        prompt, max_tokens=int(tokens), temperature=float(temperature), top_k=int(top_k) if top_k.strip() else None
    )


def stage_dialog(stage: "StageView") -> ChoiceDialog[StageChange]:
    """What can be done with a stage; the plan's new text is shown before it is applied."""
    finish = Choice[StageChange]("f", "finish", "end it some seconds from now", "finish")
    skip = Choice[StageChange]("k", "skip", "take it out of the plan", "skip")
    repeat = Choice[StageChange]("r", "repeat", "once more, after it", "repeat")
    extend = Choice[StageChange]("e", "extend", "more epochs", "extend")
    first = {"running": [finish], "waiting": [skip], "done": []}[stage.state]
    text = "The change goes into the plan editor; ctrl+s there applies it."
    return ChoiceDialog(f"Stage {stage.name}", text, [*first, extend, repeat])


def _epochs(text: str) -> str | None:
    try:
        return None if 0 < float(text) <= 10_000 else "above 0"
    except ValueError:
        return "a number of epochs, for example 0.5"


def extend_dialog(stage: "StageView") -> TypingDialog:
    now = f"It has {counted(stage.epochs, 'epoch')} now."
    return TypingDialog(f"Extend {stage.name}", now, [Field("more epochs", "1", check=_epochs)])


FinishedAnswer = Literal["view", "extend", "anew"]


def finished_dialog(name: str) -> ChoiceDialog[FinishedAnswer]:
    """A start of a run whose plan is done."""
    return ChoiceDialog(
        f"{name} is finished",
        "Its plan is done.",
        [
            Choice("v", "view", "look at its curves, predictions and log", "view"),
            Choice("e", "extend", "more epochs of its last stage", "extend"),
            Choice("n", "start anew", "its checkpoints move to NAME.past, none is lost", "anew"),
        ],
    )


def extend_run_dialog(name: str) -> TypingDialog:
    return TypingDialog(f"Extend {name}", "The plan's last stage goes on.", [Field("more epochs", "1", check=_epochs)])


def filter_dialog(what: str, pattern: str) -> TypingDialog:
    return TypingDialog(f"Filter {what}", "Words or regular expressions; nothing: all.", [Field("show", pattern)])


def save_plan_dialog(name: str, check: Callable[[str], str | None]) -> TypingDialog:
    text = "As a file of its own, for another run."
    return TypingDialog("Save the plan", text, [Field("file", name, check=check)])
