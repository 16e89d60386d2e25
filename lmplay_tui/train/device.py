"""The device and how it computes: number formats, what a processor does fast, memory that lacks, random numbers.

Each choice is made by what the machine is, never by a stopwatch: each start on one machine chooses the same, or a
resumed run would not be bitwise the run that was stopped. What a processor does not offer is left as it is.

A lack of memory is never dealt with inside the handler that caught it: the exception holds the frames of the failed
pass, and those hold its tensors.
"""

import contextlib
import ctypes
import gc
import hashlib
import math
import os
import platform
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor, nn

from lmplay_tui.errors import OutOfMemoryError, UserError
from lmplay_tui.formats import counted
from lmplay_tui.options import TrainOptions
from lmplay_tui.run.device_peaks import vendor_peak
from lmplay_tui.text import one_line
from lmplay_tui.train.checkpoint_fields import BY_MINI_BATCH, RUNNING

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8  # malloc.h
_LARGE = 1 << 16  # bytes
_MOST = 2**31 - 1


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
        threads = torch.get_num_threads()
        return f"cpu, {counted(threads, 'thread')}"
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
        if not self.grad_scale:
            return None
        scaler = torch.amp.GradScaler(self.device.type)
        # It makes its scale with the first loss, which a rank without a mini-batch does not have before the update.
        scaler.scale(torch.zeros((), device=self.device))
        return scaler

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
    scaled = dtype is torch.float16 and not options.no_grad_scale
    if scaled and device.type == "mps" and not can_scale_gradients("mps"):
        advice = "use --amp-dtype bfloat16, or a newer torch"
        return Precision(device, remark=f"--amp is left out: this torch cannot scale gradients on mps; {advice}")
    return Precision(device, dtype, scaled)


@cache
def can_scale_gradients(device_type: str) -> bool:
    """Whether torch's scaler works on the device: found out by using it once.

    Some versions (2.6, 2.7) ask MPS for float64, which it has not.
    """
    try:
        parameter = nn.Parameter(torch.zeros(1, device=device_type))
        scaler = torch.amp.GradScaler(device_type)
        parameter.grad = scaler.scale(torch.ones(1, device=device_type))
        scaler.unscale_(torch.optim.SGD([parameter]))
        scaler.update()
    except (RuntimeError, TypeError):
        return False
    return True


def speed_choices(options: TrainOptions, precision: Precision) -> list[str]:
    """Set up what is fast and exact on the device; what was chosen, in words. Call before anything large is made."""
    device = precision.device
    chosen = [device_name(device), precision.name + (" with scaled gradients" if precision.grad_scale else "")]
    if precision.remark:
        chosen.append(precision.remark)
    chosen += use_what_is_fast(device, in_parts=options.shard != "none")
    if options.recompute:
        chosen.append("blocks computed again in the backward pass")
    if options.compile_model:
        how = ", ".join(filter(None, (options.compile_backend, options.compile_mode)))
        chosen.append(f"compiled ({one_line(how, 80)})" if how else "compiled")
    return chosen


def use_what_is_fast(device: torch.device, *, in_parts: bool) -> list[str]:
    """Switch on what is fast and exact on the device; what that is, in words. `in_parts`: of a sharded model."""
    if device.type == "cpu":
        return processor_choices(in_parts=in_parts)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        torch.set_float32_matmul_precision("high")
        return ["float32 products in TF32"]
    return []


@cache
def keep_freed_memory() -> bool:
    """Have glibc's malloc keep what is freed; whether it does.

    It gives large blocks back at once and asks the kernel for them anew: each step then pays for zeroing hundreds of
    megabytes, page by page (measured: up to 1.7 times the time of a step). One arena for all threads, because a
    thread's own cannot hold large blocks, and under the dashboard training is a thread.
    """
    return _tell_malloc((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _MOST))


def give_freed_memory_back() -> bool:
    """Have glibc's malloc give each large block back at once; whether it does. Without it holes are kept among them."""
    return _tell_malloc((_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _LARGE))


def _tell_malloc(*wanted: tuple[int, int]) -> bool:
    """Not on glibc: nothing happens."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return all(mallopt(name, value) == 1 for name, value in wanted)


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware. Else they take two to fifty times as long.

    oneDNN's own word is not enough: with AVX-512 alone it says yes, converts to float32 and back, and a training takes
    two to three times as long as in float32.
    """
    with contextlib.suppress(AttributeError, RuntimeError):
        if platform.machine().lower() in ("x86_64", "amd64"):
            return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False


