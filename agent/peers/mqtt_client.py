"""One connection to an MQTT 5 broker. The one module that knows the library, aiomqtt.

Some things that matter here aiomqtt does not pass on from paho, the library below it: the limits
that the broker tells when it accepts a client, the reason with which it acknowledges a publication,
and the end of the connection to those who wait for an acknowledgement. They are taken from paho,
whose callbacks are wrapped.

Source: OASIS MQTT Version 5.0, sections 3.1 to 3.4.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import aiomqtt
import msgspec
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.errors import ConnectError, EdgeAgentError, TlsError
from agent.peers.http_errors import one_line
from agent.peers.mqtt_breaks import Breaks
from agent.peers.mqtt_topics import WEBSOCKET_PATH, BrokerUrl
from agent.peers.traffic import Traffic
from agent.peers.urls import Credentials

_T = TypeVar("_T")

MAX_PACKET: Final = 1024 * 1024
"""Bytes of a packet that are read and sent, unless the broker takes less."""

CONNECT_LIMIT: Final = 5.0
"""Seconds for each step of connecting."""

_IN_FLIGHT: Final = 16
"""Publications that wait for the broker's acknowledgement at once, and that it may send."""

_ACKNOWLEDGE_LIMIT: Final = 30.0
_LAST_WORDS: Final = 0.1

_HEADS: Final = 24
"""About what a publication and its acknowledgement have besides topics, correlation data and
payload: lengths, ids, the expiry."""

_library_log = logging.getLogger(__name__)
_library_log.setLevel(logging.CRITICAL)  # what goes wrong is raised, too


