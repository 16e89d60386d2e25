"""A run on texts without spaces records their accuracy by characters, under a name of its own, everywhere."""

import csv
import json
from pathlib import Path

import pytest

from lmplay_tui.run.charts import PlotOptions, level_chart, load_curves
from lmplay_tui.run.events import Predicted, Validated
from lmplay_tui.run.export import CsvFile, export_metrics
from lmplay_tui.run.folder import RunFolder, statistics_folder
from lmplay_tui.run.statistics import BY_CHARACTERS, COLUMNS, read_statistics, statistics_path
from tests.journals import read_journal
from tests.train.runs import TINY, stop_after, train, write_plan

LINES = {
    "chinese": ["村里的老船夫昨天修好了木船。", "孩子们在河边数着石头，然后回家吃饭。", "老师把钥匙放在桌子上。"],
    "english": ["The mill stood by the river.", "Nobody had used it for years!", "She went home again."],
}  # fmt: skip
INTERVALS = (
    "validation_interval = 4\nvalidation_batch_size = 4\neval_interval = 8\neval_samples = 4\nlog_interval = 1\n"
)


def write_data(place: Path, *languages: str) -> str:
    rows = [line for i in range(12) for language in languages for line in LINES[language][i % 3 :]]
    text = "".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows)
    (place / "mine.jsonl").write_text(text, encoding="utf-8")
    options = TINY + INTERVALS + "batch_size = 4\n"
    return write_plan(place, options + '[stages.one]\ndataset = "mine.jsonl"\nepochs = 1\n')


def names_of(run: RunFolder) -> set[str]:
    return {name for line in read_journal(run.metrics) for name in line if "accuracy" in name}


@pytest.mark.parametrize("language", ["chinese", "english"])
def test_one_measure_is_recorded_under_its_own_name_alone(place, language):
    events = train(training_plan=write_data(place, language), model="m.lmp")
    run = RunFolder(place / "m.lmp")
    mine, other = ("character_accuracy", "accuracy") if language == "chinese" else ("accuracy", "character_accuracy")
    assert names_of(run) == {f"{split}/{mine}" for split in ("train", "val", "eval")}
    for event in events:
        if isinstance(event, Validated):
            assert getattr(event, mine) is not None
            assert getattr(event, other) is None
        if isinstance(event, Predicted) and event.prediction.truth:
            assert getattr(event.prediction, mine) is not None
            assert getattr(event.prediction, other) is None
    table = CsvFile(place / "m.csv")
    export_metrics(run, table, follow=False)
    header = next(csv.reader((place / "m.csv").read_text(encoding="utf-8").splitlines()))
    assert [name for name in header if "accuracy" in name] == [f"{split}/{mine}" for split in ("train", "val", "eval")]
    log = run.log.read_text(encoding="utf-8")
    assert (", character accuracy " in log) is (language == "chinese")
    path = statistics_path(statistics_folder(None), "m", None, "train")
    columns = json.loads(path.read_text(encoding="utf-8"))["columns"]
    assert columns == [*COLUMNS, *([BY_CHARACTERS] if language == "chinese" else [])]


def test_a_mixed_run_records_both_each_of_its_own_texts_and_a_resume_the_same(place):
    plan = write_data(place, "chinese", "english")
    train(training_plan=plan, model="whole.lmp")
    stop_after(5, training_plan=plan, model="parts.lmp")
    train(training_plan=plan, model="parts.lmp")
    whole, parts = [scores(RunFolder(place / name)) for name in ("whole.lmp", "parts.lmp")]
    assert whole == parts
    assert names_of(RunFolder(place / "whole.lmp")) >= {"train/accuracy", "train/character_accuracy"}
    read = [
        read_statistics(statistics_path(statistics_folder(None), name, None, "train")) for name in ("whole", "parts")
    ]
    assert read[0].history == read[1].history
    assert read[0].averages == read[1].averages
    assert read[0].averages[BY_CHARACTERS] is not None
    curves, _ = load_curves([statistics_path(statistics_folder(None), "whole", None, "train")])
    chart = level_chart(curves, "character_accuracy", PlotOptions())
    assert chart is not None
    assert chart.y_label == "character accuracy"


def scores(run: RunFolder) -> list[tuple[object, ...]]:
    return [
        (line["step"], name, value) for line in read_journal(run.metrics) for name, value in line.items()
        if "accuracy" in name
    ]  # fmt: skip
