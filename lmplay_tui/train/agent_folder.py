"""What our own agent and the processes that it starts tell each other: by the environment, and by files in a folder
that each attempt has to itself."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lmplay_tui.errors import UserError

AGENT = "LMPLAY_TUI_AGENT"  # environment: what the agent tells its processes, as JSON
COLLECTIVE_S = 600.0  # one that computes nothing for so long hangs


@dataclass(frozen=True)
class Agent:
    """What our own agent tells each process that it starts, and what they tell it, as files of `folder`.

    `folder`: of this attempt alone. `lock`: the path of the run's lock, which the standard input is. `begun`: when the
    agent began (`time.monotonic`); `spent_s`: the start had taken so long by then. `resumes`: rank 0 has saved since.
    `quiet`: what it says is in the log already. `prog`: the command that a resume is typed with. `collective_s`: a
    process that the others have awaited for so long hangs. `devices`: the CUDA device of each process; empty: none.
    """

    pid: int
    attempt: str
    folder: str
    lock: str
    begun: float
    spent_s: float
    resumes: bool
    quiet: bool
    prog: str
    collective_s: float = COLLECTIVE_S
    devices: Sequence[int] = ()

    def environment(self) -> dict[str, str]:
        return {AGENT: json.dumps(asdict(self))}

    def end_is_known(self, status: int) -> None:
        """Rank 0 tells the agent that the run has come to an end, and with which status: it starts no more."""
        Path(self.folder, "ended").write_text(str(status), encoding="ascii")

    def pid_of(self, rank: int) -> int | None:
        """The number of one of the processes, as soon as it has said it."""
        return _read_number(Path(self.folder, f"pid-{rank}"))

    def device_is_lost(self, rank: int, why: str) -> None:
        """A process tells the agent that its device cannot be used: the others go on without it."""
        Path(self.folder, f"device-{rank}").write_text(why, encoding="utf-8")

    def lost_device(self, rank: int) -> str | None:
        """Why the device of one of the processes cannot be used; None: nothing is known against it."""
        try:
            return Path(self.folder, f"device-{rank}").read_text(encoding="utf-8")
        except OSError:
            return None

    def rank_is_lost(self, what: str) -> None:
        """Rank 0 tells the agent in words that another process has ended or hangs; it saves then, and leaves."""
        Path(self.folder, "lost").write_text(what, encoding="utf-8")

    def lost_rank(self) -> str:
        """What rank 0 has said of another process; empty: nothing."""
        try:
            return Path(self.folder, "lost").read_text(encoding="utf-8")
        except OSError:
            return ""

    def give_sign(self, place: str, phase: str) -> None:
        """Rank 0 tells the agent that it is there, every second or so, on which device, and what it is at."""
        Path(self.folder, "sign").write_text(f"{place}\n{phase}", encoding="utf-8")

    def last_sign(self) -> int | None:
        """Another number with each sign; None: rank 0 has not given one yet."""
        try:
            return Path(self.folder, "sign").stat().st_mtime_ns
        except OSError:
            return None

    def last_words(self) -> tuple[str, str]:
        """Place and phase with rank 0's last sign; empty where there was none."""
        try:
            place, _, phase = Path(self.folder, "sign").read_text(encoding="utf-8").partition("\n")
        except OSError:
            return "", ""
        return place, phase

    def begins_from(self, model: Path) -> None:
        """Rank 0 tells the agent what stands at the checkpoint's path, now that it has read it or set it aside."""
        Path(self.folder, "begins-from").write_text(json.dumps(_stamp(model)), encoding="ascii")

    def has_saved(self, model: Path) -> bool:
        """Whether rank 0 has saved since: known by the file, which is there before rank 0 could tell of it."""
        try:
            before = json.loads(Path(self.folder, "begins-from").read_text(encoding="ascii"))
        except (OSError, ValueError):  # it has not come so far
            return False
        return (now := _stamp(model)) is not None and now != before

    def give_up(self) -> None:
        """Another rank tells the agent that it has waited in vain, though no process has ended."""
        Path(self.folder, "given-up").touch()

    @property
    def is_given_up(self) -> bool:
        return Path(self.folder, "given-up").exists()

    @property
    def asked(self) -> Path:
        """Where rank 0 keeps what is asked of it: the same file for each attempt."""
        return Path(self.folder).with_name("asked.json")

    def known_end(self) -> int | None:
        """The exit status of the run; None: rank 0 was ended before it had one."""
        return _read_number(Path(self.folder, "ended"))


def agent_of(environment: Mapping[str, str]) -> Agent | None:
    """What our own agent has told this process; None: nothing. Raises `UserError` where no agent of ours says so."""
    if AGENT not in environment:
        return None
    try:
        return Agent(**json.loads(environment[AGENT]))
    except (ValueError, TypeError):
        raise UserError(f"{AGENT}: is not what an agent of this version says; unset it") from None


def _stamp(model: Path) -> list[int] | None:
    """What changes with each save; None: there is no such file."""
    try:
        found = model.stat()
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_ino]


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not there yet, or not written yet
        return None
