"""Every command on every ground that a shell can give it: one line and a status, no traceback, no waiting."""

import contextlib
import ctypes
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

import pytest

from lmplay_tui.cli import main
from tests.examples import some
from tests.faults.forks import Child

COMMANDS = {
    "status": ["status", "m"],
    "status --json": ["status", "m", "--json"],
    "status --line": ["status", "m", "--line"],
    "runs": ["runs"],
    "runs --json": ["runs", "--json"],
    "runs tag": ["runs", "tag", "m", "good"],
    "runs note": ["runs", "note", "m", "a sentence"],
    "runs rename": ["runs", "rename", "m", "other"],
    "runs remove": ["runs", "remove", "m", "--yes"],
    "ctl": ["ctl", "m", "save"],
    "attach": ["attach", "m"],
    "check": ["check", "plan.toml"],
    "new": ["new", "stories.jsonl", "-o", "new.toml", "--no-check"],
    "plot": ["plot", "m"],
    "plot --terminal": ["plot", "m", "--terminal"],
    "generate": ["generate", "m.lmp", "Once", "--max-len", "2"],
    "export": ["export", "m", "--to", "csv"],
    "train": ["--headless", "--training-plan", "plan.toml", "--model", "new.lmp", "--device", "cpu"],
    "resume": ["--headless", "--model", "m.lmp", "--device", "cpu"],
    "--help": ["--help"],
    "--version": ["--version"],
}
NAMING = {  # a command with NAME in the place of each path that it takes
    "status": ["status", "NAME"],
    "status in": ["status", "x", "--out-dir", "NAME"],
    "runs in": ["runs", "--out-dir", "NAME"],
    "runs tag": ["runs", "tag", "NAME", "good"],
    "runs note": ["runs", "note", "NAME", "a sentence"],
    "runs rename": ["runs", "rename", "NAME", "other"],
    "runs remove": ["runs", "remove", "NAME", "--yes"],
    "ctl": ["ctl", "NAME", "save"],
    "attach": ["attach", "NAME"],
    "check": ["check", "NAME.toml"],
    "check in": ["check", "plan.toml", "--out-dir", "NAME", "--device", "cpu"],
    "check with": ["check", "plan.toml", "--exp", "NAME.py:Mine", "--device", "cpu"],
    "check from": ["check", "plan.toml", "--initial-model", "NAME.lmp", "--device", "cpu"],
    "new": ["new", "NAME", "--no-check"],
    "new from a file": ["new", "NAME.jsonl", "--no-check"],
    "new to": ["new", "stories.jsonl", "-o", "NAME.toml", "--no-check"],
    "plot": ["plot", "NAME"],
    "plot a file": ["plot", "NAME_train_stats.json"],
    "plot in": ["plot", "--out-dir", "NAME"],
    "plot a run in": ["plot", "x", "--out-dir", "NAME"],
    "generate": ["generate", "NAME.lmp"],
    "generate by": ["generate", "NAME", "Once"],
    "generate in": ["generate", "x", "Once", "--out-dir", "NAME"],
    "generate from": ["generate", "m.lmp", "--file", "NAME"],
    "generate with": ["generate", "m.lmp", "Once", "--exp", "NAME.py:Mine"],
    "export": ["export", "NAME", "--to", "csv"],
    "export a file": ["export", "NAME.lmp", "--to", "safetensors"],
    "export to": ["export", "m", "--to", "csv", "--output", "NAME"],
    "train by": ["--headless", "--training-plan", "NAME.toml", "--model", "new.lmp", "--device", "cpu"],
    "train in": ["--headless", "--training-plan", "plan.toml", "--out-dir", "NAME", "--device", "cpu"],
    "train with": ["--headless", "--training-plan", "plan.toml", "--exp", "NAME.py:Mine", "--device", "cpu"],
    "train from": ["--headless", "--training-plan", "plan.toml", "--model", "new.lmp", "--initial-model", "NAME.lmp"],
    "resume": ["--headless", "--model", "NAME/m.lmp", "--device", "cpu"],
}
REFUSALS = (2, 3)  # a mistake of the user's, a disk that does not take it


def plain() -> None:
    """Nothing is wrong."""


def output_without_a_reader() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def output_to_a_full_disk() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def all_output_to_a_full_disk() -> None:
    output_to_a_full_disk()
    os.dup2(1, 2)


def output_closed() -> None:
    os.close(1)


def folder_removed() -> None:
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()


def odd_environment() -> None:
    os.environ.update(
        COLUMNS="x", LINES="-4", HOME="/not/there", TMPDIR="/not/there", XDG_CACHE_HOME="\x01", TERM="", TZ="Mars/Base",
        OMP_NUM_THREADS="many", LMP_DATASETS="\udcff::", LANG="C", ESCDELAY="x", TEXTUAL_THEME="none", NO_COLOR="x",
    )  # fmt: skip


def huge_environment() -> None:
    os.environ.update(COLUMNS="9" * 30, LINES="9" * 30, HOME="", TMPDIR="", XDG_CACHE_HOME="", TERM="x" * 10_000)


