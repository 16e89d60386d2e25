"""Checkpoints that are cut, altered, hostile or of another time: found out, set aside, never believed."""

import io
import os
import pickle
import random
import resource
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lmplay_tui.errors import DamagedFileError
from lmplay_tui.run.events import RunDone, RunFailed, Warned
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.checkpoint import load_archive, load_checkpoint, newest_checkpoint
from tests.seams import for_a_while
from tests.train.runs import differences, last, state_of, stop_after, train, write_plan


def outcome_of(run: RunFolder) -> tuple[str, dict[str, Any]]:
    """Load the run's newest checkpoint; what was used: `newest` or `previous`."""
    warnings: list[str] = []
    found = newest_checkpoint(run, warnings.append)
    assert found is not None
    checkpoint, path = found
    if path == run.model:
        assert not warnings
        return "newest", checkpoint
    assert path == run.checkpoint("prev")
    assert len(warnings) == 1
    assert "set aside" in warnings[0]
    assert "\n" not in warnings[0]
    assert run.checkpoint("damaged").exists()
    assert not run.model.exists()
    return "previous", checkpoint


def check_truncations(run: RunFolder, lengths: list[int], count) -> None:
    data = run.model.read_bytes()
    previous = load_checkpoint(run.checkpoint("prev"))
    for length in lengths:
        run.model.write_bytes(data[:length])
        used, checkpoint = outcome_of(run)
        assert used == "previous", length
        assert run.checkpoint("damaged").stat().st_size == length
        assert not list(differences(checkpoint, previous))
    count(f"truncations: {len(lengths)}, all fall back")


def cuts(size: int, number: int) -> list[int]:
    dice = random.Random(2)
    return [0, 1, size // 2, size - 1, *(dice.randrange(size) for _ in range(number))]


def test_truncated(run, count):
    check_truncations(run, cuts(run.model.stat().st_size, 16), count)


@pytest.mark.slow
def test_truncated_300(run, count):
    check_truncations(run, cuts(run.model.stat().st_size, 300), count)


def flipped(data: bytes, dice: random.Random) -> bytes:
    """One bit the other way; one time in ten a block of zeros instead."""
    altered = bytearray(data)
    if dice.random() < 0.1:
        begin = dice.randrange(len(data))
        altered[begin : begin + 4096] = bytes(len(altered[begin : begin + 4096]))
    else:
        altered[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(altered)


def check_flips(run: RunFolder, times: int, count) -> None:
    dice = random.Random(3)
    data = run.model.read_bytes()
    newest, previous = load_checkpoint(run.model), load_checkpoint(run.checkpoint("prev"))
    seen = {"newest": 0, "previous": 0}
    for _ in range(times):
        run.model.write_bytes(flipped(data, dice))
        used, checkpoint = outcome_of(run)
        seen[used] += 1
        assert not list(differences(checkpoint, newest if used == "newest" else previous)), "a silent difference"
    count(f"bits flipped: {times}, {seen['previous']} found, {seen['newest']} without effect, 0 silent")
    # What lies between the archive's parts, to align them, is part of nothing: nearly all other bits are found.
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        covered = sum(member.file_size for member in archive.infolist()) / len(data)
    assert seen["previous"] > 0.9 * covered * times


def test_flipped_bits(run, count):
    check_flips(run, 60, count)


@pytest.mark.slow
def test_flipped_bits_5000(run, count):
    check_flips(run, 5000, count)


def headers(data: bytes) -> Iterator[int]:
    """Where the bytes lie that no checksum covers: the directory at the archive's end, and the end's own record."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        yield from range(archive.start_dir, len(data))


def entry_of(data: bytes, name: str) -> int:
    """Where the directory's entry of a part begins."""
    return data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))


@pytest.mark.parametrize("name", ["data.pkl", "data/0", "byteorder"])
def test_a_part_that_claims_to_be_a_folder(run, name):
    """One flipped bit of the archive's directory: torch reads nothing where numbers were, and says nothing."""
    data = bytearray(run.model.read_bytes())
    data[entry_of(bytes(data), f"archive/{name}") + 38] ^= 0x10
    run.model.write_bytes(data)
    assert outcome_of(run)[0] == "previous"


def check_headers(run: RunFolder, places: list[int], count) -> None:
    data, newest = run.model.read_bytes(), load_checkpoint(run.model)
    found = 0
    for place in places:
        for bit in range(8):
            altered = bytearray(data)
            altered[place] ^= 1 << bit
            run.model.write_bytes(altered)
            try:
                checkpoint = load_checkpoint(run.model)
            except DamagedFileError:
                found += 1
            else:
                assert not list(differences(checkpoint, newest)), f"a silent difference: byte {place}, bit {bit}"
    count(f"every bit of {len(places)} bytes of headers flipped: {found} of {8 * len(places)} found, 0 silent")


@pytest.mark.long
def test_flipped_bits_of_headers(run, count):
    """All of one entry of the directory."""
    begin = entry_of(run.model.read_bytes(), "archive/data/1")
    check_headers(run, list(range(begin + 6, begin + 46)), count)


