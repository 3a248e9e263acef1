"""A connection to an MQTT 5 broker. The one module that knows the library, aiomqtt.

Some things that matter here aiomqtt does not pass on from paho, the library below it: the limits
that the broker tells when it accepts a client, the reason with which it acknowledges a publication,
and the end of the connection to those who wait for an acknowledgement. They are taken from paho,
whose callbacks `_make_client` wraps.

Nothing is kept in the broker for a client that is away (clean start, no session): what a lost
message asked for is asked for again, and asking for it late would only cost the link.

Source: OASIS MQTT Version 5.0, sections 3.1 to 3.4.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import aiomqtt
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.errors import (
    ConfigError,
    ConnectError,
    EdgeAgentError,
    RemoteError,
    TlsError,
    TooLargeError,
)
from agent.peers.http_errors import one_line
from agent.peers.mqtt_errors import NOBODY_LISTENS, REFUSED, TAKEN_OVER, refusal
from agent.peers.mqtt_topics import WEBSOCKET_PATH, BrokerUrl
from agent.peers.urls import Credentials

_T = TypeVar("_T")

MAX_PACKET: Final = 1024 * 1024
"""Bytes of a packet that are read and sent, unless the broker takes less."""

_SMALLEST_PACKET: Final = 4096

_IN_FLIGHT: Final = 16
"""Publications that wait for the broker's acknowledgement at once, and that it may send."""

_CONNECT_LIMIT: Final = 5.0
_ACKNOWLEDGE_LIMIT: Final = 30.0
_LAST_WORDS: Final = 0.1
_SHORT: Final = 10.0
_SHORT_IN_A_ROW: Final = 3
_HEADER: Final = 64
"""Bytes of a packet besides topics, correlation data and payload."""

_HEADS: Final = 24
"""About what a publication and its acknowledgement have besides those: lengths, ids, the expiry."""


