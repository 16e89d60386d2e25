"""What every test stands on: no network, one thread, no settings of the developer's own."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GOMP_SPINCOUNT"] = "1000"  # as the commands do: tests run side by side
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-snapshots", action="store_true", help="store the screens as they are now")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LMP_DATASETS", "NO_COLOR", "COLORTERM", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
