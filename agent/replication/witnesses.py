"""Witnesses: revisions that a remote has said it has, and is asked about again later.

A remote that is restored from a backup forgets, and nobody is told. What was carried up to the
latest checkpoint is vouched for by the logs (`checkpoint.py`), which went back with it. What was
carried since is not, and the next checkpoint would cover it. But a backup is the state of one
moment: with anything that came after it, the witness of that time has gone. So a few revisions for
each answer of the remote are enough.

A witness must not come back unnoticed, and it is a push that may bring it back: as what a pull has
brought, or as an ancestor of what is new. So what is about to be pushed is held against the
witnesses of both directions, and the one that finds one gone tells the other (`Past`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from agent.errors import TransientError
from agent.peers.peer import Peer

log = logging.getLogger(__name__)

Witness = tuple[str, str]
"""A document's id and one of its revisions."""

Revs = Mapping[str, Sequence[str]]
"""Revisions by document id, as in `Peer.revs_diff`."""

MOST_WITNESSES: Final = 500
"""That are kept, and are asked about in one request: as many as a batch has changes."""

_FEW: Final = 4
"""Revisions of an answer that are all kept. Of more, one or two stand for the others."""

_MOST_LOSSES = 2
"""In a row, before it is the remote's own doing: it is purged there, or retention deletes it."""

_TRUST = 3600.0
"""Seconds for which such a remote is not asked."""


class DatabaseRecreatedError(TransientError):
    """One of the databases is another one than at the start, or in an older state; the next run
    starts from what both sides vouch for."""


class Past:
    """What a remote has had lately, as all replications of one store with it know it."""

    def __init__(self) -> None:
        self.lapses = 0
        """How often the remote was found to have lost something."""
        self.reason = ""
        """What the latest was."""
        self.lapsed = asyncio.Event()
        """Set at the next lapse; then there is another one."""
        self.recording = asyncio.Lock()
        """Held while a checkpoint is written. What was lost cannot come back before it is done, as
        no run begins."""
        self._members: list[Witnesses] = []

    def join(self, member: Witnesses) -> None:
        self._members.append(member)

    def noted(self, id: str) -> Iterator[_Noted]:
        """What all have noted of a document."""
        for member in self._members:
            if (noted := member.of(id)) is not None:
                yield noted

    def lapse(self, reason: str) -> DatabaseRecreatedError:
        """The remote has lost something: all have to start again from their logs.

        Returns what to raise.
        """
        self.lapses += 1
        self.reason = reason
        for member in self._members:
            member.clear()
        self.lapsed.set()
        self.lapsed = asyncio.Event()
        return DatabaseRecreatedError(reason)


class _Noted(msgspec.Struct, frozen=True):
    revs: tuple[str, ...]
    stands_for_others: bool
    """Whether something may have been lost with it that no witness tells of."""


