"""`lmp_generator`: text from any checkpoint, the same for the same seed, harmless to the terminal."""

import contextlib
import io
import math
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmplay_tui.cli import generator_main
from lmplay_tui.commands.generate import texts_of_tokens
from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.models.generation import generate
from lmplay_tui.models.lmplay_weights import convert_lmplay
from lmplay_tui.models.registry import build_model, load_experiment
from tests.commands.asked import help_of
from tests.faults.forks import Child
from tests.models.test_lmplay_weights import THEIR_ARGS, their_state, with_components

CONTEXT = 32

# A model that always goes on with the same bytes: letters of one to four bytes, an escape sequence, an end of text.
SCRIPTED = """
import torch
from torch import nn
SAYS = [*"é 日本 😀\\t\\x1b[31mred".encode(), 255, 256]
class Scripted(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
    def forward(self, ids_BT):
        logits = torch.zeros(*ids_BT.shape, 257)
        logits[:, -1, SAYS[ids_BT.shape[1] - 2]] = 1
        return logits
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())


def save(path: Path, exp: str = "test_runner", state: Any = None, **changes: Any) -> Path:
    model, built_with = build_model(
        load_experiment(exp), vocab_size=257, context_len=CONTEXT, num_blocks=1 if exp == "test_runner" else None
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(15)  # an untrained model draws every byte alike; this one has likes
    component = {"state_args": built_with | {"tokenizer": "bytes"}, "state": model.state_dict()}
    runner = {"state_args": {}, "state": {"tokenizer_fingerprint": load_tokenizer("bytes").fingerprint}}
    path.parent.mkdir(exist_ok=True)
    torch.save({"model": component, "runner": runner} | changes, path)
    return path


@pytest.fixture
def model() -> str:
    return str(save(Path("tiny.lmp")))


class Said:
    """What one call of the command wrote, and how it ended."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        self.status = generator_main([*words, "--device", "cpu"])
        self.out, self.err = capsys.readouterr()


