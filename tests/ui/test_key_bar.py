"""The key bar names what keys do now; a letter that is typed into a text is no shortcut, and no shortcut is typed."""

from collections.abc import Iterator
from typing import Any

import pytest
from textual.binding import Binding
from textual.keys import REPLACED_KEYS, key_to_character
from textual.pilot import Pilot
from textual.widgets import Input, TextArea

from lmplay_tui.run import events as happened
from lmplay_tui.ui.screens.dashboard import Dashboard
from lmplay_tui.ui.screens.dialogs import TypingDialog
from lmplay_tui.ui.widgets.key_bar import KeyBar
from tests.ui.conftest import Open, tick
from tests.ui.fake import FakeSource
from tests.ui.test_every_key import our_classes

FIELDS = {
    "lr": "l",
    "bookmark": "b",
    "ask": "g",
    "filter": "slash",
    "save as": "4 f2",
    "plan": "4",
    "palette": "ctrl+p",
}


def character(key: str) -> str:
    """What the key types; nothing where it types no character."""
    typed = key_to_character(REPLACED_KEYS.get(key, key)) or ""
    return typed if typed.isprintable() else ""


def letters() -> Iterator[str]:
    """Every key bound by a class of ours that is a character."""
    found = {
        key
        for each in our_classes()
        for binding in each.__dict__.get("BINDINGS", ())
        if isinstance(binding, Binding)
        for key in binding.key.split(",")
    }
    yield from sorted(filter(character, found))


def shown(pilot: Pilot[Any]) -> str:
    (dashboard,) = (screen for screen in pilot.app.screen_stack if isinstance(screen, Dashboard))
    return "".join(text for text, _ in dashboard.query_one(KeyBar).rows[0])


@pytest.mark.long_after(2)
@pytest.mark.parametrize("name", FIELDS)
async def test_a_bound_letter_is_typed_into_a_field(dashboard: Open, source: FakeSource, name: str) -> None:
    async with dashboard(source) as pilot:
        await pilot.press(*FIELDS[name].split())
        await pilot.pause()
        field, screen = pilot.app.focused, pilot.app.screen
        assert isinstance(field, Input | TextArea)
        if isinstance(field, Input):
            assert name == "save as" or field.value in ("", "0.0006"), "the key that opened it is not typed"
            field.value = ""
        else:
            field.load_text("")
        bound = list(letters())
        assert len(bound) > 30 and {"q", "x", "s", "slash", "1", "z", "question_mark"} <= set(bound)
        for key in bound:
            await pilot.press(key)
        await pilot.pause()
        text = field.value if isinstance(field, Input) else field.text
        assert text == "".join(map(character, bound))
        assert pilot.app.screen is screen and pilot.app.focused is field and source.sent == []


async def test_the_bar_names_what_keys_do_now(dashboard: Open, source: FakeSource) -> None:
    async with dashboard(source, (200, 60)) as pilot:
        await pilot.press("2")
        assert "←→ metric" in shown(pilot) and "esc" not in shown(pilot)
        await pilot.press("enter")
        await pilot.pause()
        assert "←→ move" in shown(pilot) and "enter no cursor" in shown(pilot) and "esc back" in shown(pilot)
        await pilot.press("escape", "3", "enter")
        await pilot.pause()
        assert "←→ token" in shown(pilot)
        await pilot.press("escape", "z")
        await pilot.pause()
        assert "esc all panes" in shown(pilot)
        await pilot.press("z", "4")
        await pilot.pause()
        assert shown(pilot).split("  ")[0].strip() == "ctrl+s apply"
        for words in ("f5 max", "f1 help", "ctrl+q quit", "esc back"):
            assert words in shown(pilot)
        for words in ("s save ", "x stop", "p pause", "? help", " q quit"):
            assert words not in shown(pilot).replace("ctrl+s", "").replace("ctrl+q", "").replace("f2 save as", "")


@pytest.mark.parametrize(
    ("keys", "words"), [("x", "↑↓ choose  enter take  esc stay"), ("b", "enter take it  esc back")]
)
async def test_the_bar_names_a_dialogs_keys(dashboard: Open, source: FakeSource, keys: str, words: str) -> None:
    async with dashboard(source) as pilot:
        before = shown(pilot)
        await pilot.press(keys)
        await tick(pilot)
        assert shown(pilot).strip() == words
        assert isinstance(pilot.app.screen, TypingDialog) is (keys == "b")
        await pilot.press("escape")
        await tick(pilot)
        assert shown(pilot) == before


async def test_the_bar_names_no_command_where_nothing_runs(dashboard: Open, source: FakeSource) -> None:
    source.waiting.append(happened.Paused(330))
    async with dashboard(source, (200, 60)) as pilot:
        assert "p go on" in shown(pilot)
        source.waiting.append(happened.RunDone(330, "x.lmp", 1.0))
        source.exit_code = 0
        await tick(pilot)
        assert "save" not in shown(pilot) and "pause" not in shown(pilot) and "runs" in shown(pilot)
