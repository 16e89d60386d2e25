"""What stands in a run's journals, for tests: the records that still hold, read as a viewer reads them."""

from pathlib import Path
from typing import Any

from lmplay_tui.run.journal import Tail


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Every record of the file, in order, without what a later resume began before."""
    tail = Tail(path)
    records: list[dict[str, Any]] = []
    while (new := tail.read()) or tail.behind:
        for record in new:
            resumed_from = record.get("resumed_from")
            if isinstance(resumed_from, int) and "event" not in record:
                records = [each for each in records if not _is_beyond(each, resumed_from)]
            else:
                records.append(record)
    return records


def _is_beyond(record: dict[str, Any], step: int) -> bool:
    return isinstance(record.get("step"), int) and record["step"] > step
