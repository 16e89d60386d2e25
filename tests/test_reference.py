"""docs/reference.md is what the declarations say, and what runs write is declared."""

import json

from lmplay_tui.run.metric_names import METRICS, PLACE
from tests import reference
from tests.train.conftest import place as place  # noqa: PLC0414  (a fixture)
from tests.train.runs import train, write_plan


def test_reference_is_up_to_date():
    assert reference.PATH.read_text(encoding="utf-8") == reference.text(), "run: python -m tests.reference"


def test_every_name_in_metrics_jsonl_is_declared(place):
    train(training_plan=write_plan(place), model="m.lmp")
    stages = {"stories", "pairs", "both"}
    seen = set()
    for line in (place / "m.run/metrics.jsonl").read_text(encoding="utf-8").splitlines():
        for name in json.loads(line):
            parts = name.split("/")
            seen.add("/".join("STAGE" if part in stages else part for part in parts))
    assert seen <= {*PLACE, *METRICS}
    training = {"train/loss", "val/loss", "eval/loss", "eval/STAGE/loss", "perf/mfu"}
    assert {*PLACE, *training, "memory/process_bytes", "memory/used", "sys/cpu"} <= seen
