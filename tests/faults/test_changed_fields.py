"""Checkpoints whose archive is whole and one of whose fields is not: by name, and at random by the fields there are.

Each is met as a run meets it, in a child: a signal, a wait or a lack of memory would be the child's. What is refused is
refused in one line; what is accepted trains on, and to the very weights of the run whose checkpoint was not changed.
"""

import copy
import json
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lmplay_tui.commands.generate import main as generate_main
from lmplay_tui.errors import DamagedFileError, UserError
from lmplay_tui.run.events import LogLine, RunFailed, RunStopped, Warned
from lmplay_tui.run.statistics import AVERAGED, SPLITS
from lmplay_tui.train.check import describe_run
from lmplay_tui.train.checkpoint import load_archive, load_checkpoint
from tests.examples import some
from tests.faults.forks import Child
from tests.train.runs import differences, given, last, stop_after

MOST_CPU_S = 10.0  # of one case; measured: 0.1
WAIT_S = 240.0
MOST_GROWN_MB = 400

Path_ = tuple[str | int, ...]
PROGRESS = "runner/state/progress"
STORIES = f"{PROGRESS}/stages/stories"
CURVE = "runner/state/stats/train"
WEIGHT = "blocks.0.attn.qkv.weight"
MOMENTS = f"optimizers/state/{WEIGHT}"


def deep(levels: int = 200) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def doubled(times: int = 30) -> list[Any]:
    """A list that is 10^9 values when it is printed, and a few hundred bytes in the file."""
    value: list[Any] = ["x"]
    for _ in range(times):
        value = [value, value]
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def record_of_a_stage(points: int = 9_999) -> dict[str, Any]:
    """The statistics of a long stage."""
    count, recent = [1] * points, min(points, AVERAGED)
    series = {
        "updates": points, "stride": 1, "points": [count] * 8, "open": None,
        "recent": [[0.5] * recent, [1] * recent, [None] * recent, [None] * recent],
    }  # fmt: skip
    totals = {f"total_{split}_{what}": 0 for split in SPLITS for what in ("samples", "tokens")}
    sums = {f"{split}_loss_{what}": 0 for split in SPLITS for what in ("total", "tokens")}
    return dict.fromkeys(SPLITS, series) | totals | sums


ZEROS = torch.zeros(48, 16)
CHANGED: dict[str, list[Any]] = {
    "curriculum": [None, []],
    "curriculum/state_args/plan": [3, "\0", "[train]\nlr = \ud800", "[train]\nlr = ", "[x]\n[y]\n"],
    "curriculum/state_args/plan_folder": [None, "/tmp/\0", "/tmp/\ud800"],
    "curriculum/state_args/plan_name": ["\udfff"],
    "curriculum/state_args/current_step": ["pairs", doubled()],
    "curriculum/state/stories/tokens": [7],
    "model/state_args/num_blocks": [10**9, 1000, 2.5, doubled()],
    "model/state_args/context_len": [2**70, 1_048_576],
    "model/state_args/embed_dim": [65536, -16, True],
    "model/state_args/num_heads": [0, 3, "2"],
    "model/state_args/tokenizer": ["gpt2:999999999", "../bytes", 10**5000],
    "model/state_args/exp": ["", ["test_runner"], "rm:rf"],
    f"model/state/{WEIGHT}": [ZEROS.double(), ZEROS.t(), torch.zeros(1).expand(48, 16), ZEROS.to_sparse(), "heavy"],
    "runner/state_args/options": [{"lr": float("nan")}, {"seed": 2**70}, {"no_such": 1}, [("lr", 1.0)]],
    "runner/state_args/overruled": [{"": doubled()}, {"stories": [3]}],
    "runner/state/format": [True, 10**5000, doubled()],
    f"{PROGRESS}/step": [-1, 2**63, 4.0, float("nan"), 5],
    f"{PROGRESS}/rows": [5],
    f"{PROGRESS}/lr_factor": [float("nan"), float("inf"), -1.0, 2.0],
    f"{PROGRESS}/warm_up": [{"from_step": 0, "fraction": 0.1, "steps": 0}, {"from_step": 0}],
    f"{PROGRESS}/pinned": [[3], endless()],
    f"{PROGRESS}/numbered": [[True], deep(), list(range(200_000))],
    f"{PROGRESS}/stage": ["../../x", "pairs"],
    f"{STORIES}/position": [3, {"row": -1, "item": 0, "char": 0}, {"row": 4, "item": 0, "char": 2**64}],
    f"{STORIES}/done": [1, True],
    f"{STORIES}/elapsed_s": [float("inf")],
    "runner/state/rng": [{"cpu": torch.Generator().get_state()}, {"cpu": ZEROS}, None],
    "runner/state/random_numbers": ["running", "both", None],
    "runner/state/cut": ["both", None],
    "runner/state/scaler": [{"scale": float("nan")}, {"scale": 1.0}],
    f"{CURVE}/stride": [0, -2, 2],
    f"{CURVE}/updates": [10**18, 5],
    f"{CURVE}/points": [[[1], [2]], [[0] * 20_000] * 8, doubled()],
    f"{CURVE}/recent": [[[0.0] * 4, [1, 2, 3], [None] * 4, [None] * 4]],
    "runner/state/stats/total_train_samples": [float("nan"), 5, 10**400],
    "optimizers/state_args/name": ["sgd", "Adam", None],
    f"{MOMENTS}/exp_avg": [
        torch.zeros(3), torch.zeros(16, 48), ZEROS.double(), torch.zeros(1).expand(48, 16), torch.zeros(96, 16)[::2],
        torch.full((48, 16), float("nan")), torch.full((48, 16), float("inf")), None, 3,
    ],
    f"{MOMENTS}/exp_avg_sq": [torch.full((48, 16), -1.0), torch.zeros(0)],
    f"{MOMENTS}/step": [torch.tensor(float("nan")), torch.tensor(-1.0), torch.tensor(0.5), torch.ones(48, 16), 4],
    f"{MOMENTS}": [{}, {"exp_avg": ZEROS}],
    "lr_schedulers/state/factor": [0.5, doubled()],
    "lr_schedulers/state_args": [{"from_step": 0, "fraction": float("nan"), "steps": 4}],
}  # fmt: skip


