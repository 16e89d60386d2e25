"""On how many examples a property is tried: all of them in `make test-all`, a fifth in `make test`."""

from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

Case = TypeVar("Case")


def examples(number: int, *suppressed: HealthCheck, **more: Any) -> settings:
    """`number` examples under the profile "all", and at least five under "few"."""
    default = settings()
    return settings(
        max_examples=max(5, number * default.max_examples // 100),
        suppress_health_check=[*default.suppress_health_check, HealthCheck.function_scoped_fixture, *suppressed],
        **more,
    )


def some(cases: Sequence[Case], step: int) -> Sequence[Case]:
    """All cases under the profile "all", every `step`-th of them under "few". The test is marked `sampled`."""
    return cases if settings().max_examples >= 100 else cases[step // 2 :: step]
