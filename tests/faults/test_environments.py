"""Where a run lives: locales, time zones, folders that cannot be written, links, memory that is limited."""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import RunDone, RunFailed, StepDone, Warned
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.checkpoint import load_checkpoint
from lmplay_tui.train.launch import run_events
from tests.faults.forks import Child
from tests.faults.terminals import ENDS_WITHIN_S, until
from tests.journals import read_journal
from tests.train.runs import PLAN, differences, given, last, state_of, statistics_of, stop_after, train, write_plan

LANGUAGES = {"title": "Über Wörter", "text": "Die Mühle stand am Fluß. 磨坊在河边。 Кто там? Niemand war da 🙂."}


def program(*words: str, **environment: str) -> subprocess.Popen[bytes]:
    """The trainer as a process of its own, with nothing of this one's locale."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON", "TZ"))}
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-m", "lmplay_tui.cli", "--headless", "--device", "cpu", "--mini-batch-size", "2", *words],
        env=kept | path | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.long
def test_locale_and_time_zone_change_no_byte(place):
    """LC_ALL=C without Python's own remedies, on the other side of the date line."""
    with (place / "stories.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(LANGUAGES, ensure_ascii=False) + "\n" for _ in range(5))
    write_plan(place, "# Wörter, 词, слова\n" + PLAN)
    hard = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "TZ": "Pacific/Apia"}
    runs = {
        name: program("--training-plan", "plan.toml", "--model", f"{name}/m.lmp", "--out-dir", name, **environment)
        for name, environment in {"plain": {"LC_ALL": "C.UTF-8", "TZ": "UTC"}, "hard": hard}.items()
    }
    for process in runs.values():
        said = process.communicate(timeout=ENDS_WITHIN_S)[0]
        assert process.returncode == 0, said
    assert not list(differences(state_of(place / "plain/m.lmp"), state_of(place / "hard/m.lmp")))
    assert statistics_of(place / "plain") == statistics_of(place / "hard")
    for name in ("plan.toml", "predictions.jsonl"):
        plain, hard_ = ((place / run / "m.run" / name).read_text("utf-8") for run in runs)
        assert without_times(plain) == without_times(hard_), name
    assert all(e["time"].endswith("Z") for e in read_journal(place / "hard/m.run/events.jsonl") if "time" in e)


def without_times(text: str) -> list[str]:
    return [line.partition('"step"')[2] or line for line in text.splitlines()]


@pytest.fixture
def of_nobody(place: Path) -> Iterator[Path]:
    """A folder in which this process may not write, and a copy of the data beside it; as root we become nobody."""
    folder = Path(tempfile.mkdtemp(prefix="lmplay-places-"))
    folder.chmod(0o755)
    for path in place.glob("*.jsonl"):
        shutil.copyfile(path, folder / path.name)
    write_plan(folder)
    (folder / "out").mkdir()
    (folder / "out").chmod(0o555)
    yield folder
    (folder / "out").chmod(0o755)
    shutil.rmtree(folder)


def as_nobody(folder: Path, report, **options) -> None:
    os.chdir(folder)
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    report(last(train(training_plan="plan.toml", **options)))


def test_a_folder_that_may_not_be_written(of_nobody):
    """One line, and nothing anywhere."""
    before = sorted(of_nobody.rglob("*"))
    with Child(lambda report: as_nobody(of_nobody, report, model="out/m.lmp")) as child:
        [end] = child.reports()
    assert isinstance(end, RunFailed)
    assert end.exit_code == 2
    assert "out/m.run: the run's folder cannot be made (Permission denied)" in end.message
    assert sorted(of_nobody.rglob("*")) == before


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(of_nobody, place):
    stop_after(2, training_plan=write_plan(place), model=str(of_nobody / "m.lmp"))
    (of_nobody / "m.lmp").chmod(0)
    of_nobody.chmod(0o777)
    for path in (of_nobody / "m.run", of_nobody / "m.run/control"):
        path.chmod(0o777)
    for path in (of_nobody / "m.run").iterdir():
        path.chmod(0o777)
    with Child(lambda report: as_nobody(of_nobody, report, model="m.lmp")) as child:
        [end] = child.reports()
    assert isinstance(end, RunFailed)
    assert "m.lmp: cannot be read (permission denied)" in end.message
    assert not (of_nobody / "m.damaged.lmp").exists()
    (of_nobody / "m.lmp").chmod(0o644)
    assert load_checkpoint(of_nobody / "m.lmp")


@pytest.mark.parametrize("name", ["m.lmp", ".m.lmp.tmp", "m.prev.lmp", "m.stories.lmp", "m.best.lmp"])
@pytest.mark.long_after(1)
def test_a_link_is_replaced_and_what_it_leads_to_stays(place, name):
    """A link lies in the place of one of our files: nothing is written where it leads."""
    (place / "elsewhere").mkdir()
    target = place / "elsewhere" / "precious"
    plan = write_plan(place)
    stop_after(2, training_plan=plan, model="m.lmp")
    if name == "m.lmp":  # a user may keep it elsewhere
        Path("m.lmp").rename(target)
    else:
        target.write_bytes(b"precious")
        Path(name).unlink(missing_ok=True)
    before = target.read_bytes()
    Path(name).symlink_to(target)
    assert isinstance(last(train(model="m.lmp", save_interval=6)), RunDone)
    assert target.read_bytes() == before
    assert not Path("m.lmp").is_symlink()


