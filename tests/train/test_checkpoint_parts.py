"""A sharded model's checkpoint in parts: each process writes its own, and any number of processes reads them."""

import contextlib
import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed import checkpoint as dcp

from lmplay_tui.cli import main
from lmplay_tui.models.gpt2ish import GPT2ish
from lmplay_tui.run.controls import Controls, SaveNow, Stop
from lmplay_tui.run.events import CheckpointSaved, Event, RunDone, RunStopped, StepDone, Warned
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.upkeep import remove, rename
from lmplay_tui.train.build import set_aside
from lmplay_tui.train.checkpoint import load_checkpoint, sweep_parts, write_checkpoint
from lmplay_tui.train.checkpoint_parts import Deferred, OwnRows, found_in, whole, write_part
from lmplay_tui.train.leader import part_report
from lmplay_tui.train.optim import build_optimizer, load_by_name
from lmplay_tui.train.process_group import ProcessGroup
from lmplay_tui.train.sharding import Sharding, can_sum, mesh_of
from tests.train.parted import in_memory, rows_of, save_in_parts, tensors_of
from tests.train.ranks import together, train_together
from tests.train.runs import differences, given, last, losses, of, state_of, stop_after, train, write_plan
from tests.train.test_ranks import exact  # noqa: F401
from tests.train.test_sharding import ONE_STAGE

needs_sums = pytest.mark.skipif(not can_sum(), reason="an old torch, which shards nothing")
TENSORS = {
    "wide": torch.arange(35, dtype=torch.float64).view(7, 5) / 3,
    "narrow": torch.linspace(-9, 9, 9).to(torch.bfloat16),
    "whole numbers": torch.arange(24, dtype=torch.int32).view(2, 3, 4),
    "one row": torch.full((1, 3), torch.nan),
    "flags": torch.tensor([True, False, True]),
}


def written_by(num_ranks: int, folder: Path) -> dict[str, Deferred]:
    """TENSORS in a folder, and where they lie."""
    folder.mkdir()
    tensors: dict[str, list] = {}
    for rank in range(num_ranks):
        own = [rows for key, tensor in TENSORS.items() for rows in rows_of(key, tensor, rank, num_ranks)]
        for key, dtype, shape, piece in write_part(folder, rank, own):
            tensors.setdefault(key, [dtype, list(shape), []])[2].append(list(piece))
    return found_in(folder, {"folder": folder.name, "tensors": tensors})


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
def test_what_any_number_of_ranks_writes_is_read_as_it_was(tmp_path, num_ranks):
    found = written_by(num_ranks, tmp_path / "m.0123456789abcdef.dcp")
    for key, tensor in TENSORS.items():
        read = found[key].whole(check=True)
        assert read.dtype == tensor.dtype
        assert torch.equal(read.view(torch.uint8), tensor.view(torch.uint8)), key
        assert (found[key].shape, found[key].dtype) == (tensor.shape, tensor.dtype)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torch_reads_the_folder_as_its_own(tmp_path):
    """By torch.distributed.checkpoint's reader, into tensors that nothing of ours has seen."""
    folder = tmp_path / "m.0123456789abcdef.dcp"
    written_by(3, folder)
    read = {key: torch.zeros_like(tensor) for key, tensor in TENSORS.items()}
    dcp.load(read, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)
    for key, tensor in TENSORS.items():
        assert torch.equal(read[key].view(torch.uint8), tensor.view(torch.uint8)), key


def test_what_no_part_can_hold_is_said_where_it_is_written(tmp_path):
    folder = tmp_path / "m.0123456789abcdef.dcp"
    folder.mkdir()
    exotic = torch.ones(2, dtype=torch.complex64)
    with pytest.raises(OSError, match="model/x is of complex64, which cannot be written in parts"):
        write_part(folder, 0, [OwnRows("model/x", (2,), 0, exotic)])
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "said",
    [
        b"", b"{", b"[" * 100_000, b"[]", b'{"problem": null}', b'{"problem": 7, "written": []}', b"\xff\xfe",
        b'{"problem": null, "written": [["model/x", "float32", [2], [1, 2, 3, 4]]]}',
        b'{"problem": null, "written": [["model/x", "float32", [2], [1, 2, 3, -4, 5]]]}',
        b'{"problem": null, "written": [["model/x", "object", [2], [1, 2, 3, 4, 5]]]}',
    ],
    ids=range(10),
)  # fmt: skip
def test_what_is_no_report_of_a_part_is_a_problem(said):
    report = part_report(said)
    assert report["problem"].startswith("no report of a part") and not report["written"]
    assert part_report(b'{"problem": null, "written": [["a", "int8", [2], [1, 2, 3, 4, 5]]]}')["problem"] is None


