"""Revisions with attachments on their way into a store of this process.

The content is streamed to the store, unless the store has it, checked against what the revision
tells of it, and then belongs to the revision in the same transaction that stores that.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

from msgspec.structs import replace

from agent.documents.attachment import Absent, Attachment, Content, Inline, Stored
from agent.documents.revision import Revision
from agent.errors import MissingStubError, NotFoundError, TransientError
from agent.peers.peer import Contents, WriteResult
from agent.store.store import Store

_GRAFT_BYTES = 4 * 1024 * 1024
"""Once so much content has come, the revisions that have theirs are stored: what is lost with a
connection is fetched again, and short content waits in memory."""


class _DamagedError(Exception):
    """The content is not what the revision says."""


async def store_with_attachments(
    store: Store, revisions: Sequence[Revision], contents: Contents | None
) -> list[WriteResult]:
    """As `Peer.store`. Content that is damaged or gone fails its revision only."""
    arrivals = _Arrivals(store, contents)
    try:
        results = [await arrivals.take(revision) for revision in revisions]
        await arrivals.graft()
    finally:
        await store.discard(arrivals.uploads)
    return results


class _Arrivals:
    def __init__(self, store: Store, contents: Contents | None) -> None:
        self._store = store
        self._contents = contents
        self._ready: list[Revision] = []
        self._size = 0
        self.uploads: list[Content] = []
        """Those of revisions that are not stored yet."""

    async def take(self, revision: Revision) -> WriteResult:
        known: list[Attachment] | None = None
        attachments = []
        for attachment in revision.attachments:
            if known is None:
                known = await self._store.attachments(revision.id)
            try:
                attachments.append(await self._with_content(revision, attachment, known))
            except _DamagedError as error:
                return WriteResult(revision.id, str(revision.rev), "bad_request", str(error))
            except NotFoundError as error:
                return WriteResult(revision.id, str(revision.rev), "not_found", str(error))
        self._ready.append(revision.with_attachments(attachments))
        if self._size >= _GRAFT_BYTES:
            await self.graft()
        return WriteResult(revision.id, str(revision.rev))

    async def graft(self) -> None:
        """Store what is ready."""
        try:
            await self._store.graft(self._ready)
        except MissingStubError as error:  # compacted away since it was looked for
            raise TransientError(f"{error}; it is fetched again") from error
        self._ready = []
        self._size = 0
        self.uploads.clear()

    async def _with_content(
        self, revision: Revision, attachment: Attachment, known: Sequence[Attachment]
    ) -> Attachment:
        content = attachment.content
        if isinstance(content, Inline):
            return attachment
        if isinstance(content, Stored) and await self._store.has_content(content.blob):
            return attachment
        for there in known:
            if (there.name, there.digest, there.encoding) == (
                attachment.name,
                attachment.digest,
                attachment.encoding,
            ):
                return replace(attachment, content=there.content)
        if self._contents is None:
            return replace(attachment, content=Absent.STUB)
        upload = self._store.upload()
        try:
            async with aclosing(self._contents(revision, attachment)) as pieces:
                async for piece in pieces:
                    await upload.write(piece)
            done = await upload.finish(
                attachment.name,
                attachment.content_type,
                encoding=attachment.encoding,
                length=attachment.length,
            )
        except BaseException:
            await upload.abort()
            raise
        damage = _damage(attachment, done)
        if damage:
            await self._store.discard([done.content])
            raise _DamagedError(f"attachment {attachment.name} is damaged: {damage}")
        self.uploads.append(done.content)
        self._size += done.stored_length
        return replace(done, revpos=attachment.revpos)


def _damage(told: Attachment, done: Attachment) -> str:
    if done.stored_length != told.stored_length:
        return f"it has {done.stored_length} bytes, not {told.stored_length}"
    if told.digest.startswith("md5-") and told.digest != done.digest:
        return f"its digest is {done.digest}, not {told.digest}"
    return ""
