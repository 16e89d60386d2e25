"""Whatever is asked of a run of several processes happens as with one: same events, same answers, same run."""

import json
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from lmplay_tui.errors import EXIT_TRAINING
from lmplay_tui.run import controls as asked
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import (
    ActivityChanged,
    Answered,
    Evaluated,
    Event,
    LogLine,
    MetricsLogged,
    OptionChanged,
    PlanChanged,
    RunDone,
    RunFailed,
    RunStopped,
    StagesCounted,
    StepDone,
    Validated,
    Warned,
)
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.ranks import read_ranks
from lmplay_tui.train.alerts import Unusual, Watch
from lmplay_tui.train.checkpoint import load_checkpoint, write_checkpoint
from lmplay_tui.train.follower import follow
from lmplay_tui.train.launch import run_events
from lmplay_tui.train.process_group import ProcessGroup
from tests.seams import Seams
from tests.train.ranks import Ranks, train_together
from tests.train.runs import (
    PLAN,
    Broken,
    StopsAtLook,
    differences,
    given,
    last,
    losses,
    of,
    state_of,
    train,
    write_plan,
)
from tests.train.test_ranks import CLOSE, EXACT, distance, weights_of

SHORT = PLAN.partition("[stages.pairs]")[0]  # 3 steps
BESIDE = (ActivityChanged, LogLine, MetricsLogged, StagesCounted)  # by the clock, or of this machine


@pytest.fixture
def exact(place: Path) -> dict:
    """The options of a run in float64."""
    (place / "exact.py").write_text(EXACT, encoding="utf-8")
    return {"training_plan": write_plan(place, PLAN.replace('exp = "test_runner"\n', "")), "exp": "exact.py:Exact"}


def kinds(events: list[Event]) -> Counter[str]:
    """How many of each; a save is done when its thread is, so their order is the clock's."""
    return Counter(type(event).__name__ for event in events if not isinstance(event, BESIDE))


def at_steps(commands: dict[int, list[asked.Command]]) -> Callable[[Event, Controls], None]:
    def act(event: Event, controls: Controls) -> None:
        for command in commands.get(event.step, []) if isinstance(event, StepDone) else []:
            controls.send(command)

    return act


@pytest.mark.long
def test_every_command_does_what_it_does_with_one_process(exact, place):
    plan = Path(exact["training_plan"]).read_text(encoding="utf-8")
    changed = plan.replace("dropout = 0.1", "dropout = 0.2").replace("epochs = 1.2", "epochs = 0.9")
    act = at_steps(
        {
            1: [asked.SetLearningRate(factor=0.5, id="lr"), asked.ValidateNow(id="check"), asked.Pin("The", id="pin")],
            2: [asked.Ask("The mill", max_tokens=4, id="ask"), asked.SaveNow(id="save"), asked.Bookmark("here")],
            4: [asked.ChangePlan(changed, id="plan")],
            5: [asked.ChangePlan("[stages", id="bad"), asked.ChangePlan(changed.replace('"adam"', '"sgd"'), id="sgd")],
            8: [asked.Stop(when="stage_end", id="stage end")],
        }
    )  # fmt: skip
    one = train_together(1, given(**exact, model="one/m.lmp", out_dir="one"), act=act)
    two = train_together(2, given(**exact, model="two/m.lmp", out_dir="two"), act=act)
    assert isinstance(last(one), RunStopped), last(one)
    assert kinds(one) == kinds(two)
    answers = [{(answer.id, answer.ok) for answer in of(Answered, events)} for events in (one, two)]
    assert answers[0] == answers[1]
    assert {name for name, _ in answers[1]} >= {"lr", "check", "ask", "save", "plan", "bad", "sgd", "stage end"}
    assert len(of(PlanChanged, two)) == 2
    assert distance(weights_of("one/m.lmp"), weights_of("two/m.lmp")) < CLOSE
    resumed = [
        train_together(world_size, given(model=f"{name}/m.lmp", out_dir=name, exp=exact["exp"]))
        for world_size, name in ((1, "one"), (3, "two"))
    ]
    assert all(isinstance(last(events), RunDone) for events in resumed), [last(events) for events in resumed]
    assert distance(weights_of("one/m.lmp"), weights_of("two/m.lmp")) < CLOSE


