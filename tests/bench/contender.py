"""One contender in a process of its own: `python -m tests.bench.contender trainer|ceiling JSON` prints a JSON line."""

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from lmplay_tui import process
from tests.bench.settings import (
    LR,
    SETTINGS,
    WARM_UP_STEPS,
    WEIGHT_DECAY,
    Setting,
    cpu_s,
    gpt2ish_of,
    line,
    plan_text,
    rss_mb,
)

MEMORY_LOOKS = (0.25, 0.5, 1.0)  # when, of the measured time, it is looked how much memory is held: growth shows


def run_trainer(setting: Setting, asked: dict[str, Any]) -> dict[str, Any]:
    """The real trainer, by the same code path as `lmp_trainer`."""
    from lmplay_tui.options import Launch
    from lmplay_tui.process import leave
    from lmplay_tui.run.controls import Controls, Stop
    from lmplay_tui.run.events import MetricsLogged, RunFailed, RunStarted, StepDone, Warned
    from lmplay_tui.train.device import choose_device, peak_flops
    from lmplay_tui.train.follower import follow
    from lmplay_tui.train.launch import run_events
    from lmplay_tui.train.metrics import FlopCount
    from lmplay_tui.train.process_group import ProcessGroup

    group = ProcessGroup.of_environment(asked.get("device", "auto"))
    if group is not None and group.rank:
        status = follow(group)
        group.close()
        leave(status)
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder, "bench.toml")
        plan.write_text(plan_text(setting, asked["data"]), encoding="utf-8", newline="\n")
        given: dict[str, Any] = {"training_plan": str(plan), "model": f"{folder}/bench.lmp", "out_dir": folder}
        given["device"] = asked.get("device", "auto")
        given |= {name: True for name in ("amp", "compile_model") if asked[name]}
        given |= {"log_interval": 5} if group is not None else {}  # each line says how long ranks have waited
        controls, steps, note = Controls(), [], ""
        waits: list[float] = []
        held: list[int] = []
        each: list[list[float]] = []
        begun = began_cpu = cpu = 0.0
        for event in run_events(Launch(given), controls, group=group):
            match event:
                case StepDone() if event.step <= WARM_UP_STEPS:
                    begun, began_cpu = time.perf_counter(), cpu_s() + _cpu_s_of_others(group)
                case StepDone():
                    steps.append(event)
                    used = cpu_s() + _cpu_s_of_others(group) - began_cpu
                    each.append(_parts(event, used - cpu))
                    seconds, cpu = time.perf_counter() - begun, used
                    if seconds >= asked["seconds"] * MEMORY_LOOKS[min(len(held), len(MEMORY_LOOKS) - 1)]:
                        held.append(round(rss_mb()))
                    if seconds >= asked["seconds"]:
                        controls.send(Stop())
                        break
                case MetricsLogged() if "ranks/wait_share" in event.values:
                    waits.append(event.values["ranks/wait_share"])
                case RunStarted():
                    note = event.note
                case Warned():
                    print(event.message, file=sys.stderr)
                case RunFailed():
                    raise SystemExit(event.message)
    shape = {"num_blocks": setting.num_blocks, "embed_dim": setting.embed_dim}
    count = FlopCount.of_model(gpt2ish_of(setting), shape)
    worked = math.fsum(s.forward_s + s.backward_s + s.optimizer_s for s in steps)
    return line(
        "lmplay-tui", setting,
        tokens=sum(s.step_tokens for s in steps), samples=sum(s.samples for s in steps), seconds=seconds, cpu=cpu,
        flops=sum(count.of(s.step_tokens, s.loss_tokens, s.step_tokens / s.samples) for s in steps),
        peak_flops=peak_flops(choose_device(asked.get("device", "auto")), _dtype(asked))[0], final_loss=steps[-1].loss,
        other_share=round(1 - worked / seconds, 4), steps=len(steps), rss_mb=held, note=note,
        device_mb=_device_mb(asked), **_of_ranks(steps, waits), **({"each": each} if asked.get("each") else {}),
    )  # fmt: skip


def _cpu_s_of_others(group: Any) -> float:
    """Processor seconds of the processes that train with this one."""
    others = [] if group is None else [pid for rank, (_, _, pid) in enumerate(group.processes) if rank != group.rank]
    return math.fsum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in others)


