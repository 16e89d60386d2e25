"""The hub that is away, refuses, says nothing, or fills the disk: one line that names the dataset."""

import gzip
import importlib
import io
import json
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
from datasets import exceptions as theirs

from lmplay_tui.data import hub, local
from lmplay_tui.data.library import listening
from lmplay_tui.data.sources import open_rows, open_source
from lmplay_tui.data.splits import choose
from lmplay_tui.errors import DataError, UserError
from lmplay_tui.plan.schema import DatasetSpec
from tests.data.conftest import Open, no_report

SPEC = DatasetSpec("wiki", "owner/name", config="en", revision="abc", text="text")
ROWS = datasets.Dataset.from_dict({"text": [f"Row {n}." for n in range(20)]})
OTHERS = datasets.Dataset.from_dict({"text": [f"Other row {n}." for n in range(3)]})

tqdm: Any = importlib.import_module("tqdm.std").tqdm
Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    made: Calls = []

    def load(*args: Any, **kwargs: Any) -> Any:
        made.append((args, kwargs))
        return datasets.DatasetDict({"train": ROWS, "validation": OTHERS, "test": ROWS})

    monkeypatch.setattr(datasets, "load_dataset", load)
    return made


def test_a_hub_dataset_is_asked_for_as_the_plan_says(calls: Calls, tmp_path: Any) -> None:
    source = open_source(SPEC, datasets_folder=tmp_path, report=no_report)
    assert (source.train.num_rows, source.validation and source.validation.num_rows) == (20, 3)
    assert calls == [(("owner/name", "en"), {"revision": "abc"})]  # and no code of theirs is trusted


def test_a_part_of_a_split(calls: Calls, tmp_path: Any) -> None:
    spec = DatasetSpec("wiki", "owner/name", split="train[:25%]", validation="test")
    source = open_source(spec, datasets_folder=tmp_path, report=no_report)
    assert (source.train.num_rows, source.validation and source.validation.num_rows) == (5, 20)
    assert len(calls) == 1


def test_a_stage_of_a_hub_dataset(calls: Calls, opened: Open) -> None:
    from lmplay_tui.data.batches import Position

    data = opened(SPEC)
    assert data.rows_total == 20
    assert [s.truth for b in data.batches(Position()) for s in b.samples] == [f"Row {n}." for n in range(20)]


def test_rows_that_look_like_agent_traces_are_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: Calls = []

    def load(*args: Any, **kwargs: Any) -> Any:
        made.append((args, kwargs))
        if kwargs.get("parse_agent_traces") is not False:
            cause = ImportError("To support decoding agent traces, please install teich")
            raise chained(theirs.DatasetGenerationError("An error occurred"), cause)
        return datasets.DatasetDict({"train": ROWS})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert open_source(SPEC, datasets_folder=tmp_path, report=no_report).train.num_rows == 20
    assert made == [(("owner/name", "en"), {"revision": "abc"}),
                    (("owner/name", "en"), {"revision": "abc", "parse_agent_traces": False})]  # fmt: skip


def test_the_library_knows_the_switch_for_agent_traces(tmp_path: Path) -> None:
    """Called for real: its JSON reader takes these columns for an agent trace, and not with the switch."""
    rows = [{"id": "c", "source": "s", "model": "m", "system_prompt": "p", "messages": [{"role": "user"}]}] * 3
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = DatasetSpec("traces", str(tmp_path / "data"), messages="messages")  # as a hub's repository lies
    assert hub.read(spec, no_report).train.table.num_rows == 3


CELLS = [
    "000",
    "007",
    "1.50",
    "1e3",
    "NA",
    "null",
    "None",
    "nan",
    "N/A",
    "",
    "1910-01-10",
    "True",
    "12345678901234567890",
]
TEXT = "question,answer\n" + "".join(f"Which is {n}?,{cell}\n" for n, cell in enumerate(CELLS))


