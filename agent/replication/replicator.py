"""One run of a replication, from a source to a target, over any two peers.

    changes -> revs_diff -> fetch -> store -> checkpoint on both sides

The stages run side by side, joined by short queues: memory is bounded by the size of the pieces
in flight, not by the number of documents. Every step can be repeated, so a crash or a lost
connection anywhere costs at most the work since the last checkpoint.

Source: CouchDB documentation, "CouchDB Replication Protocol".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from agent.documents.revision import Revision
from agent.errors import (
    EdgeAgentError,
    NotFoundError,
    RemoteMissingError,
    TooLargeError,
    TransientError,
)
from agent.peers.peer import ChangeBatch, Peer, PeerInfo, Seq, WriteResult
from agent.replication.arrivals import Arrivals
from agent.replication.checkpoint import Counts, DatabaseRecreatedError, Log, Others
from agent.replication.progress import Progress
from agent.replication.selection import EVERYTHING, Selection

log = logging.getLogger(__name__)

CHECKPOINT_INTERVAL = 10.0
"""Seconds."""

_FIRST_CHECKPOINT = 0.5
"""Seconds to a run's first checkpoint; each of the next takes twice as long, up to the interval.
Over a line that keeps breaking, a run has to get beyond where the last one began."""

_PIECE_BYTES = 2 * 1024 * 1024
"""Aimed at for one fetch. Three such pieces are in memory at most: fetched, or being stored."""

_FIRST_PIECE = 100
"""Revisions in the first fetch, when nothing is known yet about their size."""

_WATCH_INTERVAL = 30.0
"""Seconds between looks at whether a followed database was recreated."""

_FINAL_CHECKPOINT = 5.0
"""Seconds that the checkpoint of a run that was stopped or has failed may take."""

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


@dataclass(frozen=True, slots=True)
class _Piece:
    """Revisions that are being fetched. `batch` is set on the last piece of a batch of changes."""

    fetching: asyncio.Task[_Fetched] | None
    batch: ChangeBatch | None


def _nothing() -> None:
    """Nobody wants to know."""


class Replicator:
    """Copies what the source has and the target lacks.

    `progress` goes on counting from run to run. Raises what the peers raise.
    """

    def __init__(
        self,
        source: Peer,
        target: Peer,
        *,
        continuous: bool = False,
        create_source: bool = False,
        create_target: bool = False,
        selection: Selection = EVERYTHING,
        since_seq: Seq | None = None,
        use_checkpoints: bool = True,
        batch_size: int = 500,
        checkpoint_interval: float = CHECKPOINT_INTERVAL,
        progress: Progress | None = None,
        brought: Arrivals | None = None,
        unasked: Arrivals | None = None,
    ) -> None:
        """`batch_size` in changes, `checkpoint_interval` in seconds.

        `since_seq` stands in for the checkpoint at the start; without `use_checkpoints` none are
        written. What is stored is noted in `brought`. With `unasked`, what has arrived at the
        source, news are sent to the target without asking whether it has them.
        """
        self.source = source
        self.target = target
        self.continuous = continuous
        self.progress = progress or Progress()
        self.opening: str | None = None
        """The side that a run is opening or could not open, by its label."""
        self.checkpoint: Log | None = None
        """The log of the latest run."""
        self.others = Others()
        self.selection = selection
        self._since_seq = since_seq
        self._use_checkpoints = use_checkpoints
        self._create_source = create_source
        self._create_target = create_target
        self._batch_size = batch_size
        self.checkpoint_interval = checkpoint_interval
        self._piece_size = _FIRST_PIECE
        self._size_known = False
        self._log: Log
        self._before: Counts
        self._instances: tuple[str, str]
        self.recorded: Seq = None
        """The latest checkpoint, None before the first run."""
        self._record_interval = 0.0
        self._record_due = 0.0
        self._recording = asyncio.Lock()
        self._confirmed: Callable[[], None] = _nothing
        self._brought = brought
        self._unasked = unasked

    async def run(
        self,
        connected: Callable[[], None] = _nothing,
        confirmed: Callable[[], None] = _nothing,
    ) -> None:
        """Returns when the target has everything; with `continuous`, goes on until cancelled.

        `connected` is called when both sides have answered and the transfer begins, `confirmed`
        whenever all of a batch is durable in the target.
        """
        self._confirmed = confirmed
        self.opening = self.source.label
        source_info = await _open(self.source, create=self._create_source)
        self.opening = self.target.label
        target_info = await _open(self.target, create=self._create_target)
        self.opening = None
        self._before = self.progress.counts()
        self._instances = (source_info.instance_start_time, target_info.instance_start_time)
        self._log = await Log.open(self.source, self.target, self.selection, self.others)
        self.checkpoint = self._log
        if self._since_seq is not None:
            self._log.start_seq = self._since_seq
        self.recorded = self._log.start_seq
        self.progress.source_seq = source_info.update_seq
        self._record_interval = min(_FIRST_CHECKPOINT, self.checkpoint_interval)
        self._record_due = time.monotonic() + self._record_interval
        self._start_progress()
        log.info("%s -> %s: from %s", self.source.label, self.target.label, self._log.start_seq)
        connected()
        try:
            await self._transfer()
        except (asyncio.CancelledError, EdgeAgentError):
            self.progress.note_up_to_date()
            with contextlib.suppress(EdgeAgentError, TimeoutError):
                async with asyncio.timeout(_FINAL_CHECKPOINT):
                    await self._record()
            raise
        await self._record()

    def _start_progress(self) -> None:
        progress = self.progress
        progress.confirmed_seq = self._log.start_seq
        progress.pending = None
        progress.in_flight = 0
        if progress.last_confirmed is None and self._log.last_confirmed:
            with contextlib.suppress(ValueError):
                confirmed = datetime.fromisoformat(self._log.last_confirmed)
                progress.last_confirmed = confirmed.timestamp()

    async def _transfer(self) -> None:
        batches: asyncio.Queue[ChangeBatch | None] = asyncio.Queue(1)
        wanted: asyncio.Queue[tuple[ChangeBatch, _Wanted] | None] = asyncio.Queue(1)
        pieces: asyncio.Queue[_Piece | None] = asyncio.Queue(1)
        try:
            async with asyncio.TaskGroup() as stages:
                stages.create_task(self._read_changes(batches))
                stages.create_task(self._find_missing(batches, wanted))
                stages.create_task(self._fetch(wanted, pieces, stages))
                storing = stages.create_task(self._store(pieces))
                if self.continuous:
                    watch = stages.create_task(self._watch())
                    storing.add_done_callback(lambda _: watch.cancel())
        except ExceptionGroup as group:
            # One stage failed and took the others along; its error is the one to report.
            raise group.exceptions[0] from None

    # --- the stages --------------------------------------------------------------------

    async def _read_changes(self, out: asyncio.Queue[ChangeBatch | None]) -> None:
        feed = self.source.changes(
            self._log.start_seq,
            follow=self.continuous,
            limit=self._batch_size,
            selector=self.selection.selector,
            doc_ids=self.selection.doc_ids,
        )
        # Closed here, so that a connection is not left to the garbage collector.
        async with contextlib.aclosing(feed) as batches:
            async for batch in batches:
                self.progress.note_up_to_date()
                self.progress.in_flight += 1
                self.progress.changes_read += len(batch.changes)
                self.progress.through_seq = batch.last_seq
                await out.put(batch)
        await out.put(None)

    async def _find_missing(
        self,
        batches: asyncio.Queue[ChangeBatch | None],
        out: asyncio.Queue[tuple[ChangeBatch, _Wanted] | None],
    ) -> None:
        only_winners = self.selection.winning_revs_only
        while (batch := await batches.get()) is not None:
            revs: dict[str, list[str]] = {}
            for change in batch.changes:
                # The winner is the first of the leaves.
                wanted_revs = change.revs[:1] if only_winners else change.revs
                revs.setdefault(change.id, []).extend(wanted_revs)
            missing: Mapping[str, Sequence[str]] = revs
            if revs and (self._unasked is None or not self._unasked.are_news(revs)):
                missing = await self.target.revs_diff(revs)
            self.progress.missing_checked += sum(map(len, revs.values()))
            self.progress.missing_found += sum(map(len, missing.values()))
            # In the order of the changes, so that the target's own feed keeps it.
            wanted = [(id, missing[id]) for id in revs if id in missing]
            await out.put((batch, wanted))
        await out.put(None)

    async def _fetch(
        self,
        wanted: asyncio.Queue[tuple[ChangeBatch, _Wanted] | None],
        out: asyncio.Queue[_Piece | None],
        stages: asyncio.TaskGroup,
    ) -> None:
        """Starts the fetches; `_store` waits for them in their order.

        More than one is under way, so that neither side waits while the other is at work; but one
        alone while it is not known how large documents are, and where one fills a piece.
        """
        while (item := await wanted.get()) is not None:
            batch, rest = item
            if not rest:
                await out.put(_Piece(None, batch))
            while rest:
                now, rest = rest[: self._piece_size], rest[self._piece_size :]
                fetching = stages.create_task(self._fetch_piece(now))
                await out.put(_Piece(fetching, None if rest else batch))
                if not self._size_known or self._piece_size == 1:
                    await asyncio.wait({fetching})
        await out.put(None)

    async def _fetch_piece(self, wanted: _Wanted) -> _Fetched:
        """All that is wanted, or less of it where that would be more than `_PIECE_BYTES`."""
        while True:
            now, rest = wanted[: self._piece_size], wanted[self._piece_size :]
            try:
                found = await self.source.fetch(now)
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
                self._not_carried(self.source, entry)
        size = sum(len(revision.body) for revision in revisions)
        self.progress.docs_read += len(revisions)
        if revisions:
            self._size_known = True
            fitting = _PIECE_BYTES * len(revisions) // max(size, 1)
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
            if piece.batch is not None:
                await self._confirm(piece.batch)

    async def _store_piece(self, revisions: Sequence[Revision]) -> None:
        if not revisions:
            return
        if self._brought is not None:
            self._brought.note(revisions)
        try:
            results = await self.target.store(revisions, self.source.attachment)
        except TooLargeError as error:
            if len(revisions) > 1:
                half = len(revisions) // 2
                await self._store_piece(revisions[:half])
                await self._store_piece(revisions[half:])
                return
            revision = revisions[0]
            results = [WriteResult(revision.id, str(revision.rev), "too_large", str(error))]
        for result in results:
            if result.error is None:
                self.progress.docs_written += 1
            else:
                self._not_carried(self.target, result)

    def _not_carried(self, peer: Peer, result: WriteResult) -> None:
        """What was refused for good is passed over, but visibly: counted, logged, in the status.

        Raises TransientError for anything else.
        """
        if result.error not in _REFUSED_FOR_GOOD:
            raise TransientError(
                f"{peer.label}: {result.id} could not be carried "
                f"({result.error}: {result.reason}); it is tried again"
            )
        self.progress.doc_write_failures += 1
        self.progress.failures.append(result)
        log.warning(
            "%s -> %s: %s %s was refused and is passed over (%s: %s)",
            self.source.label,
            self.target.label,
            result.id,
            result.rev,
            result.error,
            result.reason,
        )

    # --- confirming --------------------------------------------------------------------

    async def _confirm(self, batch: ChangeBatch) -> None:
        progress = self.progress
        progress.confirmed_seq = batch.last_seq
        progress.pending = batch.pending
        progress.changes_confirmed += len(batch.changes)
        progress.in_flight -= 1
        if batch.changes:
            progress.last_confirmed = time.time()
        progress.note_up_to_date()
        self._confirmed()
        if time.monotonic() >= self._record_due:
            await self._record()

    async def _record(self) -> None:
        """Write the checkpoint, if there is anything new to record."""
        async with self._recording:
            seq = self.progress.confirmed_seq
            self._record_interval = min(2 * self._record_interval, self.checkpoint_interval)
            self._record_due = time.monotonic() + self._record_interval
            if seq != self.recorded:
                await self._check_instances()
                counts = self.progress.counts().since(self._before)
                if self._use_checkpoints:
                    await self._log.write(seq, counts)
                else:
                    self._log.note(seq, counts)
                self.recorded = seq

    async def _check_instances(self) -> None:
        instances = (
            (await self.source.info()).instance_start_time,
            await self.target.ensure_full_commit(),
        )
        for peer, then, now in zip(
            (self.source, self.target), self._instances, instances, strict=True
        ):
            if then != now:
                raise DatabaseRecreatedError(
                    f"{peer.label}: the database was deleted and made again; starting afresh"
                )

    async def _watch(self) -> None:
        """Record what is confirmed though nothing follows it, and notice recreated databases."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(max(self._record_due - time.monotonic(), 1.0))
            if time.monotonic() >= self._record_due:
                await self._record()
            if time.monotonic() - looked >= _WATCH_INTERVAL:
                looked = time.monotonic()
                await self._check_instances()


async def _open(peer: Peer, *, create: bool) -> PeerInfo:
    try:
        return await peer.info()
    except (RemoteMissingError, NotFoundError):
        if not create:
            raise
    await peer.create()
    return await peer.info()
