"""Command lines made from the declared options, and back: a parser, what was given, the words that give it again."""

import argparse
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from lmplay_tui.errors import UserError
from lmplay_tui.options.declared import TrainOptions, Where, extra, flag, where
from lmplay_tui.options.values import check, home_path, nearest, shown_value
from lmplay_tui.text import one_line


class _Parser(argparse.ArgumentParser):
    """An argparse that says a mistake in one line and leaves the exit to its caller."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {one_line(message)}; see {self.prog} --help")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=100)


def new_parser(
    prog: str, description: str, epilog: str | None = None, usage: str | None = None
) -> argparse.ArgumentParser:
    """An argument parser whose mistakes are `UserError`s of one line."""
    return _Parser(
        prog=prog, usage=usage, description=description, epilog=epilog, allow_abbrev=False,
        formatter_class=_HelpFormatter, argument_default=argparse.SUPPRESS,
    )


def add_options(parser: argparse.ArgumentParser, leave_out: Iterable[str] = ()) -> None:
    """Add every declared option to `parser`, in groups; what the line does not give stays out of the namespace."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    left_out = set(leave_out)
    for name, field in TrainOptions.model_fields.items():
        if name in left_out:
            continue
        about = extra(name)
        title = about["group"]
        group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        flags = [flag(name)] if name != "context_len" else ["--context_len", "--context-len"]
        help_text = f"{field.description} {_default_note(name)}".rstrip().replace("%", "%%")
        if field.annotation is bool:
            if where(name) is Where.LINE:
                group.add_argument(*flags, dest=name, action="store_true", help=help_text)
            else:  # a plan may say true: the line must be able to say no
                group.add_argument(*flags, dest=name, action=argparse.BooleanOptionalAction, help=help_text)
        else:
            group.add_argument(*flags, dest=name, help=help_text, metavar=about["metavar"] or _metavar(name))


def _default_note(name: str) -> str:
    field = TrainOptions.model_fields[name]
    shown = extra(name)["shown_default"]
    if shown is None:
        shown = None if field.default is None or field.default is False else str(field.default)
    return f"[{shown}]" if shown else ""


def _metavar(name: str) -> str:
    annotation = TrainOptions.model_fields[name].annotation
    is_union = get_origin(annotation) in (Union, types.UnionType)
    kinds = get_args(annotation) if is_union else (annotation,)
    for kind in kinds:
        if get_origin(kind) is Literal:
            return "|".join(str(choice) for choice in get_args(kind))
    return "N" if int in kinds else "X" if float in kinds else name.upper()


def parse_line(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; an unknown option is refused with the nearest known one.

    Raises `UserError` of one line for each mistake.
    """
    namespace, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        word = unknown[0].split("=")[0]
        known = [s for action in parser._actions for s in action.option_strings]
        kind = "option" if word.startswith("-") else "argument"
        raise UserError(f"{parser.prog}: unknown {kind} {shown_value(word)}{nearest(word, known)}")
    return namespace


def given_options(namespace: argparse.Namespace) -> dict[str, Any]:
    """The options that a command line gave, typed and checked: all their problems at once.

    Raises `UserError`, one line a problem.
    """
    given: dict[str, Any] = {}
    problems = []
    for name in TrainOptions.model_fields:
        if not hasattr(namespace, name):
            continue
        value, problem = check(name, getattr(namespace, name), strict=False)
        if problem is None and extra(name)["is_path"]:
            value, problem = _at_home(value)
        if problem is None:
            given[name] = value
        else:
            problems.append(f"{flag(name)}: {problem}")
    if problems:
        raise UserError("\n".join(problems))
    return given


def _at_home(value: str) -> tuple[str, str | None]:
    try:
        return home_path(value), None
    except UserError as error:
        return value, str(error)


def command_words(given: Mapping[str, Any]) -> list[str]:
    """The words of a command line that gives these options: the inverse of `given_options`."""
    words: list[str] = []
    for name, value in given.items():
        if value is True:
            words.append(flag(name))
        elif value is False:
            words.append(re.sub("^--", "--no-", flag(name)))
        elif value is not None:
            words += [flag(name), str(value)]
    return words
