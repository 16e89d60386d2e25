"""What rank 0 tells the processes that follow it: orders, as bytes, over the store that all of them reach.

An order is a JSON header and raw bytes behind it, never a pickle, and each field is held to its kind and bounds before
anything computes with it. Anything that reaches the store could send one (torch's stores know no passwords): what it
could do is what these fields say.
"""

import contextlib
import json
import re
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from torch import distributed as dist

from lmplay_tui.data.samples import Sample
from lmplay_tui.errors import EXIT_TRAINING
from lmplay_tui.options import MAX_INT, OPTIONS
from lmplay_tui.process import leave
from lmplay_tui.text import one_line
from lmplay_tui.train.checkpoint_fields import Fields, Kind, ListOf, One, RowOf, number, one_of, text, whole_number
from lmplay_tui.train.checkpoint_parts import token_of
from lmplay_tui.train.process_group import RankLostError

if TYPE_CHECKING:
    from torch.distributed import Store

IDLE_EVERY_S = 5.0  # where there is nothing else to say
SILENT_S = 120.0  # so long without an order: rank 0 is no more
_SLICE = timedelta(seconds=10)
_LOOKS_EVERY_S = 0.02
_LAST_LOOK_S = 5.0  # what holds it up for longer holds up nothing else
_PART_BYTES = 4 << 20
_MOST_BYTES = 1 << 32
_MAGIC = b"LMPO"
_MOST_NAMES = 100_000


class OrderError(ValueError):
    """Bytes that are no order."""


@dataclass(frozen=True)
class Build:
    """Build the model with weights by chance. `way`: how steps compute it, as `train/model_body.py` has chosen."""

    device: str
    amp_dtype: str | None
    grad_scale: bool
    exp: str
    vocab_size: int
    context_len: int
    num_blocks: int | None
    embed_dim: int | None
    num_heads: int | None
    dropout: float
    seed: int
    recompute: bool
    in_parts: bool  # of a model that will be sharded
    way: str  # forward, hidden, trunk


@dataclass(frozen=True)
class EnterStage:
    """Set the optimizer up. `keeps_state`: what it knows of the parameters goes on."""

    optimizer: str
    lr: float
    weight_decay: float | None
    default_freeze: bool
    keeps_state: bool


@dataclass(frozen=True)
class Copy:
    """Take weights, buffers and the optimizer's state from rank 0, which come behind this by broadcasts.

    `optimizer_state`: of each parameter by name the entries, each with its number format and shape.
    """

    optimizer_state: Mapping[str, Mapping[str, tuple[str, Sequence[int]]]]
    scaler: Mapping[str, float]
    num_bytes: int


@dataclass(frozen=True)
class ShardModel:
    """Take rank 0's weights, and keep a part of them: `kind` as `--shard` says it. `num_bytes`: of the whole model."""

    kind: str
    num_bytes: int


@dataclass(frozen=True)
class GatherState:
    """Gather the model and the optimizer's state with rank 0, which keeps them."""


@dataclass(frozen=True)
class SaveParts:
    """Write the rows of model and optimizer that you hold into this folder, which is there, and tell of it."""

    folder: str


@dataclass(frozen=True)
class Pass:
    """Gather the parameters with rank 0, which makes a pass by itself."""


@dataclass(frozen=True)
class SetDropout:
    """Give the layers that drop out with `before` another probability."""

    before: float
    after: float