@pytest.mark.long
def test_a_pause_may_last_longer_than_the_collectives_wait(place):
    """Two seconds is what a collective waits at most; the pause is four, with a save in it. Another ends by a stop."""
    plan = write_plan(place, SHORT)

    def act(event: Event, controls: Controls) -> None:
        if isinstance(event, StepDone) and event.step in (1, 2):
            controls.send(asked.Pause())
            if event.step == 1:
                controls.send(asked.SaveNow(id="in the pause"))
                threading.Timer(4.0, lambda: controls.send(asked.Resume())).start()
            else:
                threading.Timer(0.5, lambda: controls.send(asked.Stop())).start()

    begun = time.monotonic()
    events = train_together(2, given(training_plan=plan, model="m.lmp"), act=act, timeout_s=2.0)
    assert isinstance(last(events), RunStopped), last(events)
    assert last(events).step == 2
    assert time.monotonic() - begun > 4.0
    assert [a.id for a in of(Answered, events) if a.ok] == ["in the pause"]


@pytest.mark.long
def test_all_leave_at_one_step_wherever_a_stop_finds_them(place):
    """Between any two mini-batches, while validating, evaluating; what is saved goes on to the very bits."""
    plan = write_plan(place)
    whole = train_together(2, given(training_plan=plan, model="whole/m.lmp", out_dir="whole"))
    stopped = set()
    for look in range(1, 400, 9):
        name = f"look{look}"
        options = {"model": f"{name}/m.lmp", "out_dir": name}
        first = train_together(2, given(training_plan=plan, **options), lambda look=look: StopsAtLook(look))
        if isinstance(last(first), RunDone):
            break
        assert isinstance(last(first), RunStopped), last(first)
        done = losses(first)
        assert done == losses(whole)[: len(done)]
        stopped.add(len(done))
        second = train_together(2, given(**options, **({} if done else {"training_plan": plan})))
        assert done + losses(second) == losses(whole)
        assert not list(differences(state_of(place / "whole/m.lmp"), state_of(place / name / "m.lmp")))
    assert len(stopped) > 5, "the looks must fall into different steps"


def test_a_hand_over_that_cannot_be_is_refused_in_a_line(place):
    act = at_steps({2: [asked.HandOver(id="hand over")]})
    events = train_together(2, given(training_plan=write_plan(place, SHORT), model="m.lmp"), act=act)
    assert isinstance(last(events), RunDone), last(events)
    assert [(a.id, a.ok) for a in of(Answered, events)] == [("hand over", False)]
    assert "not handed over, the run goes on in this process" in of(Warned, events)[-1].message


def in_rank(rank: int) -> bool:
    return dist.is_initialized() and dist.get_rank() == rank


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_memory_that_lacks_on_one_rank_makes_the_mini_batches_of_all_smaller(place, seams, rank):
    text = SHORT.replace("dropout = 0.1", "dropout = 0").replace("\nbatch_size = 6\n", "\nbatch_size = 12\n")
    plan = write_plan(place, text)
    options = {"training_plan": plan, "mini_batch_size": 2}
    expected = train_together(2, given(**options, model="one/m.lmp", out_dir="one").with_options(mini_batch_size=1))

    def look(samples: list, **_: Any) -> None:
        if in_rank(1 - rank):
            time.sleep(0.05)  # it is amidst its share when it is told to drop it
        if in_rank(rank) and len(samples) > 1 and any(len(s.truth_ids) > 20 for s in samples):
            raise MemoryError

    seams.watch("pack", look)
    events = train_together(2, given(**options, model="m.lmp"))
    assert isinstance(last(events), RunDone), last(events)
    warned = [e.message for e in of(Warned, events)]
    assert ["out of memory with mini-batches of 2; going on with 1" in each for each in warned] == [True]
    assert losses(events) == losses(expected)


def test_numbers_that_are_not_finite_on_one_rank_end_the_run_of_all(place, seams):
    plan = write_plan(place, SHORT)

    def spoil(real: Callable[..., Any], *args: Any) -> Any:
        x = real(*args)
        return x * float("nan") if in_rank(1) else x

    seams.around("trunk", spoil)
    events = train_together(2, given(training_plan=plan, model="m.lmp"))
    end = last(events)
    assert isinstance(end, RunFailed) and end.exit_code == EXIT_TRAINING
    assert "step 1" in end.message and "loss is not finite" in end.message
    assert not of(StepDone, events)


def drift(seams: Seams, bits: dict[int, int], behind: int) -> None:
    """Flip a bit of these ranks' weights, by its number, behind the update of this step."""
    updated = []

    def update(real: Callable[..., None], gradients: Any, *args: Any, **named: Any) -> None:
        real(gradients, *args, **named)
        updated.append(1)
        if len(updated) == behind:
            for rank, bit in bits.items():
                if in_rank(rank):
                    with torch.no_grad():
                        next(gradients.model.parameters()).view(torch.int32).flatten()[0] ^= 1 << bit

    seams.around("update", update)