@cache
def use_fast_products(is_intel: bool | None = None, error_of_products: Callable[[], float] | None = None) -> bool:
    """Let oneDNN do the float32 matrix products where its are exact and faster than MKL's; whether it does now.

    MKL's float32 kernels use half the width of processors with AVX-512 that are not Intel's. oneDNN's are reached
    through a switch that *allows* bfloat16 inside: without the hardware (AMX) for that it computes in float32, and
    twice as fast. With it, the products would be coarse: so their error decides, against float64.
    None: as it is on this machine.
    """
    error = error_of_products or _error_of_products
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    if _is_intel() if is_intel is None else is_intel:
        return False
    switch = getattr(torch.backends.mkldnn, "matmul", None)
    before = getattr(switch, "fp32_precision", None)
    if switch is None or before is None:  # torch before 2.9
        return False
    error_before = error()
    try:
        switch.fp32_precision = "bf16"
        if error() <= 4 * error_before:
            return True
    except RuntimeError:
        pass
    switch.fp32_precision = before
    return False


def products_by() -> str:
    """Which library does the float32 matrix products now."""
    switch = getattr(torch.backends.mkldnn, "matmul", None)
    return "oneDNN" if getattr(switch, "fp32_precision", "") == "bf16" else "default"


def _is_intel() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - a device, not a file
            return "GenuineIntel" in file.read(4096)
    except OSError:
        return True  # unknown: leave MKL alone


def _error_of_products() -> float:
    """The largest error of the three products of a training step, on fixed numbers."""
    generator = torch.Generator().manual_seed(0)

    def numbers(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator)

    x, weight, grad = numbers(256, 384), numbers(2048, 384), numbers(256, 2048)
    pairs = ((x, weight.t()), (grad, weight), (grad.t(), x))
    return max(float(((a @ b).double() - a.double() @ b.double()).abs().max()) for a, b in pairs)


def processor_choices(*, in_parts: bool = False) -> list[str]:
    """Make the choices for training on this processor; what was chosen, in words.

    `in_parts`: of a sharded model a block is gathered and given back at each pass, and that it takes less memory is
    what it is sharded for.
    """
    chosen = []
    if use_fast_products():
        chosen.append("float32 products by oneDNN (error checked)")
    if in_parts:
        give_freed_memory_back()
    elif keep_freed_memory():
        chosen.append("freed memory kept")
    return chosen


MEASURED = "measured here"  # where a peak is from: other programs may have had the machine meanwhile


@cache
def peak_flops(device: torch.device, dtype: torch.dtype | None) -> tuple[float, str]:
    """Floating-point operations a second at most, and where the figure is from: `data sheet` or `measured here`."""
    if device.type == "cuda":
        number_format = str(dtype or torch.float32).removeprefix("torch.")
        known = vendor_peak(torch.cuda.get_device_name(device), number_format)
        if known is not None:
            return known, "data sheet"
    by = _FLOAT16_BY if device.type == "cpu" and dtype == torch.float16 else None
    return measured_peak(device, dtype or torch.float32, by=by), MEASURED


# The side of the matrices, and products begun before the device is waited for: a GPU is busy with less only in part.
_MEASURED_BY = {"cpu": ((1024, 1),), "cuda": ((8192, 8), (4096, 8), (2048, 16)), "mps": ((4096, 4), (2048, 8))}
# Of float16 on a processor, which may have no such arithmetic: a product of 1024 takes seconds there, at a lower rate.
_FLOAT16_BY = ((256, 1),)


def measured_peak(
    device: torch.device, dtype: torch.dtype, seconds: float = 0.15, by: Sequence[tuple[int, int]] | None = None
) -> float:
    """The rate of square matrix products, best of what fits in `seconds` after the first; 0 where there are none.

    `by`: the sides of the matrices, the first that memory holds, each with the products begun at a time.
    """
    for size, at_a_time in by or _MEASURED_BY.get(device.type, _MEASURED_BY["cpu"]):
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


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """Where the generators stand that dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_rng(state: dict[str, Tensor], device: torch.device) -> None:
    """Put the generators back to `state`; one of another kind of device is left out."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


