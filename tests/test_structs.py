"""Structs are to behave as the frozen dataclasses that they stand for."""

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest

from lmplay_tui.structs import Struct


class Base(Struct):
    id: str = field(default="", kw_only=True)


class Place(Base):
    step: int
    names: list[str] = field(default_factory=list)
    lr: float | None = None


@dataclass(frozen=True)
class PlainBase:
    id: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class PlainPlace(PlainBase):
    step: int
    names: list[str] = field(default_factory=list)
    lr: float | None = None


GIVEN: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((3,), {}),
    ((3, ["a"], 0.5), {"id": "x"}),
    ((), {"lr": 0.1, "step": 3}),
    ((), {}),
    ((3,), {"step": 4}),
    ((3, [], None, "x"), {}),
    ((3,), {"spet": 4}),
    ((), {"spet": 4, "step": 3, "names": [], "lr": None, "id": ""}),
]


@pytest.mark.parametrize(("values", "named"), GIVEN)
def test_is_made_as_a_dataclass_is_or_refused_as_it_is(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    try:
        plain = PlainPlace(*values, **named)
    except TypeError:
        with pytest.raises(TypeError, match="Place"):
            Place(*values, **named)
        return
    made = Place(*values, **named)
    assert (dataclasses.asdict(made), list(vars(made))) == (dataclasses.asdict(plain), list(vars(plain)))
    assert repr(made) == repr(plain).replace("PlainPlace", "Place")


def test_defaults_that_are_made_are_made_anew() -> None:
    assert Place(1).names is not Place(1).names


def test_equal_by_kind_and_value() -> None:
    class Other(Place):
        pass

    assert Place(1, lr=2.0) == Place(1, [], 2.0) != Place(1)
    assert Place(1) != Other(1)
    assert len({Base(id="a"), Base(id="a"), Base(id="b")}) == 2


def test_nothing_of_it_changes() -> None:
    place = Place(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        place.step = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del place.step
    assert dataclasses.replace(place, step=2) == Place(2)
    assert place == Place(1) == copy.deepcopy(place)


def test_matches_by_position_and_by_name() -> None:
    match Place(7, lr=0.5):
        case Place(step, lr=0.5):
            assert step == 7
        case _:
            pytest.fail("no match")
