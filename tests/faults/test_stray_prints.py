"""What C code, child processes and libraries print: never on the screen, in the run's log; headless where it was."""

import signal

import pytest

from lmplay_tui.cli import main
from lmplay_tui.commands.train import main as trainer_main
from lmplay_tui.run.folder import RunFolder
from tests.faults.programs import LINE, PLAN, assert_stopped_in_order, steps_in_journal, trains
from tests.faults.terminals import Terminal, until
from tests.train.runs import write_plan

NOISY = '''\
import os
import subprocess
import sys

from lmplay_tui.models.gpt2ish import GPT2ish


class Noisy(GPT2ish):
    """Prints at each step, in every way there is; the last one carries what would drive a terminal."""

    number = 0

    def embed(self, ids, positions):
        Noisy.number += 1
        os.write(1, f"native-out {self.number}\\n".encode())
        os.write(2, f"native-err {self.number}\\n".encode())
        if self.number == 3:
            subprocess.run(["sh", "-c", "echo from-a-child; echo child-err >&2"], check=True)
            print("a-python-print")
            print("a-python-complaint", file=sys.stderr)
            os.write(1, b"hostile \\x1b]52;c;aGk=\\x07\\x1b[2J end\\n")
        return super().embed(ids, positions)
'''
SAID = ("native-out 1", "native-err 1", "from-a-child", "child-err", "a-python-print", "a-python-complaint")
NOISY_LINE = [*LINE, "--exp", "noisy.py:Noisy"]


@pytest.fixture
def noisy_run(place) -> RunFolder:
    (place / "noisy.py").write_text(NOISY, encoding="utf-8")
    write_plan(place, PLAN.replace('exp = "test_runner"\n', ""))
    return RunFolder(place / "m.lmp")


def test_under_the_dashboard_they_end_in_the_log(noisy_run):
    with Terminal(lambda: main([*NOISY_LINE, "--refresh-hz", "10"])) as terminal:
        until(lambda: b"stories" in terminal.output)
        until(trains(noisy_run, steps_in_journal(noisy_run) + 15))
        terminal.send(signal.SIGTERM)
        assert_stopped_in_order(terminal, noisy_run)
    # In 24 rows the log pane, which shows such lines, is out of sight until it is chosen.
    for said in ("native", "a-python", "hostile", "\x1b]52"):
        assert said.encode() not in terminal.output
    log = noisy_run.log.read_text("utf-8")
    for said in SAID:
        assert said in log
    assert "\x1b" not in log
    assert "print   hostile ␛]52;c;aGk=␇␛[2J end" in log
    lines = [line for line in log.splitlines() if "native-out" in line]
    assert len(lines) == len(set(lines)), "each once"


def test_headless_they_stay_where_they_are(noisy_run):
    with Terminal(lambda: trainer_main(NOISY_LINE, "lmp_trainer")) as terminal:
        until(trains(noisy_run, 6))
        terminal.send(signal.SIGTERM)
        assert terminal.wait() == 0
    log = noisy_run.log.read_text("utf-8")
    for said in SAID:
        assert said.encode() in terminal.output
        assert said not in log
