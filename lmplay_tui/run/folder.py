"""A run on disk: where its files lie, which process holds it, how a command finds it, and how it is by its `run.json`.

Its plan is `plan.toml`; each that it was before lies in `plan.history/`.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmplay_tui.errors import UserError, os_error
from lmplay_tui.files import Folder, is_file, is_folder
from lmplay_tui.process import is_alive, typed
from lmplay_tui.run.journal import utc_time
from lmplay_tui.run.ranks import read_ranks
from lmplay_tui.run.status import SavedStatus, Writer
from lmplay_tui.text import one_line

DEFAULT_OUT = "out_gpt"
PARTS_SUFFIX = ".dcp"  # of the folders beside checkpoints that hold their tensors in parts
HEARTBEAT_S = 3.0
HEARTBEAT_STALE_S = 30.0
WATCHED_S = 2.5 * HEARTBEAT_S  # whether another machine's heart still beats
LOCK_FROM = "LMPLAY_TUI_LOCK"  # environment: `descriptor:path` of a lock that a process was started with
_CANNOT_LOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_MOST_BYTES = 1 << 22  # of `run.json` or a plan: ours have some kilobytes
_ROOM = 4096  # `run.json` ends in at least so many blanks: a run that ends by a full disk needs them to say why
_FILES = (
    "run.json", "plan.toml", "metrics.jsonl", "events.jsonl", "predictions.jsonl", "log.txt", "log.1.txt", "lock",
    "about.json", "renaming.json", "ranks.json",
)  # fmt: skip
_OTHER_CHECKPOINT = re.compile(r"\.[A-Za-z0-9_-]+$")  # NAME.prev, NAME.STAGE, ...: no name of a run has a dot


def utc_now() -> str:
    """The time now, as the journals write it."""
    return utc_time(time.time())


def output_folder(out_dir: str | None) -> Path:
    """Where models and runs lie unless `--model` says otherwise."""
    return Path(out_dir or DEFAULT_OUT)


def statistics_folder(out_dir: str | None) -> Path:
    """Where the document's statistics files go."""
    return Path(out_dir) if out_dir else _from_environment() or Path(DEFAULT_OUT)


def datasets_folder(out_dir: str | None) -> Path:
    """Where `--save-datasets` stores datasets and where a run looks for them first."""
    return _from_environment() or output_folder(out_dir) / "datasets"


def _from_environment() -> Path | None:
    """The folder that `$LMP_DATASETS` names; a shell leaves a `~` in quotes alone. Raises `UserError`."""
    if not (said := os.environ.get("LMP_DATASETS")):
        return None
    from lmplay_tui.options import home_path

    try:
        return Path(home_path(said))
    except UserError as error:
        raise UserError(f"LMP_DATASETS: {error}") from None


