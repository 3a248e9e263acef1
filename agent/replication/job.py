"""Keeps one replication going: runs it, waits after a failure, runs it again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from enum import StrEnum
from typing import NamedTuple

from agent.backoff import PERMANENT_BASE, RETRY_CAP, permanent_backoff, transient_backoff
from agent.errors import BudgetSpentError, EdgeAgentError, PermanentError, TransientError
from agent.peers.peer import Ordered
from agent.rates import since_boot
from agent.replication.lanes import Lane
from agent.replication.progress import Progress
from agent.replication.replicator import Replicator

log = logging.getLogger(__name__)

_HURRIED_TRIES = 6
_LIVE_LAG = 5.0
_KEPT_EVENTS = 20


class State(StrEnum):
    """What a job is doing, in the words of the status."""

    STARTING = "starting"
    """Connecting, or finding out where to go on from."""
    CATCHING_UP = "catching up"
    LIVE = "live"
    """Everything was confirmed less than 5 s ago; changes are passed on as they come."""
    WAITING = "waiting"
    """After a transient error; it is tried again soon."""
    FAILED = "failed"
    """Somebody has to change something; it is tried again now and then in case they did."""
    HELD = "waiting for its budget"
    """Today's bytes are used up; only what is urgent may still be passed on."""
    STOPPED = "stopped"


class Event(NamedTuple):
    """Something that happened to a job, with CouchDB's word for it: added, started, crashed or
    stopped. `time` is in seconds since the epoch."""

    time: float
    type: str
    reason: str | None = None


class Job:
    """A replication that survives what goes wrong.

    In an agent that runs for years (`patient`) it never gives up: a permanent error is reported
    and tried again every few minutes, because it is often mended on the other side, where the
    agent does not see it. For a command that somebody waits for it gives up at once when the
    error is permanent or the first contact fails, and after some tries without any progress.
    """

    def __init__(
        self,
        name: str,
        replicator: Replicator,
        *,
        patient: bool,
        retry_cap: float = RETRY_CAP,
        permanent_base: float = PERMANENT_BASE,
    ) -> None:
        """`retry_cap` and `permanent_base`, the first wait after a permanent error, are in
        seconds."""
        self.name = name
        self.replicator = replicator
        self.last_error: str | None = None
        self.retry_at: float | None = None
        """When it is tried again, in seconds since the epoch."""
        self.error_count = 0
        """Failures since it last got on."""
        self.errors = 0
        """Failures since the start."""
        self.events = deque([Event(time.time(), "added")], maxlen=_KEPT_EVENTS)
        """The latest ones, the newest last."""
        self._patient = patient
        self._transient = transient_backoff(retry_cap)
        self._permanent = permanent_backoff(retry_cap, base=permanent_base)
        self._running = False
        self._ever_connected = False
        self._failed = False
        self._stopped = False
        self._broken = False
        self._before = self._reached()

    @property
    def progress(self) -> Progress:
        return self.replicator.progress

    @property
    def state(self) -> State:
        if self._broken:
            return State.FAILED
        if self._stopped:
            return State.STOPPED
        if self.retry_at is not None:
            return State.FAILED if self._failed else State.WAITING
        if Lane.NEWS in self.replicator.held or Lane.URGENT in self.replicator.held:
            return State.HELD
        if not self._running:
            return State.STARTING
        lag = self.lag()
        return State.LIVE if lag is not None and lag < _LIVE_LAG else State.CATCHING_UP

    async def pending(self) -> int | None:
        """Changes that the target has not confirmed; None where nobody here can tell."""
        source, progress = self.replicator.source, self.progress
        if isinstance(source, Ordered):  # can be asked without a network
            return await source.count_pending(progress.newest_seq) + (progress.backlog or 0)
        return progress.unconfirmed

    async def lanes(self) -> dict[Lane, int]:
        """The lanes and the changes that each has before it, at most; none where there is one lane
        for everything."""
        source, progress = self.replicator.source, self.progress
        if progress.backlog is None or not isinstance(source, Ordered):
            return {}
        return {
            Lane.URGENT: await source.count_urgent(
                max(progress.urgent_seq, progress.confirmed_seq)
            ),
            Lane.NEWS: await source.count_pending(progress.newest_seq),
            Lane.BACKLOG: progress.backlog,
        }

    def lag(self) -> float | None:
        """Seconds since the target last had everything; 0 while it has, None if it never had."""
        if self._running and self.progress.up_to_date:
            return 0.0
        caught_up = self.progress.caught_up
        return None if caught_up is None else since_boot() - caught_up

    async def run(self) -> None:
        """Returns when a one-shot replication is done. Raises EdgeAgentError as said above."""
        tries = 0
        self._stopped = self._broken = False
        try:
            while True:
                self._note("started")
                self._before = self._reached()
                try:
                    await self.replicator.run(self._connected, self._confirmed)
                except BudgetSpentError as error:
                    self._running = False
                    self._note("stopped", str(error))
                except EdgeAgentError as error:
                    self._running = False
                    self.error_count += 1
                    self.errors += 1
                    self._note("crashed", str(error))
                    tries = 0 if self._got_on else tries + 1
                    if not self._patient and self._gives_up(error, tries):
                        raise
                    await self._wait(error)
                else:
                    return
        finally:
            self._running = False
            self._stopped = True
            self._note("stopped")
            self.retry_at = None

    def broke(self, error: Exception) -> None:
        """Note that `run`, or what goes with it, raised; the job counts as failed until it is run
        again.
        """
        # Only the errors of this program are known to be without secrets.
        self.last_error = (
            str(error)
            if isinstance(error, EdgeAgentError)
            else f"unexpected {type(error).__name__}; the log has more"
        )
        self.error_count += 1
        self.errors += 1
        self._note("crashed", self.last_error)
        self._broken = True

    def _connected(self) -> None:
        self._running = True
        self._ever_connected = True
        self._before = self._reached()

    def _confirmed(self) -> None:
        if self.last_error is not None and (self._got_on or self.progress.up_to_date):
            log.info("%s: goes on", self.name)
            self.last_error = None
            self.error_count = 0

    def _reached(self) -> tuple[int, object]:
        """What a failure does not undo. What was only looked at is looked at again."""
        return self.progress.docs_written, self.replicator.recorded

    @property
    def _got_on(self) -> bool:
        return self._reached() != self._before

    def _note(self, type: str, reason: str | None = None) -> None:
        self.events.append(Event(time.time(), type, reason))

    def _gives_up(self, error: EdgeAgentError, tries: int) -> bool:
        if isinstance(error, PermanentError):
            return True
        if not self._ever_connected:
            return True
        return not self.replicator.continuous and tries >= _HURRIED_TRIES

    async def _wait(self, error: EdgeAgentError) -> None:
        self._failed = isinstance(error, PermanentError)
        if self._got_on:
            self._transient.reset()
        if not self._failed:
            self._permanent.reset()
        delay = (self._permanent if self._failed else self._transient).next_delay()
        if isinstance(error, TransientError) and error.retry_after is not None:
            delay += error.retry_after
        if str(error) != self.last_error:
            log.warning("%s: %s; next try in %.1f s", self.name, error, delay)
        self.last_error = str(error)
        self.retry_at = time.time() + delay
        await asyncio.sleep(delay)
        self.retry_at = None
