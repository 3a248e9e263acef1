"""Calls to one database over MQTT, each until it is answered, and its notices.

A request that is lost, or whose answer is, is sent again: every call may be repeated.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final, TypeVar
from urllib.parse import quote

from agent.errors import ConnectError, EdgeAgentError, RemoteBusyError, RemoteError
from agent.peers.mqtt_calls import Answer, AttachmentContent, Request, nothing_from_wire
from agent.peers.mqtt_client import Publication, Received
from agent.peers.mqtt_connection import Connection
from agent.peers.mqtt_errors import from_fault
from agent.peers.mqtt_exchange import Contents, Exchange, decoded, packed
from agent.peers.mqtt_presence import gateway_announcement
from agent.peers.mqtt_tls import TlsFiles
from agent.peers.mqtt_topics import BrokerUrl, Topics
from agent.peers.mqtt_wire import (
    LONGEST_ID,
    OVERHEAD,
    Fault,
    Packet,
    WireError,
    convert,
    decode_packet,
    encode_packet,
)
from agent.peers.peer import PresenceFigures
from agent.peers.traffic import Traffic
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


class Caller:
    """Asks whichever responder serves a database. It connects with the first call.

    Calls raise ConnectError, RemoteBusyError, TlsError, AuthError, RemoteError, ConfigError, and
    what the responder tells.
    """

    def __init__(
        self,
        broker: BrokerUrl,
        database: str,
        credentials: Credentials | None,
        *,
        node: str,
        client_id: str,
        tls: TlsFiles | None,
        announce: bool,
        keepalive: float,
        timeout: float,
    ) -> None:
        """`node` stands in the topics, `client_id` is this one connection's; `announce` makes it
        the node's presence. `keepalive` and `timeout`, for an answer or a part of one, are in
        seconds.
        """
        topics = Topics(broker.prefix)
        self.label = f"{broker}/{quote(database, safe='')}"
        """The normalized URL without credentials."""
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

    @property
    def traffic(self) -> Traffic:
        """Of publications and their acknowledgements."""
        return self._connection.traffic

    async def announce(self, figures: PresenceFigures) -> None:
        """Tell the figures from now on, if this is the node's presence."""
        if self._announces:
            await self._connection.announce(gateway_announcement(self._topics, self._node, figures))

    async def close(self) -> None:
        """Close the connection. Calls under way end with ConnectError."""
        await self._connection.close()

    # --- calls -------------------------------------------------------------------------

    async def call(
        self,
        request: Request,
        read: Callable[[Any], _T],
        *,
        size: int = 0,
        contents: Contents | None = None,
    ) -> _T:
        """Ask until there is an answer, at most `_TRIES` times, and give what `read` makes of it.

        `size` is about the request's, in bytes; `contents` are what the responder may ask for.
        """
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

    async def content(self, id: str, rev: str, name: str) -> AsyncGenerator[bytes, None]:
        """The content of an attachment, in parts. After an interruption it goes on from where it
        was."""
        offset, tries = 0, 0
        while True:
            try:
                async with aclosing(self._parts(AttachmentContent(id, rev, name, offset))) as parts:
                    async for part in parts:
                        offset += len(part)
                        tries = 0
                        yield part
            except ConnectError:
                tries += 1
                if tries == _TRIES:
                    raise
            else:
                return

    async def _parts(self, request: AttachmentContent) -> AsyncGenerator[bytes, None]:
        async with self._asking(await packed(request, 0), None) as exchange:
            await self._read(await exchange.answer(), nothing_from_wire)
            async with aclosing(exchange.content(0, request.name)) as parts:
                async for part in parts:
                    yield part

    async def _read(self, data: bytes, read: Callable[[Any], _T]) -> _T:
        def ok(value: Any) -> _T | Fault:
            answer = convert(value, Answer)
            return read(answer.ok) if answer.error is None else answer.error

        try:
            result = await decoded(data, ok)
        except WireError as error:
            raise RemoteError(f"{self.label} answered what cannot be read: {error}") from None
        if isinstance(result, Fault):
            raise from_fault(self.label, result)
        return result

    @asynccontextmanager
    async def _asking(self, data: bytes, contents: Contents | None) -> AsyncIterator[Exchange]:
        """A request, sent, and what comes of it."""
        await self._connection.open()
        correlation = secrets.token_bytes(_CORRELATION)

        async def send(packet: Packet) -> None:
            await self._connection.publish(
                Publication(
                    self._topics.request(self._database, self._node, exchange.other),
                    encode_packet(packet),
                    expiry=self._timeout,
                    correlation=correlation,
                    response_topic=self._reply,
                )
            )

        exchange = Exchange(
            send,
            where=self.label,
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

    # --- notices -----------------------------------------------------------------------

    @asynccontextmanager
    async def notices(self) -> AsyncIterator[asyncio.Event]:
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

    async def wait_for(self, news: asyncio.Event) -> None:
        """Wait for the next notice; now and then without one. Raises ConnectError."""
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
            exchange.fail(RemoteError(f"{self.label} sent what cannot be read: {error}"))
            return
        exchange.deliver(packet)

    def _lose(self, error: EdgeAgentError) -> None:
        for exchange in self._exchanges.values():
            exchange.fail(error)
        for news in self._followers:
            news.set()
