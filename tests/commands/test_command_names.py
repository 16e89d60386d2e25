"""Which program is asked, and commands that there are not."""

import re
from itertools import takewhile

import pytest

import lmplay_tui
from lmplay_tui import cli
from lmplay_tui.command_line import COMMANDS
from lmplay_tui.commands.ctl import read_command
from lmplay_tui.commands.runs import ACTIONS
from lmplay_tui.errors import UserError
from lmplay_tui.options import Launch
from lmplay_tui.run.controls import SetLearningRate
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.learning_rate import parse_lr


@pytest.mark.parametrize(
    ("program", "name"),
    [(cli.main, "lmplay-tui"), (cli.trainer_main, "lmp_trainer"), (cli.plotstats_main, "lmp_plotstats"),
     (cli.generator_main, "lmp_generator"), (lambda words: cli.main(["attach", *words]), "lmplay-tui attach")],
)  # fmt: skip
@pytest.mark.parametrize("word", ["-V", "--version"])
def test_the_version_names_the_program_that_was_asked(program, name, word, capsys):
    assert program([word]) == 0
    assert capsys.readouterr().out == f"{name} {lmplay_tui.__version__}\n"


@pytest.mark.parametrize("columns", [60, 80, 120, 300])
@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS), *(["runs", name] for name in ACTIONS)])
def test_help_is_as_wide_as_the_terminal(words, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as left:
        cli.main([*words, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert left.value.code == 0
    examples = [line for line in lines if line.startswith(("  lmplay-tui", "  echo"))]  # to be typed as they stand
    examples += [line for line in lines if line.startswith("  --") and "|" in line]  # an option's words are not broken
    told = [line for line in lines if line not in examples and "usage:" not in line and "#(lmplay-tui" not in line]
    assert max(map(len, told)) <= min(columns, 120) and any("--version" in line for line in told), told
    assert max(map(len, told)) > 30


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_first_help_has_each_command_with_a_line(columns, capsys, monkeypatch):
    """In a narrow terminal a long one goes on below its own words, not below the names."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    help_text = capsys.readouterr().out
    for name, summary in COMMANDS.items():
        begin = help_text.index(f"\n  {name} ") + 1
        first, *more = help_text[begin:].splitlines()
        column = first.index(summary.split()[0], len(name) + 2)
        below = list(takewhile(re.compile(" " * column).match, more))
        assert " ".join([first[column:], *(line.strip() for line in below)]) == summary, name
        if columns == 120:
            assert not below


def test_a_misspelt_command_is_answered_with_the_nearest(capsys):
    for typed, meant in (("atach", "attach"), ("stats", "status"), ("genrate", "generate")):
        assert cli.main([typed, "my_run"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"lmplay-tui: unknown command '{typed}'; did you mean {meant}?")
    assert cli.main(["zzz\x1b[31m"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "did you mean" not in line
    assert "\x1b" not in line
    assert "commands: attach, ctl, status" in line


def test_attach_takes_the_folder_and_the_refreshes(tmp_path, monkeypatch, seams, capsys):
    run = RunFolder(tmp_path / "out/m.lmp")
    run.create()
    run.write_status({"name": "m"})
    shown = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)

    def show(launch, *, attach):
        shown.append((launch, attach))
        return 0

    seams.put("dashboard", show)
    line = ["attach", "m", "--out-dir", "out", "--refresh-hz", "5", "--price-per-hour", "2", "--tz", "UTC", "--ascii"]
    assert cli.main(line) == 0
    ((launch, attached),) = shown
    options = {"out_dir": "out", "refresh_hz": 5.0, "price_per_hour": 2.0, "tz": "UTC", "ascii": True}
    assert launch == Launch(options, "lmplay-tui")  # the command that a run started from there is resumed with
    assert attached.model.resolve() == run.model
    for wrong in ("0", "1000", "often"):
        assert cli.main(["attach", "m", "--out-dir", "out", "--refresh-hz", wrong]) == 2
        assert capsys.readouterr().err.startswith("--refresh-hz: ")


@pytest.mark.parametrize("text", ["*0.5", "x0.5", "* 0.5", "1e-4", " 3E-4 ", "×2"])
def test_a_learning_rate_is_read_alike_at_the_key_and_in_a_shell(text):
    assert read_command(f"lr={text}") == parse_lr(text) != None  # noqa: E711
    assert isinstance(parse_lr(text), SetLearningRate)


@pytest.mark.parametrize("text", ["", "*", "0", "-1", "nan", "inf", "*inf", "**2", "fast"])
def test_what_is_no_learning_rate(text):
    assert parse_lr(text) is None
    with pytest.raises(UserError, match="needs a number above 0"):
        read_command(f"lr={text}")
