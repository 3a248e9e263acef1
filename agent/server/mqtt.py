"""Answers, over MQTT, the calls of gateways to databases. The protocol is in docs/mqtt.md.

A responder knows nothing between two calls: several share the requests of a group, and any may be
killed at any time. What it holds is bounded: so many calls at once, so many that wait, with so
many bytes; beyond that the answer is that it is busy.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import Counter
from contextlib import nullcontext, suppress
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from agent.backoff import transient_backoff
from agent.errors import EdgeAgentError, RemoteBusyError
from agent.peers.mqtt_calls import Answer, request_from, to_json
from agent.peers.mqtt_client import Publication, Received
from agent.peers.mqtt_connection import Connection
from agent.peers.mqtt_errors import to_fault
from agent.peers.mqtt_exchange import Exchange, Waiting, decoded, packed
from agent.peers.mqtt_presence import Present, Role, responder_announcement
from agent.peers.mqtt_tls import TlsFiles
from agent.peers.mqtt_topics import DEFAULT_GROUP, BrokerUrl, Topics
from agent.peers.mqtt_wire import (
    MAX_MESSAGE,
    OVERHEAD,
    Message,
    Packet,
    WireError,
    decode_packet,
    encode_notice,
    encode_packet,
    pack,
)
from agent.peers.peer import Seq
from agent.peers.urls import Credentials
from agent.server.mqtt_call import DatabaseCall
from agent.server.mqtt_notices import Notices
from agent.server.mqtt_places import Place, Places
from agent.server.mqtt_served import Served
from agent.tasks import together

log = logging.getLogger(__name__)

_AT_ONCE: Final = 32
"""Calls that are worked on; those that wait for their gateways are not."""

_HELD_BYTES: Final = 32 * 1024 * 1024
"""Of messages of calls that wait for their gateways; beyond that they count as worked on."""

_MOST_CALLS: Final = 512
"""Calls in all, with those that wait."""

_PER_NODE: Final = 8
"""Calls of one gateway."""

_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Of the first parts of all calls."""

_LONGEST_CORRELATION: Final = 64


class Broker(msgspec.Struct, frozen=True):
    """Where a responder serves, and how: `name` is the node's, `group` that of the shared
    subscription. `keepalive` and `patience`, with a gateway that falls silent within a call, are in
    seconds."""

    url: BrokerUrl
    credentials: Credentials | None = None
    tls: TlsFiles | None = None
    name: str = "hub"
    group: str = DEFAULT_GROUP
    keepalive: float = 30.0
    patience: float = 30.0


class _Key(NamedTuple):
    """What tells calls apart."""

    database: str
    node: str
    correlation: bytes


