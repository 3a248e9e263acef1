"""Tells gateways over MQTT that a database has changed, so that they ask for it at once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from agent.backoff import transient_backoff
from agent.errors import PermanentError, TransientError
from agent.peers.mqtt_calls import MOST_CHANGES
from agent.peers.peer import Seq
from agent.server.mqtt_served import Served

log = logging.getLogger(__name__)

_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
"""Seconds between two notices that a database has changed."""

Tell = Callable[[str, Seq], Awaitable[None]]
"""Sends a notice: that a database has come to a sequence. Nobody need be there to hear it."""


class Pace:
    """How long to be silent after a notice. All gateways get all notices, so while a database keeps
    changing each pause is twice as long as the one before."""

    def __init__(self) -> None:
        self._pause = _PAUSE
        self._told = 0.0

    def next_pause(self, now: float) -> float:
        """In seconds; a notice was sent `now`, in seconds of any clock."""
        busy = now - self._told < 2 * self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE) if busy else _PAUSE
        self._told = now
        return self._pause


class Notices:
    """Follows the databases that are served, each in a task of a group."""

    def __init__(self, served: Served, tell: Tell, tasks: asyncio.TaskGroup) -> None:
        self._served = served
        self._tell = tell
        self._tasks = tasks
        self._told: dict[str, Seq] = {}
        """The databases that are followed, with the sequence of the latest notice; None before the
        first."""

    async def follow_all(self) -> None:
        """Follow what there is; whoever was connected meanwhile may have missed a notice."""
        for database in list(self._told):
            seq = self._told.get(database)  # while others were told it may have gone
            if seq is not None:
                await self._tell(database, seq)
        for database in self._served.changing(self.follow):
            self.follow(database)

    def follow(self, database: str) -> None:
        """Tell, from now on, when a database has changed."""
        if database not in self._told:
            self._told[database] = None
            self._tasks.create_task(self._watch(database))

    def end(self) -> None:
        """Follow nothing new."""
        self._served.changing(None)

    async def _watch(self, database: str) -> None:
        backoff = transient_backoff()
        pace = Pace()
        since: Seq = None
        try:
            while True:
                try:
                    with self._served.using(database):
                        peer = await self._served.peer(database)
                        if since is None:
                            since = (await peer.info()).update_seq
                            await self._notify(database, since)
                    changes = peer.changes(since, follow=True, limit=MOST_CHANGES)
                    async with aclosing(changes) as batches:
                        async for batch in batches:
                            since = batch.last_seq
                            backoff.reset()
                            if batch.changes:
                                await self._notify(database, since)
                                await asyncio.sleep(pace.next_pause(time.monotonic()))
                except TransientError as error:
                    log.info("%s: %s", database, error)
                    await asyncio.sleep(backoff.next_delay())
                else:  # the store was closed, and maybe it is open again
                    since = None
                    if database not in self._served.changing(self.follow):
                        return
                    await asyncio.sleep(backoff.next_delay())
        except PermanentError as error:
            log.warning("%s is not followed any more: %s", database, error)
        finally:
            # The next call starts it again, or the next time that it is opened.
            self._told.pop(database, None)

    async def _notify(self, database: str, seq: Seq) -> None:
        self._told[database] = seq
        await self._tell(database, seq)
