"""Every command that the README names is there: its programs, their commands and options, make's targets."""

import contextlib
import io
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmplay_tui import cli, command_line
from lmplay_tui.options import OPTIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = {
    "lmplay-tui": cli.main, "lmp_trainer": cli.trainer_main, "lmp_plotstats": cli.plotstats_main,
    "lmp_generator": cli.generator_main,
}  # fmt: skip
OF_OTHERS = {"git", "cd", "rsync", "ssh", "tmux"}
Command = tuple[str, ...]


def commands_in(line: str) -> list[Command]:
    """The commands of a shell line, without what is set for them and where their streams go."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|<>;")
    lexer.whitespace_split, lexer.commenters = True, "#"
    commands: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if word in ("&&", "|", ";"):
            commands.append([])
        elif word in ("<", ">"):
            next(words, None)
        elif commands[-1] or not re.fullmatch(r"[A-Z_]+=\S*", word):
            commands[-1].append(word)
    return [tuple(words) for words in commands if words]


def shell_commands() -> Iterator[Command]:
    """What stands in the README's shell blocks."""
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield from commands_in(line)


def spans() -> Iterator[Command]:
    """What stands between backquotes in its text and tables, as far as a shell could read it."""
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", README, flags=re.DOTALL)):
        with contextlib.suppress(ValueError):
            yield from commands_in(span)


def under_launchers() -> Iterator[Command]:
    """Our programs in the lines of docs/many-devices.md, behind torchrun or srun too."""
    page = (ROOT / "docs" / "many-devices.md").read_text(encoding="utf-8")
    for block in re.findall(r"```\n(.*?)```", page, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if ours := re.search(r"\b(lmp_trainer|lmplay-tui) [^|]+", line):
                yield commands_in(ours[0])[0]


COMMANDS = sorted({*shell_commands(), *spans()})
OURS = [command for command in COMMANDS if Path(command[0]).name in PROGRAMS] + sorted(under_launchers())


def said(program: str, *words: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        PROGRAMS[program]([*words, "--help"])
    return out.getvalue()


@pytest.mark.parametrize("command", OURS, ids=" ".join)
def test_a_command_of_ours_is_there_with_its_options(command: Command) -> None:
    program, words = Path(command[0]).name, list(command[1:])
    about = [words.pop(0)] if words and program == "lmplay-tui" and not words[0].startswith("-") else []
    assert not about or about[0] in command_line.COMMANDS, f"no command {about[0]}"
    known = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", said(program, *about)))
    used = {word.partition("=")[0] for word in words if word.startswith("-")}
    assert used <= known | {"--version"}


def test_an_option_that_is_named_alone_is_there() -> None:
    known = {option.flag for option in OPTIONS.values()}
    known |= {flag for name in command_line.COMMANDS for flag in re.findall(r"--[a-z][\w-]*", said("lmplay-tui", name))}
    named = {command[0].partition("=")[0] for command in COMMANDS if command[0].startswith("--")}
    assert "--detach" in named
    assert named <= known


def test_the_targets_of_make_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {command[1] for command in COMMANDS if command[0] == "make"}
    assert {"run", "test"} <= named <= targets


def test_no_line_of_its_shell_blocks_is_left_out() -> None:
    """Each is a command of ours, of make, or one that a shell has."""
    assert {command[0] for command in shell_commands()} <= {*PROGRAMS, *OF_OTHERS, "make"}


def test_the_commands_are_reached_as_it_says() -> None:
    """`make run` says where they lie, as the README does, and shows what it installs."""
    asked = ["make", "--dry-run", "--always-make", "run"]
    would_run = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ". .venv/bin/activate" in README
    assert ". .venv/bin/activate" in would_run
    assert "--quiet" not in would_run