class Responder:
    """Serves databases on a broker until it is cancelled."""

    def __init__(self, broker: Broker, served: Served, role: Role) -> None:
        self.id = secrets.token_hex(4)
        self.present = Present()
        self.last_error: str | None = None
        """Why there is no connection."""
        self.calls = 0
        """Answered since the start, as the next ones."""
        self.refused = 0
        """What could not be read, and calls that were too many."""
        self._broker = broker
        self._topics = Topics(broker.url.prefix)
        self._served = served
        self._places = Places(_AT_ONCE, _HELD_BYTES)
        self._exchanges: dict[_Key, Exchange] = {}
        self._nodes: Counter[str] = Counter()
        self._bytes = 0
        self._refusals = 0
        self._tasks: asyncio.TaskGroup
        self._notices: Notices
        self._takes = False
        """Whether requests are taken: those that come later another responder answers."""
        filters = [None] if served.only is None else list(served.only)
        self._connection = Connection(
            broker.url,
            broker.credentials,
            client_id=f"{broker.name}/{self.id}",
            tls=broker.tls,
            keepalive=broker.keepalive,
            subscriptions=[
                *(self._topics.shared_requests(broker.group, database) for database in filters),
                self._topics.requests_to(self.id),
                self._topics.all_statuses,
            ],
            announcement=responder_announcement(self._topics, f"{broker.name}-{self.id}", role),
            received=self._take,
            lost=self._lose,
        )

    async def run(self) -> None:
        """Stay connected. An error in the program ends it, for a supervisor to start it again."""
        try:
            async with together() as self._tasks:
                self._notices = Notices(self._served, self._tell, self._tasks)
                self._takes = True
                try:
                    await self._stay_connected()
                finally:  # from here on the group may refuse tasks
                    self._takes = False
                    self._notices.end()
        finally:
            await self._connection.close()

    async def _stay_connected(self) -> NoReturn:
        backoff = transient_backoff()
        while True:
            try:
                await self._connection.open()
                self.last_error = None
                backoff.reset()
                await self._notices.follow_all()
                await self._connection.until_lost()
            except EdgeAgentError as error:
                if str(error) != self.last_error:
                    log.warning("%s", error)
                self.last_error = str(error)
            await asyncio.sleep(backoff.next_delay())

    def status(self) -> dict[str, Any]:
        """For the agent's status: plain JSON values."""
        return {
            "broker": str(self._broker.url),
            "group": self._broker.group,
            "state": "connected" if self._connection.connected else "waiting",
            "last_error": self.last_error,
            "calls": self.calls,
            "refused": self.refused,
            "bytes_sent": self._connection.traffic.sent,
            "bytes_received": self._connection.traffic.received,
        }

    # --- calls -------------------------------------------------------------------------

    def _take(self, message: Received) -> None:
        """A message from the broker; anybody may have sent it."""
        node = self._topics.node_of_status(message.topic)
        if node is not None:
            self.present.take(node, message.payload)
            return
        if not self._takes:
            return
        asked = self._topics.asked(message.topic)
        if (
            asked is None
            or not 0 < len(message.correlation) <= _LONGEST_CORRELATION
            # Answers go where the requester may read, whatever else it asks for.
            or message.response_topic != self._topics.reply(asked.database, asked.node)
        ):
            self.refused += 1
            return
        key = _Key(asked.database, asked.node, message.correlation)
        exchange = self._exchanges.get(key)
        try:
            packet = decode_packet(message.payload)
        except WireError as error:
            self._refuse(key, error)
            return
        if isinstance(packet, Message):
            if exchange is None:  # or else it has come a second time
                self._begin(key, packet)
        elif exchange is not None:
            exchange.deliver(packet)

    def _begin(self, key: _Key, first: Message) -> None:
        size = len(first.data)
        if (
            len(self._exchanges) >= _MOST_CALLS
            or self._nodes[key.node] >= _PER_NODE
            or self._bytes + size > _WAITING_BYTES
        ):
            wait = random.uniform(0.5, 2.0)  # noqa: S311 - spreads load, guards nothing
            self._refuse(key, RemoteBusyError("too many calls at once", retry_after=wait))
            return
        place = Place(self._places, min(first.size, MAX_MESSAGE))
        self._exchanges[key] = exchange = self._exchange(key, place.aside)
        self._nodes[key.node] += 1
        self._bytes += size

        async def serve() -> None:
            try:
                with self._served.using(key.database):
                    async with place:
                        await self._serve(key, exchange, first, place)
            except EdgeAgentError as error:  # the gateway is gone, and asks again if it returns
                log.debug("%s", error)
            finally:
                del self._exchanges[key]
                self._bytes -= size
                self._nodes[key.node] -= 1
                if not self._nodes[key.node]:
                    del self._nodes[key.node]
                await exchange.close()

        self._tasks.create_task(serve())

    async def _serve(self, key: _Key, exchange: Exchange, first: Message, place: Place) -> None:
        call = DatabaseCall(self._served, key.database, exchange)
        try:
            request = await decoded(await exchange.assemble(first), request_from)
            answer = Answer(await call.answer(request))
            self._notices.follow(key.database)
        except EdgeAgentError as error:
            answer = Answer(error=to_fault(error))
        self.calls += 1
        data = await packed(answer, call.size)
        place.size = len(data)
        await exchange.send(data, call.contents)
        await exchange.serve()

    def _refuse(self, key: _Key, error: EdgeAgentError) -> None:
        self.refused += 1
        if self._refusals >= _MOST_CALLS:
            return

        async def refuse() -> None:
            self._refusals += 1
            try:
                with suppress(EdgeAgentError):
                    data = pack(Answer(error=to_fault(error)))
                    await self._exchange(key).send(data)
            finally:
                self._refusals -= 1

        self._tasks.create_task(refuse())

    def _exchange(self, key: _Key, waiting: Waiting = nullcontext) -> Exchange:
        topic = self._topics.reply(key.database, key.node)

        async def send(packet: Packet) -> None:
            await self._connection.publish(
                Publication(
                    topic,
                    encode_packet(packet),
                    expiry=self._broker.patience,
                    correlation=key.correlation,
                )
            )

        return Exchange(
            send,
            where=f"gateway {key.node}",
            sender=self.id,
            room=self._connection.room(topic) - OVERHEAD,
            patience=self._broker.patience,
            waiting=waiting,
        )

    def _lose(self, error: EdgeAgentError) -> None:
        self.last_error = str(error)
        self.present.forget()
        for exchange in self._exchanges.values():
            exchange.fail(error)

    async def _tell(self, database: str, seq: Seq) -> None:
        if self._connection.connected:  # or else nobody is told, and everybody looks afterwards
            with suppress(EdgeAgentError):
                await self._connection.publish(
                    Publication(
                        self._topics.changed(database),
                        encode_notice(to_json(seq)),
                        expiry=self._broker.patience,
                    )
                )
