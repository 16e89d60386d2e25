"""`lmp_generator` and `lmplay-tui generate`: text from a checkpoint."""

import argparse
import codecs
import errno
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmplay_tui.command_line import device_argument, new_parser, number_argument, parse_line, whole_argument
from lmplay_tui.errors import EXIT_OK, UserError
from lmplay_tui.files import is_file, read_given
from lmplay_tui.options import home_path
from lmplay_tui.process import typed
from lmplay_tui.run.folder import find_run, output_folder
from lmplay_tui.text import one_line, printable

if TYPE_CHECKING:
    from torch import nn

    from lmplay_tui.data.tokenizer import Tokenizer

DESCRIPTION = """\
Let a model go on with a text.

MODEL: a checkpoint (.lmp) or a run's name; the newest run where left out. A word alone is the prompt, but for a .lmp
file. The prompt is an argument, a file (--file), a form that the model was trained on (--title, --message), or what
comes from standard input. Tokens are drawn; --greedy takes the likeliest each time, --seed makes a draw repeatable.
"""
EPILOG = """\
examples:
  {prog} "Once upon a time"
  {prog} my_model --title "The mill" --num-samples 3
  {prog} my_model.best.lmp --greedy --message "Which river?"
  {prog} my_model --file prompt.txt --seed 1 --max-len 100 > continued.txt

What a model was trained on decides what it answers to: docs/prompts.md.
"""
TEMPERATURE, TOP_K = 0.8, 50  # where none is given
_MOST_BYTES = 16 << 20  # of a prompt in a file: no context holds as many tokens
_ONLY_SAMPLING = ("temperature", "top_k", "top_p", "seed")
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True)
class _Writer:
    """A model with all that it takes to let it write."""

    model: "nn.Module"
    tokenizer: "Tokenizer"
    context_len: int
    begins_with_eot: bool  # LMPlay's own models have always seen the end-of-text mark before a prompt


