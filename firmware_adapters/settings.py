"""Types that the adapters' settings share; msgspec checks them."""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta, Struct


class Settings(Struct, forbid_unknown_fields=True):
    """The base of all tables of settings: unknown keys are refused."""


SensorName = Annotated[
    str,
    Meta(
        pattern=r"^[\w./%#-]{1,31}\Z",
        description="a name of at most 31 letters, digits and ./%#_-",
        examples=["temperature"],
    ),
]
Unit = Annotated[
    str,
    Meta(
        pattern=r"^[\w ./%()*^\"'°·€$-]{1,32}\Z",
        description="a unit of at most 32 letters, digits and ./%()*^\"'°·€$_-",
        examples=["C"],
    ),
]
Interval = Annotated[
    float,
    Meta(
        ge=0.01,
        le=86_400,
        description="seconds between two questions, from 0.01 to 86400, a day",
        examples=[10],
    ),
]
Timeout = Annotated[
    float,
    Meta(
        ge=0.01,
        le=60,
        description="seconds within which a device has to answer, from 0.01 to 60",
        examples=[1],
    ),
]
Pause = Annotated[
    float,
    Meta(
        ge=0,
        le=10,
        description="seconds of silence before each request, from 0 to 10",
        examples=[0.02],
    ),
]


def check_finite(**numbers: float | None) -> None:
    """Raises ValueError for inf and nan, which TOML has too."""
    for name, number in numbers.items():
        if number is not None and not math.isfinite(number):
            raise ValueError(f"{name} = {number}: expected a finite number, for example {name} = 1")
