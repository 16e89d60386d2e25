"""The places of the product where tests put something else: each once, with what it stands for.

What a test wants to happen it makes happen: by a parameter, a file, a full disk, a signal. These places are for what
cannot be made from outside. A module that moves changes its line here; `tests.house` keeps other tests from replacing
anything in the product.
"""

import importlib
from collections.abc import Callable
from typing import Any

import pytest

SEAMS = {
    "row": "data.rows:Rows.items",  # a disk that is slow, or does not give a row
}


class Seams:
    """Puts something else in a place of `SEAMS`, until the test ends."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def put(self, name: str, value: Any) -> Any:
        """Put `value` there; what it stands for is returned."""
        module, _, path = SEAMS[name].partition(":")
        owner: Any = importlib.import_module(f"lmplay_tui.{module}")
        *outer, last = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        real = getattr(owner, last)
        self._patch.setattr(owner, last, value)
        return real

    def around(self, name: str, call: Callable[..., Any]) -> None:
        """`call(real, *arguments)` is made instead of `real(*arguments)`."""
        real: Callable[..., Any] = self.put(name, lambda *args, **named: call(real, *args, **named))

    def watch(self, name: str, look: Callable[..., Any]) -> None:
        """`look(*arguments)` is made before each call; what it raises ends it."""

        def looked(real: Callable[..., Any], *args: Any, **named: Any) -> Any:
            look(*args, **named)
            return real(*args, **named)

        self.around(name, looked)


@pytest.fixture
def seams(monkeypatch: pytest.MonkeyPatch) -> Seams:
    """Something else in one of the product's few places for it, until the test ends."""
    return Seams(monkeypatch)