@dataclass(frozen=True)
class Compile:
    """Compile what steps call, and try it on `rows` samples of nothing. `config`: as in `Step`."""

    backend: str | None
    mode: str | None
    rows: int
    config: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Samples:
    """Mini-batches by their numbers: their samples' tokens, one behind the other.

    `rows` int32 (samples, 3): number of the mini-batch, tokens of the prompt, of the truth. `ids` int32: all tokens.
    """

    rows: np.ndarray
    ids: np.ndarray

    @classmethod
    def of(cls, mini_batches: Mapping[int, Sequence[Sample]]) -> "Samples":
        rows = [(i, len(s.prompt_ids), len(s.truth_ids)) for i, part in mini_batches.items() for s in part]
        ids = [ids for part in mini_batches.values() for s in part for ids in (s.prompt_ids, s.truth_ids)]
        joined = np.concatenate(ids) if ids else np.zeros(0, dtype=np.int32)
        return cls(np.array(rows, dtype=np.int32).reshape(-1, 3), joined.astype(np.int32, copy=False))

    def mini_batches(self) -> dict[int, list[Sample]]:
        """What a model needs of them; their texts stay with rank 0."""
        made: dict[int, list[Sample]] = {}
        begin = 0
        for i, prompt, truth in self.rows.tolist():
            middle, end = begin + prompt, begin + prompt + truth
            made.setdefault(i, []).append(Sample("", "", self.ids[begin:middle], self.ids[middle:end], 0))
            begin = end
        return made

    def problem(self, num_mini_batches: int) -> str | None:
        """What cannot be so."""
        if not (self.rows[:, 0] >= 0).all() or not (self.rows[:, 0] < num_mini_batches).all():
            return "a mini-batch with a number that none has"
        if not (self.rows[:, 1:] >= 1).all() or int(self.rows[:, 1:].sum(dtype=np.int64)) != len(self.ids):
            return "samples of other lengths than their tokens"
        return "a token below zero" if len(self.ids) and int(self.ids.min()) < 0 else None


_NONE = Samples.of({})


@dataclass(frozen=True)
class Step:
    """Compute these mini-batches of the batch behind `step` finished steps, report, and update as all do.

    `config`: the fields of `StepConfig`. `checks_weights`: report the weights' checksum too.
    """

    step: int
    seed: int
    lr: float
    want_argmax: bool
    checks_weights: bool
    config: Mapping[str, Any]
    num_mini_batches: int
    num_samples: int
    num_loss_tokens: int
    num_parameters: int  # of the model: tensors
    samples: Samples = field(default=_NONE, compare=False)


@dataclass(frozen=True)
class Score:
    """Score these mini-batches, and report."""

    num_mini_batches: int
    samples: Samples = field(default=_NONE, compare=False)


@dataclass(frozen=True)
class TellChecksum:
    """Tell the checksum of the weights as they are now, under this number."""

    number: int


@dataclass(frozen=True)
class Idle:
    """Rank 0 is there, and has nothing to say: a pause, a save, data that are awaited."""


@dataclass(frozen=True)
class Done:
    """The run has ended."""


Order: TypeAlias = (
    Build
    | EnterStage
    | Copy
    | ShardModel
    | GatherState
    | SaveParts
    | Pass
    | SetDropout
    | Compile
    | Step
    | Score
    | TellChecksum
    | Idle
    | Done
)


def _is_folder_of_parts(value: object) -> bool:
    """Whether it is the whole path of one: nothing else is written to, whatever comes over the store."""
    return (
        text(8192, is_utf8=False).fits(value)
        and Path(str(value)).is_absolute()
        and bool(token_of(Path(str(value)).name))
    )