class RandomNumbers:
    """The random numbers of a run's steps: what dropout draws.

    Each mini-batch has its own, by the run's seed, the step and the mini-batch's number in the batch: the same for
    whichever process computes it, and once more for a step that is done again.
    `is_running`: one sequence runs through all steps instead, as it did in versions before. A checkpoint of theirs
    goes on with it, so it stays the run that it was; a step that did not happen must then be undone.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_running = False
        self._device = device
        self._before_step: dict[str, Tensor] = {}

    def begin_step(self) -> None:
        """A step begins, which may have to be undone."""
        if self.is_running:
            self._before_step = rng_state(self._device)

    def undo_step(self) -> None:
        """The step that was begun did not happen."""
        if self.is_running:
            restore_rng(self._before_step, self._device)

    def begin_mini_batch(self, seed: int, step: int, number: int) -> None:
        """What follows computes the mini-batch with this number, from 0 on, of the step behind `step` finished ones."""
        if self.is_running:
            return
        digest = hashlib.blake2b(struct.pack("<qqq", seed, step, number), digest_size=8).digest()
        # Each generator by itself: `torch.manual_seed` would seed the other GPUs too.
        own = int.from_bytes(digest, "little") >> 1
        torch.default_generator.manual_seed(own)
        if self._device.type == "cuda":
            torch.cuda.default_generators[self._device.index].manual_seed(own)
        elif self._device.type == "mps":
            torch.mps.manual_seed(own)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: how the numbers are drawn, and where a running sequence stands."""
        rng = rng_state(self._device) if self.is_running else {}
        return {"random_numbers": RUNNING if self.is_running else BY_MINI_BATCH, "rng": rng}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`; versions before recorded only where their sequence stood."""
        self.is_running = state.get("random_numbers", RUNNING) == RUNNING
        if self.is_running:
            restore_rng(state["rng"], self._device)


T = TypeVar("T")


@dataclass(frozen=True)
class DeviceUse:
    """How much of a device is in use; NaN where it does not tell."""

    memory_bytes: float = math.nan  # a GPU's by whomever; of a processor's memory what this process holds
    memory_total: float = math.nan  # bytes
    utilisation: float = math.nan  # share of the time that a GPU was busy, 0 to 1
    celsius: float = math.nan


class DeviceMeter:
    """Reads how much of a device is in use, at most once a second: a driver may take a millisecond to answer."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.monotonic) -> None:
        self._device = device
        self._clock = clock
        self._read_at = -math.inf
        self._last = DeviceUse()

    def __call__(self) -> DeviceUse:
        if (now := self._clock()) - self._read_at >= 1.0:
            self._read_at, self._last = now, self._read()
        return self._last

    def _read(self) -> DeviceUse:
        if self._device.type == "cuda":
            free, total = _told(lambda: torch.cuda.mem_get_info(self._device), (math.nan, math.nan))
            busy = _told(lambda: torch.cuda.utilization(self._device) / 100, math.nan)
            degrees = _told(lambda: float(torch.cuda.temperature(self._device)), math.nan)
            return DeviceUse(total - free, float(total), busy, degrees)
        held = _told(lambda: float(psutil.Process().memory_info().rss), math.nan)
        return DeviceUse(held, _told(lambda: float(psutil.virtual_memory().total), math.nan))


def _told(ask: Callable[[], T], unknown: T) -> T:
    """What a driver or the system says; `unknown` where it says nothing: no such counter, no driver, no rights."""
    try:
        return ask()
    except Exception:  # each driver raises its own kind, and a figure is worth no step
        return unknown


def numbered_device(device: torch.device, visible: str) -> str:
    """A device as its machine numbers it, whatever this process may see of it: `cuda:3`.

    `visible`: the environment's `CUDA_VISIBLE_DEVICES`.
    """
    if device.type != "cuda":
        return str(device)
    names, index = visible.split(","), device.index or 0
    return f"cuda:{names[index] if index < len(names) and names[index].isdecimal() else index}"


# The last one is oneDNN's, which allocates for itself.
_SAID_BY_PROCESSORS = ("can't allocate memory", "not enough memory", "out of memory", "could not create a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory was lacking: GPUs have a class for it, processors only words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID_BY_PROCESSORS)


def device_failure(error: BaseException) -> str:
    """What a CUDA device that has failed says, in a line; empty: `error` is none of it.

    A lack of memory is none, nor an assertion in a kernel: a new process would come to the same with another device.
    """
    said = str(error)
    if not isinstance(error, RuntimeError) or "CUDA error" not in said or is_out_of_memory(error):
        return ""
    return "" if "device-side assert" in said else one_line(said.partition("\n")[0], 300)


def fits(work: Callable[[], T]) -> tuple[bool, T | None]:
    """Do `work`; whether memory sufficed, and its value. Everything else that it raises is raised."""
    try:
        return True, work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return False, None  # the handler is left, and with it the failed pass's tensors


def no_memory(error: BaseException) -> OutOfMemoryError:
    """What a lack of memory comes to where nothing smaller can be tried: at a start, a resume, a load."""
    said = f" ({one_line(error, 300)})" if str(error) else ""
    return OutOfMemoryError(
        f"there is not enough memory for the model and what goes with it{said}; close other programs, or take a "
        "smaller model"
    )


@contextlib.contextmanager
def room() -> Iterator[None]:
    """What needs memory at once or not at all is done in it. Raises `OutOfMemoryError` with advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise no_memory(error) from None


def give_memory_back(device: torch.device) -> None:
    """Return what the failed pass held to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def halved(size: int, what: str, option: str) -> int:
    """The next smaller mini-batch. Raises `OutOfMemoryError` with advice below 1."""
    if size <= 1:
        raise OutOfMemoryError(
            f"{what}: the memory of the device does not hold one sample at a time, {option} is 1 already; "
            "close other programs, or train a smaller model or a shorter --context_len"
        )
    return size // 2
