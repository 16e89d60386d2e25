"""What the launcher lists: the runs there are, and the plans, each with what it would take on this machine.

It imports numpy, and reads plans, which imports pydantic: so the launcher imports it after its first frame.

Rows and time are found before anything is opened or downloaded: by an earlier run of the plan where there is one. Else
by what is known of the datasets, by the operations that a token of the model costs, and by what the device computes a
second: a figure to tell minutes from days by.
"""

import contextlib
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.cells import cell_len

from lmplay_tui.errors import UserError
from lmplay_tui.files import open_given
from lmplay_tui.formats import format_count, format_rough_duration
from lmplay_tui.options import Part, TrainOptions, names_of
from lmplay_tui.plan.reading import MAX_BYTES, read_plan
from lmplay_tui.plan.schema import DatasetSpec, Plan, Stage
from lmplay_tui.run.device_peaks import vendor_peak
from lmplay_tui.text import one_line, printable
from lmplay_tui.ui.run_list import RunEntry, find_runs, run_detail, run_table
from lmplay_tui.ui.widgets.lines import Row, fitted, right, wrapped


@dataclass(frozen=True)
class Estimate:
    """Rows and seconds of a plan, NaN where they cannot be guessed; on what that rests.

    `measured`: on an earlier run of it here.
    """

    rows: float
    seconds: float
    rests_on: str
    measured: bool = False


class LaunchLists:
    """Plans and runs as they were when it was made, which reads the disk: in any thread."""

    def __init__(self, options: TrainOptions, shipped: Sequence[str], before: "LaunchLists | None" = None) -> None:
        """`shipped`: names of plans; those of the working folder come behind them. `before`: knows of devices."""
        self.runs: Sequence[RunEntry] = find_runs(options.out_dir)
        self._plans = {name: _read(name) for name in shipped} | _own_plans(Path())
        self.names = [*self._plans]
        self._half = options.amp
        # By device; NaN where it cannot be found, or is not known yet.
        self._flops: dict[str, float] = before._flops if before is not None else {}

    def problem_of(self, name: str) -> str:
        """What is wrong with a plan that was read; nothing where it can be read."""
        return self._plans[name][1]

    def is_new(self, device: str) -> bool:
        """Whether this is the first time that the speed of `device` is asked for."""
        if device in self._flops:
            return False
        self._flops[device] = math.nan
        return True

    def measure(self, device: str) -> None:
        """Find out how fast it computes; takes a moment, in any thread."""
        self._flops[device] = device_flops(device, half=self._half)

    def _estimate(self, plan: Plan, options: Mapping[str, Any]) -> Estimate:
        return estimate(plan, self.runs, options, self._flops.get(options["device"], math.nan))

    def plan_rows(self, names: Sequence[str], options: Mapping[str, Any], width: int) -> tuple[Row, list[Row]]:
        """The columns' titles and a row for each plan, under these `options`."""
        rows = []
        name_cells = plan_name_cells(names, width)
        for name in names:
            plan, problem = self._plans[name]
            if plan is None:
                rows.append(broken_row(name, problem, width, name_cells))
            else:
                rows.append(plan_row(name, plan, self._estimate(plan, options), width, name_cells))
        return plan_head(width, name_cells), rows

    def plan_rows_in_full(self, name: str, options: Mapping[str, Any], width: int) -> list[Row]:
        """One plan in detail, or what is wrong with it."""
        plan, problem = self._plans[name]
        if plan is None:
            return [((f" {line}", "bad"),) for line in wrapped(problem, width)]
        return plan_detail(plan, self._estimate(plan, options), width)

    def run_rows(self, width: int) -> tuple[Row, list[Row]]:
        """The columns' titles and a row for each run."""
        return run_table(self.runs, width)

    def run_rows_in_full(self, index: int, width: int) -> list[Row]:
        """One run in detail."""
        return run_detail(self.runs[index], width)


# ---- the plans there are

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
        with open_given(path) as file:
            return _LOOKS_LIKE_STAGES.search(file.read(MAX_BYTES)) is not None
    except OSError:
        return False


# ---- as rows

_COLUMNS = {"stages": 8, "rows": 9, "time here": 11}


def plan_name_cells(names: Sequence[str], width: int) -> int:
    """How wide names of plans may be: they have their whole length before there is room for purposes."""
    longest = max((cell_len(one_line(name, 80)) for name in names), default=0)
    return max(min(longest + 2, width - sum(_COLUMNS.values())), 8)


def _purpose_cells(width: int, name_cells: int) -> int:
    return max(width - name_cells - sum(_COLUMNS.values()), 0)


def plan_head(width: int, name_cells: int) -> Row:
    """The titles of `plan_row`'s columns."""
    titles = "".join(right(title, cells) for title, cells in _COLUMNS.items())
    return (
        (fitted("plan", name_cells), "label"),
        (fitted("", _purpose_cells(width, name_cells)), ""),
        (titles, "label"),
    )


