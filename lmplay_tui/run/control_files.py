"""Commands as files: how another process, or a script, asks a trainer for something.

A file in `NAME.run/control/` is a command (`{"command": "SetLearningRate", "factor": 0.5}`), or an empty file named
`save`, `stop`, `pause`, `resume` or `validate`. The run answers each with an `Answered` event that carries the file's
name (without `.json`) as `id`.
"""

import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from lmplay_tui.run.controls import (
    Ask,
    Bookmark,
    ChangePlan,
    Command,
    HandOver,
    Pause,
    Pin,
    Refused,
    Resume,
    SaveNow,
    SetLearningRate,
    Stop,
    ValidateNow,
)
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.text import one_line

if TYPE_CHECKING:
    from pydantic import TypeAdapter

POLL_S = 0.5
MAX_BYTES = 1 << 18  # a plan has at most 64 KiB
MAX_FILES = 1000  # a look: more than that is no person's doing

PLAIN: dict[str, Command] = {
    "save": SaveNow(),
    "stop": Stop(),
    "pause": Pause(),
    "resume": Resume(),
    "validate": ValidateNow(),
}

_KINDS: dict[str, type[Command]] = {
    kind.__name__: kind
    for kind in (
        SaveNow, Stop, Pause, Resume, ValidateNow, SetLearningRate, Bookmark,
        Ask, Pin, ChangePlan, HandOver,
    )
}  # fmt: skip


@cache
def _reader(kind: str) -> "TypeAdapter[Command]":
    """Made when such a command has come: who only leaves commands, as a screen does, needs none."""
    from pydantic import ConfigDict, TypeAdapter

    strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return TypeAdapter(type(kind, (_KINDS[kind],), {"__pydantic_config__": strict}))


def leave_command(run: RunFolder, command: Command) -> str:
    """Leave a command for the run and give its identity: the `id` of the answer, its own if it has one.

    Raises `OSError`.
    """
    command = with_identity(command)
    run.commands.write(f"{command.id}.json", json.dumps(command_record(command)).encode("utf-8"))
    return command.id


def with_identity(command: Command) -> Command:
    """The command with the `id` of its answer: its own, or a new one behind all that were given before."""
    return command if command.id else replace(command, id=f"{time.time_ns():020d}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def command_record(command: Command) -> dict[str, Any]:
    """A command as a control file holds it."""
    return {"command": type(command).__name__} | asdict(command)


def read_command(values: object, identity: str) -> Command:
    """The inverse of `command_record`. Raises `ValueError` for anything else."""
    if not isinstance(values, dict) or str(values.get("command")) not in _KINDS:
        raise ValueError(f'needs "command", one of {", ".join(_KINDS)}')
    from pydantic import ValidationError

    fields = {name: value for name, value in values.items() if name != "command"} | {"id": identity}
    try:
        # As JSON, because only there strictness lets a table become one of our classes.
        return _reader(str(values["command"])).validate_json(json.dumps(fields))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None


def _forget(_: Command) -> None:
    """Who takes a command has it in its hands alone."""


class ControlFiles:
    """The commands that lie in a run's control folder, taken out of it: a source of `Controls`.

    Plain files alone are taken out, by the names that commands have. Another that is not empty stays.
    """

    def __init__(
        self, run: RunFolder, clock: Callable[[], float] = time.monotonic, keep: Callable[[Command], None] = _forget
    ) -> None:  # fmt: skip
        """`keep`: called with each command before its file is removed."""
        self._keep = keep
        self._folder = run.control
        self._files = run.commands
        self._clock = clock
        self._looked_at = -POLL_S
        self._stuck: set[str] = set()  # files that cannot be removed: read once

    def sweep(self) -> None:
        """Remove what was meant for a process that is no more."""
        for name in self._names():
            self._remove(name)

    def __call__(self) -> list[Command]:
        """The new commands, oldest first; looks at most twice a second."""
        now = self._clock()
        if now - self._looked_at < POLL_S:
            return []
        self._looked_at = now
        return [self._take(name) for name in self._names() if not _is_unfinished(name)]

    def _names(self) -> list[str]:
        try:
            names = self._files.names(MAX_FILES + len(self._stuck))
        except OSError:
            return []
        return sorted(name for name in names if name not in self._stuck)[:MAX_FILES]

    def _take(self, name: str) -> Command:
        identity = name.removesuffix(".json")
        try:
            command = _parsed(name, self._files.read(name, MAX_BYTES), identity)
        except (OSError, ValueError, RecursionError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            command = Refused(f"control/{one_line(name, 80)}: {one_line(said)}", id=identity)
        self._keep(command)
        self._remove(name)
        return command

    def _remove(self, name: str) -> None:
        try:
            if name in PLAIN or name.endswith((".json", ".tmp")) or not self._files.status(name).st_size:
                self._files.remove(name)
            else:
                self._stuck.add(name)
        except FileNotFoundError:
            return
        except OSError:
            self._stuck.add(name)


def _is_unfinished(name: str) -> bool:
    return name.endswith(".tmp") or name.startswith(".")


def _parsed(name: str, data: bytes, identity: str) -> Command:
    """The command in a file. Raises `ValueError`."""
    if name in PLAIN:
        return replace(PLAIN[name], id=identity)
    if not name.endswith(".json"):
        raise ValueError(f"is no command; those are {', '.join(PLAIN)}, or a .json file")
    return read_command(json.loads(data), identity)
