"""A run's tags, its other name, the trash: all that belongs to it goes together, whatever stops in between."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Set
from pathlib import Path

import pytest

from lmplay_tui.errors import UserError
from lmplay_tui.run.folder import RunFolder, list_runs, status_of, take_run
from lmplay_tui.run.statistics import StatisticsFile, read_statistics, statistics_path, write_statistics
from lmplay_tui.run.upkeep import About, about, remove, rename, set_about
from tests.faults.forks import Child

CHECKPOINTS = ("", ".prev", ".best", ".stories", ".step-00000003")
CHANGES = {"os.link", "os.rename", "os.remove", "os.mkdir", "open"}


IN_MOTION = ("lock", "run.json", "renaming.json")


def write_run(folder: Path, name: str = "m", stages: tuple[str | None, ...] = (None, "stories")) -> RunFolder:
    """A run with all that one may have, each file with words of its own."""
    run = RunFolder(folder / f"{name}.lmp")
    run.create()
    for kind in CHECKPOINTS:
        (folder / f"{name}{kind}.lmp").write_text(f"weights {name}{kind}", encoding="utf-8")
    for stage in stages:
        path = statistics_path(folder, name, stage, "train")
        write_statistics(path, StatisticsFile(name, stage, "train", [[1, 0.5, 2.0, 3]], {}, {"total": 7.0}))
        path.with_suffix(".png").write_bytes(b"picture")
    (run.past / "2026").mkdir(parents=True)
    (run.past / "2026" / f"{name}.lmp").write_text("weights of before", encoding="utf-8")
    run.events.write_text("{}\n", encoding="utf-8")
    saved = f"{folder.name}/{name}.lmp"
    command = f"lmp_trainer --model {saved} --on-done 'echo {name}.lmpx'"
    run.write_status({"name": name, "state": "stopped", "step": 3, "command": command, "checkpoint": {"path": saved}})
    set_about(run, About(("short",), "the first"))
    return run


def held(folder: Path) -> dict[str, str]:
    """What lies in a folder, by relative path; a run's lock and status, which change, left out."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in IN_MOTION]
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in files}


def renamed(files: dict[str, str], old: str, new: str) -> dict[str, str]:
    return {
        path.replace(old, new, 1): text.replace(f'"name":"{old}"', f'"name":"{new}"') for path, text in files.items()
    }


def test_all_that_belongs_to_a_run_is_renamed_and_nothing_else(tmp_path: Path) -> None:
    other = write_run(tmp_path, "m_step_more", (None,))  # its statistics are called like those of a stage of m
    others = held(tmp_path)
    run = write_run(tmp_path)
    own = {path: text for path, text in held(tmp_path).items() if path not in others}
    new = rename(run, "later", tmp_path)
    assert held(tmp_path) == others | renamed(own, "m", "later")
    assert [each.name for each in list_runs(tmp_path)] == ["later", other.name]
    said = new.status()
    assert (said["name"], said["checkpoint"]) == ("later", {"path": f"{tmp_path.name}/later.lmp"})
    assert said["command"] == f"lmp_trainer --model {tmp_path.name}/later.lmp --on-done 'echo m.lmpx'"
    assert status_of(new)["step"] == 3 and about(new) == About(("short",), "the first")
    assert not new.alive() and not run.folder.exists()


def test_a_name_may_change_in_its_case_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    if (tmp_path / "M.LMP").exists():
        pytest.skip("a disk that takes both for one name: there it is refused")
    before = held(tmp_path)
    rename(run, "M", tmp_path)
    assert held(tmp_path) == {
        path.replace("m", "M", 1): text.replace('"name":"m"', '"name":"M"') for path, text in before.items()
    }
    write_run(tmp_path, "later")
    with pytest.raises(UserError, match="there is a run of that name"):
        rename(RunFolder(tmp_path / "M.lmp"), "LATER", tmp_path)


@pytest.mark.parametrize("word", ["prev", "a b", "", "../x", "a.b", "x" * 41, "m"])
def test_what_is_no_new_name(tmp_path: Path, word: str) -> None:
    run = write_run(tmp_path)
    before = held(tmp_path)
    with pytest.raises(UserError, match=r"(is no model name|it is called so already)"):
        rename(run, word, tmp_path)
    assert held(tmp_path) == before


