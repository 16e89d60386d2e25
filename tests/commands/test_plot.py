import pytest

from lmplay_tui.commands.plot import main
from lmplay_tui.run.folder import RunFolder
from tests.commands.asked import assert_refused, help_of
from tests.run.recorded_runs import record_run

COMBINED = {"log_loss.png", "log_accuracy.png", "diff_loss.png", "diff_accuracy.png"}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(seams):
    """Instead of pictures, what they would show: drawing takes its time."""

    def draw_combined(chart, path):
        path.write_text(repr([chart.title, chart.x_limits, chart.y_limits, chart.show_raw, *map(vars, chart.lines)]))

    def draw_own(curve, options, path):
        path.write_text(f"{curve.label} {curve.split} {options}")
        return True

    seams.put("picture of several runs", draw_combined)
    seams.put("picture of a run", draw_own)


def plot(*words):
    return main(list(words), "lmp_plotstats")


def pictures(folder):
    return {path.name for path in folder.iterdir() if path.suffix != ".json" and path.is_file()}


@pytest.mark.long
def test_two_runs_give_the_combined_pictures_and_each_runs_own(place, capsys):
    files = record_run(place / "out_gpt", "seed0", seed=0, stages=["only"])
    files += record_run(place / "out_gpt", "seed1", seed=1, stages=["only"], steps=80)
    assert plot() == 0
    assert pictures(place / "out_gpt") == COMBINED | {path.with_suffix(".png").name for path in files}
    assert all(path.read_bytes().startswith(PNG) for path in (place / "out_gpt").glob("*.png"))
    said = capsys.readouterr()
    assert said.err == ""
    assert "out_gpt/log_loss.png" in said.out.splitlines()


@pytest.mark.usefixtures("quick")
def test_the_environment_says_where_statistics_lie(place, monkeypatch):
    monkeypatch.setenv("LMP_DATASETS", "elsewhere")
    record_run(place / "elsewhere", "m")
    assert plot() == 0
    assert "log_loss.png" in pictures(place / "elsewhere")


@pytest.mark.usefixtures("quick")
def test_locations_are_folders_files_and_runs(place):
    recorded = {path.name for path in record_run(place / "here", "a", steps=8)}
    for folder, name in (("there", "b"), ("out_gpt", "c"), ("models", "d"), ("out_gpt", "unasked")):
        record_run(place / folder, name, steps=8)
    RunFolder(place / "models" / "d.lmp").create()
    assert plot("here", "there/b_validate_stats.json", "c", "models/d.lmp", "--out-dir", "out_gpt") == 0
    assert pictures(place / "out_gpt") >= COMBINED
    assert {path.with_suffix(".json").name for path in (place / "here").glob("*.png")} == recorded
    assert pictures(place / "there") == {"b_validate_stats.png"}
    assert "c_train_stats.png" in pictures(place / "out_gpt")
    assert "unasked_train_stats.png" not in pictures(place / "out_gpt")
    assert "d_train_stats.png" in pictures(place / "models")


@pytest.mark.usefixtures("quick")
def test_the_pictures_that_compare_lie_with_the_runs_if_these_are_in_one_folder(place):
    for folder, name in (("here", "a"), ("here", "b"), ("there", "c")):
        record_run(place / folder, name, steps=8)
    plot("here")
    assert pictures(place / "here") >= COMBINED
    plot("here", "there")
    assert pictures(place / "out_gpt") == COMBINED


@pytest.mark.usefixtures("quick")
def test_other_kinds_of_picture(place):
    record_run(place / "out_gpt", "m", steps=8)
    assert plot("--out-type", "svg") == 0
    assert pictures(place / "out_gpt") >= {"log_loss.svg", "m_train_stats.svg"}