def plan_row(name: str, plan: Plan, about: Estimate, width: int, name_cells: int) -> Row:
    """Name, purpose, stages, rows and time."""
    took = ("" if about.measured or not math.isfinite(about.seconds) else "~") + format_rough_duration(about.seconds)
    cells = (str(len(plan.stages)), format_count(about.rows, guessed=not about.measured), took)
    figures = "".join(right(text, wide) for text, wide in zip(cells, _COLUMNS.values(), strict=True))
    return (
        (fitted(one_line(name, 80), name_cells), "strong"),
        (fitted(plan.title or plan.purpose, _purpose_cells(width, name_cells)), "dim"),
        (figures, ""),
    )


def broken_row(name: str, problem: str, width: int, name_cells: int) -> Row:
    """A plan that cannot be read, and why."""
    return (
        (fitted(one_line(name, 80), name_cells), ""),
        (" ✗ ", "bad"),
        (fitted(one_line(problem), max(width - name_cells - 3, 0)), "bad"),
    )


def plan_detail(plan: Plan, about: Estimate, width: int) -> list[Row]:
    """What a plan is for, its stages, and where the estimate is from."""
    rows: list[Row] = [((f" {line}", ""),) for line in wrapped(plan.purpose or plan.title or "", width - 1)]
    rows.append(())
    for stage in plan.stages:
        datasets = " + ".join(spec.name for spec in stage.datasets)
        rows.append(
            (
                (" " + fitted(stage.name, 14), "strong"),
                (fitted(datasets, max(width - 39, 6)), ""),
                (f" ×{stage.epochs:<5g}", "dim"),
                (right(f"{format_count(about_rows(stage), guessed=True)} rows", 16), "dim"),
            )
        )
    if math.isfinite(about.seconds):
        took = ("" if about.measured else "~") + format_rough_duration(about.seconds)
        rows += [(), ((" time here  ", "label"), (took, "strong"))]
        rows += [((f" {line}", "dim"),) for line in wrapped(f"rests on {about.rests_on}", width - 1)]
    return rows


# ---- an estimate

# Rows, and tokens of GPT-2's vocabulary a row: what the hub's pages say, rounded.
_SIZES = {
    "wikipedia": (6_400_000, 760), "wikipedia:en": (6_400_000, 760), "wikipedia:es": (1_840_000, 1050),
    "wikitext": (1_800_000, 65), "wikitext:2": (36_700, 65), "fineweb-edu": (9_670_000, 1030),
    "tinystories": (2_120_000, 220), "openorca": (4_230_000, 400), "orcamath": (200_000, 300),
    "smoltalk": (1_040_000, 1000), "cosmopedia": (39_100_000, 720), "pydocs": (3_620, 143),
}  # fmt: skip
_PYDOCS_SIZES = {"docstrings": (3_450, 120), "topics": (166, 660)}

# num_blocks and embed_dim of the shipped experiments; a test holds them to the registry, which needs torch.
SHAPES = {
    "gpt2ish": (6, 768), "gpt2ish_med": (24, 1024), "gpt2ish_large": (36, 1280), "s_gpt2ish": (18, 288),
    "test_runner": (6, 64),
}  # fmt: skip
EXPERIMENTS = tuple(SHAPES)
_VOCABULARIES = {"gpt2": 50_257, "r50k_base": 50_257, "p50k_base": 50_281, "cl100k_base": 100_277, "bytes": 257,
                 "o200k_base": 200_019}  # fmt: skip
_SHAPING = {name for name in names_of(Part.MODEL) if name != "exp"}
_TRAINED = 0.9  # the share of rows that is not held out
_UTILISATION = 0.35  # of the peak: what such models reach on a processor and on a GPU alike, roughly


def about_rows(stage: Stage) -> float:
    """About how many rows a stage reads, those held out for validation taken off; NaN where a dataset is not known."""
    sizes = [_size(spec)[0] for spec in stage.datasets]
    chosen = min if stage.stopping == "first_exhausted" else max
    one_pass = chosen(size / share for size, share in zip(sizes, _shares(stage), strict=True))
    return _TRAINED * stage.epochs * (one_pass if math.isfinite(sum(sizes)) else math.nan)


def _tokens_per_row(stage: Stage) -> float:
    lengths = (_size(spec)[1] for spec in stage.datasets)
    return sum(share * length for share, length in zip(_shares(stage), lengths, strict=True))


def _shares(stage: Stage) -> Sequence[float]:
    return stage.weights or [1 / len(stage.datasets)] * len(stage.datasets)


