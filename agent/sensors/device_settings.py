"""Keeps a device set as its document desires, and the document up to date with what it reports.

What is desired comes from the store, so it is durable before it is sent, and is found again after a
restart. What to send, and when, is decided in `shadow.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from agent.errors import TransientError
from agent.sensors.clock import AgentClock
from agent.sensors.device_document import other_gateway, reported_before
from agent.sensors.device_reports import DeviceReports, body_of
from agent.sensors.link import SerialLink
from agent.sensors.shadow import Shadow
from agent.store.store import Store
from agent.store.stored import StoredDocument
from firmware_adapters.adapter import Adapter, Event, Reading, SettableAdapter

log = logging.getLogger(__name__)

_LOOK_PAUSE = 0.2
"""Seconds between two looks at the documents, which are one short query."""

_WRITE_PAUSE = 1.0
"""Seconds between two writes of a document: a device may say something new all the time."""

_RETRY_PAUSE = 5.0
"""Seconds until a write is tried again that the store did not take."""

_NEVER = float("inf")


class DeviceSettings:
    """The settings of one device. `run` sends and writes; the other methods take what happens.

    `gateway` is the agent's name. With `allowed` unset the device is sent nothing, and what is
    desired is refused. `sent` is called after each command.
    Without a `clock` times are the system's.
    """

    def __init__(
        self,
        store: Store,
        gateway: str,
        device: str,
        adapter: Adapter,
        link: SerialLink,
        *,
        allowed: bool = True,
        sent: Callable[[], None] = lambda: None,
        clock: AgentClock | None = None,
    ) -> None:
        self.device = device
        self._reports = DeviceReports(store, gateway, device)
        self.id = self._reports.id
        self.last_error: str | None = None
        """Why the document is not as it should be."""
        settable = adapter if isinstance(adapter, SettableAdapter) else None
        why_not = "the device's firmware adapter cannot change settings"
        if not allowed:
            settable, why_not = None, "the gateway's configuration says commands = false"
        self._shadow = Shadow(settable, number=random.getrandbits(32), why_not=why_not)
        self._gateway = gateway
        self._link = link
        self._sent = sent
        self._clock = clock or AgentClock.of_system()
        self._document: StoredDocument | None = None
        self._elsewhere: str | None = None
        """The other gateway that the document belongs to."""
        self._boot: int | str | None = None
        self._write_after = 0.0
        self._loaded = asyncio.Event()
        self._stirred = asyncio.Event()

    # --- what happens ------------------------------------------------------------------

    def port_opened(self) -> None:
        """Another device may be there, one that expects no bytes."""
        self._shadow.takes_bytes = False
        self._shadow.began()
        self._stirred.set()

    def hear(self, items: Sequence[Reading | Event]) -> None:
        """Take what the device says, in its order."""
        for item in items:
            if item.boot is not None and item.boot != self._boot:
                self._boot = item.boot
                self._shadow.began()
                self._stirred.set()
            if item.held is not None and not self._shadow.takes_bytes:
                self._shadow.takes_bytes = True
                self._stirred.set()
            if isinstance(item, Event) and item.report is not None:
                self._shadow.hear(item.report, asyncio.get_running_loop().time(), self._clock.now())
                self._stirred.set()

    def document_changed(self, document: StoredDocument | None) -> None:
        """Take the document as it is now; None where there has never been one."""
        self._document = document
        body = body_of(document)
        self._elsewhere = other_gateway(body, self._gateway)
        if not self._loaded.is_set() and self._elsewhere is None:
            self._shadow.restore(*reported_before(body))
        self._loaded.set()
        self._shadow.want(None if self._elsewhere else body.get("desired"), self._clock.now())
        self._stirred.set()

    def status(self) -> dict[str, Any]:
        """For the agent's status: plain JSON values."""
        states = self._shadow.states()
        error = self.last_error
        if self._elsewhere is not None:
            error = (
                f"{self.id} belongs to the gateway {self._elsewhere!r}: give this device another "
                'name, or take "gateway" out of the document'
            )
        return {
            "desired": self._shadow.desired,
            "reported": self._shadow.reported,
            "pending": [name for name, state in states.items() if state == "pending"],
            "refused": msgspec.to_builtins(self._shadow.refused),
            "last_error": error,
        }

    # --- what is done ------------------------------------------------------------------

    async def run(self) -> None:
        """Send commands and write the document. Never returns."""
        await self._loaded.wait()
        while True:
            self._stirred.clear()
            wake = min(self._turn(), await self._write())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(None if wake == _NEVER else wake):
                    await self._stirred.wait()

    def _turn(self) -> float:
        if self._link.state != "open" or self._elsewhere is not None:
            return _NEVER
        data, wake = self._shadow.turn(asyncio.get_running_loop().time())
        if data:
            self._link.send(data)  # what is not sent is not answered, and is sent again
        self._sent()
        return wake

    async def _write(self) -> float:
        """Write the document if it has to be; returns when to call this again."""
        now = asyncio.get_running_loop().time()
        told = self._shadow.reported, self._shadow.refused
        if self._elsewhere is not None or self._reports.are_in(self._document, *told):
            return _NEVER
        if now < self._write_after:
            return self._write_after
        self._write_after = now + _WRITE_PAUSE
        try:
            self._document = await self._reports.write(*told, self._clock.now())
        except TransientError as error:
            if str(error) != self.last_error:
                log.warning("device %s: its document is not written: %s", self.device, error)
            self.last_error = str(error)
            self._write_after = now + _RETRY_PAUSE
            return self._write_after
        self.last_error = None
        return _NEVER


async def follow_documents(store: Store, devices: Sequence[DeviceSettings]) -> None:
    """Tell devices of their documents, as they are and as they change, until the store is closed.

    A look costs one query of ids, however much is written meanwhile.
    """
    by_id = {device.id: device for device in devices}
    untold = set(by_id)
    seq = 0
    while not store.closed:
        page = await store.changes_of([*by_id], seq)
        for document in page.documents:
            by_id[document.id].document_changed(document)
            untold.discard(document.id)
        seq = page.last_seq
        if page.pending:
            continue
        for id in untold:
            by_id[id].document_changed(None)
        untold.clear()
        await store.wait(seq)
        await asyncio.sleep(_LOOK_PAUSE)
