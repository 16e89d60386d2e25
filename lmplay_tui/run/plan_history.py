"""The plan of a run on disk, `plan.toml`, and each that it was before, in `plan.history/`."""

from pathlib import Path

from lmplay_tui.run.folder import RunFolder, utc_now, write_whole


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
