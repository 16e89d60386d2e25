"""Checkpoints in parts whose folder is damaged, another's or gone, and saves of them that are cut short."""

import copy
import os
import pickle
import random
import resource
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lmplay_tui.errors import DamagedFileError, UserError
from lmplay_tui.run.controls import Controls, SaveNow, Stop
from lmplay_tui.run.events import CheckpointSaved, Event, RunFailed, RunStopped, StepDone, Warned
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.checkpoint import SaveError, load_archive, load_checkpoint, newest_checkpoint, write_checkpoint
from lmplay_tui.train.checkpointer import CheckpointWriter, Outcome, SaveRequest
from lmplay_tui.train.follower import follow
from lmplay_tui.train.launch import run_events
from lmplay_tui.train.process_group import ProcessGroup
from lmplay_tui.train.sharding import can_sum
from tests.faults.forks import Child
from tests.faults.mutations import with_a_flipped_bit
from tests.faults.test_damaged_files import MARKER, Runs, hostile_files, outcome_of
from tests.faults.test_failing_saves import Calls, die_at
from tests.faults.test_strangers_folder import KINDS, SECRET, hard_link
from tests.seams import Seams, for_a_while
from tests.train.parted import in_parts, save_in_parts, tensors_of
from tests.train.ranks import together, train_together
from tests.train.runs import TINY, differences, given, last, of, write_plan, write_rows

needs_sums = pytest.mark.skipif(not can_sum(), reason="an old torch, which shards nothing")


@pytest.fixture
def parts(run: RunFolder) -> RunFolder:
    """A run whose newest checkpoint, and the one before, lie in parts of three ranks."""
    checkpoint = load_checkpoint(run.model)
    for _ in range(2):
        save_in_parts(checkpoint, run)
    assert len(run.parts_folders()) == 2
    return run


def files_of_newest(run: RunFolder) -> list[Path]:
    """The parts of the newest checkpoint."""
    said = torch.load(run.model, weights_only=True)["runner"]["state"]["parts"]
    return sorted((run.model.parent / said["folder"]).iterdir())


def altered(data: bytes, dice: random.Random) -> bytes:
    """With one bit of its rows flipped."""
    header = 8 + int.from_bytes(data[:8], "little")
    return with_a_flipped_bit(data, dice.randrange(header, len(data)), dice)


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


