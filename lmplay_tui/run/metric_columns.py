"""Lines of `metrics.jsonl` read by pyarrow: `MetricRows` where they are as the trainer writes them."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmplay_tui.run.history import MetricRows
from lmplay_tui.run.metric_names import OF_STEPS, STEP_METRICS
from lmplay_tui.run.series import Floats
from lmplay_tui.text import one_line

AT_LEAST_BYTES = 1 << 15  # less is read line by line: a run that is followed writes a line at a time
_PLACE = ("step", "samples", "tokens", "elapsed_s")
_NOT_METRICS = ("event", "prompt", "resumed_from")
_TEXTS_OF_NUMBERS = (b':"NaN"', b':"Infinity"', b':"-Infinity"')  # a colon and a quote never meet inside a string


def in_columns(data: bytes) -> Iterator[MetricRows | bytes]:
    """Whole lines in their order: as columns where they can be, as they are where not."""
    rows = _columns(data) or _columns(_gaps(data)) if len(data) >= AT_LEAST_BYTES else None
    if rows is not None:
        yield from rows
        return
    if len(data) < AT_LEAST_BYTES:
        if data:
            yield data
        return
    resume = data.find(b'"resumed_from"')
    if resume >= 0:  # this line alone, and what lies around it
        begin, end = data.rfind(b"\n", 0, resume) + 1, data.find(b"\n", resume) + 1
        yield from in_columns(data[:begin])
        yield data[begin:end]
        yield from in_columns(data[end:])
        return
    middle = data.find(b"\n", len(data) // 2) + 1
    if middle == len(data):
        yield data
        return
    yield from in_columns(data[:middle])
    yield from in_columns(data[middle:])


def _gaps(data: bytes) -> bytes:
    """The same with numbers that are not finite as such: they are gaps in the curves. Empty where there are none."""
    plain = data
    for text in _TEXTS_OF_NUMBERS:
        plain = plain.replace(text, b":NaN")
    return b"" if plain == data else plain


def _columns(data: bytes) -> list[MetricRows] | None:
    """The lines of `data`, cut where the stage changes; None where they are not all as the trainer writes them."""
    if not data:
        return None
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    # One object a line: what begins with { behind a line that ends with } is a new document.
    if text[0] != ord("{") or not ((text[ends - 1] == ord("}")).all() and (text[ends[:-1] + 1] == ord("{")).all()):
        return None
    table = _table(data)
    if table is None or len(table) != len(ends) or not set(_NOT_METRICS).isdisjoint(table.column_names):
        return None
    place = [table[name] for name in (*_PLACE, "stage_samples", "stage")]
    if any(column.null_count for column in place):
        return None
    at = np.column_stack([_values(column).astype(np.float64) for column in place[:4]])
    of_steps = np.zeros(len(at), np.bool_)
    if OF_STEPS in table.column_names and table[OF_STEPS].null_count < len(at):
        of_steps = _known(table[OF_STEPS])
    steps = np.full(len(at), np.nan)
    if "steps" in table.column_names and table["steps"].null_count < len(at):
        known = _known(table["steps"])
        steps[known] = _values(table["steps"])[known]
    metrics = _metrics(table, of_steps)
    if metrics is None or not (np.isfinite(at).all() and np.isfinite(_values(place[4])).all()):
        return None
    stages = place[5].to_pylist()  # pyarrow's ways to compare them import for a tenth of a second
    begins = [0, *(i for i in range(1, len(stages)) if stages[i] != stages[i - 1])]
    return [
        MetricRows(
            at[begin:end], steps[begin:end], of_steps[begin:end],
            {name: found for name, column in metrics.items() if (found := _part(column, begin, end))[1]},
            _last(data, ends, begin + np.flatnonzero(of_steps[begin:end])),
        )
        for begin, end in zip(begins, [*begins[1:], len(ends)], strict=True)
    ]  # fmt: skip


def _last(data: bytes, ends: NDArray[np.intp], lines: NDArray[np.intp]) -> dict[str, Any] | None:
    """The last of some lines, by their numbers; None where there are none."""
    if not len(lines):
        return None
    line: dict[str, Any] = json.loads(data[ends[lines[-1] - 1] + 1 if lines[-1] else 0 : ends[lines[-1]]])
    return line


def _table(data: bytes) -> Any:
    """A pyarrow table of the lines, or None where pyarrow refuses them."""
    import pyarrow as pa
    from pyarrow import json as pa_json

    whole = [(name, pa.int64()) for name in ("step", "steps")]
    place = [(name, pa.float64()) for name in (*_PLACE[1:], "stage_samples")]
    schema = pa.schema([*whole, *place, ("stage", pa.string()), ("time", pa.string())])
    options = pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer")
    try:
        data.decode()
        return pa_json.read_json(pa.BufferReader(data), parse_options=options)
    except (pa.ArrowException, ValueError):
        return None


def _metrics(table: Any, of_steps: NDArray[np.bool_]) -> dict[str, tuple[Floats, Any]] | None:
    """Values and where there are any, by metric, of those that curves are made of; None if one is no number.

    `of_steps`: the lines whose times are added up.
    """
    import pyarrow as pa

    metrics = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if "/" not in name or name.startswith(("val/", "eval/")) or pa.types.is_null(column.type):
            continue
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            return None
        if one_line(name, 60) != name:
            return None  # two such names may be shown as one
        values = _values(column).astype(np.float64)
        known = _known(column) if column.null_count else None
        if known is not None:
            values[~known] = np.nan
        if name in STEP_METRICS and name.startswith("time/") and not np.isfinite(values[of_steps]).all():
            return None  # the last steps' times are added up: a line alone says what it leaves out
        metrics[name] = values, known
    return metrics


# pyarrow's own ways to NumPy import pandas: a fifth of the time in which a journal of a million steps opens.


def _values(column: Any) -> np.ndarray:
    """The numbers of a column; anything where there is none."""
    return np.concatenate([_array_values(array) for array in column.chunks])


def _array_values(array: Any) -> np.ndarray:
    kind = np.dtype(array.type.to_pandas_dtype())
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * kind.itemsize)


def _known(column: Any) -> NDArray[np.bool_]:
    """Where a column has a value."""
    return np.concatenate([_array_known(array) for array in column.chunks])


def _array_known(array: Any) -> NDArray[np.bool_]:
    bits = array.buffers()[0]
    if bits is None:
        return np.ones(len(array), np.bool_)
    first, count = array.offset, len(array)
    return np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[first : first + count].view(np.bool_)


def _part(column: tuple[Floats, Any], begin: int, end: int) -> tuple[Floats, int]:
    values, known = column
    return values[begin:end], end - begin if known is None else int(known[begin:end].sum())
