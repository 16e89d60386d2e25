"""A machine whose clock stands in 1969 or in 2300: a run trains, is resumed, looked at and exported as ever.

The clock is shifted before the product is imported, in an interpreter of its own; times of files stay the kernel's,
as on a share of a machine whose clock is right.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.runs import differences, state_of, stop_after, write_plan, write_rows

CLOCKS = {"1969": -(10**6), "2300": 10_413_792_000}  # seconds since 1970, where the clock stands at the start
SHIFT = """\
import datetime, time
shift, real, real_ns, real_gmtime = {start} - time.time(), time.time, time.time_ns, time.gmtime
time.time = lambda: real() + shift
time.time_ns = lambda: real_ns() + int(shift) * 10**9
time.gmtime = lambda seconds=None: real_gmtime(time.time() if seconds is None else seconds)
"""
PROGRAM = """\
import io, json, sys, time
from pathlib import Path
import torch
from lmplay_tui.cli import main
from lmplay_tui.run.folder import RunFolder
from lmplay_tui.ui.source import FolderSource
from tests.faults.test_fuzzed_runs import said_by
from tests.train.runs import stop_after
torch.set_num_threads(1)
for step, given in ((14, {"training_plan": "plan.toml"}), (18, {})):
    end = stop_after(step, model="m.lmp", out_dir=".", **given)[-1]
found = {"end": repr(end), "year": time.gmtime().tm_year}
for words in ("status m", "status m --json", "runs", "export m --to csv", "plot m --terminal", "ctl m save"):
    found[words] = said_by(tuple(words.split()))
source = FolderSource(RunFolder(Path("m.lmp")))
while source.poll() or source.behind or source.view.at.step < 18:
    time.sleep(0.002)
found["elapsed_s"] = source.view.spent_s
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The checkpoint of the same run by a clock that is right."""
    folder = tmp_path_factory.mktemp("today")
    write_rows(folder)
    before = Path.cwd()
    os.chdir(folder)
    stop_after(18, training_plan=write_plan(Path()), model="m.lmp", out_dir=".")
    os.chdir(before)
    return folder / "m.lmp"


@pytest.mark.long
@pytest.mark.parametrize("year", CLOCKS)
def test_a_run_in(year, undisturbed, tmp_path):
    (tmp_path / "shift").mkdir()
    (tmp_path / "shift" / "sitecustomize.py").write_text(SHIFT.format(start=CLOCKS[year]))
    place = tmp_path / "place"
    place.mkdir()
    write_rows(place)
    write_plan(place)
    root = str(Path(__file__).parents[2])
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=False, cwd=place, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path / 'shift'}:{root}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["year"] == int(year)
    assert found["end"].startswith("RunStopped"), found["end"]
    assert 0 <= found["elapsed_s"] < 600
    for words in ("status m", "status m --json", "runs", "export m --to csv", "plot m --terminal"):
        status, shown, said = found[words]
        assert status == 0 and shown and "Traceback" not in said, (words, said)
    assert found["ctl m save"][0] == 2
    assert f'"time":"{year}-' in (place / "m.run" / "events.jsonl").read_text()
    expected, trained = state_of(undisturbed), state_of(place / "m.lmp")
    for state in (expected, trained):
        del state["curriculum"]["state_args"]["plan_folder"]
    assert not list(differences(expected, trained))
