"""Keeps a database within its budget, and readings no longer than they are to be kept.

What every required remote has confirmed may go: by age, and where the budget asks for it from the
oldest on. When the budget is spent and nothing is confirmed, the configuration says what happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from math import inf
from typing import Any, Literal

import msgspec

from agent.errors import TransientError
from agent.replication.confirmations import Confirmation
from agent.store.retention import (
    PAGE,
    Found,
    Reason,
    Retained,
    Space,
    by_id,
    by_seq,
    old_ids,
    sensors,
    space,
)
from agent.store.store import Store

log = logging.getLogger(__name__)

_HIGH = 0.95
_LOW = 0.9
"""Of the budget. Beyond the first room is made, down to the second: seldom, and much at once, since
each time costs the card some writes. What is left above is for checkpoints and the like."""

_UNUSED = 0.02
"""Of the budget, what unused pages may take: new readings fill them, which spares moving others."""

_LOOK = 10.0
"""Seconds between looks at the size; they cost a query of three numbers at most."""

_GROWTH = 0.01
"""Of the budget: after so much more it is looked at again at once, as a backlog or a pull may bring
a budget's worth of documents between two looks."""

_SHORTEST, _LONGEST = 1.0, 3600.0
"""Seconds between looks at what has become too old."""

_THIN = 4
"""Of so many documents of a sensor thinning leaves one: with fewer deleted SQLite could not join
the pages that they were in, so nothing would be gained."""

_MOST_DROPPED = 20 * PAGE
"""Readings, or windows of readings, that are dropped at once, in one transaction."""

_GAP = 500
"""Bytes that another revision of a gap takes. Each time that something is dropped leaves one for
each sensor: a few readings at a time would give no room where there are hundreds of sensors."""

_LAPS = 2
"""Thinning goes over all readings so often at most before it gives up for now."""


class Rule(msgspec.Struct, frozen=True):
    """Readings of the sensors that two patterns match are kept for some seconds."""

    device: str
    sensor: str
    keep: float


class Options(msgspec.Struct, frozen=True):
    """`max_size` in bytes; of several rules for a sensor the first counts."""

    max_size: int | None = None
    when_full: Literal["stop", "drop-oldest", "thin"] = "stop"
    rules: Sequence[Rule] = ()

    def keep(self, sensor: str) -> float | None:
        """How long the readings of `device:sensor:` are kept, in seconds; None: no limit."""
        device, _, name = sensor[:-1].partition(":")
        for rule in self.rules:
            if fnmatchcase(device, rule.device) and fnmatchcase(name, rule.sensor):
                return rule.keep
        return None


