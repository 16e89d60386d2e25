"""Options: declared once, and every place that sets one agrees with the declaration."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui import options
from lmplay_tui.command_line import add_options, given_options, new_parser, parse_line
from lmplay_tui.errors import UserError
from lmplay_tui.options import OPTIONS, Launch, OnResume, Part, TrainOptions, Where


def parsed(*words: str) -> dict:
    parser = new_parser("prog", "what it is")
    add_options(parser)
    return given_options(parse_line(parser, words))


def test_every_option_has_help_and_a_flag_that_parses():
    parser = new_parser("prog", "what it is")
    add_options(parser)
    text = " ".join(parser.format_help().split())
    for name, option in OPTIONS.items():
        assert option.flag in text
        assert option.help
        assert option.help.split(";")[0].split(",")[0] in text, name


def test_defaults_are_those_of_the_specification():
    defaults = TrainOptions()
    expected = {
        "exp": "gpt2ish", "context_len": 1024, "tokenizer": "gpt2", "dropout": 0.1, "seed": 0, "batch_size": 50,
        "lr": 0.0006, "lr_schedule": "constant", "optimizer": "adamw", "loss_normalization": "tokens",
        "mini_batch_size": 4, "validation_batch_size": 4, "validation_interval": 100, "eval_interval": 5000,
        "eval_samples": 256, "save_interval": 10000, "log_interval": 10, "keep": 0, "validation_split": 0.1,
        "device": "auto", "shard": "none", "shard_save": "auto", "refresh_hz": 2.0, "resume": "auto", "nproc": 1,
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(defaults, name) == value, name
    rest = OPTIONS.keys() - expected.keys()
    assert all(getattr(defaults, name) in (None, False) for name in rest)


def test_what_a_resume_may_not_change_is_the_models_shape():
    fixed = {name for name in OPTIONS if OPTIONS[name].on_resume is OnResume.FIXED}
    assert fixed == {"exp", "num_blocks", "embed_dim", "num_heads", "context_len", "tokenizer"}
    assert {"amp", "device", "on_done", "notify_url"} <= set(options.names(Where.LINE))


def test_the_first_layer_that_speaks_wins():
    assert options.resolve({"lr": 1.0}, {"lr": 2.0, "seed": 3}, {"seed": 4, "keep": 5}) == TrainOptions(
        lr=1.0, seed=3, keep=5
    )


def test_both_spellings_of_context_len():
    assert parsed("--context_len", "64") == parsed("--context-len", "64") == {"context_len": 64}


def test_all_problems_of_a_line_at_once():
    with pytest.raises(UserError) as caught:
        parsed("--lr", "-1", "--batch-size", "0", "--dropout", "1")
    assert sorted(str(caught.value).splitlines()) == [
        "--batch-size: must be at least 1, got 0",
        "--dropout: must be below 1, got 1",
        "--lr: must be above 0, got -1",
    ]


@pytest.mark.parametrize("word", ["nan", "inf", "1e999"])
def test_numbers_are_finite(word):
    with pytest.raises(UserError, match="--lr: must be a finite number"):
        parsed("--lr", word)


def test_a_plan_may_switch_on_and_the_line_off():
    assert parsed("--no-shuffle") == {"shuffle": False}
    assert options.resolve(parsed("--no-shuffle"), {"shuffle": True}).shuffle is False


@pytest.mark.parametrize(("value", "good"), [(3, True), (True, False), ("3", False), (3.0, False)])
def test_files_come_with_types(value, good):
    assert (options.check("batch_size", value, strict=True)[1] is None) is good


def test_a_whole_number_is_a_number():
    assert options.check("lr", 1, strict=True) == (1.0, None)


@given(st.text(max_size=50))
def test_no_word_breaks_a_message(word):
    for name in ("lr", "mini_batch_size", "optimizer", "device", "tokenizer"):
        value, problem = options.check(name, word, strict=False)
        assert value is not None or problem
        assert "\n" not in (problem or "")


def test_command_words_are_the_inverse_of_parsing():
    given_line = parsed("--lr", "0.5", "--no-shuffle", "--amp", "--mini-batch-size", "auto", "--json")
    assert parsed(*options.command_words(given_line)) == given_line


def test_who_takes_a_run_over_is_told_of_this_process_anew():
    """What says how this very process shows its run, and what is said for one start alone: by their declarations."""
    own = {"model", "headless", "start", "detach", "on_hangup", "json_lines", "refresh_hz", "ascii", "no_mouse"}
    assert set(options.names_of(Part.PROCESS)) == own | {"notify_url"}
    assert {name for name, option in OPTIONS.items() if option.once} == {
        "training_plan", "model", "initial_model", "ignore_tokenizer", "resume", "reset_history", "extend",
        "ignore_optimizer", "save_datasets", "describe", "optimizer_warmup_fraction", "optimizer_warmup_steps",
        "check_grads", "headless", "start", "detach", "notify_url",
    }  # fmt: skip


def test_a_launch_is_what_the_line_gives_and_never_changes():
    launch = Launch({"lr": 1.0, "resume": "out/m.prev.lmp"}, "prog")
    assert (launch.options.lr, launch.options.seed) == (1.0, 0)
    assert (launch.anew, launch.resumes_from) == (False, Path("out/m.prev.lmp"))
    longer = launch.with_options(extend=2.0)
    assert longer.without("extend", "lr") == Launch({"resume": "out/m.prev.lmp"}, "prog")
    assert dict(launch.line) == {"lr": 1.0, "resume": "out/m.prev.lmp"}
    with pytest.raises(TypeError):
        launch.line["lr"] = 2.0
    assert [Launch({"resume": "none"}).anew, Launch({"reset_history": True}).anew, Launch().anew] == [True, True, False]
    assert Launch({"resume": "none"}).resumes_from is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lr": -1.0}, "^lr: must be above 0, got -1.0$"),
        ({"batch_size": 2.5}, "^batch_size: must be a whole number, got 2.5$"),
        ({"shuffle": 1}, "^shuffle: must be true or false, got 1$"),
        ({"optimizer": "lion"}, "^optimizer: must be one of 'adamw', .* or 'rmsprop', got 'lion'$"),
    ],
)
def test_options_are_valid_however_they_are_made(values, said):
    with pytest.raises(ValueError, match=said):
        options.resolve(values)


@pytest.mark.parametrize(
    ("name", "word", "value"),
    [
        ("batch_size", " 7 ", 7), ("batch_size", "1_000", 1000), ("batch_size", "64.0", 64),
        ("batch_size", "6.5", None),
        ("batch_size", "1e3", None), ("lr", "1", 1.0), ("lr", ".5", 0.5), ("lr", "0x10", None), ("lr", "１", None),
        ("lr", "", None), ("model", "\udc80", "\udc80"), ("on_done", "\udc80", None), ("tokenizer", "gpt2\n", None),
        ("mini_batch_size", "auto", "auto"), ("mini_batch_size", "8", 8), ("mini_batch_size", "Auto", None),
    ],
)  # fmt: skip
def test_how_a_word_of_a_line_is_read(name, word, value):
    assert options.check(name, word, strict=False)[0] == value


PATHS = ("training_plan", "model", "initial_model", "resume", "out_dir", "exp")


@pytest.mark.parametrize("name", PATHS)
def test_a_tilde_is_the_home_folder_in_every_option_that_names_a_path(name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/of mine")
    for words in ([OPTIONS[name].flag, "~/a b/x.py:N"], [f"{OPTIONS[name].flag}=~/a b/x.py:N"]):
        assert parsed(*words) == {name: "/home/of mine/a b/x.py:N"}
    assert parsed(OPTIONS[name].flag, "./~") == {name: "./~"}
    assert parsed(OPTIONS[name].flag, "a~b") == {name: "a~b"}
    with pytest.raises(UserError, match=rf"^{OPTIONS[name].flag}: there is no home folder ~nobody-here; ") as caught:
        parsed(OPTIONS[name].flag, "~nobody-here/x")
    assert "\n" not in str(caught.value)


def test_every_option_that_names_a_file_or_folder_is_declared_as_a_path():
    words = ("FILE", "DIR", "PLAN", "auto|none|FILE")
    assert {name for name, option in OPTIONS.items() if option.path} == set(PATHS)
    assert {name for name, option in OPTIONS.items() if option.metavar in words} | {"exp"} == set(PATHS)


def test_a_tilde_may_name_a_user(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    assert parsed("--model", "~root/x") == {"model": str(Path("~root/x").expanduser())}


def test_other_options_keep_their_tilde():
    assert parsed("--on-done", "~/bin/mail") == {"on_done": "~/bin/mail"}
