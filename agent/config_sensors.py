"""`[[device.sensor]]`: how the readings of a device's sensors are recorded."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from msgspec import Meta, Struct

_MOST = 1e15
"""Bounds the numbers of a calibration, so that what comes of them is finite."""

Number = Annotated[
    float,
    Meta(ge=-_MOST, le=_MOST, description="a number from -1e15 to 1e15", examples=[21.5]),
]
Distance = Annotated[
    float, Meta(ge=0, le=_MOST, description="a number from 0 to 1e15", examples=[0.5])
]


class AlarmConfig(Struct, forbid_unknown_fields=True):
    """`[[device.sensor.alarm]]`: a limit, beyond which there is an alarm.

    The alarm is raised when values have been beyond the limit for `delay` seconds, and cleared by
    a value that is on the good side of it by `hysteresis`.
    """

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
            description="letters, digits, '_', '.' and '-', at most 64",
            examples=["too-warm"],
        ),
    ]
    above: Number | None = None
    below: Number | None = None
    hysteresis: Distance = 0.0
    delay: Annotated[
        float,
        Meta(ge=0, le=86_400, description="seconds from 0 to 86400, a day", examples=[60]),
    ] = 0.0

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise ValueError(
                f"alarm {self.name!r}: give either above or below, for example above = 30"
            )


class SensorConfig(Struct, forbid_unknown_fields=True):
    """`[[device.sensor]]`: what is done with the readings of the sensors that `name` matches."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=64,
            description="a sensor's name, or a pattern with '*', '?' and '[...]'",
            examples=["temperature*"],
        ),
    ]
    unit: (
        Annotated[
            str,
            Meta(
                pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]{1,16}$",
                description="a unit, at most 16 characters",
                examples=["Cel"],
            ),
        ]
        | None
    ) = None
    scale: Number = 1.0
    offset: Number = 0.0
    table: Annotated[
        list[tuple[Number, Number]],
        Meta(
            description="two or more pairs [what the device says, the value], rising",
            examples=[[[0, -40], [1023, 125]]],
        ),
    ] = []
    valid: (
        Annotated[
            tuple[Number, Number],
            Meta(description="the lowest and the highest good value", examples=[[-40, 125]]),
        ]
        | None
    ) = None
    change: Distance | None = None
    change_percent: Distance | None = None
    every: (
        Annotated[
            float,
            Meta(
                gt=0,
                le=31_536_000,
                description="seconds above 0, at most 31536000, a year",
                examples=[600],
            ),
        ]
        | None
    ) = None
    pack: (
        Annotated[
            float,
            Meta(ge=1, le=3600, description="seconds from 1 to 3600, an hour", examples=[60]),
        ]
        | None
    ) = None
    alarm: list[AlarmConfig] = []

    def __post_init__(self) -> None:
        told = [first for first, _ in self.table]
        if told and (len(told) < 2 or any(a >= b for a, b in pairwise(told))):
            raise self._mistake(
                "table needs two or more pairs, the first number of each higher than that of the "
                "one before, for example table = [[0, -40], [1023, 125]]"
            )
        if told and (self.scale, self.offset) != (1.0, 0.0):
            raise self._mistake("table excludes scale and offset; keep one of them")
        if self.valid is not None and self.valid[0] > self.valid[1]:
            raise self._mistake("the lowest good value comes first, for example valid = [-40, 125]")
        if self.every is not None and self.change is None and self.change_percent is None:
            raise self._mistake(
                "every needs change or change_percent, for example change = 0 for any change"
            )
        names = [alarm.name for alarm in self.alarm]
        for name in names:
            if names.count(name) > 1:
                raise self._mistake(f"the alarm {name!r} is there twice; each needs its own name")

    def _mistake(self, text: str) -> ValueError:
        return ValueError(f"sensor {self.name!r}: {text}")
