"""Events to a journal's line and back: nothing is lost, and nothing that another hand wrote there does harm."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmplay_tui.run import events as happened
from lmplay_tui.run.events import Event, from_record
from lmplay_tui.run.journal import encode
from lmplay_tui.run.view import RunView
from tests.ui.fake import Clock, fed, prediction, started

KINDS = [kind for kind in Event.__subclasses__() if kind is not happened.Rewound]
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
json_values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


INFO = happened.StageInfo("a", ("x", "y"), 1.5, None, 3, 4)
VALUES: dict[Any, Any] = {
    str: "é\x1b[31m", str | None: None, int: 2**40, int | None: 7, float: math.inf, float | None: 0.25, bool: True,
    tuple[str, ...]: ("a", "b"), tuple[happened.StageInfo, ...]: (INFO, INFO), happened.Prediction: prediction(),
    Mapping[str, str]: {"--lr": "1"}, Mapping[str, Any]: {"step": 3, "train/loss": 1.5},
    Mapping[str, happened.EvaluationResult]: {"a": happened.EvaluationResult(1.0, None, 0.5)},
}  # fmt: skip
EXCEPT: dict[type[Event], dict[str, Any]] = {happened.RunFailed: {"exit_code": 2}}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_written_is_read_back(kind: type[Event]) -> None:
    event = kind(**{field.name: VALUES[field.type] for field in dataclasses.fields(kind)} | EXCEPT.get(kind, {}))
    assert from_record(json.loads(encode(event.record() | {"time": "2026-09-21T12:00:00.000Z"}))) == event


@settings(max_examples=60)
@given(
    name=st.sampled_from([kind.__name__ for kind in KINDS]) | plain, values=st.dictionaries(st.text(), json_values),
    data=st.data(),
)  # fmt: skip
def test_whatever_stands_in_a_line_harms_no_view(name: object, values: dict[str, Any], data: st.DataObject) -> None:
    kind = next((kind for kind in KINDS if kind.__name__ == name), happened.StepDone)
    keys = [field.name for field in dataclasses.fields(kind)]
    record = values | {key: data.draw(json_values) for key in keys} | {"event": name}
    view = RunView(Clock())
    for line in (record, {key: value for key, value in record.items() if key != "event"}):
        event = from_record(line)
        if event is not None:
            view.follow(event)


def test_a_line_of_each_journal_is_an_event() -> None:
    assert from_record({"step": 3, "train/loss": 1.5}) == happened.MetricsLogged({"step": 3, "train/loss": 1.5})
    assert from_record({"resumed_from": 7, "journal": "events"}) == happened.Rewound(7, "events")
    made = prediction()
    line = json.loads(json.dumps({"step": 3, "stage": "a", **dataclasses.asdict(made)}))
    assert from_record(line) == happened.Predicted(3, "a", made)


def test_what_versions_before_did_not_write_takes_its_default() -> None:
    written = {"event": "Validated", "step": 1, "stage": "a", "rows": 2, "tokens": 3, "loss": "NaN", "samples": 4}
    event = from_record(written)
    assert isinstance(event, happened.Validated)
    assert (event.accuracy, event.elapsed_s) == (None, None)
    assert math.isnan(event.loss) and math.isnan(event.seconds)


@pytest.mark.parametrize(
    "line",
    [
        {}, {"event": "Nonsense"}, {"event": ["x"]}, {"event": "StepDone"}, {"step": "x", "a/b": []}, {"prompt": 1},
        {"event": "Evaluated", "step": 1, "rows": 1, "tokens": 1, "at_stage_end": True, "sets": {"a": 3}},
        {"event": "Paused", "step": 10**400}, {"event": "Paused", "step": 1.5}, {"resumed_from": 10**400},
        {"event": "PinsChanged", "step": 1, "pinned": "abc"},
    ],
)  # fmt: skip
def test_a_line_that_is_none_of_ours_is_none(line: dict[str, Any]) -> None:
    assert from_record(line) is None


def test_the_same_event_is_one_whether_live_or_read() -> None:
    source = fed(5)
    before = len(source.view.marks)
    event = from_record({"event": "Bookmarked", "step": 5, "note": "here"})
    assert event == happened.Bookmarked(5, "here")
    source.view.follow(event)
    assert len(source.view.marks) == before + 1


def test_what_is_read_is_as_what_is_made() -> None:
    line = {"event": "RunStarted"} | vars(started()) | {"stages": []}
    read, other = from_record(line), from_record({name: value for name, value in line.items() if name != "on_line"})
    assert isinstance(read, happened.RunStarted) and isinstance(other, happened.RunStarted)
    assert read == dataclasses.replace(started(), stages=()) and repr(read) == repr(other)
    assert read.record() == other.record()
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.step = 5  # type: ignore[misc]
