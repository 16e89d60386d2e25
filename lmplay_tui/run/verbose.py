"""What `--verbose` adds to a run's log: what it does from moment to moment, and the figures of each log interval."""

from collections.abc import Callable, Mapping
from typing import Any

from lmplay_tui.run import events as said
from lmplay_tui.run.journal import number
from lmplay_tui.run.learning_rate import shown_lr
from lmplay_tui.run.metric_names import OF_STEPS
from lmplay_tui.run.telling import shown_rate
from lmplay_tui.text import one_line


def said_more(event: said.Event) -> str | None:
    """A line for `log.txt`, of an event that has none there else."""
    match event:
        case said.ActivityChanged():
            return one_line(f"{event.activity} {event.detail}").strip()
        case said.MetricsLogged() if OF_STEPS in event.values:  # scores have sentences of their own
            return _figures(event.values)
    return None


def _figures(values: Mapping[str, Any]) -> str:
    """One line of `metrics.jsonl` for people: scores, then where the time went."""
    forms: dict[str, Callable[[float], str]] = {
        "train/accuracy": lambda v: f"accuracy {v:.3f}",
        "train/lr": lambda v: f"lr {shown_lr(v)}",
        "train/grad_norm": lambda v: f"gradient norm {v:.3g}",
        "perf/tokens_per_s": lambda v: f"{shown_rate(v)} tok/s",
    }
    parts = [f"step {values['step']}, row {values['row']} of stage {values['stage']}: loss {values['train/loss']:.3f}"]
    parts += [form(number(values[name])) for name, form in forms.items() if values.get(name) is not None]
    times = {name: number(value) for name, value in values.items() if name.startswith("time/") and value is not None}
    spent = " ".join(f"{name[len('time/') : -len('_s')]} {1000 * seconds:.0f}" for name, seconds in times.items())
    return one_line(", ".join(parts) + (f"; ms: {spent}" if spent else ""), 400)