@pytest.mark.parametrize(
    "what", ["later.lmp", "later.run/events.jsonl", "later.past/x", "later_train_stats.json", "LATER.lmp"]
)
def test_another_runs_name_is_refused(tmp_path: Path, what: str) -> None:
    run = write_run(tmp_path)
    (tmp_path / what).parent.mkdir(exist_ok=True)
    (tmp_path / what).write_text("another's", encoding="utf-8")
    before = held(tmp_path)
    with pytest.raises(UserError, match="there is a run of that name"):
        rename(run, "later", tmp_path)
    assert held(tmp_path) == before


def stopped_at(number: int, work, changes: Set[str] = frozenset(CHANGES)) -> bool:
    """Do the work in a process that is killed at its `number`-th such change to the disk; whether it came that far."""

    def run(report) -> None:
        seen = 0

        def hook(event: str, arguments: tuple) -> None:
            nonlocal seen
            if event in changes and not (event == "open" and not (arguments[2] & (os.O_CREAT | os.O_TRUNC))):
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()

    with Child(run) as child:
        return child.wait() != 0


@pytest.mark.long
@pytest.mark.parametrize("links", [True, False])
def test_a_rename_that_is_killed_anywhere_loses_nothing_and_is_completed(tmp_path: Path, count, links: bool) -> None:
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        run = write_run(folder)
        whole = held(folder)

        def work(run: RunFolder = run, folder: Path = folder) -> None:
            if not links:  # as on a file system without them
                os.link = _refused
            rename(run, "later", folder)

        was_killed = stopped_at(number, work)
        left = set(held(folder).values())
        for path, text in whole.items():
            assert text in left or renamed({path: text}, "m", "later").popitem()[1] in left, (number, path)
        if not was_killed:
            break
        runs = [each for each in list_runs(folder) if each.name in ("m", "later")]
        assert len(runs) == 1, number
        if runs[0].name == "m":
            rename(runs[0], "later", folder)
        else:
            rename(RunFolder(folder / "m.lmp"), "later", folder)
        assert {path: text for path, text in held(folder).items() if ".tmp" not in path} == renamed(whole, "m", "later")
    count(f"a rename killed at each of its {number - 1} changes to the disk: nothing lost, completed by the next one")
    assert number > 15


SAID = '{"from": "m", "to": "later"}'


def planted_in_the_other_folder(folder: Path) -> None:
    write_run(folder)
    (folder / "later.run").mkdir()
    (folder / "later.run" / "renaming.json").write_text(SAID, encoding="utf-8")


def planted_and_no_folder_of_its_own(folder: Path) -> None:
    planted_in_the_other_folder(folder)
    shutil.rmtree(folder / "m.run")
    shutil.rmtree(folder / "m.past")


def planted_beside_another_run(folder: Path) -> None:
    planted_and_no_folder_of_its_own(folder)
    (folder / "later.run" / "renaming.json").unlink()
    write_run(folder, "later")
    (folder / "later.run" / "renaming.json").write_text(SAID, encoding="utf-8")


def planted_beside(*names: str) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        run = write_run(folder)
        (run.folder / "renaming.json").write_text(SAID, encoding="utf-8")
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("another's", encoding="utf-8")

    return plant


def trained_since(change: str, number: int) -> Callable[[Path], None]:
    """A rename was killed at the `number`-th such change, and the run that still has the old name was trained on."""

    def train(folder: Path) -> None:
        run = write_run(folder)
        assert stopped_at(number, lambda: rename(run, "later", folder), {change})
        run.create()
        for name in ("m.lmp", "m_train_stats.json"):
            (folder / "new").write_text(f"{name}, days later", encoding="utf-8")
            (folder / "new").replace(folder / name)

    return train


