"""A database behind an MQTT broker, where a hub or a bridge answers for it.

The protocol is in docs/mqtt.md.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from msgspec.structs import replace

from agent.documents.attachment import Attachment
from agent.documents.ranges import Leaves, Range, Span
from agent.documents.revision import Revision
from agent.errors import ConflictError, NotFoundError
from agent.peers.mqtt_caller import Caller
from agent.peers.mqtt_calls import (
    MOST_LEAVES,
    MOST_SPANS,
    Changes,
    Create,
    EnsureFullCommit,
    Fetch,
    GetLocal,
    Info,
    LeavesOf,
    PutLocal,
    RangesOf,
    RevsDiff,
    Store,
    info_from_wire,
    leaves_from_wire,
    local_from_wire,
    missing_from_wire,
    nothing_from_wire,
    page_from_wire,
    ranges_from_wire,
    results_from_wire,
    text_from_wire,
    to_json,
)
from agent.peers.mqtt_revisions import found_from_wire, revision_to_wire
from agent.peers.mqtt_tls import TlsFiles
from agent.peers.mqtt_topics import parse_mqtt_url
from agent.peers.mqtt_wire import Source
from agent.peers.peer import ChangeBatch, Contents, PeerInfo, PresenceFigures, Seq, WriteResult
from agent.peers.urls import Credentials


class MqttPeer:
    """A `Peer` that is asked over MQTT. It connects with the first call.

    Every method raises, besides what it names: ConnectError, RemoteBusyError, TlsError, AuthError,
    RemoteMissingError (no such database), RemoteError; ConfigError (`ca_file` and the like).
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        node: str | None = None,
        client_id: str | None = None,
        tls: TlsFiles | None = None,
        announce: bool = False,
        keepalive: float = 30.0,
        timeout: float = 30.0,
    ) -> MqttPeer:
        """A peer for `mqtt://user:password@host/database`; `user` and `password` come before those
        in the URL. `announce` makes its connection the node's presence. `keepalive` and `timeout`,
        for an answer or a part of one, are in seconds.

        Without a `node`, as for a command that somebody runs beside an agent, the user is the
        node, or else the host's name; without a `client_id` the client is a new one. Raises
        ConfigError.
        """
        broker, database, credentials = parse_mqtt_url(url)
        known = credentials or Credentials("", "")
        user = known.user if user is None else user
        password = known.password if password is None else password
        passing = node or user or socket.gethostname()
        return cls(
            Caller(
                broker,
                database,
                Credentials(user, password) if user else None,
                node=passing,
                client_id=client_id or f"{passing}/{secrets.token_hex(4)}",
                tls=tls,
                announce=announce,
                keepalive=keepalive,
                timeout=timeout,
            )
        )

    @property
    def identity(self) -> str:
        """The normalized URL without credentials."""
        return self._caller.label

    @property
    def label(self) -> str:
        """As `identity`."""
        return self._caller.label

    @property
    def traffic(self) -> tuple[int, int]:
        """As `Metered.traffic`: publications and their acknowledgements."""
        return self._caller.traffic.sent, self._caller.traffic.received

    async def announce(self, figures: PresenceFigures) -> None:
        """As `Announcing.announce`."""
        await self._caller.announce(figures)

    async def info(self) -> PeerInfo:
        return await self._caller.call(Info(), info_from_wire)

    async def create(self) -> None:
        await self._caller.call(Create(), nothing_from_wire)

    async def changes(
        self,
        since: Seq,
        *,
        follow: bool,
        limit: int,
        selector: Mapping[str, Any] | None = None,
        doc_ids: Sequence[str] | None = None,
    ) -> AsyncGenerator[ChangeBatch, None]:
        """Pages; at their end `follow` waits for a notice that there is more, then asks again."""
        request = Changes(
            to_json(since),
            limit,
            None if selector is None else to_json(selector),
            None if doc_ids is None else list(doc_ids),
        )
        async with self._caller.notices() if follow else nullcontext() as news:
            while True:
                if news is not None:
                    news.clear()
                batch = await self._caller.call(request, page_from_wire)
                request = replace(request, since=to_json(batch.last_seq))
                yield batch
                if batch.pending == 0:
                    if news is None:
                        return
                    await self._caller.wait_for(news)

    async def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        if not revs:
            return {}
        request = RevsDiff({id: list(asked) for id, asked in revs.items()})
        return await self._caller.call(request, missing_from_wire, size=64 * len(revs))

    async def ranges(self, level: int, spans: Sequence[Span]) -> Sequence[Sequence[Range]] | None:
        """None from a bridge whose server knows no such thing."""
        found: list[list[Range]] = []
        for begin in range(0, len(spans), MOST_SPANS):
            request = RangesOf(level, list(spans[begin : begin + MOST_SPANS]))
            part = await self._caller.call(request, ranges_from_wire, size=128 * len(request.spans))
            if part is None:
                return None
            found += part
        return found

    async def leaves(self, span: Span, limit: int) -> Sequence[Leaves]:
        return await self._caller.call(LeavesOf(span, min(limit, MOST_LEAVES)), leaves_from_wire)

    async def fetch(
        self, wanted: Sequence[tuple[str, Sequence[str]]]
    ) -> Sequence[Revision | WriteResult]:
        request = Fetch([(id, list(revs)) for id, revs in wanted])
        return await self._caller.call(request, found_from_wire, size=64 * len(wanted))

    def attachment(self, revision: Revision, attachment: Attachment) -> AsyncGenerator[bytes, None]:
        """In parts. After an interruption it goes on from where it was."""
        return self._caller.content(revision.id, str(revision.rev), attachment.name)

    async def store(
        self, revisions: Sequence[Revision], contents: Contents | None = None
    ) -> Sequence[WriteResult]:
        """The contents of attachments are asked for by the other side, where it lacks them."""

        def content(source: Source) -> AsyncGenerator[bytes, None]:
            attachment = _attachment(revisions, source)
            if contents is None or attachment is None:
                raise NotFoundError(f"there is no attachment {source.name}")
            return contents(revisions[source.index], attachment)

        def results(value: Any) -> list[WriteResult]:
            return results_from_wire(value, revisions)

        request = Store([revision_to_wire(revision) for revision in revisions])
        size = sum(len(revision.body) for revision in revisions)
        return await self._caller.call(request, results, size=size, contents=content)

    async def get_local(self, id: str) -> dict[str, Any] | None:
        return await self._caller.call(GetLocal(id), local_from_wire)

    async def put_local(self, id: str, doc: Mapping[str, Any]) -> str:
        """A conflict with the very same content is none: this call may have written it, and the
        answer was lost."""
        request = PutLocal(id, to_json({key: doc[key] for key in doc if key != "_id"}))
        try:
            return await self._caller.call(request, text_from_wire)
        except ConflictError:
            there = await self.get_local(id)
            if there is None or _own(there) != _own(doc):
                raise
            return str(there["_rev"])

    async def ensure_full_commit(self) -> str:
        return await self._caller.call(EnsureFullCommit(), text_from_wire)

    async def close(self) -> None:
        """Close the connection. Calls under way end with ConnectError."""
        await self._caller.close()


def _attachment(revisions: Sequence[Revision], source: Source) -> Attachment | None:
    if source.index >= len(revisions):
        return None
    found = (item for item in revisions[source.index].attachments if item.name == source.name)
    return next(found, None)


def _own(doc: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in doc.items() if key not in ("_id", "_rev")}