def main(arguments: list[str], prog: str) -> int:
    """Generate as `arguments` say and return the exit status. Raises `UserError`."""
    from lmplay_tui.train.device import room

    line = parse_line(parser(prog), arguments)
    assign_words(line)
    _warn_of_idle_options(line)
    prompt = prompt_of(line)
    with room():
        writer = _load(_checkpoint(line.model, line.out_dir), line)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without UTF-8 gets question marks, not an exception
    _write(writer, prompt, line)
    return EXIT_OK


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `generate`."""
    made = new_parser(prog, DESCRIPTION, EPILOG.format(prog=prog), usage=f"{prog} [MODEL] [PROMPT] [options]")
    made.add_argument("words", nargs="*", default=[], metavar="[MODEL] [PROMPT]",
                        help="what writes, and the text to go on with; - reads standard input")  # fmt: skip
    prompt = made.add_argument_group("prompt")
    prompt.add_argument("--file", type=home_path, default=None, metavar="FILE", help="take it from a text file")
    prompt.add_argument("--title", default=None, metavar="TEXT",
                        help="as texts with a title are trained: Title: TEXT, and a line break")  # fmt: skip
    prompt.add_argument("--message", action="append", default=None, metavar="TEXT",
                        help="as conversations are trained: a turn and a line break; again: the next turn")  # fmt: skip
    model = made.add_argument_group("model")
    model.add_argument("--model", type=home_path, default=None, metavar="MODEL",
                       help="checkpoint (.lmp), or a run's name [the newest run]")  # fmt: skip
    model.add_argument("--out-dir", type=home_path, default=None, metavar="DIR",
                       help="where runs are looked for [out_gpt]")  # fmt: skip
    model.add_argument(
        "--exp",
        type=home_path,
        default=None,
        metavar="FILE:NAME",
        help="your own class, if the checkpoint is of one: no checkpoint may run a file by itself",
    )
    model.add_argument("--device", type=device_argument, default="auto", metavar="NAME",
                       help="auto, cpu, cuda, cuda:1, mps [auto]")  # fmt: skip
    text = made.add_argument_group("text")
    text.add_argument("--max-len", type=whole_argument(1), default=None, metavar="N",
                      help="tokens to write, at most [as many as the model's context]")  # fmt: skip
    text.add_argument("--num-samples", type=whole_argument(1), default=1, metavar="N", help="texts to write [1]")
    text.add_argument("--repetition-penalty", type=number_argument(above=0, at_most=100), default=1.0, metavar="X",
                      help="above 1: what was said before becomes less likely [1]")  # fmt: skip
    sampling = made.add_argument_group("sampling")
    sampling.add_argument("--greedy", action="store_true", default=False,
                          help="take the likeliest token each time instead of drawing")  # fmt: skip
    sampling.add_argument("--do-sample", action="store_true", default=False,
                          help="draw tokens, as it does without being told")  # fmt: skip
    sampling.add_argument("--temperature", type=number_argument(above=0, at_most=100), default=None, metavar="X",
                          help=f"below 1: safer, above 1: bolder [{TEMPERATURE:g}]")  # fmt: skip
    sampling.add_argument("--top-k", type=whole_argument(0), default=None, metavar="N",
                          help=f"draw among the N likeliest; 0: all [{TOP_K}]")  # fmt: skip
    sampling.add_argument("--top-p", type=number_argument(above=0, at_most=1), default=None, metavar="P",
                          help="draw among the fewest that together have probability P [1]")  # fmt: skip
    sampling.add_argument("--seed", type=whole_argument(0, 2**63 - 1), default=None, metavar="N",
                          help="the same seed gives the same text [another each time]")  # fmt: skip
    return made


def assign_words(line: argparse.Namespace) -> None:
    """Which of the words is the model, and which the prompt. Raises `UserError` where that is said twice."""
    if len(line.words) > 2:
        raise UserError(f"give the prompt as one argument, in quotes, not as {len(line.words)} words")
    forms = {"--file": line.file, "--title": line.title, "--message": line.message}
    given = [name for name, value in forms.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"give the prompt once, not with {' and with '.join(given)}")
    words = list(line.words)
    is_model = len(words) == 2 or (
        len(words) == 1 and (given or (words[0].endswith(".lmp") and is_file(Path(words[0]))))
    )
    if is_model and (line.model is None or len(words) == 2):
        if line.model is not None:
            raise UserError("give the model as an argument or with --model, not both")
        line.model = home_path(words.pop(0))
    if words and given:
        raise UserError(f"give the prompt as an argument or with {given[0]}, not both")
    line.prompt = words[0] if words else None
    if line.greedy and line.do_sample:
        raise UserError("--greedy and --do-sample: one of them")


def _warn_of_idle_options(line: argparse.Namespace) -> None:
    if not line.greedy:
        return
    idle = [f"--{name.replace('_', '-')}" for name in _ONLY_SAMPLING if getattr(line, name) is not None]
    idle += ["--num-samples"] if line.num_samples > 1 else []
    if idle:
        print(f"with --greedy no token is drawn: {', '.join(idle)} changes nothing", file=sys.stderr)


def prompt_of(line: argparse.Namespace) -> str:
    """The text to go on with. The end of a file's last line is not part of it: editors and `echo` put it there."""
    if line.title is not None:
        from lmplay_tui.data.rows import title_prompt

        return title_prompt(line.title)
    if line.message is not None:
        return "".join(f"{turn}\n" for turn in line.message)
    if line.file is not None:
        try:
            text = read_given(Path(line.file), _MOST_BYTES).decode("utf-8")
            return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")  # as standard input is read
        except OSError as error:
            hint = "; give it by standard input" if error.errno == errno.EINVAL else ""  # a shell's <(...)
            raise UserError(f"--file {one_line(line.file)}: {error.strerror}{hint}") from None
        except UnicodeDecodeError:
            raise UserError(f"--file {one_line(line.file)}: not a text in UTF-8") from None
    if line.prompt is None and sys.stdin.isatty():
        raise UserError('no prompt: give one as an argument ("" for none), with --file, or by standard input')
    if line.prompt in (None, "-"):
        try:
            return sys.stdin.read().removesuffix("\n")
        except UnicodeDecodeError:
            raise UserError("standard input: not a text in UTF-8") from None
    return str(line.prompt)


def _checkpoint(model: str | None, out_dir: str | None) -> Path:
    """The file that `--model` means: as it stands, with .lmp, in the output folder, or a run's newest."""
    if model is not None:
        given = Path(model)
        names = [given, given.with_name(f"{given.name}.lmp")] if given.name else []
        for path in [*names, *(output_folder(out_dir) / name for name in names)]:
            if is_file(path):
                return path
    run = find_run(model, out_dir)
    if not is_file(run.model):
        name = one_line(run.name)
        raise UserError(f"{name}: no checkpoint yet; save one with: {typed('lmplay-tui ctl')} {name} save")
    return run.model


