"""Which private names of other libraries the package uses outside `ui/tty/`, each with its reason.

Textual's are held by `tests/ui/test_tty_fence.py`. A library's private name may go in any version: on a new one in
`USES` ask first for a public way; on a new version of a library look at its entries again.
"""

import ast
import importlib
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lmplay_tui

PACKAGE = Path(lmplay_tui.__file__).parent
PATHS = [path for path in sorted(PACKAGE.rglob("*.py")) if not path.is_relative_to(PACKAGE / "ui" / "tty")]

# What pyproject.toml says of each library, and what was looked at.
BOUNDS = {
    "Python": ">=3.11",  # 3.11
    "datasets": "datasets>=4",  # 5.2.0
    "plotext": "plotext>=5.3.2,<5.4",  # 5.3.2
    "torch": "torch>=2.6",  # 2.13.0; `make test-oldest` tries 2.6
    "tqdm": None,  # 4.70; `datasets` brings it
}

USES = {
    "command_line.py _ArgumentGroup": ("Python", "argparse's group of options has no public type; for mypy alone"),
    "command_line.py _actions": ("Python", "argparse lists a parser's options nowhere else"),
    "command_line.py _fill_text": ("Python", "argparse has no public way to format a help's paragraphs"),
    "commands/completion.py _actions": ("Python", "argparse lists a parser's options nowhere else"),
    "data/hub_csv.py _generate_tables": ("datasets", "its reader of CSV files is replaced in one builder: texts only"),
    "data/library.py __init__": ("tqdm", "bars are heard of through it, where no callback is offered; it is put back"),
    "data/splits.py _indices": ("datasets", "whether a dataset is a selection of the rows underneath"),
    "models/packed_attention.py _scaled_dot_product_flash_attention_for_cpu": (
        "torch", "the public function gives no sums that the backward pass needs"
    ),
    "models/packed_attention.py _scaled_dot_product_flash_attention_for_cpu_backward": (
        "torch", "its backward pass: the one around it is our own operator"
    ),
    "models/probing.py _buffers": ("torch", "puts a buffer back; `setattr` is the module's own to replace"),
    "train/agent.py __defaults__": ("torch", "its launcher passes no timeout to `PContext.close`: the default holds"),
    "train/device.py _is_amx_tile_supported": ("torch", "no public word on AMX; without it: not supported"),
    "train/device.py _is_avx512_bf16_supported": ("torch", "no public word on it; without it: not supported"),
    "train/device.py _is_mkldnn_bf16_supported": ("torch", "other processors than x86; without it: not supported"),
    "train/model_body.py _backward_hooks": ("torch", "whether a hook is there; torch has no question for it"),
    "train/model_body.py _backward_pre_hooks": ("torch", "as `_backward_hooks`; without it: none"),
    "train/model_body.py _forward_hooks": ("torch", "as `_backward_hooks`; without it: none"),
    "train/model_body.py _forward_pre_hooks": ("torch", "as `_backward_hooks`; without it: none"),
    "train/model_body.py _post_accumulate_grad_hooks": ("torch", "as `_backward_hooks`; without it: none"),
    "train/process_group.py _abort_process_group": ("torch", "nothing public ends NCCL's work; without it: not ended"),
    "train/reduction.py _version": ("torch", "counts a tensor's writes: whether a pass has changed a buffer"),
    "train/sharding.py _is_view": ("torch", "whether a tensor is a view, which must not be given out as it is"),
    "ui/widgets/chart.py _limit_size": ("plotext", "the public function is of plotext's one global figure"),
    "ui/widgets/chart.py _set_size": ("plotext", "as `_limit_size`; `textual_plotext` calls it too"),
}  # fmt: skip

DOCUMENTED = {"_exit", "_asdict", "_replace"}  # of `os` and of named tuples: public, whatever they are called


def test_every_private_name_of_a_library_is_listed_with_its_reason() -> None:
    found = {use: lines for path in PATHS for use, lines in uses(path).items()}
    new = [f"{use} at lines {lines}" for use, lines in found.items() if use not in USES]
    assert not new, f"is there no public way? else it belongs on the list: {'; '.join(new)}"
    assert USES.keys() <= found.keys(), f"no longer used, take it off the list: {USES.keys() - found.keys()}"


