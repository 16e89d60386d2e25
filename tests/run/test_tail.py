"""A journal read in one go gives what its lines give one by one."""

from pathlib import Path

import pytest

from lmplay_tui.run.journal import Tail


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
