"""A learning rate as a person types it, at the dashboard's key and in any shell."""

import math
import re

from lmplay_tui.run.controls import SetLearningRate

_FACTOR = re.compile(r"^[*x×]\s*")


def parse_lr(text: str) -> SetLearningRate | None:
    """`*0.5` or `x0.5`: a factor of what holds now; `1e-4`: the value wanted now. None: neither."""
    text = text.strip()
    factor = _FACTOR.match(text)
    try:
        number = float(text[factor.end() :] if factor else text)
    except ValueError:
        return None
    if not 0 < number < math.inf:
        return None
    return SetLearningRate(factor=number) if factor else SetLearningRate(value=number)


def shown_lr(lr: float) -> str:
    """`0.0006`, `3.33e-05`."""
    return f"{lr:.3g}"
