"""What people ask while it runs, and that only what they ask for changes the run."""

import itertools
import json
import threading
from functools import partial

import pytest
from torch.nn import functional

from lmplay_tui.models.gpt2ish import GPT2ish
from lmplay_tui.options import Launch
from lmplay_tui.run import controls as asked
from lmplay_tui.run.controls import Controls
from lmplay_tui.run.events import (
    ActivityChanged,
    Answered,
    Bookmarked,
    CheckpointSaved,
    Evaluated,
    LearningRateChanged,
    LogLine,
    LossSpiked,
    Paused,
    PinsChanged,
    PlanChanged,
    Predicted,
    Resumed,
    RunDone,
    RunFailed,
    RunStarted,
    RunStopped,
    StageDone,
    StepDone,
    Warned,
)
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.run.recorder import Recorder
from lmplay_tui.train.alerts import Unusual, Watch
from lmplay_tui.train.launch import run_events
from tests.train.runs import (
    PLAN,
    Broken,
    ask_at,
    differences,
    given,
    last,
    losses,
    of,
    state_of,
    stop_after,
    train,
    write_plan,
)


def test_save_now_makes_a_checkpoint_of_that_step(place):
    events = ask_at(3, asked.SaveNow(id="1"), training_plan=write_plan(place), model="m.lmp")
    saved = [e for e in of(CheckpointSaved, events) if e.reason == "asked"]
    assert [e.step for e in saved] == [3]
    assert saved[0].size_bytes > 1000
    answers = [e for e in events if type(e).__name__ == "Answered"]
    assert [(a.id, a.ok) for a in answers] == [("1", True)]


@pytest.mark.long_after(6)
@pytest.mark.parametrize("look", range(1, 12))
def test_a_save_asked_for_with_a_stop_is_answered_by_the_stops_save(place, look):
    """Whatever look of the trainer brings them together: before a step, between mini-batches, between steps."""
    controls, looks = Controls(), itertools.count(1)
    both = [asked.SaveNow(id="save"), asked.Stop(id="stop")]
    controls.sources.append(lambda: both if next(looks) == look else [])
    events = list(run_events(given(training_plan=write_plan(place), model="m.lmp"), controls))
    end = last(events)
    assert isinstance(end, RunStopped)
    answered = {e.id: (e.ok, e.message) for e in of(Answered, events) if e.id == "save"}
    assert answered == {"save": (True, "m.lmp") if end.saved else (False, "nothing had been trained")}
    assert len(of(CheckpointSaved, events)) == int(end.saved)


@pytest.mark.parametrize("whole", [True, False])
def test_a_save_asked_for_just_before_an_error_is_answered(place, seams, whole):
    """By the save at the end, where there is one."""
    if not whole:
        seams.put("whole step", property(lambda _: False, lambda *_: None))
    plan = write_plan(place)
    events = ask_at(3, asked.SaveNow(id="save"), Broken(), training_plan=plan, model="m.lmp")
    assert isinstance(last(events), RunFailed)
    answer = of(Answered, events)[0]
    assert (answer.id, answer.ok) == ("save", whole)
    assert answer.message == ("m.lmp" if whole else last(events).message)


def test_asking_pinning_and_bookmarks_change_no_bit(place):
    plan = write_plan(place)
    whole = train(training_plan=plan, model="a.lmp", out_dir="a")
    commands = (
        asked.Ask("The mill", temperature=0.9, top_k=5, max_tokens=8), asked.Pin("She went"), asked.Bookmark("here"),
        asked.SaveNow(),
    )  # fmt: skip
    events = ask_at(4, *commands, training_plan=plan, model="b.lmp", out_dir="b")
    assert losses(events) == losses(whole)
    a, b = state_of(place / "a.lmp"), state_of(place / "b.lmp")
    assert not list(differences(a["model"], b["model"]))
    assert not list(differences(a["optimizers"], b["optimizers"]))
    kinds = [e.prediction.kind for e in of(Predicted, events)]
    assert kinds.count("asked") == 1
    assert kinds.count("pinned") >= 2, "answered at each evaluation"
    assert [e.note for e in of(Bookmarked, events)] == ["here"]


@pytest.mark.long
def test_a_learning_rate_is_kept_on_a_resume(place):
    plan = write_plan(place)
    commands = (asked.SetLearningRate(factor=0.5), asked.Stop())
    events = ask_at(2, *commands[:1], training_plan=plan, model="m.lmp")
    assert [e.factor for e in of(LearningRateChanged, events)] == [0.5]
    assert [e.lr for e in of(StepDone, events)][1:3] == [0.01, 0.005]
    first = ask_at(2, *commands, training_plan=plan, model="n.lmp")
    assert isinstance(last(first), RunStopped)
    # The stop came with the change: nothing was trained with it yet, but it holds.
    assert of(StepDone, train(model="n.lmp"))[0].lr == 0.005


