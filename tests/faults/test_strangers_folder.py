"""A run's folder from another hand: what lies in place of its files is not followed, not waited for, not written to."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmplay_tui.cli import main
from lmplay_tui.commands.train import main as trainer_main
from lmplay_tui.errors import UserError
from lmplay_tui.run.control_files import leave_command
from lmplay_tui.run.controls import Controls, Stop
from lmplay_tui.run.events import Event, RunFailed
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.recorder import LOG_LIMIT_BYTES, LogFile
from lmplay_tui.run.upkeep import rename
from lmplay_tui.train.checkpoint import load_checkpoint, write_checkpoint
from lmplay_tui.train.checkpointer import CheckpointWriter, SaveRequest
from lmplay_tui.train.launch import run_events
from lmplay_tui.ui.source import FolderSource
from tests.faults.terminals import until
from tests.train.parted import save_in_parts
from tests.train.runs import given, last, stop_after, train, write_plan

FILES = (
    "run.json", "plan.toml", "metrics.jsonl", "events.jsonl", "predictions.jsonl", "log.txt", "log.1.txt", "lock",
    "ranks.json", "run.json.tmp", "plan.toml.tmp", "predictions.jsonl.tmp", "plan.draft.toml", "control/save",
)  # fmt: skip
FOLDERS = ("", "control", "plan.history", "../m.past")
BESIDE = ("m_train_stats.json", "m_validate_stats.json", "m_step_stories_train_stats.json", "m.csv", "m.safetensors")
SECRET = b"export PATH=/precious\n"


def link_to_file(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "precious")


def link_to_folder(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "folder")


def link_to_nothing(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "new")


def hard_link(place: Path, outside: Path) -> None:
    os.link(outside / "precious", place)


def pipe(place: Path, _: Path) -> None:
    os.mkfifo(place)


def folder(place: Path, _: Path) -> None:
    place.mkdir()
    (place / "mine.txt").write_bytes(SECRET)


def bound_socket(place: Path, _: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(place.parent)  # a socket's path has at most 108 bytes
        with socket.socket(socket.AF_UNIX) as it:
            it.bind(place.name)
    finally:
        os.fchdir(here)
        os.close(here)


KINDS: tuple[Callable[[Path, Path], None], ...] = (
    link_to_file, link_to_folder, link_to_nothing, hard_link, pipe, folder, bound_socket,
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that was stopped, and what it was trained on."""
    place = tmp_path_factory.mktemp("stranger")
    (place / "stories.jsonl").write_text('{"text": "The mill stood by the river."}\n' * 40, encoding="utf-8")
    here = Path.cwd()
    os.chdir(place)
    try:
        stop_after(2, training_plan=write_plan(place, PLAN), model="m.lmp", out_dir=".")
    finally:
        os.chdir(here)
    return place


PLAN = """\
[train]
exp = "test_runner"
num_blocks = 1
embed_dim = 16
num_heads = 2
context_len = 32
tokenizer = "bytes"
batch_size = 8
log_interval = 1
eval_samples = 2
[stages.stories]
dataset = "stories.jsonl"
epochs = 0.6
"""


class Ground:
    """The run's place with something foreign in it, and what lies outside: that must stay as it is."""

    def __init__(self, made: Path, tmp_path: Path) -> None:
        self.place, self.outside = tmp_path / "place", tmp_path / "outside"
        shutil.copytree(made, self.place)
        (self.outside / "folder").mkdir(parents=True)
        for name in ("precious", "folder/save", "folder/a.json", "folder/thesis.tex"):
            (self.outside / name).write_bytes(SECRET)
            os.utime(self.outside / name, (10**9, 10**9))
        self.before = self.seen()

    def plant(self, name: str, kind: Callable[[Path, Path], None]) -> Path:
        at = Path(os.path.normpath(self.place / "m.run" / name))
        at.parent.mkdir(exist_ok=True)
        if at.is_dir():
            shutil.rmtree(at)
        at.unlink(missing_ok=True)
        kind(at, self.outside)
        return at

    def seen(self) -> dict[str, tuple[bytes | None, int, int]]:
        return {
            path.relative_to(self.outside).as_posix(): (
                path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns if path.is_file() else 0,
                path.stat().st_mode,
            )
            for path in self.outside.rglob("*")
        }  # fmt: skip


