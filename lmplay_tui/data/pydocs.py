"""`pydocs`, the embedded dataset: real English that every Python carries."""

from collections.abc import Callable

import pyarrow as pa

NAME = "pydocs"


def table(config: str | None, report: Callable[[str, str, float | None], None]) -> pa.Table:
    from pydoc_data.topics import topics

    return pa.table({"title": list(topics), "text": list(topics.values())})
