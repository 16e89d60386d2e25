"""A mistake is met at the shell: all of them, a line each, before a screen opens and before torch is imported."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmplay_tui import cli
from lmplay_tui.options import Launch
from lmplay_tui.run.folder import RunFolder, RunLock
from lmplay_tui.run.statistics import StatisticsFile, statistics_path, write_statistics
from lmplay_tui.train.preflight import Waits, problems_of
from tests.faults.terminals import Terminal

nothing = lambda line: pytest.fail(f"nothing hangs here: {line}")  # noqa: E731
SHIPPED = "demo, curriculum_demo, default, fineweb, full, tinystories, wikitext3"
OWN = "[datasets.mine]\npath = 'rows.jsonl'\n[stages.one]\ndataset = 'mine'\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows, plans and a run that is held."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"body": "The mill stood by the river."}) + "\n", encoding="utf-8")
    (tmp_path / "good.toml").write_text(OWN.replace("'mine'", "'rows.jsonl'"), encoding="utf-8")
    (tmp_path / "three.toml").write_text(
        "[train]\nlrr = 3\n[stages.one]\ndataset = 'nowhere.jsonl'\nepochs = -1\n", encoding="utf-8"
    )
    (tmp_path / "column.toml").write_text(OWN.replace("\n[stages", "\ntext = 'txt'\n[stages"), encoding="utf-8")
    (tmp_path / "empty.toml").write_text(OWN.replace("rows", "empty"), encoding="utf-8")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "names.toml").write_text("[train]\nexp = 'gpt3ish'\ntokenizer = 'gpt5'\n" + OWN, encoding="utf-8")
    (tmp_path / "column.json").write_text(
        json.dumps({"one": {"dataset": "d"}, "datasets": {"d": {"path": "rows.jsonl", "text": "txt"}}}, indent=1),
        encoding="utf-8",
    )
    for name, stage, split in (("a", "b", "validate"), ("c_step_one", None, "train")):
        path = statistics_path(tmp_path / "out_gpt", name, stage, split)
        path.parent.mkdir(exist_ok=True)
        write_statistics(path, StatisticsFile(name, stage, split, [], {}, {}))
    (tmp_path / "mine.py").write_text("class Mine:\n    pass\n", encoding="utf-8")
    (tmp_path / "broken.py").write_text("def f(:\n", encoding="utf-8")
    return tmp_path


THREE = [
    "three.toml:2: train.lrr: unknown key; did you mean lr?",
    "three.toml:4: stages.one.dataset: no such file or folder: 'nowhere.jsonl'",
    "three.toml:5: stages.one.epochs: must be above 0, got -1",
]
NO_COLUMN = "dataset {}: there is no column txt; it has body"
NEEDS = "see lmp_trainer --help"

# A kind of mistake: its words, and all the lines that are said.
MISTAKES: dict[str, tuple[str, list[str]]] = {
    "unknown option": (
        "--training-plan good.toml --lrr 3",
        ["lmp_trainer: unknown option '--lrr'; did you mean --lr?"],
    ),
    "option without value": (
        "--training-plan good.toml --lr",
        [f"lmp_trainer: argument --lr: expected one argument; {NEEDS}"],
    ),
    "value for a switch": (
        "--amp=1 --headless",
        [f"lmp_trainer: argument --amp: ignored explicit argument '1'; {NEEDS}"],
    ),
    "word that belongs nowhere": ("good.toml", ["lmp_trainer: unknown argument 'good.toml'"]),
    "value that is no number": ("--lr fast", ["--lr: must be a number, got fast"]),
    "parts of one process's model": (
        "--training-plan good.toml --shard full",
        ["--shard full: there is one process, which keeps all: start more by --nproc"],
    ),
    "parts that would be compiled": (
        "--training-plan good.toml --shard full --nproc 2 --compile-model",
        ["--shard and --compile-model: a model that lies in parts is not compiled; leave one of them out"],
    ),
    "parts of a whole": (
        "--training-plan good.toml --shard-save folder",
        ["--shard-save folder: nothing lies in parts; it goes with --shard full or hybrid"],
    ),
    "several processes of one device": (
        "--training-plan good.toml --nproc 2 --device mps",
        ["--nproc: 2 processes cannot share --device mps; use cuda or cpu"],
    ),
    "value out of bounds": ("--batch-size 0", ["--batch-size: must be at least 1, got 0"]),
    "value that is none of a few": (
        "--optimizer adm",
        ["--optimizer: must be one of 'adamw', 'adam', 'adagrad', 'sgd' or 'rmsprop', got adm"],
    ),
    "time zone": (
        "--training-plan demo --tz Mars",
        ["--tz: unknown time zone 'Mars'; for example Europe/Berlin or UTC"],
    ),
    "no such plan": ("--training-plan dmo", ["dmo: unknown plan; did you mean demo?"]),
    "no such file of a plan": ("--training-plan no.toml", ["no.toml: cannot be read: No such file or directory"]),
    "plan of another kind": (
        "--training-plan rows.jsonl",
        [f"rows.jsonl: unknown plan: neither a shipped plan ({SHIPPED}) nor a .toml or .json file"],
    ),
    "plan with three problems": ("--training-plan three.toml", THREE),
    "the same, with a name for the run": ("--training-plan three.toml --model m", THREE),
    "wrong column": ("--training-plan column.toml", ["column.toml:1: " + NO_COLUMN.format("mine")]),
    "wrong column, in JSON": ("--training-plan column.json", ["column.json:6: " + NO_COLUMN.format("d")]),
    "file without rows": ("--training-plan empty.toml", ["empty.toml:1: dataset mine: {here}/empty.jsonl is empty"]),
    "names in the plan": (
        "--training-plan names.toml",
        [
            "names.toml:2: train.exp: unknown experiment gpt3ish; did you mean gpt2ish?; see --exp list",
            "names.toml:3: train.tokenizer: tokenizer gpt5 is unknown; did you mean gpt2?; known: {tokenizers}",
        ],
    ),
    "experiment": (
        "--training-plan demo --exp gpt2is",
        ["unknown experiment gpt2is; did you mean gpt2ish?; see --exp list"],
    ),
    "experiment without a class": (
        "--training-plan demo --exp mine.py",
        ["--exp mine.py: say which class of the file, as file.py:Name"],
    ),
    "experiment in no file": ("--training-plan demo --exp its.py:Mine", ["--exp its.py:Mine: no such file: its.py"]),
    "experiment that is not there": (
        "--training-plan demo --exp mine.py:Min",
        ["--exp mine.py:Min: the file has no Min; did you mean Mine?"],
    ),
    "experiment that is no Python": (
        "--training-plan demo --exp broken.py:Mine",
        ["--exp broken.py:Mine: the file does not run: SyntaxError: invalid syntax (broken.py, line 1)"],
    ),
    "tokenizer of a size": (
        "--training-plan demo --tokenizer gpt2:9",
        ["tokenizer gpt2:9: N of gpt2:N must be between 256 and 50256"],
    ),
    "name of a run": (
        "--training-plan demo --model a.b",
        ["--model: 'a.b' is no model name: 1 to 40 letters A-Z, digits, _ and -, the first a letter or digit"],
    ),
    "place of a run": (
        "--training-plan demo --out-dir rows.jsonl",
        [
            "rows.jsonl/gpt2ish_demo.run: the run's folder cannot be made (rows.jsonl: not a "
            "directory); choose another place with --model or --out-dir"
        ],
    ),
    "no checkpoint to go on from": ("--resume no.lmp", ["--resume: no.lmp: no such file"]),
    "checkpoint that tells no name": (
        "--resume a.b.c.lmp",
        ["--resume: 'a.b.c.lmp' does not tell the run's name; give it with --model"],
    ),
    "no weights to begin with": (
        "--training-plan demo --initial-model no.lmp",
        ["--initial-model: no.lmp: no such file"],
    ),
    "nothing to extend": ("--model m --extend 2", ["--extend: m.lmp is not there: there is nothing to go on with"]),
    "another run's statistics": (
        "--training-plan good.toml --model a_step_b",
        [
            "out_gpt/a_step_b_validate_stats.json: the statistics of run a, whose name those of run a_step_b would "
            "have; choose another --model"
        ],
    ),
    "another run's statistics, of a stage": (
        "--training-plan good.toml --model c",
        [
            "out_gpt/c_step_one_train_stats.json: the statistics of run c_step_one, whose name those of stage one of "
            "run c would have; choose another --model"
        ],
    ),
    "a busy run": (
        "--training-plan demo --model busy",
        [
            "busy: process {pid} on here is training this run; look with: lmplay-tui attach busy, or "
            "choose another --model"
        ],
    ),
    "two sources": (
        "--training-plan three.toml --batch-size 0 --exp its.py:Mine --tz Mars",
        [
            "--batch-size: must be at least 1, got 0",
            "--tz: unknown time zone 'Mars'; for example Europe/Berlin or UTC",
            *THREE,
            "--exp its.py:Mine: no such file: its.py",
        ],
    ),
    "all of the line": (
        "--lrr 3 --hedless --amp=1 --lr 0 --model",
        [
            f"lmp_trainer: argument --amp: ignored explicit argument '1'; {NEEDS}",
            f"lmp_trainer: argument --model: expected one argument; {NEEDS}",
            "lmp_trainer: unknown option '--lrr'; did you mean --lr?",
            "lmp_trainer: unknown option '--hedless'; did you mean --headless?",
            "--lr: must be above 0, got 0",
        ],
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_a_line_at_the_shell(here: Path, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    import tiktoken

    words, lines = MISTAKES[kind]
    held = _held(here / "busy.lmp")
    tokenizers = ", ".join(sorted({"gpt2", "bytes", *tiktoken.list_encoding_names()}))
    before = sorted(here.rglob("*"))
    status = cli.trainer_main(words.split())
    said = capfd.readouterr()
    assert said.err.splitlines() == [line.format(here=here, pid=os.getpid(), tokenizers=tokenizers) for line in lines]
    assert (status, said.out) == (2, "")
    assert sorted(here.rglob("*")) == before, "nothing is made before all is well"
    held.release()


def _held(model: Path) -> RunLock:
    run = RunFolder(model)
    run.create()
    run.write_status({"pid": os.getpid(), "host": "here", "state": "running"})
    lock = RunLock(run)
    lock.take()
    return lock


@pytest.mark.parametrize("words", ["--training-plan three.toml", "--training-plan column.toml --lr 0"])
def test_no_screen_opens_on_a_mistake(here: Path, words: str) -> None:
    """The dashboard's start looks in a process beside: it says the same, and the terminal stays as it was."""
    with Terminal(lambda: cli.main(words.split())) as terminal:
        assert terminal.wait() == 2
    said = terminal.output.decode()
    assert "\x1b" not in said
    assert said.splitlines() == ["--lr: must be above 0, got 0"] * ("--lr" in words) + (
        THREE if "three" in words else ["column.toml:1: " + NO_COLUMN.format("mine")]
    )
    assert not list(here.rglob("*.run"))


