"""From what a device says to what is meant by it: calibration, and the quality of the result.

Quality is said as OPC UA does (part 8, "Data Access"): no word means good; otherwise the word says
why the value is uncertain. The value is there all the same.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from typing import Literal, NamedTuple

import msgspec

from agent.config_sensors import SensorConfig
from firmware_adapters.adapter import Value

Quality = Literal["out-of-range", "beyond-calibration"]


class Calibrated(NamedTuple):
    """`raw` is what the device said, where calibration changed it; `quality` None means good."""

    value: Value
    raw: Value | None = None
    quality: Quality | None = None


class Calibration(msgspec.Struct, frozen=True):
    """`scale` and `offset`, or a `table` of pairs (told, value) that rises by its first members,
    between which values are interpolated linearly; `valid` are the lowest and highest good
    value."""

    scale: float = 1.0
    offset: float = 0.0
    table: tuple[tuple[float, float], ...] = ()
    valid: tuple[float, float] | None = None

    @classmethod
    def of(cls, config: SensorConfig) -> Calibration:
        return cls(config.scale, config.offset, tuple(config.table), config.valid)

    def apply(self, told: Value) -> Calibrated:
        """Numbers are calibrated; truth values and texts stay as they are.

        Beyond the table the value is that at its nearer end, as that of a saturated instrument.
        """
        if isinstance(told, bool | str):
            return Calibrated(told)
        quality: Quality | None = None
        value: float = told
        if self.table:
            if not self.table[0][0] <= told <= self.table[-1][0]:
                quality = "beyond-calibration"
            value = _rounded(_interpolated(self.table, told))
        elif self.scale != 1.0 or self.offset != 0.0:
            value = told * self.scale + self.offset
            if abs(value) > sys.float_info.max:
                value = sys.float_info.max if value > 0 else -sys.float_info.max
                quality = "beyond-calibration"
            value = _rounded(value)
        if quality is None and self.valid and not self.valid[0] <= value <= self.valid[1]:
            quality = "out-of-range"
        changed = value is not told
        return Calibrated(value, told if changed else None, quality)


def _interpolated(table: tuple[tuple[float, float], ...], told: float) -> float:
    if told <= table[0][0]:
        return table[0][1]
    if told >= table[-1][0]:
        return table[-1][1]
    above = bisect_right(table, told, key=lambda pair: pair[0])
    (x0, y0), (x1, y1) = table[above - 1], table[above]
    return y0 + (y1 - y0) * ((told - x0) / (x1 - x0))


def _rounded(value: float) -> float:
    """To 12 significant digits: more than an instrument has, fewer than binary fractions show."""
    return float(f"{value:.12g}")