@pytest.fixture
def ground(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    found = Ground(made, tmp_path)
    monkeypatch.chdir(found.place)
    return found


FIRST = [
    ("control", link_to_folder), ("events.jsonl", link_to_file), ("", link_to_folder), ("log.txt", hard_link),
    ("../m.past", link_to_folder), ("lock", pipe), ("plan.toml.tmp", link_to_nothing), ("control/save", folder),
]  # fmt: skip
CASES = [*((name, kind) for name in FILES for kind in KINDS), *((name, kind) for name in FOLDERS for kind in KINDS)]
CASES = FIRST + [case for case in CASES if case not in FIRST]


PARAMS = [  # a seventh of those behind the first with `make test-rest`, all of them with `make faults`
    pytest.param(*case, marks=pytest.mark.slow if i >= len(FIRST) and i % 7 else ()) for i, case in enumerate(CASES)
]


@pytest.mark.parametrize(
    ("name", "kind"), PARAMS, ids=lambda value: value if isinstance(value, str) else value.__name__
)
@pytest.mark.long_after(len(FIRST))
def test_nothing_outside_is_read_written_or_deleted(ground, name, kind, capfd):
    """By whatever looks at the run, resumes it or begins it anew; and each says at most a line for what it refuses."""
    at = ground.plant(name, kind)
    for words in LOOKS:
        status = said_by(words)
        out, err = capfd.readouterr()
        assert status in (0, 2, 3), (words, err)
        assert "Traceback" not in err, words
        assert SECRET.decode().strip() not in out + err, words
        assert len(err.splitlines()) <= 2, (words, err)
        assert ground.seen() == ground.before, words
    source = FolderSource(RunFolder(Path("m.lmp")))
    until(lambda: not source.poll() and not source.behind)
    assert ground.seen() == ground.before
    for options in ({"model": "m.lmp"}, {"model": "m.lmp", "training_plan": "plan.toml", "reset_history": True}):
        end = last(train(out_dir=".", **options))
        assert ground.seen() == ground.before, options
        assert "\n" not in getattr(end, "message", ""), end
    if kind is folder:
        left = list(ground.place.rglob("mine.txt"))
        assert len(left) == 1, "what the product did not make is not deleted"
    capfd.readouterr()
    assert at


LOOKS = (
    ("status", "m"), ("status", "m", "--json"), ("runs",), ("ctl", "m", "save"), ("attach", "m"),
    ("export", "m", "--to", "csv"), ("plot", "m", "--terminal"),
)  # fmt: skip


def said_by(words: tuple[str, ...]) -> int:
    try:
        return main([*words])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("kind", [link_to_file, link_to_nothing, pipe, bound_socket])
@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.long_after(4)
def test_nothing_is_written_through_what_lies_beside_the_model(ground, name, kind, capfd):
    kind_at = ground.place / name
    kind_at.unlink(missing_ok=True)
    kind(kind_at, ground.outside)
    for words in (("plot", "m", "--terminal"), ("export", "m", "--to", "csv"), ("export", "m", "--to", "safetensors")):
        assert said_by(words) in (0, 2), words
    train(model="m.lmp", out_dir=".")
    assert ground.seen() == ground.before
    assert not stat.S_ISREG(kind_at.lstat().st_mode), "what the product did not make is not replaced"
    capfd.readouterr()


@pytest.mark.parametrize("name", ["control", "events.jsonl", "lock"])
def test_a_start_says_what_it_refuses_in_one_line(ground, name):
    ground.plant(name, link_to_folder if name == "control" else link_to_file)
    end = last(train(model="m.lmp", out_dir="."))
    assert (end.exit_code, end.message.count("\n")) == (2, 0)
    assert end.message.startswith(f"m.run/{name}: ")
    assert "is a symbolic link, which is not followed" in end.message


@pytest.mark.parametrize("name", ["events.jsonl", "run.json", "control"])
def test_a_viewer_says_it_and_shows_the_rest(ground, name, capsys):
    ground.plant(name, link_to_folder if name == "control" else link_to_file)
    assert said_by(("status", "m")) == 0
    out, err = capsys.readouterr()
    assert err == f"m.run/{name}: is a symbolic link, which is not followed; it is passed over\n"
    assert "checkpoint" in out or name == "run.json"
    source = FolderSource(RunFolder(Path("m.lmp")))
    until(lambda: not source.poll() and not source.behind)
    assert [line for line in source.view.log if "is a symbolic link" in str(line)]


def test_what_is_planted_while_a_run_trains_is_not_written_through(ground):
    """Between two writes: each opens its file anew, or holds the one that it made."""
    planted = 0
    for _ in train_events():
        for name in ("run.json", "log.txt", "plan.toml"):
            path = ground.place / "m.run" / name
            if path.exists() and not path.is_symlink():
                path.unlink()
                path.symlink_to(ground.outside / "precious")
                planted += 1
    assert planted
    assert ground.seen() == ground.before


def train_events() -> Iterator[Event]:
    yield from run_events(given(model="m.lmp", out_dir="."), Controls())


def test_a_users_own_links_above_the_run_are_followed(ground, tmp_path):
    """~/runs -> /data/runs is the user's business."""
    Path(tmp_path / "runs").symlink_to(ground.place)
    os.chdir(tmp_path)
    run = RunFolder(Path("runs/m.lmp"))
    assert run.status()["name"] == "m"
    assert not run.refused()
    leave_command(run, Stop())
    assert list((ground.place / "m.run" / "control").iterdir())


def test_a_copy_by_hard_links_stays_as_it_is(ground):
    """`cp -al` makes a copy of a run in no time: what goes on is not written into it."""
    shutil.copytree("m.run", "copy.run", copy_function=os.link)
    before = {path.name: path.read_bytes() for path in Path("copy.run").iterdir() if path.is_file()}
    train(model="m.lmp", out_dir=".")
    assert {path.name: path.read_bytes() for path in Path("copy.run").iterdir() if path.is_file()} == before


def test_a_folder_of_another_user_is_not_trained_in(ground):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown("m.run/events.jsonl", 65534, 65534)
    with pytest.raises(UserError, match=r"m\.run/events\.jsonl: belongs to another user"):
        RunFolder(Path("m.lmp")).create()
    os.chown("m.run/events.jsonl", 0, 0)
    os.chown("m.run", 65534, 65534)
    with pytest.raises(UserError, match=r"m\.run: the run's folder cannot be made \(belongs to another user\)"):
        RunFolder(Path("m.lmp")).create()


def test_nobody_else_can_hold_the_lock(ground):
    """Who can open it can lock it."""
    Path("m.run/lock").chmod(0o666)
    train(model="m.lmp", out_dir=".")
    assert Path("m.run/lock").stat().st_mode & 0o077 == 0


def test_a_private_run_stays_private(ground):
    for name in ("m.lmp", "m_train_stats.json", "m.run/run.json"):
        Path(name).chmod(0o600)
    assert trainer_main(["--model", "m.lmp", "--out-dir", ".", "--device", "cpu"], "lmp_trainer") == 0
    for name in ("m.lmp", "m.prev.lmp", "m.stories.lmp", "m_train_stats.json", "m.run/run.json"):
        assert Path(name).stat().st_mode & 0o777 == 0o600, name


def resumed_behind_damage() -> str:
    os.truncate("m.lmp", 1000)
    train(model="m.lmp", out_dir=".")
    return "m.lmp"


def resumed_without_the_newest() -> str:
    for name in ("m.lmp", "m.stories.lmp"):
        Path(name).unlink()
    train(model="m.lmp", out_dir=".")
    return "m.stories.lmp"


def saved_where_another_has_the_run() -> str:
    run = RunFolder(Path("m.lmp"))
    writer = CheckpointWriter(run, Path(), may_not_save=lambda: "it is another's")
    writer.start(lambda: load_checkpoint(run.model), SaveRequest(2, 16, "stories", "asked", keep=0, is_best=False))
    outcome = writer.wait()
    assert outcome is not None and "what this process has trained is in m.apart.lmp" in outcome.problems[0]
    return "m.apart.lmp"


def ended_by_numbers_that_are_not_finite() -> str:
    checkpoint = load_checkpoint(Path("m.lmp"))
    for weights in checkpoint["model"]["state"].values():
        weights.fill_(3e38)
    write_checkpoint(checkpoint, Path("m.lmp"))
    end = last(train(model="m.lmp", out_dir="."))
    assert isinstance(end, RunFailed) and "is not finite" in end.message
    return "m.corrupted.lmp"


def saved_in_parts_without_the_newest() -> str:
    checkpoint = load_checkpoint(Path("m.lmp"))
    Path("m.lmp").unlink()
    save_in_parts(checkpoint, RunFolder(Path("m.lmp")))
    return RunFolder(Path("m.lmp")).parts_folders()[0].name


def renamed() -> str:
    rename(RunFolder(Path("m.lmp")), "later", Path())
    return "later_train_stats.json"


def log_turned_over() -> str:
    for line in ("x" * LOG_LIMIT_BYTES, "the next one"):
        LogFile(Path("m.run/log.txt")).write(line)
    assert Path("m.run/log.txt").read_text(encoding="utf-8") == "the next one\n"
    return "m.run/log.1.txt"


@pytest.mark.parametrize(
    "work",
    [resumed_behind_damage, resumed_without_the_newest, saved_where_another_has_the_run, renamed, log_turned_over,
     ended_by_numbers_that_are_not_finite, saved_in_parts_without_the_newest],
)  # fmt: skip
def test_what_takes_the_place_of_something_private_is_private(ground, work):
    """Also where that lies under another name by then, or is gone."""
    shutil.copy("m.lmp", "m.prev.lmp")
    kinds = ("*.lmp", "*.dcp", "*_stats.json", "*.run/log*.txt")
    for path in [path for kind in kinds for path in Path().glob(kind)]:
        path.chmod(0o600)
    made = work()
    modes = {str(path): path.stat().st_mode & 0o777 for kind in kinds for path in Path().glob(kind)}
    assert made in modes
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


def test_a_refused_start_names_a_process_only_while_it_lives(ground):
    """`run.json` may speak of a process of last week, and the lock be held by one that has not written yet."""
    run = RunFolder(Path("m.lmp"))
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    run.write_status(run.status() | {"pid": int(ended.stdout)})
    with subprocess.Popen(["flock", "m.run/lock", "sleep", "60"]) as holder:
        until(run.alive)
        end = last(train(model="m.lmp", out_dir="."))
        holder.kill()
    assert end.message.startswith("m: a process is training this run")