DAMAGES: dict[str, Callable[[Path, random.Random], object]] = {
    "a flipped bit": lambda path, dice: path.write_bytes(altered(path.read_bytes(), dice)),
    "a cut": lambda path, dice: os.truncate(path, dice.randrange(path.stat().st_size)),
    "no file": lambda path, _: path.unlink(),
    "another's part": lambda path, _: shutil.copyfile(sorted(path.parent.iterdir())[-1], path),
    "no folder": lambda path, _: shutil.rmtree(path.parent),
    "an empty folder": lambda path, _: emptied(path.parent),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_falls_back_to_the_checkpoint_before(parts, damage):
    before = tensors_of(parts.checkpoint("prev"))
    dice = random.Random(damage)
    DAMAGES[damage](files_of_newest(parts)[0], dice)
    with pytest.raises(DamagedFileError) as caught:
        load_checkpoint(parts.model)
    assert "\n" not in str(caught.value)
    assert outcome_of(parts)[0] == "previous"
    assert not list(differences(before, tensors_of(parts.checkpoint("prev"))))


def test_each_flipped_bit_of_a_row_is_found(parts, count):
    dice, files = random.Random(3), files_of_newest(parts)
    for _ in range(40):
        path = dice.choice(files)
        data = path.read_bytes()
        path.write_bytes(altered(data, dice))
        with pytest.raises(DamagedFileError, match="the checksum of"):
            load_checkpoint(parts.model)
        path.write_bytes(data)
    load_checkpoint(parts.model)
    count("flipped bits of parts: 40 found")


def test_weights_are_read_without_the_optimizers_part(parts):
    """As `generate` does: what it does not read cannot hinder it; what it reads is looked at."""
    said = torch.load(parts.model, weights_only=True)["runner"]["state"]["parts"]["tensors"]
    data = bytearray(files_of_newest(parts)[0].read_bytes())
    places = {kind: next(it[2][0][1] for key, it in said.items() if key.startswith(kind)) for kind in ("opt", "model")}
    data[places["opt"]] ^= 1
    files_of_newest(parts)[0].write_bytes(data)
    load_archive(parts.model)
    data[places["model"]] ^= 1
    files_of_newest(parts)[0].write_bytes(data)
    with pytest.raises(DamagedFileError, match="the checksum of model/"):
        load_archive(parts.model)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("of_folder", [False, True], ids=["part", "folder"])
def test_what_lies_in_place_of_a_part_is_not_followed_and_stays(parts, tmp_path, kind, of_folder):
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "precious").write_bytes(SECRET)
    path = files_of_newest(parts)[1]
    if of_folder:
        shutil.copytree(path.parent, outside / "folder", dirs_exist_ok=True)
        shutil.rmtree(path.parent)
        path = path.parent
    else:
        shutil.copy(path, outside / "new")
        path.unlink()
    kind(path, outside)
    seen = {each: each.read_bytes() for each in outside.rglob("*") if each.is_file()}
    with pytest.raises(UserError) as caught:
        load_checkpoint(parts.model)
    assert "\n" not in str(caught.value)
    if kind is not hard_link and not (of_folder and kind.__name__ == "folder"):
        assert not isinstance(caught.value, DamagedFileError), "it is refused, not set aside"
        assert any(word in str(caught.value) for word in ("link", "pipe", "socket", "a folder", "a file"))
    parts.model.unlink()
    CheckpointWriter(parts, parts.model.parent).sweep()
    assert {each: each.read_bytes() for each in outside.rglob("*") if each.is_file()} == seen


def device(place: Path, _: Path) -> None:
    place.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", [*KINDS, device], ids=lambda kind: kind.__name__)
def test_what_another_checkpoint_leads_to_is_not_waited_for(parts, tmp_path, kind):
    """A start, and each save, asks all of the run's checkpoints which folder of parts they need."""
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "precious").write_bytes(SECRET)
    kind(outside / "there", outside)
    parts.checkpoint("other").symlink_to(outside / "there")
    with Child(lambda _: CheckpointWriter(parts, parts.model.parent).sweep()) as child:
        assert child.wait(20) == 0
    assert len(parts.parts_folders()) == 2
    load_checkpoint(parts.model)


