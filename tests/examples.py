"""On how many examples a property is tried: all of them in `make test-all`, a fifth in `make test`."""

from typing import Any

from hypothesis import HealthCheck, settings


def examples(number: int, *suppressed: HealthCheck, **more: Any) -> settings:
    """`number` examples under the profile "all", and at least five under "few"."""
    default = settings()
    return settings(
        max_examples=max(5, number * default.max_examples // 100),
        suppress_health_check=[*default.suppress_health_check, HealthCheck.function_scoped_fixture, *suppressed],
        **more,
    )
