"""Frozen values with named fields, as `dataclass(frozen=True)` makes them, without code compiled for each class.

`dataclass` writes and compiles six functions a class; for the fifty kinds of events and commands that was a tenth of
the time to a first frame. Here one `__init__`, one comparison and so on serve all of them. `fields`, `replace`,
`asdict` and `match` work as ever.
"""

import dataclasses
from typing import Any, ClassVar, NoReturn, dataclass_transform


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Struct:
    """The base of these values: a subclass declares fields, as a dataclass does. Values are equal field by field."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    _names: ClassVar[tuple[str, ...]]
    _positional: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
        fields = dataclasses.fields(cls)
        cls._names = tuple(field.name for field in fields)
        cls._positional = tuple(field.name for field in fields if not field.kw_only)

    def __init__(self, *values: Any, **named: Any) -> None:
        """Raises `TypeError` as a function with these parameters does."""
        given = dict(zip(self._positional, values, strict=False))
        given.update(named)
        if len(given) < len(values) + len(named):
            raise TypeError(f"{type(self).__name__}: more values than fields, or two of one field")
        if len(given) < len(self._names):
            given = _defaults(self, given) | given
        try:
            kept = {name: given[name] for name in self._names}
        except KeyError as error:
            raise TypeError(f"{type(self).__name__}: no value for {error}") from None
        if len(kept) < len(given):
            raise TypeError(f"{type(self).__name__} has no field {', '.join(given.keys() - kept.keys())}")
        object.__setattr__(self, "__dict__", kept)

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _defaults(of: Struct, given: dict[str, Any]) -> dict[str, Any]:
    """Of the fields that have one and are not given."""
    made = {}
    for field in dataclasses.fields(of):
        if field.name not in given and field.default_factory is not dataclasses.MISSING:
            made[field.name] = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            made[field.name] = field.default
    return made