def test_each_library_is_bounded_as_it_was_when_it_was_looked_at() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = {project["requires-python"], *project["dependencies"]}
    assert {bound for bound in BOUNDS.values() if bound is not None} <= said, "look at the entries of USES again"
    assert BOUNDS.keys() == {library for library, _ in USES.values()}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import torch._dynamo", {"_dynamo"}),
        ("from torch._C import Store", {"_C"}),
        ("from argparse import _SubParsersAction as Action", {"_SubParsersAction"}),
        ("from lmplay_tui.files import _temporary_name", set()),
        ("tensor._grad_fn", {"_grad_fn"}),
        ("self._grad_fn", {"_grad_fn"}),
        ("super()._format_usage()", {"_format_usage"}),
        ("getattr(tensor, '_grad_fn', None)", {"_grad_fn"}),
        ("names = ('_in_hooks', '_out_hooks')", {"_in_hooks", "_out_hooks"}),
        ("suffixes = ('.bias', '_bias')", set()),
        ("function.__defaults__ = ()", {"__defaults__"}),
        ("function.__defaults__", set()),
        ("self._mine = 1; other._mine", set()),
        ("self._buffers = 1; self._buffers", set()),
        ("self._buffers = 1; module._buffers", {"_buffers"}),
        ("self._of_ours", set()),
        ("parser._of_ours", {"_of_ours"}),  # another module of ours calls something of its own so
        ("os._exit(1); row._asdict()", set()),
    ],
)
def test_what_counts_as_a_use(line: str, found: set[str]) -> None:
    tree = ast.parse(line)
    assert {name for name, _ in reached(tree, defined(tree) | {"_of_ours"})} == found


# ---- who reaches for what


def uses(path: Path) -> dict[str, list[int]]:
    """The private names of libraries in a module of ours, and their lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: dict[str, list[int]] = {}
    for name, line in (*reached(tree, ours()), *overridden(tree, path)):
        found.setdefault(f"{path.relative_to(PACKAGE).as_posix()} {name}", []).append(line)
    return found


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.startswith("__") and name.strip("_") != ""


def is_of_self(node: ast.Attribute) -> bool:
    receiver = node.value.func if isinstance(node.value, ast.Call) else node.value
    return isinstance(receiver, ast.Name) and receiver.id in ("self", "cls", "super")


def defined(tree: ast.Module) -> set[str]:
    """The private names that a module of ours gives to something."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.Name(ctx=ast.Store()):
                found.add(node.id)
            case ast.Attribute(ctx=ast.Store()) if is_of_self(node):
                found.add(node.attr)
    return set(filter(is_private, found))


@cache
def ours() -> set[str]:
    return set[str]().union(*(defined(ast.parse(path.read_text(encoding="utf-8"))) for path in PACKAGE.rglob("*.py")))


@cache
def of_torch() -> set[str]:
    """The private names of what most other objects are that the package asks for something."""
    return set(filter(is_private, (*dir(nn.Module()), *dir(torch.Tensor))))


def reached(tree: ast.Module, own: set[str]) -> Iterator[tuple[str, int]]:
    """Private names, with their lines: imported, asked for, or in a text by which they are asked for.

    Not those of `self` that the package defines; of others, not those that this module defines and torch has not.
    """
    here = defined(tree) - of_torch()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom() if (node.module or "").split(".")[0] != PACKAGE.name:
                names = {*(node.module or "").split("."), *(alias.name for alias in node.names)}
            case ast.Import():
                names = {part for alias in node.names for part in alias.name.split(".")}
            case ast.Attribute(ctx=ast.Store()) if node.attr.startswith("__") and not is_of_self(node):
                yield node.attr, node.lineno
                continue
            case ast.Attribute() if is_private(node.attr):
                names = {node.attr} - (own if is_of_self(node) else here) - DOCUMENTED
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"), args=[_, ast.Constant(), *_]
            ):
                names = {getattr(node.args[1], "value", "")} - own
            case ast.Tuple() | ast.List() | ast.Set():
                texts: list[Any] = [getattr(part, "value", None) for part in node.elts]
                names = set(texts) if all(map(is_private, texts)) else set()
            case _:
                continue
        yield from ((name, getattr(node, "lineno", 0)) for name in filter(is_private, names))


def overridden(tree: ast.Module, path: Path) -> Iterator[tuple[str, int]]:
    """Private names of a base class from a library that a class of ours gives another meaning, with their lines."""
    derived = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.bases]
    module = ".".join([PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts])
    for node in derived:
        bases = getattr(importlib.import_module(module), node.name).__mro__
        theirs = [base for base in bases if base.__module__.split(".")[0] not in (PACKAGE.name, "textual")]
        for child in ast.walk(node):
            match child:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    pass
                case ast.Attribute(attr=name, ctx=ast.Store()) if is_of_self(child):
                    pass
                case _:
                    continue
            if is_private(name) and any(name in vars(base) for base in theirs):
                yield name, child.lineno