def zipped(text: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("train.csv", text)
    return packed.getvalue()


def declared(kind: str) -> bytes:
    columns = "".join(f"  - name: {name}\n    dtype: {of}\n" for name, of in (("question", "string"), ("answer", kind)))
    return f"---\ndataset_info:\n  features:\n{columns}---\n".encode()


CSV: dict[str, dict[str, bytes]] = {  # a repository's files
    "csv": {"train.csv": TEXT.encode()},
    "tsv": {"train.tsv": TEXT.replace(",", "\t").encode()},
    "packed": {"train.csv.gz": gzip.compress(TEXT.encode())},
    "zipped": {"train.zip": zipped(TEXT)},
    "several files": {
        f"train-{n}.csv": f"{TEXT[:16]}{line}\n".encode() for n, line in enumerate(TEXT[16:].splitlines(), 10)
    },
    "by a README": {
        "a.csv": TEXT.replace(",", ";").encode(),
        "README.md": b"---\nconfigs:\n- config_name: default\n  data_files: a.csv\n  sep: ';'\n---\n",
    },
    "declared as text": {"train.csv": TEXT.encode(), "README.md": declared("string")},
}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DatasetSpec]:
    """A folder given to the library: it is read as a hub's repository is. And a cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(files: dict[str, bytes]) -> DatasetSpec:
        (tmp_path / "repo").mkdir()
        for name, contents in files.items():
            (tmp_path / "repo" / name).write_bytes(contents)
        return DatasetSpec("mine", str(tmp_path / "repo"))

    return make


KEPT = DatasetSpec("mine", "repo")  # that dataset, where only the cache has it


@pytest.mark.parametrize("name", CSV)
def test_values_of_csv_are_as_the_file_spells_them(name: str, repository: Callable[..., DatasetSpec]) -> None:
    spec = repository(CSV[name])
    for asked in (spec, spec, KEPT):  # made, from the cache, from the cache without network
        found = hub.read(asked, no_report)
        rows = open_rows(asked, found.train.table)
        assert [[item.truth for item in rows.items(row)] for row in range(rows.num_rows)] == [
            [cell] if cell else [] for cell in CELLS
        ]
        assert found.notes == ()


def test_a_csv_reads_the_same_on_the_hub_and_on_this_machine(repository: Callable[..., DatasetSpec]) -> None:
    spec = repository(CSV["csv"])
    here, there = local.read(spec, no_report).train, hub.read(spec, no_report).train
    assert there.table.to_pydict() == here.table.to_pydict()
    assert [segment.identity for segment in choose(spec, {"train": there}).train.segments] == [
        segment.identity for segment in here.segments
    ]


def test_numbers_and_labels_that_a_readme_declares_are_such(repository: Callable[..., DatasetSpec]) -> None:
    label = "\n      class_label:\n        names:\n          '0': never\n          '1': always"
    spec = repository({"train.csv": b"question,answer\nIs it NA?,1\nnull,0\n007,\n", "README.md": declared(label)})
    table = hub.read(spec, no_report).train.table
    assert table.to_pydict() == {"question": ["Is it NA?", "null", "007"], "answer": [1, 0, None]}
    rows = open_rows(spec, table)
    assert [item.truth for row in range(2) for item in rows.items(row)] == ["always", "never"]


def test_what_the_library_has_kept_of_csv_is_read_anew_or_said_to_be_doubtful(
    repository: Callable[..., DatasetSpec],
) -> None:
    spec = repository(CSV["csv"])
    datasets.load_dataset(spec.path)  # by another program: the library's own reading
    (said,) = hub.read(KEPT, no_report).notes
    assert said.startswith("read from an older copy in the cache: zeros before its numbers, NA and None may be lost")
    for asked in (spec, KEPT):
        found = hub.read(asked, no_report)
        assert (found.train.table["answer"].to_pylist(), found.notes) == (CELLS, ())


@pytest.mark.parametrize(("held", "again"), [
    ("en/parquet", False), ("en/csv", True), ("other/parquet", True),
])  # fmt: skip
def test_the_hub_is_asked_what_files_it_has_only_where_the_cache_does_not_tell(
    held: str, again: bool, calls: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And where it cannot be reached, what the cache holds is read, which the library knows how to find."""
    config, kind = held.split("/")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    about = tmp_path / "owner___name" / config / "0.0.0/abc/dataset_info.json"
    about.parent.mkdir(parents=True)
    about.write_text(json.dumps({"builder_name": kind}), encoding="utf-8")
    asked: list[str] = []

    def ask(path: str, *_: Any, **__: Any) -> None:
        asked.append(path)
        raise ConnectionError("away")

    monkeypatch.setattr(datasets, "load_dataset_builder", ask)
    hub.read(SPEC, no_report)
    assert (bool(asked), len(calls)) == (again, 1)