TIE = "the weights of rank 0 and of rank 1 are not the same, and which are right is not known"


@pytest.mark.parametrize(
    ("world_size", "bits", "said"),
    [
        (2, {1: 0}, TIE),
        (2, {0: 0}, TIE),
        pytest.param(3, {2: 0}, "the weights of rank 2 are not those of the others", marks=pytest.mark.long),
        pytest.param(3, {0: 0}, "the weights of rank 0 are not those of the others", marks=pytest.mark.long),
        pytest.param(
            3, {1: 0, 2: 1}, "the weights of rank 0 and of rank 1 and of rank 2 are not", marks=pytest.mark.long
        ),
    ],
)
def test_a_run_whose_ranks_drift_apart_ends_and_saves_no_more(place, seams, world_size, bits, said):
    """One bit, behind the second update: found at the next log interval. Who is right is known where most agree."""
    drift(seams, bits, behind=2)
    act = at_steps({1: [asked.SaveNow(id="save")]})
    events = train_together(world_size, given(training_plan=write_plan(place, SHORT), model="m.lmp"), act=act)
    end = last(events)
    assert isinstance(end, RunFailed) and end.exit_code == EXIT_TRAINING, end
    assert end.message.startswith(f"behind step 2: {said}"), end.message
    assert "behind step 1 all were equal bit by bit" in end.message
    assert end.message.endswith("nothing more is saved, the last checkpoint is of no step behind that")
    assert [e.step for e in of(StepDone, events)] == [1, 2]
    assert load_checkpoint(Path("m.lmp"))["runner"]["state"]["progress"]["step"] == 1


SAVED: dict[str, list[asked.Command]] = {
    "interval": [],
    "asked": [asked.SaveNow(id="save")],
    "in a pause": [asked.Pause(), asked.SaveNow(id="save")],
    "stop": [asked.Stop()],
    "handing over": [asked.HandOver()],
    "before the end": [Broken("a bug")],
    "stage end": [],
}


@pytest.mark.long_after(2)
@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("rank", [0, 1])
def test_weights_that_ranks_have_unlike_are_not_saved(place, seams, rank, saved):
    """Whatever the save is for: a resume would give rank 0's bits to all, and no trace of the drift would be left."""
    step = 12 if saved == "stage end" else 2  # of twelve
    drift(seams, {rank: 0}, behind=step)
    how = {"save_interval": 1} if saved == "interval" else {}
    act = at_steps({1: [asked.SaveNow(id="first")], step: SAVED[saved]})
    text = SHORT.replace("log_interval = 2", "log_interval = 100")
    events = train_together(2, given(training_plan=write_plan(place, text), model="m.lmp", **how), act=act)
    end = last(events)
    assert isinstance(end, RunFailed), end
    told = [end.message, *(event.message for event in of(Warned, events))]
    assert [message for message in told if f"behind step {step}: {TIE}" in message], told
    assert [answer.ok for answer in of(Answered, events) if answer.id == "save"] == [False] * (
        saved in ("asked", "in a pause")
    )
    assert of(StepDone, events)[-1].step == step
    assert load_checkpoint(Path("m.lmp"))["runner"]["state"]["progress"]["step"] == 1


def test_a_bug_in_one_ranks_share_is_told_with_its_rank(place, seams):
    plan = write_plan(place, SHORT)
    seen = []

    def look(samples: list, **_: Any) -> None:
        seen.append(1)
        if in_rank(1) and len(seen) > 4:
            raise KeyError("a bug")

    seams.watch("pack", look)
    events = train_together(2, given(training_plan=plan, model="m.lmp"))
    end = last(events)
    assert isinstance(end, RunFailed), end
    assert "rank 1: KeyError: 'a bug'" in end.message and "test_rank_commands.py" in end.message
    steps = len(of(StepDone, events))
    assert load_checkpoint(Path("m.lmp"))["runner"]["state"]["progress"]["step"] == steps > 0, "what was done is saved"


