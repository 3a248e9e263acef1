"""One call that came over MQTT, made of a peer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from agent.documents.attachment import Attachment, Inline
from agent.documents.revision import Revision
from agent.errors import NotFoundError, PermanentError
from agent.peers.mqtt_calls import (
    MOST_CHANGES,
    MOST_LEAVES,
    AttachmentContent,
    Changes,
    Create,
    EnsureFullCommit,
    Fetch,
    GetLocal,
    Info,
    LeavesOf,
    PutLocal,
    RangesOf,
    Request,
    RevsDiff,
    Store,
    info_to_wire,
    local_from_json,
    local_to_wire,
    object_from_json,
    page_to_wire,
    parsed_rev,
    refusals_to_wire,
    seq_from_json,
)
from agent.peers.mqtt_exchange import Contents, Exchange
from agent.peers.mqtt_revisions import found_to_wire, revision_from_wire
from agent.peers.mqtt_wire import Source
from agent.peers.peer import ChangeBatch, Comparable, Peer
from agent.server.mqtt_served import Served


class DatabaseCall:
    """A call to a database, with the exchange by which the gateway takes part in it.

    After `answer`, `contents` are what may be asked for besides it, and `size` is about how many
    bytes it has.
    """

    def __init__(self, served: Served, database: str, exchange: Exchange) -> None:
        self.contents: Contents | None = None
        self.size = 0
        self._served = served
        self._database = database
        self._exchange = exchange

    async def answer(self, request: Request) -> Any:
        """What goes with the call as its result. Raises what the peer raises, and WireError."""
        if isinstance(request, Create):
            return await self._served.create(self._database)
        peer = await self._served.peer(self._database)
        match request:
            case Info():
                return info_to_wire(await peer.info())
            case EnsureFullCommit():
                return await peer.ensure_full_commit()
            case Changes():
                return page_to_wire(await _page(peer, request))
            case RevsDiff():
                return await peer.revs_diff(request.revs)
            case Fetch():
                return await self._fetch(peer, request)
            case Store():
                return await self._store(peer, request)
            case AttachmentContent():
                return await self._attachment(peer, request)
            case GetLocal():
                return local_to_wire(await peer.get_local(request.id))
            case PutLocal():
                return await peer.put_local(request.id, local_from_json(request.doc))
            case RangesOf():
                return await _comparable(peer).ranges(request.level, request.spans)
            case LeavesOf():
                return await _comparable(peer).leaves(request.span, min(request.limit, MOST_LEAVES))

    async def _fetch(self, peer: Peer, request: Fetch) -> Any:
        found = await peer.fetch(request.wanted)
        self.size = sum(len(item.body) for item in found if isinstance(item, Revision))
        return found_to_wire(found)

    async def _store(self, peer: Peer, request: Store) -> Any:
        """What may not be stored is told in its place; the rest is stored."""
        checked = [revision_from_wire(value) for value in request.revisions]
        accepted = [item for item in checked if isinstance(item, Revision)]

        def contents(revision: Revision, attachment: Attachment) -> AsyncGenerator[bytes, None]:
            place = next(
                place
                for place, item in enumerate(checked)
                if isinstance(item, Revision) and (item.id, item.rev) == (revision.id, revision.rev)
            )
            return self._exchange.content(place, attachment.name)

        stored = iter(await peer.store(accepted, contents) if accepted else ())
        return refusals_to_wire(
            next(stored) if isinstance(item, Revision) else item for item in checked
        )

    async def _attachment(self, peer: Peer, request: AttachmentContent) -> None:
        rev = str(parsed_rev(request.rev))
        for revision in await peer.fetch([(request.id, [rev])]):
            if isinstance(revision, Revision):
                for attachment in revision.attachments:
                    if attachment.name == request.name:
                        self._give(peer, revision, attachment, request.offset)
                        return
        raise NotFoundError(f"{request.id} {rev} has no attachment {request.name} here")

    def _give(self, peer: Peer, revision: Revision, attachment: Attachment, offset: int) -> None:
        def contents(_: Source) -> AsyncGenerator[bytes, None]:
            if isinstance(attachment.content, Inline):
                return _whole(attachment.content.data[offset:])
            return _from(offset, peer.attachment(revision, attachment))

        self.contents = contents


def _comparable(peer: Peer) -> Comparable:
    if isinstance(peer, Comparable):
        return peer
    raise PermanentError(f"{peer.label} cannot be compared by ranges")


async def _page(peer: Peer, request: Changes) -> ChangeBatch:
    since = seq_from_json(request.since)
    changes = peer.changes(
        since,
        follow=False,
        limit=min(request.limit, MOST_CHANGES),
        selector=None if request.selector is None else object_from_json(request.selector),
        doc_ids=request.doc_ids,
    )
    async with aclosing(changes) as batches:
        async for batch in batches:
            return batch
    return ChangeBatch((), since, 0)


async def _whole(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


async def _from(offset: int, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """What comes after the first `offset` bytes."""
    async with aclosing(pieces):
        async for piece in pieces:
            if offset < len(piece):
                yield piece[offset:]
            offset = max(0, offset - len(piece))
