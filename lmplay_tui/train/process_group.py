"""One of several processes that train a run together: which one it is, what has started it, torch's process group.

Three things start such processes: our own agent (`--nproc`), torchrun, and srun. All say it by the environment. With
the agent nothing listens beyond 127.0.0.1; torchrun and srun reach over the machines' own network, without any
authentication.

Nothing here imports torch before a group is joined: a command asks at its beginning whether it is one of several.
"""

import contextlib
import ctypes
import json
import math
import os
import platform
import re
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from lmplay_tui.errors import EXIT_TRAINING, TrainingError, UserError
from lmplay_tui.formats import format_bytes
from lmplay_tui.options import TrainOptions
from lmplay_tui.process import is_alive, lay_over, leave
from lmplay_tui.run.folder import LOCK_FROM
from lmplay_tui.text import one_line
from lmplay_tui.train.agent_folder import AGENT, COLLECTIVE_S, Agent, agent_of

if TYPE_CHECKING:
    from torch.distributed import Store, Work

JOINS_WITHIN_S = 300.0  # one that does not come for so long will not come
SEEN_WITHIN_S = 0.5  # a process that has ended, by the one that has started it
LEAVES_WITHIN_S = 10.0  # the others, when rank 0 has nothing more to say
STRAYS_WITHIN_S = 2.0  # what a process that has ended had sent before
_LOOKS_EVERY_S = 0.02
_LOOKS_FOR_OTHERS_EVERY_S = 0.1
_TORCH_LATER_S = 60.0  # than we, torch finds that a process computes nothing
_PROCESS_BYTES = 200 << 20  # of one with torch and the smallest model, by itself (torch 2.13: 219 MB)
_PROCESSOR_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_PR_SET_PDEATHSIG = 1  # sys/prctl.h
_LOOPBACK = "127.0.0.1"
_OF_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_NOT_INHERITED = {  # environment: by what this process starts, which is none of the several
    AGENT, *_OF_TORCHRUN, "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE",
}  # fmt: skip
_SOCKETS_OF = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")  # environment: the interface on which each of them listens
_FIRST_PORT, _PORTS = 20_000, 10_000  # of srun's steps: below those that a system gives out by itself


