"""Textual's insides are reached from `ui/tty/` alone, and are what they were when that was written.

On a newer Textual: read its changes to every name below, mend `ui/tty/`, then raise `LOOKED_AT` and the pin.
"""

import ast
import importlib
import inspect
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
from textual import _compositor, screen
from textual._compositor import Compositor
from textual.app import App
from textual.dom import DOMNode
from textual.driver import Driver
from textual.drivers import linux_driver
from textual.drivers._writer_thread import WriterThread
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message
from textual.message_pump import MessagePump
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input, TextArea, _toast

import lmplay_tui.ui

LOOKED_AT = "8.2"

CALLED = {  # what we call or override: its parameters, and whether it is awaited
    App._print: ("(self, text: str, stderr: bool = False) -> None", False),
    App._handle_exception: ("(self, error: Exception) -> None", False),
    App._fatal_error: ("(self) -> None", False),
    App._set_pointer_shape: ("(self, shape: str) -> None", False),
    MessagePump._close_messages_no_wait: ("(self) -> None", False),
    MessagePump._process_messages_loop: ("(self) -> None", True),
    Screen._compositor_refresh: ("(self) -> None", False),
    Compositor._get_renders: (
        "(self, crop: 'Region | None' = None) -> 'Iterable[tuple[Region, Region, list[Strip]]]'", False
    ),
    Compositor._regions_to_spans: ("(regions: 'Iterable[Region]') -> 'Iterable[tuple[int, int, int]]'", False),
    LinuxDriver._get_terminal_size: ("(self) -> tuple[int, int]", False),
    Input._on_key: ("(self, event: 'events.Key') -> 'None'", True),
    TextArea._on_key: ("(self, event: 'events.Key') -> 'None'", True),
}  # fmt: skip

KEPT = {  # attributes that we read or set
    App: {"_batch_count", "_driver", "_filters"},
    DOMNode: {"_bindings"},
    Widget: {"_border_subtitle", "_border_title", "_styles_cache"},
    Screen: {"_compositor", "_dirty_widgets"},
    Compositor: {"_dirty_regions"},
    LinuxDriver: {"_app", "_in_band_window_resize"},
    WriterThread: {"_file", "_queue"},
    _toast.Toast: {"_timeout"},
}

REPLACED = [  # names that ours are put in the place of: who looks them up when they are called
    (_compositor, "ChopsUpdate", Compositor.render_partial_update),
    (_compositor, "LayoutUpdate", Compositor.render_full_update),
    (linux_driver, "WriterThread", LinuxDriver.start_application_mode),
    (screen, "Compositor", Screen.__init__),
    (_toast, "Toast", _toast.ToastRack.show),
]

_PRIVATE_MODULES = {"_compositor", "_toast", "_writer_thread", "_xterm_parser"}
_UI = Path(lmplay_tui.ui.__file__).parent


def test_the_installed_textual_is_the_one_that_was_looked_at() -> None:
    assert version("textual").startswith(f"{LOOKED_AT}."), "look at ui/tty/ again, then at this test's lists"


def test_the_pin_is_the_minor_version_that_was_looked_at() -> None:
    major, minor = map(int, LOOKED_AT.split("."))
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"textual>={major}.{minor},<{major}.{minor + 1}" in project["dependencies"]


@pytest.mark.parametrize("function", CALLED, ids=lambda function: function.__qualname__)
def test_what_we_call_or_override_has_the_form_that_we_rely_on(function) -> None:
    signature, is_awaited = CALLED[function]
    assert str(inspect.signature(function)).replace("'", "") == signature.replace("'", "")
    assert inspect.iscoroutinefunction(function) == is_awaited


@pytest.mark.parametrize("owner", KEPT, ids=lambda owner: owner.__name__)
def test_what_we_read_or_set_is_there(owner) -> None:
    assert KEPT[owner] <= _private_names(owner)


@pytest.mark.parametrize(("module", "name", "caller"), REPLACED, ids=lambda part: getattr(part, "__name__", part))
def test_what_we_replace_is_looked_up_when_it_is_needed(module, name, caller) -> None:
    assert hasattr(module, name)
    assert caller.__globals__ is vars(module)
    assert name in {node.id for node in ast.walk(_tree(caller)) if isinstance(node, ast.Name)}


def test_every_private_name_behind_the_fence_is_listed_here() -> None:
    listed = {function.__name__ for function in CALLED} | set.union(*KEPT.values()) | _PRIVATE_MODULES
    found = {name for path in (_UI / "tty").glob("*.py") for name, _ in _reached(path)}
    assert found == listed


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(_UI.rglob("*.py")) if path.parent.name != "tty"],
    ids=lambda path: path.relative_to(_UI).as_posix(),
)
def test_no_module_before_the_fence_reaches_into_textual(path: Path) -> None:
    assert list(_reached(path)) == []


# ---- who reaches for what


def _tree(thing: object) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(thing)))  # type: ignore[arg-type]


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@cache
def _module_tree(name: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(name)))


@cache
def _own_private_names(cls: type) -> frozenset[str]:
    """The private methods and attributes that a class declares or sets, without those of its bases."""
    trees = [
        node
        for node in ast.walk(_module_tree(cls.__module__))
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    ]
    assert trees, cls
    set_ = {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return frozenset(filter(_is_private, [*vars(cls), *set_]))


@cache
def _private_names(cls: type) -> frozenset[str]:
    """The private methods and attributes that Textual's part of a class has."""
    ours = (base for base in cls.__mro__ if base.__module__.split(".")[0] == "textual")
    return frozenset[str]().union(*map(_own_private_names, ours))


@cache
def _any_private_name() -> frozenset[str]:
    return frozenset[str]().union(*map(_private_names, (App, Screen, Driver, Message, Timer, TextArea, *KEPT)))


def _reached(path: Path) -> Iterator[tuple[str, int]]:
    """Private names of Textual in a module of ours, with their lines: imported, overridden, read, or set by chance."""
    module = importlib.import_module(".".join(["lmplay_tui.ui", *path.relative_to(_UI).with_suffix("").parts]))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names_of_self: dict[ast.AST, frozenset[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "textual":
            parts = {part for name in node.names for part in (*(node.module or "").split("."), name.name)}
            yield from ((part, node.lineno) for part in sorted(filter(_is_private, parts)))
        if isinstance(node, ast.ClassDef) and hasattr(module, node.name):
            names = _private_names(getattr(module, node.name))
            for child in ast.walk(node):
                names_of_self[child] = names or (_any_private_name() if node.name == "TypedText" else names)
            for child in node.body:
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and child.name in names_of_self[child]:
                    yield child.name, child.lineno
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            receiver = node.value.func if isinstance(node.value, ast.Call) else node.value
            if isinstance(receiver, ast.Name) and receiver.id == "os":  # os._exit
                continue
            is_self = isinstance(receiver, ast.Name) and receiver.id in ("self", "cls", "super")
            if node.attr in (names_of_self.get(node, frozenset()) if is_self else _any_private_name()):
                yield node.attr, node.lineno
