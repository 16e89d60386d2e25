"""A journal read in one go gives what its lines give one by one."""

from pathlib import Path

import pytest

from lmplay_tui.run.journal import Tail
from lmplay_tui.run.metric_rows import MetricsTail


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (b'{"step":1}\n{"step":2}\n', [1, 2]),
        (b'{"step":1}\nno json\n\n{"step":2}\n[3]\n7\n{"step":4}\n', [1, 2, 4]),
        (b'{"step":1}\n{"step":[2\n3]}\n{"step":4}\n', [1, 4]),  # torn lines that are whole only together
        (b'{"step":1},{"step":2}\n{"step":3}\n', [3]),
        (b'{"step":1}\n{"step":"\xff"}\n{"step":3}\n{"step":', [1, 3]),
        (b"", []),
    ],
)
def test_lines_that_are_no_objects_are_passed_over(tmp_path: Path, text: bytes, steps: list[int]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(text)
    assert [record["step"] for record in Tail(path).read()] == steps


@pytest.mark.parametrize("kind", [Tail, MetricsTail])
@pytest.mark.parametrize("empty_first", [False, True])
def test_a_run_that_is_started_anew_is_read_from_its_beginning(tmp_path: Path, kind: type[Tail], empty_first) -> None:
    """What the old one has told is dropped, be it a hundred times longer; what has no step is given too."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"step":1,"time":"1"}\n{"step":900}\n')
    tail = kind(path)
    read = tail.read_rows if isinstance(tail, MetricsTail) else tail.read
    assert len(read()) == 2
    path.rename(tmp_path / "old")
    if empty_first:
        path.touch()
        assert not read()
    path.write_bytes(b'{"step":1,"time":"2"}\n{"event":"Answered"}\n')
    assert read() == [
        {"resumed_from": -1, "journal": "events"}, {"step": 1, "time": "2"}, {"event": "Answered"},
    ]  # fmt: skip
    with path.open("ab") as file:
        file.write(b'{"step":2}\n')
    assert read() == [{"step": 2}]