_COUNT = whole_number()
_SEED = whole_number(at_most=2**63 - 1)
_FLAG = One(lambda value: isinstance(value, bool), "true or false")
_SIZE = whole_number(1).or_none()
_SHARE = number(0, 1)
_NUMBER = number(-1.7e308, 1.7e308)
_DTYPES = ("float16", "bfloat16", "float32", "float64", "int32", "int64", "uint8", "bool")
_CONFIG = Fields(
    {
        "mini_batch_size": whole_number(1),
        "normalization": one_of(*OPTIONS["loss_normalization"].choices),
        "include_prompts": _FLAG,
        "grad_clip": number(0, 1.7e308).or_none(),
        "longest": _SIZE,
        "width_multiple": whole_number(1),
        "least_rows": whole_number(1),
        "graphs": _FLAG,
        "head_work": number(0, 1.7e308).or_none(),
    }
)
_ENTRIES = ListOf(RowOf((text(1000), text(100), one_of(*_DTYPES), ListOf(_COUNT, 16))), 4 * _MOST_NAMES)
_SCALED_BY = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
_SCALER = Fields(dict.fromkeys(_SCALED_BY, _NUMBER), may_be_empty=True)
_WORD = text(100).or_none()
_FORMS: Mapping[type, Mapping[str, Kind]] = {
    Build: {
        "device": text(40), "amp_dtype": one_of(*OPTIONS["amp_dtype"].choices).or_none(), "grad_scale": _FLAG,
        "exp": text(4096), "vocab_size": whole_number(1, 10**9), "context_len": whole_number(1, 10**9),
        "num_blocks": _SIZE, "embed_dim": _SIZE, "num_heads": _SIZE, "dropout": _SHARE, "seed": _SEED,
        "recompute": _FLAG, "in_parts": _FLAG, "way": one_of("forward", "hidden", "trunk"),
    },
    EnterStage: {
        "optimizer": one_of(*OPTIONS["optimizer"].choices), "lr": number(0, 1.7e308),
        "weight_decay": number(0, 1.7e308).or_none(), "default_freeze": _FLAG, "keeps_state": _FLAG,
    },
    Copy: {"optimizer_state": _ENTRIES, "scaler": _SCALER, "num_bytes": _COUNT},
    ShardModel: {"kind": one_of("full", "hybrid"), "num_bytes": _COUNT},
    GatherState: {},
    SaveParts: {"folder": One(_is_folder_of_parts, "the path of a folder of parts")},
    Pass: {},
    SetDropout: {"before": _SHARE, "after": _SHARE},
    Compile: {"backend": _WORD, "mode": _WORD, "rows": whole_number(1, 1 << 20), "config": _CONFIG},
    Step: {
        "step": _COUNT, "seed": _SEED, "lr": number(0, 1.7e308), "want_argmax": _FLAG, "checks_weights": _FLAG,
        "config": _CONFIG, "num_mini_batches": whole_number(1, 1 << 30), "num_samples": whole_number(1, 1 << 30),
        "num_loss_tokens": whole_number(1, MAX_INT), "num_parameters": whole_number(1, 1 << 24),
    },
    Score: {"num_mini_batches": whole_number(1, 1 << 30)},
    TellChecksum: {"number": _COUNT},
    Idle: {},
    Done: {},
}  # fmt: skip
_KINDS = {kind.__name__: kind for kind in _FORMS}


def encode(order: Order) -> bytes:
    """An order as bytes: a mark, the header's length, the header, and the tokens of its samples."""
    header: dict[str, Any] = {"order": type(order).__name__}
    header |= {name: getattr(order, name) for name in _FORMS[type(order)]}
    if isinstance(order, Copy):
        header["optimizer_state"] = [
            [name, entry, dtype, list(shape)]
            for name, entries in order.optimizer_state.items()
            for entry, (dtype, shape) in entries.items()
        ]
    raw = b""
    if isinstance(order, Step | Score):
        header["num_rows"] = len(order.samples.rows)
        raw = order.samples.rows.astype("<i4").tobytes() + order.samples.ids.astype("<i4").tobytes()
    words = json.dumps(header).encode("ascii")
    return _MAGIC + struct.pack("<I", len(words)) + words + raw


