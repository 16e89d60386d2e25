"""What is wrong with a plan, each problem with its place: `x.toml:12: stages.finetune.epochs: must be above 0`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lmplay_tui.errors import UserError
from lmplay_tui.plan.positions import KeyPath, Places
from lmplay_tui.text import one_line

MAX_PROBLEMS = 100  # a file with more is of another kind, not a plan with mistakes

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Problem:
    """One mistake. `line` counts from 1; 0: the file as a whole could not be read."""

    file: str
    line: int
    key: str
    sentence: str

    def __str__(self) -> str:
        place = [self.file, str(self.line)] if self.line else [self.file]
        return ":".join(place) + ": " + (f"{self.key}: " if self.key else "") + self.sentence


class PlanError(UserError):
    """A plan cannot be used; `str` of it is one line a problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def shown_key(path: KeyPath) -> str:
    """A key as a message names it: `stages.finetune.weights[1]`; what TOML would quote is quoted."""
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            shown += ("." if shown else "") + (part if _BARE_KEY.fullmatch(part) else f'"{one_line(part, 60)}"')
    return one_line(shown, 120)


class Report:
    """The problems found so far in one file."""

    def __init__(self, file: str, places: Places | None = None) -> None:
        self._file = one_line(file, 300)
        self.places = places or Places()
        self._problems: list[Problem] = []
        self._left_out = 0

    @property
    def full(self) -> bool:
        """No further problem will be listed: what costs time to say need not be said."""
        return len(self._problems) >= MAX_PROBLEMS

    @property
    def clean(self) -> bool:
        """Nothing is wrong so far."""
        return not self._problems

    def add(self, path: KeyPath, sentence: str, line: int | None = None) -> None:
        """Note a problem of the key at `path`; its line is looked up unless given."""
        if self.full:
            self._left_out += 1
            return
        place = self.places.line(path) if line is None else line
        self._problems.append(Problem(self._file, place, shown_key(path), one_line(sentence, 500)))

    def problems(self) -> list[Problem]:
        """All problems in the order of their lines."""
        listed = sorted(self._problems, key=lambda problem: problem.line)
        if self._left_out:
            listed.append(Problem(self._file, listed[-1].line, "file", f"has {self._left_out} more problems"))
        return listed