@pytest.mark.parametrize(
    "make",
    [
        planted_in_the_other_folder,
        planted_and_no_folder_of_its_own,
        planted_beside_another_run,
        *(
            pytest.param(planted_beside(name), id=name)
            for name in ("later.lmp", "later.prev.lmp", "later_train_stats.json", "later.past/x", "later.run/x")
        ),
        pytest.param(trained_since("os.link", 5), id="trained when some files had both names"),
        pytest.param(trained_since("os.remove", 1), id="trained when the folder had moved"),
    ],
)
def test_nothing_goes_on_the_word_of_a_file_that_says_it_was_renamed(tmp_path: Path, make) -> None:
    """Another hand may have put it there, or it is of a rename that was given up."""
    make(tmp_path)
    before = held(tmp_path)
    with pytest.raises(
        UserError, match=r"later\S*: it is not m\S* under another name; m and later are two runs"
    ) as said:
        rename(RunFolder(tmp_path / "m.lmp"), "later", tmp_path)
    assert held(tmp_path) == before and "\n" not in str(said.value)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"from": []}', '{"from": {}, "to": [[]]}', '{"from": [], "to": "later"}', "\xff", "[" * 100_000],
)
def test_what_says_nothing_of_a_rename_hinders_none(tmp_path: Path, text: str) -> None:
    run = write_run(tmp_path)
    before = held(tmp_path)
    (run.folder / "renaming.json").write_text(text, encoding="latin-1")
    rename(run, "later", tmp_path)
    assert held(tmp_path) == renamed(before, "m", "later")


def _refused(*_: object, **__: object) -> None:
    raise PermissionError("no links here")


def test_a_removed_run_lies_in_the_trash_whole_and_comes_back_by_a_move(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_run(tmp_path, "n")
    before = held(tmp_path)
    target = remove(run, tmp_path)
    assert target.parent == tmp_path / "trash"
    assert [each.name for each in list_runs(tmp_path)] == ["n"]
    assert {path.removeprefix(f"trash/{target.name}/") for path in held(tmp_path)} == before.keys()
    for path in target.iterdir():
        path.rename(tmp_path / path.name)
    assert held(tmp_path) == before
    first, second = remove(run, tmp_path), remove(write_run(tmp_path), tmp_path)
    assert first != second


@pytest.mark.long
def test_a_removal_that_is_killed_anywhere_loses_nothing(tmp_path: Path) -> None:
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        run = write_run(folder)
        whole = sorted(held(folder).values())
        was_killed = stopped_at(number, lambda run=run, folder=folder: remove(run, folder))
        assert sorted(held(folder).values()) == whole
        if not was_killed:
            break
        if list_runs(folder):
            remove(run, folder)
        assert sorted(held(folder).values()) == whole and not list_runs(folder)
    assert number > 8


def test_a_run_that_trains_is_left_alone_but_may_be_tagged(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    lock = take_run(run)
    run.write_status({"state": "running", "pid": 4711, "host": "box"})
    before = held(tmp_path)
    with pytest.raises(UserError, match="process 4711 on box is training this run"):
        rename(run, "later", tmp_path)
    with pytest.raises(UserError, match="process 4711 on box is training this run"):
        remove(run, tmp_path)
    assert held(tmp_path) == before
    set_about(run, About(("b", "a"), ""))
    lock.release()
    assert about(run).words == "#b #a"


@pytest.mark.parametrize("tag", ["", "a b", "-a", "#a", "a\x1b[31m", "x" * 41, "a\n"])
def test_what_is_no_tag(tmp_path: Path, tag: str) -> None:
    run = write_run(tmp_path)
    with pytest.raises(UserError, match="is no tag") as caught:
        set_about(run, About((tag,)))
    assert "\x1b" not in str(caught.value) and about(run).tags == ("short",)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"tags": 3, "note": []}', '{"tags": [1, {}]}', "\xff", "[" * 100_000])
def test_a_file_that_says_nothing_of_ours(tmp_path: Path, text: str) -> None:
    run = write_run(tmp_path)
    (run.folder / "about.json").write_text(text, encoding="latin-1")
    assert about(run) == About()


def test_what_stands_there_is_fit_for_a_terminal(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    hostile = {"tags": ["a\x1b[31m", "b" * 1000], "note": "x\x07\ny"}
    (run.folder / "about.json").write_text(json.dumps(hostile), encoding="utf-8")
    said = about(run)
    assert "\x1b" not in said.words and len(said.words) < 100 and said.note == "x␇ y"


def test_statistics_have_the_new_name(tmp_path: Path) -> None:
    rename(write_run(tmp_path), "later", tmp_path)
    assert read_statistics(tmp_path / "later_step_stories_train_stats.json").name == "later"