def test_a_learning_rate_by_value_and_a_bad_one(place):
    events = ask_at(
        2, asked.SetLearningRate(value=0.002), asked.SetLearningRate(factor=-1), training_plan=write_plan(place),
        model="m.lmp",
    )  # fmt: skip
    assert [round(e.lr, 12) for e in of(StepDone, events)][2] == 0.002
    assert len(of(Warned, events)) == 1


def test_pause_holds_and_resume_goes_on(place):
    controls = Controls()
    whole = losses(train(training_plan=write_plan(place), model="a.lmp"))
    events, waited = [], 0
    for event in run_events(given(training_plan=write_plan(place), model="b.lmp"), controls):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 2:
            controls.send(asked.Pause())
        if getattr(event, "activity", "") == "paused":
            waited += 1
            if waited == 2:
                controls.send(asked.SaveNow())
            if waited == 3:
                controls.send(asked.Resume())
    assert losses(events) == whole
    assert len(of(Paused, events)) == len(of(Resumed, events)) == 1
    paused = events.index(of(Paused, events)[0])
    resumed = events.index(of(Resumed, events)[0])
    assert not of(StepDone, events[paused:resumed])
    assert [e.reason for e in of(CheckpointSaved, events[paused:resumed])] == ["asked"], "saves while paused"


def test_a_save_that_ends_during_a_pause_is_told_then(place, seams):
    """Whoever waits for it does not wait for the pause's end."""
    paused = threading.Event()
    seams.watch("write a checkpoint", lambda *_, **__: paused.wait(60))
    controls, events, waited = Controls(), [], 0
    for event in run_events(given(training_plan=write_plan(place), model="m.lmp"), controls):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 2:
            controls.send(asked.SaveNow(id="s"))
        if isinstance(event, StepDone) and event.step == 3:
            controls.send(asked.Pause())
        if getattr(event, "activity", "") == "paused":
            paused.set()
            waited += 1
            if waited > 300 or of(CheckpointSaved, events):
                controls.send(asked.Resume())
                waited = 0
    answered, resumed = events.index(of(Answered, events)[0]), events.index(of(Resumed, events)[0])
    assert of(CheckpointSaved, events[:resumed])
    assert answered < resumed


def test_a_verbose_log_says_once_that_the_run_is_paused(tmp_path):
    """However long it is: the log keeps a few megabytes."""
    run = RunFolder(tmp_path / "m.lmp")
    run.create()
    recorder = Recorder(run, verbose=True)
    for activity in ("paused", "paused", "training", "paused", "paused"):
        recorder.record(ActivityChanged(activity))
    recorder.close()
    said = [line.split()[2] for line in run.log.read_text("utf-8").splitlines()]
    assert said == ["paused", "training", "paused"]


def test_stop_at_the_stages_end(place):
    events = ask_at(1, asked.Stop(when="stage_end"), training_plan=write_plan(place), model="m.lmp")
    assert isinstance(last(events), RunStopped)
    assert [e.stage for e in of(StageDone, events)] == ["stories"]
    assert isinstance(last(train(model="m.lmp")), RunDone)


def test_the_rest_of_the_plan_may_change(place):
    plan = write_plan(place)
    longer = PLAN.replace("epochs = 1.2", "epochs = 1.5").replace("[stages.both]", "[stages.other]")
    events = ask_at(2, asked.ChangePlan(longer), training_plan=plan, model="m.lmp", out_dir="o")
    changed = of(PlanChanged, events)
    assert len(changed) == 1
    assert "stage pairs: epochs 1.2 -> 1.5" in changed[0].what
    assert [e.stage for e in of(StageDone, events)] == ["stories", "pairs", "other"]
    history = list((place / "m.run/plan.history").iterdir())
    assert [path.read_text(encoding="utf-8") for path in history] == [PLAN]
    assert (place / "m.run/plan.toml").read_text(encoding="utf-8") == longer
    assert isinstance(last(train(model="m.lmp")), RunDone)


