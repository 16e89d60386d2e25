"""What every test stands on: no network, one thread, nothing of the developer's own; counts that are printed."""

import contextlib
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

from lmplay_tui import process

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the programs that are started compile a module once, not each
process.prepare()  # as the commands do
# As in an activated environment: the commands that are printed are bare names there.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

# The machine may be busy: no test is by the clock. `tests.examples` says how a test asks for so many examples.
settings.register_profile("all", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("few", settings.get_profile("all"), max_examples=20)
settings.load_profile("all")

pytest_plugins = ["tests.seams"]

STARTED_BY = "LMP_TESTS_PROCESS"  # in the environment of every program that a test starts


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the first process; its workers inherit the folder
        os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="lmp-tests-cache-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True))
        # No user's home is written to, and no screen has a new user's hints where a test does not ask for them.
        os.environ["XDG_STATE_HOME"] = os.environ["XDG_CACHE_HOME"]
        read = Path(os.environ["XDG_STATE_HOME"], "lmplay-tui", "hints-read")
        read.parent.mkdir()
        read.touch()
    # Torch asks a name server what 127.0.0.1 is called; where there is none, each time 10 s by default.
    os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"
    os.environ[STARTED_BY] = str(os.getpid())
    config.add_cleanup(end_programs)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test with many cases the first few are guard enough for `make test`: the rest is `long`."""
    cases: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("long_after")
        if mark is not None:
            name = item.nodeid.partition("[")[0]
            cases[name] += 1
            if cases[name] > mark.args[0]:
                item.add_marker(pytest.mark.long)


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector need not look at it again for each test."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def end_programs() -> None:
    """Kill what the tests of this process have started and left, in whatever session it is: a run that was handed over
    is no child any more."""
    for program in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            ours = program.environ().get(STARTED_BY) == str(os.getpid())
            if ours and any("lmplay_tui" in word or "lmp_" in word for word in program.cmdline()):
                program.kill()


@pytest.fixture(scope="module", autouse=True)
def _no_programs_left() -> Iterator[None]:
    yield
    end_programs()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-snapshots", action="store_true", help="store the screens as they are now")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LMP_DATASETS", "NO_COLOR", "COLORTERM", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """A command that runs here may catch signals: pytest's own handlers are put back.

    Else each program that is forked later seems to catch them before it does, and dies of one.
    """
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in caught]
    yield
    for number, handler in zip(caught, before, strict=True):
        signal.signal(number, handler)


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
