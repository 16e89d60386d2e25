"""The real programs as a user starts them, on a run that would take hours, and what is asked of their end."""

from lmplay_tui.cli import main
from lmplay_tui.commands.train import main as trainer_main
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.checkpointer import strays
from tests.faults.terminals import Terminal, until
from tests.journals import read_journal
from tests.train.runs import SMALL, step_of

PLAN = (
    SMALL
    + """\
validation_interval = 40
eval_interval = 200
eval_samples = 8
log_interval = 1
[stages.stories]
dataset = "stories.jsonl"
epochs = 100000
"""
)
LINE = ["--training-plan", "plan.toml", "--model", "m.lmp", "--device", "cpu", "--mini-batch-size", "2"]


def headless(*options: str):
    return lambda: trainer_main([*LINE, *options], "lmp_trainer")


def dashboard(*options: str):
    """As the real program starts it: the trainer's modules come in its thread."""
    return lambda: main([*LINE, "--refresh-hz", "10", *options])


def steps_in_journal(run: RunFolder) -> int:
    rows = read_journal(run.metrics)
    return max((row["step"] for row in rows if "step" in row), default=0)


def saved_step(run: RunFolder) -> int:
    return step_of(run.model)


def trains(run: RunFolder, steps: int = 3):
    return lambda: steps_in_journal(run) >= steps


def goes_on_elsewhere(run: RunFolder) -> int:
    """Wait until the process that a run was handed over to has trained; the step at which it was handed over."""
    step = int(next(e["step"] for e in read_journal(run.events) if e["event"] == "HandedOver"))
    until(trains(run, step + 3))
    return step


def assert_stopped_in_order(terminal: Terminal, run: RunFolder) -> None:
    status = terminal.wait()
    assert status == 0, (status, terminal.output[-3000:])
    assert terminal.restored, terminal.output[-500:]
    assert b"Traceback" not in terminal.output
    if run.model.exists() or steps_in_journal(run):
        assert saved_step(run) == steps_in_journal(run)
    assert not strays(run)
    assert not run.alive()


def stop_and_wait(run: RunFolder) -> None:
    """End a run that no program of ours holds any more."""
    if run.alive():
        (run.control / "stop").touch()
        until(lambda: not run.alive())
