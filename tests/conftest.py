"""What every test stands on: no network, one thread, no settings of the developer's own; counts that are printed."""

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from lmplay_tui import process

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
process.prepare()  # as the commands do

# The machine may be busy: no test is by the clock.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-snapshots", action="store_true", help="store the screens as they are now")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LMP_DATASETS", "NO_COLOR", "COLORTERM", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say a figure that stands at the end of the test session: how often a fault was made, and what held."""
    return lambda line: record_property("fault", line)


def pytest_terminal_summary(terminalreporter) -> None:
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    said = [line for report in reports for name, line in report.user_properties if name == "fault"]
    if said:
        terminalreporter.section("faults")
        for line in said:
            terminalreporter.write_line(line)
