"""The pictures beside a run's statistics files, drawn by the run itself at its end in a process of its own."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from lmplay_tui.errors import UserError
from lmplay_tui.own_process import own_command, own_environment
from lmplay_tui.run.charts import PlotOptions
from lmplay_tui.run.curves import Curve, load_curves, statistics_in
from lmplay_tui.run.plots import draw_own


def curves_of(folder: Path, name: str) -> tuple[list[Curve], list[str]]:
    """The curves of the run `name` whose statistics lie in `folder`, and one line for each file that cannot be used.

    Raises `UserError` if the folder cannot be read.
    """
    curves, problems = load_curves(path for path in statistics_in(folder) if path.name.startswith(f"{name}_"))
    return [curve for curve in curves if curve.name == name], problems


def draw_own_pictures(curves: Sequence[Curve], options: PlotOptions, picture_type: str) -> list[Path]:
    """Draw each curve into a picture beside its file and return the pictures' paths. Raises `OSError`."""
    pictures = []
    for curve in curves:
        picture = curve.path.with_suffix(f".{picture_type}")
        if draw_own(curve, options, picture):
            pictures.append(picture)
    return pictures


def write_pngs(folder: Path, name: str) -> threading.Thread | None:
    """Start a process that draws the run's pictures, and return at once; nothing that goes wrong there comes back here.

    The process lives on if this one ends; the thread returned ends with it. None: it could not be started.
    """
    try:
        process = subprocess.Popen(
            own_command(__spec__.name, str(folder), name), env=own_environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    except OSError:
        return None
    thread = threading.Thread(target=process.wait, name="pictures", daemon=True)  # takes the ended process off the list
    thread.start()
    return thread


def main(arguments: Sequence[str]) -> int:
    """Draw the pictures of one run: the process that `write_pngs` starts."""
    folder, name = arguments
    os.nice(10)  # the machine's next run matters more
    try:
        curves, _ = curves_of(Path(folder), name)
        draw_own_pictures(curves, PlotOptions(), "png")
    except (UserError, OSError):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
