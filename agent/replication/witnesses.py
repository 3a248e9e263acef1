"""Witnesses: revisions that a remote has said it has, and is asked about again later.

A remote that is restored from a backup forgets, and nobody is told. What was carried up to the
latest checkpoint is vouched for by the logs (`checkpoint.py`), which went back with it. What was
carried since is not, and the next checkpoint would cover it. But a backup is the state of one
moment: with anything that came after it, the witness of that time has gone. So one or two revisions
for each answer of the remote are enough.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Final

from agent.peers.peer import Peer

log = logging.getLogger(__name__)

Witness = tuple[str, str]
"""A document's id and one of its revisions."""

MOST_WITNESSES: Final = 500
"""That are kept, and are asked about in one request: as many as a batch has changes."""

_MOST_LOSSES = 2
"""In a row, before it is the remote's own doing: it is purged there, or retention deletes it."""

_TRUST = 3600.0
"""Seconds for which such a remote is not asked."""


class Witnesses:
    """The witnesses of a replication since its latest checkpoint, over all its runs."""

    def __init__(self) -> None:
        self._noted: dict[str, str] = {}
        """By id, in the order of time."""
        self._stored: str | None = None
        """The id of the last one that was stored."""
        self._losses = 0
        self._trusted_until = 0.0

    @property
    def full(self) -> bool:
        """Whether it is time to ask, since no more should be remembered."""
        return len(self._noted) >= MOST_WITNESSES

    def note(self, present: Iterable[Witness], *, stored: bool) -> None:
        """Both sides have said that they have these, in the order of changes; call it for each
        answer. What was not `stored` just now has been there before, nobody knows for how long.

        A first revision is a good witness: what is stored with a later one tells of those before
        it, whether they were there or not.
        """
        first: Witness | None = None
        last: Witness | None = None
        for last in present:
            if last[1].startswith("1-"):
                first = last
        for witness in (first, last):
            if witness is not None:
                id, rev = witness
                self._noted.pop(id, None)
                self._noted[id] = rev
                if stored:
                    self._stored = id

    def noted(self) -> Sequence[Witness]:
        """All of them, the newest last."""
        return tuple(self._noted.items())

    def newest(self) -> Sequence[Witness]:
        """Those that tell the same as all of them: the last one, and the last that was stored."""
        last = next(reversed(self._noted), None)
        return tuple((id, rev) for id, rev in self._noted.items() if id in (last, self._stored))

    def vouched_for(self, witnesses: Iterable[Witness]) -> None:
        """A checkpoint was written after these were noted; it tells the same."""
        self._losses = 0
        self.drop(witnesses)

    def drop(self, witnesses: Iterable[Witness]) -> None:
        """Others tell the same, or these are no more."""
        for id, rev in witnesses:
            if self._noted.get(id) == rev:
                del self._noted[id]

    def clear(self) -> None:
        """There will be no checkpoint to ask for."""
        self._noted.clear()

    async def lost(self, peer: Peer, witnesses: Sequence[Witness]) -> Witness | None:
        """The newest of these that a peer does not have any more. Raises what the peer raises.

        Not without end: a remote that forgets again and again what it has confirmed does so by
        itself, and what is carried once more would not stay either.
        """
        if time.monotonic() < self._trusted_until:
            return None
        lost = await missing(peer, witnesses)
        self.drop(lost)
        if not lost:
            return None
        self._losses += 1
        if self._losses <= _MOST_LOSSES:
            return lost[-1]
        self._losses = 0
        self._trusted_until = time.monotonic() + _TRUST
        log.warning(
            "%s: %s %s was stored there again and has gone again; is it purged there, or deleted "
            "by retention? It is not sent once more. For an hour a database that is restored from "
            "a backup may not be noticed; edge-agent verify --repair finds what it lacks",
            peer.label,
            *lost[-1],
        )
        return None


async def missing(peer: Peer, witnesses: Sequence[Witness]) -> Sequence[Witness]:
    """Those that a peer does not have. Raises what the peer raises."""
    if not witnesses:
        return ()
    lost = await peer.revs_diff({id: [rev] for id, rev in witnesses})
    return [each for each in witnesses if each[0] in lost]