class Retention:
    """Retention of one store. `run` does it; `load` comes first."""

    def __init__(
        self,
        store: Store,
        options: Options,
        confirmations: Iterable[Confirmation],
        *,
        clock: Callable[[], float] = time.time,
        known: Callable[[], bool] = lambda: True,
        correcting: Callable[[], bool] = bool,
    ) -> None:
        """`clock` tells the time in seconds since the epoch, and `known` whether that is right:
        nothing is old until then. `correcting` tells whether times of readings may still be
        corrected: those are not old until then, whatever they say.
        """
        self.retained = Retained(store)
        self.confirmations = list(confirmations)
        """Those who have to have what is deleted."""
        self.last_error: str | None = None
        self._store = store
        self._options = options
        self._clock = clock
        self._known = known
        self._correcting = correcting
        self._space = Space(0, 0, 0)
        self._aged = -_LONGEST
        self._passed = 0
        """Nothing up to this change can be deleted any more."""
        self._in_vain: tuple[int | None, int] | None = None
        """What was confirmed, and the newest change, when there was not enough to delete."""
        self._waits_for: str | None = None
        self._dropped_at: float | None = None
        keeps = [rule.keep for rule in options.rules]
        self._interval = min(max(min(keeps, default=_LONGEST) / 20, _SHORTEST), _LONGEST)

    async def load(self) -> None:
        """Raises StoreError."""
        await self.retained.load()

    def unwanted(self, id: str, *, devices: Collection[str] | None) -> bool:
        """Whether a document is a reading that was deleted here, so that a pull is not to bring it
        back; of these `devices` only, unless that is None."""
        of_them = devices is None or id.partition(":")[0] in devices
        return of_them and self.retained.floors.above(id) is not None

    async def run(self) -> None:
        """Never returns."""
        while True:
            try:
                await self.once()
                self.last_error = None
            except TransientError as error:
                if str(error) != self.last_error:
                    log.warning("retention: %s; it is tried again", error)
                self.last_error = str(error)
            await self._pause()

    async def _pause(self) -> None:
        """Until it is time to look, or the budget is nearly spent and more of it than before."""
        most = self._options.max_size
        enough = inf if most is None else max(_HIGH * most, self._space.data) + _GROWTH * most
        failed = self.last_error is not None  # a disk that is full is not asked all the time
        if self._store.refusal is not None and self._more_has_come() and not failed:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_LOOK, self._interval)):
                while self._store.data <= enough and not self._store.closed:
                    await self._store.wait(self._store.update_seq)

    async def once(self) -> None:
        """Delete what has become too old, if it is time to look, and make room if there is need.

        Raises StoreError, StoreWriteError.
        """
        if self._known() and time.monotonic() - self._aged >= self._interval:
            self._aged = time.monotonic()
            await self._delete_aged()
        if self._options.max_size is not None:
            await self._keep_within(self._options.max_size)

    def status(self) -> dict[str, Any]:
        """Sizes in bytes. `refusing` says why nothing is taken; `waits_for` who has not confirmed
        what would have to go; `dropped_at` is when something was dropped, since the start. Of
        readings that are gone `deleted` were confirmed by all and `dropped` were not, for as long
        as the store lasts; `others` are of sensors beyond those that are remembered singly."""
        return {
            "max_size": self._options.max_size,
            "used": self._space.used,
            "when_full": self._options.when_full,
            "refusing": self._store.refusal,
            "waits_for": self._waits_for,
            "dropped": self.retained.dropped,
            "dropped_at": None if self._dropped_at is None else _timestamp(self._dropped_at),
            "last_error": self.last_error,
            "sensors": [
                {
                    "device": name.partition(":")[0],
                    "sensor": name[:-1].partition(":")[2],
                    "deleted": record.deleted,
                    "dropped": record.dropped,
                }
                for name, record in self.retained.record.sensors.items()
            ],
            "others": msgspec.structs.asdict(self.retained.record.others),
        }

    # --- age ---------------------------------------------------------------------------

    async def _delete_aged(self) -> None:
        if not self._options.rules:
            return
        until = await self._confirmed()
        if until is None:
            until = self._store.update_seq  # nobody has to have anything
        after: str | None = ""
        while after is not None:
            names, after = await self._store.query(partial(sensors, after=after))
            for name in names:
                keep = self._options.keep(name)
                if keep is not None:
                    await self._delete_before(name, _timestamp(self._clock() - keep), until)
        await self._give_back()

    async def _delete_before(self, sensor: str, before: str, until: int) -> None:
        after, end = "", await self._store.query(partial(old_ids, sensor=sensor, before=before))
        while True:
            page = await self._store.query(partial(by_id, sensor=sensor, after=after, end=end))
            confirmed = [found for found in page if found.seq <= until]
            provisional = self._correcting()
            await self._delete_had(
                [
                    found
                    for found in confirmed
                    if found.readings
                    and found.time < before
                    and not (provisional and found.provisional)
                ]
            )
            if len(page) < PAGE or not confirmed:
                return  # what comes after what nobody has confirmed is still newer
            after = page[-1].id
            if after > sensor + before and page[-1].time >= before:
                return

    # --- size --------------------------------------------------------------------------

    async def _keep_within(self, most: int) -> None:
        high, low, unused = (int(part * most) for part in (_HIGH, _LOW, _UNUSED))
        await self._look()
        if self._space.used > high:
            state = (await self._confirmed(), self._store.update_seq)
            if self._space.data > high and state != self._in_vain:
                await self._make_room(state[0], low)
                self._in_vain = state if self._space.data > high else None
            await self._store.give_back(keep=unused)
            await self._look()
        # What may drop more the next time has the room that is left until then.
        full = self._space.data > (high if self._options.when_full == "stop" else most)
        before, self._store.refusal = self._store.refusal, self._full(most) if full else None
        if full and not self._more_has_come() and before != self._store.refusal:
            log.warning("retention: nothing is recorded any more: %s", self._store.refusal)
        elif before is not None and not full:
            log.info("retention: there is room again")

    def _more_has_come(self) -> bool:
        """Whether that is why there is no room: more can be made at once."""
        return self._in_vain is None or self._in_vain[1] != self._store.update_seq

    async def _make_room(self, until: int | None, low: int) -> None:
        if until is not None:
            await self._delete_confirmed(until, low)
        if self._space.data <= low:
            return
        await self._store.start_compaction()  # old bodies, before what some remote lacks
        if await self._look() <= low or self._options.when_full == "stop":
            return
        reason = self._options.when_full
        before = self.retained.dropped
        if reason == "drop-oldest":
            await self._drop_oldest(low)
        else:
            await self._thin(low)
        log.warning(
            "retention: %d readings were dropped that %s does not have (%s)",
            self.retained.dropped - before,
            self._waits_for or "no remote",
            reason,
        )

    async def _delete_confirmed(self, until: int, low: int) -> None:
        after, all_gone = self._passed, True
        while page := await self._store.query(partial(by_seq, after=after, until=until)):
            able = [found for found in page if found.readings]
            all_gone &= await self._delete_had(able) == len(able)
            after = page[-1].seq
            if all_gone:
                self._passed = after
            if await self._look() <= low:
                return

    async def _drop_oldest(self, low: int) -> None:
        newest = self._store.update_seq
        while self._passed < newest:
            enough = self._space.data - low
            drop, after = await self._chosen(_whole, self._passed, newest, enough)
            await self._drop(drop, "drop-oldest")
            self._passed = after
            if await self._look() <= low:
                return

    async def _thin(self, low: int) -> None:
        newest = self._store.update_seq
        for _ in range(_LAPS):
            after = self.retained.record.thinned
            turns: dict[str, int] = {}

            def goes(found: Found, turns: dict[str, int] = turns) -> bool:
                if not found.readings:
                    return False
                turn = turns[found.key] = turns.get(found.key, -1) + 1
                return bool(turn % _THIN)

            while after < newest:
                drop, after = await self._chosen(goes, after, newest, self._space.data - low)
                await self._drop(drop, "thin", thinned=after)
                if await self._look() <= low:
                    return
            await self._drop([], "thin", thinned=0)  # from the beginning, where one in four is left

    async def _chosen(
        self, goes: Callable[[Found], bool], after: int, until: int, enough: int
    ) -> tuple[list[Found], int]:
        """What is to go of the changes after one, from the oldest on, until that gains `enough`
        bytes or is as much as one transaction should delete; and the change up to which was looked.
        """
        chosen: list[Found] = []
        gaps: set[str] = set()
        size = 0
        while page := await self._store.query(partial(by_seq, after=after, until=until)):
            for found in page:
                after = found.seq
                if goes(found):
                    chosen.append(found)
                    gaps.add(found.key)
                    size += found.size
                if size - _GAP * len(gaps) >= enough or len(chosen) == _MOST_DROPPED:
                    return chosen, after
        return chosen, until

    # --- what both need ----------------------------------------------------------------

    async def _confirmed(self) -> int | None:
        """Up to here everybody has everything; None when nobody has to."""
        seqs = {party.name: await party.seq() for party in self.confirmations}
        self._waits_for = min(seqs, key=seqs.__getitem__) if seqs else None
        return min(seqs.values(), default=None)

    async def _delete_had(self, documents: Sequence[Found]) -> int:
        for party in self.confirmations:
            documents = await party.had(documents)
        return await self._delete(documents, None) if documents else 0

    async def _drop(
        self, documents: Sequence[Found], reason: Reason, *, thinned: int | None = None
    ) -> None:
        if not documents and thinned is None:
            return
        if await self._delete(documents, reason, thinned=thinned):
            self._dropped_at = self._clock()

    async def _delete(
        self, documents: Sequence[Found], reason: Reason | None, *, thinned: int | None = None
    ) -> int:
        now = _timestamp(self._clock())
        return await self.retained.delete(documents, reason, now=now, thinned=thinned)

    async def _look(self) -> int:
        """How many bytes the data takes now."""
        self._space = await space(self._store)
        return self._space.data

    async def _give_back(self) -> None:
        """Give unused pages back once there are many."""
        size = await self._look() + self._space.unused
        keep = int(_UNUSED * (self._options.max_size or size))
        if self._space.unused > 2 * keep:
            await self._store.give_back(keep=keep)

    def _full(self, most: int) -> str:
        budget = f"the database has used up its {most} bytes (retention.max_size)"
        if self._more_has_come():
            return f"{budget}, and room is being made; it is tried again"
        if self._options.when_full != "stop":
            return f"{budget} with what retention does not delete; give it more room"
        if self._waits_for is None:
            return f"{budget}, and nobody takes its readings; give it more room, or add a remote"
        return (
            f"{budget}, and {self._waits_for} has not confirmed what would have to go; see to it "
            "that it does, or give the database more room"
        )


def _whole(found: Found) -> bool:
    return bool(found.readings)


def _timestamp(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
