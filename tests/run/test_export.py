import csv
import math
import subprocess
import sys

import pytest

from lmplay_tui.errors import UserError
from lmplay_tui.run.export import (
    CsvFile,
    CsvTable,
    TensorBoardFolder,
    check_metrics,
    export_metrics,
    write_safetensors,
)
from lmplay_tui.run.folder import RunFolder, RunLock
from lmplay_tui.run.journal import Journal


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "m.lmp")
    folder.create()
    return folder


def log(run, *steps, **more):
    journal = Journal(run.metrics)
    for step in steps:
        row = {"time": "2026-01-02T03:04:05.000Z", "step": step, "stage": "a", "tokens": 100 * step}
        journal.write(row | {"train/loss": 5.0 - step / 10} | more)
    journal.close()


def resume(run, step):
    journal = Journal(run.metrics)
    journal.write({"resumed_from": step})
    journal.close()


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Waits:
    """What happens in the run while the export waits: one function a poll, then the test has failed."""

    def __init__(self, *happenings):
        self.left = list(happenings)

    def __call__(self, seconds):
        assert self.left, "the export still waits"
        self.left.pop(0)()


class TestCsv:
    def test_every_metric_has_a_column_and_step_is_the_first(self, run, tmp_path):
        log(run, 1, 2)
        log(run, 3, **{"val/loss": math.nan, "note": 'with "quotes", commas\nand lines'})
        assert export_metrics(run, CsvFile(tmp_path / "m.csv"), follow=False) == 3
        rows = table(tmp_path / "m.csv")
        assert list(rows[0]) == ["step", "time", "stage", "tokens", "train/loss", "val/loss", "note"]
        assert [row["step"] for row in rows] == ["1", "2", "3"]
        assert [row["val/loss"] for row in rows] == ["", "", "NaN"]
        assert rows[2]["note"] == 'with "quotes", commas\nand lines'
        assert [float(row["train/loss"]) for row in rows] == pytest.approx([4.9, 4.8, 4.7])

    def test_rows_beyond_a_resume_are_gone(self, run, tmp_path):
        log(run, 1, 2, 3, 4)
        resume(run, 2)
        log(run, 3, **{"train/loss": 9.0})
        export_metrics(run, CsvFile(tmp_path / "m.csv"), follow=False)
        assert [(row["step"], row["train/loss"]) for row in table(tmp_path / "m.csv")] == [
            ("1", "4.9"),
            ("2", "4.8"),
            ("3", "9.0"),
        ]

    def test_a_torn_last_line_and_nonsense_are_passed_over(self, run, tmp_path):
        log(run, 1)
        with run.metrics.open("ab") as file:
            file.write(b'nonsense\n[1]\n{"step": "x"}\n{"step": 2, "train/lo')
        assert export_metrics(run, CsvFile(tmp_path / "m.csv"), follow=False) == 1

    def test_nothing_to_export_is_said(self, run):
        with pytest.raises(UserError, match="m: no metrics yet"):
            check_metrics(run, follow=False)
        with pytest.raises(UserError, match="no metrics yet"):
            check_metrics(run, follow=True)  # nobody trains, so nothing will come


class TestFollow:
    def test_it_goes_on_until_the_run_ends_and_the_file_is_whole_all_the_time(self, run, tmp_path):
        target = tmp_path / "m.csv"
        lock = RunLock(run)
        lock.take()
        check_metrics(run, follow=True)

        def first():
            log(run, 1)

        def more():
            assert len(table(target)) == 1
            log(run, 2, 3)

        def another_metric():
            assert len(table(target)) == 3
            log(run, 4, **{"val/loss": 3.0})

        def resumed_from_2():
            assert table(target)[0]["val/loss"] == ""
            resume(run, 2)
            log(run, 3)

        def end():
            assert [row["step"] for row in table(target)] == ["1", "2", "3"]
            log(run, 4)
            run.write_status({"state": "finished"})
            lock.release()

        export_metrics(run, CsvFile(target), follow=True, wait=Waits(first, more, another_metric, resumed_from_2, end))
        assert [row["step"] for row in table(target)] == ["1", "2", "3", "4"]

    def test_a_run_that_is_handed_over_has_not_ended(self, run):
        lock, next_lock = RunLock(run), RunLock(run)
        lock.take()
        run.write_status({"state": "running"})
        log(run, 1)
        rows = CsvTable()

        def gone():
            lock.release()

        def taken_up():
            next_lock.take()
            log(run, 2)

        def end():
            run.write_status({"state": "stopped"})
            next_lock.release()

        assert export_metrics(run, rows, follow=True, wait=Waits(gone, lambda: None, taken_up, end)) == 2

    @pytest.mark.parametrize("line", [b"x" * 100, b"x" * (5 << 20), b"x" * (40 << 20)], ids=len)
    def test_rows_behind_megabytes_that_are_none_of_ours_are_given(self, run, line):
        log(run, 1)
        with run.metrics.open("ab") as file:
            for _ in range(0, 9 << 20, len(line)):
                file.write(line + b"\n")
        log(run, 2, 3)
        assert export_metrics(run, CsvTable(), follow=False) == 3

    def test_a_run_that_died_is_not_waited_for_for_ever(self, run):
        run.write_status({"state": "running"})
        log(run, 1)
        waits = Waits(*[lambda: None] * 30)
        assert export_metrics(run, CsvTable(), follow=True, wait=waits) == 1
        assert len(waits.left) > 0


