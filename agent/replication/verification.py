"""Compares two databases: are there the same documents with the same leaf revisions on both sides?

Between two agents by digests of ranges (`agent/documents/ranges.py`), from the coarsest down to the
documents that differ. With any other database by both changes feeds, which are put side by side in
a temporary file. What differs is then looked at once more: only a revision that one side has and
the other one lacks counts, and only if it still does. What a side has deleted to make room it does
not lack (`agent/documents/floors.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TypeAlias

import msgspec

from agent.documents.floors import RETENTION, Floors
from agent.documents.ranges import (
    EVERYTHING,
    FINEST,
    Leaves,
    Range,
    Span,
    different,
    joined,
    level_for,
)
from agent.documents.revision import Revision
from agent.errors import TooLargeError, TransientError
from agent.peers.peer import START, Comparable, Peer, WriteResult

_AT_ONCE = 100
"""Documents that are looked at once more at a time; spans in one question."""

_CARRIED = 20
"""Documents that are repaired at a time."""

_LEAVES = 1000
_CHANGES = 1000
_SETTLE = 1.0
"""Seconds in which what a replication has under way may arrive."""


_Unequal: TypeAlias = tuple[str, Leaves, Leaves]
"""A document's id, and its leaves in the source and in the target."""

_Carried: TypeAlias = tuple[Peer, WriteResult]


class Difference(msgspec.Struct, frozen=True):
    """A document of which one side lacks revisions that the other one has as leaves."""

    id: str
    missing_in_source: tuple[str, ...]
    missing_in_target: tuple[str, ...]


class Refused(msgspec.Struct, frozen=True):
    """A revision that could not be copied, and the label of the side that has said why."""

    id: str
    rev: str
    by: str
    reason: str


class Verification:
    """One comparison of two peers.

    `documents` is how many there are, without tombstones, on the side that has more; `by` says how
    they are compared: by "ranges" or by "changes".
    """

    def __init__(self, source: Peer, target: Peer) -> None:
        self.source = source
        self.target = target
        self.documents = 0
        self.by = ""
        self.refused: list[Refused] = []
        """What could not be repaired."""
        self._floors = (Floors({}), Floors({}))

    async def differences(self, *, settle: float = _SETTLE) -> AsyncGenerator[Difference, None]:
        """In the order of their ids. `settle` (seconds) is how long a replication that is under
        way has to deliver. Raises what the peers raise.
        """
        counts = [(await peer.info()).doc_count for peer in (self.source, self.target)]
        self.documents = max(counts)
        await self._read_floors()
        found = self._by_ranges() if await self._have_ranges() else self._by_changes()
        waited = False
        async with contextlib.aclosing(found) as documents:
            async for batch in _batches(documents):
                if not waited:
                    await asyncio.sleep(settle)
                    waited = True
                for difference in await self._still(batch):
                    yield difference

    async def repair(self, differences: Sequence[Difference]) -> int:
        """Bring both sides what they lack. Returns how many revisions are stored; those that are
        not are in `refused`. Raises what the peers raise.
        """
        stored = 0
        for source, target, wanted in (
            (self.source, self.target, [(item.id, item.missing_in_target) for item in differences]),
            (self.target, self.source, [(item.id, item.missing_in_source) for item in differences]),
        ):
            lacking = [(id, revs) for id, revs in wanted if revs]
            for begin in range(0, len(lacking), _CARRIED):
                for peer, result in await _carry(source, target, lacking[begin : begin + _CARRIED]):
                    if result.error is None:
                        stored += 1
                    else:
                        reason = f"{result.error}: {result.reason}"
                        self.refused.append(Refused(result.id, result.rev, peer.label, reason))
        return stored

    async def _still(self, batch: Sequence[_Unequal]) -> Iterator[Difference]:
        """What of it is missing, now that some time has passed."""
        await self._read_floors()  # a side may have made room since
        ours = {id: here.revs for id, here, there in batch if self._wanted(1, here, there)}
        theirs = {id: there.revs for id, here, there in batch if self._wanted(0, there, here)}
        in_target = await self.target.revs_diff(ours) if ours else {}
        in_source = await self.source.revs_diff(theirs) if theirs else {}
        return (
            Difference(id, tuple(in_source.get(id, ())), tuple(in_target.get(id, ())))
            for id, _, _ in batch
            if id in in_source or id in in_target
        )

    def _wanted(self, side: int, leaves: Leaves, there: Leaves) -> bool:
        """Whether a side should have these leaves of a document, of which it has others or none."""
        return bool(leaves.revs) and (bool(there.revs) or not self._floors[side].above(leaves.id))

    async def _read_floors(self) -> None:
        self._floors = (
            Floors.of(await self.source.get_local(RETENTION)),
            Floors.of(await self.target.get_local(RETENTION)),
        )

    # --- by ranges ---------------------------------------------------------------------

    async def _have_ranges(self) -> bool:
        for peer in (self.source, self.target):
            if not isinstance(peer, Comparable) or await peer.ranges(FINEST, []) is None:
                return False
        return True

    async def _by_ranges(self) -> AsyncGenerator[_Unequal, None]:
        self.by = "ranges"
        async for span in self._spans(EVERYTHING, level_for(self.documents)):
            async for item in self._documents(span):
                yield item

    async def _spans(self, whole: Span, level: int) -> AsyncGenerator[Span, None]:
        """The ranges of the finest level in which the sides differ."""
        spans = [whole]
        while level >= FINEST and spans:
            finer: list[Span] = []
            for begin in range(0, len(spans), _AT_ONCE):
                asked = spans[begin : begin + _AT_ONCE]
                here, there = await asyncio.gather(
                    _ranges(self.source, level, asked), _ranges(self.target, level, asked)
                )
                for span, ours, theirs in zip(asked, here, there, strict=True):
                    finer += different(ours, theirs, span)
            spans, level = finer, level - 1
        for span in spans:
            yield span

    async def _documents(self, span: Span) -> AsyncGenerator[_Unequal, None]:
        """Those of a span that differ. A range can be of any size, so it is read in pages."""
        start, end = span
        while True:
            if (gone := self._gone(start)) is not None:
                side, until = gone
                until = until if end is None else min(until, end)
                async for item in self._left(side, (start, until)):
                    yield item
                if until == end:
                    return
                start = until
            here, there = await asyncio.gather(
                _leaves(self.source, (start, end)), _leaves(self.target, (start, end))
            )
            # Up to where both sides are known.
            ends = [page[-1].id for page in (here, there) if len(page) == _LEAVES]
            last = min(ends, default=None)
            for item in joined(_until(last, here), _until(last, there)):
                yield item
            if last is None:
                return
            start = last + "\0"

    def _gone(self, start: str) -> tuple[int, str] | None:
        """A side that has deleted what follows on an id, and before which id that ends."""
        for side, floors in enumerate(self._floors):
            floor = floors.above(start)
            if floor is not None:
                return side, floor + "\0"
        return None

    async def _left(self, side: int, span: Span) -> AsyncGenerator[_Unequal, None]:
        """What a side has where it has deleted: the other one may lack it."""
        start, end = span
        peer = (self.source, self.target)[side]
        while page := await _leaves(peer, (start, end)):
            for item in page:
                nothing = Leaves(item.id, ())
                yield (item.id, nothing, item) if side else (item.id, item, nothing)
            start = page[-1].id + "\0"

    # --- by changes --------------------------------------------------------------------

    async def _by_changes(self) -> AsyncGenerator[_Unequal, None]:
        self.by = "changes"
        # SQLite's own temporary file: memory stays bounded, and it goes with the connection.
        with contextlib.closing(await asyncio.to_thread(_temporary)) as db:
            for side, peer in enumerate((self.source, self.target)):
                changes = peer.changes(START, follow=False, limit=_CHANGES)
                async with contextlib.aclosing(changes) as feed:
                    async for batch in feed:
                        rows = [
                            (change.id, side, msgspec.json.encode(sorted(change.revs)))
                            for change in batch.changes
                        ]
                        await asyncio.to_thread(_note, db, rows)
            after = ""
            while page := await asyncio.to_thread(_unequal, db, after):
                for id, ours, theirs in page:
                    yield id, _read(id, ours), _read(id, theirs)
                after = page[-1][0]