class Witnesses:
    """The witnesses of a replication since its latest checkpoint, over all its runs."""

    def __init__(self, past: Past | None = None) -> None:
        """`past` is of the remote that they are of."""
        self._past = past or Past()
        self._past.join(self)
        self._lapses = 0
        """Of the past, that this run knows of."""
        self._noted: dict[str, _Noted] = {}
        """By id, in the order of time."""
        self._stored: str | None = None
        """The id of the last one that was stored."""
        self._losses = 0
        self._trusted_until = 0.0
        self.lapse = self._past.lapse
        self.recording = self._past.recording

    @property
    def full(self) -> bool:
        """Whether it is time to ask, since no more should be remembered."""
        return len(self._noted) >= MOST_WITNESSES

    async def begin(self) -> None:
        """A run begins, which knows of all that was noticed up to now."""
        async with self.recording:
            self._lapses = self._past.lapses

    def check(self) -> None:
        """Raises DatabaseRecreatedError if the remote was found, since this run began, to have lost
        something."""
        if self._lapses != self._past.lapses:
            raise DatabaseRecreatedError(self._past.reason)

    async def watch(self) -> None:
        """Wait until `check` raises, and raise that."""
        while True:
            self.check()
            await self._past.lapsed.wait()

    def note(self, revs: Revs, *, stored: bool, told: bool = False) -> None:
        """The remote has said that it has these, in the order of changes; call it for each answer.
        What was not `stored` just now has been there before, nobody knows for how long.

        A first revision is a good witness: what is stored with a later one tells of those before
        it, whether they were there or not. What a source has `told` of is a witness of its
        sequences as well.
        """
        if self._lapses != self._past.lapses:
            return  # this may have been said before the lapse
        ids = list(revs)
        few = len(ids) <= _FEW
        first = next((id for id in reversed(ids) if any(map(_is_first, revs[id]))), None)
        for id in ids:
            known = self._noted.pop(id, None)
            if few or known is not None or id in (first, ids[-1]):
                others = told or not few or (known is not None and known.stands_for_others)
                self._noted[id] = _Noted(tuple(revs[id]), others)
                if stored:
                    self._stored = id

    def of(self, id: str) -> _Noted | None:
        """What is noted of a document."""
        return self._noted.get(id)

    def noted(self) -> Sequence[Witness]:
        """All of them, the newest last."""
        return tuple((id, rev) for id, noted in self._noted.items() for rev in noted.revs)

    def newest(self) -> Sequence[Witness]:
        """Those that tell the same as all of them: the last one, and the last that was stored."""
        last = next(reversed(self._noted), None)
        return tuple(each for each in self.noted() if each[0] in (last, self._stored))

    def vouched_for(self, witnesses: Iterable[Witness]) -> None:
        """A checkpoint was written after these were noted; it tells the same."""
        self._losses = 0
        self.drop(witnesses)

    def drop(self, witnesses: Iterable[Witness]) -> None:
        """Others tell the same, or these are no more."""
        for id, rev in witnesses:
            if (noted := self._noted.get(id)) is not None and rev in noted.revs:
                del self._noted[id]

    def clear(self) -> None:
        """What was noted tells nothing any more."""
        self._noted.clear()

    def hidden_by(self, revs: Revs) -> Revs:
        """The witnesses, of both directions, that nobody could miss once `revs` are stored, whose
        ancestors they may be."""
        if self._trusting:
            return {}
        hidden = {
            id: [
                rev
                for noted in self._past.noted(id)
                for rev in noted.revs
                if noted.stands_for_others and rev not in told
            ]
            for id, told in revs.items()
        }
        return {id: found for id, found in hidden.items() if found}

    def lost_of(self, missing: Revs, peer: Peer) -> Witness | None:
        """One of the witnesses, of both directions, that a peer has just said it lacks."""
        if self._trusting:
            return None
        lost = (
            (id, rev)
            for id, revs in missing.items()
            for noted in self._past.noted(id)
            for rev in noted.revs
            if rev in revs
        )
        return self._counted(next(lost, None), peer)

    async def lost(self, peer: Peer, witnesses: Sequence[Witness]) -> Witness | None:
        """The newest of these that a peer does not have any more. Raises what the peer raises."""
        if self._trusting:
            return None
        lost = await missing(peer, witnesses)
        self.drop(lost)
        return self._counted(lost[-1] if lost else None, peer)

    def gone(self, lost: Witness, peer: Peer) -> DatabaseRecreatedError:
        """Note that a peer has lost one. Returns what to raise."""
        return self.lapse(
            f"{peer.label}: {' '.join(lost)} was there and has gone, so the database was "
            "probably restored from a backup; starting from the latest common checkpoint"
        )

    @property
    def _trusting(self) -> bool:
        return time.monotonic() < self._trusted_until

    def _counted(self, lost: Witness | None, peer: Peer) -> Witness | None:
        """What was lost, but not without end: a remote that forgets again and again what it has
        confirmed does so by itself, and what is carried once more would not stay either.
        """
        if lost is None:
            return None
        self._losses += 1
        if self._losses <= _MOST_LOSSES:
            return lost
        self._losses = 0
        self._trusted_until = time.monotonic() + _TRUST
        log.warning(
            "%s: %s %s was stored there again and has gone again; is it purged there, or deleted "
            "by retention? It is not sent once more. For an hour a database that is restored from "
            "a backup may not be noticed; edge-agent verify --repair finds what it lacks",
            peer.label,
            *lost,
        )
        return None


def by_id(pairs: Iterable[Witness]) -> Revs:
    """Documents' ids and revisions, as `note` and `Peer.revs_diff` take them."""
    revs: dict[str, list[str]] = {}
    for id, rev in pairs:
        revs.setdefault(id, []).append(rev)
    return revs


def _is_first(rev: str) -> bool:
    return rev.startswith("1-")


async def missing(peer: Peer, witnesses: Sequence[Witness]) -> Sequence[Witness]:
    """Those that a peer does not have. Raises what the peer raises."""
    if not witnesses:
        return ()
    lost = await peer.revs_diff(by_id(witnesses))
    return [(id, rev) for id, rev in witnesses if rev in lost.get(id, ())]
