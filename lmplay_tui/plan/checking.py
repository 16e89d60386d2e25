"""Checks that every table of a plan goes through; what they find is reported with its place."""

from collections.abc import Iterable, Mapping
from typing import Any

from lmplay_tui.options import shown_value
from lmplay_tui.plan import keys
from lmplay_tui.plan.positions import KeyPath
from lmplay_tui.plan.problems import Report


def table_at(report: Report, path: KeyPath, value: object) -> dict[str, Any] | None:
    """The table at `path`; None, and reported, where it is something else."""
    table: dict[str, Any] | None
    table, problem = keys.checked(keys.TABLE, value)
    if problem is not None:
        report.add(path, problem)
    return table


def valid_keys(report: Report, path: KeyPath, table: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a table that are declared in `kinds` and have a valid value; the others are reported."""
    valid = {}
    for key, value in table.items():
        if key not in kinds:
            report.add((*path, key), keys.not_here(key, tuple(kinds), hint=not report.full))
            continue
        typed, problem = keys.checked(kinds[key], value)
        if problem is None:
            valid[key] = typed
        else:
            report.add((*path, key), problem)
    return valid


def valid_entries(report: Report, path: KeyPath, values: Iterable[object], kind: Any) -> list[tuple[KeyPath, Any]]:
    """The valid entries of a list, each with its place; the others are reported."""
    valid = []
    for index, value in enumerate(values):
        typed, problem = keys.checked(kind, value)
        if problem is None:
            valid.append(((*path, index), typed))
        else:
            report.add((*path, index), problem)
    return valid


def check_unique(report: Report, names: Iterable[tuple[KeyPath, str]], kind: str) -> None:
    """Report names that differ in upper and lower case alone: files may lie on a disk that takes them for one."""
    seen: dict[str, str] = {}
    for path, name in names:
        folded = name.casefold()
        if folded in seen:
            report.add(path, f"there is a {kind} {shown_value(seen[folded])} already; upper and lower case are one")
        seen.setdefault(folded, name)