def test_a_planted_link_is_not_written_through(place):
    """Planted while the run trains, where the next save is going to be written."""
    plan = write_plan(place)
    target = place / "precious"
    target.write_bytes(b"precious")
    for event in run_events(given(training_plan=plan, model="m.lmp", save_interval=6), Controls()):
        temporary = place / ".m.lmp.tmp"
        if isinstance(event, StepDone):
            with contextlib.suppress(FileExistsError):  # a save is just being written
                temporary.symlink_to(target)
    assert isinstance(event, RunDone)
    assert target.read_bytes() == b"precious"


def test_a_plans_text_that_cannot_be_written(place):
    """The plan's text cannot be written: that is said, and the run trains."""
    plan = write_plan(place)
    run = RunFolder(place / "m.lmp")
    run.create()
    run.plan.mkdir()
    events = train(training_plan=plan, model="m.lmp")
    assert isinstance(last(events), RunDone)
    assert [e for e in events if isinstance(e, Warned) and "plan.toml: cannot be written" in e.message]


LARGE = """\
[train]
exp = "test_runner"
num_blocks = 2
embed_dim = 256
num_heads = 4
context_len = 512
tokenizer = "bytes"
batch_size = 48
validation_interval = 100000
eval_interval = 100000
eval_samples = 2
[stages.stories]
dataset = "stories.jsonl"
epochs = 0.3
"""


def with_little_memory(plan: str, more_bytes: int, report) -> None:
    """Train with an address space that may grow by so much, in a process that has nothing free within it."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    taken = _all_that_is_free()  # the tests before may have left more than a run needs
    resource.setrlimit(resource.RLIMIT_AS, (limit + more_bytes, resource.RLIM_INFINITY))
    model = f"m{more_bytes >> 20}.lmp"
    for event in run_events(given(training_plan=plan, model=model, mini_batch_size=48), Controls()):
        if isinstance(event, Warned | RunDone | RunFailed):
            report(event)
    del taken  # held until here


def _all_that_is_free() -> list[torch.Tensor]:
    """What the process can still have without growing, in pieces as large as there are."""
    taken, size = [], 1 << 28
    while size >= 1 << 20:
        try:
            taken.append(torch.empty(size, dtype=torch.uint8))
        except RuntimeError:
            size //= 2
    return taken


@pytest.mark.long
def test_memory_that_really_lacks(place, count):
    """RLIMIT_AS: torch's own allocator refuses; the mini-batch is halved, and where nothing helps it ends in order."""
    plan = write_plan(place, LARGE)
    rows = [json.dumps({"title": f"S{i}", "text": "The mill stood by the river. " * 60}) for i in range(40)]
    (place / "stories.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    said: list[str] = []
    ends = {}
    # What loading takes differs by machine, and by what the process has done before.
    for megabytes in (1000, 700, 450, 300, 200, 130, 90, 60):
        with Child(partial(with_little_memory, plan, megabytes << 20)) as child:
            events = list(child.reports())
            assert child.wait() == 0
        end = ends[megabytes] = last(events)
        said = [e.message for e in events if isinstance(e, Warned) and "out of memory" in e.message]
        if said:
            break
    assert said, ends
    assert "out of memory with mini-batches of " in said[0]
    assert "\n" not in "".join(said)
    if isinstance(end, RunFailed):
        assert end.exit_code == 3, end.message
        assert "\n" not in end.message
        if end.path is not None:
            assert load_checkpoint(Path(end.path))["runner"]["state"]["progress"]["step"] == end.step
    count(f"memory limited for real: {len(said)} times less at a time, then {type(end).__name__}")


@pytest.fixture
def silent_hub(socket_enabled) -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.long
def test_a_stop_while_a_real_hub_is_silent(place, silent_hub):
    """The process ends in order, soon, though a thread of it waits for the server for ever."""
    write_plan(place, PLAN.replace('dataset = "stories.jsonl"', 'dataset = "owner/name"'))
    process = program(
        "--training-plan", "plan.toml", "--model", "m.lmp", HF_ENDPOINT=silent_hub, HF_HUB_OFFLINE="0",
        HF_HOME=str(place / "cache"), HF_HUB_DOWNLOAD_TIMEOUT="600", HF_HUB_ETAG_TIMEOUT="600",
    )  # fmt: skip
    run = RunFolder(place / "m.lmp")
    try:
        until(lambda: run.status().get("activity") == "downloading")
        time.sleep(1.0)  # in the midst of it, or not quite
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=ENDS_WITHIN_S)[0]
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert b"stopped before the first step" in said
    assert not run.model.exists()
