"""Shell completion, asked of the shells themselves."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmplay_tui.cli import main
from lmplay_tui.command_line import COMMANDS
from lmplay_tui.commands.completion import places
from lmplay_tui.options import OPTIONS
from lmplay_tui.plan.builtin import shipped_plans
from lmplay_tui.run.folder import RunFolder
from tests.faults.terminals import until
from tests.ui.terminal_screen import ScreenTerminal

BASH = """
eval "$(cat script.bash)"
COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_lmplay_tui "${{COMP_WORDS[0]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("out_gpt/my_run", "other_run"):
        RunFolder(Path(f"{name}.lmp")).create()
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        Path(f"script.{shell}").write_text(capsys.readouterr().out, encoding="utf-8")
    Path("a plan.toml").touch()
    Path("data.jsonl").touch()
    return tmp_path


def offered(shell: str, line: str) -> set[str]:
    """What the shell offers at the end of the line."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    if shell == "fish":
        program = ["fish", "--no-config", "-c", f"source script.fish; complete -C {shlex.quote(line)}"]
    else:
        words = [*line.split(" ")] if "=" not in line else line.replace("=", " = ").rstrip(" ").split(" ")
        program = ["bash", "--norc", "-c", BASH.format(words=" ".join(map(shlex.quote, words)))]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60)
    return {each.split("\t")[0] for each in done.stdout.splitlines()}


SHELLS = pytest.mark.parametrize("shell", ["bash", "fish"])


@SHELLS
def test_commands_and_actions(folder: Path, shell: str) -> None:
    assert set(COMMANDS) <= offered(shell, "lmplay-tui ")
    assert offered(shell, "lmplay-tui sta") == {"status"}
    assert {"rename", "tag", "untag", "note", "remove"} <= offered(shell, "lmplay-tui runs ")
    assert {"bash", "zsh", "fish"} == offered(shell, "lmplay-tui completion ")


@SHELLS
@pytest.mark.parametrize("program", ["lmp_trainer", "lmplay-tui"])
def test_every_option_of_a_run_and_its_choices(folder: Path, shell: str, program: str) -> None:
    flags = offered(shell, f"{program} --")
    assert {option.flag for option in OPTIONS.values()} | {"--context-len", "--no-shuffle"} <= flags
    assert not any(" " in flag for flag in flags)
    assert offered(shell, f"{program} --lr-schedule ") == {"constant", "cosine", "linear", "wsd"}
    assert offered(shell, f"{program} --optimizer ada") == {"adam", "adamw", "adagrad"}
    assert {*shipped_plans(), "data.jsonl"} <= offered(shell, f"{program} --training-plan ")
    assert "data.jsonl" not in offered(shell, f"{program} --lr "), "a number is no file"
    folders = {each.rstrip("/").removeprefix("./") for each in offered(shell, f"{program} --out-dir ")}
    assert {"out_gpt", "other_run.run"} <= folders and "data.jsonl" not in folders


@SHELLS
def test_runs_files_and_plans_where_they_belong(folder: Path, shell: str) -> None:
    for line in ("status", "attach", "export", "ctl", "runs rename", "runs tag", "runs remove"):
        assert {"my_run", "other_run"} <= offered(shell, f"lmplay-tui {line} "), line
        assert offered(shell, f"lmplay-tui {line} my") >= {"my_run"}
    assert {"save", "stop", "pause"} <= offered(shell, "lmplay-tui ctl my_run ")
    assert {"my_run"} <= offered(shell, "lmp_generator my")
    assert {"demo", "data.jsonl"} <= offered(shell, "lmplay-tui check ")
    assert "data.jsonl" in offered(shell, "lmplay-tui new d")
    assert {"--json", "--watch", "--line"} <= offered(shell, "lmplay-tui status --")
    assert "--lr" not in offered(shell, "lmplay-tui status --")
    assert {"safetensors", "csv", "tensorboard"} == offered(shell, "lmplay-tui export --to ")
    assert {"--yes"} <= offered(shell, "lmplay-tui runs remove --")


def test_bash_completes_a_file_with_a_space_and_a_value_behind_an_equals_sign(folder: Path) -> None:
    assert "a plan.toml" in offered("bash", "lmplay-tui check a")
    assert offered("bash", "lmp_trainer --lr-schedule=") == {"constant", "cosine", "linear", "wsd"}
    assert offered("bash", "lmp_trainer --lr-schedule=co") == {"constant", "cosine"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_only_what_a_run_can_be_called_is_told_to_a_shell(folder: Path, shell: str) -> None:
    """A folder may be called anything; what a shell is told it may type, and so run."""
    others = (
        "$(touch pwned)", "`touch pwned`", "a;touch pwned", "a b", "it's", 'a"b', "a\nb", "a|b", "~", "$HOME", "*",
        "-rf", "_x", "a.b", "\x1b[31m", "x\\", "",
    )  # fmt: skip
    for name in others:
        Path(f"{name}.run").mkdir()
    names = subprocess.run(
        ["sh", "-c", Path(f"script.{shell}").read_text(encoding="utf-8").partition("_tui_runs")[2].splitlines()[1]],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sorted(names.stdout.splitlines()) == ["my_run", "other_run"]
    if shell != "zsh" and shutil.which(shell):
        told = offered(shell, "lmplay-tui attach ")
        assert {"my_run", "other_run"} <= told and not set(others) & told


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_folder_from_another_hand_is_not_typed_as_a_command(folder: Path, shell: str) -> None:
    """In the shell itself: the one name that fits, and Enter."""
    Path("z$(touch pwned).run").mkdir()
    with shell_of(folder, shell) as terminal:
        terminal.type("lmplay-tui attach z\t\x01: \r")  # Ctrl+A and a colon: the words are expanded, nothing is begun
        terminal.type("echo do''ne\r")
        until(lambda: "\ndone" in terminal.screen, 30)
        assert not Path("pwned").exists()


@contextlib.contextmanager
def shell_of(folder: Path, shell: str) -> Iterator[ScreenTerminal]:
    """A terminal with the shell in it that has our script."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    rc = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    begin = {"bash": "", "zsh": "autoload -U compinit; compinit -u -D; ", "fish": ""}[shell]

    def run() -> int:
        os.environ.update({"PS1": "$ ", "HOME": str(folder), "TERM": "dumb" if shell == "bash" else "vt100"})
        os.execvp(shell, [shell, *rc, "-i"])

    with ScreenTerminal(run, (100, 24)) as terminal:
        terminal.type(f"{begin}source ./script.{shell}; echo re''ady\r")
        until(lambda: "\nready" in terminal.screen, 30)
        yield terminal
        terminal.type("\x15exit\r")
        terminal.wait(30)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_tab_in_the_shell_itself(folder: Path, shell: str) -> None:
    """A terminal, the shell in it, and keys: what a user sees."""
    with shell_of(folder, shell) as terminal:
        terminal.type("lmplay-tui sta\t")
        until(lambda: "lmplay-tui status" in terminal.screen, 30)
        terminal.type("my\t")
        until(lambda: "lmplay-tui status my_run" in terminal.screen, 30)
        terminal.type("\x15lmp_trainer --lr-sch\tcos\t")
        until(lambda: "lmp_trainer --lr-schedule cosine" in terminal.screen, 30)


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "invalid choice: 'tcsh' (choose from" in capsys.readouterr().err


def test_the_script_is_made_without_torch() -> None:
    program = (
        "import sys; from lmplay_tui.cli import main; main(['completion', 'bash']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_place_says_what_may_stand_behind_it() -> None:
    found = {place.name: place for place in places()}
    assert {*COMMANDS, "", "train", "runs tag"} <= found.keys()
    for place in found.values():
        assert {"--help", "--version"} <= {flag.name for flag in place.flags}, place.name
        for flag in place.flags:
            assert flag.help and "%" not in flag.help, flag
