"""The embedded dataset: what it holds, and that its cache is whole or not there."""

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import platformdirs
import pyarrow as pa
import pytest

from lmplay_tui.data import pydocs
from lmplay_tui.errors import UserError
from tests.data.conftest import Open, no_report


@pytest.fixture(scope="module")
def whole() -> pa.Table:
    return pydocs.build(no_report)


@pytest.fixture
def little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of two modules."""
    library = tmp_path / "lib"
    words = " ".join(["word"] * 20)
    files: dict[str, str | bytes] = {
        "one.py": f'"""Module one. {words}"""\nraise SystemExit\nclass A:\n    """Class. {words}"""\n'
        f'    async def b(self):\n        """Method. {words}\n\n            Indented.\n        Not.\n        """\n'
        f'def short():\n    """Too short."""\ndef again():\n    """Class. {words}"""\n',
        "package/__init__.py": f'"""Package. {words}"""\n',
        "package/two.py": f'def f():\n    r"""Function \\d. {words}"""\n    "\\d"\n',
        "package/tests/test_x.py": f'"""Test. {words}"""\n',
        "test/a.py": f'"""Test. {words}"""\n',
        "pydoc_data/topics.py": f'"""Topics. {words}"""\n',
        "test_b.py": f'"""Test. {words}"""\n',
        "site-packages/c.py": f'"""Not ours. {words}"""\n',
        "broken.py": "def (:\n",
        "latin.py": b'"""\xe9"""\n',
        "nul.py": "\0",
    }
    for name, contents in files.items():
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(library))
    cache = tmp_path / "cache"
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_: cache)
    return cache


def test_it_is_what_it_is_said_to_be(whole: pa.Table) -> None:
    assert 3000 <= whole.num_rows <= 4500
    texts, titles = whole["text"].to_pylist(), whole["title"].to_pylist()
    assert 1_600_000 <= sum(map(len, texts)) <= 2_600_000
    assert all(len(text.split()) >= 20 for text in texts)
    assert len(set(texts)) == len(texts)
    by_title = dict(zip(titles, texts, strict=True))
    assert by_title["html.escape"].startswith("Replace special characters")
    assert 'The "with" statement is used to wrap the execution' in by_title['The "with" statement']
    assert not any(title.startswith(("test.", "site-packages")) or ".test_" in title for title in titles)


def test_its_beginning_is_like_the_whole(whole: pa.Table) -> None:
    parts = whole["part"].to_pylist()
    everywhere = Counter(parts)
    assert set(everywhere) == {"topics", "docstrings"}
    first = Counter(parts[:1000])
    assert first["topics"] / 1000 == pytest.approx(everywhere["topics"] / len(parts), rel=0.5)
    modules = [title.split(".")[0] for title in whole["title"].to_pylist()]
    assert len(set(modules[:500])) > 0.3 * len(set(modules))


def test_docstrings_are_parsed_never_imported(little: Path) -> None:
    rows = pydocs.build(no_report).to_pylist()
    found = {row["title"]: row["text"] for row in rows if row["part"] == "docstrings"}
    assert set(found) == {"one", "one.A", "one.A.b", "package", "package.two.f"}  # a text that comes twice comes once
    assert found["one.A.b"].endswith("word\n\n    Indented.\nNot.")
    assert found["package.two.f"].startswith("Function \\d.")


def test_sections_of_the_reference(whole: pa.Table) -> None:
    rows = [row for row in whole.to_pylist() if row["part"] == "topics"]
    assert 100 <= len(rows) <= 400
    assert not any("\n***" in row["text"] or row["text"].startswith("***") for row in rows)
    titles = {row["title"] for row in rows}
    assert {"String and Bytes literals", 'The "try" statement', "Comparisons"} <= titles


def test_it_is_built_once(little: Path) -> None:
    heard: list[float | None] = []
    first = pydocs.split_rows(None, lambda activity, detail, fraction: heard.append(fraction)).table
    assert heard[0] == 0.0
    assert [path.suffix for path in little.iterdir()] == [".arrow"]
    assert pydocs.split_rows(None, lambda *_: pytest.fail("built again")).table.equals(first)
    parts = [pydocs.split_rows(part, no_report).table for part in pydocs.PARTS]
    assert [set(part["part"].to_pylist()) for part in parts] == [{"topics"}, {"docstrings"}]
    assert sum(part.num_rows for part in parts) == first.num_rows


def test_an_unknown_part() -> None:
    with pytest.raises(UserError, match=r"pydocs: there is no config topic; did you mean topics\?; it has topics and"):
        pydocs.split_rows("topic", no_report)


@pytest.mark.parametrize("contents", [b"", b"ARROW1", b"x" * 1000])
def test_a_damaged_cache_is_built_anew(contents: bytes, little: Path) -> None:
    first = pydocs.split_rows(None, no_report).table
    pydocs.cache_path().write_bytes(contents)
    assert pydocs.split_rows(None, no_report).table.equals(first)
    assert pydocs.cache_path().stat().st_size > 1000


def test_a_cut_cache_is_built_anew(little: Path) -> None:
    first = pydocs.split_rows(None, no_report).table
    whole = pydocs.cache_path().read_bytes()
    pydocs.cache_path().write_bytes(whole[: len(whole) // 2])
    assert pydocs.split_rows(None, no_report).table.equals(first)


def test_a_cache_folder_that_cannot_be_written(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    little.write_text("a file is in its place", encoding="utf-8")
    assert pydocs.split_rows(None, no_report).table.num_rows > 5
    little.unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert pydocs.split_rows(None, no_report).table.num_rows > 5
    assert list(little.iterdir()) == []


def test_several_processes_at_once(little: Path) -> None:
    """Each writes a file of its own and renames it; readers see one or another, whole."""
    found: list[pa.Table] = []
    threads = [
        threading.Thread(target=lambda: found.append(pydocs.split_rows(None, no_report).table)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(table.equals(found[0]) for table in found)
    assert len(list(little.iterdir())) == 1


def test_the_order_is_always_the_same(little: Path) -> None:
    one, other = pydocs.build(no_report), pydocs.build(no_report)
    assert one.equals(other)


def test_a_python_without_its_documentation(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert set(pydocs.build(no_report)["part"].to_pylist()) == {"docstrings"}


def test_a_stage_of_it(little: Path, opened: Open) -> None:
    from lmplay_tui.data.batches import Position
    from lmplay_tui.plan.schema import DatasetSpec

    data = opened(DatasetSpec("pydocs", "pydocs", config="docstrings"), validation_split=0.0, context_len=256)
    prompts = [s.prompt for b in data.batches(Position()) for s in b.samples]
    assert sorted(prompts) == [f"Title: {name}\n" for name in ("one", "one.A", "one.A.b", "package", "package.two.f")]


def test_it_needs_no_large_library() -> None:
    code = (
        "import sys; from lmplay_tui.data import stage_data, sources, pydocs, saved;"
        "assert not {'datasets', 'torch', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=os.environ)
