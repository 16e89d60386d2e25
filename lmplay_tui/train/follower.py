"""A process that follows rank 0: it holds the model and its optimizer, and does what it is told.

It knows no plan, no data, no tokenizer, and of the run's files the folder alone that its part of a checkpoint goes to.
What it computes and how it updates is what rank 0 does, by the same code.
"""

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lmplay_tui.errors import EXIT_OK, EXIT_TRAINING, TrainingError, UserError
from lmplay_tui.models.body import body_of, trunk_of
from lmplay_tui.models.probing import Kept
from lmplay_tui.models.registry import allowed_experiment, build_model, load_experiment
from lmplay_tui.models.units import recompute
from lmplay_tui.text import one_line
from lmplay_tui.train.checkpoint import copied, why_not_saved
from lmplay_tui.train.checkpoint_parts import OwnRows, write_part
from lmplay_tui.train.compile import Compilation
from lmplay_tui.train.device import (
    Precision,
    RandomNumbers,
    choose_device,
    device_failure,
    fits,
    is_out_of_memory,
    use_what_is_fast,
)
from lmplay_tui.train.evaluation import losses_and_argmax
from lmplay_tui.train.gradients import Gradients, Share, StepConfig, StepResult
from lmplay_tui.train.optim import freeze, load_by_name, next_optimizer, set_dropout
from lmplay_tui.train.orders import (
    Build,
    Compile,
    Copy,
    Done,
    EnterStage,
    GatherState,
    Idle,
    Order,
    OrderError,
    Pass,
    Receiver,
    SaveParts,
    Score,
    SetDropout,
    ShardModel,
    Step,
    TellChecksum,
    connected,
    set_bytes,
    take_bytes,
)
from lmplay_tui.train.process_group import SEEN_WITHIN_S, ProcessGroup, RankLostError
from lmplay_tui.train.reduction import (
    NO_RESCUE,
    ShareReport,
    Shares,
    Status,
    argmax_key,
    buffers_of,
    checksum_key,
    checksum_of,
    collective_device,
    device_key,
    drop_key,
    error_key,
    have_drifted,
    is_of_connection,
    marks_of,
    own_place,
    parts_key,
    phase_key,
    place_key,
    replicated,
    said_of,
    share_buffers,
    sum_gradients,
    take_from_rank_0,
    touched_by_any,
)

if TYPE_CHECKING:
    from lmplay_tui.train.sharding import Sharding


def follow(group: ProcessGroup, exp: str | None = None) -> int:
    """Do what rank 0 says until the run has ended; the exit status, 3 where rank 0 or another rank is lost.

    `exp`: as this process's own command line has it, which alone lets a file of the user's run.
    """
    follower = _Follower(group, exp)
    try:
        while not follower.is_done:
            follower.do_order()
    except (RankLostError, OrderError) as error:
        sys.stderr.write(f"rank {group.rank}: {one_line(error, 600)}\n")
        if group.agent is not None and not group.ended(SEEN_WITHIN_S):
            group.agent.give_up()
        return EXIT_TRAINING
    except Exception as error:
        follower.leave_word(error)
        if not (follower.is_sharded or _is_loss(error)):
            raise
        sys.stderr.write(f"rank {group.rank}: {said_of(error)}\n")  # the others see that the connection ends
        return EXIT_TRAINING
    return EXIT_OK


def _is_loss(error: Exception) -> bool:
    """Whether another rank's end is behind an error, or this one's own device: no end of the run, all start again."""
    return isinstance(error, RankLostError) or is_of_connection(error) or bool(device_failure(error))


