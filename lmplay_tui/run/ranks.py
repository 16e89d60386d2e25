"""The ranks of a run of several processes: what `ranks.json` says of each, and which of them all others wait for.

Rank 0 writes it (`RankRecorder`), and only where there is more than one. Screens and commands read it (`read_ranks`) as
what it is: a file that any program may have written.
"""

import json
import math
import os
import socket
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lmplay_tui.files import Folder
from lmplay_tui.formats import format_percent
from lmplay_tui.run.journal import number
from lmplay_tui.structs import Struct
from lmplay_tui.text import one_line

FILE = "ranks.json"
WRITE_EVERY_S = 2.0
MOST_RANKS = 4096
_MOST_BYTES = 1 << 22  # ours has some 300 bytes a rank
_SLOWER = 1.2  # times the median of the others: less is weather
_NOTICED_S = 0.005  # a step: by less no machine tells its ranks apart
_JUDGES_EVERY_S = 1.0  # so that ten log intervals are more than a moment, however short they are
_INTERVALS, _SLOW_IN, _GOES_ON_IN = 10, 9, 3


class RankState(Struct):
    """What one rank is at, and its means over the steps of the last log interval. NaN, None, "": not known.

    `compute_s`: its own work a step, before the reduction. `wait_s`: from then on until the slowest rank was as far.
    """

    rank: int
    host: str = ""
    device: str = ""  # cpu, cuda:1, ...
    pid: int | None = None
    phase: str = ""  # forward, backward, reduction, update, waiting, ...
    step: int | None = None
    compute_s: float = math.nan  # seconds
    wait_s: float = math.nan  # seconds
    tokens: float = math.nan  # positions that it computed a step: its share of the batch
    memory_bytes: float = math.nan  # in use on its device
    memory_total: float = math.nan  # bytes that its device has
    utilisation: float = math.nan  # of its device, 0 to 1
    celsius: float = math.nan  # of its device

    @property
    def device_name(self) -> str:
        """`GPU 1`, `CPU`: as a sentence says it."""
        kind, _, index = self.device.partition(":")
        name = {"cuda": "GPU", "cpu": "CPU"}.get(kind, kind or "?")
        return f"{name} {index}" if index else name


class Straggler(Struct):
    """The rank that the others wait for. `slower`: by which share of the others' median. `more`: as slow ones."""

    rank: int
    host: str
    device_name: str
    slower: float
    more: int = 0

    def sentence(self) -> str:
        where = ", ".join(part for part in (self.host, self.device_name) if part)
        said = f"rank {self.rank}" + (f" ({where})" if where else "")
        by = format_percent(self.slower)
        if not self.more:
            return f"{said} is {by} slower than the others; all wait for it"
        return f"{said} and {self.more} more are up to {by} slower than the others; all wait for them"


class StragglerWatch:
    """Finds the rank that is slower than the others for longer than the weather lasts.

    It is one whose own work, before the reduction, took more than 1.2 times the median of the others in 9 of the last
    10 log intervals; it stays one until that holds for fewer than 3. Where ranks say how much they computed,
    that must hold of the time for a token too: a rank that is dealt one mini-batch more than another is not slow, and
    for one that is dealt little and takes longer for each token, but is done first, no other waits.
    """

    def __init__(self) -> None:
        self._shares: dict[int, deque[float]] = {}  # times the others' median, an interval each
        self._slow: set[int] = set()

    def note(self, ranks: Sequence[RankState]) -> Straggler | None:
        """Take in a log interval; the slowest of the stragglers that there are now."""
        if {state.rank for state in ranks} != self._shares.keys():
            self._shares = {state.rank: deque(maxlen=_INTERVALS) for state in ranks}
            self._slow = set()
        for rank, share in _shares(ranks).items():
            self._shares[rank].append(share)
        for rank, seen in self._shares.items():
            slow = sum(share > _SLOWER for share in seen)
            if slow >= _SLOW_IN:
                self._slow.add(rank)
            elif slow < _GOES_ON_IN:
                self._slow.discard(rank)
        if not self._slow:
            return None
        by = {rank: median(self._shares[rank]) - 1 for rank in self._slow}
        worst = max(by, key=lambda rank: by[rank])
        state = next(state for state in ranks if state.rank == worst)
        return Straggler(worst, one_line(state.host, 60), one_line(state.device_name, 20), by[worst], len(by) - 1)


