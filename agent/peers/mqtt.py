"""A database behind an MQTT broker, where a hub or a bridge answers for it.

The protocol is in docs/mqtt.md. A request that is lost, or whose answer is, is sent again: every
call may be repeated.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext, suppress
from typing import Any, Final, TypeVar
from urllib.parse import quote

from msgspec.structs import replace

from agent.documents.attachment import Attachment
from agent.documents.ranges import Leaves, Range, Span
from agent.documents.revision import Revision
from agent.errors import (
    ConflictError,
    ConnectError,
    EdgeAgentError,
    NotFoundError,
    RemoteBusyError,
    RemoteError,
)
from agent.peers.mqtt_calls import (
    MOST_LEAVES,
    MOST_SPANS,
    Answer,
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
    found_from_wire,
    info_from_wire,
    local_from_json,
    page_from_wire,
    results_from_wire,
    revision_to_wire,
    to_json,
)
from agent.peers.mqtt_client import Connection, Received, TlsFiles
from agent.peers.mqtt_errors import from_fault
from agent.peers.mqtt_exchange import Contents as ContentOf
from agent.peers.mqtt_exchange import Exchange, decoded, packed
from agent.peers.mqtt_presence import gateway_announcement
from agent.peers.mqtt_topics import BrokerUrl, Topics, parse_mqtt_url
from agent.peers.mqtt_wire import (
    LONGEST_ID,
    OVERHEAD,
    Fault,
    Packet,
    Source,
    WireError,
    convert,
    decode_packet,
    encode_packet,
)
from agent.peers.peer import (
    ChangeBatch,
    Contents,
    PeerInfo,
    PresenceFigures,
    Seq,
    WriteResult,
)
from agent.peers.urls import Credentials

_TRIES: Final = 3
_CORRELATION: Final = 12
"""Bytes: nobody guesses the correlation data of another's request."""

_LOOK_AGAIN: Final = 300.0
"""Seconds after which changes are asked for without a notice, in case one was lost."""

_BUSY_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 5.0
"""Seconds to wait here where a responder is busy; longer waits are those of whoever replicates."""

_T = TypeVar("_T")