class _Replica:
    """The model as rank 0 has it."""

    def __init__(self, order: Build, exp: str | None) -> None:
        """`exp`: as the command line has it; an order can come from any process that reaches the store."""
        device = choose_device(order.device)
        dtype = None if order.amp_dtype is None else getattr(torch, order.amp_dtype)
        precision = Precision(device, dtype, order.grad_scale)
        use_what_is_fast(device, in_parts=order.in_parts)
        experiment = load_experiment(allowed_experiment(exp, order.exp))
        model, _ = build_model(
            experiment, vocab_size=order.vocab_size, context_len=order.context_len, num_blocks=order.num_blocks,
            embed_dim=order.embed_dim, num_heads=order.num_heads, dropout=order.dropout, seed=order.seed,
        )  # fmt: skip
        if order.recompute:
            recompute(model)
        self.model: nn.Module = model if order.in_parts else model.to(device)
        hidden = None if order.way == "forward" else body_of(self.model)
        trunk = trunk_of(self.model, device, dtype) if order.way == "trunk" else None
        self.gradients = Gradients(self.model, precision, hidden=hidden, trunk=trunk)
        self.precision = precision
        self.hidden = hidden  # as it was built, compiled or not
        self.vocab_size = order.vocab_size
        self.random_numbers = RandomNumbers(device)
        self.sharding: Sharding | None = None
        self.optimizer: torch.optim.Optimizer | None = None


class _Part:
    """This rank's part of a save: written in a thread, beside the training."""

    def __init__(self, folder: Path, rank: int, own: Sequence[OwnRows] | None) -> None:
        """`own`: its rows; None: there was no memory to copy them."""
        self.key = parts_key(folder.name, rank)
        self.report: dict[str, Any] = {"problem": "no memory for a copy of its part", "written": []}
        self._thread = threading.Thread(target=self._write, args=(folder, rank, own or ()), name="checkpoint")
        if own is not None:
            try:
                self._thread.start()
            except RuntimeError as error:  # the system gives no more threads: that costs a save
                self.report["problem"] = one_line(error)

    def _write(self, folder: Path, rank: int, own: Sequence[OwnRows]) -> None:
        try:
            self.report = {"problem": None, "written": write_part(folder, rank, own)}
        except FileNotFoundError:
            self.report["problem"] = (
                f"does not see the folder {one_line(folder)}: all machines must see the run's folder; else use "
                "--shard-save file"
            )
        except Exception as error:  # a thread never dies silently
            self.report["problem"] = why_not_saved(error)

    @property
    def is_being_written(self) -> bool:
        return self._thread.is_alive()

    def wait(self) -> None:
        """Return when it is written, or cannot be."""
        if self._thread.ident is not None:
            self._thread.join()