def median(values: Iterable[float]) -> float:
    """NaN of nothing. (`statistics` would be imported for a hundredth of a second, before the first frame.)"""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[-1 - middle]) / 2 if ordered else math.nan


def _shares(ranks: Sequence[RankState]) -> dict[int, float]:
    """Each rank's own work as times the median of the others' work; where that is not known, or nothing, none."""
    of_tokens = all(state.tokens >= 0 for state in ranks)
    at_work = [state for state in ranks if state.compute_s > 0 and not (of_tokens and state.tokens == 0)]
    shares = _times_the_others({state.rank: state.compute_s for state in at_work})
    if of_tokens:
        by_token = _times_the_others({state.rank: state.compute_s / state.tokens for state in at_work})
        shares = {rank: min(share, by_token[rank]) for rank, share in shares.items()}
    seconds = {state.rank: state.compute_s for state in at_work}
    return {  # slower by less than can be noticed: as quick as the others
        rank: share if seconds[rank] - seconds[rank] / share >= _NOTICED_S else min(share, 1.0)
        for rank, share in shares.items()
    }


def _times_the_others(costs: Mapping[int, float]) -> dict[int, float]:
    """Each rank's cost as times the median of the others'; of fewer than two, none."""
    ordered = sorted(costs.values())
    shares = {}
    for rank, cost in costs.items() if len(costs) > 1 else ():
        place = bisect_left(ordered, cost)
        shares[rank] = cost / median([*ordered[:place], *ordered[place + 1 :]])
    return shares


def rank_figures(ranks: Sequence[RankState], step_s: float) -> dict[str, float]:
    """`ranks/...` of a line of `metrics.jsonl`: over the interval that the ranks' means are of; what is known of it.

    `step_s`: seconds a step of the whole run, mean over it.
    """
    figures: dict[str, float] = {}
    own = {state.rank: state.compute_s for state in ranks if math.isfinite(state.compute_s)}
    if own:
        figures |= {
            "ranks/compute_s_min": min(own.values()),
            "ranks/compute_s_mean": _mean(list(own.values())),
            "ranks/compute_s_max": max(own.values()),
            "ranks/slowest": float(max(own, key=lambda rank: own[rank])),
        }
    if memory := _known(state.memory_bytes for state in ranks):
        figures["ranks/memory_bytes_max"] = max(memory)
    if busy := _known(state.utilisation for state in ranks):
        figures["ranks/utilisation_mean"] = _mean(busy)
    if degrees := _known(state.celsius for state in ranks):
        figures["ranks/celsius_max"] = max(degrees)
    waits = _known(state.wait_s for state in ranks)
    if waits and step_s > 0:
        figures["ranks/wait_share"] = _mean(waits) / step_s
    return figures


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


class RankRecorder:
    """Rank 0's: `ranks.json` of its run, and at each log interval the figures and the straggler.

    Nothing here raises into the training: a file that cannot be written is tried again.
    """

    def __init__(self, files: Folder, clock: Callable[[], float] = time.monotonic, pid: int | None = None) -> None:
        """`files`: those of the run's folder. `clock`: seconds, for how often the file is written.

        `pid`: of the process that holds the run, as `run.json` names it, where it is not this one.
        """
        self._files = files
        self._clock = clock
        self._pid = os.getpid() if pid is None else pid
        self._written_at = self._judged_at = -math.inf
        self._watch = StragglerWatch()
        self._straggler: Straggler | None = None

    def write(self, ranks_now: Callable[[], Iterable[RankState]]) -> bool:
        """Replace the file, unless that was less than two seconds ago; whether it has been.

        `ranks_now`: asked only then. What it raises is raised.
        """
        now = self._clock()
        if now - self._written_at < WRITE_EVERY_S:
            return False
        self._written_at, ranks = now, ranks_now()
        record = {
            "time": time.time(), "pid": self._pid, "host": socket.gethostname(),
            "straggler": None if self._straggler is None else asdict(self._straggler),
            "ranks": [state_record(state) for state in ranks],
        }  # fmt: skip
        try:
            self._files.write(FILE, json.dumps(record, ensure_ascii=False).encode("utf-8", "replace"))
        except OSError:
            return False
        return True

    def interval(self, ranks: Sequence[RankState], step_s: float) -> tuple[dict[str, float], Straggler | None]:
        """A log interval is over: what its line in `metrics.jsonl` says of the ranks, and a straggler newly found.

        One that is found, or is none any more, stands in the file with the next `write`, however soon that is.
        """
        before, now = self._straggler, self._clock()
        if now - self._judged_at >= _JUDGES_EVERY_S:
            self._judged_at = now
            self._straggler = self._watch.note(ranks)
        if (before is None) != (self._straggler is None):
            self._written_at = -math.inf
        is_new = self._straggler is not None and (before is None or before.rank != self._straggler.rank)
        return rank_figures(ranks, step_s), self._straggler if is_new else None


