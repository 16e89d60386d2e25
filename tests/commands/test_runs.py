"""`runs` and `status --watch` as a stranger types them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from lmplay_tui.cli import main
from lmplay_tui.commands.terminal_tables import table
from lmplay_tui.run.folder import RunFolder, take_run
from lmplay_tui.run.upkeep import About, about, set_about
from lmplay_tui.ui.run_list import find_runs, run_detail, run_table
from tests.faults.terminals import until
from tests.ui.terminal_screen import ScreenTerminal

STAGES = [{"name": "s", "rows_done": 50, "rows_total": 200}]
STATUS = {"state": "running", "step": 1200, "train_loss": 3.4, "val_loss": 3.5, "eta_s": 90.0, "stages": STAGES}
NOTE = "磨坊: the one whose learning rate is twice that of the others, to be looked at again"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, state in (("gpt2ish_tinystories_first_attempt", "finished"), ("b", "stopped")):
        run = RunFolder(tmp_path / "out_gpt" / f"{name}.lmp")
        run.create()
        run.model.write_bytes(b"weights")
        run.write_status(STATUS | {"state": state, "name": name})
    set_about(run, About(("short", "baseline"), NOTE))
    return tmp_path


def program(*words: str) -> Callable[[], int]:
    """The command as a program of its own, which inherits no lock of ours."""
    return lambda: os.execv(sys.executable, [sys.executable, "-m", "lmplay_tui.cli", *words])


def test_the_list_has_a_header_and_columns_that_stand_below_each_other(folder: Path, capsys) -> None:
    assert main(["runs"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "state", "done", "step", "train", "loss", "val", "loss", "last", "word",
                            "tags", "note"]  # fmt: skip
    assert sorted(row.split()[:6] for row in rows) == [
        ["b", "stopped", "25", "%", "1,200", "3.400"],
        ["gpt2ish_tinystories_first_attempt", "finished", "25", "%", "1,200", "3.400"],
    ]
    for name, values in (("state", ("stopped", "finished")), ("tags", ("#short",))):
        assert {row.index(value) for row in rows for value in values if value in row} == {head.index(name)}
    assert any(row.endswith(NOTE) for row in rows), "no terminal: nothing is cut"


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 120, 200])
def test_in_a_terminal_each_run_is_one_line(folder: Path, columns: int) -> None:
    with ScreenTerminal(lambda: main(["runs"]), (columns, 24)) as terminal:
        assert terminal.wait() == 0
    lines = terminal.output.decode().replace("\r", "").splitlines()
    assert len(lines) == 3 and max(map(cell_len, lines)) <= columns, lines
    if columns >= 60:
        assert all(" 3.400 " in line for line in lines[1:]), "a figure goes before no word"
    assert ("#short" in terminal.output.decode()) == (columns >= 120)
    assert ("gpt2ish_tinystories_first_attempt" in lines[1] + lines[2]) == (columns >= 100), "a name is cut last"


def test_short_names_leave_room_for_tags(folder: Path) -> None:
    main(["runs", "rename", "gpt2ish_tinystories_first_attempt", "first"])
    with ScreenTerminal(lambda: main(["runs"]), (80, 24)) as terminal:
        assert terminal.wait() == 0
    assert "#short" in terminal.output.decode()


def test_a_table_gives_way_in_order() -> None:
    rows = [("name", "n", "x", "note"), ("a" * 30, "1", "", "w" * 40), ("磨坊" * 5, "22", "", "")]
    assert table(rows, None, gives_way=(0, 3), right=(1,))[1] == f"{'a' * 30}   1  {'w' * 40}"
    assert table(rows, 60, gives_way=(0, 3), right=(1,))[1:] == [
        f"{'a' * 30}   1  {'w' * 23}…", f"{'磨坊' * 5}            22"
    ]  # fmt: skip
    assert table(rows, 50, gives_way=(0, 3), right=(1,))[1] == f"{'a' * 30}   1  {'w' * 13}…"
    assert table(rows, 40, gives_way=(0, 3), right=(1,))[:2] == [f"{'name':<30}   n", f"{'a' * 30}   1"]
    assert table(rows, 24, gives_way=(0, 3), right=(1,))[:2] == [f"{'name':<20}   n", f"{'a' * 19}…   1"]
    assert all(cell_len(line) <= 9 for line in table(rows, 9, gives_way=(0, 3), right=(1,)))


def test_json_has_an_object_a_run_with_its_tags(folder: Path, capsys) -> None:
    assert main(["runs", "--json"]) == 0
    found = {each["name"]: each for each in map(json.loads, capsys.readouterr().out.splitlines())}
    assert (found["b"]["tags"], found["b"]["note"], found["b"]["state"]) == (["short", "baseline"], NOTE, "stopped")
    assert found["gpt2ish_tinystories_first_attempt"]["tags"] == []


def test_a_run_is_called_by_what_finds_it(folder: Path, capsys) -> None:
    """Two of one name: the one behind the other goes by its path."""
    other = RunFolder(Path("b.lmp"))
    other.create()
    other.model.write_bytes(b"weights")
    assert main(["runs"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert sorted(names) == ["b", "gpt2ish_tinystories_first_attempt", "out_gpt/b.lmp"]
    for name in names:
        assert main(["status", name, "--line"]) == 0


def test_tags_and_a_note(folder: Path, capsys) -> None:
    run = RunFolder(Path("out_gpt/b.lmp"))
    for words, said in (
        (["tag", "b", "short", "new"], About(("short", "baseline", "new"), NOTE)),
        (["untag", "b", "baseline"], About(("short", "new"), NOTE)),
        (["note", "b", "two", " words\n"], About(("short", "new"), "two words")),
        (["note", "b", ""], About(("short", "new"), "")),
    ):
        assert main(["runs", *words]) == 0
        assert about(run) == said
    assert capsys.readouterr().out.splitlines()[-1] == "b: #short #new"
    assert main(["runs", "untag", "b", "gone"]) == 2
    assert capsys.readouterr().err == "b: it has no tag gone, only #short #new\n"
    assert main(["status", "b"]) == 0
    assert ["tags", "#short", "#new"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_launchers_list_shows_them_too(folder: Path) -> None:
    entries = find_runs(None)
    words = ["".join(text for text, _ in row) for row in run_table(entries, 120)[1]]
    assert [row.split()[:3] for row in words if "#" in row] == [["b", "#short", "#baseline"]]
    (detail,) = [run_detail(entry, 100) for entry in entries if entry.about.tags]
    assert any(NOTE in text for row in detail for text, _ in row)


@pytest.mark.parametrize("word", ["rename", "tag", "untag", "note", "remove"])
def test_a_run_that_is_not_there_and_words_that_lack(folder: Path, capsys, word: str) -> None:
    assert main(["runs", word]) == 2
    assert main(["runs", word, "gone", *["x"] * (word != "remove")]) == 2
    usage, missing = capsys.readouterr().err.splitlines()
    assert usage.startswith(f"lmplay-tui runs {word}: the following arguments are required: RUN")
    assert missing.startswith("no run called gone ")


def test_rename_says_the_command_that_goes_on(folder: Path, capsys) -> None:
    assert main(["runs", "rename", "b", "later"]) == 0
    assert capsys.readouterr().out == "b is called later now; go on with: lmp_trainer --model out_gpt/later.lmp\n"
    assert main(["status", "later", "--line"]) == 0
    assert main(["runs", "rename", "later", "gpt2ish_tinystories_first_attempt"]) == 2
    assert "there is a run of that name" in capsys.readouterr().err


def test_remove_asks_first(folder: Path) -> None:
    run = RunFolder(Path("out_gpt/b.lmp"))

    def asked(answer: str) -> str:
        with ScreenTerminal(program("runs", "remove", "b"), (120, 24)) as terminal:
            until(lambda: b"[y/N]" in terminal.output)
            terminal.type(answer)
            assert terminal.wait() == (130 if answer == "\x03" else 0)
        return terminal.output.decode()

    assert "nothing was removed" in asked("\r")
    assert "nothing was removed" in asked("no\r")
    asked("\x03")
    assert run.model.exists()
    said = asked("y\r")
    assert "remove b (stopped, 1 file of 7 B)?" in said
    assert not run.folder.exists()
    back = said[said.index("to have it back: ") :].removeprefix("to have it back: ").splitlines()[0]
    assert subprocess.run(back, shell=True, check=False).returncode == 0
    assert run.folder.exists() and run.model.exists()


def test_without_a_terminal_nothing_is_removed_unless_yes(folder: Path, capsys) -> None:
    assert main(["runs", "remove", "b"]) == 2
    assert "--yes" in capsys.readouterr().err
    lock = take_run(RunFolder(Path("out_gpt/b.lmp")))
    assert main(["runs", "remove", "b", "--yes"]) == 2
    assert "is training this run; end it first with: lmplay-tui ctl b stop" in capsys.readouterr().err
    lock.release()
    assert main(["runs", "remove", "b", "--yes"]) == 0
    assert not Path("out_gpt/b.run").exists()


# ---- status --watch


def move_on(run: RunFolder, steps: int, **more: object) -> None:
    run.write_status(STATUS | {"name": "b", "step": steps, "tokens_per_s": 10.0 * steps, **more})


def test_a_watch_in_a_terminal_stays_in_place_and_ends_with_the_run(folder: Path) -> None:
    run = RunFolder(folder / "out_gpt/b.lmp")
    lock = take_run(run)
    move_on(run, 1)
    with ScreenTerminal(program("status", "b", "--watch"), (80, 24)) as terminal:
        until(lambda: re.search(r"step +1 ", terminal.screen))
        move_on(run, 12)
        until(lambda: re.search(r"step +12 ", terminal.screen))
        assert terminal.screen.count("train loss") == 1, "the lines before are gone"
        move_on(run, 13, state="finished", stages=[])
        lock.release()
        assert terminal.wait() == 0
    assert re.search(r"state +finished", terminal.screen)
    assert terminal.screen.count("\nb ") + terminal.screen.startswith("b ") == 1


def watching(*words: str) -> "subprocess.Popen[str]":
    line = [sys.executable, "-m", "lmplay_tui.cli", "status", "b", "--watch", *words]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_watch_into_a_pipe_is_a_line_a_change(folder: Path) -> None:
    run = RunFolder(folder / "out_gpt/b.lmp")
    lock = take_run(run)
    move_on(run, 1)
    plain, as_json = watching(), watching("--json")
    assert plain.stdout is not None and as_json.stdout is not None
    first = plain.stdout.readline()
    assert json.loads(as_json.stdout.readline())["step"] == 1
    time.sleep(2.5)
    move_on(run, 2, state="failed", message="no numbers")
    lock.release()
    rest, _ = plain.communicate(timeout=60)
    assert first[10:].startswith("b 25 % step 1 loss 3.40")
    assert len(rest.splitlines()) in (1, 2) and rest.splitlines()[-1][10:].startswith("b failed 25 % step 2"), rest
    assert json.loads(as_json.communicate(timeout=60)[0].splitlines()[-1])["state"] == "failed"
    assert plain.returncode == as_json.returncode == 0


def test_a_watch_is_left_quietly(folder: Path) -> None:
    run = RunFolder(folder / "out_gpt/b.lmp")
    lock = take_run(run)
    move_on(run, 1)
    process = watching()
    assert process.stdout is not None and process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130
    lock.release()


def test_a_watch_of_a_run_whose_process_is_gone_ends(folder: Path, capsys) -> None:
    move_on(RunFolder(folder / "out_gpt/b.lmp"), 1)
    assert main(["status", "b", "--watch"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "b dead 25 %" in line