def _of_ranks(steps: Any, waits: list[float]) -> dict[str, float]:
    """Shares of the steps' time, where several processes have trained."""
    if not waits:
        return {}
    reduced = math.fsum(step.reduce_s for step in steps)
    return {
        "reduce_share": round(reduced / math.fsum(step.step_s for step in steps), 4),
        "wait_share": round(math.fsum(waits) / len(waits), 4),
    }


def _parts(step: Any, cpu: float) -> list[float]:
    """Tokens of a step, and how its `cpu` processor seconds are divided: forward and backward; update; rest.

    By the clock's shares: other programs on the machine stretch all of them.
    """
    own = step.forward_s + step.backward_s
    rest = max(step.step_s - own - step.optimizer_s - step.data_s, 0.0)
    whole = own + step.optimizer_s + rest
    return [step.step_tokens, *(round(cpu * part / whole, 6) for part in (own, step.optimizer_s, rest))]


def _device_mb(asked: dict[str, Any]) -> int | None:
    """The most that tensors took of a GPU's memory at once; the trainer's own readings begin it anew now and then."""
    import torch

    from lmplay_tui.train.device import choose_device

    device = choose_device(asked.get("device", "auto"))
    return torch.cuda.max_memory_reserved(device) >> 20 if device.type == "cuda" else None


def _dtype(asked: dict[str, Any]) -> Any:
    from lmplay_tui.options import TrainOptions
    from lmplay_tui.train.device import choose_device, choose_precision

    return choose_precision(TrainOptions(amp=asked["amp"]), choose_device(asked.get("device", "auto"))).dtype


def run_ceiling(setting: Setting, asked: dict[str, Any]) -> dict[str, Any]:
    """The tightest plain loop: packed tokens, no data work, everything compiled, fused AdamW."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    from lmplay_tui.models.gpt2ish import GPT2ish
    from lmplay_tui.options import TrainOptions
    from lmplay_tui.train.device import choose_device, choose_precision, peak_flops, speed_choices
    from lmplay_tui.train.metrics import FlopCount

    options = TrainOptions(amp=asked["amp"])
    device = choose_device(asked.get("device", "auto"))
    precision = choose_precision(options, device)
    speed_choices(options, precision)
    torch.manual_seed(0)
    shape = {"num_blocks": setting.num_blocks, "embed_dim": setting.embed_dim}
    model = GPT2ish(
        vocab_size=50257, context_len=setting.context_len, num_heads=setting.num_heads, dropout=0.0, **shape
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=device.type != "mps")
    tokens = torch.from_numpy(np.load(asked["tokens"]).astype(np.int64)).to(device)
    length = setting.context_len + 1
    pieces = tokens[: len(tokens) // length * length].view(-1, length)

    def loss_of(ids_BT: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(ids_BT[:, :-1]).flatten(0, 1), ids_BT[:, 1:].flatten())

    compiled = loss_of if asked.get("plain") else torch.compile(loss_of, dynamic=False)
    parts = setting.batch_size // setting.mini_batch_size
    at = step = done = 0
    begun = began_cpu = seconds = cpu = 0.0
    while seconds < asked["seconds"]:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=device)
        for _ in range(parts):
            mini = pieces[at : at + setting.mini_batch_size]
            at = (at + setting.mini_batch_size) % (len(pieces) - setting.mini_batch_size)
            with precision.autocast():
                part = compiled(mini) / parts
            part.backward()
            loss += part.detach()
        optimizer.step()
        final = float(loss)
        step += 1
        if step <= WARM_UP_STEPS:
            begun, began_cpu = time.perf_counter(), cpu_s()
        else:
            done += setting.batch_size
            seconds, cpu = time.perf_counter() - begun, cpu_s() - began_cpu
    num_tokens = done * setting.context_len
    return line(
        f"ceiling-packed-{precision.name.replace(' ', '-')}", setting, tokens=num_tokens, samples=done,
        seconds=seconds, cpu=cpu,
        flops=FlopCount.of_model(model, shape).of(num_tokens, num_tokens, setting.context_len),
        peak_flops=peak_flops(device, precision.dtype)[0], final_loss=final,
        device_mb=_device_mb(asked),
    )  # fmt: skip


if __name__ == "__main__":
    process.prepare()  # as the commands do, for both
    which, text = sys.argv[1:]
    arguments = json.loads(text)
    contender = {"trainer": run_trainer, "ceiling": run_ceiling}[which]
    print(json.dumps(contender(SETTINGS[arguments["setting"]], arguments)), flush=True)
