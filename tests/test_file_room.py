"""Files are opened, replaced and removed in one room, `files.py`; each call elsewhere stands here with its reason."""

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "lmplay_tui"
BY_PATH = {
    "open", "fdopen", "write_text", "write_bytes", "read_text", "read_bytes", "unlink", "rmdir", "mkdir", "makedirs",
    "touch", "rename", "replace", "symlink_to", "hardlink_to", "link", "symlink", "rmtree", "move", "copyfile", "copy",
    "copytree", "chmod", "remove", "truncate", "utime",
}  # fmt: skip
OF_MODULES = {"os", "shutil", "io"}  # `os.replace`; what a dictionary or a list does is called so too
PATHS = {"path", "file", "source", "target", "log", "plan", "metrics", "events", "run_json", "lock_path", "temporary"}
ROOMS = ("run", "train", "ui", "commands", "plan")  # `data/` reads what users name: tests/data/test_odd_names.py

MAY = {
    "commands/dashboard.py": "the terminal, /dev/null",
    "commands/new.py": "a plan, new (x), where a user names it",
    "commands/plot.py": "the folder for pictures that a user names",
    "run/export.py": "the folder that a user names; a file without a name",
    "run/folder.py": "the folder above the run; /proc",
    "run/journal.py": "what `Folder` has opened",
    "run/notify.py": "an address, and what `Folder` has opened",
    "run/recorder.py": "what `Folder` has opened",
    "run/statistics.py": "the folder for statistics that a user names",
    "run/upkeep.py": "names that a pattern takes for this run's, moved as names: no link is followed",
    "train/agent.py": "a temporary folder of its own; /dev/null",
    "train/agent_folder.py": "the agent's temporary folder",
    "train/build.py": "names that a pattern takes for this run's, moved as names: no link is followed",
    "train/checkpoint.py": "a checkpoint beside the run, new (x), put in its place as a name",
    "train/checkpoint_parts.py": "a new folder beside the run, whose name none foresees; what `Folder` has opened",
    "train/checkpointer.py": "checkpoints by the names that the product gives",
    "train/device.py": "/proc",
    "train/handoff.py": "what `Folder` has opened",
    "train/preflight.py": "a plan that a user names",
    "train/process_group.py": "/dev/null",
    "ui/hints.py": "an empty marker in the user's own state folder; nothing is written into it",
    "ui/screens/plan_editor.py": "what `Folder` has opened",
    "ui/tty/signals.py": "the terminal, /dev/null",
}


def calls(path: Path) -> Iterator[str]:
    """Calls of files by their paths."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id="open"):
                yield f"{node.lineno}: open"
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in OF_MODULES and name in BY_PATH:
                yield f"{node.lineno}: {module}.{name}"
            case ast.Attribute(attr=name) if name in BY_PATH - {"open", "replace", "remove", "copy", "rename", "link"}:
                yield f"{node.lineno}: {name}"
            case ast.Attribute(attr="open", value=ast.Name(id=of) | ast.Attribute(attr=of)) if of.strip("_") in PATHS:
                yield f"{node.lineno}: open"
            case ast.Attribute(attr="replace" | "rename", value=ast.Name() | ast.Attribute()) if len(node.args) == 1:
                yield f"{node.lineno}: replace"


LOOKS = {"exists", "is_file", "is_dir"}  # of `Path`: they raise at too long a name, or in a closed folder
MAY_RAISE = {
    "ui/hints.py": "what it raises is caught",
    "ui/screens/launcher.py": "/proc and /dev",
    "ui/screens/plan_editor.py": "what it raises is said to who types the name",
}


def looks(path: Path) -> list[int]:
    """Lines where a path is looked at by a method of its own."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node.lineno for node in nodes if isinstance(node, ast.Attribute) and node.attr in LOOKS]


def assert_only_in(
    exceptions: dict[str, str], rooms: Iterable[str], find: Callable[[Path], Iterable[object]], otherwise: str
) -> None:
    """What is found in modules of these rooms is found in the exceptions, and in each of them; else it is said."""
    paths = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix(): found for path in paths if (found := list(find(path)))}
    assert not {name: lines for name, lines in found.items() if name not in exceptions}, otherwise
    assert not exceptions.keys() - found.keys(), "no longer an exception"


def test_what_users_name_is_looked_at_without_raising():
    otherwise = "ask `is_there`, `is_file` or `is_folder` of files.py, or say here why not"
    assert_only_in(MAY_RAISE, ("commands", "ui"), looks, otherwise)


def test_files_are_opened_in_one_room():
    assert_only_in(MAY, ROOMS, calls, "open it through `Folder`, or say here why not")
