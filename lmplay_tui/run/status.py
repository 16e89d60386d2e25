"""How a run is, for whoever asks once: from `run.json`, and from whether a process holds the run."""

from typing import Any

from lmplay_tui.run.folder import RunFolder

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
    stages = run.status().get("stages")
    try:
        total = sum(stage["rows_total"] for stage in stages or ())
        done = sum(stage["rows_done"] for stage in stages or ())
    except (TypeError, KeyError):
        return None
    return done / total if total else None
