"""`lmp_trainer` as a stranger types it."""

import gc
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len

from lmplay_tui import cli
from lmplay_tui.commands.output import Output
from lmplay_tui.commands.train import DESCRIPTION, EPILOG, Headless, parse
from lmplay_tui.formats import time_zone
from lmplay_tui.options import TrainOptions
from lmplay_tui.run import events as happened
from tests.commands.asked import write_stories
from tests.train.runs import SENTENCES, write_plan
from tests.ui.fake import Clock, prediction, training
from tests.ui.terminal_screen import ScreenTerminal

TINY = ["--exp", "test_runner", "--num-blocks", "1", "--embed-dim", "16", "--num-heads", "2", "--context-len", "64",
        "--tokenizer", "bytes", "--batch-size", "4", "--device", "cpu"]  # fmt: skip


@pytest.fixture(autouse=True)
def drawn(seams) -> list[tuple[str, str]]:
    """The pictures that would have been drawn; and signals stay as they are."""
    asked: list[tuple[str, str]] = []
    seams.put("pictures", lambda folder, name: asked.append((str(folder), name)))
    return asked


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_stories(tmp_path / "local.jsonl")
    return tmp_path


def trainer(*words: str) -> int:
    return cli.trainer_main([*words])


def lmplay_wikipedia(folder: Path, num_rows: int = 24) -> None:
    """Wikipedia as LMPlay saves it: two folders of Arrow files in the datasets folder."""
    import datasets

    for split, begin in (("train", 0), ("validation", 1000)):
        rows = {
            "id": [str(i) for i in range(begin, begin + num_rows)],
            "url": ["https://example.org"] * num_rows,
            "title": [f"Mill {i}" for i in range(num_rows)],
            "text": [f"Number {begin + i}.\n\n" + "\n\n".join(SENTENCES[i % 5 :]) for i in range(num_rows)],
        }
        datasets.Dataset.from_dict(rows).save_to_disk(str(folder / f"wikimedia_wikipedia_20231101_en.{split}"))


def test_the_users_json_plan_runs_through_both_stages(folder, monkeypatch, capfd):
    monkeypatch.setenv("LMP_DATASETS", str(folder / "datasets"))
    lmplay_wikipedia(folder / "datasets")
    plan = {"pretraining": {"dataset": "wikipedia", "epochs": 1.5}, "finetune": {"dataset": "local.jsonl", "epochs": 1}}
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    assert trainer("--training-plan", "plan.json", "--model", "my_model.lmp", *TINY) == 0
    for name in ("my_model.pretraining.lmp", "my_model.finetune.lmp", "my_model.lmp"):
        checkpoint = torch.load(folder / name, weights_only=True)
        assert set(checkpoint) == {"curriculum", "model", "runner", "optimizers", "lr_schedulers"}
    stats = torch.load(folder / "my_model.lmp", weights_only=True)["runner"]["state"]
    assert stats["step_stats"]["pretraining"]["total_train_samples"] == 36
    assert stats["stats"]["total_train_samples"] == 36 + stats["step_stats"]["finetune"]["total_train_samples"]
    for name in ("train", "validate", "step_pretraining_train", "step_finetune_validate"):
        written = json.loads((folder / f"datasets/my_model_{name}_stats.json").read_text(encoding="utf-8"))
        assert written["columns"] == ["samples", "accuracy", "loss", "tokens"]
    capfd.readouterr()
    assert trainer("--model", "my_model.lmp") == 0
    said = [line for line in capfd.readouterr().out.splitlines() if "  loading" not in line]
    assert len(said) == 1
    for words in ("is finished", "attach my_model", "--extend EPOCHS", "--model my_model.lmp --reset-history"):
        assert words in said[0]