def test_neither_torch_nor_the_hub_s_library_is_imported_for_it() -> None:
    program = (
        "import sys; from lmplay_tui import cli; status = cli.trainer_main(sys.argv[1:]); "
        "print(status, [name for name in ('torch', 'datasets', 'textual') if name in sys.modules])"
    )
    words = ["--training-plan", "column.toml", "--exp", "its.py:Mine"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert (done.stdout, len(done.stderr.splitlines())) == ("2 []\n", 2)


@pytest.mark.parametrize(
    "line",
    [
        {"training_plan": "good.toml"}, {"training_plan": "demo", "model": "m"}, {"model": "m"}, {},
        {"training_plan": "good.toml", "tokenizer": "o200k_base", "exp": "mine.py:Mine", "tz": "Europe/Berlin"},
    ],
    ids=lambda line: " ".join(line) or "nothing",
)  # fmt: skip
def test_nothing_is_said_of_a_start_that_may_begin(here: Path, line: dict[str, str]) -> None:
    before = sorted(here.rglob("*"))
    assert problems_of(Launch(line), nothing) == []
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder.mkdir(), "--resume: m.lmp: is a folder"),
        (lambda folder: folder.write_bytes(b"no checkpoint"), None),  # found when torch loads it
    ],
    ids=["a folder", "a file"],
)
def test_a_checkpoint_is_looked_for(here: Path, make: Callable[[Path], None], said: str | None) -> None:
    make(here / "m.lmp")
    assert problems_of(Launch({"resume": "m.lmp"}), nothing) == ([] if said is None else [said])


