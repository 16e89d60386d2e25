"""What is left when the screen is gone: the last lines printed, and a draft of the plan that was being edited."""

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

from lmplay_tui.errors import EXIT_USAGE
from lmplay_tui.files import is_there, write_whole
from lmplay_tui.process import typed
from lmplay_tui.run.events import RunFailed, RunStopped
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.sentences import sentence_of
from lmplay_tui.run.view import RunView
from lmplay_tui.text import one_line, printable


def ending_lines(view: RunView) -> list[str]:
    """What became of the run, what was saved, and the command that goes on."""
    if view.handed_over is not None:
        return [f"{view.name} goes on in process {view.handed_over.pid}; {_look(view)}"]
    match view.result:
        case None:
            return _ended_without_a_word(view)
        case RunFailed():
            return _failed(view, view.result)
    lines = [sentence.text] if (sentence := sentence_of(view.result)) is not None else []
    if isinstance(view.result, RunStopped) and view.result.command:
        lines.append(f"go on with: {one_line(view.result.command, 2000)}")
    return lines


def left_lines(view: RunView) -> list[str]:
    """Of a run of another process, which its viewer leaves as it is."""
    if view.over or view.handed_over is not None:
        return ending_lines(view)
    state = "is paused" if view.state == "paused" else "goes on"
    return [f"{view.name} {state} at step {view.at.step:,.0f}; {_look(view)}"]


def _look(view: RunView) -> str:
    return f"look with: {typed('lmplay-tui attach')} {view.name}"


def _ended_without_a_word(view: RunView) -> list[str]:
    lines = [f"{view.name}: its process has ended at step {view.at.step:,.0f} without a word"] if view.over else []
    return lines + (_go_on(view, view.checkpoint.path) if view.checkpoint else [])


def _failed(view: RunView, failure: RunFailed) -> list[str]:
    lines = printable(failure.message).splitlines() or ["failed"]
    if failure.step > 0:
        lines.append(f"{view.name} has failed at step {failure.step:,}")
    if not failure.path:
        return lines
    of_usage = failure.exit_code == EXIT_USAGE  # the same command would fail again
    return lines + _go_on(view, failure.path)[: 1 if of_usage else 2]


def _go_on(view: RunView, path: str) -> list[str]:
    """The checkpoint, and the command that goes on from it."""
    shown = one_line(path, 400)
    step = f" (step {view.checkpoint.step:,})" if view.checkpoint and view.checkpoint.step > 0 else ""
    return [f"last checkpoint: {shown}{step}", f"go on with: {view.go_on_with('lmplay-tui', path)}"]


def keep_draft(text: str, run: RunFolder | None) -> str:
    """Write the text beside the run's plan, or where that cannot be; the line that says where it is."""
    # Each is asked for when it is its turn: the working folder may be gone, and no folder for temporaries have room.
    folders: list[Callable[[], Path]] = [Path.cwd, lambda: Path(tempfile.gettempdir())]
    if run is not None:
        folders.insert(0, lambda: run.folder)
    for folder in folders:
        try:
            path = _free_path(folder())
            write_whole(path, text.encode("utf-8", "surrogatepass"))
        except OSError:
            continue
        return f"the plan in the editor was not applied: it is kept in {one_line(path, 400)}"
    return "the plan in the editor was not applied, and no folder would take a copy of it"


def _free_path(folder: Path) -> Path:
    """No earlier draft is written over."""
    names = itertools.chain(["plan.draft.toml"], (f"plan.draft-{i}.toml" for i in itertools.count(2)))
    return next(path for path in (folder / name for name in names) if not is_there(path))
