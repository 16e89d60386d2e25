"""A model whose parameters, gradients and optimizer state lie in parts on all ranks: torch's FSDP2.

Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054 (stage 3); Zhao et al. 2023, https://arxiv.org/abs/2304.11277.
A block's parameters are gathered for its passes and given back behind them; what lies outside of the blocks, as
embeddings and head do, stays gathered from the forward pass to the end of the backward pass, in which the head's own
gradient (`train/loss.py`) and the embeddings' are added to by hand, before torch sums them over the ranks.

All ranks make these calls together, in one order: a pass, `gathered`, and what moves states of the whole model. In a
pass they gather the blocks together, too: one that went through other blocks than theirs would get theirs for its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from lmplay_tui.errors import TrainingError, UserError
from lmplay_tui.models.body import Packable
from lmplay_tui.models.probing import undisturbed
from lmplay_tui.models.units import units_of
from lmplay_tui.text import one_line
from lmplay_tui.train.checkpoint_parts import Deferred, OwnRows, whole
from lmplay_tui.train.orders import said_by_torch
from lmplay_tui.train.process_group import ProcessGroup, RankLostError
from lmplay_tui.train.reduction import is_of_connection, place_key, take_from_rank_0

_OTHER_BLOCKS = (
    "--shard: each pass must call the same blocks in the same order, for all processes gather them together; this one "
    "does not"
)


def mesh_of(kind: str, device_type: str, world_size: int, ranks_per_host: int) -> DeviceMesh:
    """Which ranks share a model: all of them (`full`), or those of a host, with a copy on each host (`hybrid`).

    Raises `UserError` where the hosts cannot have a copy each.
    """
    if kind == "full":
        return init_device_mesh(device_type, (world_size,), mesh_dim_names=("shard",))
    if world_size % ranks_per_host or world_size == ranks_per_host:
        raise UserError(
            f"--shard hybrid: {world_size} processes, {ranks_per_host} a host: it needs two hosts and more, with as "
            "many processes each; use --shard full"
        )
    shape = (world_size // ranks_per_host, ranks_per_host)
    return init_device_mesh(device_type, shape, mesh_dim_names=("replicate", "shard"))


def shard_model(
    model: nn.Module, kind: str, group: ProcessGroup, device_type: str, *, has_hidden: bool,
    trunk: Callable[[Tensor, Tensor], Tensor] | None,
) -> "Sharding":  # fmt: skip
    """Shard a model over the ranks of `group`, all of which have told their places. Raises `UserError`."""
    hosts = [bytes(group.store.get(place_key(rank))).partition(b"\n")[0] for rank in range(group.world_size)]
    ranks_per_host = hosts.count(hosts[0])
    blocks = [hosts[begin : begin + ranks_per_host] for begin in range(0, len(hosts), ranks_per_host)]
    if any(len(set(block)) > 1 for block in blocks):
        ranks_per_host = len(hosts)  # not as many on each: `mesh_of` refuses
    mesh = mesh_of(kind, device_type, group.world_size, ranks_per_host)
    return Sharding(group, model, mesh, has_hidden=has_hidden, trunk=trunk)


class Sharding:
    """Shards `model` in place; its parameters are `DTensor`s from then on.

    `hidden`: its body where that and the head are apart. `packed`: its body for packed samples, of ids, positions and
    offsets, embeddings included. Both None where the model has none.
    `announce`: called before a pass that this rank makes by itself, so that the others gather with it; None while each
    makes its own. `is_broken`: a pass has failed on this rank, and the others wait in theirs for what never comes.
    Raises `UserError` for a model that cannot be sharded. The model may lie on the processor: each block goes to the
    mesh's device as it is sharded, so that no device ever holds all of it.
    """

    def __init__(
        self, group: ProcessGroup, model: nn.Module, mesh: DeviceMesh, *, has_hidden: bool,
        trunk: Callable[[Tensor, Tensor], Tensor] | None,
    ) -> None:  # fmt: skip
        refuse_unshardable(model)
        self._group = group
        self._model = model
        self.world_size = mesh.size()
        self.announce: Callable[[], None] | None = None
        self.is_broken = False
        self.hidden: Callable[[Tensor], Tensor] | None = None
        self.packed: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
        units = units_of(model)
        self._path = _path_through(model, units)
        self._at: int | None = None  # on that path; None: no pass is under way
        self._reached: set[nn.Parameter] = set()  # gathered ones, with a gradient of this step by a pass that counts
        self._names: dict[nn.Parameter, str] = {}  # of gathered ones
        self.counts = True  # passes do; not those that only gather
        for computes in (*units, model):
            computes.register_forward_hook(lambda _, __, computed: _owned(computed))
        for number, unit in enumerate(units):
            fully_shard(unit, mesh=mesh)
            unit.register_forward_pre_hook(partial(self._enter, number), prepend=True)  # before it is gathered
            if callable(packed := getattr(unit, "packed", None)):
                _register(unit, "packed", packed)
                cast(Any, unit).packed = self._entering(number, cast(Any, unit).packed)
        # Not given back between its passes: the head's weights are used behind the body's forward pass.
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
        for module in self._modules():
            # A loss is a sum over the batch already: gradients are added up, and never averaged over ranks.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # else by a multiplication that gloo has not
            if hasattr(module, "set_reduce_scatter_unused_params"):  # else ranks would sum gradients of other sizes
                module.set_reduce_scatter_unused_params(True)
        if has_hidden:
            _register(model, "hidden", self._whole_pass(cast(Any, model).hidden))
            self.hidden = self._announced(cast(Any, model).hidden)
        if trunk is not None:
            # One call from ids to what goes into the head: torch sums gradients once those of a call's own inputs are
            # known, and the embeddings' are only added then.
            from_ids = _from_ids(cast(Packable, model), trunk, self.note_reached)
            _register(model, "packed_hidden", self._whole_pass(from_ids))
            self.packed = cast(Any, model).packed_hidden
        model.register_forward_pre_hook(lambda *_: self._begin_pass())
        model.register_forward_hook(lambda *_: self._end_pass())
        model.register_forward_pre_hook(lambda *_: self._say(), prepend=True)

    # ---- which blocks a pass goes through

    def _whole_pass(self, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def whole_pass(*arguments: Any) -> Tensor:
            self._begin_pass()
            computed = compute(*arguments)
            self._end_pass()
            return computed

        return whole_pass

    def _begin_pass(self) -> None:
        self._at = 0

    def _end_pass(self) -> None:
        at, self._at = self._at, None  # what computes a block from here on is a backward pass
        if at is not None and self._path is not None and at < len(self._path):
            raise TrainingError(f"{_OTHER_BLOCKS} (block {self._path[at]} was left out)")

    def _enter(self, number: int, *_: object) -> None:
        """A pass comes to a block. Raises `TrainingError` where it is another than the one that the ranks gather."""
        if self._at is None or self._path is None:
            return
        if self._path[self._at : self._at + 1] != [number]:
            due = f"block {self._path[self._at]}" if self._at < len(self._path) else "none"
            raise TrainingError(f"{_OTHER_BLOCKS} (block {number} was called where {due} was due)")
        self._at += 1

    def _entering(self, number: int, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def entering(*arguments: Any) -> Tensor:
            self._enter(number)
            return compute(*arguments)

        return entering

    # ---- which parameters a step has reached

    def begin_step(self) -> None:
        """No parameter has a gradient yet."""
        self._reached.clear()

    def note_reached(self) -> None:
        """Gradients that were added by hand are there now, of what lies outside of the blocks."""
        for parameter in self._gathered_of(self._model):
            if parameter.grad is not None:
                self._reach(parameter)

    def _reach(self, parameter: Tensor) -> None:
        if self.counts:
            self._reached.add(cast(nn.Parameter, parameter))

    @staticmethod
    def _gathered_of(module: nn.Module) -> Iterator[nn.Parameter]:
        return (each for each in module.parameters() if not isinstance(each, DTensor))

    def reached(self) -> list[bool]:
        """Of each parameter: whether a pass of this rank has given it a gradient in this step."""
        names = {self._names[each] for each in self._reached}
        return [name in names for name, _ in self._model.named_parameters()]

    def forget_unreached(self, reached: Sequence[bool]) -> None:
        """What no rank has reached has no gradient, as with one process; torch has summed zeros for it."""
        for parameter, is_reached in zip(self._model.parameters(), reached, strict=True):
            if not is_reached:
                parameter.grad = None

    def _say(self) -> None:
        if self.announce is not None:
            self.give_back()  # the others have nothing gathered
            self.announce()

    def _announced(self, compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def announced(ids_BT: Tensor) -> Tensor:
            self._say()
            return compute(ids_BT)

        return announced

    @staticmethod
    def gathered(tensor: Tensor) -> Tensor:
        """A tensor as a whole: itself, where it does not lie in parts."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    @staticmethod
    def total_norm(gradients: Sequence[Tensor]) -> Tensor:
        """The norm of gradients that lie in parts: all ranks add up. Raises `RankLostError`."""
        try:
            return Sharding.gathered(nn.utils.get_total_norm(gradients))
        except RuntimeError as error:
            if is_of_connection(error):
                raise RankLostError(f"a rank is lost ({said_by_torch(error)})") from error
            raise

    def _modules(self) -> list[FSDPModule]:
        return [module for module in self._model.modules() if isinstance(module, FSDPModule)]

    def fill_up(self, passes: int, count: int) -> None:
        """`passes` of the `count` that were dealt out this rank has made: make as many as rank 0."""
        for _ in range(-(-count // self.world_size) - passes):
            self.pass_of_nothing()

    @torch.no_grad()
    def pass_of_nothing(self) -> None:
        """Gather with the ranks that score in a pass of theirs; the model stays as it is."""
        device = next(self._model.parameters()).device
        ids_BT = torch.zeros(1, 1, dtype=torch.int64, device=device)
        with undisturbed(self._model):
            (self.hidden or self._model)(ids_BT)

    def give_back(self) -> None:
        """Behind a pass without a backward pass: all parameters lie in parts again."""
        for module in self._modules():
            module.reshard()

    def freeze_gathered(self) -> None:
        """What `freeze` has said of the parts holds for what is gathered of them too."""
        trained = {name: parameter.requires_grad for name, parameter in self._model.named_parameters()}
        for prefix, module in self._model.named_modules():
            if isinstance(module, FSDPModule):
                module.unshard()
                for name, parameter in cast(nn.Module, module).named_parameters(prefix):
                    if not isinstance(parameter, DTensor):
                        self._watch(name, parameter)
                        parameter.requires_grad_(trained[name])
                module.reshard()

    def _watch(self, name: str, parameter: nn.Parameter) -> None:
        """Learn of the gradients that backward passes give a gathered parameter, which is one object for all passes."""
        if parameter not in self._names:
            parameter.requires_grad_(True).register_post_accumulate_grad_hook(self._reach)  # type: ignore[no-untyped-call]
        self._names[parameter] = name

    def scattered(self, states: Mapping[str, Mapping[str, Tensor | Deferred]]) -> dict[str, dict[str, Tensor]]:
        """An optimizer's state by parameters' names, of which this rank keeps its parts; only rank 0's is read.

        On the other ranks the tensors have the same formats and shapes, and any numbers. What is deferred is read one
        by one.
        """
        parameters = dict(self._model.named_parameters())
        return {
            name: {key: self._scattered(whole(value), parameters[name]) for key, value in entries.items()}
            for name, entries in states.items()
        }

    def _scattered(self, full: Tensor, like: Tensor) -> Tensor:
        assert isinstance(like, DTensor)
        if full.shape == like.shape:
            return distribute_tensor(full.to(like.device), like.device_mesh, like.placements)
        take_from_rank_0(self._group, [full], like.device)  # a counter
        return full

    def state_bytes(self, optimizer: Optimizer | None) -> int:
        """What lies in parts of model and optimizer, in all processes together; tied weights once."""
        states = (
            [] if optimizer is None else [each for entries in optimizer.state.values() for each in entries.values()]
        )
        return sum(each.nbytes for each in (*self._model.parameters(), *states) if _lies_in_parts(each))

    @torch.no_grad()
    def own_state(
        self, optimizer: Optimizer | None
    ) -> tuple[dict[str, Tensor | str], dict[str, dict[str, Any]], list[OwnRows]]:
        """`whole_state` with a key for each tensor that lies in parts, and the rows of those that are this rank's part.

        Nothing is gathered, and the rows are the live ones. Of a model with a copy on each host the first writes.
        """
        self.give_back()
        own: list[OwnRows] = []
        keys: dict[int, str] = {}  # by the part's identity: a tied parameter is one

        def placed(key: str, value: Any) -> Any:
            if not _lies_in_parts(value):
                return value.clone() if isinstance(value, Tensor) else value
            if id(value) not in keys:
                keys[id(value)] = key
                own.extend(_own_rows(key, value))
            return keys[id(value)]

        weights = {
            name: placed(f"model/{name}", value) for name, value in self._model.state_dict(keep_vars=True).items()
        }
        known = {} if optimizer is None else optimizer.state
        states = {
            name: {entry: placed(f"optimizer/{entry}/{name}", value) for entry, value in known[parameter].items()}
            for name, parameter in self._model.named_parameters()
            if parameter in known
        }
        return weights, states, own

    @torch.no_grad()
    def whole_state(
        self, optimizer: Optimizer | None, *, keep: bool
    ) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:  # fmt: skip
        """The model's weights and the optimizer's state by parameters' names, gathered part by part.

        On the processor, where they are kept; on other ranks empty.
        """
        self.give_back()
        weights: dict[str, Tensor] = {}
        whole: dict[int, Tensor] = {}  # by the part's identity: a tied parameter is one
        for name, value in self._model.state_dict(keep_vars=True).items():
            if id(value) not in whole:
                whole[id(value)] = _kept(self.gathered(value.detach()), is_part=isinstance(value, DTensor), keep=keep)
            weights[name] = whole[id(value)]
        states: dict[str, dict[str, Any]] = {}
        known = {} if optimizer is None else optimizer.state
        for name, parameter in self._model.named_parameters():
            if parameter in known:
                states[name] = {
                    key: _kept(self.gathered(value), is_part=isinstance(value, DTensor), keep=keep)
                    if isinstance(value, Tensor)
                    else value
                    for key, value in known[parameter].items()
                }
        return (weights, states) if keep else ({}, {})


def _path_through(model: nn.Module, units: Sequence[nn.Module]) -> list[int] | None:
    """The numbers of the units as a pass calls them, in that order; None where two tokens cannot be computed."""
    called: list[int] = []
    hooks = [unit.register_forward_pre_hook(lambda *_, n=number: called.append(n)) for number, unit in enumerate(units)]
    device = next(model.parameters()).device
    try:
        with torch.no_grad(), undisturbed(model):
            model(torch.zeros(1, 2, dtype=torch.int64, device=device))  # one alone is a prediction's
    except Exception:  # whatever the model's own code raises; the first step says it where it matters
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return called


def _lies_in_parts(value: Any) -> bool:
    return isinstance(value, DTensor) and value.numel() > 0


def _own_rows(key: str, tensor: DTensor) -> Iterator[OwnRows]:
    """What this rank is to write of a tensor, where that is any of it."""
    place = tensor.device_mesh.get_coordinate()
    assert place is not None
    if any(at and placement.is_replicate() for at, placement in zip(place, tensor.placements, strict=True)):
        return
    for chunk in tensor.__create_chunk_list__():  # type: ignore[no-untyped-call]  # torch's own protocol for checkpoints in parts
        assert not any(chunk.offsets[1:]), "parts are rows"
        yield OwnRows(key, tuple(tensor.shape), chunk.offsets[0], tensor.to_local().detach())


def _kept(whole: Tensor, *, is_part: bool, keep: bool) -> Tensor:
    """On the processor and no tensor that training changes; nothing of it where it is not kept."""
    if not keep:
        return whole[:0] if whole.ndim else whole
    return whole.cpu() if is_part else whole.clone()


def _register(module: nn.Module, name: str, compute: Callable[..., Any]) -> None:
    """Let a method gather and give back as `forward` does."""
    setattr(module, name, lambda *arguments: _owned(compute(*arguments)))
    register_fsdp_forward_method(module, name)


def _owned(computed: Any) -> Any:
    """What a module gave, and no view of something: changed in place, a view would lose the hook that gathers."""
    return computed.clone() if isinstance(computed, Tensor) and computed._is_view() else computed


def can_sum() -> bool:
    """Whether this torch's FSDP2 adds gradients up as they are."""
    return hasattr(FSDPModule, "set_force_sum_reduction_for_comms")


def refuse_unshardable(model: nn.Module) -> None:
    """Raise `UserError` for single numbers, and for parameters that two blocks share: FSDP2 shards neither.

    Torch's first versions of it cannot add gradients up without dividing them: they shard nothing.
    """
    if not can_sum():
        raise UserError(
            f"--shard: torch {torch.__version__} is too old for it (its FSDP2 cannot add gradients up); install a "
            "newer one"
        )
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise UserError(
                f"--shard: {one_line(name, 60)} is a single number, which cannot be sharded: make it a vector"
            )
    owners: dict[nn.Parameter, int] = {}
    for number, unit in enumerate(units_of(model)):
        for name, parameter in unit.named_parameters():
            if owners.setdefault(parameter, number) != number:
                raise UserError(f"--shard: {one_line(name, 60)} belongs to two blocks, so it cannot be sharded")
    inside = set(owners)
    outside = _outside_parameters(model)
    for name, parameter in outside.items():
        if parameter in inside:
            raise UserError(f"--shard: {one_line(name, 60)} is shared with a block, so it cannot be sharded")


def _outside_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those with a place outside of the units, by that place's name."""
    units = {id(module) for unit in units_of(model) for module in unit.modules()}
    return {
        f"{prefix}.{name}" if prefix else name: parameter
        for prefix, module in model.named_modules(remove_duplicate=False)
        if id(module) not in units
        for name, parameter in module.named_parameters(recurse=False)
    }


class _Embedded(torch.autograd.Function):
    """What `Packable.embed` gives, with `embed_backward` as its backward pass."""

    @staticmethod
    def forward(
        ctx: Any, model: Packable, ids_P: Tensor, positions_P: Tensor, _needs_gradient: Tensor,
        added: Callable[[], None],
    ) -> Tensor:  # fmt: skip
        ctx.model, ctx.places, ctx.added = model, (ids_P, positions_P), added
        return model.embed(ids_P, positions_P)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[None, None, None, None, None]:
        ctx.model.embed_backward(grad_outputs[0], *ctx.places)
        ctx.added()
        return None, None, None, None, None


def _from_ids(
    model: Packable, trunk: Callable[[Tensor, Tensor], Tensor], added: Callable[[], None]
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`added`: called when the embeddings' gradients are there."""

    def packed_hidden(ids_P: Tensor, positions_P: Tensor, offsets: Tensor) -> Tensor:
        needs_gradient = torch.zeros((), requires_grad=torch.is_grad_enabled())
        return trunk(cast(Tensor, _Embedded.apply(model, ids_P, positions_P, needs_gradient, added)), offsets)  # type: ignore[no-untyped-call]

    return packed_hidden