REFUSED = [
    (PLAN.replace("[stages.stories]", "[stages.begun]"), "stages.stories: has begun"),
    (PLAN.replace("epochs = 0.4", "epochs = 0.001"), "stages.stories.epochs"),
    (PLAN.replace("embed_dim = 16", "embed_dim = 32"), "train.embed_dim"),
    (PLAN.replace("epochs = 1.2", "epochs = -1"), "epochs"),
    (PLAN.replace("lr = 0.01", "lr = 0.01\nvalidation_split = 0.2"), "validation_split: rows have been held out"),
    (PLAN.replace("lr = 0.01", "lr = 0.01\nseed = 3"), "train.seed: rows have been held out"),
    ("nonsense", "nonsense"),
]


@pytest.mark.long_after(2)
@pytest.mark.parametrize(("bad", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_a_plan_that_would_change_what_has_been_is_refused_and_the_run_goes_on(place, bad, said):
    events = ask_at(2, asked.ChangePlan(bad), training_plan=write_plan(place), model="m.lmp")
    assert not of(PlanChanged, events)
    assert any(said in e.message for e in of(Warned, events)), (said, of(Warned, events))
    assert isinstance(last(events), RunDone)


@pytest.mark.long
def test_dropout_of_a_changed_plan_acts_from_the_next_batch(place):
    changed = PLAN.replace("dropout = 0.1", "dropout = 0.5")
    live = ask_at(2, asked.ChangePlan(changed), training_plan=write_plan(place), model="a.lmp")
    stop_after(2, training_plan=write_plan(place), model="b.lmp")
    resumed = train(training_plan=write_plan(place, changed), model="b.lmp")
    assert losses(live)[2:] == losses(resumed), "as a start with that plan"
    assert losses(live)[2:] != losses(train(training_plan=write_plan(place), model="c.lmp"))[2:]


@pytest.mark.long
def test_warm_up_of_a_changed_plan_begins_with_the_next_batch(place):
    plan = write_plan(place)
    changed = PLAN.replace("lr = 0.01", "lr = 0.01\noptimizer_warmup_steps = 2\noptimizer_warmup_fraction = 0.5")
    events = ask_at(2, asked.ChangePlan(changed), training_plan=plan, model="m.lmp")
    assert [e.lr for e in of(StepDone, events)][:5] == pytest.approx([0.01, 0.01, 0.005, 0.0075, 0.01])
    stop_after(1, training_plan=write_plan(place, changed), model="n.lmp")
    events = ask_at(2, asked.ChangePlan(PLAN), model="n.lmp")
    assert [e.lr for e in of(StepDone, events)][:2] == pytest.approx([0.0075, 0.01]), "and ends with it"


def test_a_mini_batch_size_of_auto_in_a_changed_plan_is_found_before_the_next_batch(place):
    none_on_the_line = Launch({"device": "cpu", "training_plan": write_plan(place), "model": "m.lmp"})
    auto = asked.ChangePlan(PLAN.replace("[train]", '[train]\nmini_batch_size = "auto"'))
    events = ask_at(3, auto, launch=none_on_the_line)
    assert isinstance(last(events), RunDone), last(events)
    changed = next(i for i, e in enumerate(events) if isinstance(e, PlanChanged))
    trained = next(i for i, e in enumerate(events) if isinstance(e, StepDone) and e.step == 4)
    assert "--mini-batch-size auto" in " ".join(e.message for e in of(LogLine, events[changed:trained]))
    assert state_of(place / "m.lmp")["runner"]["state"]["progress"]["probed_mini_batch_size"] is not None
    assert len([e for e in of(LogLine, events) if "--mini-batch-size auto" in e.message]) == 1


class DropsOutItself(GPT2ish):
    """By a function, whose probability no other code can change."""

    def __init__(self, *, vocab_size, context_len, num_blocks, embed_dim, num_heads, dropout) -> None:
        super().__init__(vocab_size=vocab_size, context_len=context_len, num_blocks=num_blocks, embed_dim=embed_dim,
                         num_heads=num_heads, dropout=0.0)  # fmt: skip
        self.own_dropout = dropout

    def hidden(self, ids_BT, cache=None):
        return functional.dropout(super().hidden(ids_BT, cache), self.own_dropout, self.training)


def test_dropout_that_cannot_be_changed_now_is_said(place):
    (place / "mine.py").write_text("from tests.train.test_control import DropsOutItself\n", encoding="utf-8")
    plan = PLAN.replace('exp = "test_runner"\n', "")
    change = asked.ChangePlan(plan.replace("dropout = 0.1", "dropout = 0.5"))
    events = ask_at(2, change, training_plan=write_plan(place, plan), model="m.lmp", exp="mine.py:DropsOutItself")
    assert of(PlanChanged, events)
    assert [e.message for e in of(Warned, events)] == [
        "train.dropout: this experiment's cannot be changed while it runs: it acts from the next start on"
    ]


@pytest.mark.long
def test_the_running_stage_can_be_finished_or_extended_by_the_plan(place):
    plan = write_plan(place)
    whole = [e.stage_rows for e in of(StepDone, train(training_plan=plan, model="a.lmp")) if e.stage == "stories"]
    change = asked.ChangePlan(PLAN.replace("epochs = 0.4", "epochs = 1"))
    longer = ask_at(1, change, training_plan=plan, model="b.lmp")
    assert max(e.stage_rows for e in of(StepDone, longer) if e.stage == "stories") > max(whole)
    change = asked.ChangePlan(PLAN.replace("epochs = 0.4", "epochs = 0.2"))
    shorter = ask_at(1, change, training_plan=plan, model="c.lmp")
    assert max(e.stage_rows for e in of(StepDone, shorter) if e.stage == "stories") < max(whole)


def test_events_on_disk_are_the_events(place):
    events = ask_at(3, asked.Bookmark("b"), training_plan=write_plan(place), model="m.lmp")
    written = [json.loads(line) for line in (place / "m.run/events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [w["event"] for w in written] == [type(e).__name__ for e in events if e.journaled]
    assert all(w["time"].endswith("Z") for w in written)


@pytest.mark.long
def test_pinned_prompts_are_answered_through_the_run_and_survive_a_resume(place):
    plan = write_plan(place)
    events = ask_at(3, asked.Pin("She went"), asked.Pin("The mill"), training_plan=plan, model="m.lmp")
    assert [e.pinned for e in of(PinsChanged, events)] == [("She went",), ("She went", "The mill")]
    evaluations = len([e for e in of(Evaluated, events) if e.step > 3])
    assert evaluations >= 3
    pinned = [e.prediction for e in of(Predicted, events) if e.prediction.kind == "pinned"]
    assert [p.prompt for p in pinned] == ["She went", "The mill"] * evaluations
    written = [json.loads(line) for line in (place / "m.run/predictions.jsonl").read_text("utf-8").splitlines()]
    assert [w["prompt"] for w in written if w.get("kind") == "pinned"] == [p.prompt for p in pinned]

    ask_at(3, asked.Pin("She went"), asked.Stop(), training_plan=plan, model="n.lmp")
    resumed = train(model="n.lmp")
    assert of(RunStarted, resumed)[0].pinned == ("She went",)
    assert {e.prediction.prompt for e in of(Predicted, resumed) if e.prediction.kind == "pinned"} == {"She went"}


@pytest.mark.long
def test_a_spike_is_data_in_the_journal_and_words_in_the_log(place, seams):
    """A learning rate of a hundred times for one step: the loss jumps, and the rows are named."""
    seams.put("watch", partial(Watch, Unusual(steps=3, spike_z=4.0)))
    plan = write_plan(place, PLAN.replace("lr = 0.01", "lr = 0.0001").replace("epochs = 0.4", "epochs = 2"))
    events = ask_at(4, asked.SetLearningRate(factor=5000), training_plan=plan, model="m.lmp")
    spike = of(LossSpiked, events)[0]
    done = next(e for e in of(StepDone, events) if e.step == spike.step)
    before = next(e for e in of(StepDone, events) if e.step == spike.step - 1)
    assert (spike.loss, spike.first_row, spike.last_row) == (done.loss, before.stage_rows, done.stage_rows - 1)
    written = [json.loads(line) for line in (place / "m.run/events.jsonl").read_text("utf-8").splitlines()]
    record = next(w for w in written if w["event"] == "LossSpiked")
    assert (record["step"], record["first_row"], record["last_row"]) == (spike.step, spike.first_row, spike.last_row)
    log = (place / "m.run/log.txt").read_text("utf-8")
    assert f"rows {spike.first_row} to {spike.last_row} of stage stories" in log


def test_run_json_names_the_plans_folder(place):
    (place / "plans").mkdir()
    plan = write_plan(place / "plans", PLAN.replace('"stories.', '"../stories.').replace('"pairs.', '"../pairs.'))
    events = ask_at(1, asked.Stop(), training_plan=plan, model="runs/m.lmp")
    status = json.loads((place / "runs/m.run/run.json").read_bytes())
    assert status["plan_folder"] == of(RunStarted, events)[0].plan_folder == str(place / "plans")


WARMING = PLAN.replace("lr = 0.01", "lr = 0.01\noptimizer_warmup_steps = 6\noptimizer_warmup_fraction = 0.1")


def test_a_learning_rate_asked_for_in_a_warm_up_is_what_the_warm_up_leads_up_to(place):
    command = asked.SetLearningRate(value=0.002, id="lr")
    plan = write_plan(place, WARMING.replace("[stages.pairs]", "[stages.pairs]\nlr = 0.03"))
    events = ask_at(2, command, training_plan=plan, model="m.lmp")
    rates = [(e.step, e.lr) for e in of(StepDone, events) if e.stage == "stories"]
    assert rates[2][1] == pytest.approx(0.002 * (0.1 + 0.9 * 2 / 6))
    assert max(lr for _, lr in rates[2:]) <= 0.002 * (1 + 1e-9)
    changed = of(LearningRateChanged, events)[0]
    assert (changed.lr, changed.factor) == (pytest.approx(0.002), pytest.approx(0.2))
    answer = next(e.message for e in of(Answered, events) if e.id == "lr")
    assert answer == (
        "learning rate 0.002 (x 0.2 of the schedule) from step 2 on: 0.0008 now, the warm-up leads up to it until step "
        "6; stage pairs (lr 0.03) begins with 0.006"
    )
    assert answer in (place / "m.run/log.txt").read_text("utf-8")
    assert next(e.lr for e in of(StepDone, events) if e.stage == "pairs") <= 0.006 * (1 + 1e-9)


@pytest.mark.long
def test_a_new_kind_of_optimizer_warms_up_and_a_resume_knows_it(place):
    """Its state is new; the same kind goes on with its state, and without a warm-up."""
    plan = write_plan(place, WARMING.replace('optimizer = "adam"\nlr_schedule = "cosine"', 'optimizer = "adam"'))
    whole = train(training_plan=plan, model="a.lmp")
    rates = {stage: [e.lr for e in of(StepDone, whole) if e.stage == stage] for stage in ("stories", "pairs", "both")}
    warm = [0.01 * (0.1 + 0.9 * i / 6) for i in range(4)]
    assert rates["stories"][:4] == pytest.approx(warm)
    assert rates["pairs"][:4] == pytest.approx(warm), "adamw -> adam"
    assert rates["both"][0] == pytest.approx(min(0.01, 0.01 * (0.1 + 0.9 * len(rates["pairs"]) / 6))), "adam -> adam"
    begins = len(rates["stories"])
    for step in (begins, begins + 2):
        stop_after(step, training_plan=plan, model=f"{step}.lmp")
        assert losses(train(model=f"{step}.lmp")) == losses(whole)[step:]


def test_a_schedule_that_is_extended_says_its_jump_before_it_happens(place):
    plan = write_plan(place, PLAN.replace("epochs = 0.2", 'epochs = 0.2\nlr_schedule = "linear"'))
    train(training_plan=plan, model="m.lmp")
    events = train(model="m.lmp", extend=0.2)
    said = next(e for e in of(Warned, events) if "jumps" in e.message)
    first = of(StepDone, events)[0]
    assert events.index(said) < events.index(first)
    assert said.message.startswith(f"stage both: the learning rate jumps from 0 to {first.lr:.3g}: its linear schedule")


@pytest.mark.long
def test_other_epochs_in_the_middle_of_a_schedule_say_the_jump_too(place):
    plan = PLAN.replace("epochs = 0.4", 'epochs = 0.4\nlr_schedule = "linear"')
    change = asked.ChangePlan(plan.replace("epochs = 0.4", "epochs = 2"))
    events = ask_at(3, change, training_plan=write_plan(place, plan), model="m.lmp")
    before, after = (next(e.lr for e in of(StepDone, events) if e.step == step) for step in (3, 4))
    assert after > before
    assert any(f"to {after:.3g}" in e.message and "jumps" in e.message for e in of(Warned, events))


def test_a_spike_is_judged_by_its_own_stages_losses():
    watch = Watch()

    def step(number: int, stage: str, loss: float) -> StepDone:
        return StepDone(number, stage, 1, 1, 1, 1, 1, 1, 0.0, 0, loss, loss, None, 0.1, 1.0, 1.0, 0, 0, 0, 0, 0.1, 1.0)

    said = [watch.step_done(step(i, "first", 1.0 + i % 3 / 100), 0) for i in range(60)]
    said += [watch.step_done(step(60 + i, "second", 5.0 + i % 3 / 100), 0) for i in range(60)]
    assert not [event for events in said for event in events if isinstance(event, LossSpiked)]
    assert [type(e) for e in watch.step_done(step(121, "second", 9.0), 0)] == [LossSpiked]
