"""How a run begins: anew, with other weights, from a chosen checkpoint, with a warm-up, with what is kept."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from lmplay_tui.data.tokenizer import load_tokenizer
from lmplay_tui.run.events import (
    CheckpointSaved,
    Evaluated,
    OptionChanged,
    RunDone,
    RunFailed,
    RunStopped,
    StepDone,
    Warned,
)
from lmplay_tui.run.view import RunView
from lmplay_tui.train.checkpoint import load_checkpoint
from tests.models.test_lmplay_weights import their_state, with_components
from tests.train.runs import PLAN, differences, last, losses, state_of, stop_after, train, write_plan
from tests.ui.fake import follow_line


def rates(events) -> list[float]:
    return [event.lr for event in events if isinstance(event, StepDone)]


@pytest.mark.long
def test_any_numbered_checkpoint_can_be_gone_on_from(place):
    plan = write_plan(place)
    whole = train(training_plan=plan, model="a/m.lmp", save_interval=6, keep=20)
    assert isinstance(last(whole), RunDone)
    end = state_of(place / "a/m.lmp")
    numbered = sorted((place / "a").glob("m.step-*.lmp"))
    assert len(numbered) >= 4
    for path in numbered[:-1]:
        events = train(resume=str(path))
        assert isinstance(last(events), RunDone), last(events)
        step = load_checkpoint(path)["runner"]["state"]["progress"]["step"]
        assert losses(events) == losses(whole)[step:]
        assert not list(differences(end, state_of(place / "a/m.lmp")))


@pytest.mark.long
def test_keep_holds_so_many_numbered_checkpoints(place):
    train(training_plan=write_plan(place), model="m.lmp", save_interval=6, keep=2)
    assert len(list(place.glob("m.step-*.lmp"))) == 2


def numbered_steps(place) -> list[int]:
    return sorted(int(path.stem.rpartition("-")[2]) for path in place.glob("m.step-*.lmp"))


@pytest.mark.long
def test_keep_holds_the_newest_after_going_back(place):
    """What was saved after the checkpoint that is gone back to is older than what is saved from there on."""
    train(training_plan=write_plan(place), model="m.lmp", save_interval=6, keep=3)
    left = numbered_steps(place)
    events = stop_after(left[0] - 1, resume="m.stories.lmp", save_interval=2, keep=2)
    saved = sorted({event.step for event in events if isinstance(event, CheckpointSaved)})
    assert len(saved) > 2
    assert numbered_steps(place) == saved[-2:]


@pytest.mark.long
def test_while_the_new_line_is_short_what_was_left_fills_up(place):
    """... and goes first."""
    train(training_plan=write_plan(place), model="m.lmp", save_interval=6, keep=3)
    left = numbered_steps(place)
    back = stop_after(left[0] - 2, resume="m.stories.lmp", save_interval=1000, keep=3)
    new = [event.step for event in back if isinstance(event, CheckpointSaved)]
    assert new == [left[0] - 2]
    assert numbered_steps(place) == [*new, *left[1:]]
    again = stop_after(left[0] - 1, model="m.lmp", save_interval=1000, keep=3)
    new += [event.step for event in again if isinstance(event, CheckpointSaved)]
    assert numbered_steps(place) == [*new, left[2]]


def test_initial_model_gives_weights_and_nothing_else(place):
    plan = write_plan(place)
    stop_after(3, training_plan=plan, model="first.lmp")
    events = stop_after(1, training_plan=plan, initial_model="first.lmp", model="second.lmp")
    fresh = stop_after(1, training_plan=plan, model="third.lmp")
    assert losses(events)[0][0] == 1
    assert losses(events)[0][2] < losses(fresh)[0][2], "trained weights begin with a lower loss"
    read = [event.rows for event in events if isinstance(event, StepDone)]
    assert load_checkpoint(place / "second.lmp")["runner"]["state"]["stats"]["total_train_samples"] == read[0]


@pytest.mark.long
def test_lmplays_own_file_is_trained_on(place):
    theirs = their_state(vocab=50257)
    torch.save(with_components(theirs), place / "theirs.lmp")
    plan = write_plan(place, '[stages.s]\ndataset = "stories.jsonl"\n')
    shape = {"context_len": 12, "num_blocks": 2, "embed_dim": 24, "num_heads": 4}
    options = {"training_plan": plan, "initial_model": "theirs.lmp", "model": "m.lmp", "batch_size": 2}
    events = stop_after(2, lr=1e-12, **shape, **options)
    assert len(losses(events)) == 2, last(events)
    said = "theirs.lmp: LMPlay's files do not say their tokenizer: taken for gpt2's by its vocabulary"
    assert said in [event.message for event in events if isinstance(event, Warned)]
    saved = load_checkpoint(place / "m.lmp")["model"]
    assert saved["state_args"]["exp"] == "gpt2ish"
    for mine, name in (("head.weight", "fc.weight"), ("token_embed.weight", "tok_embed.weight")):
        torch.testing.assert_close(saved["state"][mine], theirs[name], rtol=0, atol=1e-9)
    again = stop_after(4, model="m.lmp")
    assert losses(again)[0][0] == 3


def test_initial_model_is_the_fallback_only(place):
    plan = write_plan(place)
    stop_after(3, training_plan=plan, model="m.lmp")
    stop_after(1, training_plan=plan, model="other.lmp")
    events = stop_after(4, model="m.lmp", initial_model="other.lmp")
    assert losses(events)[0][0] == 4


def test_initial_model_of_another_shape_is_one_line(place):
    stop_after(1, training_plan=write_plan(place), model="m.lmp")
    event = last(train(training_plan=write_plan(place), initial_model="m.lmp", model="n.lmp", embed_dim=32))
    assert isinstance(event, RunFailed)
    assert event.exit_code == 2
    assert "shape" in event.message
    assert "\n" not in event.message


def test_initial_model_with_another_number_of_heads_is_refused(place):
    """Every weight would fit, and mean something else."""
    stop_after(1, training_plan=write_plan(place), model="m.lmp")
    event = last(train(training_plan=write_plan(place), initial_model="m.lmp", model="n.lmp", num_heads=4))
    assert isinstance(event, RunFailed)
    assert "--num-heads 2" in event.message


def with_fingerprint(path: str, to: str, fingerprint: object, name: object) -> str:
    """A copy of a checkpoint that says another tokenizer; None: that says none."""
    checkpoint = load_checkpoint(Path(path))
    for component, key, value in (("runner", "tokenizer_fingerprint", fingerprint), ("model", "tokenizer", name)):
        place = checkpoint[component]["state" if component == "runner" else "state_args"]
        place[key] = value
        if value is None:
            del place[key]
    torch.save(checkpoint, to)
    return to


@pytest.mark.long
def test_initial_model_of_another_tokenizer_is_refused_though_its_size_fits(place):
    plan = write_plan(place)
    stop_after(1, training_plan=plan, model="m.lmp")
    own = load_tokenizer("bytes").fingerprint
    refused = {
        ("0" * 64, "gpt2:256"): "trained with tokenizer gpt2:256, not bytes",
        ("0" * 64, "bytes"): "trained with another tokenizer called bytes",
        (None, "gpt2:256"): "trained with tokenizer gpt2:256, not bytes",
    }
    for (fingerprint, name), said in refused.items():
        other = with_fingerprint("m.lmp", "other.lmp", fingerprint, name)
        event = last(train(training_plan=plan, initial_model=other, model="n.lmp"))
        assert isinstance(event, RunFailed)
        assert event.exit_code == 2
        assert event.message.startswith(f"other.lmp: was {said}: ")
        assert event.message.endswith("; --ignore-tokenizer takes its weights all the same")
    events = stop_after(1, training_plan=plan, initial_model=other, model="n.lmp", ignore_tokenizer=True)
    assert len(losses(events)) == 1
    assert any(isinstance(event, Warned) and said in event.message for event in events)
    stopped = last(events)
    assert isinstance(stopped, RunStopped)
    assert "ignore" not in stopped.command
    for number, (fingerprint, name) in enumerate([(own, "of_another_name"), (None, "bytes"), (None, None)]):
        same = with_fingerprint("m.lmp", "same.lmp", fingerprint, name)
        assert len(losses(stop_after(1, training_plan=plan, initial_model=same, model=f"s{number}.lmp"))) == 1


def test_lmplays_file_under_another_tokenizer_is_refused(place):
    theirs = their_state(vocab=257)
    torch.save(with_components(theirs), place / "theirs.lmp")
    shape = {"context_len": 12, "num_blocks": 2, "embed_dim": 24, "num_heads": 4, "tokenizer": "bytes"}
    plan = write_plan(place, '[stages.s]\ndataset = "stories.jsonl"\n')
    event = last(train(training_plan=plan, initial_model="theirs.lmp", model="m.lmp", **shape))
    assert isinstance(event, RunFailed)
    assert "is LMPlay's, trained with tokenizer gpt2, not bytes" in event.message


@pytest.mark.long
def test_warm_up_goes_on_after_a_resume_that_does_not_mention_it(place):
    plan = write_plan(place)
    options = {"training_plan": plan, "optimizer_warmup_steps": 6}
    whole = train(model="a.lmp", out_dir="a", **options)
    assert rates(whole)[:6] == pytest.approx([0.01 * (0.1 + 0.9 * i / 6) for i in range(6)])
    first = stop_after(3, model="b.lmp", out_dir="b", **options)
    second = train(model="b.lmp", out_dir="b")
    assert rates(first) + rates(second) == rates(whole)
    assert not list(differences(state_of(place / "a.lmp")["model"], state_of(place / "b.lmp")["model"]))


def test_warm_up_given_on_a_resume_begins_there(place):
    stop_after(5, training_plan=write_plan(place), model="m.lmp")
    events = train(model="m.lmp", optimizer_warmup_fraction=0.5, optimizer_warmup_steps=2)
    plain = [0.005, 0.0075]
    assert rates(events)[:2] == pytest.approx(plain)


def test_ignore_optimizer_drops_its_state(place):
    plan = write_plan(place)
    stop_after(4, training_plan=plan, model="m.lmp")
    stop_after(5, model="m.lmp", ignore_optimizer=True)
    steps = {float(v["step"]) for v in load_checkpoint(place / "m.lmp")["optimizers"]["state"].values()}
    assert steps == {1.0}


@pytest.mark.long
def test_optimizer_state_goes_on_across_stages_unless_reset(place):
    kept = write_plan(place, PLAN.replace('optimizer = "adam"\n', ""))
    train(training_plan=kept, model="kept.lmp")
    reset = write_plan(place, PLAN.replace('optimizer = "adam"\n', "reset_optimizer = true\n"), "reset.toml")
    train(training_plan=reset, model="reset.lmp")

    def steps_of(name: str) -> float:
        checkpoint = load_checkpoint(place / name)
        return max(float(v["step"]) for v in checkpoint["optimizers"]["state"].values())

    num_steps = load_checkpoint(place / "kept.lmp")["runner"]["state"]["progress"]["step"]
    assert steps_of("kept.lmp") == num_steps
    assert steps_of("reset.lmp") < num_steps / 2


def test_a_checkpoint_from_a_file_experiment_runs_no_code_unasked(place):
    (place / "mine.py").write_text(
        "from lmplay_tui.models.gpt2ish import GPT2ish\nclass Mine(GPT2ish):\n    pass\n", encoding="utf-8"
    )
    plan = write_plan(place, PLAN.replace('exp = "test_runner"\n', ""))
    events = stop_after(2, training_plan=plan, model="m.lmp", exp="mine.py:Mine")
    assert losses(events), last(events)
    refused = last(train(model="m.lmp"))
    assert isinstance(refused, RunFailed)
    assert "--exp mine.py:Mine" in refused.message
    assert losses(stop_after(3, model="m.lmp", exp="mine.py:Mine"))


@pytest.mark.long
def test_default_names(place, monkeypatch):
    events = stop_after(1, training_plan=write_plan(place))
    assert last(events).path == "out_gpt/test_runner_plan.lmp"
    monkeypatch.setenv("LMP_DATASETS", str(place / "elsewhere"))
    train(model="out_gpt/test_runner_plan.lmp")
    assert (place / "elsewhere/test_runner_plan_train_stats.json").is_file()


def test_every_parameter_of_the_checkpoint_is_plain(place):
    stop_after(3, training_plan=write_plan(place), model="m.lmp")
    checkpoint = torch.load(place / "m.lmp", weights_only=True)
    plain = (str, int, float, bool, type(None), torch.Tensor)

    def walk(value, path: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                assert type(key) in (str, int), path
                walk(item, f"{path}/{key}")
        elif isinstance(value, list | tuple):
            for item in value:
                walk(item, path)
        else:
            assert type(value) in plain, (path, type(value))

    walk(checkpoint, "")


@pytest.mark.long
def test_journals_of_a_run_that_died_are_continued_without_a_break(place):
    plan = write_plan(place)
    train(training_plan=plan, model="m.lmp", save_interval=6)
    lines = (place / "m.run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps)
    train(resume=str(place / "m.prev.lmp"))
    again = [json.loads(line) for line in (place / "m.run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"resumed_from"} == again[len(lines)].keys()


def changes(events) -> list[tuple[str, str, str]]:
    return [(e.option, e.before, e.after) for e in events if isinstance(e, OptionChanged)]


@pytest.mark.long
def test_what_a_resume_gives_otherwise_is_said_and_marked(place):
    plan = write_plan(place)
    assert changes(stop_after(2, training_plan=plan, model="m.lmp", weight_decay=0.1)) == []
    assert changes(stop_after(3, model="m.lmp", weight_decay=0.1, lr=0.01)) == [], "as it was"
    events = stop_after(4, model="m.lmp", lr=0.02, weight_decay=0.2)
    assert changes(events) == [("--lr", "0.01", "0.02"), ("--weight-decay", "0.1", "0.2")]
    assert changes(stop_after(5, model="m.lmp")) == []
    assert "--lr: 0.01 -> 0.02 from step 3 on" in (place / "m.run/log.txt").read_text("utf-8")
    view = RunView()
    for line in (place / "m.run/events.jsonl").read_text("utf-8").splitlines():
        follow_line(view, json.loads(line))
    assert ("plan", 3, "--lr: 0.01 -> 0.02 from step 3 on") in [(m.kind, m.step, m.text) for m in view.marks]


@pytest.mark.long_after(1)
@pytest.mark.parametrize("option", [{"seed": 7}, {"validation_split": 0.3}])
def test_other_rows_held_out_on_a_resume_are_warned_of(place, option):
    stop_after(2, training_plan=write_plan(place), model="m.lmp")
    said = [e.message for e in stop_after(3, model="m.lmp", **option) if isinstance(e, Warned)]
    assert any("rows that were held out until now may be trained" in line for line in said)
    assert not any("held out" in e.message for e in stop_after(4, model="m.lmp") if isinstance(e, Warned))


@pytest.mark.long_after(1)
@pytest.mark.parametrize("way", [{"reset_history": True}, {"resume": "none"}])
def test_a_start_anew_has_the_runs_own_plan(place, way):
    """Its relative paths too, wherever the plan lay and the run lies."""
    (place / "plans").mkdir()
    text = PLAN.replace('"stories.', '"../stories.').replace('"pairs.', '"../pairs.')
    plan = write_plan(place / "plans", text)
    first = stop_after(2, training_plan=plan, model="runs/deep/m.lmp")
    again = stop_after(2, model="runs/deep/m.lmp", **way)
    assert losses(again) == losses(first), last(again)
    assert (place / "runs/deep/m.run/plan.toml").read_text("utf-8") == text
    assert [path.name for path in (place / "runs/deep/m.past").glob("*/m.run/plan.toml")] == ["plan.toml"]
    third = stop_after(2, model="runs/deep/m.lmp", **way)
    assert losses(third) == losses(first), "and once more"


def test_a_start_anew_sets_statistics_of_another_disk_aside_too(place, monkeypatch):
    """No rename leads from one file system to another."""
    plan = write_plan(place)
    first = stop_after(2, training_plan=plan, model="m.lmp", out_dir="other")
    before = sorted(path.name for path in (place / "other").iterdir())
    assert before

    def across(real):
        def rename(source, target, **options):
            if ("other" in Path(source).parts) != ("other" in Path(target).parts):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
            return real(source, target, **options)

        return rename

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, across(getattr(os, name)))
    again = stop_after(2, model="m.lmp", out_dir="other", reset_history=True)
    assert losses(again) == losses(first), last(again)
    assert set(before) <= {path.name for path in (place / "m.past").glob("*/*")}


def test_a_run_that_died_before_its_first_checkpoint_begins_with_its_own_plan(place):
    stop_after(1, training_plan=write_plan(place), model="m.lmp")
    (place / "m.lmp").unlink()
    events = stop_after(2, model="m.lmp")
    assert [step for step, *_ in losses(events)] == [1, 2], last(events)
    assert not [e for e in events if isinstance(e, Warned)]


@pytest.mark.long
def test_the_best_is_the_best_of_the_whole_run(place):
    """A later stage whose own set is harder does not take its place: that stage has a checkpoint of its own name."""
    plan = PLAN[: PLAN.index("[stages.both]")].replace("epochs = 1.2", "epochs = 0.5\nlr = 1e-6")
    events = train(training_plan=write_plan(place, plan), model="m.lmp", save_interval=6)
    scores = [(event.sets[event.stage].loss, event.stage) for event in events if isinstance(event, Evaluated)]
    best = load_checkpoint(place / "m.best.lmp")["runner"]["state"]["progress"]
    assert best["eval_loss"] == min(scores)[0]
    assert best["stage"] == min(scores)[1] == "stories"
    assert scores[-1][1] == "pairs"


@pytest.mark.long
def test_a_worse_evaluation_is_not_the_best(place):
    """Weights that a far too high learning rate has spoilt do not take the best checkpoint's place."""
    plan = write_plan(place, PLAN[: PLAN.index("[stages.pairs]")].replace("epochs = 0.4", "epochs = 4"))
    stop_after(14, training_plan=plan, model="m.lmp", save_interval=6)
    events = stop_after(40, model="m.lmp", lr=1.0, save_interval=6)
    scores = {event.step: event.sets["stories"].loss for event in events if isinstance(event, Evaluated)}
    best = load_checkpoint(place / "m.best.lmp")["runner"]["state"]["progress"]
    assert scores
    assert best["best_step"] == best["step"] <= 14
    assert min(scores.values()) > best["best_eval_loss"], "the rate has spoilt it"


