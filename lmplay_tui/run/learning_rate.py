"""The learning rate: schedules and warm-up, what a person types at the keyboard, and what becomes of it, in figures."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lmplay_tui.formats import format_lr
from lmplay_tui.run.controls import SetLearningRate

_FACTOR = re.compile(r"^[*x×]\s*")


def parse_lr(text: str) -> SetLearningRate | None:
    """`*0.5` or `x0.5`: a factor of what holds now; `1e-4`: the value wanted. None: neither."""
    text = text.strip()
    factor = _FACTOR.match(text)
    try:
        number = float(text[factor.end() :] if factor else text)
    except ValueError:
        return None
    if not 0 < number < math.inf:
        return None
    return SetLearningRate(factor=number) if factor else SetLearningRate(value=number)


COSINE_FLOOR = 0.1
WSD_DECAY_SHARE = 0.2


def schedule(kind: str, progress: float) -> float:
    """The factor of the learning rate at `progress` (rows done / rows of the stage, 0 to 1): a pure function, 0 to 1.

    constant: 1.
    cosine: from 1 to 0.1 along half a cosine (Loshchilov & Hutter, arXiv:1608.03983; the floor of a tenth is that of
    GPT-3, arXiv:2005.14165 appendix B, and of Chinchilla, arXiv:2203.15556).
    linear: from 1 to 0 (BERT, arXiv:1810.04805; why to zero: Bergsma et al., arXiv:2502.15938).
    wsd: 1, and over the last fifth down to 0 as 1 - sqrt (warm-up, stable, decay: MiniCPM, arXiv:2404.06395; share
    and shape of the decay: Hägele et al., arXiv:2405.18392).
    """
    progress = min(max(progress, 0.0), 1.0)
    if kind == "constant":
        return 1.0
    if kind == "cosine":
        return COSINE_FLOOR + (1 - COSINE_FLOOR) * (1 + math.cos(math.pi * progress)) / 2
    if kind == "linear":
        return 1.0 - progress
    if kind == "wsd":
        decayed = max(progress - (1 - WSD_DECAY_SHARE), 0.0) / WSD_DECAY_SHARE
        return 1.0 - math.sqrt(min(decayed, 1.0))
    raise ValueError(f"unknown schedule {kind}")


def warmup(step_since_start: int, *, fraction: float, steps: int) -> float:
    """The factor of a warm-up: `fraction` at its first step (0), 1 after `steps` steps, a straight line between."""
    return 1.0 if step_since_start >= steps else fraction + (1.0 - fraction) * step_since_start / steps


def rate_sentence(lr: float, factor: float, step: int, follows: str) -> str:
    """What a request at the keyboard has made of the learning rate; `follows` is its `outlook`."""
    said = f"learning rate {format_lr(lr)} (x {factor:.4g} of the schedule) from step {step:,} on"
    return f"{said}: {follows}" if follows else said


@dataclass(frozen=True)
class StageRate:
    """What a stage says of its learning rate."""

    stage: str
    lr: float
    schedule: str


def outlook(
    now: StageRate,
    progress: float,
    later: Sequence[StageRate],
    *,
    factor: float,
    next_lr: float,
    warm_up_ends: int | None,
) -> str:
    """What becomes of the learning rate once the keyboard has set `factor`, in figures; empty: it stays as it is.

    `progress`: of the stage under way, 0 to 1; `next_lr`: of the next step; `warm_up_ends`: at which step, where one
    is under way.
    """
    said = []
    if warm_up_ends is not None:
        said.append(f"{format_lr(next_lr)} now, the warm-up leads up to it until step {warm_up_ends:,}")
    end = now.lr * schedule(now.schedule, 1.0) * factor
    if schedule(now.schedule, 1.0) != schedule(now.schedule, progress):
        said.append(f"{now.schedule} brings it to {format_lr(end)} at the end of stage {now.stage}")
    level = now.lr * schedule(now.schedule, progress) * factor
    for stage in later:
        begins = stage.lr * factor
        if not math.isclose(begins, level, rel_tol=1e-6):
            said.append(f"stage {stage.stage} (lr {format_lr(stage.lr)}) begins with {format_lr(begins)}")
    return "; ".join(said)


def rate_jump(rate: StageRate, rows_done: int, rows_before: int, rows_after: int, *, factor: float = 1.0) -> str | None:
    """What other rows of a stage under way do to its learning rate: one line with figures; None: next to nothing.

    A schedule runs over its stage's rows: extend one that has ended, and it stands in its middle again.
    """
    if not rows_done:
        return None
    before = rate.lr * factor * schedule(rate.schedule, rows_done / max(rows_before, 1))
    after = rate.lr * factor * schedule(rate.schedule, rows_done / max(rows_after, 1))
    if abs(after - before) <= 0.01 * max(after, before):
        return None
    return (
        f"stage {rate.stage}: the learning rate jumps from {format_lr(before)} to {format_lr(after)}: its "
        f"{rate.schedule} schedule is spread over {rows_after:,} rows instead of {rows_before:,}"
    )
