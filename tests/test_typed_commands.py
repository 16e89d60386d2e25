"""The commands that are printed work as they stand, in the folder and the shell in which the program was started."""

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import lmplay_tui

PROGRAMS = {"lmplay-tui": "main", "lmp_trainer": "trainer_main", "lmp_plotstats": "plotstats_main"}
PACKAGE = Path(lmplay_tui.__file__).parent.parent
PLAIN = "/usr/bin:/bin"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with a `.venv`, as `make run` leaves it."""
    folder = tmp_path / "my clone"
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    for name, function in PROGRAMS.items():
        file = programs / name
        file.write_text(
            f"#!/bin/sh\n'''exec' {shlex.quote(sys.executable)} \"$0\" \"$@\"\n' '''\n"
            f"import sys\nsys.path.insert(0, {str(PACKAGE)!r})\n"
            f"from lmplay_tui import cli\nsys.exit(cli.{function}())\n",
            encoding="utf-8",
        )
        file.chmod(0o755)
    return folder


def shell(line: str, folder: Path, path: str = PLAIN) -> subprocess.CompletedProcess[str]:
    libraries = [str(PACKAGE), sysconfig.get_path("purelib")]  # for an interpreter outside the environment, too
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(libraries)}
    return subprocess.run(["sh", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False)


STARTS = {  # how a program is started, in which folder below the clone, and how its commands are then typed
    "by its path": (".venv/bin/lmplay-tui", ".", PLAIN, ".venv/bin/lmplay-tui"),
    "by its name": ("lmplay-tui", ".", f"{{}}/.venv/bin:{PLAIN}", "lmplay-tui"),
    "from within its folder": ("./lmplay-tui", ".venv/bin", PLAIN, "./lmplay-tui"),
    "from elsewhere": ("../.venv/bin/lmplay-tui", "data", PLAIN, "../.venv/bin/lmplay-tui"),
    "by its whole path": ("'{}/.venv/bin/lmplay-tui'", "data", PLAIN, "'{}/.venv/bin/lmplay-tui'"),
    "another of its programs": (".venv/bin/lmp_trainer --json --model", ".", PLAIN, ".venv/bin/lmp_trainer"),
    "by the interpreter": (f"{shlex.quote(sys.executable)} -m lmplay_tui.cli", ".", PLAIN, None),
}


@pytest.mark.parametrize("how", STARTS)
def test_what_is_printed_can_be_typed(clone: Path, how: str) -> None:
    typed, below, path, shown = STARTS[how]
    folder = clone / below
    folder.mkdir(exist_ok=True)
    path, typed = path.format(clone), typed.format(clone)
    words = " status nowhere" if "--model" not in typed else ""
    said = shell(typed + words, folder, path)
    assert said.returncode == 2, said.stderr
    mark = "see: " if words else "see "
    command = said.stderr.strip().rpartition(mark)[2]
    if shown is not None:
        assert command.startswith(shown.format(clone) + (" runs" if words else " --help"))
    done = shell(command, folder, path)
    assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.mark.parametrize(("program", "words"), [("lmp_trainer", "--help"), ("lmp_plotstats", "--help")])
def test_a_program_that_is_not_installed_is_typed_by_the_interpreter(program: str, words: str, tmp_path: Path) -> None:
    code = f"from lmplay_tui.process import typed; print(typed({program + ' ' + words!r}))"
    place = tmp_path / "bare"
    place.mkdir()
    (place / "python").symlink_to(sys.executable)
    printed = shell(f"{place}/python -c {shlex.quote(code)}", tmp_path)
    command = printed.stdout.strip()
    assert command.startswith("bare/python -m lmplay_tui.cli ")
    assert "usage: lmplay-tui" in shell(command, tmp_path).stdout
