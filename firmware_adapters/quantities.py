"""What a line of text without names or types of its own is expected to hold.

Such a line usually has no check value either: what is expected of its values, a type and a range,
is the only thing by which damage can show.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta

from firmware_adapters.adapter import Value
from firmware_adapters.lines import DamagedError
from firmware_adapters.settings import SensorName, Settings, Unit, check_finite

_NUMBER = re.compile(r"[+-]?\d{1,15}(?:\.\d{0,15})?(?:[eE][+-]?\d{1,3})?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_TRUTH = {"1": True, "true": True, "on": True, "yes": True}
_TRUTH |= {"0": False, "false": False, "off": False, "no": False}

Checksum = Annotated[
    Literal["none", "xor"],
    Meta(
        description="'none', or 'xor': each line ends with '*' and two digits as in NMEA 0183",
        examples=["xor"],
    ),
]


class Quantity(Settings):
    """One value of a line. A number outside `min` to `max` is taken for damage."""

    type: Annotated[
        Literal["number", "integer", "boolean", "text"],
        Meta(description="'number', 'integer', 'boolean' or 'text'", examples=["number"]),
    ] = "number"
    name: SensorName | None = None
    unit: Unit | None = None
    min: Annotated[float, Meta(description="the least value", examples=[-40])] | None = None
    max: Annotated[float, Meta(description="the greatest value", examples=[85])] | None = None

    def __post_init__(self) -> None:
        check_finite(min=self.min, max=self.max)
        if self.type in ("boolean", "text") and (self.min is not None or self.max is not None):
            raise ValueError(f"min and max are of no use with type = {self.type!r}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max")

    def read(self, text: str, what: str) -> Value:
        """Raises DamagedError unless `text` is such a value; `what` is its name for people."""
        match self.type:
            case "text":
                return text
            case "boolean":
                if text.lower() not in _TRUTH:
                    raise DamagedError("malformed", f"{what}: {text[:32]!r} is neither on nor off")
                return _TRUTH[text.lower()]
        pattern = _INTEGER if self.type == "integer" else _NUMBER
        if not pattern.fullmatch(text):
            raise DamagedError("malformed", f"{what}: {text[:32]!r} is not of type {self.type}")
        value = int(text) if _INTEGER.fullmatch(text) else float(text)
        below = self.min is not None and value < self.min
        above = self.max is not None and value > self.max
        if below or above:
            raise DamagedError("malformed", f"{what}: {text[:32]} is out of range")
        return value
