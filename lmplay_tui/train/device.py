"""The device and how it computes: number formats, compiling, what it could reach at most."""

import contextlib
import os
import time
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from lmplay_tui.errors import UserError
from lmplay_tui.options import TrainOptions
from lmplay_tui.run.device_peaks import vendor_peak
from lmplay_tui.text import one_line
from lmplay_tui.train.processor import has_fast_bfloat16, processor_choices, products_by


def choose_device(name: str) -> torch.device:
    """`auto` is cuda, else mps, else cpu. `UserError` if the one asked for is not there.

    A GPU always comes back with its number, `cuda` as the first: some of torch's calls refuse one without. It becomes
    this thread's current one: its streams, events and waiting are then meant wherever none is named, in torch and in
    libraries below it, and no other GPU is touched. So call it in the thread that computes.
    """
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise UserError("--device: cuda is not available here; use --device cpu, or a CUDA build of torch")
        device = torch.device("cuda", device.index or 0)
        if device.index >= count:
            raise UserError(f"--device: {one_line(name)} is not there; this machine has cuda:0 to cuda:{count - 1}")
        torch.cuda.set_device(device)
    if device.type == "mps" and not has_mps:
        raise UserError("--device: mps is not available on this machine; use --device cpu")
    return device


def device_name(device: torch.device) -> str:
    """What a person calls it: `cpu, 2 threads` or the GPU's name."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    return str(device)


@dataclass(frozen=True)
class Precision:
    """Mixed precision as the user asked for it. `dtype` None: everything in the parameters' own format."""

    device: torch.device
    dtype: torch.dtype | None = None
    grad_scale: bool = False
    remark: str = ""  # why it is not what was asked for

    def autocast(self) -> torch.autocast:
        """A fresh context for one forward pass."""
        return torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def scaler(self) -> torch.amp.GradScaler | None:
        """float16's small exponent needs scaled gradients; bfloat16's does not."""
        return torch.amp.GradScaler(self.device.type) if self.grad_scale else None

    @property
    def name(self) -> str:
        if self.dtype is None:
            return "float32"
        return f"mixed {str(self.dtype).removeprefix('torch.')}"


def choose_precision(options: TrainOptions, device: torch.device) -> Precision:
    """bfloat16 where the device has it, else float16 with a scaler; nothing without `--amp`.

    A processor that has neither computes them fifty times slower than float32: it gets them only by `--amp-dtype`.
    """
    if not options.amp:
        return Precision(device)
    if options.amp_dtype is None and device.type == "cpu" and not has_fast_bfloat16():
        return Precision(device, remark="--amp is left out: this processor has no bfloat16 arithmetic")
    if options.amp_dtype is not None:
        dtype = getattr(torch, options.amp_dtype)
    else:
        # Emulated, it is slower than float32: a GPU without it is better off with float16.
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        has_bf16 = native or device.type == "cpu"
        dtype = torch.bfloat16 if has_bf16 else torch.float16
    return Precision(device, dtype, dtype is torch.float16 and not options.no_grad_scale)


def speed_choices(options: TrainOptions, precision: Precision) -> list[str]:
    """Set up what is fast and exact on the device; what was chosen, in words. Call before anything large is made."""
    device = precision.device
    chosen = [device_name(device), precision.name + (" with scaled gradients" if precision.grad_scale else "")]
    if precision.remark:
        chosen.append(precision.remark)
    if device.type == "cpu":
        chosen += processor_choices()
    elif device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        torch.set_float32_matmul_precision("high")
        chosen.append("float32 products in TF32")
    if options.compile_model:
        how = ", ".join(filter(None, (options.compile_backend, options.compile_mode)))
        chosen.append(f"compiled ({one_line(how, 80)})" if how else "compiled")
    return chosen


@cache
def peak_flops(device: torch.device, dtype: torch.dtype | None) -> tuple[float, str]:
    """Floating-point operations a second at most, and where the figure is from: `data sheet` or `measured here`."""
    if device.type == "cuda":
        number_format = str(dtype or torch.float32).removeprefix("torch.")
        known = vendor_peak(torch.cuda.get_device_name(device), number_format)
        if known is not None:
            return known, "data sheet"
    return _measured_peak(device, dtype or torch.float32), "measured here"


# The side of the matrices, and products begun before the device is waited for: a GPU is busy with less only in part.
_MEASURED_BY = {"cpu": ((1024, 1),), "cuda": ((8192, 8), (4096, 8), (2048, 16)), "mps": ((4096, 4), (2048, 8))}


def _measured_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.15) -> float:
    """The rate of square matrix products, best of what fits in `seconds` after the first; 0 where there are none."""
    for size, at_a_time in _MEASURED_BY.get(device.type, _MEASURED_BY["cpu"]):
        with torch.no_grad(), contextlib.suppress(RuntimeError):  # no memory: smaller ones; no such products: none
            a = torch.ones(size, size, dtype=dtype, device=device)
            product = torch.empty_like(a)
            best = 0.0
            torch.mm(a, a, out=product)[0, 0].item()  # the first one also loads the kernel
            begun = time.perf_counter()
            while time.perf_counter() - begun < seconds or best == 0.0:
                start = time.perf_counter()
                for _ in range(at_a_time):
                    torch.mm(a, a, out=product)
                product[0, 0].item()
                best = max(best, at_a_time * 2 * size**3 / (time.perf_counter() - start))
            return best
    return 0.0


def matmul_parameters(model: nn.Module) -> tuple[int, int]:
    """Parameters that take part in matrix products: in the body, and in the head."""
    head = getattr(model, "head", None)
    head_ids = {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    body = sum(p.numel() for p in model.parameters() if p.dim() >= 2 and id(p) not in head_ids | embeddings)
    return body, sum(p.numel() for p in model.parameters() if id(p) in head_ids and p.dim() >= 2)


def hardware_note() -> dict[str, str | int]:
    """What bitwise equality depends on besides the numbers: recorded in checkpoints, compared on a resume."""
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count() or 0,
        "products": products_by(),
    }
