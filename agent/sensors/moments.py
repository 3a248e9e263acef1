"""When readings were taken: moments of the monotonic clock as times and as parts of ids. Pure.

A reading's time may turn out to be wrong and be corrected, or the clock may be set back; its id
stays, and the ids of a sensor's readings are in the order in which they came. So an id has the
reading's time where that is later than all ids before, and else goes on from those.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from agent.documents.times import timestamp

_SLEW = 2_000_000
"""Microseconds. Where the time is put back by less, it stands still until it is right."""


class Scale(NamedTuple):
    """How moments of the machine's monotonic clock are told at present; all in microseconds.

    A moment plus `offset` is the time since the epoch, plus `id_offset` what ids can go on from:
    that one never falls. `boot_id` is the kernel's. `unset`: the time is not known to be right.
    """

    boot_id: str
    offset: int
    id_offset: int
    unset: bool = False


ABSOLUTE = Scale("", 0, 0)
"""For moments that are times already."""


class Mark(NamedTuple):
    """From what a time can be corrected: a moment of the monotonic clock, in microseconds since
    the boot; negative for what was taken before."""

    boot_id: str
    monotonic: int

    def members(self, prefix: str = "") -> dict[str, Any]:
        """The members of a document; `monotonic` in milliseconds."""
        return {
            f"{prefix}clock": "unset",
            f"{prefix}boot_id": self.boot_id,
            f"{prefix}monotonic": self.monotonic / 1000,
        }


class Moment(NamedTuple):
    """When a reading was taken: `at` as its time, `key` as its id has it, both RFC 3339 in UTC."""

    at: str
    key: str
    mark: Mark | None = None


class Moments:
    """Gives the readings of one batch their times.

    `newest` is the latest time in an id that was given, in microseconds since the epoch, and
    `ahead` by how much ids were ahead of the time then; afterwards they are those to remember.
    """

    def __init__(self, scale: Scale, newest: int, ahead: int) -> None:
        self.newest = newest
        self.ahead = ahead
        self._boot_id, self._offset, self._id_offset, self._unset = scale
        self._time_before = newest - ahead

    def of(self, arrived: int, told: str | None, age_ms: int | None) -> Moment:
        """The moment of a reading that arrived at a moment of the monotonic clock (microseconds),
        with the time that the device told, or the age that it had."""
        if told is not None:
            return Moment(told, told)
        now = key = arrived + self._offset
        if key <= self.newest:
            key = arrived + self._id_offset
        if now < self._time_before < now + _SLEW:
            now = self._time_before
        if key > self.newest:
            self.newest, self.ahead = key, key - now
        age = 1000 * (age_ms or 0)
        at = timestamp(now - age)
        mark = Mark(self._boot_id, arrived - age) if self._unset else None
        return Moment(at, at if key == now else timestamp(key - age), mark)
