"""What each rank is at: what it says of itself in the store, and what its reports of the steps have said."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch

from lmplay_tui.files import Folder
from lmplay_tui.run.ranks import RankRecorder, RankState, Straggler
from lmplay_tui.text import one_line
from lmplay_tui.train.process_group import ProcessGroup
from lmplay_tui.train.reduction import (
    MOST_SAID,
    ShareReport,
    device_key,
    error_key,
    own_place,
    phase_key,
    place_key,
)

AT_WORK = ("computing", "scoring")


class RankStates:
    """What rank 0 knows of all ranks. `phase`, `step` and `device` are its own."""

    def __init__(self, group: ProcessGroup) -> None:
        self.device = torch.device("cpu")
        self.phase = "starting"
        self.step: int | None = None
        self._group = group
        self._store = group.store
        self._recorder: RankRecorder | None = None
        self._reports: list[list[ShareReport]] = []  # of the steps of this log interval
        self._reports_before: list[list[ShareReport]] = []

    def add(self, reports: list[ShareReport]) -> None:
        """A step is done: the report of each rank."""
        self._reports.append(reports)

    def record_in(self, files: Folder) -> None:
        """Say in the run's folder what each rank is at, from now on and all the time."""
        self._recorder = RankRecorder(files, pid=None if self._group.agent is None else self._group.agent.pid)

    def write(self) -> None:
        """Say it now, where it is to be said."""
        if self._recorder is not None:
            self._recorder.write(self.states)

    def interval(self, step_s: float) -> tuple[Mapping[str, float], Straggler | None]:
        """A log interval is over, with `step_s` seconds a step: its figures, and a straggler newly found."""
        states = self.states()
        self._reports_before, self._reports = self._reports, []
        return ({}, None) if self._recorder is None else self._recorder.interval(states, step_s)

    def states(self) -> list[RankState]:
        """What each rank is at, and its means over the steps of this log interval, or of the last one."""
        places = [self._told(place_key(rank)).split("\n") for rank in range(1, self._group.world_size)]
        phases = [self._told(phase_key(rank)).partition("\n")[2] for rank in range(1, self._group.world_size)]
        own = own_place(self._group, self.device)
        reports = list(self._reports or self._reports_before)
        slowest = [max(each.seconds for each in step) for step in reports]
        made = []
        for rank, (place, phase) in enumerate(zip([own.split("\n"), *places], [self.phase, *phases], strict=True)):
            host, device, pid = place if len(place) == 3 else ("", "", "")
            mine = [step[rank] for step in reports]
            made.append(
                RankState(
                    rank, host=host, device=device, pid=int(pid) if pid.isdecimal() else None, phase=phase,
                    step=self.step, compute_s=_mean([each.seconds for each in mine]),
                    wait_s=_mean([most - each.seconds for most, each in zip(slowest, mine, strict=True)]),
                    tokens=_mean([float(each.num_positions) for each in mine]),
                    **(dataclasses.asdict(mine[-1].use) if mine else {}),
                )
            )  # fmt: skip
        return made

    def behind(self, turn: int) -> str:
        """The ranks that have not done their share of this turn, in words; empty: all wait for each other."""
        late = [
            state
            for state in self.states()
            if state.phase in AT_WORK or (state.rank and self._told(phase_key(state.rank)) != f"{turn}\nwaiting")
        ]
        said = [f"{_named(each)} is still {each.phase if each.phase in AT_WORK else 'to begin'}" for each in late]
        return ", ".join(said) if len(late) < self._group.world_size else ""

    def last_words(self) -> str:
        """Why one of the others has left, as it says itself; empty: none has said anything, as where it was killed."""
        said = {rank: self._told(error_key(rank)) for rank in range(1, self._group.world_size)}
        return next((f"rank {rank}: {one_line(words, MOST_SAID)}" for rank, words in said.items() if words), "")

    def failed_device(self) -> str:
        """Which of the others has left for its device has failed, and how; empty: none."""
        for each in self.states():
            if said := self._told(device_key(each.rank)):
                return f"{_named(each)}: its device has failed ({one_line(said, 300)})"
        return ""

    def _told(self, key: str) -> str:
        """What a rank says of itself. Nothing where the store is gone: steps that are done are written down still."""
        try:
            return bytes(self._store.get(key)).decode("utf-8", "replace") if self._store.check([key]) else ""
        except RuntimeError:
            return ""


def _named(state: RankState) -> str:
    return f"rank {state.rank} ({one_line(state.host, 60)}, {one_line(state.device, 20)})"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
