"""How the package is built, checked by `make check`: `python -m tests.house` names what breaks a rule, or nothing.

The rules: no circle of imports between modules; a file holds one idea, so it is neither a splinter of its only importer
nor longer than a reader can hold; nothing is written twice, in the tests either; `run.json` is read in one place. Tests
import no name that begins with an underscore, come to another room by its doors, and replace what is the product's in
`tests/seams.py` alone, so that a move of a module touches few of them. A few words have plainer ones, which code, tests
and docs use. An exception stands here with its reason, and one that is no longer needed is an error too.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import grimp

from tests.seams import SEAMS

PACKAGE = "lmplay_tui"
MOST_LINES = 650
FEWEST_LINES = 60  # a shorter file with one importer is a part of that importer
REPEATED_WORDS = 60  # of a syntax tree: about six lines of statements

CIRCLES: dict[str, str] = {}
SMALL: dict[str, str] = {}
LONG: dict[str, str] = {}
REPEATED: dict[str, str] = {}
REPEATED_IN_TESTS = {
    "tests.bench.runs.run_save tests.bench.ui._beside_training": "what is timed, in lists that are empty at first",
}
# A run's `run.json` is read by `SavedStatus` alone, so that two places cannot take it differently.
RAW_STATUS = {
    "run.folder": "`saved_status` is made here",
    "run.recorder": "it goes on with what stood there when it writes",
    "run.upkeep": "it writes what stands there again, under another name",
}

# "Hosts" is banned as what a process does; machines may be called so.
BANNED_WORDS = re.compile(
    r"(?<![a-z])(obey[a-z]*|telling|hosting|aloud|heirs?|somebody|(?:that|which|who|nobody) hosts)(?![a-z])",
    re.IGNORECASE,
)

# What tests of other rooms may import of a room; of a room that is not here, all. `tests/bench` and `tests/gpu` measure
# parts, and what lies beside the rooms is for all of them.
DOORS = {
    "data": {"batches", "rows", "samples", "stage_data", "tokenizer", "worker"},
    "models": {"body", "generation", "gpt2ish", "lmplay_weights", "registry"},
    "plan": {"builtin", "reading", "schema"},
    "run": {"axes", "charts", "control_files", "controls", "events", "export", "folder", "journal", "learning_rate",
            "metric_names", "notify", "ranks", "recorder", "sentences", "statistics", "status", "upkeep", "view"},
    "train": {"check", "checkpoint", "launch", "progress", "settings"},
    "ui": {"app", "run_list", "screens.dashboard", "session", "source"},
}  # fmt: skip
OF_ROOM = {"faults": "train"}  # tests of a room under another name
SEAMS_FILE = Path("tests/seams.py")
BY_THE_WALL: dict[str, str] = {
    "tests/models/test_describe.py train.optim": "what is described is what the optimizer decays",
    "tests/faults/test_failing_screen.py ui.widgets.state_line": "the widget that is made to fail",
    "tests/faults/test_terminal_noise.py ui.tty.terminal_input": "the one reader of what a terminal sends",
}
# How often tests of a room still replace something of the product themselves. It may only become less.
REPLACED = {"models": 1, "ui": 14}


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


def raw_status(files: Mapping[str, Path]) -> dict[str, str]:
    """The modules that read a `run.json` as a dictionary."""
    found: dict[str, str] = {}
    for module, path in files.items():
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(attr="status"), args=[], keywords=[]):
                    is_raw = True
                case ast.Call(func=ast.Attribute(attr="read" | "read_text" | "read_bytes" | "open")):
                    is_raw = any(name in ast.dump(node) for name in ("'run.json'", "'run_json'"))
                case _:
                    is_raw = False
            if is_raw:
                found[short(module)] = f"at line {getattr(node, 'lineno', 0)}: `saved_status` is the one reading"
    return found


def product_names(tree: ast.Module) -> dict[str, str]:
    """What a test calls what it imports of the product, and the full name."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == PACKAGE:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _base(node: ast.AST) -> str:
    """The name that an expression begins with, or the text that it is."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else str(getattr(node, "value", ""))


def hidden_names(tree: ast.Module) -> Iterator[str]:
    """The names with an underscore that a test takes from the product."""
    names = product_names(tree)
    yield from (name for name in names.values() if name.rpartition(".")[2].startswith("_"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner in names:
                yield f"{names[owner]}.{node.attr}"


def replacements(tree: ast.Module) -> int:
    """How often a test puts something in a place of the product."""
    names = product_names(tree)
    return sum(
        _base(node.args[0]) in names or _base(node.args[0]).startswith(f"{PACKAGE}.")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("setattr", "setitem") and node.args
    )


def past_the_doors(tree: ast.Module, room: str, modules: Set[str]) -> Iterator[str]:
    """The modules of other rooms that a test imports though they are no doors."""
    for name in product_names(tree).values():
        module = short(name if name in modules else name.rpartition(".")[0])
        other, _, inside = module.partition(".")
        if inside and other in DOORS and other not in (room, OF_ROOM.get(room)) and inside not in DOORS[other]:
            yield module


def of_tests(modules: Set[str]) -> Iterator[str]:
    """What the tests break."""
    replaced: dict[str, int] = defaultdict(int)
    hidden: dict[str, str] = {}
    past: dict[str, str] = {}
    words: set[str] = set()
    for path in sorted(Path("tests").rglob("*.py")):
        tree, room = ast.parse(path.read_text()), path.parts[1]
        words |= {str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant) and path != SEAMS_FILE}
        hidden |= {f"{path} {name}": "" for name in hidden_names(tree)}
        replaced[room] += replacements(tree) if path != SEAMS_FILE else 0
        if len(path.parts) > 2 and room not in ("bench", "gpu"):
            past |= {f"{path} {module}": "" for module in past_the_doors(tree, room, modules)}
    yield from (f"no test puts anything in the place {name!r} of {SEAMS_FILE}" for name in SEAMS if name not in words)
    yield from judged("a test takes a hidden name", hidden, {})
    yield from judged("a test comes to another room by no door of it", past, BY_THE_WALL)
    for room in sorted(replaced.keys() | REPLACED.keys()):
        count, most = replaced[room], REPLACED.get(room, 0)
        if count > most:
            yield f"tests/{room} replaces what is the product's {count} times, {most} at most: see tests/seams.py"
        elif count < most:
            yield f"tests/{room} replaces what is the product's {count} times: let REPLACED say so"


def banned_words() -> Iterator[str]:
    """The lines with a word for which there is a plainer one; this file names them all."""
    for path in sorted(path for folder in (PACKAGE, "tests", "docs") for path in Path(folder).rglob("*.*")):
        if path.suffix in (".py", ".md", ".toml") and path != Path("tests/house.py"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                yield from (f"a plainer word for {word!r}: {path}:{number}" for word in BANNED_WORDS.findall(line))


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
    tests = {".".join(path.with_suffix("").parts): path for path in sorted(Path("tests").rglob("*.py"))}
    imports = {module: graph.find_modules_directly_imported_by(module) for module in files}
    said = [
        *judged("circle of imports", dict.fromkeys(circles(imports), ""), CIRCLES),
        *judged("splinter", small, SMALL),
        *judged("too long", long, LONG),
        *judged("written twice", repetitions(files), REPEATED),
        *judged("written twice in tests", repetitions(tests), REPEATED_IN_TESTS),
        *judged("run.json is read raw", raw_status(files), RAW_STATUS),
        *of_tests(set(files)),
        *banned_words(),
    ]
    print("\n".join(said) or f"{len(files)} modules keep the rules of the house")
    return bool(said)


if __name__ == "__main__":
    sys.exit(main())