# ---- a run


@pytest.fixture
def halves(place: Path) -> dict:
    """A run that was stopped, twice: `file/m.lmp`, and the same in parts of three ranks, `parts/m.lmp`."""
    options = {"training_plan": write_plan(place)}
    stop_after(4, **options, model="file/m.lmp", out_dir="file")
    shutil.copytree("file", "parts")
    run = RunFolder(Path("parts/m.lmp"))
    size = save_in_parts(load_checkpoint(Path("file/m.lmp")), run)
    assert size > Path("file/m.lmp").stat().st_size * 0.8
    assert run.model.stat().st_size < Path("file/m.lmp").stat().st_size / 2
    return options


def test_one_process_goes_on_from_parts_as_from_a_file(halves):
    assert not list(differences(tensors_of(Path("file/m.lmp")), tensors_of(Path("parts/m.lmp"))))
    ends = {way: train(**halves, model=f"{way}/m.lmp", out_dir=way) for way in ("file", "parts")}
    assert isinstance(last(ends["parts"]), RunDone), last(ends["parts"])
    assert losses(ends["parts"]) == losses(ends["file"])
    assert not list(differences(state_of(Path("file/m.lmp")), state_of(Path("parts/m.lmp"))))
    assert not RunFolder(Path("parts/m.lmp")).parts_folders(), "no checkpoint needs it any more"


