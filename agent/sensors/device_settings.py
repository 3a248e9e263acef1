"""Keeps a device set as its document desires, and the document up to date with what it reports.

What is desired comes from the store, so it is durable before it is sent, and is found again after a
restart. What to send, and when, is decided in `shadow.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from agent.documents.attachment import Absent
from agent.documents.revision import Rev, Revision, canonical
from agent.documents.wire import body_text
from agent.errors import TransientError
from agent.sensors.device_document import (
    Body,
    Leaf,
    document_id,
    other_gateway,
    parting,
    reported_before,
    superfluous,
    with_report,
)
from agent.sensors.link import SerialLink
from agent.sensors.shadow import Shadow
from agent.sensors.times import timestamp
from agent.store.reader import StoredDocument
from agent.store.store import Store
from agent.store.transaction import Edit
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
    ) -> None:
        self.device = device
        self.id = document_id(device)
        self.last_error: str | None = None
        """Why the document is not as it should be."""
        settable = adapter if isinstance(adapter, SettableAdapter) else None
        why_not = "the device's firmware adapter cannot change settings"
        if not allowed:
            settable, why_not = None, "the gateway's configuration says commands = false"
        self._shadow = Shadow(settable, number=random.getrandbits(32), why_not=why_not)
        self._store = store
        self._gateway = gateway
        self._link = link
        self._sent = sent
        self._document: StoredDocument | None = None
        self._elsewhere: str | None = None
        """The other gateway that the document belongs to."""
        self._boot: int | str | None = None
        self._settled = 0
        """The document's sequence when its conflicts were looked at last."""
        self._write_after = 0.0
        self._loaded = asyncio.Event()
        self._stirred = asyncio.Event()

    # --- what happens ------------------------------------------------------------------

    def port_opened(self) -> None:
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
                self._shadow.hear(item.report, asyncio.get_running_loop().time(), _now())
                self._stirred.set()

    def document_changed(self, document: StoredDocument | None) -> None:
        """Take the document as it is now; None where there has never been one."""
        self._document = document
        body = _body(document)
        self._elsewhere = other_gateway(body, self._gateway)
        if not self._loaded.is_set() and self._elsewhere is None:
            self._shadow.restore(*reported_before(body))
        self._loaded.set()
        self._shadow.want(None if self._elsewhere else body.get("desired"), _now())
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
        if not self._is_to_be_written():
            return _NEVER
        if now < self._write_after:
            return self._write_after
        self._write_after = now + _WRITE_PAUSE
        try:
            await self._save()
        except TransientError as error:
            if str(error) != self.last_error:
                log.warning("device %s: its document is not written: %s", self.device, error)
            self.last_error = str(error)
            self._write_after = now + _RETRY_PAUSE
            return self._write_after
        self.last_error = None
        return _NEVER

    def _is_to_be_written(self) -> bool:
        document = self._document
        if self._elsewhere is not None:
            return False
        if document is None or document.deleted:
            return bool(self._shadow.reported or self._shadow.refused)
        if document.conflicts and document.seq != self._settled:
            return True
        body = _body(document)
        return canonical(self._up_to_date(body)) != canonical(body)

    async def _save(self) -> None:
        """Edits that others make meanwhile are kept. Raises StoreError, StoreWriteError."""
        while True:
            document = await self._store.get(self.id)
            edits = await self._edits(document)
            if not edits or None not in await self._store.edit(edits):
                break
        self._document = await self._store.get(self.id) if edits else document
        self._settled = self._document.seq if self._document is not None else 0

    async def _edits(self, document: StoredDocument | None) -> list[Edit]:
        if document is None or document.deleted:
            return [self._edit({}, None)]
        revisions, needless = await self._leaves(document)
        revision = next(each for each in revisions if each.rev not in needless)
        body: dict[str, Any] = msgspec.json.decode(revision.body)
        if other_gateway(body, self._gateway) is not None:
            return []
        edits = [Edit(self.id, rev, True, "{}", canonical({})) for rev in needless]
        if canonical(self._up_to_date(body)) != canonical(body):
            edits.append(self._edit(body, revision))
        return edits

    async def _leaves(self, document: StoredDocument) -> tuple[list[Revision], set[Rev]]:
        """The live leaves, the winner first, and which of them say nothing of their own."""
        if not document.conflicts:
            return [document.revision()], set()
        tree = document.tree()
        revs = [rev for rev in tree.leaves() if not tree.is_deleted(rev)]
        revisions = [revision for revision in await self._revisions(revs) if revision is not None]
        leaves = [_leaf(revision) for revision in revisions]
        partings = {
            rev for one in leaves for other in leaves if (rev := parting(one, other)) is not None
        }
        shared = [each for each in await self._revisions([*partings]) if each is not None]
        bodies = {each.rev: msgspec.json.decode(each.body) for each in shared}
        return revisions, {leaf.rev for leaf in superfluous(leaves, bodies.get)}

    async def _revisions(self, revs: Sequence[Rev]) -> list[Revision | None]:
        [found] = await self._store.revisions([(self.id, [str(rev) for rev in revs])])
        return [revision for _, revision in found]

    def _up_to_date(self, body: Body) -> dict[str, Any]:
        return with_report(
            body,
            device=self.device,
            gateway=self._gateway,
            reported=self._shadow.reported,
            refused=self._shadow.refused,
            at=_now(),
        )

    def _edit(self, body: Body, parent: Revision | None) -> Edit:
        told = self._up_to_date(body)
        attachments = () if parent is None else parent.attachments
        return Edit(
            self.id,
            None if parent is None else parent.rev,
            False,
            body_text(told),
            canonical(told),
            tuple(replace(each, content=Absent.STUB) for each in attachments),
        )


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


def _leaf(revision: Revision) -> Leaf:
    ancestors = [Rev(revision.generation - age, digest) for age, digest in enumerate(revision.path)]
    return Leaf(revision.rev, ancestors, msgspec.json.decode(revision.body))


def _body(document: StoredDocument | None) -> dict[str, Any]:
    if document is None or document.deleted:
        return {}
    body: dict[str, Any] = msgspec.json.decode(document.body)
    return body


def _now() -> str:
    return timestamp(time.time_ns() // 1000)
