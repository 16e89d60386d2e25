"""Pictures of the real screens for the README: `make screenshots`.

Trains the offline demo in a process of its own, looks at it as `lmplay-tui attach` does, and writes SVG files to docs/.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from textual.pilot import Pilot

from lmplay_tui.options import Launch
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.ui.app import LmplayApp
from lmplay_tui.ui.hints import remember
from lmplay_tui.ui.screens.dashboard import Dashboard
from lmplay_tui.ui.source import FolderSource
from lmplay_tui.ui.widgets.plan_pane import PlanPane
from tests.ui.conftest import whole_launcher

DOCS = Path(__file__).parent.parent / "docs"
# The last stage twice as long: the editor alone, its last `epochs`, another number.
EDIT = ("4", "f5", *4 * ("pagedown",), "up", "up", "end", *3 * ("backspace",), *"1.4")
SCENES: tuple[tuple[str, tuple[int, int], tuple[str, ...]], ...] = (
    ("dashboard", (120, 40), ()),
    ("dashboard-80x24", (80, 24), ()),
    ("dashboard-200x60", (200, 60), ()),
    ("curves", (120, 40), ("2", "z")),
    ("predictions", (120, 40), ("3", "z")),
    ("plan", (120, 40), EDIT),
)
LAUNCHER = ("launcher", (120, 40), ())


async def look(app: LmplayApp, pilot: Pilot[int]) -> None:
    """Take in what is new, and draw it."""
    app.tick()
    for screen in app.screen_stack:
        if isinstance(screen, Dashboard):
            screen.refresh_now()
    await pilot.pause(0.05)


async def take(run: RunFolder, name: str, size: tuple[int, int], keys: tuple[str, ...]) -> None:
    """One picture of the run as it is now."""
    app = LmplayApp(Launch({"tz": "UTC"}), source=FolderSource(run), timers=False)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        while app.source is not None and (not app.source.view.plan_text or app.source.behind):
            await look(app, pilot)  # a thread reads the journals, a chunk at a time
        await look(app, pilot)
        await pilot.press(*keys)
        if keys == EDIT:
            app.screen.query_one(PlanPane).check_now()  # it would after a while without a key
            await pilot.pause()
        await look(app, pilot)
        app.save_screenshot(str(DOCS / f"{name}.svg"))


async def take_launcher(out_dir: str, name: str, size: tuple[int, int], keys: tuple[str, ...]) -> None:
    """A picture of where a session begins, with the speed of this machine."""
    app = LmplayApp(Launch({"out_dir": out_dir}), launcher=True, timers=False)
    async with app.run_test(size=size) as pilot:
        await whole_launcher(pilot)
        await pilot.press(*keys)
        await pilot.pause()
        app.save_screenshot(str(DOCS / f"{name}.svg"))


def main() -> None:
    """Train, wait until there is something to see, take every picture, stop."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--step", type=int, default=1100, help="take the pictures at this step")
    step = parser.parse_args().step
    with tempfile.TemporaryDirectory(prefix="lmplay-pictures-") as folder:
        model = Path(folder) / "gpt2ish_demo.lmp"
        words = ["--training-plan", "demo", "--model", str(model), "--out-dir", folder]
        code = "import sys; from lmplay_tui.cli import trainer_main; sys.exit(trainer_main())"
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the trainer is ended then too
        trainer = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)
        try:
            run = RunFolder(model)
            while trainer.poll() is None and (run.status().get("step") or 0) < step:
                time.sleep(1)
            os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
            os.environ["XDG_STATE_HOME"] = folder  # of a user who has read the first hints
            remember()
            asyncio.run(take_launcher(folder, *LAUNCHER))
            for name, size, keys in SCENES:
                asyncio.run(take(run, name, size, keys))
        finally:
            trainer.terminate()
            trainer.wait()


if __name__ == "__main__":
    main()