def state_record(state: RankState) -> dict[str, Any]:
    """A rank as `ranks.json` and `status --json` have it; what is not known is null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(state).items()
    }


class Ranks(Struct):
    """What `ranks.json` says: of a run of at least two processes."""

    ranks: tuple[RankState, ...]  # by their numbers
    written_at: float  # seconds since 1970; NaN: not known
    pid: int | None  # of the process that holds the run
    host: str  # that it is on
    straggler: Straggler | None

    def record(self) -> dict[str, Any]:
        """As `status --json` has it."""
        straggler = None if self.straggler is None else asdict(self.straggler)
        return {"ranks": [state_record(state) for state in self.ranks], "straggler": straggler}


def read_ranks(files: Folder) -> Ranks | None:
    """The ranks as the run's folder has them; None where it says nothing of more than one, whatever lies there."""
    try:
        record = json.loads(files.read(FILE, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(listed := record.get("ranks"), list):
        return None
    states: dict[int, RankState] = {}
    for each in listed[:MOST_RANKS]:
        if isinstance(each, dict) and (rank := _whole(each.get("rank"), MOST_RANKS - 1)) is not None:
            states.setdefault(rank, _state(rank, each))
    if len(states) < 2:
        return None
    return Ranks(
        tuple(states[rank] for rank in sorted(states)),
        number(record.get("time")),
        _whole(record.get("pid"), _MOST_PID),
        one_line(record.get("host") or "", 80),
        _straggler(record.get("straggler"), states),
    )


_MOST_PID, _MOST_STEP = 1 << 31, 1 << 53
_AT_MOST = {
    "compute_s": 1e9,
    "wait_s": 1e9,
    "tokens": 1e15,
    "memory_bytes": 1e18,
    "memory_total": 1e18,
    "utilisation": 1.0,
    "celsius": 1e4,
}


def _state(rank: int, record: dict[str, Any]) -> RankState:
    return RankState(
        rank, _words(record.get("host"), 80), _words(record.get("device"), 40),
        _whole(record.get("pid"), _MOST_PID), _words(record.get("phase"), 40), _whole(record.get("step"), _MOST_STEP),
        **{name: _within(record.get(name), most) for name, most in _AT_MOST.items()},
    )  # fmt: skip


def _straggler(record: object, states: dict[int, RankState]) -> Straggler | None:
    if not isinstance(record, dict):
        return None
    rank, more = _whole(record.get("rank"), MOST_RANKS - 1), _whole(record.get("more"), MOST_RANKS)
    slower = _within(record.get("slower"), 1e4)
    if rank not in states or not math.isfinite(slower):
        return None
    state = states[rank]
    return Straggler(rank, state.host, state.device_name, slower, more or 0)


def _words(value: object, limit: int) -> str:
    return one_line(value[: 4 * limit], limit) if isinstance(value, str) else ""


def _whole(value: object, most: int) -> int | None:
    return value if type(value) is int and 0 <= value <= most else None


def _within(value: object, most: float) -> float:
    """A figure from 0 to `most`; NaN where it is none."""
    found = number(value) if not isinstance(value, bool) else math.nan
    return found if 0 <= found <= most else math.nan
