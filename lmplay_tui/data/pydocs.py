"""`pydocs`, the embedded dataset: real English that every Python carries.

Its rows are the sections of the language reference (`pydoc_data.topics`) and the docstrings of the standard library,
each of 20 words at least, in a scattered order, so that the beginning is like the whole.
"""

import ast
import contextlib
import os
import platform
import re
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import platformdirs
import pyarrow as pa
import pyarrow.compute as pc

from lmplay_tui.data.shuffle import Permutation
from lmplay_tui.data.splits import Segment, SplitRows, of_table
from lmplay_tui.errors import UserError
from lmplay_tui.files import replacing
from lmplay_tui.options import nearest
from lmplay_tui.text import one_line

NAME = "pydocs"
PARTS = ("topics", "docstrings")
FEWEST_WORDS = 20
_FORMAT = 2  # of the cached rows: a change of what they hold must not find the old ones

Row = tuple[str, str, str]  # part, title, text

_LEFT_OUT = frozenset(("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data"))
_UNDERLINE = re.compile(r"^([*=\-^~\"#+])\1{2,}$")


def split_rows(config: str | None, report: Callable[[str, str, float | None], None]) -> SplitRows:
    """The rows as columns `part`, `title`, `text`; of one part where `config` names it.

    A part's rows keep their places in the whole, so the same are held out of it. Built on first use (about 3 s), then
    read from the user's cache folder; a folder that cannot be written does without. Raises `UserError` for an unknown
    part.
    """
    if config is not None and config not in PARTS:
        raise UserError(
            f"dataset pydocs: there is no config {one_line(config, 60)}{nearest(config, PARTS)}; "
            f"it has {' and '.join(PARTS)}, both without one"
        )
    path = cache_path()
    found = _cached(path)
    if found is None:
        found = build(report)
        _keep(found, path)
    whole = of_table(found)
    if config is None:
        return whole
    mask = pc.equal(found["part"], config)
    places = np.flatnonzero(mask.to_numpy())
    identity = whole.segments[0].identity
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(places) else []
    return SplitRows(found.filter(mask), tuple(Segment(identity, int(run[0]), len(run)) for run in runs))


def cache_path() -> Path:
    """Where the rows of this Python are kept."""
    python = f"{sys.implementation.name}-{platform.python_version()}"
    return platformdirs.user_cache_path("lmplay-tui") / f"{NAME}-{python}-{_FORMAT}.arrow"


def _cached(path: Path) -> pa.Table | None:
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid):  # not there, or cut short by another process: built anew
        return None


def _keep(rows: pa.Table, path: Path) -> None:
    """Write the cache, whole or not at all; several processes may do so at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError:
        return
    with (
        contextlib.suppress(OSError),
        replacing(path, Path(temporary)),
        os.fdopen(handle, "wb") as file,
        pa.ipc.new_file(file, rows.schema) as writer,
    ):
        writer.write_table(rows)


def build(report: Callable[[str, str, float | None], None]) -> pa.Table:
    """Read topics and docstrings anew, in their scattered order, each text once, however its words are set."""
    rows: dict[str, Row] = {}
    for row in (*_topics(), *_docstrings(report)):
        words = row[2].split()
        if len(words) >= FEWEST_WORDS:
            rows.setdefault(" ".join(words), row)
    ordered = list(rows.values())
    scattered = Permutation(len(ordered), 0)
    ordered = [ordered[scattered[place]] for place in range(len(ordered))]
    return pa.table(
        {name: pa.array([row[n] for row in ordered], pa.string()) for n, name in enumerate(("part", "title", "text"))}
    )


def _topics() -> Iterator[Row]:
    """The sections of the language reference; their headings are underlined."""
    try:
        from pydoc_data.topics import topics
    except ImportError:  # a Python without its documentation
        return
    for topic in sorted(topics):
        title = topic
        body: list[str] = []
        for line in topics[topic].split("\n"):
            if _UNDERLINE.match(line) and body and len(line) >= len(body[-1]) > 0 and not body[-1].startswith(" "):
                heading = body.pop()
                yield "topics", title, "\n".join(body).strip()
                title, body = heading, []
            else:
                body.append(line)
        yield "topics", title, "\n".join(body).strip()


def _docstrings(report: Callable[[str, str, float | None], None]) -> Iterator[Row]:
    """The docstrings of the standard library, under their qualified names; parsed, never imported."""
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(_files(library))
    for number, file in enumerate(files):
        if number % 50 == 0:
            report("loading", f"{NAME}: reading the standard library", number / len(files))
        try:
            source = (library / file).read_text(encoding="utf-8")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an invalid escape of the library is not ours to tell
                tree = ast.parse(source)
        except (OSError, ValueError, SyntaxError, RecursionError):
            continue  # templates and files of other encodings
        module = ".".join(part for part in file.with_suffix("").parts if part != "__init__") or file.stem
        yield from _documented(tree, module)


def _files(library: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(library):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]  # not walked either: some hold thousands
        for name in names:
            if name.endswith(".py") and not name.startswith("test_"):
                yield (Path(folder) / name).relative_to(library)


def _documented(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[Row]:
    text = ast.get_docstring(node)
    if text:
        yield "docstrings", name, text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(child, f"{name}.{child.name}")