def test_one_readable_line_a_log_interval_and_an_example_at_each_validation(folder, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    plan = write_plan(folder, '[stages.stories]\ndataset = "local.jsonl"\nepochs = 2\n')
    words = ("--log-interval", "2", "--validation-interval", "8")
    assert trainer("--training-plan", plan, "--model", "m", *words, *TINY) == 0
    out = capfd.readouterr().out
    line = r"\d\d:\d\d:\d\d  stage 1/1 stories  \d+ %"
    line += r"  step \d+  loss \d\.\d{3}(  acc \d\.\d{3})?  [\d.]+[kM]? tok/s(  ETA .+)?"
    assert len(re.findall(rf"^{line}$", out, re.M)) >= 3
    assert re.search(r'^  Input:  ".+"\n  Truth:  ".+"\n  Pred:   ".*"$', out, re.M)
    scored = re.findall(r"^\d\d:\d\d:\d\d  validated at step \d+: loss .*\n  Input: ", out, re.M)
    assert len(scored) == out.count("validated at") == out.count("  Input: ") >= 3
    assert max(len(line) for line in out.splitlines() if line.startswith("  ")) > 40, "no terminal cuts here"
    assert (folder / "m.lmp").is_file()


@pytest.mark.parametrize("columns", [80, 120])
def test_in_a_terminal_each_line_of_an_example_and_of_figures_is_one(columns):
    """A real terminal, told what happens: words of one and of two cells, lines that would have no room."""
    clock = Clock()

    def told() -> int:
        with Output() as out:
            printer = Headless(out, TrainOptions(price_per_hour=10_000), time_zone("UTC"), clock)
            for event in training(130):
                clock.now += 0.25
                printer.say(event)
                if isinstance(event, happened.StepDone) and event.step % 10 == 0:
                    figures = {"train/loss": event.loss, "train/accuracy": 0.4, "perf/tokens_per_s": 9100.0}
                    printer.say(happened.MetricsLogged({"stage": event.stage, "step": event.step, **figures}))
                    printer.say(happened.Predicted(event.step, event.stage, prediction("磨坊\n" * 90, "rows " * 90)))
        return 0

    with ScreenTerminal(told, (columns, 24)) as terminal:
        assert terminal.wait() == 0
    lines = terminal.output.decode().replace("\r", "").splitlines()
    for begin in ('  Input:  "', '  Truth:  "', '  Pred:   "'):
        shown = [line for line in lines if line.startswith(begin)]
        assert len(shown) == 26 and all(line.endswith('"') for line in shown)
        assert max(map(cell_len, shown)) in ((columns,) if begin == '  Truth:  "' else range(columns + 1)), shown
        assert begin.startswith("  Input") or sum(line.endswith('…"') for line in shown) >= 13
    kinds = r"\d\d:\d\d:\d\d  (stage [12]/3 \w+ |[12]/3 \w+ |validated at step |evaluated at step )"
    figures = [line for line in lines if re.match(kinds, line)]
    assert len(figures) == 13 + 13 + 2 + 1 and max(map(cell_len, figures)) <= columns, figures


def test_signs_of_lines_have_plain_ones_in_ascii_and_letters_of_texts_stay(capfd):
    spike = happened.LossSpiked(7, "topics", 8.25, 3.1, 21.0, 60, 69)  # rows 60–69
    said = prediction("Ça naïve …\x1b[31m 東京", "x " * 900)
    with Output(ascii_only=True) as out:
        printer = Headless(out, TrainOptions(), time_zone("UTC"), Clock())
        for event in (*training(40), spike, happened.Predicted(7, "topics", said), happened.Warned("a → b", 9)):
            printer.say(event)
    shown = "".join(capfd.readouterr())
    assert {char for char in shown if not char.isascii()} == set("Çaï東京") - set("a")
    assert "naïve ~?[31m" in shown and "a > b" in shown


@pytest.mark.long
def test_a_run_follows_its_option_for_ascii(folder):
    """A whole run in a terminal of 50 columns, where lines are cut; in a process that has no threads from before."""
    rows = [{"text": "Ça naïve 東京 жук. " + " ".join(SENTENCES)} for _ in range(20)]
    (folder / "local.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    plan = write_plan(folder, '[stages.stories]\ndataset = "local.jsonl"\n')
    words = ["--training-plan", plan, "--model", "m", "--validation-interval", "8", "--ascii", *TINY]
    command = [sys.executable, "-c", "import sys; from lmplay_tui.cli import trainer_main; sys.exit(trainer_main())"]

    with ScreenTerminal(lambda: subprocess.call([*command, *words]), (50, 24)) as terminal:
        assert terminal.wait(100) == 0
    shown = terminal.output.decode()
    assert not {char for char in shown if not char.isascii() and not char.isalpha()}
    assert '~"' in shown and "Ça" in shown


def test_the_date_stands_above_the_first_line_of_another_day(capfd):
    now = Clock(1_790_000_000.0 - 14 * 3600)  # 00:13 UTC
    with Output() as out:
        printer = Headless(out, TrainOptions(), time_zone("UTC"), now)
        for step in range(4):
            printer.say(happened.Bookmarked(step, ""))
            now.now += 12 * 3600
    assert capfd.readouterr().out.splitlines() == [
        "00:13:20  bookmark at step 0", "12:13:20  bookmark at step 1", "Tuesday 2026-09-22",
        "00:13:20  bookmark at step 2", "12:13:20  bookmark at step 3",
    ]  # fmt: skip


def test_a_run_draws_its_pictures_once_at_the_plans_end(folder, drawn):
    plan = write_plan(folder, '[stages.stories]\ndataset = "local.jsonl"\n')
    assert trainer("--training-plan", plan, "--model", "m.lmp", "--out-dir", "figures", *TINY) == 0
    assert drawn == [("figures", "m")]
    assert trainer("--model", "m.lmp", "--out-dir", "figures") == 0, "finished already"
    assert drawn == [("figures", "m")]


def test_json_lines_are_json(folder, capfd):
    plan = write_plan(folder, '[stages.stories]\ndataset = "local.jsonl"\n')
    assert trainer("--training-plan", plan, "--model", "m.lmp", "--json", *TINY) == 0
    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {"RunStarted", "StageDone", "RunDone"} <= {r.get("event") for r in records}
    assert any("train/loss" in r for r in records)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lr", "-1"], "--lr: must be above 0, got -1"),
        (["--btch-size", "4"], "unknown option '--btch-size'; did you mean --batch-size?"),
        (["--exp", "gpt2is"], "gpt2is.*did you mean gpt2ish"),
        (["--exp", "nowhere.py:Model"], "nowhere.py"),
        (["--training-plan", "demoo"], "demoo.*demo"),
        (["--training-plan", "gone.toml"], "gone.toml"),
        (["--initial-model", "gone.lmp"], "gone.lmp"),
        (["--resume", "gone.lmp"], "gone.lmp"),
        (["--device", "tpu"], "--device"),
        (["--model", "run.lmp"], "'run' is no model name"),
        (["--model", "a.b.lmp"], "'a.b' is no model name"),
        (["--tokenizer", "gpt9"], "gpt9"),
        (["--embed-dim", "15", "--num-heads", "2"], "15"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(folder, capfd, words, said):
    plan = write_plan(folder, '[stages.stories]\ndataset = "local.jsonl"\n')
    options = [] if "--training-plan" in words else ["--training-plan", plan]
    tiny = [] if {"--exp", "--embed-dim", "--device", "--tokenizer"} & set(words) else TINY
    assert trainer(*options, *words, *tiny) == 2
    err = capfd.readouterr().err.strip()
    assert len(err.splitlines()) == 1, err
    assert re.search(said, err), err
    assert "Traceback" not in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(folder, capfd):
    plan = write_plan(folder, '[stages.stories]\ndataset = "local.jsonl"\n')
    assert trainer("--training-plan", plan, "--device", "cuda") == 2
    assert capfd.readouterr().err.strip().count("\n") == 0


def test_a_plan_with_a_wrong_column_names_it(folder, capfd):
    (folder / "p.toml").write_text('[datasets.d]\npath = "local.jsonl"\ntext = "txt"\n[stages.s]\ndataset = "d"\n')
    assert trainer("--training-plan", "p.toml", *TINY) == 2
    err = capfd.readouterr().err.strip()
    assert len(err.splitlines()) == 1
    assert "txt" in err
    assert "text" in err


def test_a_resume_with_another_shape_names_both(folder, capfd):
    plan = write_plan(folder, '[stages.stories]\ndataset = "local.jsonl"\n')
    assert trainer("--training-plan", plan, "--model", "m.lmp", *TINY) == 0
    capfd.readouterr()
    assert trainer("--model", "m.lmp", "--embed-dim", "32", "--resume", "auto") == 2
    err = capfd.readouterr().err.strip()
    assert re.search("--embed-dim: the checkpoint has 16, the command line says 32", err), err
    assert len(err.splitlines()) == 1


def test_reset_history_moves_the_past_aside_and_deletes_nothing(folder, capfd):
    plan = write_plan(folder, '[stages.stories]\ndataset = "local.jsonl"\n')
    assert trainer("--training-plan", plan, "--model", "m.lmp", "--out-dir", ".", *TINY) == 0
    before = (folder / "m.lmp").read_bytes()
    assert trainer("--training-plan", plan, "--model", "m.lmp", "--out-dir", ".", "--reset-history", *TINY) == 0
    past = list((folder / "m.past").iterdir())
    assert len(past) == 1
    assert (past[0] / "m.lmp").read_bytes() == before
    assert {"m.run", "m.stories.lmp", "m_train_stats.json"} <= {path.name for path in past[0].iterdir()}
    stats = torch.load(folder / "m.lmp", weights_only=True)["runner"]["state"]["stats"]
    assert stats["total_train_samples"] < 25, "statistics began anew"


def test_what_the_command_line_gave_holds_on_a_resume(folder):
    plan = write_plan(folder, '[stages.stories]\ndataset = "local.jsonl"\nlr = 0.5\n')
    assert trainer("--training-plan", plan, "--model", "m.lmp", "--lr", "0.002", *TINY) == 0
    (folder / "plan.toml").write_text('[stages.stories]\ndataset = "local.jsonl"\nlr = 0.5\nepochs = 2\n')
    assert trainer("--training-plan", plan, "--model", "m.lmp") == 0
    lines = [json.loads(line) for line in (folder / "m.run/metrics.jsonl").read_text().splitlines()]
    rates = [line["train/lr"] for line in lines if "train/lr" in line]
    assert len(rates) >= 4, "the longer plan was trained on"
    assert set(rates) == {0.002}


def test_a_shape_that_the_line_gave_instead_of_the_plan_is_resumed(folder, capfd):
    """The command that is printed goes on, whatever the plan says of the shape; a plan that changes it is refused."""
    text = '[train]\nembed_dim = 32\n[stages.s]\ndataset = "local.jsonl"\n'
    plan = write_plan(folder, text)
    assert trainer("--training-plan", plan, "--model", "m.lmp", *TINY) == 0
    for words in (["--model", "m.lmp"], ["--model", "m.lmp", "--training-plan", plan]):
        assert trainer(*words) == 0
    capfd.readouterr()
    write_plan(folder, text.replace("32", "48"))
    assert trainer("--training-plan", plan, "--model", "m.lmp") == 2
    assert re.search("--embed-dim: the checkpoint has 16, the plan says 48", capfd.readouterr().err)


def test_a_changed_plan_beats_what_the_command_line_gave_before(folder):
    plan = write_plan(folder, '[stages.stories]\ndataset = "local.jsonl"\nlr = 0.5\n')
    assert trainer("--training-plan", plan, "--model", "m.lmp", "--lr", "0.002", *TINY) == 0
    (folder / "plan.toml").write_text('[stages.stories]\ndataset = "local.jsonl"\nlr = 0.003\nepochs = 2\n')
    assert trainer("--training-plan", plan, "--model", "m.lmp") == 0
    lines = [json.loads(line) for line in (folder / "m.run/metrics.jsonl").read_text().splitlines()]
    assert [line["train/lr"] for line in lines if "train/lr" in line][-1] == 0.003


def test_describe_and_the_list_of_experiments(folder, capfd):
    plan = write_plan(folder, '[stages.stories]\ndataset = "local.jsonl"\n')
    assert trainer("--training-plan", plan, "--describe", *TINY) == 0
    out = capfd.readouterr().out
    assert "head.weight" in out
    assert not (folder / "m.lmp").exists()
    assert trainer("--exp", "list") == 0
    assert {"gpt2ish", "gpt2ish_med", "gpt2ish_large", "s_gpt2ish", "test_runner"} <= {
        line.split()[0] for line in capfd.readouterr().out.splitlines()
    }


DOCUMENT = (
    "--exp gpt2ish --num-blocks 6 --embed-dim 768 --num-heads 12 --context_len 1024 --device cuda --amp "
    "--compile-model --batch-size 50 --mini-batch-size 4 --validation-batch-size 4 --lr 0.0006 --grad-clip 0.1 "
    "--training-plan default --model my_model.lmp --initial-model init.lmp --save-interval 10000 "
    "--validation-interval 100 --reset-history --optimizer adamw --weight-decay 0.01 "
    "--optimizer-warmup-fraction 0.1 --optimizer-warmup-steps 40 --disable-optimizer-warmup --default-freeze "
    "--ignore-optimizer --check-grads",
    "--training-plan wikitext3", "--training-plan /path/to/plan.json", "--batch-size 50 --mini-batch-size 4",
    "--optimizer adamw --weight-decay 0.001", "--optimizer adamw --weight-decay 0", "--optimizer adamw",
    "--amp --device cuda --exp gpt2ish", "--amp --device cuda --optimizer sgd --lr 0.1",
    "--amp --device cuda --optimizer adamw --weight-decay 0.1",
    "--amp --device cuda --optimizer adam --weight-decay 0", "--model model_name.lmp",
    "--model model_name.lmp --reset-history", "--device cuda", "--mini-batch-size 8", "--amp",
    "--compile-model --compile-mode reduce-overhead", "--validation-interval 1000", "--context_len 512",
    "--optimizer-warmup-fraction 0.1 --optimizer-warmup-steps 40", "--save-datasets", "--describe",
)  # fmt: skip


@pytest.mark.parametrize("line", DOCUMENT)
def test_every_command_line_of_the_users_document_is_understood(line):
    launch = parse(line.split(), "lmp_trainer", DESCRIPTION, EPILOG)
    assert len(launch.line) == len([word for word in line.split() if word.startswith("--")])


def test_the_price_is_in_each_line(folder, capfd):
    plan = write_plan(folder, '[stages.s]\ndataset = "local.jsonl"\nlog_interval = 1\n')
    assert trainer("--training-plan", plan, "--model", "m.lmp", "--price-per-hour", "3600", *TINY) == 0
    costs = re.findall(r"step \d+ .* cost (\d+\.\d\d)$", capfd.readouterr().out, re.MULTILINE)
    assert len(costs) > 3
    assert 0 <= float(costs[0]) < float(costs[-1]) < 120, "a second costs 1"


def test_verbose_says_more_in_the_log(folder, capfd):
    plan = write_plan(folder, '[stages.s]\ndataset = "local.jsonl"\nlog_interval = 2\n')
    assert trainer("--training-plan", plan, "--model", "quiet.lmp", *TINY) == 0
    assert trainer("--training-plan", plan, "--model", "more.lmp", "--verbose", *TINY) == 0
    quiet, more = ((folder / f"{name}.run/log.txt").read_text() for name in ("quiet", "more"))
    assert " verbose " not in quiet
    figures = re.findall(r" verbose step \d+, row \d+ of stage s: loss \d.\d{3}, .*lr 0.0006, .* ms: .*forward ", more)
    rows = [json.loads(line) for line in (folder / "more.run/metrics.jsonl").read_text().splitlines()]
    assert len(figures) == len(rows) > 1
    assert re.search(r" verbose loading the model$", more, re.MULTILINE)


def test_saving_datasets_where_none_is_to_be_fetched_is_said(folder, capsys):
    assert trainer("--training-plan", "demo", "--save-datasets") == 0
    assert capsys.readouterr().out == "plan demo needs no network: all its data are on this machine\n"


def test_an_unknown_time_zone_is_refused_headless_too(folder, capfd):
    plan = write_plan(folder, '[stages.s]\ndataset = "local.jsonl"\nlog_interval = 1\n')
    assert trainer("--training-plan", plan, "--model", "m.lmp", "--tz", "Mars/Olympus", *TINY) == 2
    assert "--tz: unknown time zone 'Mars/Olympus'" in capfd.readouterr().err
    assert not (folder / "m.run").exists()


def test_headless_clock_times_are_in_the_zone_that_was_asked_for():
    """Half an hour left at 14:13 UTC."""
    from tests.ui.fake import fed

    for zone, said in ((None, "ETA 30 min 00 s"), ("UTC", "ETA 30 min 00 s at 14:"), ("Asia/Kolkata", " at 20:")):
        source = fed(30)
        printer = Headless(None, TrainOptions(), None if zone is None else time_zone(zone))
        printer._view = source.view
        source.view.seconds_left = lambda: 1800.0
        line = printer.step_line({"stage": "s", "step": 3, "train/loss": 1.0, "perf/tokens_per_s": 10.0})
        assert said in line
        assert zone is not None or line.endswith(said)


def test_garbage_is_searched_for_once_the_run_has_begun(folder, seams):
    """Not while torch is imported; and whatever becomes of the start, from its end on."""
    seen: dict[str, bool] = {}

    def watched(real, *args, **kwargs):
        seen["before"] = gc.isenabled()
        for event in real(*args, **kwargs):
            yield event
            seen[type(event).__name__] = gc.isenabled()  # once it is recorded

    seams.around("run", watched)
    line = ["--training-plan", "local.toml", "--model", "m.lmp", *TINY]
    (folder / "local.toml").write_text('[stages.one]\ndataset = "local.jsonl"\nepochs = 0.3\n', encoding="utf-8")
    assert trainer(*line, "--num-heads", "3") == 2, "three heads do not share a width of 16"
    assert (seen["before"], gc.isenabled()) == (False, True)
    assert trainer(*line) == 0
    assert (seen["before"], seen["RunStarted"], seen["StepDone"], gc.isenabled()) == (False, True, True, True)