class MqttPeer:
    """A `Peer` that is asked over MQTT. It connects with the first call.

    Every method raises, besides what it names: ConnectError, RemoteBusyError, TlsError, AuthError,
    RemoteMissingError (no such database), RemoteError; ConfigError (`ca_file` and the like).
    """

    def __init__(
        self,
        broker: BrokerUrl,
        database: str,
        credentials: Credentials | None = None,
        *,
        node: str,
        client_id: str,
        tls: TlsFiles | None = None,
        announce: bool = False,
        keepalive: float = 30.0,
        timeout: float = 30.0,
    ) -> None:
        """`node` stands in the topics, `client_id` is this one connection's; `announce` makes it
        the node's presence. `keepalive` and `timeout`, for an answer or a part of one, are in
        seconds.
        """
        topics = Topics(broker.prefix)
        self._label = f"{broker}/{quote(database, safe='')}"
        self._topics = topics
        self._announces = announce
        self._database = database
        self._node = node
        self._timeout = timeout
        self._reply = topics.reply(database, node)
        self._changed = topics.changed(database)
        self._direct = topics.request(database, node, "x" * LONGEST_ID)
        self._exchanges: dict[bytes, Exchange] = {}
        self._followers: set[asyncio.Event] = set()
        self._connection = Connection(
            broker,
            credentials,
            client_id=client_id,
            tls=tls,
            keepalive=keepalive,
            subscriptions=[self._reply],
            announcement=gateway_announcement(topics, node) if announce else None,
            received=self._take,
            lost=self._lose,
        )

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
        in the URL.

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

    @property
    def identity(self) -> str:
        """The normalized URL without credentials."""
        return self._label

    @property
    def label(self) -> str:
        """As `identity`."""
        return self._label

    @property
    def traffic(self) -> tuple[int, int]:
        """As `Metered.traffic`: publications and their acknowledgements."""
        return self._connection.bytes_sent, self._connection.bytes_received

    async def announce(self, figures: PresenceFigures) -> None:
        """As `Announcing.announce`."""
        if self._announces:
            await self._connection.announce(gateway_announcement(self._topics, self._node, figures))

    async def info(self) -> PeerInfo:
        return await self._call(Info(), info_from_wire)

    async def create(self) -> None:
        await self._call(Create(), _nothing)

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
        async with self._notices() if follow else nullcontext() as news:
            while True:
                if news is not None:
                    news.clear()
                batch = await self._call(request, page_from_wire)
                request = replace(request, since=to_json(batch.last_seq))
                yield batch
                if batch.pending == 0:
                    if news is None:
                        return
                    await self._news(news)

    async def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        if not revs:
            return {}
        request = RevsDiff({id: list(asked) for id, asked in revs.items()})
        return await self._call(request, _missing, size=64 * len(revs))

    async def ranges(self, level: int, spans: Sequence[Span]) -> Sequence[Sequence[Range]] | None:
        """None from a bridge whose server knows no such thing."""
        found: list[list[Range]] = []
        for begin in range(0, len(spans), MOST_SPANS):
            request = RangesOf(level, list(spans[begin : begin + MOST_SPANS]))
            part = await self._call(request, _ranges, size=128 * len(request.spans))
            if part is None:
                return None
            found += part
        return found

    async def leaves(self, span: Span, limit: int) -> Sequence[Leaves]:
        return await self._call(LeavesOf(span, min(limit, MOST_LEAVES)), _leaves)

    async def fetch(
        self, wanted: Sequence[tuple[str, Sequence[str]]]
    ) -> Sequence[Revision | WriteResult]:
        request = Fetch([(id, list(revs)) for id, revs in wanted])
        return await self._call(request, found_from_wire, size=64 * len(wanted))

    async def attachment(
        self, revision: Revision, attachment: Attachment
    ) -> AsyncGenerator[bytes, None]:
        """In parts. After an interruption it goes on from where it was."""
        offset, tries = 0, 0
        while True:
            request = AttachmentContent(revision.id, str(revision.rev), attachment.name, offset)
            try:
                async with aclosing(self._content(request)) as pieces:
                    async for piece in pieces:
                        offset += len(piece)
                        tries = 0
                        yield piece
            except ConnectError:
                tries += 1
                if tries == _TRIES:
                    raise
            else:
                return

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
        return await self._call(request, results, size=size, contents=content)

    async def get_local(self, id: str) -> dict[str, Any] | None:
        def document(value: Any) -> dict[str, Any] | None:
            return None if value is None else local_from_json(convert(value, str))

        return await self._call(GetLocal(id), document)

    async def put_local(self, id: str, doc: Mapping[str, Any]) -> str:
        """A conflict with the very same content is none: this call may have written it, and the
        answer was lost."""
        request = PutLocal(id, to_json({key: doc[key] for key in doc if key != "_id"}))
        try:
            return await self._call(request, _text)
        except ConflictError:
            there = await self.get_local(id)
            if there is None or _own(there) != _own(doc):
                raise
            return str(there["_rev"])

    async def ensure_full_commit(self) -> str:
        return await self._call(EnsureFullCommit(), _text)

    async def close(self) -> None:
        """Close the connection. Calls under way end with ConnectError."""
        await self._connection.close()

    # --- calls -------------------------------------------------------------------------

    async def _call(
        self,
        request: Request,
        read: Callable[[Any], _T],
        *,
        size: int = 0,
        contents: ContentOf | None = None,
    ) -> _T:
        """Ask until there is an answer, at most `_TRIES` times. `size` is about the request's."""
        data = await packed(request, size)
        for left in reversed(range(_TRIES)):
            try:
                async with self._asking(data, contents) as exchange:
                    answered = await exchange.answer()
                return await self._read(answered, read)
            except RemoteBusyError as error:
                pause = error.retry_after or _BUSY_PAUSE
                if not left or pause > _LONGEST_PAUSE:
                    raise
                await asyncio.sleep(pause)
            except ConnectError:
                # Where there is no connection any more, whoever replicates has a back-off.
                if not left or not self._connection.connected:
                    raise
        raise AssertionError  # the last try returns or raises

    async def _read(self, data: bytes, read: Callable[[Any], _T]) -> _T:
        def ok(value: Any) -> _T | Fault:
            answer = convert(value, Answer)
            return read(answer.ok) if answer.error is None else answer.error

        try:
            result = await decoded(data, ok)
        except WireError as error:
            raise RemoteError(f"{self._label} answered what cannot be read: {error}") from None
        if isinstance(result, Fault):
            raise from_fault(self._label, result)
        return result

    @asynccontextmanager
    async def _asking(self, data: bytes, contents: ContentOf | None) -> AsyncIterator[Exchange]:
        """A request, sent, and what comes of it."""
        await self._connection.open()
        correlation = secrets.token_bytes(_CORRELATION)

        async def send(packet: Packet) -> None:
            await self._connection.publish(
                self._topics.request(self._database, self._node, exchange.other),
                encode_packet(packet),
                expiry=self._timeout,
                correlation=correlation,
                response_topic=self._reply,
            )

        exchange = Exchange(
            send,
            where=self._label,
            sender="",
            room=self._connection.room(self._direct) - OVERHEAD,
            patience=self._timeout,
        )
        self._exchanges[correlation] = exchange
        try:
            await exchange.send(data, contents)
            yield exchange
        finally:
            del self._exchanges[correlation]
            await exchange.close()

    async def _content(self, request: AttachmentContent) -> AsyncGenerator[bytes, None]:
        async with self._asking(await packed(request, 0), None) as exchange:
            await self._read(await exchange.answer(), _nothing)
            async with aclosing(exchange.content(0, request.name)) as pieces:
                async for piece in pieces:
                    yield piece

    @asynccontextmanager
    async def _notices(self) -> AsyncIterator[asyncio.Event]:
        """An event that is set by each notice. Nobody else is told: notices cost the link."""
        news = asyncio.Event()
        self._followers.add(news)
        try:
            await self._connection.subscribe(self._changed)
            yield news
        finally:
            self._followers.discard(news)
            if not self._followers:
                self._connection.unsubscribe(self._changed)

    async def _news(self, news: asyncio.Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AGAIN):
                await news.wait()
        if not self._connection.connected:
            raise self._connection.broken()

    # --- the connection ----------------------------------------------------------------

    def _take(self, message: Received) -> None:
        if message.topic == self._changed:
            for news in self._followers:
                news.set()
            return
        exchange = self._exchanges.get(message.correlation)
        if exchange is None or message.topic != self._reply:
            return  # an answer that came too late, or something else altogether
        try:
            packet = decode_packet(message.payload)
        except WireError as error:
            exchange.fail(RemoteError(f"{self._label} sent what cannot be read: {error}"))
            return
        exchange.deliver(packet)

    def _lose(self, error: EdgeAgentError) -> None:
        for exchange in self._exchanges.values():
            exchange.fail(error)
        for news in self._followers:
            news.set()


def _attachment(revisions: Sequence[Revision], source: Source) -> Attachment | None:
    if source.index >= len(revisions):
        return None
    found = (item for item in revisions[source.index].attachments if item.name == source.name)
    return next(found, None)


def _own(doc: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in doc.items() if key not in ("_id", "_rev")}


# What the answers to the simpler calls are.


def _nothing(value: Any) -> None:
    convert(value, None)  # type: ignore[arg-type]


def _text(value: Any) -> str:
    return convert(value, str)


def _missing(value: Any) -> dict[str, list[str]]:
    return {id: revs for id, revs in convert(value, dict[str, list[str]]).items() if revs}


def _ranges(value: Any) -> list[list[Range]] | None:
    return convert(value, list[list[Range]] | None)  # type: ignore[arg-type]


def _leaves(value: Any) -> list[Leaves]:
    return convert(value, list[Leaves])