@pytest.mark.long
def test_small_batches_give_each_rank_a_part_which_is_said_once(place):
    """Unless a command line asks for the size, or the gradient would be another one by it."""
    text = SHORT.replace("batch_size = 6\n", "batch_size = 3\n")
    own = write_plan(place, text + 'loss_normalization = "samples"\n', "samples.toml")
    free = write_plan(place, text)
    with_size = text.replace("batch_size = 3\n", "batch_size = 3\nmini_batch_size = 4\n")
    of_plan = write_plan(place, with_size, "of_plan.toml")
    starts = {
        "free": given(training_plan=free).without("mini_batch_size"),
        "plan": given(training_plan=of_plan).without("mini_batch_size"),
        "given": given(training_plan=free, mini_batch_size=4),
        "samples": given(training_plan=own).without("mini_batch_size"),
        "auto": given(training_plan=free, mini_batch_size="auto"),
    }
    runs = {name: train_together(2, start.with_options(model=f"{name}.lmp")) for name, start in starts.items()}
    assert all(isinstance(last(events), RunDone) for events in runs.values())
    said = {name: [e.message for e in of(LogLine, events)] for name, events in runs.items()}
    smaller = {
        name: sum("of 2 instead of 4 give work to all 2 processes" in line for line in lines)
        for name, lines in said.items()
    }
    assert smaller == {"free": 1, "plan": 1, "given": 0, "samples": 0, "auto": 0}
    idle = {name: [e.message for e in of(Warned, events) if "1 of 2" in e.message] for name, events in runs.items()}
    assert {name: len(lines) for name, lines in idle.items()} == {
        "free": 0, "plan": 0, "given": 1, "samples": 1, "auto": 0,
    }  # fmt: skip
    assert "as asked for" in idle["given"][0] and idle["given"][0].endswith("--mini-batch-size 2 helps")
    assert idle["samples"][0].endswith("--mini-batch-size 2 helps, and changes the gradient")


def test_a_rank_that_is_killed_ends_the_run_with_what_is_done_saved(place):
    plan = write_plan(place)

    def work(group: Any) -> Any:
        if group.rank:
            return follow(group)
        events = []
        for event in run_events(given(training_plan=plan, model="m.lmp"), Controls(), group=group):
            events.append(event)
            if isinstance(event, StepDone) and event.step == 4:
                Path("kill").touch()
                while Path("kill").exists():
                    time.sleep(0.01)
        return events

    with Ranks(2, work) as ranks:
        while not Path("kill").exists():
            time.sleep(0.01)
        ranks.children[1].kill()
        Path("kill").unlink()
        events = next(ranks.children[0].reports())
    end = last(events)
    assert isinstance(end, RunFailed) and end.exit_code == EXIT_TRAINING, end
    assert re.fullmatch(r"rank 1 \(process \d+ on .+\) has ended", end.message), end.message
    assert [e.step for e in of(StepDone, events)] == [1, 2, 3, 4]
    assert load_checkpoint(Path("m.lmp"))["runner"]["state"]["progress"]["step"] == 4


@pytest.mark.long
def test_a_rank_that_hangs_is_named_while_it_does_and_ends_the_run_in_bounded_time(place, seams):
    """It stands still in its share: rank 0 says whom it waits for, and after the collectives' time that it is lost."""
    plan = write_plan(place)
    seen = []

    def look(samples: list, **_: Any) -> None:
        seen.append(1)
        if in_rank(1) and len(seen) > 8:
            time.sleep(1000)

    seams.watch("pack", look)
    seams.put("watch", lambda **how: Watch(Unusual(stall_s=0.3), look_every_s=0.02, **how))
    results = together_until_rank_0_ends(plan, timeout_s=4.0)
    end = last(results)
    assert isinstance(end, RunFailed) and end.exit_code == EXIT_TRAINING, end
    named = f"rank 1 ({socket.gethostname()}, cpu) is still computing"
    assert "does not answer" in end.message and named in end.message
    assert [e for e in of(LogLine, results) if "has not ended" in e.message and named in e.message]
    steps = len(of(StepDone, results))
    assert load_checkpoint(Path("m.lmp"))["runner"]["state"]["progress"]["step"] == steps > 0


def together_until_rank_0_ends(plan: str, **how: Any) -> list[Event]:
    """The events of rank 0 of two; the other is killed then."""

    def work(group: ProcessGroup) -> Any:
        if group.rank:
            return follow(group)
        events: list[Event] = []
        events += run_events(given(training_plan=plan, model="m.lmp"), Controls(), events.append, group)
        return events

    with Ranks(2, work, **how) as ranks:
        return next(ranks.children[0].reports())


