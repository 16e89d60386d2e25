"""What the launcher lists: plans with what they would take here, and runs.

It comes with pydantic and numpy, so the launcher imports it behind its first frame.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmplay_tui.errors import UserError
from lmplay_tui.plan.parsing import MAX_BYTES
from lmplay_tui.plan.reading import read_plan
from lmplay_tui.plan.schema import Plan
from lmplay_tui.text import printable
from lmplay_tui.ui.plan_estimate import SHAPES, Estimate, device_flops, estimate
from lmplay_tui.ui.plan_list import broken_row, plan_detail, plan_head, plan_row
from lmplay_tui.ui.run_list import RunEntry, find_runs, run_detail, run_head, run_rows
from lmplay_tui.ui.widgets.lines import Row, wrapped

EXPERIMENTS = tuple(SHAPES)
_LOOKS_LIKE_STAGES = re.compile(rb"^\s*(\[\s*stages\s*[.\]]|stages\s*=\s*\{|datasets?\s*=)", re.MULTILINE)


def _read(name: str) -> tuple[Plan | None, str]:
    """A plan, or what is wrong with it."""
    try:
        return read_plan(name), ""
    except UserError as error:
        return None, printable(error, 2000)


def _own_plans(folder: Path) -> dict[str, tuple[Plan | None, str]]:
    """The training plans among a folder's TOML files, as read: also what is broken but looks like one."""
    read = {str(path): _read(str(path)) for path in sorted(folder.glob("*.toml"))}
    return {name: found for name, found in read.items() if found[0] is not None or _looks_like_a_plan(Path(name))}


def _looks_like_a_plan(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _LOOKS_LIKE_STAGES.search(file.read(MAX_BYTES)) is not None
    except OSError:
        return False


class LaunchLists:
    """Plans and runs as they were when it was made, which reads the disk: in any thread."""

    def __init__(self, given: Mapping[str, Any], shipped: Sequence[str], before: "LaunchLists | None" = None) -> None:
        """`shipped`: names of plans; those of the working folder come behind them. `before`: knows of devices."""
        self.runs: Sequence[RunEntry] = find_runs(given.get("out_dir"))
        self._plans = {name: _read(name) for name in shipped} | _own_plans(Path())
        self.names = [*self._plans]
        self._half = bool(given.get("amp"))
        # By device; NaN where it does not tell, or not yet.
        self._flops: dict[str, float] = before._flops if before is not None else {}

    def problem_of(self, name: str) -> str:
        """What is wrong with a plan that was read; nothing where that is all right."""
        return self._plans[name][1]

    def is_new(self, device: str) -> bool:
        """Whether nobody has asked yet how fast `device` computes."""
        if device in self._flops:
            return False
        self._flops[device] = math.nan
        return True

    def measure(self, device: str) -> None:
        """Find out how fast it computes; takes a moment, in any thread."""
        self._flops[device] = device_flops(device, half=self._half)

    def _about(self, plan: Plan, options: Mapping[str, Any]) -> Estimate:
        return estimate(plan, self.runs, options, self._flops.get(options["device"], math.nan))

    def plan_rows(self, names: Sequence[str], options: Mapping[str, Any], width: int) -> tuple[Row, list[Row]]:
        """The columns' titles and a row for each plan, under these `options`."""
        rows = []
        for name in names:
            plan, problem = self._plans[name]
            if plan is None:
                rows.append(broken_row(name, problem, width))
            else:
                rows.append(plan_row(name, plan, self._about(plan, options), width))
        return plan_head(width), rows

    def plan_rows_in_full(self, name: str, options: Mapping[str, Any], width: int) -> list[Row]:
        """One plan in detail, or what is wrong with it."""
        plan, problem = self._plans[name]
        if plan is None:
            return [((f" {line}", "bad"),) for line in wrapped(problem, width)]
        return plan_detail(plan, self._about(plan, options), width)

    def run_rows(self, width: int) -> tuple[Row, list[Row]]:
        """The columns' titles and a row for each run."""
        return run_head(width), run_rows(self.runs, width)

    def run_rows_in_full(self, index: int, width: int) -> list[Row]:
        """One run in detail."""
        return run_detail(self.runs[index], width)
