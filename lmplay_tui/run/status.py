"""How a run is, for whoever asks once: from `run.json`, and from whether a process holds the run."""

import math
from collections.abc import Mapping
from typing import Any

from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.journal import number

FIELDS = (
    "name", "state", "activity", "pid", "stage", "step", "samples", "tokens", "train_loss", "val_loss", "lr",
    "tokens_per_s", "eta_s", "checkpoint",
)  # fmt: skip


def status_of(run: RunFolder) -> dict[str, Any]:
    """The fields of `status --json`; what is not known is None.

    `state`: running, paused, stopped, finished, failed, or dead where a process ended without saying so.
    """
    said = run.status()
    alive = run.alive()
    status: dict[str, Any] = {name: said.get(name) for name in FIELDS} | {"name": run.name}
    state = said.get("state")
    if alive and state not in ("running", "paused"):  # it has just begun: what stands there is of the time before
        status |= {"state": "running", "activity": "starting", "pid": None}
    elif not alive:
        ended = state in ("stopped", "finished", "failed")
        status |= {"state": state if ended else "dead", "activity": None, "pid": None, "tokens_per_s": None}
        status["eta_s"] = 0.0 if state == "finished" else None
    return status


def fraction_done(run: RunFolder) -> float | None:
    """The share of the plan's rows that has been read; None where not all stages' rows are known."""
    stages = stages_of(run.status())
    done, total = (sum(number(stage.get(key)) for stage in stages) for key in ("rows_done", "rows_total"))
    return done / total if done >= 0 and 0 < total < math.inf else None


def stages_of(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The stages that stand in a `run.json`, which anybody may have written."""
    stages = status.get("stages")
    return [stage for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []
