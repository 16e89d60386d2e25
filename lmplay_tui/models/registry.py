"""Which models there are to train: those shipped, and any class of the user's own (`--exp file.py:Name`).

Their names are known before torch is imported: a command line is checked first.
"""

import ast
import contextlib
import importlib.util
import inspect
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lmplay_tui.errors import UserError
from lmplay_tui.options import nearest
from lmplay_tui.process import settle_vector_functions
from lmplay_tui.text import one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

SHAPE = ("num_blocks", "embed_dim", "num_heads")


@dataclass(frozen=True)
class Experiment:
    """A model that can be trained, and the shape it has unless options give another.

    `build`: makes it from keyword arguments. A shape of None: the model's constructor does not take that argument.
    `file`: where the user's own class came from; None for a shipped one.
    """

    name: str
    summary: str
    num_blocks: int | None
    embed_dim: int | None
    num_heads: int | None
    build: Callable[..., "nn.Module"]
    file: Path | None = None


def _gpt2ish(
    *, vocab_size: int, context_len: int, num_blocks: int, embed_dim: int, num_heads: int, dropout: float
) -> "nn.Module":
    from lmplay_tui.models.gpt2ish import GPT2ish  # with torch

    return GPT2ish(
        vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks, embed_dim=embed_dim,
        num_heads=num_heads, dropout=dropout,
    )  # fmt: skip


# A class of the user's own has this shape where neither it nor an option gives one.
_REFERENCE = Experiment("gpt2ish", "the reference: GPT-2's shape at half its depth", 6, 768, 12, _gpt2ish)
_SHIPPED = (
    _REFERENCE,
    Experiment("gpt2ish_med", "the shape of GPT-2 medium", 24, 1024, 16, _gpt2ish),
    Experiment("gpt2ish_large", "the shape of GPT-2 large", 36, 1280, 20, _gpt2ish),
    Experiment("s_gpt2ish", "small and deep", 18, 288, 6, _gpt2ish),
    Experiment("test_runner", "tiny, to see that everything works", 6, 64, 2, _gpt2ish),
)


def experiments() -> dict[str, Experiment]:
    """The shipped experiments by name."""
    return {experiment.name: experiment for experiment in _SHIPPED}


def check_experiment(name: str) -> None:
    """Refuse an experiment's name, as far as nothing has to be run to see that it is wrong.

    Raises `UserError` if there is no such experiment or file, or the file is no Python and names no such class.
    """
    file, colon, class_name = name.rpartition(":")
    if colon:
        where = f"--exp {one_line(name)}"
        tree = _parsed(Path(file), where)
        if class_name not in _bound(tree):
            raise _no_class(where, class_name, [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)])
    elif name not in (known := experiments()):
        if name.endswith(".py"):
            raise UserError(f"--exp {one_line(name)}: say which class of the file, as file.py:Name")
        raise UserError(f"unknown experiment {one_line(name, 60)}{nearest(name, known)}; see --exp list")


def allowed_experiment(named: str | None, exp: str) -> str:
    """An experiment, whose file is run only if the command line has `named` it. Raises `UserError`.

    No plan, no checkpoint and no other process makes anything run.
    """
    if ":" in exp and named != exp:
        raise UserError(f"the experiment is from a file: say so with --exp {shlex.quote(one_line(exp))}")
    return exp


def load_experiment(name: str) -> Experiment:
    """A shipped experiment, or the user's own class as `file.py:Name`, whose file is then run.

    The caller makes sure by `allowed_experiment` that a `file.py:Name` was typed by the user.
    Raises `UserError` if there is no such experiment, file or class, or the file does not run.
    """
    file, colon, class_name = name.rpartition(":")
    if colon:
        return _from_file(name, Path(file), class_name)
    check_experiment(name)
    return experiments()[name]


def _no_class(where: str, class_name: str, classes: list[str]) -> UserError:
    hint = nearest(class_name, classes) or (f"; it has {', '.join(classes)}" if classes else "")
    return UserError(f"{where}: the file has no {one_line(class_name) or 'class without a name'}{one_line(hint)}")


def _parsed(file: Path, where: str) -> ast.Module:
    """The syntax of the user's file. Raises `UserError` where there is no such file, or it is no Python."""
    try:
        if not file.is_file():
            raise UserError(f"{where}: no such file: {one_line(file)}")
        if file.suffix != ".py":
            raise UserError(f"{where}: {one_line(file)} is not a Python file (.py)")
        return ast.parse(file.read_bytes(), file)
    except OSError as error:
        raise UserError(f"{where}: {one_line(file)} cannot be read: {error.strerror}") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # a NUL in it; nested too deeply
        raise UserError(f"{where}: the file does not run: {_what(error, file)}") from None


class _Anything(frozenset[str]):
    def __contains__(self, name: object) -> bool:
        return name != ""