@pytest.mark.long
def test_hostile_checkpoints_beside_parts_are_not_unpacked(parts, trained, tmp_path):
    """Each is looked into for the folder that it needs: nothing runs, and what it claims to hold is not believed."""
    files = [*hostile_files(tmp_path, trained / "m.lmp"), tmp_path / "packed.lmp"]
    with zipfile.ZipFile(trained / "m.lmp") as whole, zipfile.ZipFile(files[-1], "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, bytes(1 << 28) if name.endswith("data.pkl") else whole.read(name))

    def work(report: Callable[[Any], None]) -> None:
        for path in files:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            path.rename(parts.checkpoint("other"))
            CheckpointWriter(parts, parts.model.parent).sweep()
            report((path.name, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))

    with Child(work) as child:
        grown = dict(child.reports(60))
        assert child.wait(20) == 0
    assert len(grown) == len(files)
    assert {name: kib for name, kib in grown.items() if kib > 100 << 10} == {}
    assert not (tmp_path / MARKER).exists()
    assert len(parts.parts_folders()) == 2


def heads(said: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a head may say of its parts that no run has saved."""
    key = next(iter(said["tensors"]))

    def with_tensor(value: Any) -> dict[str, Any]:
        return said | {"tensors": said["tensors"] | {key: value}}

    dtype, shape, pieces = said["tensors"][key]
    rank, byte, first, count, checksum = pieces[0]
    yield "a text", "everywhere"
    yield "no table of tensors", said | {"tensors": [1, 2]}
    yield "another folder", said | {"folder": "../../etc"}
    yield "a path", said | {"folder": str(Path.cwd() / said["folder"])}
    yield "a number for a folder", said | {"folder": 7}
    yield "one more field", said | {"more": 1}
    yield "a tensor less", said | {"tensors": {name: it for name, it in said["tensors"].items() if name != key}}
    yield "another number format", with_tensor(["complex64", shape, pieces])
    yield "half the number format", with_tensor(["int8" if dtype != "int8" else "int16", shape, pieces])
    yield "a negative size", with_tensor([dtype, [-1, *shape[1:]], pieces])
    yield "huge sizes", with_tensor([dtype, [1 << 40, *[1 << 40] * 5], [[rank, byte, 0, 1 << 40, checksum]]])
    yield "no sizes", with_tensor([dtype, [], pieces])
    yield "no rows", with_tensor([dtype, shape, []])
    yield "a size of none", with_tensor([dtype, [0, *shape[1:]], []])
    yield "a size of none, and huge ones", with_tensor([dtype, [0, 1 << 40, 1 << 40], []])
    yield "huge sizes, and one of none", with_tensor([dtype, [1, 1 << 40, 1 << 40, 0], [[rank, byte, 0, 1, checksum]]])
    yield (
        "each tensor with a size of none",
        said | {"tensors": {name: [dtype, [0, 1 << 40, 1 << 40], []] for name in said["tensors"]}},
    )
    yield "rows left out", with_tensor([dtype, shape, pieces[1:]])
    yield "rows twice", with_tensor([dtype, shape, [*pieces, pieces[0]]])
    yield (
        "rows of a byte further on",
        with_tensor([dtype, shape, [[rank, byte + 1, first, count, checksum], *pieces[1:]]]),
    )
    yield "rows beyond the end", with_tensor([dtype, shape, [[rank, 1 << 50, first, count, checksum], *pieces[1:]]])
    yield "a byte before the first", with_tensor([dtype, shape, [[rank, -1, first, count, checksum], *pieces[1:]]])
    yield "a rank that is none", with_tensor([dtype, shape, [[999, byte, first, count, checksum], *pieces[1:]]])
    yield "true for a rank", with_tensor([dtype, shape, [[True, byte, first, count, checksum], *pieces[1:]]])
    yield "a piece cut short", with_tensor([dtype, shape, [[rank, byte]]])
    yield (
        "the same bytes for a thousand tensors",
        said | {"tensors": said["tensors"] | {f"model/{i}": said["tensors"][key] for i in range(1000)}},
    )


def test_what_a_head_says_of_its_parts_is_looked_at_before_anything_is_read(parts, count):
    head = torch.load(parts.model, weights_only=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    number = 0
    for name, said in heads(head["runner"]["state"]["parts"]):
        wrong = copy.deepcopy(head)
        wrong["runner"]["state"]["parts"] = said
        torch.save(wrong, parts.model)
        with pytest.raises(DamagedFileError) as caught:
            load_checkpoint(parts.model)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600, name
        number += 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
    torch.save(head, parts.model)
    load_checkpoint(parts.model)
    count(f"heads that lie about their parts: {number} refused")


def test_no_pickle_in_a_folder_of_parts_is_ever_opened(parts, tmp_path):
    """As torch's other format has one, `.metadata`: it would run what it likes."""
    folder = files_of_newest(parts)[0].parent
    marker = tmp_path / MARKER
    for name in (".metadata", "__0_0.distcp", "model.safetensors.index.json"):
        (folder / name).write_bytes(pickle.dumps(Runs(os.system, f"touch {marker}")))
    assert outcome_of(parts)[0] == "newest"
    assert not marker.exists()
    path = files_of_newest(parts)[-1]
    path.write_bytes(pickle.dumps(Runs(os.system, f"touch {marker}")))
    assert outcome_of(parts)[0] == "previous"
    assert not marker.exists()


# ---- saves that are cut short


def mark(checkpoint: dict[str, Any], step: int) -> dict[str, Any]:
    """Make it the checkpoint of a step: one made of two saves would show it."""
    checkpoint["runner"]["state"]["progress"] |= {"step": step, "best_step": step}
    checkpoint["lr_schedulers"]["state"]["step"] = step
    for tensor in checkpoint["model"]["state"].values():
        tensor.fill_(step)
    return checkpoint


def save(run: RunFolder, checkpoint: dict[str, Any], step: int) -> Outcome:
    saver = CheckpointWriter(run, run.model.parent / "statistics")
    request = SaveRequest(step, step, "stories", "interval", keep=2, is_best=True)
    saver.start(lambda: in_parts(mark(checkpoint, step), run), request)
    outcome = saver.wait()
    assert outcome is not None
    return outcome


def check_whole(run: RunFolder, *steps: int) -> int:
    """The newest checkpoint is whole and of one of these steps, which is returned; the one before is of its own."""
    found = newest_checkpoint(run, pytest.fail)
    assert found is not None
    step = found[0]["runner"]["state"]["progress"]["step"]
    assert step in steps
    for held in (found[0], load_checkpoint(run.checkpoint("prev"))):
        own = held["runner"]["state"]["progress"]["step"]
        assert all(bool((tensor == own).all()) for tensor in held["model"]["state"].values()), "a mixture of saves"
    return step


def named(run: RunFolder) -> list[Path]:
    """The folders that its checkpoints name."""
    heads = [torch.load(path, weights_only=True) for path in run.model.parent.glob("*.lmp")]
    return sorted({run.model.parent / head["runner"]["state"]["parts"]["folder"] for head in heads})


@pytest.mark.long
def test_each_system_call_of_a_save_in_parts_failing(run, count):
    """Whatever fails: the run has a whole checkpoint that is no older, no half folder, and the next save works."""
    checkpoint = load_checkpoint(run.model)
    for path in run.model.parent.glob("*.lmp"):
        path.unlink()
    for step in (97, 98, 99):
        assert not save(run, checkpoint, step).problems
    with Calls().watching() as calls:
        save(run, checkpoint, 100)
    refused, step = 0, 100
    tried = range(1, len(calls.made) + 1, 3)
    for n in tried:
        with Calls(fail_at=n).watching() as calls:
            outcome = save(run, checkpoint, step + 1)
        assert all("\n" not in problem for problem in outcome.problems)
        step = check_whole(run, *((step, step + 1) if outcome.saved is None else (step + 1,)))
        refused += outcome.saved is None
        assert not save(run, checkpoint, step + 1).problems, calls.failed
        step += 1
        assert run.parts_folders() == named(run), calls.failed
    count(f"system calls of a save in parts failing in turn: {len(tried)}, {refused} saves refused, 0 half folders")
    assert refused > len(tried) / 4


@pytest.mark.long
def test_kill_9_at_each_system_call_of_a_save_in_parts(run, count):
    """The next start finds a whole checkpoint, and removes what belongs to none."""
    checkpoint = load_checkpoint(run.model)
    for path in run.model.parent.glob("*.lmp"):
        path.unlink()
    for step in (98, 99):
        save(run, checkpoint, step)
    with Calls().watching() as calls:
        save(run, checkpoint, 100)
    step, half = 100, 0
    tried = range(1, len(calls.made) + 1, 3)
    for n in tried:
        with Child(partial(die_at, n, partial(save, run, checkpoint, step + 1))) as child:
            assert child.wait() == -signal.SIGKILL
        half += run.parts_folders() != named(run)
        step = check_whole(run, step, step + 1)
        CheckpointWriter(run, run.model.parent / "statistics").sweep()
        assert run.parts_folders() == named(run), calls.made[n - 1]
    count(f"kill -9 at each of {len(tried)} system calls of a save in parts: 0 unreadable, {half} half folders removed")
    assert half


def test_a_part_of_another_rank_that_is_not_written_costs_the_save(parts):
    before = {path: path.read_bytes() for path in (parts.model, parts.checkpoint("prev"))}
    folders = set(parts.parts_folders())
    head = in_parts(load_checkpoint(parts.model), parts, problem=OSError(5, "rank 2: disk full"))
    with pytest.raises(SaveError, match="rank 2: disk full"):
        write_checkpoint(head, parts.model, previous=parts.checkpoint("prev"))
    assert {path: path.read_bytes() for path in before} == before
    assert set(parts.parts_folders()) == folders


def test_a_part_that_rank_0_does_not_see_costs_the_save(parts):
    """As on machines that do not share a disk."""
    folders = set(parts.parts_folders())
    head = in_parts(load_checkpoint(parts.model), parts)
    (folder,) = set(parts.parts_folders()) - folders

    def move_away(real: Callable[..., Any], *given_: Any) -> Any:
        (folder / "shard-00003-model-00001-of-00001.safetensors").unlink()
        return real(*given_)

    with for_a_while() as seams:
        seams.around("look for the parts", move_away)
        with pytest.raises(SaveError, match="all machines must see the run's folder; else use --shard-save file"):
            write_checkpoint(head, parts.model)
    assert set(parts.parts_folders()) == folders


ACT_AT = {2: SaveNow, 4: SaveNow, 6: SaveNow, 8: Stop}


def save_and_stop(event: Event, controls: Controls) -> None:
    if isinstance(event, StepDone) and event.step in ACT_AT:
        controls.send(ACT_AT[event.step]())


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options of a small run by several processes that saves in parts."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)
    text = TINY + 'batch_size = 4\n[stages.pairs]\ndataset = "pairs.jsonl"\nepochs = 3\n'
    return {"training_plan": write_plan(tmp_path, text), "model": "m.lmp", "shard": "full", "shard_save": "folder"}


@pytest.mark.long
@needs_sums
def test_a_rank_whose_disk_is_full_costs_the_save_and_nothing_else(options, seams: Seams):
    """Told once; the next save works, and no half folder is left."""
    seen = 0

    def write(real: Callable[..., Any], *given_: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen != 2:
            return real(*given_)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            return real(*given_)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    seams.around("write a part", write)
    events = train_together(2, given(**options), act=save_and_stop, timeout_s=30.0)
    assert isinstance(last(events), RunStopped), last(events)
    (warned,) = of(Warned, events)
    assert warned.message.startswith("m.lmp: not saved: rank 1: disk full")
    assert "training goes on, the next save tries again" in warned.message
    assert [saved.step for saved in of(CheckpointSaved, events)] == [2, 6, 8]
    run = RunFolder(Path("m.lmp"))
    assert len(run.parts_folders()) == 2
    load_checkpoint(run.model)
    load_checkpoint(run.checkpoint("prev"))


@pytest.mark.long
@needs_sums
def test_a_rank_that_is_killed_while_it_writes_leaves_the_checkpoint_before(options, seams: Seams):
    """Kill -9 with half of its part written; the next start finds step 2's checkpoint, and removes the rest."""
    seen = 0

    def write(real: Callable[..., Any], folder: Path, rank: int, own: Any) -> Any:
        nonlocal seen
        seen += 1
        written = real(folder, rank, own)
        if seen == 2:
            path = next(each for each in folder.iterdir() if f"{rank + 1:05d}-model" in each.name)
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    seams.around("write a part", write)

    def work(group: ProcessGroup) -> Any:
        if group.rank:
            return follow(group)
        controls, events = Controls(), list[Event]()
        for event in run_events(given(**options), controls, events.append, group):
            events.append(event)
            save_and_stop(event, controls)
        return events

    events = together(2, work, timeout_s=10.0)[0]
    assert isinstance(last(events), RunFailed), last(events)
    run = RunFolder(Path("m.lmp"))
    found = newest_checkpoint(run, pytest.fail)
    assert found is not None and found[1] == run.model
    assert found[0]["runner"]["state"]["progress"]["step"] == 2
    CheckpointWriter(run, Path()).sweep()
    assert len(run.parts_folders()) == 1
    load_checkpoint(run.model)