class TestTensorBoard:
    def read(self, folder):
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        reader = accumulator.EventAccumulator(str(folder))
        reader.Reload()
        return reader

    def test_its_own_reader_reads_the_curve_back(self, run, tmp_path):
        log(run, 1, 2)
        log(run, 3, **{"val/loss": math.nan, "ready": True, "none": None, "note": "text"})
        export_metrics(run, TensorBoardFolder(tmp_path / "tb"), follow=False)
        reader = self.read(tmp_path / "tb")
        curve = [(e.step, e.value) for e in reader.Scalars("train/loss")]
        assert curve == [(1, pytest.approx(4.9)), (2, pytest.approx(4.8)), (3, pytest.approx(4.7))]
        assert reader.Scalars("train/loss")[0].wall_time == 1767323045.0
        assert [e.value for e in reader.Scalars("progress/tokens")] == [100, 200, 300]
        assert math.isnan(reader.Scalars("val/loss")[0].value)
        assert set(reader.Tags()["scalars"]) == {"train/loss", "val/loss", "progress/tokens"}

    def test_a_resume_takes_back_what_lay_beyond_it(self, run, tmp_path):
        log(run, 1, 2, 3, 4)
        resume(run, 2)
        log(run, 3, **{"train/loss": 9.0})
        export_metrics(run, TensorBoardFolder(tmp_path / "tb"), follow=False)
        curve = [(e.step, e.value) for e in self.read(tmp_path / "tb").Scalars("train/loss")]
        assert curve == [(1, pytest.approx(4.9)), (2, pytest.approx(4.8)), (3, 9.0)]

    def test_the_next_export_replaces_this_one_and_nothing_else(self, run, tmp_path):
        log(run, 1)
        (tmp_path / "tb").mkdir()
        (tmp_path / "tb" / "events.out.tfevents.1.of-another-program").write_bytes(b"")
        for _ in range(2):
            export_metrics(run, TensorBoardFolder(tmp_path / "tb"), follow=False)
        assert len(list((tmp_path / "tb").iterdir())) == 2

    def test_without_tensorboard_one_line_says_how_to_get_it(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
        with pytest.raises(UserError, match=r"pip install 'lmplay-tui\[tensorboard\]'") as caught:
            TensorBoardFolder(tmp_path / "tb")
        assert "\n" not in str(caught.value)


class TestSafetensors:
    def test_weights_come_back_to_the_bit_also_where_they_share_memory(self, tmp_path):
        torch = pytest.importorskip("torch")
        from safetensors import safe_open

        weight = torch.randn(4, 6)
        tensors = {"a": weight, "tied": weight, "turned": weight.T, "half": weight.bfloat16()}
        tensors["own"] = torch.randn(3, 2).T
        path = tmp_path / "m.safetensors"
        size = write_safetensors(path, tensors, {"format": "pt", "model": "{}"})
        assert size == path.stat().st_size
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt", "model": "{}"}
            assert set(file.keys()) == set(tensors)
            assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())

    def test_a_file_that_cannot_be_written_leaves_the_one_before(self, tmp_path, monkeypatch):
        torch = pytest.importorskip("torch")
        import safetensors.torch

        path = tmp_path / "m.safetensors"
        write_safetensors(path, {"a": torch.ones(2)}, {})
        before = path.read_bytes()

        def full_disk(tensors, target, metadata):
            target.write_bytes(b"half")
            raise safetensors.SafetensorError("No space left on device")

        monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
        with pytest.raises(OSError, match="No space"):
            write_safetensors(path, {"a": torch.zeros(2)}, {})
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


MILLION = """\
import re, resource, sys
from pathlib import Path
from lmplay_tui.cli import main

status = main(sys.argv[1:])
if Path("/proc/self/status").exists():  # rusage on Linux counts what started this process, too
    print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


@pytest.mark.long
def test_a_million_lines_take_little_memory(run, tmp_path):
    """What it takes does not grow with the rows: they lie in a file without a name."""
    row = '{"step":%d,"stage":"a","samples":%d,"train/loss":3.25,"lr":0.001,"perf/tokens_per_s":12345.678}\n'
    run.create()
    with run.metrics.open("w", encoding="utf-8") as file:
        file.writelines(row % (step, 8 * step) for step in range(1, 1_000_001))
    done = subprocess.run(
        [sys.executable, "-c", MILLION, "export", str(run.model), "--to", "csv"], capture_output=True, text=True,
        check=True, cwd=tmp_path,
    )  # fmt: skip
    assert int(done.stdout.splitlines()[-1]) < 300 << 20
    with run.model.with_suffix(".csv").open("rb") as file:
        assert sum(1 for _ in file) == 1_000_001
