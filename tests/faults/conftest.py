"""What the fault tests stand on: small real runs, and checkpoints made by them."""

import shutil
from importlib import import_module
from pathlib import Path

import pytest

from lmplay_tui.run.folder import RunFolder
from tests.faults.programs import PLAN
from tests.train.conftest import _one_thread, place  # noqa: F401  (fixtures)
from tests.train.runs import stop_after, write_plan

TIMEOUT_S = 900  # of a test: its own limits, which say what was waited for, come first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session", autouse=True)
def _imported(trained: Path) -> None:
    """Children are forked from here: what is imported and tried once, they need not import."""
    for name in ("lmplay_tui.ui.run_app", "lmplay_tui.ui.screens.dashboard", "lmplay_tui.ui.session"):
        import_module(name)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, _one_thread: None) -> Path:  # noqa: F811
    """A folder with a run `m` that stopped after step 4: `m.lmp` (step 4) and `m.prev.lmp` (step 2)."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        made = place.__wrapped__(folder, patch)  # type: ignore[attr-defined]
        plan = write_plan(made)
        stop_after(2, training_plan=plan, model="m.lmp")
        stop_after(4, model="m.lmp")
    assert (folder / "m.prev.lmp").exists()
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> RunFolder:
    """A copy of the trained run's checkpoints."""
    for path in trained.glob("*.lmp"):
        shutil.copyfile(path, tmp_path / path.name)
    return RunFolder(tmp_path / "m.lmp")


@pytest.fixture
def long_run(place: Path) -> RunFolder:
    """A run that would take hours; every step is in its journal."""
    write_plan(place, PLAN)
    return RunFolder(place / "m.lmp")