def test_the_same_seed_gives_the_same_text(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--model", model, "Once upon")
    first = Said(capsys, *words, "--seed", "1")
    assert (first.status, first.err) == (0, "")
    assert len(first.out) > 10
    assert first.out.endswith("\n")
    assert Said(capsys, *words, "--seed", "1").out == first.out
    assert Said(capsys, *words, "--seed", "2").out != first.out
    assert Said(capsys, *words).out != Said(capsys, *words).out


def expected(model: str, prompt: str, max_tokens: int = CONTEXT, **changes: Any) -> str:
    tokenizer = load_tokenizer("bytes")
    archive = torch.load(model, weights_only=True)
    made, _ = build_model(load_experiment("test_runner"), vocab_size=257, context_len=CONTEXT, num_blocks=1)
    made.load_state_dict(archive["model"]["state"])
    ids = tokenizer.encode(prompt) or [tokenizer.eot]
    tokens = generate(made, ids, max_tokens=max_tokens, context_len=CONTEXT, eot=tokenizer.eot, **changes)
    return tokenizer.decode(tokens)


def plain(text: str) -> str:
    """A text that `printable` leaves alone, for comparison: the models here write any byte."""
    from lmplay_tui.text import printable

    return printable(text) + "\n"


def test_greedy_text_and_the_options_that_shape_it(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    greedy = ("--model", model, "--greedy", "Hello")
    assert Said(capsys, *greedy).out == plain(expected(model, "Hello"))
    assert Said(capsys, *greedy, "--max-len", "3").out == plain(expected(model, "Hello", 3))
    penalized = Said(capsys, *greedy, "--repetition-penalty", "5").out
    assert penalized == plain(expected(model, "Hello", repetition_penalty=5.0)) != plain(expected(model, "Hello"))
    for words, changes in (
        ((), {}),
        (("--do-sample",), {}),
        (("--temperature", "0.5"), {"temperature": 0.5}),
        (("--temperature", "1", "--top-k", "2"), {"temperature": 1.0, "top_k": 2}),
        (("--top-k", "0"), {"top_k": None}),
        (("--top-p", "0.6"), {"top_p": 0.6}),
    ):
        said = Said(capsys, "--model", model, "Hello", "--seed", "7", *words)
        settings: dict[str, Any] = {"temperature": 0.8, "top_k": 50, **changes}
        settings["generator"] = torch.Generator().manual_seed(7)
        assert said.out == plain(expected(model, "Hello", **settings)), words


def test_prompts_from_everywhere(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = plain(expected(model, "Grüße\n\nan"))
    assert Said(capsys, "--model", model, "Grüße\n\nan", "--greedy").out == wanted
    Path("prompt.txt").write_text("Grüße\n\nan\n", encoding="utf-8")
    assert Said(capsys, "--model", model, "--file", "prompt.txt", "--greedy").out == wanted
    Path("prompt.txt").write_bytes("Grüße\r\n\r\nan\r\n".encode())
    assert Said(capsys, "--model", model, "--file", "prompt.txt", "--greedy").out == wanted
    for words in ((), ("-",)):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Grüße\n\nan\n"))
        assert Said(capsys, "--model", model, *words, "--greedy").out == wanted
    assert Said(capsys, "--model", model, "", "--greedy").out == plain(expected(model, ""))


def test_no_prompt_at_a_terminal(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    said = Said(capsys, "--model", model)
    assert (said.status, said.out) == (2, "")
    assert said.err == 'no prompt: give one as an argument ("" for none), with --file, or by standard input\n'


def test_characters_come_whole_and_nothing_that_a_terminal_acts_upon(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text(SCRIPTED, encoding="utf-8")
    save(Path("own.lmp"), "own.py:Scripted")
    said = Said(capsys, "--model", "own", "--exp", "own.py:Scripted", "xy", "--greedy")
    assert said.out == "é 日本 😀    ␛[31mred\ufffd\n"


def test_a_checkpoint_runs_no_file_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text(SCRIPTED, encoding="utf-8")
    save(Path("own.lmp"), "own.py:Scripted")
    Path("own.py").write_text("raise SystemExit('it ran')\n", encoding="utf-8")
    said = Said(capsys, "--model", "own", "xy")
    assert said.status == 2
    assert said.err.count("\n") == 1
    assert "--exp own.py:Scripted" in said.err


def test_a_wrong_experiment_is_refused(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "--model", model, "--exp", "gpt2ish", "x")
    assert said.status == 2
    assert said.err == "--exp gpt2ish: the checkpoint's experiment is test_runner; leave --exp out\n"


def test_several_texts(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = Said(capsys, "--model", model, "--seed", "1", "Once").out
    said = Said(capsys, "--model", model, "--seed", "1", "--num-samples", "2", "Once")
    first, _, second = said.out.removeprefix("--- 1 of 2 ---\n").partition("--- 2 of 2 ---\n")
    assert first == one
    assert second not in ("", first)


def test_options_that_change_nothing_are_said(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "--model", model, "x", "--greedy", "--temperature", "0.5", "--seed", "1", "--num-samples", "2")
    assert said.status == 0
    assert said.err == "with --greedy no token is drawn: --temperature, --seed, --num-samples changes nothing\n"


def test_a_prompt_longer_than_the_context(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "--model", model, "x" * 100, "--greedy")
    assert said.out == plain(expected(model, "x" * 100))
    assert said.err == "the prompt has 100 tokens; the model reads the last of them, at most 31\n"


def test_which_checkpoint_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    save(Path("out_gpt/tiny.lmp"))
    best = save(Path("out_gpt/tiny.best.lmp"))
    archive = torch.load(best, weights_only=True)
    archive["model"]["state"]["head.bias"][65] = 1e6
    torch.save(archive, best)
    Path("out_gpt/tiny.run").mkdir()
    newest = Said(capsys, "x", "--greedy").out
    assert newest == plain(expected("out_gpt/tiny.lmp", "x"))
    for name in ("tiny", "tiny.lmp", "out_gpt/tiny.lmp", "out_gpt/tiny", "out_gpt/tiny.run"):
        assert Said(capsys, "--model", name, "x", "--greedy").out == newest, name
    for name in ("tiny.best", "tiny.best.lmp", "out_gpt/tiny.best.lmp"):
        assert Said(capsys, "--model", name, "x", "--max-len", "4", "--greedy").out == "AAAA\n", name
    os.renames("out_gpt", "elsewhere")
    assert Said(capsys, "--out-dir", "elsewhere", "--model", "tiny", "x", "--greedy").out == newest
    assert Said(capsys, "--out-dir", "elsewhere", "x", "--greedy").out == newest


def test_the_model_may_be_the_first_word(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    save(Path("out_gpt/tiny.lmp"))
    other = save(Path("other.lmp"))
    archive = torch.load(other, weights_only=True)
    archive["model"]["state"]["head.bias"][65] = 1e6
    torch.save(archive, other)
    Path("out_gpt/tiny.run").mkdir()
    wanted = plain(expected("out_gpt/tiny.lmp", "x"))
    for words in (("x",), ("tiny", "x"), ("out_gpt/tiny.lmp", "x"), ("--model", "tiny", "x")):
        assert Said(capsys, *words, "--greedy").out == wanted, words
    assert Said(capsys, "other.lmp", "x", "--max-len", "4").out == "AAAA\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("x\n"))
    assert Said(capsys, "other.lmp", "--max-len", "4").out == "AAAA\n", "a .lmp file alone is no prompt"
    assert Said(capsys, "tiny", "--title", "a\nb", "--greedy").out == plain(
        expected("out_gpt/tiny.lmp", "Title: a b\n")
    )
    said = Said(capsys, "tiny", "--message", "Which river?", "--message", "The Esk.", "--greedy")
    assert said.out == plain(expected("out_gpt/tiny.lmp", "Which river?\nThe Esk.\n"))


@pytest.mark.parametrize("colours", [True, False])
def test_a_terminal_shows_the_prompt_before_what_the_model_adds(
    colours: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("own.py").write_text(SCRIPTED.replace("é", "é\\n\\n"), encoding="utf-8")
    save(Path("own.lmp"), "own.py:Scripted")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "" if colours else "1")
    said = Said(capsys, "--model", "own", "--exp", "own.py:Scripted", "--greedy", "x\x1b\n")
    prompt = "\x1b[2mx␛\n\x1b[0m" if colours else "x␛\n"
    assert said.out.startswith(prompt), "and its line breaks"
    assert "\n\n" in said.out.removeprefix(prompt)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert "x␛" not in Said(capsys, "--model", "own", "--exp", "own.py:Scripted", "--greedy", "x\x1b\n").out


def test_lmplays_own_file_begins_with_the_end_of_text_mark(capsys: pytest.CaptureFixture[str]) -> None:
    generator = torch.Generator().manual_seed(3)
    state = their_state()
    state["tok_embed.weight"] = torch.randn(50257, 24, generator=generator)
    state["fc.weight"], state["fc.bias"] = torch.randn(50257, 24, generator=generator), torch.zeros(50257)
    torch.save(with_components(state), "theirs.lmp")
    converted = convert_lmplay(torch.load("theirs.lmp", weights_only=True))
    assert converted is not None
    model, _ = build_model(load_experiment("gpt2ish"), vocab_size=50257, context_len=12, num_blocks=2, embed_dim=24,
                           num_heads=4)  # fmt: skip
    model.load_state_dict(converted[0])
    tokenizer = load_tokenizer("gpt2")
    prompt = tokenizer.encode("The sea")
    texts = [
        tokenizer.decode(generate(model, ids, max_tokens=6, context_len=12, eot=tokenizer.eot))
        for ids in ([tokenizer.eot, *prompt], prompt)
    ]
    said = Said(capsys, "--model", "theirs.lmp", "The sea", "--max-len", "6", "--greedy")
    assert (said.status, said.err) == (0, "")
    assert said.out == plain(texts[0]) != plain(texts[1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": 1}, "tiny.lmp: holds no model"),
        ({"model": {"state": {}, "state_args": {"exp": "x", "context_len": 8}}},
         "tiny.lmp: does not say its model's tokenizer, vocab_size"),
        ({"runner": {"state": {"tokenizer_fingerprint": "other"}}}, "tokenizer bytes is not the one that"),
    ],
)  # fmt: skip
def test_checkpoints_that_cannot_be_used(
    changes: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(Path("tiny.lmp"), **changes)
    result = Said(capsys, "--model", "tiny.lmp", "x")
    assert result.status == 2
    assert result.err.startswith(said)
    assert result.err.count("\n") == 1


ODD: list[Any] = [None, True, 0, -1, 10**400, 1 << 62, 0.5, math.nan, "", "gpt2", "gpt2:999", [], {}]


@pytest.mark.parametrize("whose", ["ours", "lmplays"])
def test_whatever_a_file_says_of_its_model_is_a_text_or_one_line(
    whose: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it does not say its tokenizer's fingerprint."""
    model = torch.load(save(Path("tiny.lmp")), weights_only=True)["model"]
    names = list(model["state_args"])
    if whose == "lmplays":
        model, names = {"state_args": THEIR_ARGS, "state": their_state(50257)}, ["num_heads", "ff_dropout"]
    statuses = set()
    for name in names:
        for value in ODD:
            torch.save({"model": model | {"state_args": model["state_args"] | {name: value}}}, "odd.lmp")
            said = Said(capsys, "--model", "odd.lmp", "Hello", "--max-len", "2")
            statuses.add(said.status)
            assert said.err.count("\n") == (said.status == 2), (name, value)
            assert len(said.err) < 400, (name, value)
    assert statuses == {0, 2}


def test_a_tokenizer_with_more_tokens_than_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    own = torch.load(save(Path("tiny.lmp")), weights_only=True)["model"]
    model = {"state_args": own["state_args"] | {"tokenizer": "gpt2"}, "state": own["state"]}
    torch.save({"model": model}, "other.lmp")
    said = Said(capsys, "--model", "other.lmp", "Hello")
    assert (said.status, said.out) == (2, "")
    assert said.err == (
        "other.lmp: its model knows 257 tokens, tokenizer gpt2 has 50257: it is not the one that the model was "
        "trained with\n"
    )


def test_a_damaged_file(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(Path(model).read_bytes())
    data[len(data) // 2] ^= 1
    Path(model).write_bytes(data)
    result = Said(capsys, "--model", model, "x")
    assert result.status == 2
    assert result.err.startswith("tiny.lmp: damaged: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--top-p", "0"], "argument --top-p: must be above 0 and at most 1, got 0"),
        (["--top-p", "nan"], "argument --top-p: must be above 0 and at most 1, got nan"),
        (["--temperature", "-1"], "argument --temperature: must be above 0 and at most 100, got -1"),
        (["--max-len", "0"], "argument --max-len: must be a whole number from 1 on, got 0"),
        (["--top-k", "x"], "argument --top-k: must be a whole number from 0 on, got x"),
        (["--num-samples", "1.5"], "argument --num-samples: must be a whole number from 1 on, got 1.5"),
        (["--seed", str(2**63)], f"argument --seed: must be a whole number from 0 on, got {2**63}"),
        (["--tempreture", "1"], "unknown option '--tempreture'; did you mean --temperature?"),
        (["--model", "nowhere"], "no run called nowhere in this folder or in out_gpt"),
        (["--file", "nowhere.txt", "--model", "x"], "--file nowhere.txt: No such file or directory"),
        (["hello", "--file", "x"], "give the prompt as an argument or with --file, not both"),
        (["a", "b", "c", "--model", "x"], "give the prompt as one argument, in quotes, not as 3 words"),
        (["a", "b", "--model", "x"], "give the model as an argument or with --model, not both"),
        (["--title", "a", "--message", "b"], "give the prompt once, not with --title and with --message"),
        (["x", "--greedy", "--do-sample"], "--greedy and --do-sample: one of them"),
        (["--device", "zebra", "x"], "argument --device: must be auto, cpu, cuda, cuda:1 or mps, got zebra"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = generator_main(words if "--model" in words else [*words, "--model", model])
    err = capsys.readouterr().err
    assert status == 2
    assert said in err
    assert err.count("\n") == 1


def test_a_file_that_is_no_text(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("binary").write_bytes(b"\xff\xfe\x00")
    result = Said(capsys, "--model", model, "--file", "binary")
    assert (result.status, result.err) == (2, "--file binary: not a text in UTF-8\n")


def endless(path: str) -> None:
    """A file of a quarter of a terabyte, of which the disk holds nothing."""
    Path(path).touch()
    os.truncate(path, 1 << 38)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "is a pipe, not a plain file; give it by standard input"),
        (lambda path: Path(path).symlink_to("/dev/zero"), "is a device, not a plain file; give it by standard input"),
        (endless, "is larger than 16384 KiB"),
    ],
    ids=["pipe", "device", "without an end"],
)  # fmt: skip
def test_a_prompts_file_that_is_none_is_not_waited_for(make: Callable[[str], object], said: str, model: str) -> None:
    make("prompt")

    def work(report: Callable[[Any], None]) -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + (1 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        with contextlib.redirect_stderr(io.StringIO()) as err:
            report((generator_main(["--model", model, "--file", "prompt"]), err.getvalue()))

    with Child(work) as child:
        assert next(child.reports(20), None) == (2, f"--file prompt: {said}\n")


def test_a_run_without_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    Path("young.run").mkdir()
    assert Said(capsys, "x").err == "young: no checkpoint yet; save one with: lmplay-tui ctl young save\n"


def test_a_terminal_without_utf8_gets_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own.py").write_text(SCRIPTED, encoding="utf-8")
    save(Path("own.lmp"), "own.py:Scripted")
    terminal = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(terminal, encoding="ascii"))
    assert generator_main(["--model", "own", "--exp", "own.py:Scripted", "xy", "--device", "cpu", "--greedy"]) == 0
    assert terminal.getvalue() == b"? ?? ?    ?[31mred?\n"


@given(text=st.text() | st.binary())
def test_pieces_make_up_the_text_and_no_character_is_cut(text: str | bytes) -> None:
    tokenizer = load_tokenizer("bytes")
    ids = list(text if isinstance(text, bytes) else text.encode("utf-8", "replace"))
    pieces = list(texts_of_tokens(ids, tokenizer))
    assert "".join(pieces) == tokenizer.decode(ids)
    if isinstance(text, str):
        assert pieces == list(text.encode("utf-8", "replace").decode())


def test_help_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert "examples:" in help_of(lambda *words: generator_main([*words]), capsys)