class RankLostError(TrainingError):
    """Another of the processes that train together has ended, or does not answer."""


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is. `agent`: ours; None: torchrun or srun has started it."""

    rank: int
    world_size: int
    local_rank: int
    started_by: Literal["agent", "torchrun", "srun"]
    agent: Agent | None = None


def place_of(environment: Mapping[str, str]) -> Place | None:
    """Which of several processes the environment says that this one is; None: it is the only one.

    Raises `UserError` where it says something that cannot be.
    """
    agent = agent_of(environment)
    if agent is not None or all(name in environment for name in _OF_TORCHRUN):
        started_by: Literal["agent", "torchrun"] = "torchrun" if agent is None else "agent"
        rank, world_size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        local_rank = _number(environment, "LOCAL_RANK") if "LOCAL_RANK" in environment else rank
        return _checked(Place(rank, world_size, local_rank, started_by, agent))
    if "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
        rank, world_size = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_STEP_NUM_TASKS")
        local_rank = _number(environment, "SLURM_LOCALID") if "SLURM_LOCALID" in environment else rank
        return _checked(Place(rank, world_size, local_rank, "srun"))
    return None


def _checked(place: Place) -> Place | None:
    if not place.rank < place.world_size:
        names = "SLURM_PROCID, SLURM_STEP_NUM_TASKS" if place.started_by == "srun" else "RANK, WORLD_SIZE"
        raise UserError(f"{names}: process {place.rank} of {place.world_size} cannot be; unset them, or start it anew")
    return place if place.world_size > 1 or place.agent is not None else None


def _number(environment: Mapping[str, str], name: str) -> int:
    said = environment.get(name)
    if said is None:
        raise UserError(f"{name}: is not there, though {AGENT} says that this is one of several processes; unset that")
    if not (said.isascii() and said.isdecimal() and len(said) <= 9):
        raise UserError(f"{name}: must be a whole number, got {one_line(said, 60) or 'nothing'}")
    return int(said)


def processes_of(options: TrainOptions) -> int:
    """How many processes `--nproc` means on this machine. Raises `UserError` where it has no room for them."""
    if options.nproc == 1:
        return 1
    devices = 0
    if options.device != "cpu":
        import torch

        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if options.nproc == "auto":
        return max(devices, 1)
    if not devices and options.device != "cuda":
        _refuse_too_many(options.nproc)
    elif options.nproc > devices:
        there = {0: "there is none", 1: "there is one"}.get(devices, f"there are {devices}")
        raise UserError(
            f"--nproc: {options.nproc} processes need as many CUDA devices, and {there}; use --nproc auto, "
            "or --device cpu"
        )
    return options.nproc


def _refuse_too_many(count: int) -> None:
    """Raise `UserError` where so many processes have no room in memory before they hold anything of a model."""
    import psutil

    there, needed = psutil.virtual_memory().total, count * _PROCESS_BYTES
    if needed > there:
        raise UserError(
            f"--nproc: {count:,} processes take {format_bytes(needed)} before they hold a model, and this machine has "
            f"{format_bytes(there)}; on its processors, {processors()}, more processes than those are no quicker"
        )


def processors(limit: Path = _PROCESSOR_LIMIT) -> int:
    """How many processors this process may use: a container, or a scheduler, may give it fewer than there are.

    `limit`: of a control group: microseconds of processor time in a period of so many, or "max".
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limit.read_text(encoding="ascii").split()
        return max(1, min(count, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return count


def gpus_for(options: TrainOptions, count: int) -> Sequence[int]:
    """The CUDA devices of so many processes, by their numbers; empty where they compute on processors."""
    if options.device == "cpu":
        return ()
    import torch

    return range(count) if torch.cuda.is_available() else ()


def first_host(node_list: str) -> str:
    """The first host of SLURM's list of nodes: `gpu[03-06,11],x1` is gpu03. Raises `UserError`."""
    found = re.match(r"\s*([A-Za-z0-9._-]*)(?:\[([0-9]+)[0-9,-]*\]([A-Za-z0-9._-]*))?", node_list)
    host = "" if found is None else "".join(part for part in found.groups() if part)
    if not host:
        raise UserError(f"SLURM_STEP_NODELIST: no host in {one_line(node_list, 60) or 'nothing'}; set MASTER_ADDR")
    return host


def step_port(environment: Mapping[str, str]) -> int:
    """The port of a SLURM step, the same in each of its processes. Raises `UserError`."""
    if "MASTER_PORT" in environment:
        return _number(environment, "MASTER_PORT")
    job, step = (int(re.sub(r"\D", "", environment.get(name, "")) or 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return _FIRST_PORT + (job * 31 + step) % _PORTS


def settle(place: Place) -> None:
    """What holds for one of several processes from its very beginning: the lock in its hands, a parent that may die.

    Call before torch is imported.
    """
    if place.agent is not None:
        Path(place.agent.folder, f"pid-{place.rank}").write_text(str(os.getpid()), encoding="ascii")
        held = os.dup(0)  # the agent's launcher passes on this descriptor alone
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if place.rank == 0:
            from lmplay_tui.train.handoff import SPENT

            os.environ[LOCK_FROM] = f"{held}:{place.agent.lock}"
            os.environ[SPENT] = f"{place.agent.spent_s + time.monotonic() - place.agent.begun:.3f}"
        else:
            os.close(held)
    if place.started_by != "srun":
        _end_with(place)
    # To ask for the devices must not be to use them: which of them this process sees is settled after that.
    # And a connection that ends is said in a line of ours.
    usual = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    lay_over({name: os.environ.get(name, value) for name, value in usual.items()})


def _end_with(place: Place) -> None:
    """Be told when the parent ends, however it ends: Linux alone can."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if place.agent is not None and os.getppid() != place.agent.pid:
        os._exit(EXIT_TRAINING)  # it ended before that


@dataclass(frozen=True)
class ProcessGroup:
    """Torch's default process group, joined: gloo on processors, NCCL on CUDA with one device for each process.

    `store`: keys and bytes between the processes of this attempt alone. `attempt`: its name, of letters and digits.
    `agent`: ours, if that has started them; `parent`: the number of the process that has started this one. `processes`:
    of each rank its host, its space of process numbers there, and its number. `codes`: of each, what it computes by.
    """

    rank: int
    world_size: int
    store: "Store"
    attempt: str
    host: str
    agent: Agent | None = None
    parent: int = field(default_factory=os.getppid)
    processes: tuple[tuple[str, str, int], ...] = ()
    codes: tuple[str, ...] = ()

    @classmethod
    def of_environment(cls, device: str = "auto", stopped: Callable[[], bool] = lambda: False) -> "ProcessGroup | None":
        """Join the others; None where the environment speaks of no others.

        `device`: `--device`. Until all have joined, a signal ends the process at once, and so does one that has come
        before, as `stopped` says: the others may be gone by it. Raises `UserError`.
        """
        place = place_of(os.environ)
        if place is None:
            return None
        with _mortal():
            if stopped():
                leave(EXIT_TRAINING)
            group = _joined(place, device)
        for name in list(os.environ):  # what this process starts is none of them
            if name in _NOT_INHERITED or name.startswith("TORCHELASTIC_"):
                del os.environ[name]
        return group

    @property
    def unlike(self) -> str:
        """A rank that may round otherwise than rank 0, and what both compute by; empty: none, as far as is known."""
        for rank, code in enumerate(self.codes):
            if code != self.codes[0]:
                return f"rank {rank} computes by {one_line(code, 80)}, rank 0 by {one_line(self.codes[0], 80)}"
        return ""

    @property
    def is_orphan(self) -> bool:
        """Whether what has started this process is no more."""
        return os.getppid() != self.parent

    def ended(self, wait_s: float = 0.0) -> list[str]:
        """The others of this machine that have ended, in words; of another machine's nothing is known.

        `wait_s`: wait so long for one, as where its connection has ended and its parent has yet to see it.
        """
        deadline = time.monotonic() + wait_s
        while not any(map(self._has_ended, range(len(self.processes)))) and time.monotonic() < deadline:
            time.sleep(_LOOKS_EVERY_S)
        return [
            f"rank {rank} (process {pid} on {one_line(host, 80)})"
            for rank, (host, _, pid) in enumerate(self.processes)
            if self._has_ended(rank)
        ]

    def _has_ended(self, rank: int) -> bool:
        """Whether it is known to have. A number says nothing in another machine or container."""
        if not self.processes:
            return False
        here, there = self.processes[self.rank], self.processes[rank]
        return here[:2] == there[:2] and not is_alive(there[2])

    def wait(self, work: "Work | None") -> None:
        """Return when a collective of all ranks is done, here.

        Torch's own wait lets no handler of a signal run, and on CUDA it has no end where another rank is no more: so
        this looks again and again. Raises `RankLostError` where one of this machine has ended, or too little comes for
        too long, and what torch says of anything else, a `RuntimeError`.
        """
        assert work is not None
        begun = looked_at = all_there_at = time.monotonic()
        limit_s = COLLECTIVE_S if self.agent is None else self.agent.collective_s
        while not work.is_completed():
            now = time.monotonic()
            if now - looked_at >= _LOOKS_FOR_OTHERS_EVERY_S:
                looked_at = now
                if not (gone := self.ended()):
                    all_there_at = now
                elif now - all_there_at >= STRAYS_WITHIN_S:
                    self._give_up(f"{', '.join(gone)} has ended")
                if now - begun >= limit_s + STRAYS_WITHIN_S:  # gloo's own limit says more
                    self._give_up(f"nothing has come of it for {limit_s:.0f} s")
            time.sleep(min((now - begun) / 50, _LOOKS_EVERY_S / 20))  # a fiftieth of the wait, at most a millisecond
        if self._is_on_cuda and (error := work.exception()) is not None:
            self._give_up(one_line(error, 300))
        work.wait()

    @property
    def _is_on_cuda(self) -> bool:
        from torch import distributed as dist

        return "nccl" in dist.get_backend()

    def _give_up(self, what: str) -> NoReturn:
        """What the GPU has under way with the others is ended: else whatever waits for it, a save too, has no end."""
        from torch import distributed as dist

        def abort() -> None:
            with contextlib.suppress(Exception):  # what is left then: this process ends, saved or not
                dist.distributed_c10d._abort_process_group()

        if self._is_on_cuda:
            ending = threading.Thread(target=abort, name="end of the group", daemon=True)  # it may hang itself
            ending.start()
            ending.join(LEAVES_WITHIN_S)
        raise RankLostError(f"a rank is lost ({what})")

    def close(self, wait_s: float = LEAVES_WITHIN_S) -> None:
        """Let all leave together: rank 0, which holds the store, goes last. Nothing may be sent afterwards.

        It tears nothing down: a group that is destroyed waits for the ones that are gone. Leave by `process.leave`.
        """
        with contextlib.suppress(RuntimeError):  # the connection is gone, and so is rank 0
            self.store.set(f"left/{self.rank}", "1")
            deadline = time.monotonic() + wait_s
            waits_for = set(range(1, self.world_size)) if self.rank == 0 else set()
            while waits_for and time.monotonic() < deadline:
                waits_for = {r for r in waits_for if not self.store.check([f"left/{r}"]) and not self._has_ended(r)}
                time.sleep(_LOOKS_EVERY_S)


@contextlib.contextmanager
def _mortal() -> Iterator[None]:
    """Meanwhile a stop need not wait: nothing has been trained, and torch's calls heed no handler of ours."""
    caught = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in caught:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)


def _joined(place: Place, device: str) -> ProcessGroup:
    import torch.distributed as dist

    within = timedelta(seconds=JOINS_WITHIN_S)
    backend = _bind_device(place, device)
    host = socket.gethostname()
    me = json.dumps([host, _space(), os.getpid(), _code(backend), uuid.uuid4().hex])
    try:
        if place.agent is not None:
            attempt = place.agent.attempt
            store = dist.PrefixStore(attempt, _store_of_agent(place, place.agent, within))
        else:
            shared = dist.PrefixStore("lmplay", _store_of_environment(place, within))
            attempt = _agreed_attempt(place, shared, me)
            store = dist.PrefixStore(attempt, shared)
        store.set(f"process/{place.rank}", me)
        store.set_timeout(within)
        said = [json.loads(store.get(f"process/{rank}")) for rank in range(place.world_size)]
        limit_s = COLLECTIVE_S if place.agent is None else place.agent.collective_s
        if backend == "nccl":
            limit_s += _TORCH_LATER_S
            # Torch must not end this process before it has saved. Read where the group is made; elastic sets it to 1.
            os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "2"
        dist.init_process_group(
            backend, store=dist.PrefixStore("group", store), rank=place.rank, world_size=place.world_size,
            timeout=timedelta(seconds=limit_s),
        )  # fmt: skip
        if backend == "nccl":
            _connect(place)
    except RuntimeError as error:  # torch's errors of stores and connections are of this kind
        raise RankLostError(
            f"process {place.rank} of {place.world_size} could not join the others: {one_line(error, 300)}"
        ) from None
    processes = tuple((str(host), str(space), int(pid)) for host, space, pid, _, _ in said)
    codes = tuple(str(code) for _, _, _, code, _ in said)
    return ProcessGroup(
        place.rank, place.world_size, store, attempt, host, place.agent, processes=processes, codes=codes
    )  # fmt: skip


def _code(backend: str) -> str:
    """What this process computes by, as far as the bits of an update were found to depend on it.

    With AVX-512 they are those with AVX2, the gradients' norm too (torch 2.13, each optimizer); without both, others.
    """
    import torch

    version = f"torch {torch.__version__}"
    if backend != "gloo":
        return version
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{version} on {platform.machine()} with {'AVX2' if instructions == 'AVX512' else instructions}"


def _connect(place: Place) -> None:
    """Make NCCL's connections, as the first collective does: nothing but the end of this process interrupts that."""
    import torch

    def leave_the_others() -> None:
        sys.stderr.write(f"rank {place.rank}: the others' GPUs cannot be reached for {JOINS_WITHIN_S:.0f} s\n")
        leave(EXIT_TRAINING)

    overdue = threading.Timer(JOINS_WITHIN_S, leave_the_others)
    overdue.daemon = True
    overdue.start()
    try:
        torch.distributed.all_reduce(torch.zeros(1, device="cuda"))
        torch.cuda.synchronize()
    finally:
        overdue.cancel()


def _space() -> str:
    """Names the space of process numbers: containers of one machine may have their own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _store_of_agent(place: Place, agent: Agent, within: timedelta) -> "Store":
    """Rank 0's store on a socket of 127.0.0.1, which torch's own would not be; its port is told by a file."""
    from torch.distributed import FileStore, TCPStore

    lay_over(dict.fromkeys(_SOCKETS_OF, _loopback_interface()))  # whatever a cluster's profile exports
    told = FileStore(str(Path(agent.folder, "port")), place.world_size)
    told.set_timeout(within)
    if place.rank == 0:
        store, port = _loopback_store(0, place.world_size, within)
        told.set("port", str(port))
        return store
    port = int(told.get("port"))
    return TCPStore(_LOOPBACK, port, place.world_size, is_master=False, timeout=within)


def _loopback_interface() -> str:
    return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")


def _loopback_store(port: int, world_size: int, within: timedelta) -> "tuple[Store, int]":
    """A store that listens on 127.0.0.1 alone, and its port. `port` 0: any."""
    from torch.distributed import TCPStore

    try:
        listener = socket.create_server((_LOOPBACK, port))
    except OSError as error:
        raise UserError(
            f"MASTER_PORT: no other process can be reached by port {port} of {_LOOPBACK} ({error.strerror}); set it to "
            "a free one"
        ) from None
    port = int(listener.getsockname()[1])
    store = TCPStore(
        _LOOPBACK, port, world_size, is_master=True, timeout=within, wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )  # fmt: skip
    return store, port


def _store_of_environment(place: Place, within: timedelta) -> "Store":
    """Torchrun's store, or the one of a SLURM step on its first host."""
    from torch.distributed import TCPStore
    from torch.distributed.rendezvous import rendezvous

    if place.started_by == "torchrun":
        return next(iter(rendezvous("env://", timeout=within)))[0]  # type: ignore[no-any-return]
    port = step_port(os.environ)
    if os.environ.get("SLURM_STEP_NUM_NODES") == "1" and "MASTER_ADDR" not in os.environ:
        lay_over({name: os.environ.get(name, _loopback_interface()) for name in _SOCKETS_OF})
        if place.rank == 0:
            return _loopback_store(port, place.world_size, within)[0]
        return TCPStore(_LOOPBACK, port, place.world_size, is_master=False, timeout=within)
    host = os.environ.get("MASTER_ADDR") or first_host(os.environ.get("SLURM_STEP_NODELIST", ""))
    return TCPStore(host, port, place.world_size, is_master=place.rank == 0, timeout=within, wait_for_workers=False)


def _agreed_attempt(place: Place, shared: "Store", me: str) -> str:
    """A name that this start of all processes has to itself, in a store that may outlive them.

    Rank 0 makes it. What an earlier start has left there must not be taken for this one's: each of the others follows
    the newest name until rank 0 has repeated its own word, which no earlier process can know.
    """
    if place.rank == 0:
        attempt = uuid.uuid4().hex
        others = [f"{attempt}/here/{rank}" for rank in range(1, place.world_size)]
        shared.set("attempt", attempt)
        shared.wait(others, timedelta(seconds=JOINS_WITHIN_S))
        shared.set(f"{attempt}/all", json.dumps([shared.get(key).decode() for key in others]))
        return attempt
    deadline = time.monotonic() + JOINS_WITHIN_S
    attempt = ""
    while time.monotonic() < deadline:
        if attempt and shared.check([f"{attempt}/all"]) and me in json.loads(shared.get(f"{attempt}/all")):
            return attempt
        if shared.check(["attempt"]) and (newest := shared.get("attempt").decode()) != attempt:
            attempt = newest
            shared.set(f"{attempt}/here/{place.rank}", me)
        time.sleep(_LOOKS_EVERY_S)
    raise RankLostError(f"rank {place.rank}: rank 0 did not come within {JOINS_WITHIN_S:.0f} s")


def _bind_device(place: Place, device: str) -> str:
    """Give this process a device of its own, as the only one that it sees; the name of torch's backend for it.

    Raises `UserError` where it cannot have one.
    """
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "gloo"
    if device not in ("auto", "cuda"):
        raise UserError(f"--device: {one_line(device)} is one device; several processes take --device cuda or cpu")
    count = torch.cuda.device_count()
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    number = place.agent.devices[place.rank] if place.agent is not None and place.agent.devices else place.local_rank
    if count > 1 or place.started_by != "srun":  # srun may have given each process its own
        names = given if len(given) >= count else [str(number) for number in range(count)]
        if number >= count:
            _refuse_device(place, f"cuda:{number} is not there: this machine has {count}")
        lay_over({"CUDA_VISIBLE_DEVICES": names[number]})
    try:
        torch.zeros(1, device="cuda")
    except RuntimeError as error:
        _refuse_device(place, f"cuda:{number} cannot be used ({one_line(error, 200)})")
    return "nccl"


def _refuse_device(place: Place, why: str) -> NoReturn:
    if place.agent is not None:
        place.agent.device_is_lost(place.rank, why)
    raise TrainingError(f"rank {place.rank}: {why}")