async def _ranges(peer: Peer, level: int, spans: Sequence[Span]) -> Sequence[Sequence[Range]]:
    assert isinstance(peer, Comparable)  # noqa: S101
    found = await peer.ranges(level, spans)
    if found is None or len(found) != len(spans):
        raise TransientError(f"{peer.label} has stopped to answer about ranges; try again")
    return found


async def _leaves(peer: Peer, span: Span) -> Sequence[Leaves]:
    assert isinstance(peer, Comparable)  # noqa: S101
    return await peer.leaves(span, _LEAVES)


def _until(last: str | None, page: Sequence[Leaves]) -> Sequence[Leaves]:
    return page if last is None else [item for item in page if item.id <= last]


# --- the temporary file ----------------------------------------------------------------


def _temporary() -> sqlite3.Connection:
    db = sqlite3.connect("", check_same_thread=False)
    db.execute(
        "CREATE TABLE leaves (id TEXT, side INTEGER, revs BLOB, PRIMARY KEY (id, side)) "
        "WITHOUT ROWID"
    )
    return db


def _note(db: sqlite3.Connection, rows: Sequence[tuple[str, int, bytes]]) -> None:
    with db:
        db.executemany("INSERT OR REPLACE INTO leaves VALUES (?, ?, ?)", rows)


def _unequal(db: sqlite3.Connection, after: str) -> list[tuple[str, bytes | None, bytes | None]]:
    """The next documents that are not the same on both sides."""
    return db.execute(
        "SELECT id, max(revs) FILTER (WHERE side = 0), max(revs) FILTER (WHERE side = 1) "
        "FROM leaves WHERE id > ? GROUP BY id "
        "HAVING count(*) < 2 OR min(revs) <> max(revs) ORDER BY id LIMIT ?",
        (after, _AT_ONCE),
    ).fetchall()


def _read(id: str, revs: bytes | None) -> Leaves:
    return Leaves(id, () if revs is None else msgspec.json.decode(revs, type=tuple[str, ...]))


# --- documents that differ -------------------------------------------------------------


async def _batches(
    documents: AsyncGenerator[_Unequal, None],
) -> AsyncGenerator[list[_Unequal], None]:
    batch: list[_Unequal] = []
    async for item in documents:
        batch.append(item)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


async def _carry(
    source: Peer, target: Peer, wanted: Sequence[tuple[str, Sequence[str]]]
) -> list[_Carried]:
    """Copy these revisions, in smaller pieces where that is too much; who said what of each."""
    try:
        found = await source.fetch(wanted)
        missing = [item for item in found if isinstance(item, WriteResult)]
        revisions = [item for item in found if isinstance(item, Revision)]
        results = await target.store(revisions, source.attachment)
    except TooLargeError as error:
        if len(wanted) == 1:
            id, revs = wanted[0]
            if len(revs) == 1:
                return [(target, WriteResult(id, revs[0], "too_large", str(error)))]
            wanted = [(id, [rev]) for rev in revs]
        middle = len(wanted) // 2
        parts = [await _carry(source, target, part) for part in (wanted[:middle], wanted[middle:])]
        return parts[0] + parts[1]
    return [(source, item) for item in missing] + [(target, item) for item in results]