def _load(path: Path, line: argparse.Namespace) -> _Writer:
    """The model and the tokenizer of a checkpoint, ours or LMPlay's own. Raises `UserError`."""
    from lmplay_tui.data.tokenizer import load_tokenizer
    from lmplay_tui.models.registry import allowed_experiment, build_model, load_experiment
    from lmplay_tui.train.build import load_weights, weights_in
    from lmplay_tui.train.checkpoint import load_archive
    from lmplay_tui.train.device import choose_device

    device = choose_device(line.device)
    archive = load_archive(path)
    state, built_with, is_lmplays = weights_in(archive, path)
    if missing := [key for key in ("exp", "tokenizer", "vocab_size", "context_len") if key not in built_with]:
        raise UserError(f"{one_line(path)}: does not say its model's {', '.join(missing)}")
    tokenizer = load_tokenizer(built_with["tokenizer"])
    if not is_lmplays:
        _check_tokenizer(archive, tokenizer)
    if built_with["vocab_size"] < tokenizer.vocab_size:
        raise UserError(
            f"{one_line(path)}: its model knows {built_with['vocab_size']} tokens, tokenizer "
            f"{one_line(tokenizer.name)} has {tokenizer.vocab_size}: it is not the one that the model was trained with"
        )
    exp = allowed_experiment(line.exp, built_with["exp"])
    if line.exp not in (None, exp):
        raise UserError(f"--exp {one_line(line.exp)}: the checkpoint's experiment is {one_line(exp)}; leave --exp out")
    model, _ = build_model(
        load_experiment(exp), vocab_size=built_with["vocab_size"], context_len=built_with["context_len"],
        num_blocks=built_with.get("num_blocks"), embed_dim=built_with.get("embed_dim"),
        num_heads=built_with.get("num_heads"), dropout=0.0, weights=state,
    )  # fmt: skip
    load_weights(model, state, path)
    return _Writer(model.to(device), tokenizer, built_with["context_len"], is_lmplays)


def _check_tokenizer(archive: dict[str, Any], tokenizer: "Tokenizer") -> None:
    from lmplay_tui.train.build import recorded_fingerprint

    if recorded_fingerprint(archive) not in (None, tokenizer.fingerprint):
        raise UserError(
            f"tokenizer {one_line(tokenizer.name)} is not the one that the checkpoint was trained with: "
            "its tokens mean other things to the model; install the version that was used"
        )


def _write(writer: _Writer, prompt: str, line: argparse.Namespace) -> None:
    """Write each text to standard output as it comes."""
    import torch

    from lmplay_tui.models.generation import choose_reading, generate

    tokenizer = writer.tokenizer
    ids = tokenizer.encode(prompt)
    if writer.begins_with_eot or not ids:
        ids = [tokenizer.eot, *ids]
    if len(ids) >= writer.context_len:
        print(f"the prompt has {len(ids)} tokens; the model reads the last of them, at most {writer.context_len - 1}",
              file=sys.stderr)  # fmt: skip
    reading, difference = choose_reading(writer.model, writer.context_len)
    if difference is not None:
        print(f"generation is slower, {reading.value}: {one_line(difference)}", file=sys.stderr)
    shown = _shown_prompt(prompt)
    temperature = 0.0 if line.greedy else TEMPERATURE if line.temperature is None else line.temperature
    top_k = TOP_K if line.top_k is None else line.top_k
    generator = torch.Generator()
    generator.seed() if line.seed is None else generator.manual_seed(line.seed)
    for number in range(1, line.num_samples + 1):
        if line.num_samples > 1:
            print(f"--- {number} of {line.num_samples} ---")
        text = generate(
            writer.model, ids, max_tokens=line.max_len or writer.context_len, context_len=writer.context_len,
            eot=tokenizer.eot, temperature=temperature, top_k=top_k or None, top_p=line.top_p,
            repetition_penalty=line.repetition_penalty, generator=generator, reading=reading,
        )  # fmt: skip
        print(shown, end="", flush=True)
        try:
            for piece in texts_of_tokens(text, tokenizer):
                print(printable(piece), end="", flush=True)
        finally:  # an interrupted text ends its line too
            print(flush=True)


def _shown_prompt(prompt: str) -> str:
    """The prompt as a terminal shows it before what the model adds, line breaks and all; nothing elsewhere."""
    if not sys.stdout.isatty():
        return ""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return printable(prompt) if is_plain or not prompt else f"{_DIM}{printable(prompt)}{_PLAIN}"


def texts_of_tokens(ids: Iterable[int], tokenizer: "Tokenizer") -> Iterable[str]:
    """The text of tokens as they come; a character whose bytes lie in several tokens appears with the last of them."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in ids:
        if piece := decoder.decode(tokenizer.token_bytes([token])[0]):
            yield piece
    if rest := decoder.decode(b"", final=True):
        yield rest
