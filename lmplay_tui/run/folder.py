"""A run on disk: where its files lie, which process holds it, how a command finds it, and how it is by its `run.json`.

Its plan is `plan.toml`; each that it was before lies in `plan.history/`.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmplay_tui.errors import UserError, os_error
from lmplay_tui.files import write_whole
from lmplay_tui.process import is_alive, typed
from lmplay_tui.run.journal import number, utc_time
from lmplay_tui.text import one_line

DEFAULT_OUT = "out_gpt"
HEARTBEAT_S = 3.0
HEARTBEAT_STALE_S = 30.0
LOCK_FROM = "LMPLAY_TUI_LOCK"  # environment: `descriptor:path` of a lock that a process was started with
_CANNOT_LOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
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
    """The files of the run whose newest checkpoint is `model` (`.lmp` is added if missing)."""

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

    def checkpoint(self, kind: str) -> Path:
        """The path of another checkpoint of this run: `prev`, `best`, `corrupted`, or a stage's name."""
        return self.model.with_name(f"{self.name}.{kind}.lmp")

    def numbered_checkpoint(self, step: int) -> Path:
        return self.checkpoint(f"step-{step:08d}")

    def numbered_checkpoints(self) -> list[Path]:
        """The numbered checkpoints there are, by their steps."""
        found = re.compile(re.escape(self.name) + r"\.step-(\d{8,})\.lmp")
        try:
            matches = [(found.fullmatch(path.name), path) for path in self.model.parent.iterdir()]
        except OSError:
            return []
        return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match is not None)]

    def create(self) -> None:
        """Make the run's folders. `UserError` if they cannot be made."""
        try:
            self.model.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(exist_ok=True)
            self.control.mkdir(exist_ok=True)
        except OSError as error:
            raise type(os_error(error))(
                f"{one_line(self.folder)}: the run's folder cannot be made ({error.strerror}); "
                "choose another place with --model or --out-dir"
            ) from None

    def status(self) -> dict[str, Any]:
        """What the run last said of itself; empty if it never did."""
        try:
            value = json.loads(self.run_json.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def write_status(self, status: dict[str, Any]) -> None:
        """Replace `run.json`. Raises `OSError`."""
        write_whole(self.run_json, json.dumps(status, ensure_ascii=False, indent=1).encode("utf-8", "replace"))

    def alive(self) -> bool:
        """Whether a process holds this run. A lock cannot be stale; where there are none, the heartbeat tells."""
        try:
            descriptor = os.open(self.lock_path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return True if error.errno not in _CANNOT_LOCK else self._heart_beats()
        finally:
            os.close(descriptor)
        return False

    def _heart_beats(self) -> bool:
        status = self.status()
        if status.get("state") not in ("running", "paused"):
            return False
        if status.get("host") == socket.gethostname():
            return status.get("boot") == boot_id() and is_alive(status.get("pid"))
        return time.time() - _modified(self.lock_path) < HEARTBEAT_STALE_S

    def __repr__(self) -> str:
        return f"RunFolder({str(self.model)!r})"


class RunLock:
    """Holds a run for the life of the trainer; the kernel lets go when the process ends, however it ends."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._descriptor: int | None = None
        self.by_heartbeat = False  # the file system cannot lock
        self.inherited = False  # the process before has handed it down

    @property
    def descriptor(self) -> int:
        """The open file that is locked: a process that inherits it holds the run too."""
        assert self._descriptor is not None
        return self._descriptor

    def take(self, wait_s: float = 0.3) -> None:
        """Take the run. `UserError` that names the holder if it is held for longer than `wait_s`."""
        if self._inherit():
            return
        try:
            descriptor = os.open(self._run.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
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
                    if not self._run.alive():
                        break
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    raise UserError(self._held()) from None
            time.sleep(0.02)  # a viewer that only looks holds the lock for an instant
        self._descriptor = descriptor
        if self.by_heartbeat:
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        """Show other machines that the run is held, however long a step takes."""
        while self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.utime(self._run.lock_path)
            time.sleep(HEARTBEAT_S)

    def _inherit(self) -> bool:
        """Whether this process was started with this run's lock in its hands."""
        number, _, path = os.environ.pop(LOCK_FROM, "").partition(":")
        if not number.isdecimal() or path != str(self._run.lock_path.resolve()):
            return False
        try:
            same = os.path.samestat(os.fstat(int(number)), self._run.lock_path.stat())
            os.set_inheritable(int(number), False)
        except OSError:
            return False
        if not same:
            return False
        self._descriptor, self.inherited = int(number), True
        return True

    def _held(self) -> str:
        holder = self._run.status()
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        name = one_line(self._run.name)
        return (
            f"{name}: {one_line(who)} is training this run; "
            f"look with: {typed('lmplay-tui attach')} {name}, or choose another --model"
        )

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def taken(run: RunFolder) -> RunLock:
    """The run's lock, held; its folders are there. Raises `UserError`, also where another process has the run."""
    run.create()
    lock = RunLock(run)
    lock.take()
    return lock


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
            if entry.suffix == ".run" and entry.is_dir():
                run = RunFolder(entry.with_suffix(".lmp"))
                newest = max((_modified(path) for path in (run.run_json, run.model, run.folder)), default=0.0)
                found[entry.resolve()] = (newest, run)
    return [run for _, run in sorted(found.values(), key=lambda pair: -pair[0])]


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def find_run(text: str | None, out_dir: str | None = None) -> RunFolder:
    """The run that a command's RUN means: a name, a `.lmp`, a run folder; without `text` the newest.

    Raises `UserError` if there is none.
    """
    places = (Path(), output_folder(out_dir))
    if text is None:
        runs = list_runs(*places)
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
            if run.folder.is_dir() or run.model.is_file():
                return run
    where = f"in this folder or in {one_line(places[1])}"
    raise UserError(f"no run called {one_line(text)} {where}; see: {typed('lmplay-tui runs')}")


def keep_plan(run: RunFolder, text: str, step: int) -> Path | None:
    """Write the plan that holds from `step` on. Another that stood there is kept: as which file, or None.

    Raises `OSError`.
    """
    new, kept = text.encode("utf-8"), None
    if run.plan.exists() and (before := run.plan.read_bytes()) != new:
        run.plan_history.mkdir(exist_ok=True)
        stamp = utc_now().replace(":", "").replace("-", "")
        kept = run.plan_history / f"{stamp}-before-step-{step:08d}.toml"
        write_whole(kept, before)
    write_whole(run.plan, new)
    return kept


FIELDS = (
    "name", "state", "activity", "pid", "stage", "step", "samples", "tokens", "train_loss", "val_loss", "lr",
    "tokens_per_s", "eta_s", "checkpoint",
)  # fmt: skip


def state_of(said: Mapping[str, Any], *, alive: bool) -> str:
    """How a run is, by its `run.json` and whether a process holds it.

    running, paused, stopped, finished, failed, or dead where a process ended without saying so.
    """
    state = said.get("state")
    if alive:
        return "paused" if state == "paused" else "running"
    return state if state in ("stopped", "finished", "failed") else "dead"


def status_of(run: RunFolder) -> dict[str, Any]:
    """The fields of `status --json`; what is not known is None. `state`: as `state_of` says."""
    said = run.status()
    alive = run.alive()
    status: dict[str, Any] = {name: said.get(name) for name in FIELDS}
    status |= {"name": run.name, "state": state_of(said, alive=alive)}
    if alive and said.get("state") not in (
        "running",
        "paused",
    ):  # it has just begun: what stands there is of the time before
        status |= {"activity": "starting", "pid": None}
    elif not alive:
        status |= {"activity": None, "pid": None, "tokens_per_s": None}
        status["eta_s"] = 0.0 if status["state"] == "finished" else None
    return status


def fraction_done(run: RunFolder) -> float | None:
    """The share of the plan's rows that has been read; None where not all stages' rows are known."""
    stages = stages_of(run.status())
    done, total = (sum(number(stage.get(key)) for stage in stages) for key in ("rows_done", "rows_total"))
    return done / total if done >= 0 and 0 < total < math.inf else None


def stages_of(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The stages that stand in a `run.json`, which any program may have written."""
    stages = status.get("stages")
    return [stage for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []
