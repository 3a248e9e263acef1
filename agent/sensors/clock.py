"""The agent's clock: asks its sources what time it is, and corrects what was recorded before.

A gateway without a battery starts with a wrong time. What is recorded until a source has told the
right one is marked (`Mark`); then those readings that are wrong are edited, each once, to what the
monotonic clock says. What has to be done is kept in `_local/clock`, so that the next process goes
on with it: from the same offset, hence with the same revisions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agent.config_clock import ClockConfig
from agent.documents.revision import Revision, first_revision
from agent.documents.times import microseconds, timestamp
from agent.sensors.correction import corrected, is_marked
from agent.sensors.machine import LinuxMachine, Machine
from agent.sensors.moments import Scale
from agent.sensors.timekeeping import Measurement, Rank, Timekeeper
from agent.store.store import Store
from agent.store.transaction import Transaction

log = logging.getLogger(__name__)

_SECOND = 1_000_000
_LOOK_UNSURE, _LOOK_SURE = 1.0, 10.0
"""Seconds from one look at the machine's clock to the next."""

_LONGEST_CALL = 5 * _SECOND
"""A Date whose request and answer are further apart says too little."""

_DELAY, _LONGEST_DELAY = _SECOND // 4, 3 * _SECOND
"""How long it takes from the moment that a device tells until what it said is taken note of: most
have a line of 4800 baud to say it on, and a busy machine may take its time."""

_AGREE = 2 * _SECOND
"""A device has to say the same twice: a check value does not catch all damage."""

_LOCAL = "clock"
_PAGE = 500
_AT_ONCE = 100
"""Documents corrected in one transaction: new readings get between."""


class Boot(Struct, frozen=True, omit_defaults=True):
    """A boot of the machine that began without knowing the time.

    What it has marked came after the change `since`. `offset` makes times of its monotonic clock;
    `known` is the moment on that when it was found out.
    """

    boot_id: str
    since: int
    offset: int | None = None
    known: int = 0
    source: str = ""


class _Kept(Struct, frozen=True):
    """The document `_local/clock`: what has still to be done."""

    boots: list[Boot]


class AgentClock:
    """The time of one agent. `open` it before anything is recorded; `run` and `correct` are to run.

    Without `open` nothing is remembered or corrected, and the system clock is to be trusted.
    """

    def __init__(self, config: ClockConfig, machine: Machine) -> None:
        self._config = config
        self._machine = machine
        self._keeper = Timekeeper(
            machine.boot_id, machine.offset(), trusted=config.trust == "system"
        )
        self._tolerance = round(_SECOND * config.tolerance)
        self._told: dict[str, int] = {}
        self._since = machine.monotonic()
        self._listeners: list[Callable[[], None]] = []
        self._work = asyncio.Event()
        self._store: Store
        self._name = ""
        self._devices: Collection[str] = ()
        self._boots: list[Boot] = []
        self.corrected = 0
        """Documents corrected since the start."""
        self.waiting: int | None = 0
        """Documents whose time is not known yet, or has still to be compared with what it was; None
        while there may be some that a process before has left: on a machine where nobody ever tells
        the time they are all readings since it started, too many to be counted at each start."""

    @classmethod
    def of_system(cls) -> AgentClock:
        """One that takes the system clock as it is."""
        return cls(ClockConfig(trust="system"), LinuxMachine(""))

    @property
    def boot_id(self) -> str:
        return self._machine.boot_id

    # --- for recorders -----------------------------------------------------------------

    def monotonic(self) -> int:
        """The present moment, in microseconds since the boot."""
        return self._machine.monotonic()

    def scale(self) -> Scale:
        """How moments are told at present."""
        if self._keeper.trusted:
            self._keeper.see(self._machine.offset())
        return self._keeper.scale

    def now(self) -> str:
        """The time, as well as it is known: RFC 3339 in UTC."""
        return timestamp(self.monotonic() + self.scale().offset)

    def seconds(self) -> float:
        """The same, in seconds since the epoch."""
        return (self.monotonic() + self.scale().offset) / _SECOND

    def at_least(self, newest: int, ahead: int) -> None:
        """Go on after what was recorded before; see `Timekeeper.at_least`."""
        self._keeper.at_least(newest, ahead, self.monotonic())

    def marked(self, documents: int) -> None:
        """So many documents with a provisional time are stored."""
        if self.waiting is not None:
            self.waiting += documents
        if documents and self._keeper.sure:
            self._work.set()

    def when_known(self, listener: Callable[[], None]) -> None:
        """Call it when the time becomes known."""
        self._listeners.append(listener)

    # --- sources -----------------------------------------------------------------------

    def date(self, remote: str, date: str, sent: float, *, tls: bool) -> None:
        """A remote's answer had this Date (RFC 9110, section 6.6.1), to a request that was sent at
        that moment of the monotonic clock (seconds); it has just come."""
        if not self._config.believes("https" if tls else "http"):
            return
        now, asked = self.monotonic(), round(_SECOND * sent)
        with contextlib.suppress(ValueError, OverflowError):  # what is no date says nothing
            told = round(_SECOND * parsedate_to_datetime(date).replace(tzinfo=UTC).timestamp())
            if now - asked <= _LONGEST_CALL:
                rank = Rank.HTTPS if tls else Rank.HTTP
                # It is that of a whole second, which was the present one in between.
                low, high = told - now, told + _SECOND - asked
                self._hear(Measurement(f"remote {remote}", rank, low, (low + high) // 2, high))

    def told(self, device: str, at: str, arrived: int) -> None:
        """A device told a time (RFC 3339 in UTC) in what arrived at that moment (microseconds)."""
        with contextlib.suppress(ValueError):
            low = microseconds(at) - arrived
            before, self._told[device] = self._told.get(device), low
            if before is not None and abs(low - before) < _AGREE:
                best, high = low + _DELAY, low + _LONGEST_DELAY
                self._hear(Measurement(f"device {device}", Rank.DEVICE, low, best, high))

    def _look(self) -> None:
        """Look at the machine's clock."""
        offset = self._machine.offset()
        self._keeper.see(offset)
        if self._config.believes("ntp") and self._machine.synchronised():
            self._hear(Measurement("ntp", Rank.NTP, offset, offset, offset))

    def _hear(self, told: Measurement) -> None:
        before = self._keeper.scale
        self._keeper.hear(told, self.monotonic())
        now = self._keeper.scale
        if before.unset and not now.unset:
            self._since = self.monotonic()
            off = (now.offset - before.offset) / _SECOND
            log.info("%s tells the time; it was %+.1f s off", self._keeper.source, off)
            self._work.set()
            for listener in self._listeners:
                listener()
        elif abs(now.offset - before.offset) >= _SECOND:
            step = (now.offset - before.offset) / _SECOND
            log.warning("%s has put the time right by %+.1f s", self._keeper.source, step)

    # --- running -----------------------------------------------------------------------

    async def open(self, store: Store, name: str, devices: Collection[str]) -> None:
        """Begin with what is kept in the store of the agent of that name, which records `devices`.

        Raises StoreError, StoreWriteError.
        """
        self._store, self._name, self._devices = store, name, devices
        found = await store.get_local(_LOCAL)
        if found is not None:
            try:
                # Earlier versions kept the list alone, which is no document.
                kept = msgspec.json.decode(found[1], type=_Kept | list[Boot])
                self._boots = kept.boots if isinstance(kept, _Kept) else kept
            except msgspec.DecodeError as error:
                log.warning("_local/%s is no use: %s", _LOCAL, error)
        present = self._present()
        if present is not None and present.offset is not None and not self._keeper.sure:
            self._keeper = Timekeeper(present.boot_id, self._machine.offset(), known=present.offset)
            self._keeper.source = present.source
        self._look()
        if self._boots:
            self.waiting = None
            self._work.set()
        if present is None and not self._keeper.sure:
            await self._save(Boot(self._machine.boot_id, store.update_seq))

    async def run(self) -> None:
        """Look at the machine's clock now and then. Never returns."""
        while True:
            await asyncio.sleep(_LOOK_SURE if self._keeper.sure else _LOOK_UNSURE)
            self._look()

    async def correct(self) -> None:
        """Correct what was marked, as soon as the time is known. Never returns.

        Raises StoreError, StoreWriteError.
        """
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                for boot in list(self._boots):
                    await self._settle(boot)
                if self._keeper.sure and not self._work.is_set():
                    self.waiting = 0
            except BaseException:
                self._work.set()  # whoever starts it again goes on where it was
                raise

    async def _settle(self, boot: Boot) -> None:
        """Do what can be done about what was marked in a boot."""
        present = boot.boot_id == self._machine.boot_id
        if present and not self._keeper.sure:
            return
        if boot.offset is None:
            found = self._found_out(boot) if present else boot
            await self._save(found if present else None, boot, self._account(found))
            if not present:
                return
            boot = found
        assert boot.offset is not None  # noqa: S101
        end = self._store.update_seq
        async for ids in self._marked(boot, end):
            await self._correct(ids, boot.boot_id, boot.offset)
        if not present:
            await self._save(None, boot)
        elif end > boot.since:
            await self._save(replace(boot, since=end), boot)

    def _found_out(self, boot: Boot) -> Boot:
        offset, known = self._keeper.scale.offset, self.monotonic()
        return replace(boot, offset=offset, known=known, source=self._keeper.source or "")

    async def _marked(self, boot: Boot, end: int) -> AsyncGenerator[list[str], None]:
        """The ids of the documents of a boot that are marked, up to the change `end`."""
        since = boot.since
        while since < end:
            page = await self._store.changes(since, limit=_PAGE)
            yield [
                document.id
                for document in page.documents
                if document.seq <= end
                and not document.deleted
                and boot.boot_id in document.body  # which is quick, and spares decoding most
                and self._is_ours(msgspec.json.decode(document.body), boot.boot_id)
            ]
            since = page.last_seq

    def _is_ours(self, body: dict[str, Any], boot_id: str) -> bool:
        marked = is_marked(body, boot_id) or is_marked(body, boot_id, "cleared_")
        return marked and body.get("device") in self._devices

    async def _correct(self, ids: Sequence[str], boot_id: str, offset: int) -> None:
        def change(body: dict[str, Any]) -> dict[str, Any] | None:
            return corrected(body, boot_id, offset, self._tolerance)

        def operation(transaction: Transaction) -> int:
            return sum(transaction.rewrite(id, change) for id in batch)

        for start in range(0, len(ids), _AT_ONCE):
            batch = ids[start : start + _AT_ONCE]
            began = time.monotonic()
            self.corrected += await self._store.write(operation)
            if self.waiting is not None:
                self.waiting = max(0, self.waiting - len(batch))
            await asyncio.sleep(time.monotonic() - began)  # half of the time is for others

    def _account(self, boot: Boot) -> Revision:
        """A document that says how a boot's moments become times, or that nobody knows."""
        body: dict[str, Any] = {"type": "clock", "agent": self._name, "boot_id": boot.boot_id}
        if boot.offset is None:
            body["clock"] = "unknown"
        else:
            body["clock"] = "known"
            body["source"] = boot.source
            body["time"] = timestamp(boot.known + boot.offset)
            body["monotonic"] = boot.known / 1000
        return first_revision(f"clock:{self._name}:{boot.boot_id}", body)

    async def _save(
        self, boot: Boot | None, former: Boot | None = None, account: Revision | None = None
    ) -> None:
        """Keep a boot in place of its `former` state; None: there is no more to do about it."""
        boots = [kept for kept in self._boots if kept is not former]
        boots += [] if boot is None else [boot]
        text = msgspec.json.encode(_Kept(boots)).decode()

        def operation(transaction: Transaction) -> None:
            if account is not None:
                transaction.graft([account])
            transaction.locals.overwrite(_LOCAL, 0, text)

        await self._store.write(operation)
        self._boots = boots

    def _present(self) -> Boot | None:
        """This boot, if it began without knowing the time."""
        boots = (boot for boot in self._boots if boot.boot_id == self._machine.boot_id)
        return next(boots, None)

    def status(self) -> dict[str, Any]:
        """For the agent's status: plain JSON values. `offset` is what the system clock lacks, in
        seconds, `since` when the time became known, or when the agent started without it."""
        scale = self.scale()
        return {
            "state": "unsure" if scale.unset else "sure",
            "source": self._keeper.source,
            "offset": round((scale.offset - self._machine.offset()) / _SECOND, 3),
            "since": timestamp(self._since + scale.offset),
            "corrected": self.corrected,
            "waiting": self.waiting,
        }