def test_a_folder_with_links_to_nothing_is_looked_at(here: Path) -> None:
    """As the run itself reads it: without them."""
    (here / "linked").mkdir()
    (here / "rows.jsonl").rename(here / "linked" / "rows.jsonl")
    for name, target in (("gone.jsonl", "nowhere"), ("circle.jsonl", "circle.jsonl"), ("again", ".")):
        (here / "linked" / name).symlink_to(target)
    for text, said in (("body", []), ("txt", ["linked.toml:1: " + NO_COLUMN.format("mine")])):
        plan = OWN.replace("rows.jsonl", "linked").replace("\n[stages", f"\ntext = '{text}'\n[stages")
        (here / "linked.toml").write_text(plan, encoding="utf-8")
        assert problems_of(Launch({"training_plan": "linked.toml"}), nothing) == said


def test_large_files_are_left_to_the_run(here: Path) -> None:
    with (here / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({"body": "mill " * 200}) + "\n" for _ in range(5000))
    assert problems_of(Launch({"training_plan": "column.toml"}), nothing) == []


@contextlib.contextmanager
def hanging(path: Path) -> Iterator[None]:
    """Whoever opens the file waits in the kernel, as for a disk that does not answer: we hold a lease on it.

    The kernel breaks it after /proc/sys/fs/lease-break-time, 45 s.
    """
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # that it is asked for
    with path.open("rb") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        try:
            yield
        finally:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            signal.signal(signal.SIGIO, before)


