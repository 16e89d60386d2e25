"""An operating system's refusal before the first step: one line, with the exit status of its kind."""

import contextlib
import errno
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.errors import EXIT_TRAINING, EXIT_USAGE
from lmplay_tui.run.events import RunFailed
from tests.seams import raising
from tests.train.runs import last, stop_after, train, write_plan

KINDS = [
    (errno.ENOSPC, EXIT_TRAINING), (errno.EDQUOT, EXIT_TRAINING), (errno.EIO, EXIT_TRAINING),
    (errno.ESTALE, EXIT_TRAINING), (errno.EACCES, EXIT_USAGE), (errno.ENOTDIR, EXIT_USAGE),
]  # fmt: skip
PLACES: dict[str, tuple[str, str, dict[str, Any]]] = {  # the call that is refused, for which file, in which start
    "set aside": ("os.mkdir", "m.past", {"reset_history": True}),
    "moved": ("shutil.move", "m.lmp", {"reset_history": True}),
    "the run's folder": ("os.mkdir", "m.run", {"model": "new/m.lmp"}),
    "the tokenizer": ("open", "vocab.bpe", {"tokenizer": "gpt2:307", "model": "other.lmp"}),
    "the plan": ("seam", "choose the run", {}),
    "the checkpoint": ("seam", "read the start", {}),
    "the model": ("seam", "build the trainer", {}),
}


@contextmanager
def refused(call: str, name: str, error: OSError) -> Iterator[None]:
    """The operating system refuses a call of Python's library for the file of this name."""

    def asked(real: Callable[..., Any]) -> Callable[..., Any]:
        def ask(path: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, str | os.PathLike) and Path(path).name == name:
                raise error
            return real(path, *args, **kwargs)

        return ask

    with pytest.MonkeyPatch.context() as patch:
        for place in ("io.open", "builtins.open") if call == "open" else (call,):
            owner, _, last_name = place.rpartition(".")
            module = importlib.import_module(owner)
            patch.setattr(module, last_name, asked(getattr(module, last_name)))
        yield


@pytest.mark.long_after(8)
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(("number", "status"), KINDS, ids=[errno.errorcode[number] for number, _ in KINDS])
def test_an_early_error_keeps_its_exit_status(place, seams, where, number, status):
    call, name, options = PLACES[where]
    stop_after(1, training_plan=write_plan(place), model="m.lmp")
    error = OSError(number, os.strerror(number), "some/file")
    if call == "seam":
        seams.put(name, raising(error))
    with contextlib.nullcontext() if call == "seam" else refused(call, name, error):
        end = last(train(**{"training_plan": "plan.toml", "model": "m.lmp"} | options))
    assert isinstance(end, RunFailed)
    assert end.exit_code == status
    assert os.strerror(number) in end.message
    assert "\n" not in end.message
    assert "bug" not in end.message
