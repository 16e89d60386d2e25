"""Help's second page holds every sign, colour and term that the screens use; the first hints are read once."""

import re
from pathlib import Path

import pytest
from textual.widgets import TextArea

from lmplay_tui.options import Launch
from lmplay_tui.run.metric_names import METRICS
from lmplay_tui.ui import hints, theme
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.hints import HINTS
from lmplay_tui.ui.legend import STEP_PARTS, TERMS, sections
from lmplay_tui.ui.screens.help import legend_blocks
from lmplay_tui.ui.widgets.lines import Lines, row_width
from tests.ui.conftest import Open, text_of, tick, until
from tests.ui.fake import FakeSource, fed
from tests.ui.test_snapshots import SITTINGS, opened, settled

# What is read as it is written: arrows of keys, a sign for "times", marks of a sentence, the frame of a chart.
PLAIN = set("←→↑↓×·…–—−°␛␇│┤└┬┴─┼")
NAMES = {  # that say themselves what they are
    "stage", "device", "cpu", "memory", "speed", "gpu 0", "vram 0", "kind", "plan", "stages", "run", "state",
    "time here", "train loss", "val loss", "tokens", "saved",
}  # fmt: skip
LOOKED_AT = ("training", "paused", "failed", "left-out", "attached", "launcher", "ranks", "many-ranks")


def declared() -> tuple[set[str], set[str]]:
    """Characters of the legend's signs, and its styles."""
    signs = [sign for _, section in sections() for sign in section]
    return {char for sign in signs for char in sign.sign}, {sign.style for sign in signs}


def test_every_colour_is_explained() -> None:
    app = LmplayApp(Launch(), launcher=True, timers=False)
    assert declared()[1] - {""} == set(theme.styles_of(app.theme_variables))


@pytest.mark.long_after(5)
@pytest.mark.parametrize("name", LOOKED_AT)
async def test_what_a_screen_draws_is_explained(name: str) -> None:
    signs, styles = declared()
    async with opened(SITTINGS[name], (120, 40)) as pilot:
        for _, keys, _ in SITTINGS[name].looks:
            await pilot.press(*keys.split())
            await settled(pilot)
            for pane in pilot.app.screen.query(Lines):
                for text, names in (piece for row in pane.rows for piece in row):
                    assert set(names.split()) <= styles, (pane.id, text, names)
                    drawn = {
                        char for char in text if not char.isascii() and not char.isalpha() and not "⠀" <= char <= "⣿"
                    }
                    assert drawn <= signs | PLAIN, (pane.id, text)
                    terms = {term for term in re.split(r"\s{2,}", text.strip()) if term}
                    if names == "label" and pane.id not in ("curves", "help-legend"):
                        assert terms <= {*TERMS, *NAMES}, (pane.id, terms)
                    if names == "strong" and pane.id == "curves" and "…" not in text:
                        assert terms <= {*TERMS, *METRICS}, "the title of a chart"


async def test_the_legend_shows_all_that_is_declared(dashboard: Open) -> None:
    async with dashboard(fed(330)) as pilot:
        await pilot.press("question_mark", "question_mark")
        await tick(pilot)
        rows = ["".join(text for text, _ in row) for row in pilot.app.screen.query_one("#help-legend", Lines).rows]
    shown = "\n".join(rows)
    for _, section in sections():
        for sign in section:
            assert sign.sign in shown and sign.means.split()[0] in shown
    assert set(METRICS) <= set(shown.split())
    assert set(STEP_PARTS) >= {"data", "forward", "backward", "optimizer", "validate", "save"}
    assert all(row_width(row) == 51 for _, rows in legend_blocks() for row in rows)


def test_no_screen_speaks_as_its_makers_do() -> None:
    said = " ".join([*TERMS, *(sign.means for _, section in sections() for sign in section)])
    assert "argmax" not in said
    assert "unigram entropy" in TERMS["token counts alone"]
    assert {"packed", "freed memory kept"} <= set(TERMS)


@pytest.fixture
def new_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "lmplay-tui" / "hints-read"


async def test_the_first_hints_go_for_ever_at_a_key(dashboard: Open, new_user: Path, source: FakeSource) -> None:
    async with dashboard(source, (80, 24)) as pilot:
        await until(pilot, lambda: pilot.app.screen.query_one("#hints").display)
        await tick(pilot)
        for _, text in HINTS:
            assert text in text_of(pilot.app), "whole, also where there is little room"
        assert not new_user.exists()
        await pilot.press("p")
        await until(pilot, new_user.exists)
        await tick(pilot)
        assert HINTS[0][1] not in text_of(pilot.app)
        assert len(source.sent) == 1, "the key has done what it does"
    async with dashboard(fed(20), (80, 24)) as pilot:
        await pilot.pause(0.3)
        await tick(pilot)
        assert HINTS[0][1] not in text_of(pilot.app)


async def test_hints_hinder_nobody_whose_folder_cannot_be_written(
    dashboard: Open, new_user: Path, source: FakeSource
) -> None:
    new_user.parent.parent.write_text("a file in the folder's place")
    async with dashboard(source, (120, 40)) as pilot:
        await until(pilot, lambda: pilot.app.screen.query_one("#hints").display)
        await pilot.press("4", "a")
        await tick(pilot)
        assert pilot.app.screen.query_one(TextArea).text.startswith("a")
        assert not pilot.app.screen.query_one("#hints").display
    assert not hints.remembered().exists()
