"""How fast counters rise, and since when something waits: from samples taken now and then."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping

_INTERVAL = 5.0
_WINDOW = 60.0
_KEPT_PASSAGES = 256

_SET = 1.0
"""Seconds by which the clock was set if it was, and did not only run a little wrong."""


def since_boot() -> float:
    """Seconds of a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Uptime:
    """For how long a program runs, whatever becomes of the clock: a gateway starts in 1970."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        boot: Callable[[], float] = since_boot,
    ) -> None:
        self._clock, self._boot = clock, boot
        self._began = boot()
        self._started = clock()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._boot() - self._began

    @property
    def started(self) -> float:
        """When that was, in seconds since the epoch, by the clock as it is set now."""
        started = self._clock() - self.seconds
        if abs(started - self._started) > _SET:
            self._started = started
        return self._started


class Rates:
    """The rates of counters over the last minute, or the time since the start if that is less."""

    def __init__(
        self,
        counters: Callable[[], Mapping[str, float]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`counters` gives all of them by name, from memory; they never fall."""
        self._counters = counters
        self._clock = clock
        self._samples = deque([(clock(), dict(counters()))], maxlen=1 + round(_WINDOW / _INTERVAL))

    async def run(self, sampled: Callable[[], None] = lambda: None) -> None:
        """Take samples until it is cancelled; `sampled` is called with each."""
        while True:
            self.sample()
            sampled()
            await asyncio.sleep(_INTERVAL)

    def sample(self) -> None:
        """Take note of the counters as they are."""
        self._samples.append((self._clock(), dict(self._counters())))

    def now(self) -> dict[str, float]:
        """By name, per second."""
        at, then = self._samples[0]
        passed = max(self._clock() - at, 1.0)
        return {
            name: max(0.0, (count - then.get(name, 0.0)) / passed)
            for name, count in self._counters().items()
        }


class Passages:
    """When a rising number came to where it is, and was before; the older, the less exactly."""

    def __init__(self, clock: Callable[[], float] = since_boot) -> None:
        self._clock = clock
        self._numbers: list[int] = []
        self._times: list[float] = []

    def note(self, number: int) -> None:
        """Take note of the number as it is."""
        if self._numbers and number <= self._numbers[-1]:
            return
        self._numbers.append(number)
        self._times.append(self._clock())
        if len(self._numbers) > _KEPT_PASSAGES:
            # Every other one of the older half: ages stay right to within a part of themselves.
            half = _KEPT_PASSAGES // 2
            del self._numbers[1:half:2], self._times[1:half:2]

    def age(self, number: int) -> float | None:
        """Seconds since the number passed `number`; None if that was before the first note, or has
        not happened."""
        place = bisect_right(self._numbers, number)
        return self._clock() - self._times[place] if 0 < place < len(self._times) else None