@pytest.mark.usefixtures("quick")
def test_the_options_reach_the_pictures(place):
    record_run(place / "out_gpt", "a", seed=1)
    record_run(place / "out_gpt", "b", seed=2, steps=80)

    def drawn(*words):
        plot(*words)
        return {name: (place / "out_gpt" / name).read_text() for name in COMBINED | {"a_train_stats.png"}}

    usual = drawn()
    assert drawn() == usual
    for words, kept in (
        (["--plot-train"], {"a_train_stats.png"}),
        (["--plot-raw"], {"a_train_stats.png"}),
        (["--average-count", "1"], set()),
        (["--min-show", "0.5"], set()),
        (["--target", "a"], {"log_loss.png", "log_accuracy.png", "a_train_stats.png"}),
    ):
        other = drawn(*words)
        assert {name for name in usual if other[name] == usual[name]} == kept, words


@pytest.mark.usefixtures("quick")
def test_a_damaged_file_is_said_and_the_others_are_drawn(place, capsys):
    record_run(place / "out_gpt", "good")
    (place / "out_gpt" / "bad_train_stats.json").write_text("{", encoding="utf-8")
    assert plot() == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "bad_train_stats.json" in line
    assert "log_loss.png" in pictures(place / "out_gpt")


@pytest.mark.usefixtures("quick")
def test_one_run_has_nothing_to_be_compared_with(place, capsys):
    record_run(place / "out_gpt", "m")
    plot()
    assert not {name for name in pictures(place / "out_gpt") if name.startswith("diff")}
    assert "no diff_ pictures: one run" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_a_run_without_validation_is_named(place, capsys):
    record_run(place / "out_gpt", "with")
    record_run(place / "out_gpt", "without", validate=False)
    plot()
    assert capsys.readouterr().err == "without: no validation recorded, so it is not compared; try with --plot-train\n"


def test_the_newest_runs_are_kept_and_the_rest_is_counted(place, capsys):
    for seed in range(3):
        record_run(place / "out_gpt", f"m{seed}", seed=seed, steps=8)
    plot("--max-files", "2", "--terminal")
    said = capsys.readouterr()
    assert said.err == "1 of 3 runs left out; --max-files 3 plots all\n"
    assert sum(f" m{seed} " in said.out for seed in range(3)) == 2


def test_in_the_terminal_nothing_is_written(place, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    record_run(place / "out_gpt", "a", seed=0)
    record_run(place / "out_gpt", "b", seed=1)
    assert plot("--terminal") == 0
    out = capsys.readouterr().out
    assert pictures(place / "out_gpt") == set()
    for title in ("Loss (validation)", "Accuracy (validation)", "Loss compared with", "Accuracy compared with"):
        assert title in out
    assert max(len(line) for line in out.splitlines()) <= 70
    assert "\x1b" not in out  # captured: not a terminal


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "out_gpt: no such folder"),
        (["empty"], "empty: no *_stats.json files"),
        (["nobody"], "no run called nobody"),
        (["m"], "m: no statistics yet"),
        (["there/old_train_stats.json"], "nothing to plot"),
        (["--average-count", "0"], "--average-count: must be a whole number from 1 on, got 0"),
        (["--min-show", "nan"], "--min-show: must be above 0 and at most 1, got nan"),
        (["--max-files", "x\x1b[31m"], "--max-files: must be a whole number from 1 on, got x␛[31m"),
        (["--out-type", "gif"], "invalid choice: 'gif'"),
        (["there", "--target", "nobody"], "--target: no run called nobody among those plotted"),
        (["there", "--plot-tain"], "unknown option '--plot-tain'; did you mean --plot-train?"),
        (["there", "--out-dir", "there/b_train_stats.json"], "pictures cannot be written: File exists"),
    ],
)
def test_a_mistake_is_one_line(place, words, said):
    (place / "empty").mkdir()
    record_run(place / "there", "b", steps=8)
    record_run(place / "there", "a", steps=8)
    (place / "there" / "old_train_stats.json").write_text("[]", encoding="utf-8")
    RunFolder(place / "m.lmp").create()
    assert_refused(plot, *words, said=said)


def test_help_says_what_it_draws_and_how(capsys):
    text = help_of(plot, capsys)
    for part in ("diff_loss, diff_accuracy", "lmp_plotstats --terminal", "[300]", "[0.99]", "[the longest]"):
        assert part in text
