"""One run of a replication, from a source to a target, over any two peers.

    changes -> revs_diff -> fetch -> store -> checkpoint on both sides

Where much has gathered, it runs in lanes (`lanes.py`), each a `Pipeline`; otherwise there is one.
Every step can be repeated, so a crash or a lost connection anywhere costs at most the work since
the last checkpoint.

Source: CouchDB documentation, "CouchDB Replication Protocol".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime

from msgspec.structs import replace

from agent.errors import EdgeAgentError, NotFoundError, RemoteMissingError
from agent.peers.peer import ChangeBatch, Ordered, Peer, PeerInfo, Seq
from agent.replication.arrivals import Arrivals
from agent.replication.budget import Budget
from agent.replication.checkpoint import MOST_SESSIONS, Counts, Log
from agent.replication.clones import Others
from agent.replication.lanes import FAR_BEHIND, Lane, Range, Reached
from agent.replication.pace import Pace
from agent.replication.pipeline import Pipeline, Step
from agent.replication.progress import Progress
from agent.replication.room import Room
from agent.replication.selection import EVERYTHING, Selection
from agent.replication.witnesses import DatabaseRecreatedError, Past, Witnesses
from agent.tasks import together

log = logging.getLogger(__name__)

CHECKPOINT_INTERVAL = 10.0
"""Seconds."""

_WATCH_INTERVAL = 30.0
"""Seconds between looks at whether a followed database was recreated or restored."""

_METERED_WATCH_INTERVAL = 900.0
"""The same where bytes are counted."""

_METERED_CHECKPOINT_INTERVAL = 300.0
"""Seconds between checkpoints at least, where bytes are counted. What a crash makes it repeat is
only asked about."""

_METERED_SESSIONS = 5
"""In a log, where bytes are counted: it crosses the link with each checkpoint."""

_CHANGE_BYTES = 100
"""Of a change, about, in the question whether the target has it."""

_FINAL_CHECKPOINT = 5.0
"""Seconds that the checkpoint of a run that was stopped or has failed may take."""


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
        lanes: bool = False,
        budget: Budget | None = None,
        past: Past | None = None,
    ) -> None:
        """`batch_size` in changes, `checkpoint_interval` in seconds.

        `since_seq` stands in for the checkpoint at the start; without `use_checkpoints` none are
        written. What is stored is noted in `brought`. With `unasked`, what has arrived at the
        source, news are sent to the target without asking whether it has them.

        With `lanes`, where the source is far ahead, what is urgent or new goes first; the source
        has to be an `Ordered` peer and the replication continuous. With a `budget` all waits that
        is not admitted to the link; a run without lanes ends then with BudgetSpentError.

        `past` is what the other replications with the same remote know of it, too.
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
        self._witnesses = Witnesses(past)
        self.selection = selection
        self.budget = budget
        self._lanes = lanes
        self._first = Lane.URGENT if lanes else Lane.NEWS
        self._since_seq = since_seq
        self._use_checkpoints = use_checkpoints
        self._create_source = create_source
        self._create_target = create_target
        self._room = self._new_room()
        # What a batch costs on the link counts against the budget, too.
        self._batch_size = max(1, min(batch_size, self._room.piece_bytes // _CHANGE_BYTES))
        if budget is not None:
            checkpoint_interval = max(checkpoint_interval, _METERED_CHECKPOINT_INTERVAL)
        self.checkpoint_interval = checkpoint_interval
        self._log: Log
        self._reached: Reached | None
        self._before: Counts
        self._instances: tuple[str, str]
        self.recorded: Seq = None
        """The latest checkpoint, None before the first run."""
        self._recorded_ranges: tuple[Range, ...] = ()
        self._pace = Pace(checkpoint_interval)
        self._recording = asyncio.Lock()
        self._confirmed: Callable[[], None] = _nothing
        self._brought = brought
        self._unasked = unasked

    @property
    def held(self) -> frozenset[Lane]:
        """The lanes that wait for another day's budget."""
        return frozenset(self._room.held)

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
        self._room = self._new_room()
        await self._room.open(self._first)
        await self._witnesses.begin()
        self.opening = self.source.label
        source_info = await _open(self.source, create=self._create_source)
        self.opening = self.target.label
        target_info = await _open(self.target, create=self._create_target)
        self.opening = None
        self._before = self.progress.counts()
        self._instances = (source_info.instance_start_time, target_info.instance_start_time)
        self._log = await Log.open(
            self.source,
            self.target,
            self.selection,
            most_sessions=MOST_SESSIONS if self.budget is None else _METERED_SESSIONS,
            others=self.others,
            witnesses=self._witnesses,
        )
        self.checkpoint = self._log
        if self._since_seq is not None:
            self._log.start_seq = self._since_seq
        self.recorded, self._recorded_ranges = self._log.start_seq, self._log.ranges
        self.progress.source_seq = source_info.update_seq
        await self._look_after_refused()
        self._pace.begin()
        start = self._plan(source_info.update_seq)
        self._start_progress(start)
        log.info("%s -> %s: from %s", self.source.label, self.target.label, self._log.start_seq)
        connected()
        try:
            await self._transfer(start)
        except DatabaseRecreatedError:
            raise
        except (asyncio.CancelledError, EdgeAgentError):
            self.progress.note_up_to_date()
            with contextlib.suppress(EdgeAgentError, TimeoutError):
                async with asyncio.timeout(_FINAL_CHECKPOINT):
                    await self._record()
            raise
        await self._record()

    async def _look_after_refused(self) -> None:
        """What was refused once, and has come to the target in another way, is missing no more."""
        progress = self.progress
        if not progress.failures:
            progress.failures.extend(self._log.refused)
        if progress.failures:
            revs: dict[str, list[str]] = {}
            for failure in progress.failures:
                revs.setdefault(failure.id, []).append(failure.rev)
            missing = await self.target.revs_diff(revs)
            for id in revs.keys() - missing.keys():
                progress.carried(id)

    def _new_room(self) -> Room:
        return Room(self.budget, holds=self._lanes, holding=self._record)

    def _plan(self, source_seq: Seq) -> Seq:
        """Where the news begin. What is not reached before is the backlog."""
        self._reached = None
        if not self._lanes:
            return self._log.start_seq
        reached = self._reached = Reached(self._log.start_seq, self._log.ranges)
        if source_seq - reached.newest <= FAR_BEHIND:
            return reached.newest
        reached.forget_oldest()
        return source_seq

    def _start_progress(self, start: Seq) -> None:
        progress = self.progress
        progress.confirmed_seq = progress.urgent_seq = self._log.start_seq
        progress.newest_seq = start
        progress.pending = None
        progress.backlog = None if self._reached is None else self._reached.missing(start)
        progress.in_flight = 0
        if progress.last_confirmed is None and self._log.last_confirmed:
            with contextlib.suppress(ValueError):
                confirmed = datetime.fromisoformat(self._log.last_confirmed)
                progress.last_confirmed = confirmed.timestamp()

    # --- lanes -------------------------------------------------------------------------

    async def _transfer(self, start: Seq) -> None:
        reached = self._reached
        gaps = [] if reached is None else reached.gaps(start)
        async with together() as lanes:
            watches = (self._watch(), self._witnesses.watch()) if self.continuous else ()
            others = [lanes.create_task(each) for each in watches]
            if reached is not None and (gaps or self.budget is not None):
                self._room.divide()
                feed = self._urgent_feed(reached)
                urgent = lanes.create_task(self._pipeline(Lane.URGENT).run(reached.seq, feed))
                filling = lanes.create_task(self._fill(gaps))
                filling.add_done_callback(lambda _: self._filled(urgent))
                others += [urgent, filling]
            feed = self._feed(start, follow=self.continuous)
            news = lanes.create_task(self._pipeline(Lane.NEWS).run(start, feed))
            news.add_done_callback(lambda _: [task.cancel() for task in others])

    def _filled(self, urgent: asyncio.Task[None]) -> None:
        """There is no backlog any more, so nothing goes before the news."""
        if self.budget is None:  # with one they may have to wait
            urgent.cancel()
            self._room.unite()

    async def _fill(self, gaps: Sequence[Range]) -> None:
        """Carry the backlog."""
        for since, end in gaps:
            feed = _up_to(end, self._feed(since, follow=False))
            await self._pipeline(Lane.BACKLOG).run(since, feed)

    def _pipeline(self, lane: Lane) -> Pipeline:
        async def confirmed(step: Step) -> None:
            await self._confirm(lane, step)

        return Pipeline(
            lane,
            self.source,
            self.target,
            room=self._room,
            progress=self.progress,
            witnesses=self._witnesses,
            confirmed=confirmed,
            winners_only=self.selection.winning_revs_only,
            batch_size=self._batch_size,
            # What the urgent lane has sent is no news to the lane that comes to it later.
            brought=self._unasked if lane is Lane.URGENT else self._brought,
            unasked=self._unasked,
        )

    def _feed(self, since: Seq, *, follow: bool) -> AsyncGenerator[ChangeBatch, None]:
        return self.source.changes(
            since,
            follow=follow,
            limit=self._batch_size,
            selector=self.selection.selector,
            doc_ids=self.selection.doc_ids,
        )

    async def _urgent_feed(self, reached: Reached) -> AsyncGenerator[ChangeBatch, None]:
        """What is urgent and not confirmed by another lane."""
        assert isinstance(self.source, Ordered)  # noqa: S101
        feed = self.source.urgent_changes(
            reached.seq,
            limit=self._batch_size,
            selector=self.selection.selector,
            doc_ids=self.selection.doc_ids,
        )
        async with contextlib.aclosing(feed) as batches:
            async for batch in batches:
                changes = [change for change in batch.changes if reached.lacks(change.seq)]
                yield replace(batch, changes=tuple(changes))

    # --- confirming --------------------------------------------------------------------

    async def _confirm(self, lane: Lane, step: Step) -> None:
        progress = self.progress
        batch = step.batch
        if lane is Lane.URGENT:
            progress.urgent_seq = batch.last_seq
        else:
            progress.changes_confirmed += len(batch.changes)
            self._reach(lane, step)
        if batch.changes:
            progress.last_confirmed = time.time()
        progress.note_up_to_date()
        self._confirmed()
        if self._pace.due() == 0 or self._witnesses.full:
            await self._record()

    def _reach(self, lane: Lane, step: Step) -> None:
        progress = self.progress
        if lane is Lane.NEWS:
            progress.pending = step.batch.pending
            progress.newest_seq = step.batch.last_seq
        if self._reached is None:
            progress.confirmed_seq = step.batch.last_seq
        else:
            self._reached.add(step.since, step.batch.last_seq)
            progress.confirmed_seq = self._reached.seq
            progress.backlog = self._reached.missing(progress.newest_seq)

    async def _record(self) -> None:
        """Write the checkpoint, if there is anything new to record."""
        async with self._recording:
            seq = self.progress.confirmed_seq
            ranges = () if self._reached is None else self._reached.ranges
            with self._pace.writing():
                if (seq, ranges) != (self.recorded, self._recorded_ranges):
                    await self._check_instances()
                    counts = self.progress.counts().since(self._before)
                    if self._use_checkpoints:
                        await self._log.write(seq, counts, ranges, self.progress.failures)
                    else:
                        self._log.note(seq, counts, ranges)
                        self._witnesses.clear()
                    self.recorded, self._recorded_ranges = seq, ranges
                elif self._witnesses.full:
                    await self._log.check()

    async def _check_instances(self) -> None:
        instances = (
            (await self.source.info()).instance_start_time,
            await self.target.ensure_full_commit(),
        )
        for peer, then, now in zip(
            (self.source, self.target), self._instances, instances, strict=True
        ):
            if then != now:
                raise self._witnesses.lapse(
                    f"{peer.label}: the database was deleted and made again; starting afresh"
                )

    async def _watch(self) -> None:
        """Record what is confirmed though nothing follows it, and notice recreated databases."""
        interval = _WATCH_INTERVAL if self.budget is None else _METERED_WATCH_INTERVAL
        looked = time.monotonic()
        while True:
            await asyncio.sleep(max(self._pace.due(), 1.0))
            await self._room.admit(self._first)
            if self._pace.due() == 0:
                await self._record()
            if time.monotonic() - looked >= interval:
                looked = time.monotonic()
                async with self._recording:
                    await self._check_instances()
                    await self._log.check()


async def _open(peer: Peer, *, create: bool) -> PeerInfo:
    try:
        return await peer.info()
    except (RemoteMissingError, NotFoundError):
        if not create:
            raise
    await peer.create()
    return await peer.info()


async def _up_to(
    end: int, feed: AsyncGenerator[ChangeBatch, None]
) -> AsyncGenerator[ChangeBatch, None]:
    """The feed's beginning, up to the change `end`."""
    async with contextlib.aclosing(feed) as batches:
        async for batch in batches:
            if batch.last_seq >= end:
                changes = [change for change in batch.changes if change.seq <= end]
                yield ChangeBatch(tuple(changes), end)
                return
            yield batch
