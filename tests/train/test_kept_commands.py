"""What was asked of a run of several processes is asked again of the rank 0 that goes on: once, and only if need be."""

from pathlib import Path

import pytest

from lmplay_tui.run import controls as asked
from lmplay_tui.run.control_files import ControlFiles, command_record, leave_command
from lmplay_tui.run.controls import Command
from lmplay_tui.run.events import Answered, CheckpointSaved
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.handoff import KeptCommands
from lmplay_tui.train.progress import Progress, StageProgress


class Rank0:
    """As much of a process as carries out commands, with a file of kept ones that outlives it."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.kept = KeptCommands(folder / "asked.json")
        self.progress = self.kept.progress = progress
        self.asked_again = [command_record(command) for command in self.kept.ask_again(progress)]

    def asks(self, *commands: Command) -> None:
        for command in commands:
            self.kept.note(command)

    def carries_out(self, *commands: Command, ok: bool = True) -> None:
        for command in commands:
            if ok and isinstance(command, asked.SetLearningRate | asked.Pin | asked.ChangePlan):
                self.progress.changes += 1
            self.kept.follow(Answered(type(command).__name__, command.id, ok, ""))

    def saves(self) -> None:
        self.kept.follow(CheckpointSaved("m.lmp", self.progress.step, 0, 0, 0.0, 0.0, "interval"))


def records(*commands: Command) -> list[dict]:
    return [command_record(command) for command in commands]


LR, PIN = asked.SetLearningRate(factor=0.5, id="1"), asked.Pin("The", id="2")
PLAN = asked.ChangePlan("[stages.a]", id="3")
STAGE_END, PAUSE, RESUME = asked.Stop(when="stage_end", id="4"), asked.Pause(id="5"), asked.Resume(id="6")


@pytest.mark.parametrize(
    "command",
    [LR, PIN, PLAN, STAGE_END, PAUSE, RESUME, asked.Ask("The", id="7"), asked.ValidateNow(id="8"),
     asked.SaveNow(id="9"), asked.Bookmark("here", id="10"), asked.Stop(id="11"), asked.HandOver(id="12")],
    ids=lambda command: type(command).__name__,
)  # fmt: skip
def test_what_is_not_carried_out_is_asked_again(tmp_path: Path, command: Command) -> None:
    first = Rank0(tmp_path, Progress())
    first.asks(command)
    assert Rank0(tmp_path, Progress()).asked_again == records(command)
    assert Rank0(tmp_path, Progress()).asked_again == records(command), "and again, where that one is lost too"


def test_what_was_answered_is_asked_again_only_where_it_holds_still(tmp_path: Path) -> None:
    first = Rank0(tmp_path, Progress())
    once = [asked.Ask("The", id="7"), asked.ValidateNow(id="8"), asked.SaveNow(id="9"), asked.Bookmark(id="10")]
    first.asks(*once, LR, PIN, PLAN, STAGE_END, PAUSE)
    first.carries_out(*once, LR, PIN, PLAN, STAGE_END, PAUSE)
    second = Rank0(tmp_path, Progress())
    assert second.asked_again == records(LR, PIN, PLAN, STAGE_END, PAUSE)
    second.asks(RESUME, asked.Pause(id="13"))
    second.carries_out(RESUME)  # the pause behind it is still to come
    second.carries_out(LR, PIN, PLAN, ok=False)
    assert Rank0(tmp_path, Progress()).asked_again == records(STAGE_END, asked.Pause(id="13"))


def test_a_change_is_made_once_whatever_checkpoint_the_run_goes_on_from(tmp_path: Path) -> None:
    """Two saves of one step, of which the second holds the change: by the step alone they are the same."""
    first = Rank0(tmp_path, Progress(step=10))
    first.asks(LR, PIN)
    first.carries_out(LR)
    first.saves()  # it had begun before
    first.carries_out(PIN)
    assert Rank0(tmp_path, Progress(step=10, changes=1)).asked_again == records(PIN)
    second = Rank0(tmp_path, Progress(step=10, changes=1))
    second.carries_out(PIN)
    second.progress.step = 11
    second.saves()
    assert (tmp_path / "asked.json").read_text() == "[]"


def test_what_was_asked_while_all_load_is_asked_once(tmp_path: Path) -> None:
    first = Rank0(tmp_path, Progress())
    first.asks(PAUSE)
    kept = KeptCommands(tmp_path / "asked.json")
    kept.note(LR)  # it is in this process's mailbox
    assert [command_record(command) for command in kept.ask_again(Progress())] == records(PAUSE)
    assert not kept.ask_again(Progress())
    assert Rank0(tmp_path, Progress()).asked_again == records(PAUSE, LR)


def test_a_stop_at_the_end_of_a_stage_that_is_over_is_a_stop(tmp_path: Path) -> None:
    """The process was lost between the stage's checkpoint and its own end."""
    first = Rank0(tmp_path, Progress(stage="stories"))
    first.asks(STAGE_END)
    first.carries_out(STAGE_END)
    later = Progress(stage="both", stages={"stories": StageProgress(done=True)})
    assert Rank0(tmp_path, later).asked_again == records(asked.Stop(reason="the stage's end", id="4"))


def test_a_command_is_kept_before_its_file_is_removed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    seen = []

    def keep(command: Command) -> None:
        seen.append((command, (run.control / f"{command.id}.json").exists()))

    left = leave_command(run, asked.Pause())
    assert records(*ControlFiles(run, keep=keep)()) == records(asked.Pause(id=left))
    assert [(command.id, is_there) for command, is_there in seen] == [(left, True)]
    (run.control / "nonsense.json").write_text("{")
    refused = ControlFiles(run, keep=KeptCommands(tmp_path / "asked.json").note)()
    assert [type(command) for command in refused] == [asked.Refused]
    assert not Rank0(tmp_path, Progress()).asked_again


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    kept = KeptCommands(tmp_path / "gone" / "asked.json")
    kept.note(PAUSE)
    assert kept.problem == "No such file or directory"
