"""Lanes: what goes first when a replication is far behind, and what each has carried.

Where the source's sequences are integers, what the target has is all up to a sequence and, after
that, ranges. The first is the replication's checkpoint as CouchDB has it, the ranges are those of
the lanes that go ahead of it; they grow together when the backlog reaches them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

Range = tuple[int, int]
"""All changes after the first sequence, up to and with the second."""

FAR_BEHIND: Final = 500
"""Changes that a lane of its own is worth. Fewer are a matter of a moment."""

MOST_RANGES: Final = 8
"""That are kept; the oldest is forgotten, which only costs looking at its changes again."""


class Lane(StrEnum):
    """What a replication carries side by side, the most urgent first."""

    URGENT = "urgent"
    """Documents with `"urgent": true` that the other lanes have not come to yet."""
    NEWS = "news"
    """What has changed since the connection was there; everything where nothing is behind."""
    BACKLOG = "backlog"
    """What has gathered before."""


class Reached:
    """Which of a source's changes the target has: all up to `seq`, and `ranges` after it."""

    def __init__(self, seq: int, ranges: tuple[Range, ...] = ()) -> None:
        """`ranges` are in order, apart from each other and from `seq`."""
        self.seq = seq
        self.ranges = ranges

    @property
    def newest(self) -> int:
        """Nothing after this was carried."""
        return self.ranges[-1][1] if self.ranges else self.seq

    def add(self, since: int, seq: int) -> None:
        """Note that the target has the changes after `since` up to `seq`."""
        joined: list[Range] = []
        for start, end in sorted([*self.ranges, (since, seq)]):
            if start >= end:
                continue
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(joined[-1][1], end))
            else:
                joined.append((start, end))
        while joined and joined[0][0] <= self.seq:
            self.seq = max(self.seq, joined.pop(0)[1])
        self.ranges = tuple(joined)

    def gaps(self, end: int) -> list[Range]:
        """What the target lacks up to `end`, the oldest first."""
        ends = [self.seq, *(end for _, end in self.ranges)]
        starts = [*(start for start, _ in self.ranges), end]
        pairs = zip(ends, starts, strict=True)
        return [(since, min(until, end)) for since, until in pairs if since < min(until, end)]

    def missing(self, end: int) -> int:
        """How many changes the target lacks up to `end`, at most."""
        return sum(until - since for since, until in self.gaps(end))

    def lacks(self, seq: int) -> bool:
        """Whether the target has not confirmed the change `seq`."""
        return seq > self.seq and not any(start < seq <= end for start, end in self.ranges)

    def forget_oldest(self) -> None:
        """Keep room for another range."""
        self.ranges = self.ranges[max(0, len(self.ranges) - MOST_RANGES + 1) :]


def ranges_from_log(value: Any, seq: Any) -> tuple[Range, ...]:
    """The ranges in a replication log whose checkpoint is `seq`; none if they make no sense."""
    if not isinstance(value, list) or not _is_seq(seq):
        return ()
    ranges: list[Range] = []
    before = seq
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_seq, pair)):
            return ()
        start, end = pair
        if not before < start < end:
            return ()
        ranges.append((start, end))
        before = end
    return tuple(ranges)


def _is_seq(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