def another_user() -> None:
    """Whom some entries refuse: a file, a folder that cannot be searched, one that cannot be listed."""
    import_module("matplotlib.backends.backend_agg")  # Python's own folder may be closed to that user
    for name, mode in (("secret.jsonl", 0o000), ("locked.lmp", 0o000), ("stories.jsonl", 0o644), ("plan.toml", 0o644)):
        Path(name).touch()
        Path(name).chmod(mode)
    for name, mode in (("locked.run", 0o600), ("sealed.run", 0o000), ("m.run", 0o755), (".", 0o777)):
        Path(name).mkdir(exist_ok=True)
        Path(name).chmod(mode)
    os.setgid(65534)
    os.setuid(65534)


def closed_folders() -> None:
    """`listed` may be listed, and no more; `closed` not even that. The modes hold for root too from here on."""
    for folder, mode in (("listed", 0o644), ("closed", 0o000)):
        for name in ("m.lmp", "m.toml", "m.jsonl", "m.py", "m_train_stats.json", "m.run/run.json"):
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        Path(folder).chmod(mode)
    version_3, no_capabilities = (ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(version_3, no_capabilities) == 0


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def local_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


def instead_of(name: str, what: Callable[[Path], None]) -> Callable[[], None]:
    def ground() -> None:
        path = Path(name)
        path.unlink(missing_ok=True)
        what(path)

    ground.__name__ = f"{what.__name__}_for_{name}"
    return ground


FILES = ("plan.toml", "stories.jsonl", "m.lmp", "m.run/run.json", "m.run/metrics.jsonl", "m.run/events.jsonl")
GROUNDS = [
    plain, output_without_a_reader, output_to_a_full_disk, all_output_to_a_full_disk, output_closed, folder_removed,
    odd_environment, huge_environment, another_user,
    *(
        instead_of(name, what)
        for name in FILES
        for what in (pipe, device, folder, local_socket)
    ),
]  # fmt: skip


def outcome(words: list[str], ground: Callable[[], None], place: Path) -> tuple[int, str]:
    """The exit status of a command on a ground, and what it says to standard error."""
    said = place / "said"

    def work(report: Callable[[int], None]) -> None:
        os.chdir(place)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(place / "printed", os.O_WRONLY | os.O_CREAT, 0o666), 1)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT, 0o666), 2)
        ground()
        for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):  # as Python begins
            setattr(sys, name, os.fdopen(number, mode, closefd=False) if is_open(number) else None)
            setattr(sys, f"__{name}__", getattr(sys, name))
        try:
            status = main(words)
        except SystemExit as end:  # of a help
            status = int(end.code or 0)
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        report(status)
        sys.stdout.flush()  # as Python does at its end, and complains where it cannot

    with Child(work) as child:
        status = next(child.reports(120), None)
        ended = child.wait(60)
    assert ended == 0, (status, ended, said.read_text(errors="replace")[-2000:])
    assert status is not None
    return status, said.read_text(errors="replace")


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def check(names: Iterable[str], ground: Callable[[], None], trained: Path, place: Path) -> None:
    for name in names:
        shutil.copytree(trained, place)
        status, said = outcome(COMMANDS[name], ground, place)
        assert "Traceback" not in said, (name, said[-2000:])
        assert status in (0, *REFUSALS), (name, status, said)
        if status and ground is not all_output_to_a_full_disk:  # `check` prints its report, problems too
            assert said or (place / "printed").read_text(errors="replace"), name
            assert len(said.splitlines()) <= 6, (name, said)  # a line each problem of a plan
        if ground is output_without_a_reader and not status:
            assert "written" not in said and "pipe" not in said, (name, said)
        shutil.rmtree(place)


@pytest.mark.sampled
@pytest.mark.parametrize("ground", some(GROUNDS, 3), ids=lambda ground: ground.__name__)
def test_some_commands_on(ground, trained, tmp_path):
    check([*COMMANDS][GROUNDS.index(ground) % 7 :: 7], ground, trained, tmp_path / "place")


@pytest.mark.parametrize("ground", [output_to_a_full_disk, all_output_to_a_full_disk], ids=lambda of: of.__name__)
def test_what_is_printed_bit_by_bit_on_a_full_disk(ground, trained, tmp_path):
    check(["generate", "plot"], ground, trained, tmp_path / "place")


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["x" * 300, "listed", "listed/m", "closed/m"], ids=lambda name: name[:10])
@pytest.mark.parametrize("command", some([*NAMING], 3))
def test_a_path_at_which_the_system_will_not_look(command, name, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "place")
    words = [word.replace("NAME", name) for word in NAMING[command]]
    status, said = outcome(words, closed_folders, tmp_path / "place")
    assert status in (0, *REFUSALS), (status, said[-2000:])
    assert len(said.splitlines()) <= 2, said[-2000:]
    if command == "runs in":
        assert "stopped" in (tmp_path / "place" / "printed").read_text(encoding="utf-8"), "the run beside it is listed"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ground", GROUNDS, ids=lambda ground: ground.__name__)
def test_every_command_on(ground, trained, tmp_path):
    check(COMMANDS, ground, trained, tmp_path / "place")
