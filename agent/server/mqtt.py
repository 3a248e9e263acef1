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
import time
from collections import Counter
from contextlib import aclosing, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn

from agent.backoff import transient_backoff
from agent.errors import (
    EdgeAgentError,
    PermanentError,
    RemoteBusyError,
    TransientError,
)
from agent.peers.mqtt_calls import MOST_CHANGES, Answer, request_from, to_json
from agent.peers.mqtt_client import Connection, Received, TlsFiles
from agent.peers.mqtt_errors import to_fault
from agent.peers.mqtt_exchange import Exchange, Waiting, decoded, packed
from agent.peers.mqtt_presence import Present, Role, responder_announcement
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
from agent.server.mqtt_places import Place, Places
from agent.server.mqtt_served import Served

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

_NOTICE_PAUSE, _LONGEST_NOTICE_PAUSE = 0.02, 0.25
"""Seconds between two notices that a database has changed."""


@dataclass(frozen=True, slots=True)
class Broker:
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


class Pace:
    """How long to be silent after a notice. All gateways get all notices, so while a database keeps
    changing each pause is twice as long as the one before."""

    def __init__(self) -> None:
        self._pause = _NOTICE_PAUSE
        self._told = 0.0

    def next_pause(self, now: float) -> float:
        """In seconds; a notice was sent `now`, in seconds of any clock."""
        busy = now - self._told < 2 * self._pause
        self._pause = min(2 * self._pause, _LONGEST_NOTICE_PAUSE) if busy else _NOTICE_PAUSE
        self._told = now
        return self._pause


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
        self._takes = False
        """Whether requests are taken: those that come later another responder answers."""
        self._watched: dict[str, Seq] = {}
        """The databases that are followed, with the sequence of the latest notice."""
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
            async with asyncio.TaskGroup() as self._tasks:
                self._takes = True
                try:
                    await self._stay_connected()
                finally:  # from here on the group may refuse tasks
                    self._takes = False
                    self._served.changing(None)
        finally:
            self._watched.clear()
            await self._connection.close()

    async def _stay_connected(self) -> NoReturn:
        backoff = transient_backoff()
        while True:
            try:
                await self._connection.open()
                self.last_error = None
                backoff.reset()
                await self._follow_all()
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
            "bytes_sent": self._connection.bytes_sent,
            "bytes_received": self._connection.bytes_received,
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
            self._follow(key.database)
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
                topic,
                encode_packet(packet),
                expiry=self._broker.patience,
                correlation=key.correlation,
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

    # --- notices -----------------------------------------------------------------------

    async def _follow_all(self) -> None:
        """Follow what there is; whoever was connected meanwhile may have missed a notice."""
        for database, seq in list(self._watched.items()):
            if seq is not None:
                await self._notify(database, seq)
        for database in self._served.changing(self._follow):
            self._follow(database)

    def _follow(self, database: str) -> None:
        """Tell on the broker, from now on, when a database has changed."""
        if database not in self._watched:
            self._watched[database] = None
            self._tasks.create_task(self._watch(database))

    async def _watch(self, database: str) -> None:
        backoff = transient_backoff()
        pace = Pace()
        since: Seq = None
        try:
            while True:
                try:
                    with self._served.using(database):
                        peer = await self._served.peer(database)
                        if since is None:
                            since = (await peer.info()).update_seq
                            await self._notify(database, since)
                    changes = peer.changes(since, follow=True, limit=MOST_CHANGES)
                    async with aclosing(changes) as batches:
                        async for batch in batches:
                            since = batch.last_seq
                            backoff.reset()
                            if batch.changes:
                                await self._notify(database, since)
                                await asyncio.sleep(pace.next_pause(time.monotonic()))
                except TransientError as error:
                    log.info("%s: %s", database, error)
                    await asyncio.sleep(backoff.next_delay())
                else:  # the store was closed, and maybe it is open again
                    since = None
                    if database not in self._served.changing(self._follow):
                        return
                    await asyncio.sleep(backoff.next_delay())
        except PermanentError as error:
            log.warning("%s is not followed any more: %s", database, error)
        finally:
            # The next call starts it again, or the next time that it is opened.
            self._watched.pop(database, None)

    async def _notify(self, database: str, seq: Seq) -> None:
        self._watched[database] = seq
        if self._connection.connected:  # or else nobody is told, and everybody looks afterwards
            with suppress(EdgeAgentError):
                await self._connection.publish(
                    self._topics.changed(database),
                    encode_notice(to_json(seq)),
                    expiry=self._broker.patience,
                )
