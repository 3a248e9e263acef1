"""What time it is, and how sure that is: a time of the agent's own. Pure.

It goes on with the machine's monotonic clock, whatever is done to the system clock. The difference
of the two, the offset, is changed by what sources say; all numbers are microseconds.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from agent.sensors.moments import Scale

EARLIEST, LATEST = 1_767_225_600_000_000, 4_102_444_800_000_000
"""2026-01-01 and 2100-01-01: a source that tells a time before or after is wrong itself."""

_JITTER = 1000
"""Two clocks cannot be read at the same moment; what differs by less is the same."""

_BELIEVED = 3_600_000_000
"""For so long after its last word nobody contradicts a source who is not better."""


class Rank(IntEnum):
    """Whom to believe: the higher one."""

    HTTP = 0
    HTTPS = 1
    DEVICE = 2
    NTP = 3


class Measurement(msgspec.Struct, frozen=True):
    """What a source says: the offset lies between `low` and `high`, and is `best`, if one knew
    nothing else. `source` is its name."""

    source: str
    rank: Rank
    low: int
    best: int
    high: int


class Timekeeper:
    """The agent's time. `system` is the offset by the system clock at the start.

    With `trusted` that is right by definition, and followed wherever it goes. `known` is what a
    process before has found out in the same boot.
    """

    def __init__(
        self, boot_id: str, system: int, *, trusted: bool = False, known: int | None = None
    ) -> None:
        self.trusted = trusted
        self.sure = trusted or known is not None
        self.source: str | None = "system" if trusted else None
        self.system = system
        """The offset by the system clock, as it was seen last."""
        self._boot_id = boot_id
        self._offset = system if known is None else known
        self._id_offset = self._offset
        self._rank = Rank.HTTP
        self._heard: int | None = None

    @property
    def scale(self) -> Scale:
        return Scale(self._boot_id, self._offset, self._id_offset, unset=not self.sure)

    def at_least(self, newest: int, ahead: int, now: int) -> None:
        """Go on after a reading that was recorded before, `newest` and `ahead` being what
        `Moments` has remembered, and `now` a moment of the monotonic clock."""
        self._id_offset = max(self._id_offset, newest + 1 - now)
        if not self.sure:
            self._set(max(self._offset, newest - ahead + 1 - now))

    def see(self, system: int) -> None:
        """Take note of the system clock. While nothing is sure, it may be right when it is later:
        somebody may have set it."""
        self.system = system
        later = not self.sure and system > self._offset
        if (self.trusted or later) and abs(system - self._offset) >= _JITTER:
            self._set(system)

    def hear(self, told: Measurement, now: int) -> None:
        """Take what a source says at a moment of the monotonic clock, if it is to be believed."""
        possible = told.high + now >= EARLIEST and told.low + now < LATEST
        if self.trusted or not possible or not self._believes(told, now):
            return
        self._rank, self._heard, self.source = told.rank, now, told.source
        offset = self._offset
        if not told.low - _JITTER <= offset <= told.high + _JITTER:
            if told.low <= self.system <= told.high:
                offset = self.system
            elif self.sure:
                offset = min(max(offset, told.low), told.high)
            else:
                offset = told.best
        self.sure = True
        self._set(offset)

    def _believes(self, told: Measurement, now: int) -> bool:
        if not self.sure or self._heard is None or now - self._heard > _BELIEVED:
            return True
        return told.source == self.source or told.rank > self._rank

    def _set(self, offset: int) -> None:
        self._offset = offset
        self._id_offset = max(self._id_offset, offset)
