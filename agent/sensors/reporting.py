"""Report by exception: a reading is kept when it changed enough, or when the last one is old.

It counts by the readings' own times, and the last one that was kept is stored with the readings, so
neither a restart nor a repeat changes which are kept.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from agent.config_sensors import SensorConfig
from firmware_adapters.adapter import Value

_EVERY = 3600.0
"""Seconds. Without a reading now and then nobody could tell a steady sensor from a dead one."""


class Kept(Struct, frozen=True, omit_defaults=True):
    """The last reading that was kept; `at` in microseconds since the epoch."""

    at: int
    value: Value
    unit: str | None = None
    quality: str | None = None


class Deadband(msgspec.Struct, frozen=True):
    """`change` and `percent` (of the last value that was kept) are the least change that is worth
    a document; None: of no account. `every` is in microseconds."""

    change: float | None
    percent: float | None
    every: int

    @classmethod
    def of(cls, config: SensorConfig) -> Deadband | None:
        if config.change is None and config.change_percent is None:
            return None
        every = round(1_000_000 * (_EVERY if config.every is None else config.every))
        return cls(config.change, config.change_percent, every)

    def keeps(self, last: Kept | None, new: Kept) -> bool:
        """Whether `new` is to be kept, `last` having been the last one.

        A time before that of `last` means that the clock was set back.
        """
        if last is None or not 0 <= new.at - last.at < self.every:
            return True
        if (last.unit, last.quality) != (new.unit, new.quality):
            return True
        return self._changed(last.value, new.value)

    def _changed(self, last: Value, new: Value) -> bool:
        if type(last) is bool or type(new) is bool or isinstance(last, str) or isinstance(new, str):
            return type(last) is not type(new) or last != new
        if last == new:
            return False
        difference = abs(new - last)
        return (self.change is not None and difference >= self.change) or (
            self.percent is not None and difference >= abs(last) * self.percent / 100
        )