def test_what_reads_checkpoints_reads_those_in_parts(halves, capsys):
    for way in ("file", "parts"):
        assert main(["export", f"{way}/m.lmp", "--output", f"{way}.safetensors", "--to", "safetensors"]) == 0
        capsys.readouterr()
    assert not list(differences(load_file("file.safetensors"), load_file("parts.safetensors")))
    said = []
    for way in ("file", "parts"):
        assert main(["generate", "The mill", "--model", f"{way}/m.lmp", "--greedy", "--max-len", "8"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert main(["status", "parts/m.lmp"]) == 0
    begun = train(**halves, model="begun/m.lmp", initial_model="parts/m.lmp", resume="none")
    assert losses(begun)[0][2] == losses(train(**halves, model="b/m.lmp", initial_model="file/m.lmp"))[0][2]


def names_of(run: RunFolder) -> set[str]:
    return {path.name for path in run.parts_folders()}


def test_a_folder_stays_as_long_as_a_checkpoint_of_the_run_names_it(halves):
    run = RunFolder(Path("parts/m.lmp"))
    checkpoint = load_checkpoint(run.model)
    (first,) = names_of(run)
    shutil.copy(run.model, run.checkpoint("best"))  # a disk without links
    (run.model.parent / first / "notes.txt").write_text("mine")
    stray, other = run.model.with_name("m.00000000000000aa.dcp"), run.model.with_name("n.00000000000000aa.dcp")
    for folder in (stray, other):
        folder.mkdir()
        write_part(folder, 0, rows_of("a", torch.ones(3), 0, 1))
    link = run.model.with_name("m.00000000000000bb.dcp")
    link.symlink_to(other.absolute())
    (run.checkpoint("damaged")).write_bytes(b"half a checkpoint")
    sweep_parts(run)
    save_in_parts(checkpoint, run)
    (second,) = names_of(run) - {first}
    save_in_parts(checkpoint, run)
    (third,) = names_of(run) - {first, second}
    sweep_parts(run)
    assert names_of(run) == {first, second, third}, "the best one, the one before, the newest"
    assert not stray.exists()
    assert other.is_dir() and list(other.iterdir()) and link.is_symlink(), "another's, and no folder"
    write_checkpoint(checkpoint_in_memory(checkpoint), run.model, previous=run.checkpoint("prev"))
    sweep_parts(run)
    assert names_of(run) == {first, third}
    run.checkpoint("best").unlink()
    sweep_parts(run)
    assert (run.model.parent / first / "notes.txt").read_text() == "mine", "nothing is removed that was not made here"
    assert [path.name for path in (run.model.parent / first).iterdir()] == ["notes.txt"]
    assert load_checkpoint(run.checkpoint("prev"))


def checkpoint_in_memory(checkpoint: dict) -> dict:
    tensors = in_memory(checkpoint)
    return checkpoint | {"optimizers": checkpoint["optimizers"] | {"state": tensors["optimizer"]}}


def test_parts_go_where_their_run_goes(halves, tmp_path):
    run = RunFolder(Path("parts/m.lmp"))
    save_in_parts(load_checkpoint(run.model), run)
    before = tensors_of(run.model)
    new = rename(run, "other", Path("parts"))
    assert len(new.parts_folders()) == 2 and not run.parts_folders()
    assert not list(differences(before, tensors_of(new.model)))
    assert not list(differences(before, tensors_of(new.checkpoint("prev"))))
    sweep_parts(new)
    assert len(new.parts_folders()) == 2, "a checkpoint names its folder by what a rename does not change"
    trash = remove(new, Path("parts"))
    assert not new.parts_folders()
    assert not list(differences(before, tensors_of(trash / "other.lmp")))
    moved = RunFolder(trash / "other.lmp")
    past = set_aside(moved, trash)
    assert past is not None
    assert not list(differences(before, tensors_of(past / "other.lmp")))


# ---- several processes


class Tied(GPT2ish):
    """One of several dtypes and shapes, with a head that is the embedding."""

    def __init__(self) -> None:
        super().__init__(vocab_size=51, context_len=31, num_blocks=2, embed_dim=12, num_heads=2, dropout=0.0)
        self.head.weight = self.token_embed.weight
        self.double()


def called(name: str) -> str:
    return f"{name}.0123456789abcdef.dcp"


OPTIMIZERS = ("adamw", "adam", "adagrad", "sgd", "rmsprop")


def sharded(group: ProcessGroup, name: str, hosts: int = 1) -> tuple[Sharding, nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = Tied()
    mesh = mesh_of("full" if hosts == 1 else "hybrid", "cpu", group.world_size, group.world_size // hosts)
    sharding = Sharding(group, model, mesh, has_hidden=True, trunk=model.trunk)
    return sharding, model, build_optimizer(name, model, lr=0.01, weight_decay=0.1, device_type="cpu")


def save_own(folder: Path, group: ProcessGroup) -> list:
    """Some steps by each optimizer; what this rank has written, and what all have gathered."""
    made = []
    for name in OPTIMIZERS:
        sharding, model, optimizer = sharded(group, name)
        for step in range(3):
            optimizer.zero_grad()
            model(torch.arange(20).view(2, 10) + step + group.rank).square().mean().backward()
            optimizer.step()
        weights, states, own = sharding.own_state(optimizer)
        written = write_part(folder / called(name), group.rank, own)
        assert sharding.state_bytes(optimizer) >= sum(each.rows.nbytes for each in own)
        made.append((weights, states, written, sharding.whole_state(optimizer, keep=group.rank == 0)))
    return made


def load_again(folder: Path, said: dict, group: ProcessGroup) -> list:
    """Take the parts of another number of ranks' folders; what all have gathered then."""
    made = []
    for name in OPTIMIZERS:
        found = found_in(folder / "m.lmp", {"folder": called(name), "tensors": said[name][0]})
        sharding, model, optimizer = sharded(group, name)
        states = {
            parameter: {entry: found[it] if isinstance(it, str) else it for entry, it in held.items()}
            for parameter, held in said[name][1].items()
        }
        load_by_name(optimizer, model, sharding.scattered(states))
        made.append(sharding.whole_state(optimizer, keep=group.rank == 0)[1])
    return made


@pytest.mark.long
@needs_sums
def test_parts_are_what_was_gathered_for_each_optimizer_and_any_number_of_ranks(tmp_path):
    """Float64, tied weights; two ranks write, three read."""
    for name in OPTIMIZERS:
        (tmp_path / called(name)).mkdir()
    ranks = together(2, partial(save_own, tmp_path))
    said, gathered = {}, {}
    for number, name in enumerate(OPTIMIZERS):
        weights, states, _, gathered[name] = ranks[0][number]
        tensors: dict[str, list] = {}
        for rank in ranks:
            for key, dtype, shape, piece in rank[number][2]:
                tensors.setdefault(key, [dtype, list(shape), []])[2].append(list(piece))
        said[name] = tensors, states
        found = found_in(tmp_path / "m.lmp", {"folder": called(name), "tensors": tensors})
        assert weights["head.weight"] == weights["token_embed.weight"], "a tied weight is written once"
        read = {weight: found[key].whole(check=True) for weight, key in weights.items()}
        assert not list(differences(gathered[name][0], read)), name
        held = {
            parameter: {entry: whole(found[it]) if isinstance(it, str) else it for entry, it in entries.items()}
            for parameter, entries in states.items()
        }
        assert not list(differences(gathered[name][1], held)), name
        assert len(found) > len(read) or name == "sgd"
    again, *_ = together(3, partial(load_again, tmp_path, said))
    for name, states in zip(OPTIMIZERS, again, strict=True):
        assert not list(differences(gathered[name][1], states)), name


def late(write: Callable[..., Any], *given_: Any) -> Any:
    time.sleep(1.0)  # more than the two steps take that are to be trained meanwhile
    return write(*given_)


def own_of_hosts(group: ProcessGroup) -> tuple[list, list]:
    """The weights' keys, and what this rank would write, of a model with a copy on each of two hosts."""
    sharding, _, optimizer = sharded(group, "sgd", hosts=2)
    weights, _, own = sharding.own_state(optimizer)
    return sorted(set(weights.values())), [(each.key, each.shape, each.first, len(each.rows)) for each in own]


@pytest.mark.long
@needs_sums
def test_of_hosts_with_a_copy_each_the_first_writes():
    ranks = together(4, own_of_hosts)
    assert ranks[2][1] == ranks[3][1] == []
    pieces = sorted(ranks[0][1] + ranks[1][1])
    for key in ranks[0][0]:
        own = [piece for piece in pieces if piece[0] == key]
        assert [first for _, _, first, _ in own] == [0, own[0][3]]
        assert own[0][3] + own[1][3] == own[0][1][0]


def save_at_2(event: Event, controls: Controls) -> None:
    if isinstance(event, StepDone) and event.step in (2, 4):
        controls.send(SaveNow() if event.step == 2 else Stop())


def stop_at_6(event: Event, controls: Controls) -> None:
    if isinstance(event, StepDone) and event.step == 6:
        controls.send(Stop())


@pytest.mark.long
@needs_sums
def test_what_a_rank_tells_of_its_part_may_be_more_than_a_store_takes_at_once(place, exact, seams):  # noqa: F811
    """A model of many tensors: here each of them is told of again and again."""

    def write(real: Callable[..., Any], *arguments: Any) -> Any:
        written = real(*arguments)
        return written * (9_000_000 // len(json.dumps(written)) + 1)

    seams.around("write a part", write)
    options = {**exact, "training_plan": write_plan(place, ONE_STAGE)}
    launch = given(**options, model="m.lmp", shard="full", shard_save="folder")
    events = train_together(2, launch, act=save_at_2)
    assert isinstance(last(events), RunStopped), last(events)
    assert [saved.reason for saved in of(CheckpointSaved, events)] == ["asked", "stop"]
    assert not of(Warned, events)


@pytest.mark.long
@needs_sums
@pytest.mark.timeout(600)
def test_any_number_of_processes_goes_on_from_parts_as_from_a_file(place, exact, seams):  # noqa: F811
    """Two sharded processes save both ways; one, two and three go on from each, to the same bits.

    Parts are written when steps have been trained behind them.
    """
    options = {**exact, "training_plan": write_plan(place, ONE_STAGE)}
    for name in ("write a part", "write rank 0's part"):
        seams.around(name, late)
    for way in ("file", "folder"):
        launch = given(**options, model=f"{way}/m.lmp", out_dir=way, shard="full", shard_save=way)
        events = train_together(2, launch, act=save_at_2)
        assert [saved.reason for saved in of(CheckpointSaved, events)] == ["asked", "stop"]
    run = RunFolder(Path("folder/m.lmp"))
    assert len(run.parts_folders()) == 2, "of the newest and of the one before"
    assert not RunFolder(Path("file/m.lmp")).parts_folders()
    for kind in (".lmp", ".prev.lmp", ".rest.lmp"):
        assert not list(differences(tensors_of(Path("file/m" + kind)), tensors_of(Path("folder/m" + kind)))), kind
    for count, parts in ((1, {}), (2, {"shard": "full", "shard_save": "folder"}), (3, {"shard": "full"}), (2, {})):
        ends = []
        for way in ("file", "folder"):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree("again")
            shutil.copytree(way, "again")
            if count == 1:
                events = stop_after(6, **options, model="again/m.lmp", out_dir="again")
            else:
                launch = given(**options, model="again/m.lmp", out_dir="again", **parts)
                events = train_together(count, launch, act=stop_at_6)
            ends.append((losses(events), tensors_of(Path("again/m.lmp"))))
        assert len(ends[0][0]) == 2 and ends[0][0] == ends[1][0], count
        assert not list(differences(ends[0][1], ends[1][1])), count
