"""Training, stops, kills, damage and changed plans in any order, against a model of what was last saved."""

import hashlib
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from lmplay_tui.run.controls import Controls, Stop
from lmplay_tui.run.events import CheckpointSaved, RunDone, RunFailed, RunStarted, RunStopped, StepDone, Warned
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.train.checkpoint import load_checkpoint, newest_checkpoint
from lmplay_tui.train.launch import run_events
from tests.faults.forks import Child
from tests.train.conftest import place
from tests.train.runs import PLAN, given, write_plan

ENOUGH_STEPS = 8  # a start


def train_and_report(options: dict, stop_after: int | None, report) -> None:
    """Train from where the run stands; report each step, each announced save with its bytes' sum, and the end."""
    controls, steps = Controls(), 0
    for event in run_events(given(model="m.lmp", log_interval=1, **options), controls):
        if isinstance(event, RunStarted):
            report(("started", event.resumed_from))
        elif isinstance(event, StepDone):
            steps += 1
            report(("step", event.step))
            if steps == stop_after:
                controls.send(Stop())
        elif isinstance(event, CheckpointSaved):
            # Training goes on meanwhile, but no save begins before this one's outcome has been handed out.
            report(("saved", event.step, sum_of(Path("m.lmp"))))
        elif isinstance(event, Warned):
            report(("warned", event.message))
    report(("end", type(event).__name__, event.message if isinstance(event, RunFailed) else ""))


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class SavedRun(RuleBasedStateMachine):
    """`saves`: (step, sum) of `NAME.prev.lmp` and `NAME.lmp`, as far as they have been announced and are whole.

    What a kill finds done differs from time to time. So no rule has a precondition, which hypothesis wants to hold or
    not each time alike: one that has nothing to do does nothing.
    """

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lmplay-any-order-"))
        with pytest.MonkeyPatch.context() as patch:
            place.__wrapped__(self.folder, patch)  # type: ignore[attr-defined]
        os.chdir(self.folder)
        self.run = RunFolder(self.folder / "m.lmp")
        self.plan = write_plan(self.folder)
        self.plan_changed = False
        self.saves: list[tuple[int, str]] = []
        self.over = False

    def teardown(self) -> None:
        os.chdir(Path(__file__).parent)
        shutil.rmtree(self.folder, ignore_errors=True)

    def options(self, save_interval: int) -> dict:
        new = {} if self.run.model.exists() and not self.plan_changed else {"training_plan": self.plan}
        self.plan_changed = False
        return {"save_interval": save_interval, **new}

    def hear(self, reports) -> int:
        """Follow what a child reports; the last step it has finished."""
        step = 0
        for kind, *values in reports:
            if kind == "started":
                assert values[0] == (self.saves[-1][0] if self.saves else None), "not the last good save"
            elif kind == "step":
                step = values[0]
            elif kind == "saved":
                self.saves = [*self.saves, (values[0], values[1])][-2:]
            elif kind == "end":
                self.over = values[0] == RunDone.__name__
                # A plan with fewer epochs than have been trained is refused; the run keeps its own.
                refused = values[0] == RunFailed.__name__ and "epochs are done already" in values[1] and not step
                assert refused or values[0] in (RunDone.__name__, RunStopped.__name__), values
        return step

    def look(self) -> None:
        """The newest checkpoint is the last announced one, or one that was finished after it."""
        found = newest_checkpoint(self.run, pytest.fail)
        if found is None:
            assert not self.saves
            return
        step = found[0]["runner"]["state"]["progress"]["step"]
        if self.saves and step == self.saves[-1][0]:
            assert sum_of(self.run.model) == self.saves[-1][1]
            return
        assert not self.saves or step > self.saves[-1][0], "older than what was announced"
        if self.saves:
            assert sum_of(self.run.checkpoint("prev")) == self.saves[-1][1]
        self.saves = [*self.saves, (step, sum_of(self.run.model))][-2:]

    @rule(steps=st.integers(1, ENOUGH_STEPS), save_interval=st.sampled_from([3, 9, 1000]))
    def train_and_stop(self, steps: int, save_interval: int) -> None:
        if self.over:
            return
        options = self.options(save_interval)
        with Child(lambda report: train_and_report(options, steps, report)) as child:
            last = self.hear(child.reports())
            assert child.wait() == 0
        if last:
            assert self.saves[-1][0] == last, "a stop saves the last finished step"
        self.look()

    @rule(steps=st.integers(1, ENOUGH_STEPS), save_interval=st.sampled_from([3, 9]), later_s=st.floats(0, 0.02))
    def train_and_kill(self, steps: int, save_interval: int, later_s: float) -> None:
        if self.over:
            return
        options = self.options(save_interval)
        with Child(lambda report: train_and_report(options, None, report)) as child:
            heard = []
            for said in child.reports():
                heard.append(said)
                if [kind for kind, *_ in heard].count("step") >= steps:
                    time.sleep(later_s)
                    break
            child.kill()
            self.hear([*heard, *child.reports()])
        self.look()

    @rule(seed=st.integers(0, 10**6), cut=st.booleans())
    def damage(self, seed: int, cut: bool) -> None:
        """Of the newest file; the one before it is what counts from now on."""
        if len(self.saves) < 2:
            return
        data = bytearray(self.run.model.read_bytes())
        dice = random.Random(seed)
        if cut:
            data = data[: dice.randrange(len(data))]
        else:
            with_numbers = len(data) // 2  # where flipped bits are never without effect
            data[with_numbers + dice.randrange(1000)] ^= 1 << dice.randrange(8)
        self.run.model.write_bytes(data)
        warnings: list[str] = []
        found = newest_checkpoint(self.run, warnings.append)
        if found is not None and found[1] == self.run.model:
            return  # between two parts of the archive: every part is whole
        assert found is not None
        assert warnings
        self.saves = self.saves[:1]
        assert sum_of(found[1]) == self.saves[0][1]
        self.run.checkpoint("prev").replace(self.run.model)  # as a person would; the next start goes on from it
        self.look()

    @rule(epochs=st.sampled_from([1.2, 1.5, 2.0]))
    def change_plan(self, epochs: float) -> None:
        write_plan(self.folder, PLAN.replace("epochs = 1.2", f"epochs = {epochs}"))
        self.plan_changed = True

    @rule()
    def load(self) -> None:
        if self.saves:
            assert load_checkpoint(self.run.model)["runner"]["state"]["progress"]["step"] == self.saves[-1][0]


def check_any_order(examples: int, steps: int, *, random_order: bool) -> None:
    before = Path.cwd()
    how = settings(
        max_examples=examples, stateful_step_count=steps, derandomize=not random_order,
        suppress_health_check=list(HealthCheck), database=None,
    )  # fmt: skip
    try:
        run_state_machine_as_test(SavedRun, settings=how)
    finally:
        os.chdir(before)


@pytest.mark.long
def test_any_order():
    check_any_order(4, 6, random_order=False)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_any_order_many_times(count):
    check_any_order(60, 12, random_order=True)
    count("stops, kills, damage and changed plans in any order: 60 runs of 12, always the last good save")