@pytest.mark.slow
def test_flipped_bits_of_all_headers(run, count):
    """Each byte of the directory's first entries, of its last ones and of what ends the file."""
    places = list(headers(run.model.read_bytes()))
    check_headers(run, places[:400] + places[-400:], count)


def test_both_damaged_is_one_line_and_nothing_is_touched(run):
    for path in (run.model, run.checkpoint("prev")):
        path.write_bytes(path.read_bytes()[:1000])
    before = {path.name: path.read_bytes() for path in run.model.parent.glob("*.lmp")}
    with pytest.raises(DamagedFileError, match="no earlier checkpoint can be used") as caught:
        newest_checkpoint(run, pytest.fail)
    assert "\n" not in str(caught.value)
    assert before == {path.name: path.read_bytes() for path in run.model.parent.glob("*.lmp")}


def test_only_the_previous_one_is_there(run):
    """A kill cannot leave this, a person can."""
    run.model.unlink()
    warnings: list[str] = []
    found = newest_checkpoint(run, warnings.append)
    assert found is not None
    assert found[1] == run.checkpoint("prev")
    assert warnings


@pytest.mark.long
def test_a_damaged_run_trains_on_to_the_same_end(place):
    plan = write_plan(place)
    train(training_plan=plan, model="whole/m.lmp", save_interval=9)
    stop_after(4, training_plan=plan, model="m.lmp", save_interval=9)
    stop_after(7, model="m.lmp", save_interval=9)
    data = Path("m.lmp").read_bytes()
    Path("m.lmp").write_bytes(data[: len(data) // 2])
    events = train(model="m.lmp", save_interval=9)
    assert isinstance(last(events), RunDone)
    assert [e for e in events if isinstance(e, Warned) and "m.damaged.lmp" in e.message]
    assert not list(differences(state_of(Path("whole/m.lmp")), state_of(Path("m.lmp"))))


# ---------------------------------------------------------------------------- hostile files

MARKER = "lmplay-was-here"


class Runs:
    """A pickle of this runs a command on loading."""

    def __init__(self, function, *arguments) -> None:
        self._call = (function, arguments)

    def __reduce__(self):
        return self._call


def archive_of(value, path: Path) -> None:
    torch.save(value, path)


def with_pickle(source: Path, path: Path, data: bytes, *, claim: int | None = None) -> None:
    """A copy of the archive with other pickle bytes; `claim`: the size that its directory pretends for a tensor."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, data if member.filename.endswith("data.pkl") else old.read(member))
    if claim is not None:
        raw = bytearray(path.read_bytes())
        at = raw.rindex(b"PK\x01\x02")
        raw[at + 24 : at + 28] = claim.to_bytes(4, "little")
        path.write_bytes(raw)


def hostile_files(folder: Path, whole: Path) -> list[Path]:
    """Files that would run something, or eat the memory, or lie."""
    marker = str(folder / MARKER)
    checkpoint = load_checkpoint(whole)
    values = {
        "system": Runs(os.system, f"touch {marker}"),
        "open": Runs(open, marker, "w"),
        "exec": Runs(exec, f"open({marker!r}, 'w')"),
        "eval": Runs(eval, f"open({marker!r}, 'w')"),
        "in-state": checkpoint | {"runner": {"state_args": {}, "state": Runs(os.system, f"touch {marker}")}},
        "as-key": {Runs(os.system, f"touch {marker}"): 1},
        "module": torch.nn.Linear(2, 2),
        "list": [1, 2, 3],
        "no-runner": {name: part for name, part in checkpoint.items() if name != "runner"},
        "text-position": with_state(checkpoint, progress="everywhere"),
        "odd-position": with_state(checkpoint, progress={"stages": {"a": {"position": 3}}}),
        "no-generators": with_state(checkpoint, rng=None),
        "weights-of-text": checkpoint | {"model": {**checkpoint["model"], "state": {"weight": "heavy"}}},
    }
    made = []
    for name, value in values.items():
        made.append(folder / f"{name}.lmp")
        archive_of(value, made[-1])
    raw = {
        "global": b"cposix\nsystem\n(S'touch " + marker.encode() + b"'\ntR.",
        "endless-list": b"\x80\x02" + b"]" + b"(" * 200_000 + b".",
        "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        # As keys, which are hashed: tuples that double 40 times, and ones nested so deep that it ends the process.
        "doubling-key": b"\x80\x02})" + b"q\x00h\x00\x86" * 40 + b"K\x01s.",
        "tripling-keys": b"\x80\x02}()" + b"q\x00h\x00h\x00\x87" * 30 + b"K\x01K\x02K\x03u.",
        "deep-key": b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.",
        "many-marks": b"\x80\x02" + b"N" * 300_000 + b"(t" * 30_000 + b".",
        "marked-keys": b"\x80\x02})" + b"q\x00(h\x00h\x00t" * 40 + b"K\x01s.",
        "huge-bytes": b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b".",
        "not-a-pickle": b"hello",
        "empty": b"",
    }
    for name, data in raw.items():
        made.append(folder / f"{name}.lmp")
        with_pickle(whole, made[-1], data)
    made.append(folder / "claims-4-GB.lmp")
    with_pickle(whole, made[-1], pickle.dumps({}, 2), claim=0xFFFFFFF0)
    made.append(folder / "bomb.lmp")
    with zipfile.ZipFile(made[-1], "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(1 << 28))
    made.append(folder / "plain-pickle.lmp")
    made[-1].write_bytes(pickle.dumps(Runs(os.system, f"touch {marker}")))
    made.append(folder / "text.lmp")
    made[-1].write_text("hello", encoding="utf-8")
    made.append(folder / "old-torch.lmp")
    torch.save(Runs(os.system, f"touch {marker}"), made[-1], _use_new_zipfile_serialization=False)
    return made


def with_state(checkpoint, **state):
    return checkpoint | {"runner": {**checkpoint["runner"], "state": {**checkpoint["runner"]["state"], **state}}}


def test_hostile_files_are_refused_and_nothing_runs(run, tmp_path, count):
    files = hostile_files(tmp_path, run.model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slowest = 0.0
    for path in files:
        begun = time.process_time()
        with pytest.raises(DamagedFileError) as caught:
            load_checkpoint(path)
        slowest = max(slowest, time.process_time() - begun)
        assert "\n" not in str(caught.value), path.name
        assert path.name in str(caught.value)
        assert not (tmp_path / MARKER).exists(), path.name
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    count(f"hostile checkpoints: {len(files)} refused, nothing ran, slowest {slowest:.2f} s, {grown:.0f} MB more")
    assert slowest < 2
    assert grown < 200


def test_a_hostile_checkpoint_falls_back(run, tmp_path):
    shutil.copyfile(next(p for p in hostile_files(tmp_path, run.model) if p.name == "system.lmp"), run.model)
    assert outcome_of(run)[0] == "previous"
    assert not (tmp_path / MARKER).exists()


def test_a_stretched_tensor_meets_the_shapes_of_the_model(run, place):
    """A view of one number that claims to be large costs nothing until it is copied: it is larger than its bytes."""
    run.checkpoint("prev").unlink()
    checkpoint = load_checkpoint(run.model)
    weights = checkpoint["model"]["state"]
    name = next(name for name in weights if weights[name].dim() == 2)
    weights[name] = torch.zeros(1).expand(10**7, 10**5)
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    Path("m.lmp").write_bytes(buffer.getvalue())
    end = last(train(model="m.lmp"))
    assert isinstance(end, RunFailed)
    assert end.exit_code == 2
    assert name in end.message


# ---------------------------------------------------------------------------- what is written

ALLOWED = (int, float, bool, str, type(None))


def foreign(value, path: str = ""):
    """Places in a tree that hold anything but plain values and tensors (exactly: no numpy scalar, no subclass)."""
    if type(value) in ALLOWED or isinstance(value, torch.Tensor):
        return
    if type(value) is dict:
        for key, item in value.items():
            if type(key) not in (str, int):
                yield f"{path}: key {key!r}"
            yield from foreign(item, f"{path}/{key}")
    elif type(value) in (list, tuple):
        for i, item in enumerate(value):
            yield from foreign(item, f"{path}/{i}")
    elif type(value).__name__ != "OrderedDict" or path != "/model/state":
        yield f"{path}: {type(value)}"


def test_only_plain_values_and_tensors_are_saved(place):
    """As the state is before it is written: what torch happens to load today it may refuse tomorrow."""
    seen = []
    with for_a_while() as seams:
        seams.watch("write a checkpoint", lambda checkpoint, *_, **__: seen.append(list(foreign(checkpoint))))
        train(training_plan=write_plan(place), model="m.lmp", save_interval=9)
    assert len(seen) > 3
    assert not [place for places in seen for place in places]


def test_the_document_reads_a_checkpoint_as_it_says(run):
    """The user's own example, `weights_only` or not: keys, components, figures."""
    for weights_only in (True, False):
        checkpoint = torch.load(run.model, weights_only=weights_only)
        assert list(checkpoint) == ["curriculum", "model", "runner", "optimizers", "lr_schedulers"]
        assert all(set(part) == {"state_args", "state"} for part in checkpoint.values())
        stats = checkpoint["runner"]["state"]["stats"]
        assert stats["total_train_samples"] > 0
        assert stats["train_loss_total"] > 0
        assert checkpoint["runner"]["state"]["step_stats"]["stories"]["total_train_samples"] > 0


@pytest.mark.parametrize("number", [0, 2, 99, "1", None])
def test_another_format_is_named(run, number):
    checkpoint = load_checkpoint(run.model)
    torch.save(with_state(checkpoint, format=number), run.model)
    with pytest.raises(DamagedFileError, match=rf"format {number}, this version reads 1"):
        load_checkpoint(run.model)
    assert load_archive(run.model)["model"]["state"]
