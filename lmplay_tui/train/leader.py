"""Rank 0's hand on the processes that follow it: each batch is dealt out, and what they have computed comes together.

Mini-batches go to the ranks by their numbers, which are those that one process would give them: the one with most work
first, in turns of one for each rank (`train/collate.py` `rank_of`). What is summed is summed in the order of the
numbers, or has the same bits on every rank.
"""

import contextlib
import dataclasses
import errno
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lmplay_tui.data.samples import Sample
from lmplay_tui.errors import TrainingError, UserError
from lmplay_tui.options import TrainOptions
from lmplay_tui.run.controls import StopRequested
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.text import one_line
from lmplay_tui.train.agent_folder import COLLECTIVE_S, Agent
from lmplay_tui.train.checkpoint import copied
from lmplay_tui.train.checkpoint_fields import PART_REPORT
from lmplay_tui.train.checkpoint_parts import PartsSave, Written, new_folder, remove_folder
from lmplay_tui.train.collate import rank_of, truth_rows_of
from lmplay_tui.train.device import Precision, fits, is_out_of_memory
from lmplay_tui.train.gradients import Gradients, Share, StepConfig, StepResult
from lmplay_tui.train.optim import load_by_name, state_by_name
from lmplay_tui.train.orders import (
    Build,
    Compile,
    Copy,
    EnterStage,
    GatherState,
    OrderError,
    Pass,
    Samples,
    SaveParts,
    Score,
    Sender,
    SetDropout,
    ShardModel,
    Step,
    connected,
    take_bytes,
)
from lmplay_tui.train.process_group import ProcessGroup, RankLostError
from lmplay_tui.train.rank_states import RankStates
from lmplay_tui.train.reduction import (
    NO_RESCUE,
    TELLS_WITHIN_S,
    SameWeights,
    ShareReport,
    Shares,
    Status,
    argmax_key,
    buffers_of,
    checksum_of,
    collective_device,
    drop_key,
    error_key,
    is_of_connection,
    marks_of,
    own_place,
    parts_key,
    place_key,
    replicated,
    share_buffers,
    sum_gradients,
    take_from_rank_0,
    touched_by_any,
)

if TYPE_CHECKING:
    from lmplay_tui.train.sharding import Sharding

_LOOKS_EVERY_S = 0.02
SIGNS_EVERY_S = 1.0