class Publication(msgspec.Struct, frozen=True):
    """A message to be published. `expiry` is in seconds."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    expiry: float | None = None
    correlation: bytes = b""
    response_topic: str = ""


class Received(msgspec.Struct, frozen=True):
    """A message that has come. `correlation` is empty where there is none."""

    topic: str
    payload: bytes
    correlation: bytes
    response_topic: str
    retained: bool


class Client:
    """A connection from its beginning to its end: `connect`, `run`, and in any case `leave`.

    The broker's reason codes are returned; whoever asked knows what they mean. `will` is what the
    broker publishes once this client is gone. `received` is called for each message and may not
    block. `keepalive` is in seconds.
    """

    def __init__(
        self,
        broker: BrokerUrl,
        credentials: Credentials | None,
        *,
        client_id: str,
        context: ssl.SSLContext | None,
        keepalive: int,
        will: Publication | None,
        breaks: Breaks,
        traffic: Traffic,
        received: Callable[[Received], None],
    ) -> None:
        self.max_packet = MAX_PACKET
        """Bytes of a packet, as the broker takes them once there is a connection."""
        self._broker = broker
        self._breaks = breaks
        self._traffic = traffic
        self._received = received
        self._acknowledged: dict[int, asyncio.Future[int]] = {}
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set when the library lets go of the socket."""
        self._entering: asyncio.Future[Any] | None = None
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = _IN_FLIGHT
        properties.MaximumPacketSize = MAX_PACKET
        properties.SessionExpiryInterval = 0
        self._aiomqtt = aiomqtt.Client(
            broker.host,
            broker.port,
            username=None if credentials is None else credentials.user,
            password=None if credentials is None else credentials.password,
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            keepalive=keepalive,
            timeout=CONNECT_LIMIT,
            will=None
            if will is None
            else aiomqtt.Will(will.topic, will.payload, will.qos, will.retain),
            properties=properties,
            transport="websockets" if broker.websockets else "tcp",
            websocket_path=WEBSOCKET_PATH if broker.websockets else None,
            tls_context=context,
            logger=_library_log,
        )
        self._paho: Any = self._aiomqtt._client
        self._paho.connect_timeout = CONNECT_LIMIT
        self._paho.manual_ack_set(True)  # or else it acknowledges before `received` is called
        self._wrap_callbacks()

    async def connect(self) -> int:
        """Connect, unless the broker refuses that. Raises ConnectError, TlsError."""
        self._entering = asyncio.ensure_future(self._aiomqtt.__aenter__())
        try:
            await self._unless_gone(self._entering, self._hung_up)
        except asyncio.CancelledError:
            # It connects in a thread, which cannot be cancelled, however often that is tried.
            while not self._entering.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait({self._entering})
            raise
        except aiomqtt.exceptions.MqttConnectError as error:
            return _code(error.rc)
        except aiomqtt.MqttError as error:
            # Its causes are cut off: they hold the client.
            raise _failure(str(self._broker), error) from None
        _send_at_once(self._paho.socket())
        return 0

    async def run(self) -> None:
        """Pass on what comes, until the connection is lost."""
        with contextlib.suppress(aiomqtt.MqttError):
            async for message in self._aiomqtt.messages:
                self._take(message)
                # After what `received` has begun, which need not wait for the socket.
                asyncio.get_running_loop().call_soon(self._paho.ack, message.mid, message.qos)

    async def leave(self) -> None:
        """Close everything, whatever state the connection is in, even if this is cancelled."""
        entering = self._entering
        try:
            if entering is not None and not entering.cancelled() and entering.exception() is None:
                with contextlib.suppress(aiomqtt.MqttError):
                    await self._aiomqtt.__aexit__(None, None, None)
        finally:
            self._paho._sock_close()  # aiomqtt leaves it open where connecting has failed
            disconnected = self._aiomqtt._disconnected
            if disconnected.done() and not disconnected.cancelled():
                disconnected.exception()  # or else asyncio logs that nobody has asked for it
            self._let_go()

    async def subscribe(self, topic: str) -> int:
        """Raises ConnectError."""
        subscribing = asyncio.ensure_future(self._aiomqtt.subscribe(topic, qos=1))
        try:
            [code] = await self._unless_gone(subscribing, self._breaks.error)
        except aiomqtt.MqttError:
            raise self._breaks.error() from None
        finally:
            subscribing.cancel()  # whoever asked may have been cancelled
        return _code(code)

    def unsubscribe(self, topic: str) -> None:
        """Nobody waits for the broker's answer."""
        self._paho.unsubscribe(topic)

    async def publish(self, publication: Publication) -> int:
        """Returns once it is acknowledged or, with a `qos` of 0, once it was sent.

        Raises ConnectError.
        """
        async with self._slots:
            return await self._publish(publication)

    async def _publish(self, publication: Publication) -> int:
        topic, payload = publication.topic, publication.payload
        properties = _properties(publication)
        sent = self._paho.publish(topic, payload, publication.qos, publication.retain, properties)
        if sent.rc != 0:
            raise self._breaks.error()
        # Acknowledged or not: over a bad line what is sent in vain counts most.
        self._traffic.sent += _on_the_wire(topic, payload, properties)
        acknowledged: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._acknowledged[sent.mid] = acknowledged
        try:
            async with asyncio.timeout(_ACKNOWLEDGE_LIMIT):
                return await acknowledged
        except TimeoutError:
            # The library would keep what was not acknowledged, and take ever more.
            self._paho._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
            raise ConnectError(
                f"{self._broker} does not acknowledge what is published; it is tried again"
            ) from None
        finally:
            self._acknowledged.pop(sent.mid, None)

    # --- what the library tells --------------------------------------------------------

    def _wrap_callbacks(self) -> None:
        paho = self._paho
        loop, thread = asyncio.get_running_loop(), threading.get_ident()
        tell, tell_gone = paho.on_connect, paho.on_disconnect

        def on_connect(paho: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
            self._take_limits(properties)
            tell(paho, data, flags, reason, properties)

        def on_disconnect(paho: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
            if flags.is_disconnect_packet_from_server:
                self._breaks.hung_up(reason.value)
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

    def _take_limits(self, properties: Properties | None) -> None:
        limit = getattr(properties, "MaximumPacketSize", MAX_PACKET)
        self.max_packet = min(MAX_PACKET, limit)
        most = getattr(properties, "ReceiveMaximum", _IN_FLIGHT)
        self._slots = asyncio.Semaphore(min(_IN_FLIGHT, most))

    def _take(self, message: aiomqtt.Message) -> None:
        payload = message.payload if isinstance(message.payload, bytes) else b""
        topic, properties = message.topic.value, message.properties
        self._traffic.received += _on_the_wire(topic, payload, properties)
        self._received(
            Received(
                topic,
                payload,
                getattr(properties, "CorrelationData", b""),
                getattr(properties, "ResponseTopic", ""),
                message.retain,
            )
        )

    async def _unless_gone(self, work: asyncio.Future[_T], error: Callable[[], ConnectError]) -> _T:
        """What `work` gives. Raises the error as soon as the connection is lost."""
        either: set[asyncio.Future[Any]] = {work, self._gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        # What the broker said before it hung up has been read, but not been told yet.
        await asyncio.wait({work}, timeout=_LAST_WORDS)
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
            raise error()
        return work.result()

    def _hung_up(self) -> ConnectError:
        return ConnectError(
            f"{self._broker} hung up while connecting; check scheme, port and certificates"
        )

    def _let_go(self) -> None:
        """Tell those who wait for the broker that it will not answer."""
        if not self._gone.done():
            self._gone.set_result(None)
        for waiting in self._acknowledged.values():
            if not waiting.done():
                waiting.set_exception(self._breaks.error())


def _code(reason: Any) -> int:
    """A reason code as a number, of which the library makes objects here and there."""
    return int(getattr(reason, "value", reason))


def _properties(publication: Publication) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if publication.expiry is not None:
        properties.MessageExpiryInterval = max(1, round(publication.expiry))
    if publication.correlation:
        properties.CorrelationData = publication.correlation
    if publication.response_topic:
        properties.ResponseTopic = publication.response_topic
    return properties


def _on_the_wire(topic: str, payload: bytes, properties: Properties | None) -> int:
    """About the bytes of a publication and its acknowledgement (MQTT 5.0, sections 3.3 and 3.4)."""
    correlation = getattr(properties, "CorrelationData", b"")
    response_topic = getattr(properties, "ResponseTopic", "")
    return _HEADS + len(topic) + len(payload) + len(correlation) + len(response_topic)


def _send_at_once(connected: Any) -> None:
    """A small packet must not wait until an earlier one is acknowledged (Nagle's algorithm)."""
    # Over WebSockets paho has wrapped it.
    found = getattr(connected, "_socket", connected)
    if isinstance(found, socket.socket):
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _failure(broker: str, error: aiomqtt.MqttError) -> EdgeAgentError:
    """The library's error while connecting as one of ours."""
    text = one_line(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return TlsError(
            f"{broker}: the certificate does not verify ({text}); give ca_file, or a "
            "command --ca-file, if the broker has a certificate of your own authority, and check "
            "this device's clock"
        )
    if "SSL" in text:
        return TlsError(f"{broker}: no TLS connection ({text}); check scheme and port")
    if isinstance(error, aiomqtt.exceptions.MqttCodeError):
        return ConnectError(f"the connection to {broker} broke ({text}); try again")
    return ConnectError(
        f"{broker} cannot be reached ({text}); check that the broker runs, the address, "
        "the port and the network"
    )
