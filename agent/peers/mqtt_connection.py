"""A connection to an MQTT 5 broker that comes about whenever it is needed.

Nothing is kept in the broker for a client that is away (clean start, no session): what a lost
message asked for is asked for again, and asking for it late would only cost the link.

Source: OASIS MQTT Version 5.0, sections 3.1 to 3.4.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Final

from agent.errors import ConnectError, EdgeAgentError, RemoteError, TooLargeError
from agent.peers.mqtt_breaks import Breaks
from agent.peers.mqtt_client import CONNECT_LIMIT, MAX_PACKET, Client, Publication, Received
from agent.peers.mqtt_errors import NOBODY_LISTENS, REFUSED, refusal
from agent.peers.mqtt_presence import Announcement
from agent.peers.mqtt_tls import TlsFiles
from agent.peers.mqtt_topics import BrokerUrl
from agent.peers.traffic import Traffic
from agent.peers.urls import Credentials

_SMALLEST_PACKET: Final = 4096

_HEADER: Final = 64
"""Bytes of a packet besides topics, correlation data and payload."""


class Connection:
    """Connects when it is needed, and again after it was lost, whenever somebody asks for that.

    `received` is called for each message, `lost` when the connection ends; neither may block.
    `keepalive` is in seconds.
    """

    def __init__(
        self,
        broker: BrokerUrl,
        credentials: Credentials | None,
        *,
        client_id: str,
        tls: TlsFiles | None = None,
        keepalive: float = 30.0,
        subscriptions: Sequence[str] = (),
        announcement: Announcement | None = None,
        received: Callable[[Received], None],
        lost: Callable[[EdgeAgentError], None] = lambda _: None,
    ) -> None:
        self.broker = broker
        self.client_id = client_id
        self.max_packet = MAX_PACKET
        """Bytes of a packet, as the broker of the latest connection takes them."""
        self.traffic = Traffic()
        """Of publications and their acknowledgements."""
        self._credentials = credentials
        self._tls = tls or TlsFiles()
        self._keepalive = max(2, round(keepalive))
        self._subscriptions = list(subscriptions)
        self._announcement = announcement
        self._received = received
        self._lost = lost
        self._context: ssl.SSLContext | None = None
        self._session: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self._client: Client | None = None
        self._breaks = Breaks(str(broker), client_id)
        self._closing = False

    @property
    def connected(self) -> bool:
        return self._client is not None

    async def open(self) -> None:
        """Returns as soon as there is a connection. Raises what keeps it from coming about:
        ConnectError, RemoteBusyError, AuthError, TlsError, RemoteError, ConfigError."""
        if self._closing:
            raise ConnectError(f"{self.broker}: the connection is being closed")
        if self._session is None or self._session.done():
            self._opened = asyncio.get_running_loop().create_future()
            self._session = asyncio.create_task(self._run(self._opened))
        assert self._opened is not None  # noqa: S101
        await asyncio.shield(self._opened)

    async def until_lost(self) -> None:
        """Wait for the end of the present connection. Raises what `received` did not expect."""
        session = self._session
        if session is not None:
            await asyncio.wait({session})
            if not session.cancelled():
                session.result()

    async def announce(self, announcement: Announcement) -> None:
        """Say something else about this client from now on; at once where it is connected. The last
        will stays what it was until the next connection. Raises as `publish`."""
        self._announcement = announcement
        if self._client is not None:
            await self._announce(self._client, announcement.topic, announcement.here)

    async def close(self) -> None:
        """Say goodbye to the broker; a last will is not published, so `gone` is published here."""
        if self._session is None:
            return
        self._closing = True
        if self._client is not None and self._announcement is not None:
            with contextlib.suppress(EdgeAgentError, TimeoutError):
                async with asyncio.timeout(CONNECT_LIMIT):
                    announcement = self._announcement
                    await self._announce(self._client, announcement.topic, announcement.gone)
        while not self._session.done():
            # More than once: the library waits with wait_for, which in Python 3.11 can take a
            # cancellation for the end of what it waited for.
            self._session.cancel()
            await asyncio.wait({self._session}, timeout=1)
        self._closing = False

    def broken(self) -> ConnectError:
        """Why there is no connection any more."""
        return self._breaks.error()

    def room(self, topic: str) -> int:
        """Bytes of payload that fit into one publication on `topic` with the properties of a
        request."""
        return self.max_packet - _HEADER - 2 * len(topic.encode())

    async def publish(self, publication: Publication) -> None:
        """Publish; returns once the broker has it or, with a `qos` of 0, once it was sent.

        Raises ConnectError (also where nobody listens to a request), AuthError where the broker
        does not let this client publish there, TooLargeError.
        """
        await self.open()
        topic, size = publication.topic, len(publication.payload)
        if size > self.room(topic):
            raise TooLargeError(
                f"{self.broker} takes packets of {self.max_packet} bytes, not of {size}"
            )
        if self._client is None:
            raise self.broken()
        code = await self._client.publish(publication)
        if code == NOBODY_LISTENS and publication.response_topic:
            raise ConnectError(
                f"{self.broker}: nobody answers on {topic}; check that a hub or a bridge serves "
                "this database, with this prefix"
            )
        self._check(code, f"to publish on {topic}")

    async def subscribe(self, topic: str) -> None:
        """Also after each reconnection, until `unsubscribe`. Raises ConnectError, AuthError."""
        if topic not in self._subscriptions:
            self._subscriptions.append(topic)
        if self._client is not None:  # or else the next connection begins with it
            await self._subscribe(self._client, topic)

    def unsubscribe(self, topic: str) -> None:
        self._subscriptions.remove(topic)
        if self._client is not None:
            self._client.unsubscribe(topic)

    async def _run(self, opened: asyncio.Future[None]) -> None:
        """One connection, from its beginning to its end."""
        error: EdgeAgentError | None = None
        began = time.monotonic()
        try:
            await self._stay(opened)
        except EdgeAgentError as failure:
            error = failure
        finally:
            if opened.done():
                self._breaks.end(time.monotonic() - began)
            error = error or self.broken()
            if opened.done():
                self._lost(error)
            else:
                opened.set_exception(error)
                opened.exception()  # seen: whoever waits raises it, and maybe nobody does

    async def _stay(self, opened: asyncio.Future[None]) -> None:
        client = await self._make_client()
        try:
            if code := await client.connect():
                raise self._refused(code, "to connect")
            self.max_packet = client.max_packet
            if self.max_packet < _SMALLEST_PACKET:
                raise RemoteError(
                    f"{self.broker} takes packets of {self.max_packet} bytes only; allow at least "
                    f"{_SMALLEST_PACKET}"
                )
            for topic in self._subscriptions:
                await self._subscribe(client, topic)
            self._client = client
            if self._announcement is not None:
                await self._announce(client, self._announcement.topic, self._announcement.here)
            opened.set_result(None)
            await client.run()
        finally:
            self._client = None
            await client.leave()

    async def _make_client(self) -> Client:
        self._breaks.begin()
        if self.broker.encrypted and self._context is None:
            self._context = await asyncio.to_thread(self._tls.context)
        will = None
        if self._announcement is not None:
            will = _retained(self._announcement.topic, self._announcement.gone)
        return Client(
            self.broker,
            self._credentials,
            client_id=self.client_id,
            context=self._context,
            keepalive=self._keepalive,
            will=will,
            breaks=self._breaks,
            traffic=self.traffic,
            received=self._received,
        )

    async def _subscribe(self, client: Client, topic: str) -> None:
        self._check(await client.subscribe(topic), f"to subscribe to {topic}")

    async def _announce(self, client: Client, topic: str, payload: bytes) -> None:
        self._check(await client.publish(_retained(topic, payload)), f"to publish on {topic}")

    def _check(self, code: int, what: str) -> None:
        if code >= REFUSED:
            raise self._refused(code, what)

    def _refused(self, code: int, what: str) -> EdgeAgentError:
        user = None if self._credentials is None else self._credentials.user
        return refusal(str(self.broker), user, code, what)


def _retained(topic: str, payload: bytes) -> Publication:
    return Publication(topic, payload, retain=True)
