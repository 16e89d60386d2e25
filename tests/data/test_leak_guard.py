"""The leak guard: every training row that says what an evaluated row says is counted, and none other."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmplay_tui.data.leak_guard import LeakGuard, LeakReport, Looking, StageLeaks, look_for_leaks, text_hash
from lmplay_tui.data.samples import Item
from lmplay_tui.data.stage_data import StageData
from lmplay_tui.errors import DataError
from lmplay_tui.plan.reading import read_plan
from lmplay_tui.plan.schema import DatasetSpec, Stage
from tests.data.conftest import Open, write_splits

Make = Callable[..., StageData]


@pytest.fixture
def file(opened: Open, tmp_path: Path) -> Make:
    """A stage of one dataset that holds these rows, and another split of these, where they are given."""

    def make(rows: list[dict[str, Any]], own: list[dict[str, Any]] | None = None, **given: Any) -> StageData:
        folder = tmp_path / f"data{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        write_splits(folder, train=rows, **({} if own is None else {"validation": own}))
        return opened(DatasetSpec(folder.name, str(folder)), **given)

    return make


def texts(*numbers: int) -> list[dict[str, Any]]:
    return [{"text": f"Row {n} says so."} for n in numbers]


def test_no_leak_is_said_with_the_rows_looked_at(file: Make) -> None:
    report = look_for_leaks([("one", file(texts(*range(30)))), ("two", file(texts(*range(30, 50))))])
    assert report.leaked == 0
    assert report.sentence() == "leak guard: no training row carries an evaluation text (45 rows looked at)"


def test_rows_are_counted_by_the_stage_that_trains_and_the_one_that_is_evaluated(file: Make) -> None:
    one = file([*texts(*range(20)), *texts(3, 3, 7)], own=texts(3, 90))
    two = file(texts(*range(100, 110), 3), own=texts(7, 90, 3))
    report = look_for_leaks([("one", one), ("two", two)])
    assert report.stages == (
        StageLeaks("one", 23, 23, 5, {"one": 3, "two": 5}), StageLeaks("two", 11, 11, 1, {"one": 1, "two": 1}),
    )  # fmt: skip
    assert report.evaluation_rows == 5
    assert report.sentence() == (
        "leak guard: stage one trains 5 of 23 rows whose text is in an evaluation set (3 of stage one's own, "
        "5 of stage two's); stage two trains 1 of 11 rows whose text is in an evaluation set (1 of stage one's, "
        "1 of stage two's own)"
    )
    record = report.record()
    assert (record["leaked"], record["rows_looked_at"]) == (6, 34)
    assert record["by_stage"]["one"]["of_evaluation_of"] == {"one": 3, "two": 5}


def test_duplicates_of_held_out_rows_are_found(file: Make) -> None:
    """Each text twice, far apart: a copy of each held-out row is trained, unless it is held out too."""
    numbers = [*range(50), *range(50)]
    data = file(texts(*numbers), validation_split=0.2)
    training, validation = data.orders()
    held = {validation.items(row)[0].truth for row in range(validation.rows)}
    trained = [training.items(row)[0].truth for row in range(training.rows_total)]
    expected = sum(text in held for text in trained)
    assert expected > 5
    assert look_for_leaks([("s", data)]).leaked == expected


def test_a_stage_that_trains_the_split_another_validates_on(opened: Open, tmp_path: Path) -> None:
    for name, rows in (("train", texts(*range(20))), ("validation", texts(*range(20, 30)))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    one = opened(DatasetSpec("a", str(tmp_path)))
    two = opened(DatasetSpec("b", str(tmp_path), split="validation"), validation_split=0.0)
    report = look_for_leaks([("one", one), ("two", two)])
    assert [dict(stage.of) for stage in report.stages] == [{}, {"one": 10}]


def test_only_rows_that_are_read_count(file: Make) -> None:
    own = texts(1, 18)
    assert look_for_leaks([("s", file(texts(*range(20)), own=own, epochs=0.5))]).leaked == 1
    assert look_for_leaks([("s", file(texts(*range(20)), own=own, epochs=3.0))]).leaked == 2


SAME = {
    "white space": (Item("", "One  two\nthree.", True), Item("", "One two three.", True)),
    "another title": (Item("Title: a\n", "One.", True), Item("Title: b\n", "One.", True)),
    "a conversation's text": (Item("Why?\nSo.\n", "So.", prompt_end=5), Item("Why?", "So.")),
}
OTHER = {
    "another answer": (Item("Why?", "So."), Item("Why?", "No.")),
    "another question": (Item("Why?", "So."), Item("Who?", "So.")),
    "another system": (Item("Be kind.\nWhy?", "So."), Item("Be brief.\nWhy?", "So.")),
    "letters": (Item("", "One.", True), Item("", "one.", True)),
}


@pytest.mark.parametrize("name", [*SAME, *OTHER])
def test_what_counts_as_the_same_text(name: str) -> None:
    one, other = (SAME | OTHER)[name]
    assert (text_hash(one) == text_hash(other)) == (name in SAME)


def test_a_large_stage_is_sampled_alike_each_time_and_called_an_estimate(file: Make) -> None:
    looking = Looking(most_rows=500, chunk_rows=10)
    data = file(texts(*(n % 4 for n in range(4000))), own=texts(1))
    report = look_for_leaks([("s", data)], looking=looking)
    assert report == look_for_leaks([("s", data)], looking=looking)
    (stage,) = report.stages
    assert (stage.rows, stage.rows_looked_at, stage.is_estimate) == (4000, 500, True)
    assert 100 < stage.leaked < 150
    assert f"trains about {stage.leaked * 8:,} of 4,000 rows" in report.sentence()
    assert f"({stage.leaked} of the 500 looked at: {stage.leaked} of stage s's own)" in report.sentence()
    clean = look_for_leaks([("s", file(texts(*range(4000)), own=texts(9999)))], looking=looking)
    assert clean.sentence().endswith("(500 of 4,000 rows looked at)")


def test_large_rows_are_looked_at_by_their_characters(file: Make) -> None:
    data = file([{"text": f"{n} " * 200} for n in range(50)], own=texts(1))
    report = look_for_leaks([("s", data)], looking=Looking(most_chars=1000, chunk_rows=2))
    assert 2 <= report.stages[0].rows_looked_at <= 6


def test_nothing_to_compare_with_is_said(file: Make) -> None:
    report = look_for_leaks([("s", file(texts(1, 2, 3), validation_split=0.0))], ["later"])
    assert report.sentence() == (
        "leak guard: no row with a text is evaluated on, so there is nothing to look for; "
        "not looked at before its data are opened: later"
    )


def test_evaluated_rows_without_a_text_are_nothing_to_compare_with(file: Make) -> None:
    no_words = [{"text": ""}, {"text": None}, {"text": " "}]
    report = look_for_leaks([("s", file([*no_words * 6, *texts(*range(2))], validation_split=0.0))])
    assert "rows looked at" not in report.sentence()
    rows = [StageLeaks("s", 18, 0, 0, {})]
    assert LeakReport(tuple(rows), 3).sentence() == "leak guard: no row to train on could be looked at"


def test_looking_changes_nothing(file: Make) -> None:
    from lmplay_tui.data.batches import Position

    data, other = (file(texts(*range(60)), shuffle=True, epochs=2.0) for _ in range(2))
    data.validation(0, 2)
    reading = data.reading(Position())
    found = [next(reading).digest() for _ in range(5)]
    look_for_leaks([("s", data)])
    found += [batch.digest() for batch in reading]
    assert found == [batch.digest() for batch in other.reading(Position())]


def test_what_a_thread_finds_is_told_once_and_its_failure_too() -> None:
    asked: list[tuple[Stage, ...]] = []
    stages = tuple(Stage(name, (DatasetSpec(name, "x/y"),)) for name in "ab")

    def look(found: Any, rest: Callable[[], None]) -> LeakReport:
        asked.append(found)
        if len(asked) == 2:
            raise DataError("dataset x: row 3 cannot be read")
        return LeakReport((StageLeaks("a", 5, 5, 1, {"a": 1}),), 2, ("b",))

    guard = LeakGuard(look)

    def said(plan: tuple[Stage, ...], entered: str) -> list[tuple[bool, str]]:
        guard.begin(plan, entered)
        guard.wait(10)
        return guard.take_news()

    assert [warns for warns, _ in said(stages, "a")] == [True]
    assert said(stages, "a") == []
    assert said(stages, "b") == [(True, "leak guard: not looked: dataset x: row 3 cannot be read")]  # it is open now
    assert len(said(stages[:1], "a")) == 1  # the plan was changed
    assert len(asked) == 3


def test_a_guard_that_is_closed_leaves_off_and_says_nothing(file: Make) -> None:
    """However much there is to look at: no thread may be reading when the process ends."""
    begun = threading.Event()
    ended: list[BaseException] = []

    def look(_: Any, rest: Callable[[], None]) -> LeakReport:
        begun.set()
        try:
            while True:
                rest()
        except BaseException as error:
            ended.append(error)
            raise

    guard = LeakGuard(look)
    guard.begin((Stage("a", (DatasetSpec("a", "x/y"),)),), "a")
    assert begun.wait(10)
    guard.close()
    assert ended
    assert guard.take_news() == []


def test_it_rests_often(file: Make) -> None:
    rests: list[None] = []
    data = file(texts(*range(60)), own=texts(*range(60, 90)))
    look_for_leaks([("s", data)], rest=lambda: rests.append(None), looking=Looking(chunk_rows=5))
    assert len(rests) == (60 + 30) / 5


@pytest.mark.parametrize("name", ["demo", "curriculum_demo"])
def test_the_shipped_demos_train_no_text_that_they_are_evaluated_on(name: str, opened: Open) -> None:
    plan = read_plan(name)
    options = {"tokenizer": "bytes", "context_len": 128, "shuffle": True}
    stages = [
        (stage.name, opened(*stage.datasets, name=stage.name, epochs=stage.epochs, weights=stage.weights,
                            stopping=stage.stopping, **options))
        for stage in plan.stages
    ]  # fmt: skip
    trained: set[str] = set()
    evaluated: set[str] = set()
    for _, data in stages:
        training, validation = data.orders()
        rows = ((order.items(row) for row in range(total)) for order, total in
                ((training, training.rows_total), (validation, validation.rows)))  # fmt: skip
        for found, texts_of in zip((trained, evaluated), rows, strict=True):
            found |= {" ".join(item.truth.split()) for items in texts_of for item in items}
    assert len(evaluated) > 200
    assert not trained & evaluated
    assert look_for_leaks(stages).leaked == 0