def chained(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


class AnswerError(OSError):
    def __init__(self, status: int) -> None:
        super().__init__(f"{status} for url https://huggingface.co/api\nmore")
        self.response = SimpleNamespace(status_code=status)


ERRORS: dict[str, tuple[Exception, type[UserError], str]] = {
    "not there": (theirs.DatasetNotFoundError("x"), UserError, "the hub has no dataset owner/name, or it is private"),
    "gated": (theirs.DatasetNotFoundError("'x' is a gated dataset"), UserError, "who accept its terms on the hub"),
    "script": (RuntimeError("Dataset scripts are no longer supported, but found x.py"), UserError, "is a script"),
    "config": (ValueError("BuilderConfig 'en' not found. Available: ['eng', 'es']"), UserError,
               "there is no config en; did you mean eng?; it has eng, es"),
    "no config": (ValueError("Config name is missing.\nPlease pick one among ['a', 'b']"), UserError,
                  "set config to one of a, b"),
    "split": (ValueError('Unknown split "tran". Should be one of [\'train\'].'), UserError, "there is no split tran"),
    "offline": (ConnectionError("Couldn't reach 'x' on the Hub (OfflineModeIsEnabled)"), DataError, "HF_HUB_OFFLINE"),
    "unreachable": (ConnectionError("Couldn't reach 'x' on the Hub"), DataError, "the hub cannot be reached; check"),
    "500": (chained(FileNotFoundError("Couldn't find any data file at /x"), AnswerError(500)), DataError,
            "answers with an error (500)"),
    "401": (AnswerError(401), UserError, "the hub refuses access to owner/name (401)"),
    "full": (chained(theirs.DatasetGenerationError("An error"), OSError(28, "No space left")), DataError,
             "the disk is full; free some space, or set HF_HOME"),
    "damaged": (chained(theirs.DatasetGenerationError("An error"), ValueError("bad\nfooter")), DataError,
                "owner/name cannot be read (bad footer)"),
    "nameless": (AssertionError(), DataError, "owner/name cannot be read (AssertionError)"),
    "hostile": (ConnectionError("\x1b]0;owned\x07"), DataError, "cannot be reached"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_one_line_that_names_the_dataset(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    error, kind, said = ERRORS[name]

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError) as caught:
        open_source(SPEC, datasets_folder=tmp_path, report=no_report)
    message = str(caught.value)
    assert type(caught.value) is kind
    assert message.startswith("dataset wiki: ")
    assert said in message
    assert not {"\n", "\x1b"} & set(message)
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_hub_that_stays_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: release.wait(60))
    with pytest.raises(DataError, match="dataset wiki: the hub has not answered for 0 s; try again later"):
        hub.read(SPEC, no_report, silent_s=0.2)
    release.set()


def test_a_download_that_moves_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*_: Any, **__: Any) -> Any:
        tqdm(total=12, unit="B", disable=True).update(2)
        time.sleep(1)  # unpacking: nothing moves
        return datasets.DatasetDict({"train": ROWS})

    monkeypatch.setattr(datasets, "load_dataset", slowly)
    assert hub.read(SPEC, no_report, silent_s=0.5).train.table.num_rows == 20


def test_what_the_user_stops_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A stop while the hub is slow comes through the report, and the hub is not waited for."""
    release = threading.Event()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: release.wait(60))
    heard: list[str] = []

    def report(activity: str, detail: str, fraction: float | None) -> None:
        heard.append(activity)
        if len(heard) > 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        hub.read(SPEC, report)
    assert set(heard) == {"downloading"}
    release.set()


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    told: list[tuple[str, str, float | None]] = []
    go_on = threading.Semaphore(0)

    def load(*_: Any, **__: Any) -> Any:
        files = tqdm(total=2, unit="files", disable=True)
        first = tqdm(total=30_000_000, unit="B", disable=True)
        first.update(15_000_000)
        go_on.acquire(timeout=20)
        first.update(15_000_000)
        tqdm(total=10, unit="B", disable=True).update(10)
        files.update(2)
        rows = tqdm(total=8, unit=" examples", disable=True)
        rows.update(2)
        go_on.acquire(timeout=20)
        return datasets.DatasetDict({"train": ROWS})

    def report(activity: str, detail: str, fraction: float | None) -> None:
        if (activity, detail, fraction) not in told:
            told.append((activity, detail, fraction))
            if fraction is not None:
                go_on.release()

    monkeypatch.setattr(datasets, "load_dataset", load)
    hub.read(SPEC, report)
    assert told[0] == ("downloading", "wiki", None)
    assert ("downloading", "wiki, 15 MB", 0.25) in told
    assert told[-1] == ("loading", "wiki: writing rows to the cache", 0.25)


def test_bars_are_as_before_when_the_last_listener_has_left() -> None:
    before = tqdm.__init__, tqdm.update
    with listening() as progress:
        assert (tqdm.__init__, tqdm.update) != before
        bar = tqdm(range(3), disable=True)
        assert list(bar) == [0, 1, 2]
        assert progress.fraction() is None
    assert (tqdm.__init__, tqdm.update) == before


def test_the_library_is_quiet_and_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a"}\n{"text": \n', encoding="utf-8")
    code = (
        "from lmplay_tui.data.library import quiet_datasets; quiet_datasets();"
        "import huggingface_hub.constants as c, datasets, tqdm.std, threading;"
        "assert c.HF_HUB_DOWNLOAD_TIMEOUT == c.HF_HUB_ETAG_TIMEOUT == 20;"
        "assert datasets.are_progress_bars_disabled();"
        "assert type(tqdm.std.tqdm.get_lock()) is type(threading.RLock())\n"
        f"try: datasets.load_dataset('json', data_files={str(broken)!r}, cache_dir={str(tmp_path)!r})\n"
        "except Exception: pass\n"
        "else: raise AssertionError"
    )
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