def test_a_plan_that_another_hand_edited_while_nothing_ran_is_kept(place):
    plan = write_plan(place)
    stop_after(3, training_plan=plan, model="m.lmp")
    own, history = place / "m.run/plan.toml", place / "m.run/plan.history"
    held = own.read_text(encoding="utf-8")
    events = stop_after(4, model="m.lmp")
    assert not history.exists(), "nobody has changed it"
    assert not [event for event in events if isinstance(event, Warned)]
    own.write_text(f"# mine\n{held}", encoding="utf-8")
    events = stop_after(5, model="m.lmp")
    (kept,) = history.iterdir()
    assert kept.name.endswith("-before-step-00000004.toml")
    assert kept.read_text(encoding="utf-8") == f"# mine\n{held}"
    assert own.read_text(encoding="utf-8") == held
    (warned,) = [event.message for event in events if isinstance(event, Warned)]
    assert "was another plan than the checkpoint's" in warned
    assert str(kept.relative_to(place)) in warned
    other = write_plan(place, held.replace("epochs = 1.2", "epochs = 1.3"), "other.toml")
    events = stop_after(6, model="m.lmp", training_plan=other)
    assert len(list(history.iterdir())) == 2, "the plan that was before"
    assert not [event for event in events if isinstance(event, Warned) and "was another" in event.message]
