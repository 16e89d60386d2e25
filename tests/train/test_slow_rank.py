"""A rank that is slow in earnest is named: in the log, in the run's folder, in the figures. Where none is, none is."""

import re
from pathlib import Path

import pytest

from lmplay_tui.run.controls import Controls, Stop
from lmplay_tui.run.events import Event, MetricsLogged, RunStopped, StepDone, Warned
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.ranks import read_ranks
from tests.train.ranks import train_together
from tests.train.runs import PLAN, given, last, of, write_plan

SLOW = """\
import time

from torch import distributed

from lmplay_tui.models.gpt2ish import GPT2ish


class Slow(GPT2ish):
    def __init__(self, *, vocab_size, context_len, num_blocks=1, embed_dim=16, num_heads=2, dropout=0.0):
        super().__init__(vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks, embed_dim=embed_dim,
                         num_heads=num_heads, dropout=dropout)

    def trunk(self, *arguments):
        if distributed.is_initialized():
            time.sleep(1.0 if distributed.get_rank() == SLOWEST else 0.5)  # whatever else this machine is at
        return super().trunk(*arguments)
"""


@pytest.mark.long
@pytest.mark.parametrize("slowest", [1, None])
def test_a_slow_rank_is_named_whichever_it_is(place: Path, slowest: int | None) -> None:
    (place / "slow.py").write_text(SLOW.replace("SLOWEST", repr(slowest)), encoding="utf-8")
    text = PLAN.partition("[stages.pairs]")[0].replace("log_interval = 2", "log_interval = 1")
    plan = write_plan(place, text.replace('exp = "test_runner"\n', "").replace("epochs = 0.4", "epochs = 2.0"))
    how = {"exp": "slow.py:Slow", "mini_batch_size": 1, "batch_size": 2, "validation_interval": 1000}

    def stop(event: Event, controls: Controls) -> None:
        if isinstance(event, StepDone) and event.step == 12:
            controls.send(Stop())

    events = train_together(2, given(training_plan=plan, model="m.lmp", **how), act=stop)
    assert isinstance(last(events), RunStopped)
    said = [event.message for event in of(Warned, events) if "slower" in event.message]
    read = read_ranks(RunFolder(place / "m.lmp").files)
    assert read is not None
    if slowest is None:
        assert not said and read.straggler is None
        return
    assert len(said) == 1
    assert re.fullmatch(rf"rank {slowest} \(.+, CPU\) is \d+ % slower than the others; all wait for it", said[0])
    assert read.straggler is not None and read.straggler.rank == slowest and read.straggler.slower > 0.2
    figures = [event.values for event in of(MetricsLogged, events) if "ranks/slowest" in event.values]
    assert sum(values["ranks/slowest"] == slowest for values in figures) > 0.8 * len(figures)
