"""What takes long to import, and is not needed for the first frame, comes behind it."""

import json
import subprocess
import sys
from pathlib import Path

SLOW = ("numpy", "pydantic", "rapidfuzz", "tomlkit", "psutil", "tree_sitter", "plotext", "torch", "datasets", "pyarrow")
# Of a run: the plan's editor is there, and a thread has begun to read the meters.
NOT_YET = {*SLOW} - {"tree_sitter", "psutil"}
OF_A_RUN = ("lmplay_tui.command_line", "argparse", "lmplay_tui.run", "lmplay_tui.train", "lmplay_tui.ui.session")

# The bare command on a screen of its own; when the launcher would go on behind its first frame, that is looked at.
PROGRAM = """
import asyncio, json, sys
from lmplay_tui.commands import dashboard

def shown(launch, *, attach=None, launcher=False):
    from lmplay_tui.ui.app import LmplayApp
    from lmplay_tui.ui.screens.launcher import Launcher

    def first_frame(screen):
        rows = screen._compositor.render_strips()
        screen.app.first = ["".join(segment.text for segment in row) for row in rows], sorted(sys.modules)

    async def run():
        app = LmplayApp(launch, launcher=launcher, timers=False)
        app.first = None
        async with app.run_test(size=(120, 40)) as pilot:
            while app.first is None:
                await pilot.pause(0.01)
        return app.first

    Launcher._draw_rest = first_frame
    print(json.dumps(asyncio.run(run())))
    return 0

dashboard.wants_dashboard = lambda options: True
import lmplay_tui.ui.run_app
lmplay_tui.ui.run_app.run_dashboard = shown
sys.exit(dashboard.main([], "lmplay-tui"))
"""


def test_launcher_is_painted_before_what_takes_long_is_imported(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=tmp_path)
    rows, modules = json.loads(done.stdout)
    screen = "\n".join(rows)
    assert all(words in screen for words in ("demo", "wikitext3", "quit", "device auto"))
    assert "no runs yet" not in screen  # not looked for yet
    early = [name for name in modules if name.split(".")[0] in SLOW or name.startswith(OF_A_RUN)]
    assert early == []


# The same of a run: what has been done when its first picture is sent, what stands there when its trainer begins.
PROGRAM_OF_A_RUN = """
import asyncio, gc, json, sys
from lmplay_tui.commands import dashboard

def shown(launch, *, attach=None, launcher=False):
    from lmplay_tui.ui.app import LmplayApp
    from lmplay_tui.ui.session import LiveSource

    class Looked(LmplayApp):
        sent = first = None

        def post_display_hook(self):
            if self.sent is None and not self._batch_count:
                rows = self.screen._compositor.render_strips()
                text = [segment.text for row in rows for segment in row]
                self.sent = "".join(text), self.trainer.started, gc.isenabled(), sorted(sys.modules)

        def _start_trainer(self):
            self.first = gc.isenabled(), gc.get_freeze_count() > 0

    async def run():
        app = Looked(launch, source=LiveSource(launch), timers=False)
        async with app.run_test(size=(120, 40)) as pilot:
            while app.first is None:
                await pilot.pause(0.01)
        return *app.sent, app.first

    print(json.dumps(asyncio.run(run())))
    return 0

dashboard.wants_dashboard = lambda options: True
import lmplay_tui.ui.run_app
lmplay_tui.ui.run_app.run_dashboard = shown
sys.exit(dashboard.main(["--training-plan", "demo", "--model", "x"], "lmplay-tui"))
"""


def test_a_run_is_painted_before_anything_calculates(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM_OF_A_RUN], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    screen, trains, searches_garbage, modules, then = json.loads(done.stdout)
    assert all(words in screen for words in ("starting", "the plan is being read", "the first step", "quit"))
    assert (trains, searches_garbage) == (False, False)
    assert then == [True, True]  # searched from now on, but for what start-up has made
    not_of_it = ("lmplay_tui.train", "lmplay_tui.ui.screens.launcher")
    assert [name for name in modules if name.split(".")[0] in NOT_YET or name.startswith(not_of_it)] == []
