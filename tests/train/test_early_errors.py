"""An operating system's refusal before the first step: one line, with the exit status of its kind."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from lmplay_tui.errors import EXIT_TRAINING, EXIT_USAGE
from lmplay_tui.run.events import RunFailed
from lmplay_tui.train import launch
from tests.train.runs import last, train, write_plan

KINDS = [
    (errno.ENOSPC, EXIT_TRAINING), (errno.EDQUOT, EXIT_TRAINING), (errno.EIO, EXIT_TRAINING),
    (errno.ESTALE, EXIT_TRAINING), (errno.EACCES, EXIT_USAGE), (errno.ENOTDIR, EXIT_USAGE),
]  # fmt: skip
PLACES = {
    "set aside": (launch, "set_aside", {"reset_history": True}),
    "moved": (shutil, "move", {"reset_history": True}),
    "the run's folder": (Path, "mkdir", {}),
    "the checkpoint": (launch, "read_start", {}),
    "the model": (launch, "build_trainer", {}),
    "the plan": (launch, "choose_run", {}),
}


@pytest.mark.long_after(8)
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(("number", "status"), KINDS, ids=[errno.errorcode[number] for number, _ in KINDS])
def test_an_early_error_keeps_its_exit_status(place, monkeypatch, where, number, status):
    plan = write_plan(place)
    if where in ("set aside", "moved"):
        train(training_plan=write_plan(place, Path(plan).read_text("utf-8").replace("epochs = 1.2", "epochs = 0.1")),
              model="m.lmp")  # fmt: skip

    def fails(*_, **__):
        raise OSError(number, os.strerror(number), "some/file")

    module, name, options = PLACES[where]
    monkeypatch.setattr(module, name, fails)
    end = last(train(training_plan=plan, model="m.lmp", **options))
    assert isinstance(end, RunFailed)
    assert end.exit_code == status
    assert os.strerror(number) in end.message
    assert "\n" not in end.message
    assert "bug" not in end.message