def decode(data: bytes) -> Order:
    """The inverse of `encode`. Raises `OrderError` for anything else."""
    header, raw = _parts(data)
    name = header.pop("order", None)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise OrderError("there is no such order")
    num_rows = header.pop("num_rows", None) if kind in (Step, Score) else 0
    if problem := Fields(_FORMS[kind]).problem(header, name or ""):
        raise OrderError(problem)
    if kind is Copy:
        state: dict[str, dict[str, tuple[str, Sequence[int]]]] = {}
        for parameter, entry, dtype, shape in header["optimizer_state"]:
            state.setdefault(parameter, {})[entry] = dtype, shape
        header["optimizer_state"] = state
    if kind not in (Step, Score):
        if raw:
            raise OrderError(f"{name}: bytes behind it")
        return cast(Order, kind(**header))
    if type(num_rows) is not int or not 0 <= num_rows <= len(raw) // 12 or len(raw) % 4:
        raise OrderError(f"{name}: samples that are cut short")
    values = np.frombuffer(raw, dtype="<i4").astype(np.int32, copy=False)
    samples = Samples(values[: 3 * num_rows].reshape(-1, 3), values[3 * num_rows :])
    if problem := samples.problem(header["num_mini_batches"]):
        raise OrderError(f"{name}: {problem}")
    return cast(Order, kind(**header, samples=samples))


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    begin = len(_MAGIC) + 4
    if len(data) < begin or not data.startswith(_MAGIC):
        raise OrderError("no order")
    (length,) = struct.unpack_from("<I", data, len(_MAGIC))
    try:
        header = json.loads(data[begin : begin + length].decode("ascii"))
    except (ValueError, RecursionError):
        raise OrderError("a header that is no JSON") from None
    if begin + length > len(data) or not isinstance(header, dict):
        raise OrderError("a header that is cut short, or no table")
    return header, data[begin + length :]


def said_by_torch(error: Exception) -> str:
    """What it says of a connection, without the place in its own source and without advice."""
    said = re.sub(r"^\[[^\]]*\]\s*", "", str(error)).partition(". This is")[0]
    return one_line(said, 300)


@contextlib.contextmanager
def connected(what: str) -> Iterator[None]:
    """Raises `RankLostError` where the store or the group does not answer any more."""
    try:
        yield
    except RuntimeError as error:  # torch's errors of stores and of collectives are of this kind
        raise RankLostError(f"{what} ({said_by_torch(error)})") from error


def set_bytes(store: "Store", key: str, value: bytes) -> None:
    """Set a value of any size: in parts, for a store closes the connection to who sends it more than 8 MB at once.

    The part under the key itself, which is waited for, comes last and says how many there are.
    """
    first, *others = [value[begin : begin + _PART_BYTES] for begin in range(0, len(value), _PART_BYTES)] or [b""]
    for i, part in enumerate(others, 1):
        _set(store, f"{key}/{i}", part)
    _set(store, key, struct.pack("<I", 1 + len(others)) + first)


def take_bytes(store: "Store", key: str) -> bytes:
    """What `set_bytes` has set, waited for; it is gone then. Raises `OrderError` for anything else."""
    data = _taken(store, key)
    (count,) = struct.unpack_from("<I", data) if len(data) >= 4 else (0,)
    if not 1 <= count <= _MOST_BYTES // _PART_BYTES:
        raise OrderError("bytes that do not say in how many parts they come")
    return b"".join([data[4:], *(_taken(store, f"{key}/{i}") for i in range(1, count))])


def _set(store: "Store", key: str, value: bytes) -> None:
    """Torch's stores take bytes as well; their types say text alone."""
    store.set(key, value)  # type: ignore[arg-type]


def _taken(store: "Store", key: str) -> bytes:
    data = bytes(store.get(key))
    store.delete_key(key)
    return data


