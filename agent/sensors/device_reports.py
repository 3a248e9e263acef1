"""Writes what a device reports into its document, on top of what others have made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from agent.documents.attachment import Absent
from agent.documents.revision import Rev, Revision, canonical
from agent.documents.wire import body_text
from agent.sensors.device_document import (
    Body,
    Leaf,
    document_id,
    equal,
    other_gateway,
    parting,
    superfluous,
    with_report,
)
from agent.sensors.shadow import Refusal
from agent.store.store import Store
from agent.store.stored import StoredDocument
from agent.store.transaction import Edit
from firmware_adapters.adapter import Value


class DeviceReports:
    """The gateway's part of one device's document."""

    def __init__(self, store: Store, gateway: str, device: str) -> None:
        self.id = document_id(device)
        self._store = store
        self._gateway = gateway
        self._device = device
        self._settled = 0
        """The document's sequence when its conflicts were looked at last."""

    def are_in(
        self,
        document: StoredDocument | None,
        reported: Mapping[str, Value],
        refused: Mapping[str, Refusal],
    ) -> bool:
        """Whether there is nothing to write. A document without a report is not made."""
        if document is None or document.deleted:
            return not (reported or refused)
        if document.conflicts and document.seq != self._settled:
            return False
        body = body_of(document)
        return equal(self._with(body, reported, refused, ""), body)

    async def write(
        self, reported: Mapping[str, Value], refused: Mapping[str, Refusal], at: str
    ) -> StoredDocument | None:
        """Write a report into the winner, and delete leaves that only this gateway has caused.

        `at` is the time. Edits that others make meanwhile are kept. Returns the document as it is
        then. Raises StoreError, StoreWriteError.
        """
        while True:
            document = await self._store.get(self.id)
            edits = await self._edits(document, reported, refused, at)
            if not edits or None not in await self._store.edit(edits):
                break
        if edits:
            document = await self._store.get(self.id)
        self._settled = 0 if document is None else document.seq
        return document

    async def _edits(
        self,
        document: StoredDocument | None,
        reported: Mapping[str, Value],
        refused: Mapping[str, Refusal],
        at: str,
    ) -> list[Edit]:
        if document is None or document.deleted:
            return [self._edit(self._with({}, reported, refused, at), None)]
        revisions, needless = await self._leaves(document)
        revision = next(each for each in revisions if each.rev not in needless)
        body: dict[str, Any] = msgspec.json.decode(revision.body)
        if other_gateway(body, self._gateway) is not None:
            return []
        edits = [Edit(self.id, rev, True, "{}", canonical({})) for rev in needless]
        told = self._with(body, reported, refused, at)
        if not equal(told, body):
            edits.append(self._edit(told, revision))
        return edits

    async def _leaves(self, document: StoredDocument) -> tuple[list[Revision], set[Rev]]:
        """The live leaves, the winner first, and which of them say nothing of their own."""
        if not document.conflicts:
            return [document.revision()], set()
        tree = document.tree()
        revisions = await self._revisions(
            [rev for rev in tree.leaves() if not tree.is_deleted(rev)]
        )
        leaves = [_leaf(revision) for revision in revisions]
        partings = {
            rev for one in leaves for other in leaves if (rev := parting(one, other)) is not None
        }
        bodies = {
            each.rev: msgspec.json.decode(each.body) for each in await self._revisions([*partings])
        }
        return revisions, {leaf.rev for leaf in superfluous(leaves, bodies.get)}

    async def _revisions(self, revs: Sequence[Rev]) -> list[Revision]:
        """Those that are here, in this order."""
        [found] = await self._store.revisions([(self.id, [str(rev) for rev in revs])])
        return [revision for _, revision in found if revision is not None]

    def _with(
        self, body: Body, reported: Mapping[str, Value], refused: Mapping[str, Refusal], at: str
    ) -> dict[str, Any]:
        return with_report(
            body,
            device=self._device,
            gateway=self._gateway,
            reported=reported,
            refused=refused,
            at=at,
        )

    def _edit(self, told: Body, parent: Revision | None) -> Edit:
        attachments = () if parent is None else parent.attachments
        return Edit(
            self.id,
            None if parent is None else parent.rev,
            False,
            body_text(told),
            canonical(told),
            tuple(replace(each, content=Absent.STUB) for each in attachments),
        )


def body_of(document: StoredDocument | None) -> dict[str, Any]:
    """What a document says; nothing if it is deleted or has never been."""
    if document is None or document.deleted:
        return {}
    body: dict[str, Any] = msgspec.json.decode(document.body)
    return body


def _leaf(revision: Revision) -> Leaf:
    ancestors = [Rev(revision.generation - age, digest) for age, digest in enumerate(revision.path)]
    return Leaf(revision.rev, ancestors, msgspec.json.decode(revision.body))