class RunFolder:
    """The files of the run whose newest checkpoint is `model` (`.lmp` is added if missing).

    Its folder may come from another hand. What is read or written in it goes through `files`, `commands` (control/) and
    `history` (plan.history/), which follow no link; the paths are for words to a user.
    """

    def __init__(self, model: Path) -> None:
        if model.suffix != ".lmp":
            model = model.with_name(model.name + ".lmp")
        self.model = model
        self.name = model.stem
        self.folder = model.with_name(f"{self.name}.run")
        self.run_json = self.folder / "run.json"
        self.plan = self.folder / "plan.toml"
        self.plan_history = self.folder / "plan.history"
        self.metrics = self.folder / "metrics.jsonl"
        self.events = self.folder / "events.jsonl"
        self.predictions = self.folder / "predictions.jsonl"
        self.log = self.folder / "log.txt"
        self.lock_path = self.folder / "lock"
        self.control = self.folder / "control"
        self.past = model.with_name(f"{self.name}.past")
        self.files = Folder(self.folder)
        self.commands = Folder(self.control, own=2)
        self.history = Folder(self.plan_history, own=2)

    def checkpoint(self, kind: str) -> Path:
        """The path of another checkpoint of this run: `prev`, `best`, `corrupted`, or a stage's name."""
        return self.model.with_name(f"{self.name}.{kind}.lmp")

    @property
    def newest(self) -> tuple[Path, Path]:
        """Where its newest checkpoint lies; where that is gone or damaged, the one before it."""
        return self.model, self.checkpoint("prev")

    def numbered_checkpoint(self, step: int) -> Path:
        return self.checkpoint(f"step-{step:08d}")

    def numbered_checkpoints(self) -> list[Path]:
        """The numbered checkpoints there are, by their steps."""
        found = re.compile(re.escape(self.name) + r"\.step-(\d{8,})\.lmp")
        try:
            plain = [path for path in self.model.parent.iterdir() if path.is_file() and not path.is_symlink()]
            matches = [(found.fullmatch(path.name), path) for path in plain]
        except OSError:
            return []
        return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match is not None)]

    def parts_folders(self) -> list[Path]:
        """The folders beside its checkpoints that hold tensors of theirs, or have held them."""
        found = re.compile(re.escape(self.name) + r"\.[0-9a-f]{16}" + re.escape(PARTS_SUFFIX))
        try:
            named = sorted(path for path in self.model.parent.iterdir() if found.fullmatch(path.name))
            return [path for path in named if path.is_dir() and not path.is_symlink()]
        except OSError:
            return []

    def create(self) -> None:
        """Make the run's folders. `UserError` if they cannot be made, or hold links in place of files."""
        try:
            self.model.parent.mkdir(parents=True, exist_ok=True)
            self.files.make()
            self.commands.make()
        except OSError as error:
            where = self.control if error.filename == str(self.control) else self.folder
            raise type(os_error(error))(
                f"{one_line(where)}: the run's folder cannot be made ({error.strerror}); "
                "choose another place with --model or --out-dir"
            ) from None
        for refusal in self._refusals():
            if not isinstance(refusal, IsADirectoryError):  # that costs no more than the one file
                said = f"{one_line(refusal.filename)}: {refusal.strerror}; remove it, or choose another --model"
                raise UserError(said)

    def refused(self) -> list[str]:
        """What in the run's folder is not what it should be and so is not read: a line each, for who looks on."""
        return [f"{one_line(error.filename)}: {error.strerror}; it is passed over" for error in self._refusals()]

    def _refusals(self) -> Iterator[OSError]:
        for folder in (self.files, self.commands, self.history, Folder(self.past)):
            try:
                with folder.held():
                    pass
            except OSError as error:
                if not isinstance(error, FileNotFoundError) and error.errno != errno.EACCES:
                    yield error
                if folder is self.files:
                    return
        for name in _FILES:
            try:
                self.files.status(name)
            except OSError as error:
                if not isinstance(error, FileNotFoundError) and error.errno != errno.EACCES:
                    yield error

    def status(self) -> dict[str, Any]:
        """What `run.json` holds, to be written again; empty if there is nothing. It is read by `saved_status`."""
        try:
            value = json.loads(self.files.read("run.json", _MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def write_status(self, status: dict[str, Any]) -> None:
        """Replace `run.json`; on a full disk write into the room that is kept in it. Raises `OSError`."""
        data = json.dumps(status, ensure_ascii=False, indent=1).encode("utf-8", "replace")
        room = _ROOM * (len(data) // _ROOM + 2)
        try:
            self.files.write("run.json", data.ljust(room))
        except OSError:
            self.files.overwrite("run.json", data)

    def plan_text(self) -> bytes | None:
        """The plan that it was last trained by, as its folder has it; None where there is none. Raises `OSError`."""
        try:
            return self.files.read("plan.toml", _MOST_BYTES)
        except FileNotFoundError:
            return None

    def alive(self) -> bool:
        """Whether a process holds this run. A lock cannot be stale; where there are none, the heartbeat tells."""
        try:
            descriptor = self.files.open("lock")
        except PermissionError:  # another user's: its lock is for that user alone
            return self._heart_beats()
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return True if error.errno not in _CANNOT_LOCK else self._heart_beats()
        finally:
            os.close(descriptor)
        # A share may keep the locks of each machine apart.
        return self.is_of_another_machine() and self._heart_beats()

    def is_of_another_machine(self) -> bool:
        """Whether it was another machine's process that said last that it trains this run."""
        said = self.status()
        return said.get("state") in ("running", "paused") and said.get("host") not in (None, socket.gethostname())

    def _heart_beats(self) -> bool:
        said = saved_status(self, alive=False)
        if said.said_state not in ("running", "paused"):
            return False
        if said.writer.host == socket.gethostname():
            return _is_there(said.writer)
        return time.time() - _modified(self.lock_path) < HEARTBEAT_STALE_S

    def __repr__(self) -> str:
        return f"RunFolder({str(self.model)!r})"


class RunHeldError(UserError):
    """Another process holds the run."""


class RunLock:
    """Holds a run for the life of the trainer; the kernel lets go when the process ends, however it ends.

    Held is the file that lies at the run's path: where its folder is removed or moved away, another process would find
    no lock there. So a thread looks every few seconds, and takes the one at the path (`keep`).
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._descriptor: int | None = None
        self._locked: os.stat_result | None = None  # the file that it was when it was locked
        self._released = threading.Event()
        self._keeping = threading.Lock()
        self.by_heartbeat = False  # the file system cannot lock
        self.inherited = False  # the process before has handed it down
        self.times_lost = 0  # and taken anew
        self.taken_by: str | None = None  # it was lost to another process: who that is, in words

    @property
    def descriptor(self) -> int:
        """The open file that is locked: a process that inherits it holds the run too."""
        assert self._descriptor is not None
        return self._descriptor

    def take(self, wait_s: float = 0.3, watch_s: float = 0.0) -> None:
        """Take the run. `RunHeldError` that names the holder if it is held for longer than `wait_s`; `UserError`.

        `watch_s`: how long to look for the heartbeat of another machine, whose lock may be none to this one.
        """
        if not self._inherit():
            self._take_at_path(wait_s)
            if watch_s and self._beats_elsewhere(watch_s):
                held = self._held()
                self.release()
                raise RunHeldError(held)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _take_at_path(self, wait_s: float) -> None:
        try:
            descriptor = self._run.files.open("lock", os.O_RDWR | os.O_CREAT, 0o600)
            found = os.fstat(descriptor)
            if found.st_mode & 0o077 and found.st_nlink == 1:  # who can open it can hold it for ever
                with contextlib.suppress(OSError):
                    os.fchmod(descriptor, 0o600)
        except OSError as error:
            where = one_line(self._run.lock_path)
            said = f"{where}: cannot be opened ({error.strerror}); is the folder yours to write?"
            raise type(os_error(error))(said) from None
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in _CANNOT_LOCK:
                    self.by_heartbeat = True
                    if not self._run.alive() or self._is_said_to_be_held_here():
                        break
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    raise RunHeldError(self._held()) from None
            time.sleep(0.02)  # a viewer that only looks holds the lock for an instant
        self._hold(descriptor)

    def _beats_elsewhere(self, watch_s: float) -> bool:
        """Whether a process of another machine touches the lock that this one has just taken.

        The file system's clock alone counts, and that something changes: the machines' clocks may differ.
        """
        if not self._run.is_of_another_machine():
            return False
        last = os.fstat(self.descriptor).st_mtime
        try:
            os.utime(self.descriptor)
            touched = os.fstat(self.descriptor).st_mtime
            if touched - last > HEARTBEAT_STALE_S:
                return False
            deadline = time.monotonic() + watch_s
            while time.monotonic() < deadline:
                time.sleep(0.1)
                descriptor = self._run.files.open("lock")  # anew: what a share keeps of a file is then asked for again
                try:
                    if os.fstat(descriptor).st_mtime != touched:
                        return True
                finally:
                    os.close(descriptor)
        except OSError:  # a disk that cannot say it
            return False
        return False

    def _is_said_to_be_held_here(self) -> bool:
        """Whether it is this very process that `run.json` names."""
        pid, host, _ = saved_status(self._run, alive=True).writer
        return self.times_lost > 0 and host == socket.gethostname() and pid == os.getpid()

    def _beat(self) -> None:
        """Keep the run, however long a step takes; show other machines, which may see no lock, that it is held."""
        while not self._released.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError, AssertionError):  # released meanwhile
                os.utime(self.descriptor)
            with contextlib.suppress(UserError, AssertionError):  # the folder cannot be made now, or it was released
                self.keep()

    def keep(self) -> bool:
        """Whether this process holds the run, by the lock that lies at its path.

        One that is not there any more is taken anew, with its folder. False for good once another process has it.
        Raises `UserError` where there can be no lock at the path, so that no other process holds it either.
        """
        with self._keeping:
            if self.taken_by is not None or self._is_at_path():
                return self.taken_by is None
            anew = RunLock(self._run)
            anew.times_lost = self.times_lost + 1
            self._run.create()
            try:
                anew._take_at_path(wait_s=0.3)
            except RunHeldError as error:
                self.taken_by = str(error)
                return False
            if self._released.is_set():
                os.close(anew.descriptor)
                return True
            self._let_go()
            self._hold(anew.descriptor)
            self.by_heartbeat, self.times_lost = anew.by_heartbeat, anew.times_lost
            return True

    def _hold(self, descriptor: int) -> None:
        self._descriptor, self._locked = descriptor, os.fstat(descriptor)

    def _let_go(self) -> None:
        """Close the file that was locked. Where others have closed it, its number may be another file's by now."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and self._locked is not None:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), self._locked):
                    os.close(descriptor)

    def _is_at_path(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.descriptor), self._run.lock_path.lstat())
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # a disk that does not answer says nothing
            return True

    def _inherit(self) -> bool:
        """Whether this process was started with this run's lock in its hands."""
        number, _, path = os.environ.pop(LOCK_FROM, "").partition(":")
        if not number.isdecimal() or path != str(self._run.lock_path.resolve()):
            return False
        try:
            same = os.path.samestat(os.fstat(int(number)), self._run.lock_path.lstat())
            os.set_inheritable(int(number), False)
        except OSError:
            return False
        if not same:
            return False
        self._hold(int(number))
        self.inherited = True
        return True

    def _held(self) -> str:
        holder = saved_status(self._run, alive=True).writer
        there = holder.host != socket.gethostname()  # of another machine's process nothing can be known
        named = holder.pid is not None and holder.host and (there or _is_there(holder))
        who = f"process {holder.pid} on {holder.host}" if named else "a process"
        name = one_line(self._run.name)
        return (
            f"{name}: {one_line(who)} is training this run; "
            f"look with: {typed('lmplay-tui attach')} {name}, or choose another --model"
        )

    def lend(self) -> None:
        """Leave the keeping to the processes that inherit the descriptor; this one holds the run until `release`.

        It is then as handed down here too: commands that wait are for those.
        """
        self._released.set()
        self.inherited = True

    def release(self) -> None:
        self._released.set()
        self._let_go()


def take_run(run: RunFolder) -> RunLock:
    """Hold the run, whose folders are made; gives its lock. Raises `UserError`, also where another process has it."""
    run.create()
    lock = RunLock(run)
    lock.take(watch_s=WATCHED_S)
    for folder in (run.files, run.history):  # what a killed process left half written
        with contextlib.suppress(OSError):
            folder.sweep()
    return lock


def _is_there(writer: Writer) -> bool:
    """Whether the process lives that this machine's `run.json` names."""
    return writer.boot == boot_id() and is_alive(writer.pid)


def boot_id() -> str:
    """A name of this start of the machine: a process number means nothing after the next one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def list_runs(*folders: Path) -> list[RunFolder]:
    """The runs in `folders`, newest first."""
    found: dict[Path, tuple[float, RunFolder]] = {}
    for folder in folders:
        try:
            entries = list(folder.iterdir())
        except OSError:
            continue
        for entry in entries:
            if entry.suffix == ".run" and is_folder(entry):
                run = RunFolder(entry.with_suffix(".lmp"))
                newest = max((_modified(path) for path in (run.run_json, run.model, run.folder)), default=0.0)
                found[entry.resolve()] = (newest, run)
    return [run for _, run in sorted(found.values(), key=lambda pair: -pair[0])]


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def find_run(text: str | None, out_dir: str | None = None) -> RunFolder:
    """The run that a command's RUN means: a name, a `.lmp`, a run folder; without `text` the newest.

    Raises `UserError` if there is none.
    """
    places = (Path(), output_folder(out_dir))
    if text is None:
        runs = [run for run in list_runs(*places) if not run.folder.is_symlink()]
        if not runs:
            raise UserError(f"no run in this folder or in {one_line(places[1])}; start one with: {typed('lmplay-tui')}")
        return runs[0]
    given = Path(text)
    candidates = [given.with_suffix(".lmp")] if given.suffix in (".run", ".lmp") else []
    candidates += [given.with_name(given.name + ".lmp")] if given.name else []
    candidates += [place / f"{text}.lmp" for place in places]
    for candidate in candidates:
        for stem in (_OTHER_CHECKPOINT.sub("", candidate.stem), candidate.stem):
            run = RunFolder(candidate.with_name(stem + ".lmp"))
            if is_folder(run.folder) or is_file(run.model):
                return run
    where = f"in this folder or in {one_line(places[1])}"
    raise UserError(f"no run called {one_line(text)} {where}; see: {typed('lmplay-tui runs')}")


def keep_plan(run: RunFolder, text: str, step: int) -> Path | None:
    """Write the plan that holds from `step` on. Another that stood there is kept: as which file, or None.

    Raises `OSError`.
    """
    new, kept = text.encode("utf-8"), None
    before = run.plan_text()
    if before not in (None, new):
        stamp = utc_now().replace(":", "").replace("-", "")
        kept = run.plan_history / f"{stamp}-before-step-{step:08d}.toml"
        run.history.make()
        run.history.write(kept.name, before)
    run.files.write("plan.toml", new)
    return kept


def saved_status(run: RunFolder, *, alive: bool | None = None) -> SavedStatus:
    """How a run is, by its files alone. `alive`: whether a process holds it, where that is known."""
    alive = run.alive() if alive is None else alive
    return SavedStatus(run.status(), alive=alive, ranks=read_ranks(run.files) if alive else None)


def status_of(run: RunFolder) -> dict[str, Any]:
    """The fields of `status --json`; what is not known is None."""
    return {"name": run.name, **saved_status(run).fields()}
