"""What tests ask of several commands: a mistake in one line, a help that can be read; and rows to give them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lmplay_tui.errors import EXIT_USAGE, UserError
from tests.train.runs import SENTENCES


def assert_refused(command: Callable[..., int], *words: str, said: str) -> None:
    """It ends with the status of a mistake, and says this in one line."""
    with pytest.raises(UserError) as caught:
        command(*words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE


def help_of(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> str:
    """What `--help` says, in lines of no more than 100 letters."""
    with pytest.raises(SystemExit) as left:
        command("--help")
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    return text


def write_stories(*paths: Path) -> None:
    """Files of 20 rows: a title and a text."""
    rows = [{"title": f"Story {i}", "text": " ".join(SENTENCES[i % 7 :])} for i in range(20)]
    for path in paths:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