@pytest.mark.long
def test_a_checkpoint_of_before_goes_on_with_several_processes(place):
    """Its one sequence of random numbers cannot be several processes': from there on each mini-batch has its own."""
    plan = write_plan(place)
    train_together(2, given(training_plan=plan, model="m.lmp"), act=at_steps({2: [asked.Stop()]}))
    checkpoint = load_checkpoint(Path("m.lmp"))
    state = checkpoint["runner"]["state"]
    del state["random_numbers"]
    state["rng"] = {"cpu": torch.Generator().manual_seed(5).get_state()}
    write_checkpoint(checkpoint, Path("m.lmp"))
    events = train_together(2, given(model="m.lmp"))
    assert isinstance(last(events), RunDone)
    assert [e.message for e in of(Warned, events) if "earlier version, whose dropout" in e.message]
    assert state_of(Path("m.lmp"))["runner"]["state"]["random_numbers"] == "mini-batch"


@pytest.mark.long
def test_what_ranks_do_is_in_the_runs_folder_and_its_metrics(place):
    plan = write_plan(place, SHORT)

    def act(event: Event, controls: Controls) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            time.sleep(3.0)

    events = train_together(2, given(training_plan=plan, model="m.lmp"), act=act)
    logged = [e.values for e in of(MetricsLogged, events) if "train/loss" in e.values]
    assert all({"ranks/slowest", "ranks/wait_share", "time/reduce_s"} <= values.keys() for values in logged)
    ranks = read_ranks(RunFolder(Path("m.lmp")).files)
    assert ranks is not None
    assert [(r.rank, r.device, r.pid is not None, r.compute_s > 0) for r in ranks.ranks] == [
        (0, "cpu", True, True), (1, "cpu", True, True),
    ]  # fmt: skip
    assert json.dumps([r.phase for r in ranks.ranks])
    assert all(0 < r.memory_bytes < r.memory_total for r in ranks.ranks)


@pytest.mark.long
def test_scores_have_the_bits_of_one_process(place):
    """Given the weights: the same checkpoint is validated and evaluated by one, two and three processes."""
    plan = write_plan(place)
    train(training_plan=plan, model="m.lmp", validation_interval=1000)
    copies = {}
    for world_size in (1, 2, 3):
        copies[world_size] = Path(f"w{world_size}.lmp")
        copies[world_size].write_bytes(Path("m.lmp").read_bytes())
    scores = {}
    for world_size, path in copies.items():
        how = given(model=str(path), out_dir=str(world_size), extend=1.5)

        def ask_first() -> Controls:
            controls = Controls()
            controls.send(asked.ValidateNow())
            controls.send(asked.Ask("The mill", max_tokens=3))
            return controls

        events = train_together(world_size, how, ask_first)
        first = next(i for i, event in enumerate(events) if isinstance(event, StepDone))
        validated = [(e.loss, e.accuracy, e.samples) for e in of(Validated, events[:first])]
        scores[world_size] = validated
        assert of(Evaluated, events)
        assert not of(OptionChanged, events)
    assert scores[1] and scores[1] == scores[2] == scores[3]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
def test_disturbances_at_random_end_as_they_should_and_never_in_a_wait(place, seams, seed):
    """Ranks that are slow, lack memory, have a bug, are stopped, at random mini-batches, several of it in one run."""
    dice = random.Random(seed)
    plan = write_plan(place, PLAN.replace("\nbatch_size = 6\n", "\nbatch_size = 14\n"))
    world_size = dice.choice([2, 3])
    kinds_ = dice.sample(["memory", "stop", "bug"], dice.randrange(1, 4))
    victim, begins, stops_at = dice.randrange(world_size), dice.randrange(1, 25), dice.randrange(1, 60)
    computed = [0]

    def look(samples: list, **_: Any) -> None:
        if not dist.is_initialized():
            return
        computed[0] += 1
        time.sleep(random.Random(f"{seed} {dist.get_rank()} {computed[0]}").choice([0, 0, 0.003, 0.02]))
        if dist.get_rank() == victim and "memory" in kinds_ and computed[0] > begins and len(samples) > 1:
            raise MemoryError
        if dist.get_rank() == victim and "bug" in kinds_ and computed[0] > begins + 20:
            raise KeyError("a bug")

    seams.watch("pack", look)
    own = (lambda: StopsAtLook(stops_at)) if "stop" in kinds_ else Controls
    events = train_together(world_size, given(training_plan=plan, model="m.lmp"), own, timeout_s=30.0)
    end = last(events)
    if isinstance(end, RunFailed):
        assert "bug" in kinds_ and "KeyError: 'a bug'" in end.message, end
    else:
        assert isinstance(end, RunDone | RunStopped) and ("stop" in kinds_ or isinstance(end, RunDone)), end
    steps = [e.step for e in of(StepDone, events)]
    assert steps == list(range(1, len(steps) + 1))
    if steps:
        assert load_checkpoint(Path("m.lmp"))["runner"]["state"]["progress"]["step"] == steps[-1]