class _Follower:
    """Carries out one order after the other. What fails in one of them is told rank 0 in the next report."""

    def __init__(self, group: ProcessGroup, exp: str | None) -> None:
        self._group = group
        self._exp = exp
        self._store = group.store
        self._orders = Receiver(group.store, group.rank)
        self._shares = Shares(group, torch.device("cpu"))
        self._replica: _Replica | None = None
        self._problem = ""
        self._part: _Part | None = None  # of a save, until it has been told of
        self._part_buffers: dict[str, Tensor] = {}
        self.is_done = False

    @property
    def is_sharded(self) -> bool:
        """Whether this process holds a part of the model."""
        return self._shares.in_parts

    def leave_word(self, error: Exception) -> None:
        """Tell rank 0 why this process leaves, where a new start would end the same way.

        Not where it has only met another's end. Where its device has failed that is told as such: a new start, which
        tries all devices, leaves it out if need be.
        """
        if is_of_connection(error):
            return
        key, words = error_key(self._group.rank), said_of(error)
        if failure := device_failure(error):
            key, words = device_key(self._group.rank), failure
        elif is_out_of_memory(error) and self.is_sharded:
            words = NO_RESCUE
        with contextlib.suppress(RankLostError), connected("the orders' store is gone"):
            self._tell(key, words)
            self._store.check([key])  # once it answers it has the word: rank 0 looks as soon as this process ends

    def do_order(self) -> None:
        """Wait for an order and carry it out. Raises `RankLostError`."""
        order = self._orders.next(self._is_writing)
        sharding = None if self._replica is None else self._replica.sharding
        if sharding is not None and not isinstance(order, Idle):
            sharding.give_back()
        if isinstance(order, Done):
            self.is_done = True
        elif isinstance(order, Step):
            self._step(order)
        elif isinstance(order, Score):
            self._score(order)
        elif isinstance(order, Copy):
            self._copy(order)
        elif isinstance(order, ShardModel):
            self._shard(order)
        elif isinstance(order, GatherState):
            assert self._replica is not None and sharding is not None
            sharding.whole_state(self._replica.optimizer, keep=False)
        elif isinstance(order, SaveParts):
            self._save_part(Path(order.folder))
        elif isinstance(order, TellChecksum):
            self._tell_checksum(order.number)
        elif isinstance(order, Compile):
            self._compile(order)
        elif isinstance(order, Pass):
            assert sharding is not None
            sharding.pass_of_nothing()
        elif not isinstance(order, Idle) and not self._problem:
            self._try_to_set_up(order)

    def _try_to_set_up(self, order: Order) -> None:
        try:
            self._set_up(order)
        except Exception as error:
            if _is_loss(error):
                raise
            self._problem = said_of(error)

    def _save_part(self, folder: Path) -> None:
        """Copy what this rank holds, and begin to write it."""
        if self._part is not None:  # rank 0 has given it up
            self._part.wait()
        known = self._known
        assert known.sharding is not None
        _, _, own = known.sharding.own_state(known.optimizer)
        _, copies = fits(lambda: copied(own, self._part_buffers))
        self._part = _Part(folder, self._group.rank, copies)

    def _is_writing(self) -> bool:
        """Whether a part is being written. Once it is, rank 0 is told: this thread alone speaks to the store."""
        if self._part is None or self._part.is_being_written:
            return self._part is not None
        part, self._part = self._part, None
        with connected("the orders' store is gone"):
            set_bytes(self._store, part.key, json.dumps(part.report).encode("ascii"))
        return False

    @property
    def _known(self) -> _Replica:
        """The model and its optimizer. Raises `TrainingError` where they could not be made."""
        if self._problem or self._replica is None:
            raise TrainingError(self._problem or "no model was ordered")
        return self._replica

    def _set_up(self, order: Order) -> None:
        if isinstance(order, Build):
            self._replica = _Replica(order, self._exp)
            device = self._replica.precision.device
            self._shares = Shares(self._group, device)
            self._tell(place_key(self._group.rank), own_place(self._group, device))
            return
        known = self._known
        if isinstance(order, EnterStage):
            freeze(known.model, order.default_freeze)
            known.optimizer = next_optimizer(
                order.optimizer, known.model, lr=order.lr, weight_decay=order.weight_decay,
                device_type=known.precision.device.type, before=known.optimizer if order.keeps_state else None,
            )  # fmt: skip
            if known.sharding is not None:
                known.sharding.freeze_gathered()
        elif isinstance(order, SetDropout):
            set_dropout(known.model, order.before, order.after)

    def _compile(self, order: Compile) -> None:
        """Compile what steps call, where all ranks can; rank 0 says where one cannot."""
        if self._problem or self._replica is None:  # which is told with the next step
            self._shares.hindrance("")
            return
        known = self._replica
        compilation = Compilation(order.backend, order.mode, known.precision.device)

        def agreed(why: str) -> str:
            self._is_at("waiting")
            return self._shares.hindrance(why)

        for _ in compilation.prepare(known.gradients, StepConfig(**order.config), order.rows, step=0, agreed=agreed):
            pass

    def _copy(self, order: Copy) -> None:
        """Take rank 0's bits; of a model that lies in parts, its parts of the optimizer's."""
        state: dict[str, dict[str, Tensor]] = {}

        def make_room() -> list[Tensor]:
            known = self._known
            for name, entries in order.optimizer_state.items():
                state[name] = {
                    key: torch.empty(tuple(shape), dtype=getattr(torch, dtype))
                    for key, (dtype, shape) in entries.items()
                }
            return [] if known.sharding is not None else replicated(known.model, state)

        if not self._take(make_room, order.num_bytes):
            return
        known = self._known
        assert known.optimizer is not None
        if known.sharding is not None:
            load_by_name(known.optimizer, known.model, known.sharding.scattered(state))
            return
        try:
            load_by_name(known.optimizer, known.model, state)
        except Exception as error:  # of its device's memory; no rank waits for this one before its next report
            if _is_loss(error):
                raise
            self._problem = said_of(error)
        if known.gradients.scaler is not None and order.scaler:
            known.gradients.scaler.load_state_dict(dict(order.scaler))

    def _take(self, room: Callable[[], list[Tensor]], num_bytes: int) -> bool:
        """Take rank 0's bits, where every rank has room for them: what `room` gives; whether they were taken."""

        def checked() -> list[Tensor]:
            tensors = room()
            if sum(tensor.nbytes for tensor in tensors) != num_bytes:
                raise TrainingError("its model has other tensors than rank 0's: the same code must run everywhere")
            return tensors

        status, tensors, _ = self._shares.compute(checked)
        self._tell_problem(status)
        if any(report.status is not Status.OK for report in self._shares.report(ShareReport(status), 0, 0)):
            return False
        assert tensors is not None
        take_from_rank_0(self._group, tensors, collective_device(self._known.precision.device))
        return True

    def _shard(self, order: ShardModel) -> None:
        """Take rank 0's weights, and keep a part of them."""
        from lmplay_tui.train.sharding import shard_model

        if not self._take(lambda: replicated(self._known.model, {}), order.num_bytes):
            return
        known = self._known
        gradients = known.gradients
        try:
            known.sharding = shard_model(
                known.model, order.kind, self._group, known.precision.device.type,
                has_hidden=known.hidden is not None, trunk=gradients.trunk,
            )  # fmt: skip
        except UserError as error:  # rank 0 says it
            self._problem = str(error)
            return
        gradients.sharding = known.sharding
        known.hidden = gradients.hidden = known.sharding.hidden
        self._shares.in_parts = True

    def _step(self, order: Step) -> None:
        config = StepConfig(**order.config)
        share = Share(order.samples.mini_batches(), order.num_mini_batches, order.num_samples, order.num_loss_tokens)
        argmax = argmax_key(self._shares.turn, self._group.rank)

        before: list[Kept] = []  # the model's buffers

        def work() -> tuple[StepResult, list[float], int, bool]:
            known = self._checked(order)
            assert known.optimizer is not None
            before.append(Kept(known.model))
            known.model.train()
            known.optimizer.zero_grad(set_to_none=True)
            buffers = buffers_of(known.model)
            marks = marks_of(buffers)
            checksum = checksum_of(known.model) if order.checks_weights and known.sharding is None else 0
            result = known.gradients.accumulate_share(
                share, config, self._is_dropped(), want_argmax=order.want_argmax,
                begin_mini_batch=partial(known.random_numbers.begin_mini_batch, order.seed, order.step),
            )  # fmt: skip
            losses = known.gradients.losses_of(result)
            if order.want_argmax:
                self._tell_argmax(argmax, result.argmax_N)
            return result, losses, checksum, marks_of(buffers_of(known.model)) != marks

        self._is_at("computing")
        status, computed, seconds = self._shares.compute(work)
        self._tell_problem(status)
        result, losses, checksum, has_changed = (StepResult(), [], 0, False) if computed is None else computed
        parameters = [] if self._replica is None else list(self._replica.model.parameters())
        touched = [] if self._replica is None else self._replica.gradients.reached()
        self._is_at("waiting")
        reports = self._shares.report(
            ShareReport(
                status, result.num_tokens, result.num_positions, seconds, checksum=checksum, losses=losses,
                touched=touched, has_changed_buffers=has_changed,
            ),
            order.num_mini_batches, order.num_parameters,
        )  # fmt: skip
        has_drifted = order.checks_weights and have_drifted(reports)  # rank 0 says so, and ends the run
        if has_drifted or any(report.status is not Status.OK for report in reports):
            for parameter in parameters:
                parameter.grad = None
            with contextlib.suppress(RuntimeError):  # a device that has failed takes nothing back
                for each in before:
                    each.restore()
            if computed is not None and order.want_argmax:
                self._take_back(argmax)
            return
        known = self._known
        if known.sharding is None:
            sum_gradients(self._group, parameters, touched_by_any(reports))
        else:
            known.sharding.forget_unreached(touched_by_any(reports))
        share_buffers(self._group, known.model, reports)
        result.loss_on_device = self._shares.total(reports, order.num_mini_batches)
        assert known.optimizer is not None
        known.gradients.update(known.optimizer, result, lr=order.lr, grad_clip=config.grad_clip)

    def _score(self, order: Score) -> None:
        argmax = argmax_key(self._shares.turn, self._group.rank)

        def work() -> list[float]:
            known = self._checked(order)
            scored = losses_and_argmax(
                known.model, known.hidden, known.precision, order.samples.mini_batches().values(), self._is_dropped()
            )
            if known.sharding is not None:
                known.sharding.fill_up(len(scored), order.num_mini_batches)
            tokens = [token for _, predicted in scored for token in predicted]
            self._tell_argmax(argmax, torch.tensor(tokens, dtype=torch.int64))
            return [loss for loss, _ in scored]

        self._is_at("scoring")
        status, computed, seconds = self._shares.compute(work)
        self._tell_problem(status)
        self._is_at("waiting")
        report = ShareReport(status, seconds=seconds, losses=computed or [])
        reports = self._shares.report(report, order.num_mini_batches, 0)
        if computed is not None and any(each.status is not Status.OK for each in reports):
            self._take_back(argmax)

    def _checked(self, order: Step | Score) -> _Replica:
        known = self._known
        ids = order.samples.ids
        if len(ids) and int(ids.max()) >= known.vocab_size:
            raise TrainingError(f"token {int(ids.max())} of a vocabulary of {known.vocab_size}")
        return known

    def _is_dropped(self) -> Callable[[], bool]:
        """Whether rank 0 has dropped the share under way."""
        keys = [drop_key(self._shares.turn)]
        in_parts = self._shares.in_parts

        def is_dropped() -> bool:
            if in_parts:  # all ranks make all of their passes
                return False
            with connected("the orders' store is gone"):
                return bool(self._store.check(keys))

        return is_dropped

    # ---- what rank 0 reads

    def _tell(self, key: str, value: str) -> None:
        with connected("the orders' store is gone"):
            self._store.set(key, value)

    def _is_at(self, phase: str) -> None:
        self._tell(phase_key(self._group.rank), f"{self._shares.turn}\n{phase}")

    def _tell_checksum(self, number: int) -> None:
        """None where the model could not be set up, which is told with the next step."""
        known = None if self._problem else self._replica
        self._tell(checksum_key(number, self._group.rank), "" if known is None else str(checksum_of(known.model)))

    def _tell_argmax(self, key: str, argmax_N: Tensor | None) -> None:
        tokens = np.zeros(0, dtype="<i4") if argmax_N is None else argmax_N.numpy().astype("<i4")
        with connected("the orders' store is gone"):
            set_bytes(self._store, key, tokens.tobytes())

    def _take_back(self, key: str) -> None:
        """Tokens that no rank reads any more."""
        with connected("the orders' store is gone"):
            take_bytes(self._store, key)

    def _tell_problem(self, status: Status) -> None:
        if status is Status.FAILED:
            problem = self._shares.problem
            self._shares.problem = None
            assert problem is not None
            if _is_loss(problem):
                raise problem
            self._tell(error_key(self._group.rank), self._problem or said_of(problem))
