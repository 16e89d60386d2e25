"""What the launcher lists: plans with what they would take here, and runs.

It comes with pydantic and numpy, so the launcher imports it behind its first frame.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lmplay_tui.errors import UserError
from lmplay_tui.plan.reading import read_plan
from lmplay_tui.plan.schema import Plan
from lmplay_tui.text import printable
from lmplay_tui.ui.plan_estimate import SHAPES, Estimate, device_flops, estimate
from lmplay_tui.ui.plan_list import broken_row, plan_detail, plan_head, plan_row
from lmplay_tui.ui.run_list import RunEntry, find_runs, run_detail, run_head, run_rows
from lmplay_tui.ui.widgets.lines import Row, wrapped

EXPERIMENTS = tuple(SHAPES)


class LaunchLists:
    """Reads each plan once, for a start reads it anew; the runs as they were when it was made."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._out_dir = given.get("out_dir")
        self.runs: Sequence[RunEntry] = find_runs(self._out_dir)
        self._half = bool(given.get("amp"))
        self._plans: dict[str, tuple[Plan | None, str]] = {}
        self._flops: dict[str, float] = {}  # by device; NaN where it does not tell, or not yet

    def read_anew(self) -> None:
        """Forget what may have changed on disk."""
        self.runs = find_runs(self._out_dir)
        self._plans.clear()

    def read(self, name: str) -> tuple[Plan | None, str]:
        """A plan, or what is wrong with it."""
        if name not in self._plans:
            try:
                self._plans[name] = read_plan(name), ""
            except UserError as error:
                self._plans[name] = None, printable(error, 2000)
        return self._plans[name]

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
            plan, problem = self.read(name)
            if plan is None:
                rows.append(broken_row(name, problem, width))
            else:
                rows.append(plan_row(name, plan, self._about(plan, options), width))
        return plan_head(width), rows

    def plan_rows_in_full(self, name: str, options: Mapping[str, Any], width: int) -> list[Row]:
        """One plan in detail, or what is wrong with it."""
        plan, problem = self.read(name)
        if plan is None:
            return [((f" {line}", "bad"),) for line in wrapped(problem, width)]
        return plan_detail(plan, self._about(plan, options), width)

    def run_rows(self, width: int) -> tuple[Row, list[Row]]:
        """The columns' titles and a row for each run."""
        return run_head(width), run_rows(self.runs, width)

    def run_rows_in_full(self, index: int, width: int) -> list[Row]:
        """One run in detail."""
        return run_detail(self.runs[index], width)