def _bound(tree: ast.Module) -> Set[str]:
    """The names that a file may bind; all of them where it imports by a star or makes names as it runs."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(names=[ast.alias(name="*")]) | ast.FunctionDef(name="__getattr__"):
                return _Anything()
            case ast.Name(id="globals" | "exec" | "vars" | "setattr"):
                return _Anything()
            case ast.ClassDef() | ast.FunctionDef():
                names.add(node.name)
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
            case ast.alias():
                names.add((node.asname or node.name).partition(".")[0])
    return names


def _from_file(name: str, file: Path, class_name: str) -> Experiment:
    where = f"--exp {one_line(name)}"
    _parsed(file, where)
    module = _import(file, where)
    found = getattr(module, class_name, None)
    if found is None:
        own = [key for key, value in vars(module).items() if _is_model(value) and value.__module__ == module.__name__]
        raise _no_class(where, class_name, own)
    if not _is_model(found):
        raise UserError(f"{where}: {one_line(class_name)} is not a torch.nn.Module class")
    accepted = _arguments(found)
    shape = {key: _default(accepted[key], getattr(_REFERENCE, key)) if key in accepted else None for key in SHAPE}
    summary = (found.__doc__ or "").strip().partition("\n")[0]
    return Experiment(name=name, summary=summary, **shape, build=found, file=file.resolve())


def _is_model(value: object) -> bool:
    from torch import nn

    return inspect.isclass(value) and issubclass(value, nn.Module)


def _arguments(build: Callable[..., "nn.Module"]) -> Mapping[str, inspect.Parameter]:
    """What a constructor takes by keyword. `**kwargs` is no reason to give it everything: it may refuse."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {key: value for key, value in inspect.signature(build).parameters.items() if value.kind in by_name}


def _default(parameter: inspect.Parameter, otherwise: Any) -> Any:
    return otherwise if parameter.default in (inspect.Parameter.empty, None) else parameter.default


def _import(file: Path, where: str) -> ModuleType:
    module_name = f"lmplay_experiment_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look for it here
    sys.path.insert(0, str(file.resolve().parent))  # as `python file.py` does: it may import its neighbours
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise UserError(f"{where}: the file does not run: {_what(error, file)}") from error
    finally:
        sys.path.pop(0)
    return module


def _what(error: Exception, file: Path | None) -> str:
    """An error of the user's code in one line, with the line of their file."""
    frames = traceback.extract_tb(error.__traceback__)
    line = next((f.lineno for f in reversed(frames) if file and Path(f.filename).resolve() == file.resolve()), None)
    what = one_line(f"{type(error).__name__}: {error}")
    return what if line is None else f"{what} (line {line})"


def build_model(
    experiment: Experiment, *, vocab_size: int, context_len: int, num_blocks: int | None = None,
    embed_dim: int | None = None, num_heads: int | None = None, dropout: float = 0.1, seed: int = 0,
    weights: "Mapping[str, Tensor] | None" = None,
) -> tuple["nn.Module", dict[str, Any]]:  # fmt: skip
    """The model on the CPU, and what it was built with as plain values, `exp` included.

    A shape of None is the experiment's own. The same seed gives the same weights; the global random state is not
    touched. A constructor of the user's is given the arguments that it names. `weights`: what the model will take from
    a file; the sizes are then the file's too, and nothing is built that is out of all proportion to them.
    Raises `UserError` if the shape is impossible or the constructor fails.
    """
    asked = {"num_blocks": num_blocks, "embed_dim": embed_dim, "num_heads": num_heads}
    shape = {key: getattr(experiment, key) if value is None else value for key, value in asked.items()}
    arguments = {"vocab_size": vocab_size, "context_len": context_len, **shape, "dropout": dropout}
    accepted = _arguments(experiment.build)
    for key, value in asked.items():
        if value is not None and key not in accepted:
            raise UserError(f"--{key.replace('_', '-')}: {one_line(experiment.name)} has no such argument")
    import torch

    settle_vector_functions()  # whatever computes with a model begins here
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not `torch.manual_seed`, which would reseed GPUs too
        try:
            with _in_proportion(weights):
                model = experiment.build(**{key: value for key, value in arguments.items() if key in accepted})
        except Exception as error:
            what = error if experiment.file is None else _what(error, experiment.file)
            raise UserError(f"experiment {one_line(experiment.name)}: {one_line(what)}") from error
    return model, {"exp": experiment.name, **arguments}


_SLACK = 1 << 20  # numbers; a constructor may make what it then replaces, as where weights are tied


@contextlib.contextmanager
def _in_proportion(weights: "Mapping[str, Tensor] | None") -> Iterator[None]:
    """Raise `ValueError` from a constructor once its parameters are several times as many as `weights`.

    Memory of a parameter that has just been made has not been touched: a hostile size costs nothing up to here.
    """
    if weights is None:
        yield
        return
    most, made = 4 * sum(tensor.numel() for tensor in weights.values()) + _SLACK, 0

    from torch.nn.modules.module import register_module_parameter_registration_hook

    def count(_: "nn.Module", __: str, parameter: "nn.Parameter | None") -> None:
        nonlocal made
        made += 0 if parameter is None else parameter.numel()
        if made > most:
            raise ValueError("the sizes that the file gives are not those of its weights")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
