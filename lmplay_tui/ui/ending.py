"""The last lines, printed when the screen is gone."""

from lmplay_tui.run.telling import told
from lmplay_tui.run.view import RunView
from lmplay_tui.text import one_line, printable


def ending_lines(view: RunView) -> list[str]:
    """What became of the run, what was saved, and the command that goes on."""
    lines = []
    result = view.result
    if view.handed_over is not None:
        pid = view.handed_over.get("pid")
        lines.append(f"{view.name} goes on in process {pid}; look with: lmplay-tui attach {view.name}")
        return lines
    if result is None:
        saved = view.checkpoint.get("path") if view.checkpoint else None
        return [f"last checkpoint: {one_line(saved, 400)}"] if saved else []
    sentence = told(result)
    if result.get("event") == "RunFailed":
        lines += printable(result.get("message", "")).splitlines() or ["failed"]
        if result.get("path"):
            lines.append(f"last checkpoint: {one_line(result['path'], 400)}")
    elif sentence is not None:
        lines.append(sentence[1])
    if result.get("command"):
        lines.append(f"go on with: {one_line(result['command'], 2000)}")
    return lines
