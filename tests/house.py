"""How the package is built, checked by `make check`: `python -m tests.house` names what breaks a rule, or nothing.

The rules: no circle of imports between modules; a file holds one idea, so it is neither a splinter of its only importer
nor longer than a reader can hold; nothing is written twice. An exception stands here with its reason, and one
that is no longer needed is an error too.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import grimp

PACKAGE = "lmplay_tui"
MOST_LINES = 650
FEWEST_LINES = 60  # a shorter file with one importer is a part of that importer
REPEATED_WORDS = 60  # of a syntax tree: about six lines of statements

CIRCLES: dict[str, str] = {}
SMALL: dict[str, str] = {}
LONG: dict[str, str] = {}
REPEATED: dict[str, str] = {}


def short(module: str) -> str:
    return module.removeprefix(f"{PACKAGE}.")


def source_of(module: str) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def circles(imports: Mapping[str, Set[str]]) -> Iterator[str]:
    """The sets of modules that reach each other, each set once."""
    reached: dict[str, set[str]] = {}
    for module in imports:
        found: set[str] = set()
        ahead = list(imports[module])
        while ahead:
            other = ahead.pop()
            if other not in found:
                found.add(other)
                ahead.extend(imports[other])
        reached[module] = found
    rings = {tuple(sorted({other for other in found if module in reached[other]})) for module, found in reached.items()}
    for ring in sorted(ring for ring in rings if ring):
        yield " ".join(short(module) for module in ring)


def _words(node: ast.AST) -> Iterator[str | tuple[str]]:
    """A syntax tree in words; the names of variables are tuples."""
    yield type(node).__name__
    for field, value in ast.iter_fields(node):
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST):
                yield from _words(part)
            elif field in ("id", "arg"):
                yield (str(part),)
            elif field not in ("ctx", "type_comment"):
                yield repr(part)


def _blocks(tree: ast.Module) -> Iterator[tuple[str, list[ast.stmt]]]:
    """Every block of statements with the function it is in, without docstrings."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                for field in ("body", "orelse", "finalbody"):
                    block = getattr(node, field, None)
                    if isinstance(block, list):
                        yield (
                            function.name,
                            [s for s in block if not isinstance(getattr(s, "value", None), ast.Constant)],
                        )


def repetitions(files: Mapping[str, Path]) -> dict[str, str]:
    """Statements that stand twice, under whatever names of variables: the functions they are in, and their lines."""
    places: dict[tuple[str, ...], dict[tuple[str, int], str]] = defaultdict(dict)
    for module, path in files.items():
        for function, block in _blocks(ast.parse(path.read_text())):
            words = [list(_words(statement)) for statement in block]
            for start in range(len(block)):
                names: dict[tuple[str], str] = {}
                text: list[str] = []
                for statement in words[start:]:
                    text += [
                        word if isinstance(word, str) else names.setdefault(word, f"_{len(names)}")
                        for word in statement
                    ]
                    if len(text) >= REPEATED_WORDS:
                        places[tuple(text)].setdefault((module, block[start].lineno), function)
                        break  # longer ones begin alike
    return {
        " ".join(sorted({f"{short(module)}.{function}" for (module, _), function in found.items()})):
            "at lines " + ", ".join(str(line) for _, line in found)
        for found in places.values()
        if len(found) > 1
    }  # fmt: skip


def judged(kind: str, found: Mapping[str, str], allowed: Mapping[str, str]) -> Iterator[str]:
    yield from (f"{kind}: {key} {text}" for key, text in found.items() if key not in allowed)
    yield from (f"{kind}: {key} is no longer an exception: take it off the list" for key in allowed if key not in found)


def main() -> int:
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    files = {module: source_of(module) for module in sorted(graph.modules)}
    lines = {module: len(path.read_text().splitlines()) for module, path in files.items()}
    importers = {module: graph.find_modules_that_directly_import(module) for module in files}
    small = {
        short(module): f"has {lines[module]} lines and is imported by {short(min(importers[module]))} alone"
        for module in files
        if 0 < lines[module] < FEWEST_LINES and len(importers[module]) == 1 and files[module].name != "__init__.py"
    }
    long = {short(module): f"has {count} lines" for module, count in lines.items() if count > MOST_LINES}
    imports = {module: graph.find_modules_directly_imported_by(module) for module in files}
    said = [
        *judged("circle of imports", dict.fromkeys(circles(imports), ""), CIRCLES),
        *judged("splinter", small, SMALL),
        *judged("too long", long, LONG),
        *judged("written twice", repetitions(files), REPEATED),
    ]
    print("\n".join(said) or f"{len(files)} modules keep the rules of the house")
    return bool(said)


if __name__ == "__main__":
    sys.exit(main())
