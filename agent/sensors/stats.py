"""What one sensor has sent since the start of the process."""

from __future__ import annotations

import time
from collections import deque

from firmware_adapters.adapter import Value

_RATE_WINDOW = 60.0
_RATE_SLOTS = 6


class SensorStats:
    """Counts, and the last reading as it was recorded."""

    def __init__(self) -> None:
        self.readings = 0
        self.suppressed = 0
        """Of these, how many were not stored because they told nothing new."""
        self.errors = 0
        """How often the device did not say a value, as far as it is known whose."""
        self.gaps: int | None = None
        """How often frames of the device were missing between two readings of this sensor, one of
        which may have been the sensor's; None where frames have no numbers."""
        self.last_value: Value | None = None
        self.last_quality: str | None = None
        self.unit: str | None = None
        self.last_time: str | None = None
        self._gaps_before: int | None = None
        """Those of the device, when the reading before came."""
        self._started = time.monotonic()
        self._slots: deque[tuple[int, int]] = deque(maxlen=_RATE_SLOTS)

    def add(
        self,
        at: str,
        value: Value,
        unit: str | None,
        quality: str | None,
        *,
        kept: bool,
        gaps: int | None = None,
    ) -> None:
        """`gaps`: how many the device's numbers have had by then, None where nobody knows."""
        self.readings += 1
        self.suppressed += not kept
        self.last_value = value
        self.last_quality = quality
        self.unit = unit
        self.last_time = at
        if gaps is not None:
            self.gaps = (self.gaps or 0) + (self._gaps_before not in (None, gaps))
            self._gaps_before = gaps
        slot = _slot()
        count = self._slots.pop()[1] if self._slots and self._slots[-1][0] == slot else 0
        self._slots.append((slot, count + 1))

    def rate(self) -> float:
        """Readings per second, over the last minute at most."""
        oldest = _slot() - _RATE_SLOTS
        recent = sum(count for slot, count in self._slots if slot > oldest)
        running = time.monotonic() - self._started
        return recent / max(1.0, min(_RATE_WINDOW, running))


def _slot() -> int:
    return int(time.monotonic() / (_RATE_WINDOW / _RATE_SLOTS))
