"""When a run writes its checkpoints: soon at first, then at an interval that its line can bear."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_FIRST = 0.5
"""Seconds to a run's first checkpoint; each of the next takes twice as long, up to the interval.
Over a line that keeps breaking, a run has to get beyond where the last one began."""

_BETWEEN = 9
"""Times as long as a checkpoint has taken, at least, until the next one is due: logs with many
sessions, 16 kB and more, would leave nothing of a slow line."""

_LONGEST_BETWEEN = 600.0
"""Seconds that this may be, at most: a checkpoint may also take long since the line was dead."""


class Pace:
    """Of one run after the other; each starts with `begin`."""

    def __init__(self, longest: float) -> None:
        """`longest`: seconds between two checkpoints."""
        self._longest = longest
        self._interval = 0.0
        self._due = 0.0

    def begin(self) -> None:
        """A run begins."""
        self._interval = min(_FIRST, self._longest)
        self._due = time.monotonic() + self._interval

    def due(self) -> float:
        """Seconds until the next one is due; 0 when it is."""
        return max(0.0, self._due - time.monotonic())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around writing one; where that fails, the next one is due all the same."""
        begun = time.monotonic()
        self._interval = min(2 * self._interval, self._longest)
        self._due = begun + self._interval
        yield
        ended = time.monotonic()
        pause = min(_BETWEEN * (ended - begun), _LONGEST_BETWEEN)
        self._due = max(self._due, ended + pause)