class _TlsSocket(ssl.SSLSocket):
    """Closed when the handshake fails, which paho forgets."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


_library_log = logging.getLogger(__name__)
_library_log.setLevel(logging.CRITICAL)  # what goes wrong is raised, too


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: authorities in place of the system's, and what a broker may know the client by."""

    ca_file: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None

    def context(self) -> ssl.SSLContext:
        """Reads the files. Raises ConfigError."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            context.sslsocket_class = _TlsSocket
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = [str(file) for file in (self.ca_file, self.certificate, self.key) if file]
            raise ConfigError(
                f"{', '.join(files)}: TLS cannot be set up with that ({one_line(error)}); give "
                "certificates and keys as PEM files, readable by this user"
            ) from None
        return context


@dataclass(frozen=True, slots=True)
class Announcement:
    """A retained message about this client: what is published when it has connected, and what the
    broker publishes once it is gone (the last will). Empty takes a retained message away."""

    topic: str
    here: bytes
    gone: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """A message that has come. `correlation` is empty where there is none."""

    topic: str
    payload: bytes
    correlation: bytes
    response_topic: str
    retained: bool


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
        self.bytes_sent = 0
        """Bytes of publications and their acknowledgements since the start."""
        self.bytes_received = 0
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
        self._client: aiomqtt.Client | None = None
        self._gone: asyncio.Future[None]
        """Set when the library lets go of the socket."""
        self._short = 0
        """Connections in a row that broke soon."""
        self._hung_up: int | None = None
        """The broker's reason code, where it has ended the connection and said why."""
        self._acknowledged: dict[int, asyncio.Future[int]] = {}
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
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
            await self._announce(announcement, announcement.here)

    async def close(self) -> None:
        """Say goodbye to the broker; a last will is not published, so `gone` is published here."""
        if self._session is None:
            return
        self._closing = True
        if self._client is not None and self._announcement is not None:
            with contextlib.suppress(EdgeAgentError, TimeoutError):
                async with asyncio.timeout(_CONNECT_LIMIT):
                    await self._announce(self._announcement, self._announcement.gone)
        while not self._session.done():
            # More than once: the library waits with wait_for, which in Python 3.11 can take a
            # cancellation for the end of what it waited for.
            self._session.cancel()
            await asyncio.wait({self._session}, timeout=1)
        self._closing = False

    def broken(self) -> ConnectError:
        """Why there is no connection any more."""
        if self._hung_up == TAKEN_OVER:
            return ConnectError(
                f"{self.broker}: another client has connected as {self.client_id!r} and taken this "
                "one's place; give each gateway a name of its own"
            )
        if self._short >= _SHORT_IN_A_ROW:
            # Not every broker tells that another client has come with the same id.
            return ConnectError(
                f"the connection to {self.broker} breaks as soon as it is made; check the network, "
                f"and whether another client connects as {self.client_id!r}: two agents of one "
                "name, a copied card"
            )
        said = "" if self._hung_up is None else f" (the broker's reason code {self._hung_up})"
        return ConnectError(f"the connection to {self.broker} broke{said}; try again")

    def room(self, topic: str) -> int:
        """Bytes of payload that fit into one publication on `topic` with the properties of a
        request."""
        return self.max_packet - _HEADER - 2 * len(topic.encode())

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry: float | None = None,
        correlation: bytes = b"",
        response_topic: str = "",
    ) -> None:
        """Publish; returns once the broker has it or, with a `qos` of 0, once it was sent. `expiry`
        is in seconds.

        Raises ConnectError (also where nobody listens to a request), AuthError where the broker
        does not let this client publish there, TooLargeError.
        """
        await self.open()
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if expiry is not None:
            properties.MessageExpiryInterval = max(1, round(expiry))
        if correlation:
            properties.CorrelationData = correlation
        if response_topic:
            properties.ResponseTopic = response_topic
        if len(payload) > self.room(topic):
            raise TooLargeError(
                f"{self.broker} takes packets of {self.max_packet} bytes, not of {len(payload)}"
            )
        async with self._slots:
            code = await self._publish(topic, payload, retain, properties, qos)
        if code == NOBODY_LISTENS and response_topic:
            raise ConnectError(
                f"{self.broker}: nobody answers on {topic}; check that a hub or a bridge serves "
                "this database, with this prefix"
            )
        if code >= REFUSED:
            raise self._refused(code, f"to publish on {topic}")

    async def subscribe(self, topic: str) -> None:
        """Also after each reconnection, until `unsubscribe`. Raises ConnectError, AuthError."""
        if topic not in self._subscriptions:
            self._subscriptions.append(topic)
        if self._client is not None:  # or else the next connection begins with it
            try:
                await self._subscribe(self._client, [topic])
            except aiomqtt.MqttError:
                raise self.broken() from None

    def unsubscribe(self, topic: str) -> None:
        self._subscriptions.remove(topic)
        if self._client is not None:
            self._client._client.unsubscribe(topic)

    async def _publish(
        self, topic: str, payload: bytes, retain: bool, properties: Properties, qos: int = 1
    ) -> int:
        """Returns the reason code of the acknowledgement."""
        if self._client is None:
            raise self.broken()
        paho = self._client._client
        sent = paho.publish(topic, payload, qos, retain, properties)
        if sent.rc != 0:
            raise self.broken()
        # Acknowledged or not: over a bad line what is sent in vain counts most.
        self.bytes_sent += _on_the_wire(topic, payload, properties)
        acknowledged: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._acknowledged[sent.mid] = acknowledged
        try:
            async with asyncio.timeout(_ACKNOWLEDGE_LIMIT):
                return await acknowledged
        except TimeoutError:
            # The library would keep what was not acknowledged, and take ever more.
            paho._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
            raise ConnectError(
                f"{self.broker} does not acknowledge what is published; it is tried again"
            ) from None
        finally:
            self._acknowledged.pop(sent.mid, None)

    # --- the connection ----------------------------------------------------------------

    async def _run(self, opened: asyncio.Future[None]) -> None:
        """One connection, from its beginning to its end."""
        error: EdgeAgentError | None = None
        began = time.monotonic()
        try:
            client = await self._make_client()
            await self._stay(client, opened)
        except EdgeAgentError as failure:
            error = failure
        except aiomqtt.MqttError as failure:
            error = None if opened.done() else self._failure(failure)
        finally:
            self._client = None
            if opened.done():
                self._short = self._short + 1 if time.monotonic() - began < _SHORT else 0
            error = error or self.broken()
            if opened.done():
                self._lost(error)
            else:
                opened.set_exception(error)
                opened.exception()  # seen: whoever waits raises it, and maybe nobody does

    async def _make_client(self) -> aiomqtt.Client:
        self._gone = asyncio.get_running_loop().create_future()
        self._hung_up = None
        if self.broker.encrypted and self._context is None:
            self._context = await asyncio.to_thread(self._tls.context)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = _IN_FLIGHT
        properties.MaximumPacketSize = MAX_PACKET
        properties.SessionExpiryInterval = 0
        announcement = self._announcement
        will = None
        if announcement is not None:
            will = aiomqtt.Will(announcement.topic, announcement.gone, qos=1, retain=True)
        credentials = self._credentials
        client = aiomqtt.Client(
            self.broker.host,
            self.broker.port,
            username=None if credentials is None else credentials.user,
            password=None if credentials is None else credentials.password,
            identifier=self.client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            keepalive=self._keepalive,
            timeout=_CONNECT_LIMIT,
            will=will,
            properties=properties,
            transport="websockets" if self.broker.websockets else "tcp",
            websocket_path=WEBSOCKET_PATH if self.broker.websockets else None,
            tls_context=self._context,
            logger=_library_log,
        )
        paho: Any = client._client
        paho.connect_timeout = _CONNECT_LIMIT
        paho.manual_ack_set(True)  # or else it acknowledges before `received` is called
        loop, thread = asyncio.get_running_loop(), threading.get_ident()
        tell: Any = paho.on_connect
        tell_gone: Any = paho.on_disconnect

        def on_connect(paho: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
            self._take_limits(properties)
            tell(paho, data, flags, reason, properties)

        def on_disconnect(paho: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
            if flags.is_disconnect_packet_from_server:
                self._hung_up = reason.value
            # aiomqtt would go on waiting to be let in, or for an answer.
            self._let_go()
            tell_gone(paho, data, flags, reason, properties)

        def on_socket_register_write(_: Any, __: Any, connected: Any) -> None:
            # aiomqtt does this a little later, when the socket may be closed, or another's; and it
            # asks whether the socket takes more before there is any reason to.
            def write() -> None:
                if paho.want_write() and paho.socket() is connected:
                    paho.loop_write()
                if paho.want_write() and paho.socket() is connected:
                    loop.add_writer(connected.fileno(), paho.loop_write)

            if threading.get_ident() == thread:
                loop.call_soon(write)
            else:  # it connects in a thread
                loop.call_soon_threadsafe(write)

        def on_publish(_: Any, __: Any, mid: int, reason: Any, ___: Any) -> None:
            waiting = self._acknowledged.get(mid)
            if waiting is not None and not waiting.done():
                waiting.set_result(reason.value)

        paho.on_connect = on_connect
        paho.on_disconnect = on_disconnect
        paho.on_publish = on_publish
        paho.on_socket_register_write = on_socket_register_write
        return client

    async def _stay(self, client: aiomqtt.Client, opened: asyncio.Future[None]) -> None:
        entering = asyncio.ensure_future(client.__aenter__())
        try:
            try:
                await self._unless_gone(entering)
            except asyncio.CancelledError:
                # It connects in a thread, which cannot be cancelled, however often that is tried.
                while not entering.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait({entering})
                raise
            if self.max_packet < _SMALLEST_PACKET:
                raise RemoteError(
                    f"{self.broker} takes packets of {self.max_packet} bytes only; allow at least "
                    f"{_SMALLEST_PACKET}"
                )
            _send_at_once(client)
            await self._subscribe(client, self._subscriptions)
            self._client = client
            if self._announcement is not None:
                await self._announce(self._announcement, self._announcement.here)
            opened.set_result(None)
            async for message in client.messages:
                self._take(message)
                # After what `received` has begun, which need not wait for the socket.
                asyncio.get_running_loop().call_soon(client._client.ack, message.mid, message.qos)
        finally:
            self._client = None
            entered = not entering.cancelled() and entering.exception() is None
            await self._leave(client, entered=entered)

    async def _unless_gone(self, work: asyncio.Future[_T]) -> _T:
        """What `work` gives. Raises ConnectError as soon as the connection is lost."""
        either: set[asyncio.Future[Any]] = {work, self._gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        # What the broker said before it hung up has been read, but not been told yet.
        await asyncio.wait({work}, timeout=_LAST_WORDS)
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
            raise ConnectError(
                f"{self.broker} hung up while connecting; check scheme, port and certificates"
            )
        return work.result()

    async def _leave(self, client: aiomqtt.Client, *, entered: bool) -> None:
        """Close everything, whatever state the connection is in."""
        if entered:
            with contextlib.suppress(aiomqtt.MqttError):
                await client.__aexit__(None, None, None)
        client._client._sock_close()  # aiomqtt leaves it open where connecting has failed
        if client._disconnected.done() and not client._disconnected.cancelled():
            client._disconnected.exception()  # or else asyncio logs that nobody has asked for it
        self._let_go()

    def _let_go(self) -> None:
        """Tell those who wait for the broker that it will not answer."""
        if not self._gone.done():
            self._gone.set_result(None)
        for waiting in self._acknowledged.values():
            if not waiting.done():
                waiting.set_exception(self.broken())

    async def _subscribe(self, client: aiomqtt.Client, topics: Iterable[str]) -> None:
        for topic in topics:
            subscribing = asyncio.ensure_future(client.subscribe(topic, qos=1))
            try:
                codes = await self._unless_gone(subscribing)
            finally:
                subscribing.cancel()  # whoever asked may have been cancelled
            for code in codes:
                value = code if isinstance(code, int) else code.value
                if value >= REFUSED:
                    raise self._refused(value, f"to subscribe to {topic}")

    async def _announce(self, announcement: Announcement, payload: bytes) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        code = await self._publish(announcement.topic, payload, True, properties)
        if code >= REFUSED:
            raise self._refused(code, f"to publish on {announcement.topic}")

    def _take_limits(self, properties: Properties | None) -> None:
        limit = getattr(properties, "MaximumPacketSize", MAX_PACKET)
        self.max_packet = min(MAX_PACKET, limit)
        most = getattr(properties, "ReceiveMaximum", _IN_FLIGHT)
        self._slots = asyncio.Semaphore(min(_IN_FLIGHT, most))

    def _take(self, message: aiomqtt.Message) -> None:
        payload = message.payload if isinstance(message.payload, bytes) else b""
        topic, properties = message.topic.value, message.properties
        self.bytes_received += _on_the_wire(topic, payload, properties)
        self._received(
            Received(
                topic,
                payload,
                getattr(properties, "CorrelationData", b""),
                getattr(properties, "ResponseTopic", ""),
                message.retain,
            )
        )

    # --- what goes wrong ---------------------------------------------------------------

    def _refused(self, code: int, what: str) -> EdgeAgentError:
        user = None if self._credentials is None else self._credentials.user
        return refusal(str(self.broker), user, code, what)

    def _failure(self, error: aiomqtt.MqttError) -> EdgeAgentError:
        """The library's error as one of ours. Its causes are cut off: they hold the client."""
        reason = getattr(error, "rc", None)
        if isinstance(error, aiomqtt.exceptions.MqttConnectError) and reason is not None:
            return self._refused(getattr(reason, "value", reason), "to connect")
        text = one_line(error)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return TlsError(
                f"{self.broker}: the certificate does not verify ({text}); give ca_file if the "
                "broker has a certificate of your own authority, and check this device's clock"
            )
        if "SSL" in text:
            return TlsError(f"{self.broker}: no TLS connection ({text}); check scheme and port")
        if isinstance(error, aiomqtt.exceptions.MqttCodeError):
            return ConnectError(f"the connection to {self.broker} broke ({text}); try again")
        return ConnectError(
            f"{self.broker} cannot be reached ({text}); check that the broker runs, the address, "
            "the port and the network"
        )


def _send_at_once(client: aiomqtt.Client) -> None:
    """A small packet must not wait until an earlier one is acknowledged (Nagle's algorithm)."""
    connected: Any = client._client.socket()
    # Over WebSockets paho has wrapped it.
    found = getattr(connected, "_socket", connected)
    if isinstance(found, socket.socket):
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _on_the_wire(topic: str, payload: bytes, properties: Properties | None) -> int:
    """About the bytes of a publication and its acknowledgement (MQTT 5.0, sections 3.3 and 3.4)."""
    correlation = getattr(properties, "CorrelationData", b"")
    response_topic = getattr(properties, "ResponseTopic", "")
    return _HEADS + len(topic) + len(payload) + len(correlation) + len(response_topic)
