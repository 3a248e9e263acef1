"""Carries the changes of one feed to a target, over any two peers.

    changes -> revs_diff -> fetch -> store -> confirmed

The stages run side by side, joined by short queues: memory is bounded by the size of the pieces
in flight, not by the number of documents. Every step can be repeated.

Source: CouchDB documentation, "CouchDB Replication Protocol".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import msgspec

from agent.documents.readings import readings_in
from agent.documents.revision import Revision
from agent.errors import TooLargeError, TransientError
from agent.peers.peer import ChangeBatch, Ordered, Peer, Seq, WriteResult
from agent.replication.arrivals import Arrivals
from agent.replication.lanes import Lane
from agent.replication.progress import Progress
from agent.replication.room import Room
from agent.replication.witnesses import Revs, Witnesses, by_id
from agent.tasks import together

log = logging.getLogger(__name__)

_FIRST_PIECE = 100
"""Revisions in the first fetch at most, when nothing is known yet about their size."""

_SMALL = 1024
"""Bytes of a revision as they are guessed for that."""

_REFUSED_FOR_GOOD = frozenset(
    (
        "bad_request",
        "doc_validation",
        "document_too_large",
        "forbidden",
        "illegal_docid",
        "not_implemented",
        "not_supported",
        "request_uri_too_long",
        "too_large",
        "unauthorized",
    )
)

_Wanted = Sequence[tuple[str, Sequence[str]]]


_Fetched = tuple[Sequence[Revision], _Wanted]
"""The first of what was wanted, and what is left over."""


class Step(msgspec.Struct, frozen=True):
    """A batch of changes and the sequence that it follows on."""

    since: Seq
    batch: ChangeBatch


class _Piece(msgspec.Struct, frozen=True):
    """Revisions that are being fetched. `step` is set on the last piece of a batch of changes."""

    fetching: asyncio.Task[_Fetched] | None
    step: Step | None


class Pipeline:
    """Carries what a feed tells of. Raises what the peers raise."""

    def __init__(
        self,
        lane: Lane,
        source: Peer,
        target: Peer,
        *,
        room: Room,
        progress: Progress,
        witnesses: Witnesses,
        confirmed: Callable[[Step], Awaitable[None]],
        winners_only: bool = False,
        batch_size: int,
        brought: Arrivals | None = None,
        unasked: Arrivals | None = None,
    ) -> None:
        """`confirmed` is called when all of a batch is durable in the target; `batch_size` is the
        most changes of a batch. What is stored is noted in `brought`; with `unasked`, what has
        arrived at the source, news are sent without asking whether the target has them.
        """
        self._lane = lane
        self._source = source
        self._target = target
        self._room = room
        self._progress = progress
        self._witnesses = witnesses
        self._confirmed = confirmed
        self._winners_only = winners_only
        self._batch_size = batch_size
        self._brought = brought
        self._unasked = unasked
        self._pulls = isinstance(target, Ordered)
        """Whether the source is the remote, which the witnesses are of."""
        self._piece_size = max(1, min(_FIRST_PIECE, room.piece_bytes // _SMALL))
        self._size_known = False
        self._entered = 0
        """Pieces for which there is room at the moment."""

    async def run(self, since: Seq, feed: AsyncGenerator[ChangeBatch, None]) -> None:
        """Carry all that `feed` tells of, which begins after `since`, and close it."""
        steps: asyncio.Queue[Step | None] = asyncio.Queue(1)
        wanted: asyncio.Queue[tuple[Step, _Wanted] | None] = asyncio.Queue(1)
        pieces: asyncio.Queue[_Piece | None] = asyncio.Queue(1)
        try:
            async with together() as stages:
                stages.create_task(self._read_changes(since, feed, steps))
                stages.create_task(self._find_missing(steps, wanted))
                stages.create_task(self._fetch(wanted, pieces, stages))
                stages.create_task(self._store(pieces))
        finally:
            for _ in range(self._entered):
                self._room.leave(self._lane)

    async def _read_changes(
        self,
        since: Seq,
        feed: AsyncGenerator[ChangeBatch, None],
        out: asyncio.Queue[Step | None],
    ) -> None:
        progress = self._progress
        # Closed here, so that a connection is not left to the garbage collector.
        async with contextlib.aclosing(feed) as batches:
            async for batch in batches:
                progress.note_up_to_date()
                if self._lane is not Lane.URGENT:  # which only goes ahead of the others
                    progress.in_flight += 1
                    progress.changes_read += len(batch.changes)
                if self._lane is Lane.NEWS:
                    progress.through_seq = batch.last_seq
                await out.put(Step(since, batch))
                since = batch.last_seq
        await out.put(None)

    async def _find_missing(
        self,
        steps: asyncio.Queue[Step | None],
        out: asyncio.Queue[tuple[Step, _Wanted] | None],
    ) -> None:
        while (step := await steps.get()) is not None:
            revs: dict[str, list[str]] = {}
            for change in step.batch.changes:
                # The winner is the first of the leaves.
                wanted_revs = change.revs[:1] if self._winners_only else change.revs
                revs.setdefault(change.id, []).extend(wanted_revs)
            missing: Revs = revs
            hidden = {} if self._pulls else self._witnesses.hidden_by(revs)
            news = self._unasked is not None and self._unasked.are_news(revs)
            if revs and (hidden or not news):
                await self._room.admit(self._lane)
                missing = await self._ask(revs, hidden)
            self._progress.missing_checked += sum(map(len, revs.values()))
            self._progress.missing_found += sum(map(len, missing.values()))
            # In the order of the changes, so that the target's own feed keeps it.
            wanted = [(id, missing[id]) for id in revs if id in missing]
            await out.put((step, wanted))
        await out.put(None)

    async def _ask(self, revs: Revs, hidden: Revs) -> Revs:
        """Which of `revs` the target lacks, if it has those that they hide. Raises
        DatabaseRecreatedError."""
        witnesses = self._witnesses
        asked = {id: [*told, *hidden.get(id, ())] for id, told in revs.items()}
        missing = await self._target.revs_diff(asked)
        if self._pulls:  # now, since a push may send them as soon as they are stored
            witnesses.note(revs, stored=True, told=True)
        elif lost := witnesses.lost_of(missing, self._target):
            raise witnesses.gone(lost, self._target)
        else:
            witnesses.note(_without(revs, missing), stored=False)
        return _without(missing, hidden)

    async def _fetch(
        self,
        wanted: asyncio.Queue[tuple[Step, _Wanted] | None],
        out: asyncio.Queue[_Piece | None],
        stages: asyncio.TaskGroup,
    ) -> None:
        """Starts the fetches; `_store` waits for them in their order.

        More than one is under way, so that neither side waits while the other is at work; but one
        alone while it is not known how large documents are, and where one fills a piece.
        """
        while (item := await wanted.get()) is not None:
            step, rest = item
            if not rest:
                await out.put(_Piece(None, step))
            while rest:
                await self._room.enter(self._lane)
                self._entered += 1
                now, rest = rest[: self._piece_size], rest[self._piece_size :]
                fetching = stages.create_task(self._fetch_piece(now))
                await out.put(_Piece(fetching, None if rest else step))
                if not self._size_known or self._piece_size == 1:
                    await asyncio.wait({fetching})
        await out.put(None)

    async def _fetch_piece(self, wanted: _Wanted) -> _Fetched:
        """All that is wanted, or less of it where that would be more than a piece may have."""
        while True:
            now, rest = wanted[: self._piece_size], wanted[self._piece_size :]
            try:
                found = await self._source.fetch(now)
            except TooLargeError as error:
                if len(now) > 1:
                    self._piece_size = max(1, len(now) // 2)
                    continue
                id, revs = now[0]
                if len(revs) > 1:  # each may fit alone
                    wanted = [*((id, [rev]) for rev in revs), *rest]
                    continue
                found = [WriteResult(id, rev, "too_large", str(error)) for rev in revs]
            break
        revisions = []
        for entry in found:
            if isinstance(entry, Revision):
                revisions.append(entry)
            else:
                self._not_carried(self._source, entry)
        size = sum(len(revision.body) for revision in revisions)
        self._progress.docs_read += len(revisions)
        if revisions:
            self._size_known = True
            fitting = self._room.piece_bytes * len(revisions) // max(size, 1)
            self._piece_size = max(1, min(fitting, self._batch_size, 2 * self._piece_size))
        return revisions, rest

    async def _store(self, pieces: asyncio.Queue[_Piece | None]) -> None:
        while (piece := await pieces.get()) is not None:
            if piece.fetching is not None:
                revisions, rest = await piece.fetching
                await self._store_piece(revisions)
                while rest:
                    revisions, rest = await self._fetch_piece(rest)
                    await self._store_piece(revisions)
                self._room.leave(self._lane)
                self._entered -= 1
            if piece.step is not None:
                if self._lane is not Lane.URGENT:
                    self._progress.in_flight -= 1
                await self._confirmed(piece.step)

    async def _store_piece(self, revisions: Sequence[Revision]) -> None:
        if not revisions:
            return
        if self._brought is not None:
            self._brought.note(revisions)
        try:
            results = await self._target.store(revisions, self._source.attachment)
        except TooLargeError as error:
            if len(revisions) > 1:
                for part in _split(revisions):
                    await self._store_piece(part)
                return
            revision = revisions[0]
            results = [WriteResult(revision.id, str(revision.rev), "too_large", str(error))]
        if not self._pulls:
            stored = ((each.id, each.rev) for each in results if each.error is None)
            self._witnesses.note(by_id(stored), stored=True)
        for revision, result in zip(revisions, results, strict=True):
            if result.error is None:
                self._progress.docs_written += 1
                self._progress.carried(revision.id)
                self._progress.readings += readings_in(revision.body)
            else:
                self._not_carried(self._target, result)

    def _not_carried(self, peer: Peer, result: WriteResult) -> None:
        """What was refused for good is passed over, but visibly: counted, logged, in the status.

        Raises TransientError for anything else.
        """
        if result.error not in _REFUSED_FOR_GOOD:
            raise TransientError(
                f"{peer.label}: {result.id} could not be carried "
                f"({result.error}: {result.reason}); it is tried again"
            )
        self._progress.refused(result)
        log.warning(
            "%s -> %s: %s %s was refused and is passed over (%s: %s)",
            self._source.label,
            self._target.label,
            result.id,
            result.rev,
            result.error,
            result.reason,
        )


def _without(revs: Revs, others: Revs) -> Revs:
    left = {
        id: [rev for rev in each if rev not in others[id]] if id in others else each
        for id, each in revs.items()
    }
    return {id: each for id, each in left.items() if each}


def _split(revisions: Sequence[Revision]) -> Sequence[Sequence[Revision]]:
    """Smaller pieces, in their order: halves; or one large document by itself, which would be sent
    with each half that it is in."""
    sizes = [len(revision.body) for revision in revisions]
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    if 2 * sizes[largest] > sum(sizes):
        return revisions[:largest], revisions[largest : largest + 1], revisions[largest + 1 :]
    half = len(revisions) // 2
    return revisions[:half], revisions[half:]
