"""What stood in the plan editor, neither applied nor saved, when the dashboard was left: kept in a file of its own."""

import itertools
import tempfile
from pathlib import Path

from lmplay_tui.run.folder import RunFolder, write_whole
from lmplay_tui.text import one_line


def keep_draft(text: str, run: RunFolder | None) -> str:
    """Write the text beside the run's plan, or where that cannot be; the line that says where it is."""
    folders = [run.plan.parent] if run is not None else []
    for folder in (*folders, Path.cwd(), Path(tempfile.gettempdir())):
        path = _free_path(folder)
        try:
            write_whole(path, text.encode("utf-8", "surrogatepass"))
        except OSError:
            continue
        return f"the plan in the editor was not applied: it is kept in {one_line(path, 400)}"
    return "the plan in the editor was not applied, and no folder would take a copy of it"


def _free_path(folder: Path) -> Path:
    """No earlier draft is written over."""
    names = itertools.chain(["plan.draft.toml"], (f"plan.draft-{i}.toml" for i in itertools.count(2)))
    return next(path for path in (folder / name for name in names) if not path.exists())
