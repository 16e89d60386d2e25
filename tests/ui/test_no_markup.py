"""No text that is put together at run time is ever read as markup: found in the source, so that it stays so."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmplay_tui.ui

HOME = Path(lmplay_tui.ui.__file__).parent
READS_MARKUP = {"notify", "update", "Static", "Label", "Button", "Checkbox", "Collapsible", "add_option", "add_row"}
SAFE = {"Text", "Content"}  # what makes text that is no markup


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield node, name


def unsafe(source: str) -> list[int]:
    """Lines where a widget is given text that is neither written out, nor `Content` or `Text`, nor marked as plain."""
    tree = ast.parse(source)
    found = []
    for call, name in calls(tree):
        if name not in READS_MARKUP or not call.args:
            continue
        plain = any(word.arg == "markup" and ast.unparse(word.value) == "False" for word in call.keywords)
        given = call.args[0]
        made = isinstance(given, ast.Call) and getattr(given.func, "id", "") in SAFE
        if not (plain or made or isinstance(given, ast.Constant)):
            found.append(call.lineno)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):  # `set_titles` is there for these
            names = [target.attr for target in node.targets if isinstance(target, ast.Attribute)]
            found += [node.lineno for name in names if name in ("border_title", "border_subtitle")]
    return found


@pytest.mark.parametrize("path", sorted(HOME.rglob("*.py")), ids=lambda path: str(path.relative_to(HOME)))
def test_no_widget_reads_foreign_text_as_markup(path: Path) -> None:
    assert unsafe(path.read_text(encoding="utf-8")) == []


def test_what_would_be_found() -> None:
    assert unsafe('self.notify(f"{name} is there")') == [1]
    assert unsafe("label.update(text)") == [1]
    assert unsafe("Static(name)") == [1]
    assert unsafe("pane.border_title = name") == [1]
    assert unsafe('self.notify(f"{name}", markup=False)') == []
    assert unsafe("label.update(Text(name))") == []
    assert unsafe('Button("Save")') == []