def _size(spec: DatasetSpec) -> tuple[float, float]:
    if spec.path == "pydocs" and spec.config is not None:
        return _PYDOCS_SIZES.get(spec.config, (math.nan, math.nan))
    return _SIZES.get(spec.name, _SIZES.get(spec.path, (math.nan, math.nan)))


def estimate(plan: Plan, entries: Sequence[RunEntry], options: Mapping[str, Any], flops_per_s: float) -> Estimate:
    """The whole plan. `options`: of the command line and the launcher; `flops_per_s`: NaN where not known."""
    earlier = _by_earlier_run(plan, entries, options)
    if earlier is not None:
        return earlier
    settings = {**plan.train, **options}
    rows = [about_rows(stage) for stage in plan.stages]
    tokens = sum(count * _tokens_per_row(stage) for count, stage in zip(rows, plan.stages, strict=True))
    tokens *= _tokens_per_gpt2_token(settings)
    flops = tokens * _flops_per_token(settings)
    rests_on = (
        f"a guess: {format_count(tokens, guessed=True)} tokens, and {100 * _UTILISATION:.0f} % of the "
        f"{flops_per_s / 1e12:.2g} TFLOP/s that the device has when nothing else uses it"
    )
    return Estimate(sum(rows), flops / (_UTILISATION * flops_per_s), rests_on)


def _by_earlier_run(plan: Plan, entries: Sequence[RunEntry], options: Mapping[str, Any]) -> Estimate | None:
    """Of the same experiment on the same kind of device; its name is the one that such a run gets."""
    if options.keys() & _SHAPING:  # what an earlier run of that name had is not known here
        return None
    names = [stage.name for stage in plan.stages]
    name = f"{str({**plan.train, **options}.get('exp', 'gpt2ish')).rpartition(':')[2]}_{plan.name}"
    device = options.get("device")
    for entry in entries:
        if device is not None and _kind(entry.status.device) != _kind(device):
            continue
        stages, at = entry.status.stages, entry.status.at
        rows = [stage.rows_total for stage in stages if stage.rows_total is not None]
        same = [stage.plan_name for stage in stages] == names and entry.folder.name == name
        if same and len(rows) == len(names):
            # Over all of its training: the last moment's speed says what else the machine was doing then.
            per_s = at.rows / at.time if entry.status.is_placed and at.time > 0 and at.rows > 0 else math.nan
            so_far = f"{format_count(at.rows)} rows in {format_rough_duration(at.time)} of training"
            return Estimate(float(sum(rows)), sum(rows) / per_s, f"an earlier run of it: {so_far}", measured=True)
    return None


def _kind(device: object) -> str:
    """`cuda` of `cuda:1`."""
    return str(device).partition(":")[0]


def _vocabulary(settings: Mapping[str, Any]) -> float:
    name, _, ranks = str(settings.get("tokenizer", "gpt2")).partition(":")
    return float(ranks) if ranks.isdigit() else _VOCABULARIES.get(name, math.nan)


def _tokens_per_gpt2_token(settings: Mapping[str, Any]) -> float:
    """A smaller vocabulary needs more tokens for the same text: a tenth for each halving, measured on `pydocs`."""
    size = _vocabulary(settings)
    return 4.0 if size < 1000 else 1 + 0.093 * math.log2(50_257 / size)


def _flops_per_token(settings: Mapping[str, Any]) -> float:
    """6 x parameters in matrix products + 12 x blocks x width x length (the PaLM paper, appendix B)."""
    blocks, width = SHAPES.get(str(settings.get("exp", "gpt2ish")), (math.nan, math.nan))
    blocks, width = settings.get("num_blocks", blocks), settings.get("embed_dim", width)
    length = settings.get("context_len", 1024) / 2
    return float(6 * (12 * blocks * width**2 + _vocabulary(settings) * width) + 12 * blocks * width * length)


def device_flops(device: str, *, half: bool) -> float:
    """Peak FLOP/s of the device that `--device` names, without torch; NaN where it cannot be found.

    One core is asked to multiply for some thousandths of a second of its own time, by products that are too small to be
    shared among threads: what other programs take of the machine meanwhile does not count.
    """
    if device.startswith("cuda"):
        return _gpu_flops(device, half=half)
    return math.nan if device == "mps" else _processor_flops()


def _gpu_flops(device: str, *, half: bool) -> float:
    import pynvml

    with contextlib.suppress(pynvml.NVMLError, ValueError):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(device.partition(":")[2] or 0))
        return vendor_peak(str(pynvml.nvmlDeviceGetName(handle)), "float16" if half else "float32") or math.nan
    return math.nan


def _processor_flops(size: int = 64, times: int = 4) -> float:
    a = np.ones((size, size), np.float32)
    seconds = []
    for _ in range(200):
        begun = time.thread_time()
        for _ in range(times):
            a @ a
        seconds.append(time.thread_time() - begun)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores * times * 2 * size**3 / max(min(seconds), 1e-6)