NAMES = [f"s{i}" for i in range(100_000)]
# What a pickle holds once and says so often that who looks at each of them takes hours.
REPEATED: dict[str, Callable[[], tuple[str, Any]]] = {
    "a text": lambda: (f"{PROGRESS}/pinned", ["a" * (1 << 20)] * 100_000),
    "a list of texts": lambda: ("runner/state_args/overruled", dict.fromkeys(NAMES, ["lr" * 200] * 1000)),
    "a table": lambda: ("runner/state/step_stats", dict.fromkeys(NAMES[:20_000], record_of_a_stage())),
    "a table in tables": lambda: (
        "runner/state/step_stats",
        {name: dict(record) for record in [record_of_a_stage()] for name in NAMES[:10_000]},
    ),
    "a list of lists": lambda: (
        "runner/state/parts",
        {
            "folder": "m",
            "tensors": {
                name: ["float32", [1], pieces] for pieces in [[[0, 0, 0, 1, 0]] * 100_000] for name in NAMES[:20_000]
            },
        },
    ),
}


def at(tree: Any, path: Path_) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def changed(checkpoint: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    """A copy with another value at a place; `MISSING`: with none. Tensors are shared with the original."""
    copied = copy.deepcopy(checkpoint, {id(tensor): tensor for tensor in tensors(checkpoint)})
    place = at(copied, path[:-1])
    if value is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copied


MISSING = object()


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from tensors(value)


def places(tree: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Every field: tables, lists and what they hold, two of a list."""
    if path:
        yield path
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*path, key))
    elif isinstance(tree, list):
        for i in range(min(2, len(tree))):
            yield from places(tree[i], (*path, i))


def other_value(value: Any, dice: random.Random) -> Any:
    """A value that does not belong there, or one that might."""
    hostile = [
        MISSING, None, True, -1, 2**63, 10**5000, 0.5, float("nan"), float("inf"), "", "text", "\0", "\ud800", b"raw",
        [], {}, (), deep(), doubled(), endless(), {3: 4}, torch.zeros(2), torch.zeros(1).expand(10**6, 10**6),
    ]  # fmt: skip
    if isinstance(value, torch.Tensor) and dice.random() < 0.8:
        hostile = [
            value.flatten() if value.dim() > 1 else value.reshape(-1, 1), value.reshape(1, -1), value.new_zeros(0),
            value.to(torch.float64), value.to(torch.int32), value.to(torch.complex64),
            torch.stack((value, value), -1)[..., 0], torch.full(value.shape, float("nan")),
            torch.full(value.shape, -float("inf")), value.to(torch.bool),
            value.new_zeros(()).expand(value.shape) if value.dim() else value.reshape(1),
        ]  # fmt: skip
    elif type(value) in (int, float) and dice.random() < 0.3:
        hostile = [value + 1, -value - 1, value * 1000 + 7, float(value) + 0.25]
    elif isinstance(value, str) and dice.random() < 0.3:
        hostile = [value + "x", value[:-1], value * 1000, value[::-1]]
    elif isinstance(value, list) and value and dice.random() < 0.5:
        hostile = [value[:-1], [*value, value[0]], value[::-1], value * 3]
    elif isinstance(value, dict) and value and dice.random() < 0.5:
        hostile = [dict(list(value.items())[1:]), value | {"more": doubled()}, list(value.items())]
    return dice.choice(hostile)


def met(checkpoint: dict[str, Any], undisturbed: dict[str, Any], report: Callable[[Any], None]) -> None:
    """Load a checkpoint as a run does; where it is accepted, train two steps. Reports what came of it."""
    torch.save(checkpoint, "m.lmp")
    begun = time.process_time()
    try:
        load_checkpoint(Path("m.lmp"))
    except DamagedFileError as error:
        assert "\n" not in str(error) and str(error).isprintable(), error
        assert len(str(error)) < 400, error
        report(("refused", str(error)))
    else:
        shutil.rmtree("m.run", ignore_errors=True)
        events = stop_after(6, model="m.lmp")
        end = last(events)
        assert not [e for e in events if isinstance(e, LogLine) and e.level == "traceback"], events
        if isinstance(end, RunFailed):
            assert end.exit_code in (2, 3), end
            assert "\n" not in end.message, end.message
            report(("refused", end.message))
        else:
            assert isinstance(end, RunStopped), end
            result = load_checkpoint(Path("m.lmp"))
            differing = list(differences(undisturbed["model"]["state"], result["model"]["state"]))
            assert not differing or [e for e in events if isinstance(e, Warned)], "another training, in silence"
            report(("goes on", ""))
    spent = time.process_time() - begun
    assert spent < MOST_CPU_S, spent
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 < MEMORY_MB + MOST_GROWN_MB


MEMORY_MB = 0.0


def meet(cases: list[tuple[Path_, Any]]) -> dict[str, list[tuple[Path_, str]]]:
    """Have a child meet each of the cases on the run in this folder; what came of them, `refused` or `goes on`."""
    global MEMORY_MB
    original = load_checkpoint(Path("m.lmp"))
    Path("m.prev.lmp").unlink()
    MEMORY_MB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def work(report: Callable[[Any], None]) -> None:
        stop_after(6, model="m.lmp")
        undisturbed = load_checkpoint(Path("m.lmp"))
        report(("undisturbed", ""))
        for path, value in cases:
            met(changed(original, path, value), undisturbed, report)

    outcomes: dict[str, list[tuple[Path_, str]]] = {"refused": [], "goes on": []}
    with Child(work) as child:
        reports = child.reports(WAIT_S)
        assert next(reports, None) is not None
        for path, value in cases:
            said = next(reports, None)
            assert said is not None, f"{path}: {type(value)} ended the process or makes it wait"
            outcomes[said[0]].append((path, said[1]))
    return outcomes


@pytest.mark.sampled
def test_changed_values_are_refused_by_name(run, place, count):
    """None of them is a value that a run could have saved; most have a name in the message."""
    cases = [(tuple(path.split("/")), value) for path, values in CHANGED.items() for value in values]
    moments = load_checkpoint(run.model)["optimizers"]["state"][WEIGHT]
    cases.append((("optimizers", "state", WEIGHT, "exp_avg_sq"), moments["exp_avg"]))
    # Twice the same bytes, each of which could be right alone.
    cases.append((("optimizers", "state", WEIGHT), moments | {"exp_avg": moments["exp_avg_sq"]}))
    cases = list(some(cases, 3))
    outcomes = meet(cases)
    assert not outcomes["goes on"]
    computed = [case for case in outcomes["refused"] if "m.lmp" not in case[1] and "the plan says" not in case[1]]
    assert not computed, "found only when it computed with it"
    named = [path for path, said in outcomes["refused"] if str(path[-1]) in said or str(path[-2:][0]) in said]
    assert len(named) > 0.8 * len(cases)
    count(f"changed values of a checkpoint: {len(cases)}, each refused in one line")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", REPEATED)
def test_what_a_small_file_repeats_is_refused_at_once(run, what):
    place, value = REPEATED[what]()
    torch.save(changed(load_checkpoint(run.model), tuple(place.split("/")), value), run.model)
    assert run.model.stat().st_size < 4 << 20
    begun = time.process_time()
    with pytest.raises(DamagedFileError, match=place) as caught:
        load_checkpoint(run.model)
    assert time.process_time() - begun < MOST_CPU_S
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.long
def test_what_a_long_run_holds_is_no_repetition(place):
    """A million values and a plan of 64 KiB, which is there three times."""
    stages = {f"s{i}": json.loads(json.dumps(record_of_a_stage())) for i in range(8)}
    held = {"step_stats": stages, "plan": ["#" * (64 << 10)] * 3}
    torch.save(held, "m.lmp")
    assert load_archive(Path("m.lmp")) == held


BUILDERS: dict[str, Callable[[], object]] = {
    "a resume": lambda: last(stop_after(6, model="m.lmp")),
    "--describe": lambda: describe_run(given(model="m.lmp")),
    "generate": lambda: generate_main(["--model", "m.lmp", "Hello"], "lmp_generator"),
}


@pytest.mark.parametrize("shape", [{"embed_dim": 512}, {"num_blocks": 800}, {"context_len": 1 << 18}], ids=str)
@pytest.mark.parametrize("command", BUILDERS)
def test_no_command_builds_a_model_out_of_proportion_to_the_file(run, place, command, shape):
    """Some megabytes here, where its weights have some kilobytes; the plan in the file says no other size."""
    checkpoint = load_checkpoint(run.model)
    checkpoint["model"]["state_args"] |= shape
    curriculum = checkpoint["curriculum"]["state_args"]
    for text in ("plan", "plan_as_given", "plan_unedited"):
        lines = curriculum[text].splitlines(keepends=True)
        curriculum[text] = "".join(line for line in lines if line.partition(" ")[0] not in shape)
    torch.save(checkpoint, run.model)
    try:
        said = BUILDERS[command]()
    except UserError as error:
        said = error
    assert "the sizes that the file gives are not those of its weights" in str(said)
    assert "\n" not in str(said)


def fuzz(run, times: int, count) -> None:
    dice = random.Random(18)
    original = load_checkpoint(run.model)
    fields = list(places(original))
    by_name = [path for path in fields if path[:2] != ("model", "state")]
    cases: list[tuple[Path_, Any]] = []
    while len(cases) < times:
        path = dice.choice(by_name if dice.random() < 0.7 else fields)
        value = other_value(at(original, path), dice)
        # Without `cut` it is a checkpoint of an earlier version, which goes on as before.
        if path[-1] != "cut" or value is not MISSING:
            cases.append((path, value))
    outcomes = meet(cases)
    counted = {name: len(found) for name, found in outcomes.items()}
    count(f"fields of checkpoints fuzzed: {times} of {len(fields)} fields, {counted['refused']} refused in one line, "
          f"{counted['goes on']} without effect, 0 signals, 0 tracebacks, 0 other trainings")  # fmt: skip
    assert counted["refused"] > 0.7 * times


@pytest.mark.long
def test_fuzzed_fields(run, place, count):
    fuzz(run, 60, count)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fuzzed_fields_1000(run, place, count):
    fuzz(run, 1000, count)


def test_a_changed_value_falls_back_to_the_checkpoint_before(run, place):
    checkpoint = load_checkpoint(run.model)
    checkpoint["optimizers"]["state"][WEIGHT]["exp_avg"] = torch.zeros(3)
    torch.save(checkpoint, run.model)
    events = stop_after(4, model="m.lmp")
    assert isinstance(last(events), RunStopped)
    [said] = [e.message for e in events if isinstance(e, Warned)]
    assert "exp_avg" in said and "m.damaged.lmp" in said and "going on from m.prev.lmp" in said


def test_a_description_says_that_it_is_of_the_checkpoint_before(run, place):
    run.model.write_bytes(b"no checkpoint")
    first, *page = describe_run(given(model="m.lmp")).splitlines()
    assert first.startswith("warning: ") and "m.damaged.lmp" in first and "going on from m.prev.lmp" in first
    assert page, "and the description below"