SOON = Waits(said_s=0.1, refused_s=0.7, left_s=0.5)


def test_what_hangs_is_named_and_not_waited_for(here: Path) -> None:
    said: list[str] = []
    launch = Launch({"training_plan": "good.toml", "exp": "mine.py:Mine", "tz": "Mars"})
    with hanging(here / "mine.py"):
        found = problems_of(launch, said.append, SOON)
    assert found == [
        "--tz: unknown time zone 'Mars'; for example Europe/Berlin or UTC",
        "--exp mine.py:Mine: no answer in 1 s: its disk hangs; is it mounted, and its server up?",
    ]
    assert said == ["waiting for --exp mine.py:Mine"]


def test_data_that_hang_are_left_to_the_run_which_can_be_stopped(here: Path) -> None:
    said: list[str] = []
    with hanging(here / "rows.jsonl"):
        assert problems_of(Launch({"training_plan": "good.toml"}), said.append, SOON) == []
    assert said == ["waiting for dataset rows.jsonl"]


@pytest.mark.long
@pytest.mark.parametrize("words", ["", "--headless"])
def test_a_start_whose_disk_hangs_says_so_and_ends(here: Path, words: str) -> None:
    line = ["--training-plan", "good.toml", "--exp", "mine.py:Mine", *words.split()]
    with hanging(here / "mine.py"), Terminal(lambda: cli.main(line)) as terminal:
        assert terminal.wait() == 2
    assert terminal.output.decode().splitlines() == [
        "waiting for --exp mine.py:Mine",
        "--exp mine.py:Mine: no answer in 20 s: its disk hangs; is it mounted, and its server up?",
    ]