class Sender:
    """Rank 0's end: orders to each of the others, in their order; and a sign of life where there are none.

    `store`: of this attempt alone.
    """

    def __init__(
        self, store: "Store", world_size: int, idle_every_s: float = IDLE_EVERY_S,
        look: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """`look`: called each second or so from now on, and once more at the end; no order waits for it."""
        self._store = store
        self._sent = dict.fromkeys(range(1, world_size), 0)
        self._lock = threading.Lock()
        self._sent_at = time.monotonic()
        self._idle_every_s = idle_every_s
        self._over = threading.Event()
        self.is_awaited = False  # the others do what they were told: they need no sign
        threading.Thread(target=self._keep_in_touch, name="orders", daemon=True).start()
        # In a thread of its own: a folder on a network may hold a look up for longer than the others go without a sign.
        self._looking: threading.Thread | None = None
        if look is not None:
            self._looking = threading.Thread(target=self._keep_looking, args=(look,), name="looks", daemon=True)
            self._looking.start()

    def send(self, order_of: Callable[[int], Order]) -> None:
        """Send each of the others its order. Raises `RankLostError`."""
        # All of them first: none has an order to carry out with the others that these never got.
        encoded = {rank: encode(order_of(rank)) for rank in self._sent}
        with self._lock, connected("the orders' store is gone"):
            for rank, data in encoded.items():
                self._send(rank, data)

    def send_all(self, order: Order) -> None:
        """Send all of them the same."""
        self.send(lambda _: order)

    def _send(self, rank: int, data: bytes) -> None:
        set_bytes(self._store, f"order/{rank}/{self._sent[rank]}", data)
        self._sent[rank] += 1
        self._sent_at = time.monotonic()

    def _keep_in_touch(self) -> None:
        while not self._over.wait(self._idle_every_s / 4):
            try:
                if not self.is_awaited and time.monotonic() - self._sent_at >= self._idle_every_s:
                    self.send_all(Idle())
            except RankLostError:  # whatever is sent next says so
                return

    def _keep_looking(self, look: Callable[[], None]) -> None:
        is_over = False
        while not is_over:
            is_over = self._over.wait(self._idle_every_s / 4)
            with contextlib.suppress(Exception):  # what cannot be shown ends nothing
                look()

    def close(self) -> None:
        """The last order, no more signs, and the last look; nothing is raised where nothing is there to read it."""
        self._over.set()
        with contextlib.suppress(RankLostError):
            self.send_all(Done())
        if self._looking is not None:
            self._looking.join(_LAST_LOOK_S)


class Receiver:
    """A follower's end."""

    def __init__(self, store: "Store", rank: int, silent_s: float = SILENT_S) -> None:
        self._store = store
        self._rank = rank
        self._received = 0
        self._silent_s = silent_s

    def next(self, is_busy: Callable[[], bool] = lambda: False) -> Order:
        """Wait for the next order. Raises `RankLostError` where none comes for long, or rank 0 is no more.

        `is_busy`: asked again and again, while it says so, whether something is under way beside this.
        """
        # A store whose process is stopped leaves a wait without an answer, whatever its timeout (torch 2.13).
        overdue = threading.Timer(1.5 * self._silent_s, self._leave)
        overdue.daemon = True
        overdue.start()
        try:
            data = self._next(is_busy)
        finally:
            overdue.cancel()
        self._received += 1
        return decode(data)

    def _next(self, is_busy: Callable[[], bool]) -> bytes:
        key = f"order/{self._rank}/{self._received}"
        since = time.monotonic()
        while not (self._is_there(key) if is_busy() else self._comes(key)):
            if time.monotonic() - since > self._silent_s:
                raise RankLostError(f"rank 0 has said nothing for {self._silent_s:.0f} s")
        with connected("the orders' store is gone"):
            return take_bytes(self._store, key)

    def _leave(self) -> None:
        sys.stderr.write(f"rank {self._rank}: rank 0 does not answer for {1.5 * self._silent_s:.0f} s\n")
        leave(EXIT_TRAINING)

    def _is_there(self, key: str) -> bool:
        with connected("the orders' store is gone"):
            if self._store.check([key]):
                return True
        time.sleep(_LOOKS_EVERY_S)
        return False

    def _comes(self, key: str) -> bool:
        try:
            self._store.wait([key], min(_SLICE, timedelta(seconds=self._silent_s)))
        except dist.DistNetworkError as error:
            raise RankLostError(f"rank 0 is gone ({said_by_torch(error)})") from error
        except dist.DistStoreError:  # nothing has come in this time
            return False
        except RuntimeError as error:
            raise RankLostError(f"the orders' store is gone ({said_by_torch(error)})") from error
        return True
