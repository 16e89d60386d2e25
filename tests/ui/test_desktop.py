"""Bell, desktop notification and title: sent where they are understood, and never more than they say."""

import re
from collections.abc import Mapping

import pytest

from lmplay_tui.run import events as happened
from lmplay_tui.run.journal import stamp
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.notices import News
from lmplay_tui.ui.tty.looks import notification, title_sequence
from tests.seams import Seams
from tests.ui.conftest import Open, tick
from tests.ui.fake import FakeSource, fed, started, step_done

XTERM = {"TERM": "xterm-256color"}
HOSTILE = "a\x07\x1b]52;c;aGk=\x07\x1b\\ \x9c4;1;50\nb\u202e"


@pytest.mark.parametrize(
    "environ",
    [{"TERM": "linux"}, {"TERM": "dumb"}, {"TERM": "vt100"}, {"TERM": "screen.xterm-256color"}, {"TERM": "ansi"}, {}],
)
def test_terminals_that_would_show_it_get_nothing(environ: Mapping[str, str]) -> None:
    assert notification("done", environ) == title_sequence("done", environ) == ""


@pytest.mark.parametrize("term", ["xterm-256color", "xterm-kitty", "xterm-ghostty", "foot", "alacritty", "wezterm"])
def test_terminals_that_know_it_or_pass_it_over_get_it(term: str) -> None:
    assert notification("done", {"TERM": term}) == "\x1b]9;lmplay-tui: done\x07"
    assert title_sequence("41 %", {"TERM": term}) == "\x1b]2;41 %\x07"


def test_in_tmux_it_is_wrapped() -> None:
    inside = {"TERM": "screen-256color", "TMUX": "/tmp/tmux-0/default,1,0"}
    assert notification("done", inside) == "\x1bPtmux;\x1b\x1b]9;lmplay-tui: done\x07\x1b\\"
    over_ssh = {"TERM": "tmux-256color"}  # the multiplexer is at the user's end of the line
    assert notification("done", over_ssh) == notification("done", inside)
    assert title_sequence("41 %", inside) == "\x1b]2;41 %\x07", "tmux has a title of its own for the pane"


def test_foreign_text_ends_nothing_early() -> None:
    for sequence in (notification(HOSTILE, XTERM), title_sequence(HOSTILE, XTERM)):
        assert re.fullmatch(r"\x1b\][29];[^\x00-\x1f\x7f-\x9f]*\x07", sequence)
    wrapped = notification(HOSTILE, {"TERM": "tmux"})
    assert re.fullmatch(r"\x1bPtmux;\x1b\x1b\]9;[^\x00-\x1f\x7f-\x9f]*\x07\x1b\\", wrapped)
    assert len(notification("x" * 10_000, XTERM)) < 300


RINGS = [
    happened.StageDone("topics", 0, 40, 400, 9000, 61.0),
    happened.RunFailed("no memory", 3, 40, None),
    happened.RunDone(40, "m.lmp", 100.0),
    happened.LossSpiked(40, "topics", 8.25, 3.1, 21.0, 390, 399),
    happened.Stalled("data", 70.0, 0.2, 40),
]
QUIET = [
    happened.Warned("the disk is slow", 40),
    happened.CheckpointSaved("m.lmp", 40, 400, 1_000_000, 0.4, 0.1, "asked"),
    happened.Bookmarked(40, "here"),
]


@pytest.mark.parametrize("event", [*RINGS, *QUIET], ids=lambda event: type(event).__name__)
@pytest.mark.long_after(2)
async def test_what_rings(
    dashboard: Open, monkeypatch: pytest.MonkeyPatch, seams: Seams, event: happened.Event
) -> None:
    sent: list[str] = []
    bells: list[int] = []
    monkeypatch.setattr(LmplayApp, "_to_terminal", lambda _, sequence: sent.append(sequence))
    seams.put("bell", lambda _: bells.append(1))
    source = fed(40)
    async with dashboard(source) as pilot:
        sent.clear()
        bells.clear()
        source.waiting.append(event)
        await tick(pilot)
        notes = [sequence for sequence in sent if sequence.startswith("\x1b]9;")]
        assert len(bells) == len(notes) == (event in RINGS)
        await tick(pilot)
        assert len(bells) == (event in RINGS), "once"


async def test_old_news_of_a_journal_ring_nothing(dashboard: Open, seams: Seams) -> None:
    bells: list[int] = []
    seams.put("bell", lambda _: bells.append(1))
    source = FakeSource()
    source.waiting += [started(), step_done(1, "topics", 10, 10, 5.0)]
    async with dashboard(source) as pilot:
        source.view.follow(RINGS[0], stamp("2026-09-01T12:00:00.000Z"))
        await tick(pilot)
        assert not bells


def test_a_spike_among_a_hundred_lines_keeps_its_toast_and_its_bell() -> None:
    source, news = fed(30), News()
    news.of(source.view)
    source.waiting = [happened.LossSpiked(40, "topics", 8.25, 3.1, 21.0, 390, 399)]
    source.waiting += [happened.Bookmarked(40, "here")] * 100
    source.poll()
    assert [(notice.title, notice.rings) for notice in news.of(source.view)] == [("loss spike", True)]
    source.waiting = [happened.Validated(40, "topics", 400, 9000, 3.0, 0.4, 4, 0.2)] * 3
    source.poll()
    assert news.of(source.view) == [], "what was told is not told again, though a validation gives way to the next"


def test_a_run_that_spikes_at_each_step_does_not_ring_at_each() -> None:
    source, news = fed(30), News()
    news.of(source.view)
    rung = 0
    for step in range(40, 80):
        source.clock.now += 1
        source.waiting = [happened.LossSpiked(step, "topics", 8.25, 3.1, 21.0, 390, 399)]
        source.poll()
        rung += sum(notice.rings for notice in news.of(source.view))
    assert rung == 4
    source.waiting = [happened.RunFailed("no memory", 3, 80, None)]
    source.poll()
    assert [notice.rings for notice in news.of(source.view)] == [True]
