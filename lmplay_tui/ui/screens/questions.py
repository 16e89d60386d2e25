"""The dashboard's dialogs: what each asks, and what an answer means."""

from collections.abc import Callable
from typing import Literal

from lmplay_tui.run.controls import Ask
from lmplay_tui.run.learning_rate import parse_lr, shown_lr
from lmplay_tui.run.view_parts import StageView
from lmplay_tui.ui.messages import StageChange
from lmplay_tui.ui.screens.dialogs import Choice, ChoiceDialog, Field, TypingDialog

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
    scaled = f", {factor:g} times the schedule." if factor != 1 else "."
    said = "" if now is None else f"It is {shown_lr(now)} now{scaled}"
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


def asked(answers: list[str]) -> Ask:
    """The command behind the answers of `ask_dialog`."""
    prompt, temperature, top_k, tokens = answers
    return Ask(
        prompt, max_tokens=int(tokens), temperature=float(temperature), top_k=int(top_k) if top_k.strip() else None
    )


def stage_dialog(stage: StageView) -> ChoiceDialog[StageChange]:
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


def extend_dialog(stage: StageView) -> TypingDialog:
    now = f"It has {stage.epochs:g} epochs now."
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