class Leader:
    """What rank 0 knows of the others, and how it has them take part.

    All that it does raises `RankLostError` where one of them is no more.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self.world_size = group.world_size
        self._store = group.store
        self.ranks = RankStates(group)
        self._shares: Shares | None = None
        self._weights = SameWeights(group)
        self._has_copied = False
        self._sharding: Sharding | None = None
        self._is_lost = False  # one of the others
        self.lacks_part = False  # the newest save in parts: a rank that has ended, or hangs, has not written its own
        self._part_buffers: dict[str, Tensor] = {}
        self._part_written = threading.Event()  # the copies in these are not used any more
        self._part_written.set()
        self._sender = Sender(group.store, group.world_size, look=self.ranks.write)
        if group.agent is not None:
            threading.Thread(target=self._give_signs, args=(group.agent,), name="signs of life", daemon=True).start()

    def _give_signs(self, agent: Agent) -> None:
        """In a thread that does nothing else: a folder on a network may hold up all that writes to it."""
        while True:  # to the end of this process
            with contextlib.suppress(OSError):
                agent.give_sign(f"{self.group.host}, {self.ranks.device}", self.ranks.phase)
            time.sleep(SIGNS_EVERY_S)

    def close(self) -> None:
        """Tell the others that the run has ended; they leave. What was found last of them is written down."""
        self._sender.close()

    # ---- what all have alike

    def build(self, precision: Precision, model_args: Mapping[str, Any], options: TrainOptions, way: str) -> None:
        """The others build the model; they take its weights when a stage begins."""
        self._has_copied = False
        self.ranks.device = precision.device
        self._shares = Shares(self.group, precision.device)
        self._weights.equal_behind = None
        dtype = None if precision.dtype is None else str(precision.dtype).removeprefix("torch.")
        names = ("exp", "vocab_size", "context_len", "num_blocks", "embed_dim", "num_heads", "dropout")
        shape = {name: model_args[name] for name in names}
        self._sender.send_all(
            Build(
                device=precision.device.type, amp_dtype=dtype, grad_scale=precision.grad_scale, seed=options.seed,
                recompute=options.recompute, in_parts=options.shard != "none", way=way, **shape,
            )
        )  # fmt: skip

    def shard(
        self, model: nn.Module, kind: str, *, has_hidden: bool, trunk: Callable[[Tensor, Tensor], Tensor] | None
    ) -> "Sharding":
        """All keep a part of the model, with the weights that it has here. Raises `UserError` where it has no parts."""
        from lmplay_tui.train.sharding import refuse_unshardable, shard_model

        refuse_unshardable(model)
        tensors = replicated(model, {})
        with connected("the orders' store is gone"):
            self._store.set(place_key(0), own_place(self.group, self.ranks.device))
        with self._together():
            self._sender.send_all(ShardModel(kind, sum(tensor.nbytes for tensor in tensors)))
            self._hand_out(tensors)
            sharding = shard_model(model, kind, self.group, self.ranks.device.type, has_hidden=has_hidden, trunk=trunk)
        sharding.announce = self._announce_pass
        self._sharding = sharding
        assert self._shares is not None
        self._shares.in_parts = True
        return sharding

    def _hand_out(self, tensors: Sequence[Tensor]) -> None:
        """Give the others these bits, once all have built what is to be filled. Raises what hinders one of them."""
        assert self._shares is not None
        self._raise_for(self._shares.report(ShareReport(), 0, 0))
        take_from_rank_0(self.group, tensors, collective_device(self.ranks.device))

    def _announce_pass(self) -> None:
        self._sender.send_all(Pass())

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """What all ranks do at the same time: they need no sign of life, and passes are not announced.

        Raises `TrainingError` where a sharded model's pass fails, for want of memory too, and whenever one has failed.
        """
        self._check_whole()
        if self._sharding is not None:
            self._sharding.give_back()
            self._sharding.announce = None
        with self._awaited():
            try:
                yield
            except Exception as error:
                self._break(error)
                raise
            finally:
                if self._sharding is not None:
                    self._sharding.announce = self._announce_pass

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """What this rank computes by itself; of a sharded model the others gather each pass with it.

        Raises `TrainingError` where such a pass fails, and whenever one has failed.
        """
        self._check_whole()
        try:
            yield
        except Exception as error:
            if not isinstance(error, UserError | StopRequested):  # of a prompt: between two passes
                self._break(error)
            raise

    def _check_whole(self) -> None:
        if self._sharding is not None and self._sharding.is_broken:
            if self._is_lost:  # in an answer it has cost that alone
                raise RankLostError("a rank is lost, and its part of the model with it")
            raise TrainingError("the model lies in parts that cannot be gathered any more")

    def _break(self, error: Exception) -> None:
        """What all do together has failed on this rank: the others wait in it. Raises what that comes to."""
        if self._sharding is not None:
            self._sharding.is_broken = True
            if is_out_of_memory(error):
                raise TrainingError(NO_RESCUE) from None
        if is_of_connection(error):
            self._is_lost = True
            raise RankLostError(f"a rank is lost: {one_line(error, 300)}") from error

    @property
    def is_sharded(self) -> bool:
        """Whether each rank holds a part of the model: all of them make all of their passes then."""
        return self._sharding is not None

    def whole_state(
        self, optimizer: torch.optim.Optimizer | None
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
        """Weights and optimizer state of a model that lies in parts, gathered."""
        assert self._sharding is not None
        with self._together():
            self._sender.send_all(GatherState())
            return self._sharding.whole_state(optimizer, keep=True)

    def state_in_parts(
        self, optimizer: torch.optim.Optimizer | None, run: RunFolder
    ) -> tuple[dict[str, Tensor | str], dict[str, dict[str, Any]], PartsSave]:
        """As `whole_state`, but each rank has copied its part, and writes it into a folder of the run by itself.

        What hinders it is raised where the save is awaited. Raises `RankLostError` where one has ended before.
        """
        assert self._sharding is not None
        self._check_whole()
        if gone := self.group.ended():
            raise RankLostError(f"{', '.join(gone)} has ended, and its part of the model with it")
        self._part_written.wait()
        self.lacks_part = False
        weights, states, own = self._sharding.own_state(optimizer)
        num_bytes = self._sharding.state_bytes(optimizer)
        try:
            folder = new_folder(run, num_bytes)
        except OSError as error:
            return weights, states, PartsSave(None, (), list, 0, problem=error)
        try:
            self._sender.send_all(SaveParts(str(folder)))
        except RankLostError:
            remove_folder(folder)
            raise
        fitted, copies = fits(lambda: copied(own, self._part_buffers))
        problem = None if fitted else OSError(errno.ENOMEM, "no memory for a copy of its part")
        self._part_written.clear()
        others = partial(self._parts_of_others, folder.name)
        over = self._part_written.set
        return weights, states, PartsSave(folder, copies or (), others, num_bytes, problem=problem, over=over)

    def _parts_of_others(self, folder: str) -> list[Written]:
        """What the others have written, once all have told. Raises `OSError` where one could not, or is lost."""
        written: list[Written] = []
        problems: list[str] = []
        keys = {rank: parts_key(folder, rank) for rank in range(1, self.world_size)}
        agent = self.group.agent
        deadline = time.monotonic() + (COLLECTIVE_S if agent is None else agent.collective_s)
        while keys:
            try:
                told = [rank for rank, key in keys.items() if self._store.check([key])]
                for rank in told:
                    report = part_report(take_bytes(self._store, keys.pop(rank)))
                    written += [Written(*each) for each in report["written"]]
                    problems += [f"rank {rank}: {one_line(report['problem'])}"] if report["problem"] else []
            except OrderError as error:
                raise OSError(errno.EIO, str(error)) from None
            except RuntimeError as error:
                raise OSError(errno.EIO, f"the orders' store is gone ({one_line(error, 100)})") from None
            if keys and (self._is_lost or self.group.ended() or time.monotonic() > deadline):
                self.lacks_part = True
                raise OSError(errno.EIO, f"rank {', '.join(map(str, keys))} has not written its part")
            time.sleep(_LOOKS_EVERY_S if not told else 0)
        if problems:
            raise OSError(errno.EIO, "; ".join(problems))
        return written

    def enter_stage(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None,
        options: TrainOptions, *, keeps_state: bool, loaded: dict[str, dict[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        """The others set their optimizer up; the first time they take weights and optimizer from here.

        `loaded`: the optimizer's state in a checkpoint, which a sharded optimizer takes its parts of.
        """
        order = EnterStage(
            optimizer=options.optimizer, lr=options.lr, weight_decay=options.weight_decay,
            default_freeze=options.default_freeze, keeps_state=keeps_state and self._has_copied,
        )  # fmt: skip
        with self._together():  # of a model in parts torch gathers and hands out, and has no name for a rank's end
            self._sender.send_all(order)
            if self._sharding is not None:
                self._sharding.freeze_gathered()
            if not self._has_copied:
                self._copy(model, optimizer, scaler, loaded or {})
                self._has_copied = True

    def _copy(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None,
        loaded: dict[str, dict[str, Any]],
    ) -> None:  # fmt: skip
        """The others take weights and optimizer; of a model that lies in parts all take their parts of `loaded`."""
        state = state_by_name(optimizer, model) if self._sharding is None else loaded
        held = {
            name: {key: value for key, value in entries.items() if value is not None} for name, entries in state.items()
        }
        forms = {
            name: {key: (str(value.dtype).removeprefix("torch."), tuple(value.shape)) for key, value in entries.items()}
            for name, entries in held.items()
        }
        tensors = replicated(model, held) if self._sharding is None else []
        num_bytes = sum(tensor.nbytes for tensor in tensors)
        self._sender.send_all(Copy(forms, {} if scaler is None else scaler.state_dict(), num_bytes))
        self._hand_out(tensors)
        if self._sharding is not None:
            load_by_name(optimizer, model, self._sharding.scattered(held))

    def set_dropout(self, before: float, after: float) -> None:
        """The others' layers drop out with another probability."""
        self._sender.send_all(SetDropout(before, after))

    def compile(self, backend: str | None, mode: str | None, config: StepConfig, rows: int) -> None:
        """The others compile what steps call."""
        self._sender.send_all(Compile(backend, mode, rows, dataclasses.asdict(config)))

    def compiled(self, why: str) -> str:
        """Why one of the ranks could not compile, with its number; empty: all have. `why`: this one could not."""
        assert self._shares is not None
        self.ranks.phase = "waiting"
        with self._awaited():
            return self._shares.hindrance(why)

    def compare_weights(self, model: nn.Module, step: int, within_s: float = TELLS_WITHIN_S) -> None:
        """Step `step` is about to be saved: have all still the same weights? Raises `DriftedError`.

        Where one of the others is lost, or does not tell in time, what is finished is saved all the same.
        """
        if self._sharding is None and self._has_copied and self._weights.equal_behind != step:
            self._weights.compare(step, [] if self._is_lost else self._weights.told(model, self._sender, within_s))

    # ---- a step

    def fitted(self, config: StepConfig, num_samples: int) -> StepConfig:
        """`config` with mini-batches so small that each rank has one of a batch of so many samples; as it is where that
        changes the gradient.

        By `samples` each mini-batch's mean counts; recorded graphs want their shapes.
        """
        if config.normalization != "tokens" or config.graphs:
            return config
        if -(-num_samples // config.mini_batch_size) >= min(self.world_size, num_samples):
            return config
        return replace(config, mini_batch_size=-(-num_samples // self.world_size))

    def accumulate(
        self, gradients: Gradients, samples: Sequence[Sample], config: StepConfig, should_stop: Callable[[], bool],
        *, step: int, seed: int, lr: float, want_argmax: bool, checks_weights: bool,
        begin_mini_batch: Callable[[int], None],
    ) -> StepResult:  # fmt: skip
        """The gradient of a batch, summed over all ranks, which then update as this one will.

        `step`: finished ones. `checks_weights`: find out whether all still have the same weights. Raises
        `StopRequested`, `MemoryError` where one of them lacks memory, `TrainingError` where one has failed, and what
        fails here. All gradients are then dropped; those of this process by who catches it.
        """
        assert self._shares is not None
        batch = Share.of_batch(samples, config)
        parts = [batch.of_rank(rank, self.world_size) for rank in range(self.world_size)]
        parameters = list(gradients.model.parameters())
        order = Step(
            step=step, seed=seed, lr=lr, want_argmax=want_argmax, checks_weights=checks_weights,
            config=dataclasses.asdict(config), num_mini_batches=batch.num_mini_batches, num_samples=batch.num_samples,
            num_loss_tokens=batch.num_loss_tokens, num_parameters=len(parameters),
        )  # fmt: skip
        self.ranks.step, self.ranks.phase = step + 1, "computing"
        self._weights.begin(step)
        clock = gradients.clock

        buffers = buffers_of(gradients.model)
        marks = marks_of(buffers)

        def own() -> tuple[StepResult, list[float], int]:
            checksum = checksum_of(gradients.model) if checks_weights and self._sharding is None else 0
            result = gradients.accumulate_share(
                parts[0], config, should_stop, want_argmax=want_argmax, begin_mini_batch=begin_mini_batch
            )
            return result, gradients.losses_of(result), checksum

        with self._together():
            self._sender.send(lambda rank: replace(order, samples=Samples.of(parts[rank].mini_batches)))
            status, computed, seconds = self._shares.compute(own)
            result, losses, checksum = (StepResult(), [], 0) if computed is None else computed
            clock.mark()
            reports = self._share_report(
                ShareReport(
                    status, result.num_tokens, result.num_positions, seconds, checksum=checksum, losses=losses,
                    has_changed_buffers=marks_of(buffers_of(gradients.model)) != marks,
                    touched=gradients.reached(),
                ),
                batch.num_mini_batches, len(parameters),
            )  # fmt: skip
            self._raise_for(reports)
            if checks_weights:
                self._weights.compare(step, [report.checksum for report in reports])
            self.ranks.phase = "reduction"
            if self._sharding is None:
                sum_gradients(self.group, parameters, touched_by_any(reports))
            else:  # each pass has added up its own
                self._sharding.forget_unreached(touched_by_any(reports))
            share_buffers(self.group, gradients.model, reports)
            clock.mark("reduce")
        self.ranks.phase = "update"
        self.ranks.add(reports)
        merged = self._merged(result, parts, config, want_argmax=want_argmax)
        merged.num_tokens = sum(report.num_tokens for report in reports)
        merged.num_positions = sum(report.num_positions for report in reports)
        merged.loss_on_device = self._shares.total(reports, batch.num_mini_batches)
        return merged

    @contextlib.contextmanager
    def _awaited(self) -> Iterator[None]:
        """The others have an order to carry out with this process. Raises `RankLostError` with their names."""
        self._sender.is_awaited = True
        try:
            yield
        except RankLostError as error:
            self._is_lost = True
            gone = self.group.ended()
            what = f"{', '.join(gone)} has ended" if gone else self.behind()
            if self.group.agent is not None:  # from here on it is known: what is finished is saved now
                self.group.agent.rank_is_lost(what or str(error))
            raise RankLostError(f"{error}: {what}" if what else str(error)) from error
        finally:
            self._sender.is_awaited = False

    def behind(self) -> str:
        """The ranks that have not done their share yet, in words; empty: all wait for each other, or none is known."""
        return self.ranks.behind(0 if self._shares is None else self._shares.turn)

    def _share_report(self, report: ShareReport, num_mini_batches: int, num_parameters: int) -> list[ShareReport]:
        """Report; where this process has nothing to go on with, the others are told to drop theirs."""
        assert self._shares is not None
        self.ranks.phase = "waiting"
        key = drop_key(self._shares.turn)
        if report.status is not Status.OK:
            with connected("the orders' store is gone"):
                self._store.set(key, "1")
        reports = self._shares.report(report, num_mini_batches, num_parameters)
        if report.status is not Status.OK:
            with connected("the orders' store is gone"):
                self._store.delete_key(key)
        return reports

    def _raise_for(self, reports: Sequence[ShareReport]) -> None:
        """Raise what the worst of the reports stands for; nothing where all is well."""
        assert self._shares is not None
        statuses = [report.status for report in reports]
        if reports[0].status is Status.FAILED and self._shares.problem is not None:
            raise self._shares.problem
        for rank, status in enumerate(statuses):
            if status is Status.FAILED:
                raise TrainingError(f"rank {rank}: {self._shares.words_under(error_key(rank))}")
        if statuses[0] is Status.STOPPED:  # where others have stopped, this process had them drop their share
            raise StopRequested
        if Status.NO_MEMORY in statuses:
            raise MemoryError(f"rank {statuses.index(Status.NO_MEMORY)}: out of memory")

    def _merged(self, own: StepResult, parts: Sequence[Share], config: StepConfig, *, want_argmax: bool) -> StepResult:
        """Rank 0's result with the others' likeliest tokens, in the order of the mini-batches."""
        result = replace(own, losses={}, samples=[], argmax_N=None)
        if not want_argmax:
            return result
        tokens = [] if own.argmax_N is None else [own.argmax_N]
        tokens += [torch.from_numpy(self._argmax_of(rank)) for rank in range(1, self.world_size)]
        placed: dict[int, list[tuple[Sample, slice]]] = {}
        begin = 0
        for share in parts:
            for number, samples in share.mini_batches.items():
                rows = truth_rows_of(samples, include_prompts=config.include_prompts)
                placed[number] = [
                    (sample, slice(begin + each.start, begin + each.stop))
                    for sample, each in zip(samples, rows, strict=True)
                ]
                begin += rows[-1].stop
        result.argmax_N = torch.cat([each.to(torch.int64) for each in tokens])
        if len(result.argmax_N) != begin:
            raise TrainingError("a rank has told other tokens than its share has")
        result.samples = [each for number in sorted(placed) for each in placed[number]]
        return result

    def _argmax_of(self, rank: int) -> np.ndarray:
        """Of the share that was reported last."""
        assert self._shares is not None
        key = argmax_key(self._shares.turn - 1, rank)
        with connected("the orders' store is gone"):
            data = take_bytes(self._store, key)
        return np.frombuffer(data, dtype="<i4").astype(np.int32)

    # ---- scores

    def score(
        self, mini_batches: Sequence[Sequence[Sample]],
        compute: Callable[[Iterable[Sequence[Sample]]], list[tuple[float, list[int]]]],
    ) -> list[tuple[float, list[int]]]:  # fmt: skip
        """The loss and the likeliest tokens of each mini-batch, computed by all ranks. Raises as `accumulate` does.

        `compute`: does it for some of them, in their order.
        """
        assert self._shares is not None
        count = len(mini_batches)
        parts = [
            {i: part for i, part in enumerate(mini_batches) if rank_of(i, self.world_size) == rank}
            for rank in range(self.world_size)
        ]
        self.ranks.phase = "scoring"
        with self._together():
            self._sender.send(lambda rank: Score(count, Samples.of(parts[rank])))
            status, computed, seconds = self._shares.compute(lambda: self._scored(compute, parts[0], count))
            own = computed or []
            reports = self._share_report(
                ShareReport(status, seconds=seconds, losses=[loss for loss, _ in own]), count, 0
            )
            self._raise_for(reports)
        losses = self._shares.losses_in_order(reports, count)
        tokens = {i: argmax for i, (_, argmax) in zip(parts[0], own, strict=True)}
        for rank in range(1, self.world_size):
            told = self._argmax_of(rank).tolist()
            begin = 0
            for i, samples in parts[rank].items():
                end = begin + truth_rows_of(samples, include_prompts=False)[-1].stop
                tokens[i] = told[begin:end]
                begin = end
        return [(losses[i], tokens[i]) for i in range(count)]

    def _scored(
        self, compute: Callable[[Iterable[Sequence[Sample]]], list[tuple[float, list[int]]]],
        part: Mapping[int, Sequence[Sample]], count: int,
    ) -> list[tuple[float, list[int]]]:  # fmt: skip
        scored = compute(part.values())
        if self._sharding is not None:
            self._sharding.fill_up(len(part), count)
        return scored


def part_report(data: bytes) -> dict[str, Any]:
    """What a rank tells of its part of a save; of anything else that it is none."""
    try:
        report = json.loads(data)
    except (ValueError, RecursionError):
        report = None
    problem = PART_REPORT.problem(report, "")
    return {"problem": f"no report of a part: {problem}", "written": []} if problem else dict(report)
