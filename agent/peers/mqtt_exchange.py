"""One call and its answer over MQTT, as either side takes part in it.

Both sides do the same things: send a message, and give its later parts, and the contents of
attachments, to whoever asks; take a message in, and ask for what is missing. Only one part is
under way at a time, so neither side holds more than a message and a part, and a slow receiver
slows the sender down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Any, TypeVar

from agent.errors import ConnectError, EdgeAgentError, NotFoundError
from agent.peers.mqtt_errors import from_fault, to_fault
from agent.peers.mqtt_wire import (
    Assembly,
    Failed,
    Message,
    Packet,
    Part,
    Source,
    Want,
    WireError,
    decode_cbor,
    first_part,
    later_part,
    pack,
    unpack,
    unpacked,
)

Contents = Callable[[Source], AsyncGenerator[bytes, None]]
"""Opens the content of an attachment in the message that was sent."""

Waiting = Callable[[], AbstractAsyncContextManager[None]]
"""What goes around each wait for the other side."""

_T = TypeVar("_T")

_LONG = 256 * 1024
"""Bytes of CBOR; reading documents of that many takes some 5 ms, on a small gateway 30 ms. Below,
the way to a thread and back costs more than that wherever the event loop is busy."""

_WAITING = 8
"""Packets that may wait to be looked at; the other side sends one and waits."""


async def packed(value: Any, size: int) -> bytes:
    """As `pack`; `size` is about how large it will be."""
    return await asyncio.to_thread(pack, value) if size > _LONG else pack(value)


async def decoded(data: bytes, read: Callable[[Any], _T]) -> _T:
    """A message as what `read` makes of it. Raises WireError, TooLargeError."""
    if len(data) <= _LONG:
        plain = unpacked(data, _LONG)
        if plain is not None:
            return read(decode_cbor(plain))
    return await asyncio.to_thread(lambda: read(unpack(data)))


class Exchange:
    """One side of an exchange.

    `send` publishes a packet to the other side, `sender` is the own responder id or empty, `room`
    the most bytes of data in a packet, `patience` the seconds until a silent other side is given
    up. All methods raise ConnectError then, and WireError for packets that do not fit.
    """

    def __init__(
        self,
        send: Callable[[Packet], Awaitable[None]],
        *,
        where: str,
        sender: str,
        room: int,
        patience: float,
        waiting: Waiting = nullcontext,
    ) -> None:
        self.where = where
        self.other = ""
        """The id of the responder that has begun to answer; nobody else takes part then."""
        self._send = send
        self._sender = sender
        self._room = room
        self._patience = patience
        self._waiting = waiting
        self._packets: asyncio.Queue[Packet | EdgeAgentError] = asyncio.Queue(_WAITING)
        self._sent = b""
        self._outgoing: _Outgoing | None = None
        self._openings = 0

    def deliver(self, packet: Packet) -> None:
        """Take a packet that has come. What comes faster than it is asked for is dropped."""
        self.other = self.other or packet.sender
        if packet.sender == self.other and not self._packets.full():
            self._packets.put_nowait(packet)

    def fail(self, error: EdgeAgentError) -> None:
        """The connection is gone: whoever waits gets this error."""
        if self._packets.full():
            self._packets.get_nowait()
        self._packets.put_nowait(error)

    async def send(self, data: bytes, contents: Contents | None = None) -> None:
        """Send a message; its parts and `contents` are given out by `answer` and `serve`."""
        self._sent = data
        self._outgoing = None if contents is None else _Outgoing(contents, self._sender, self._room)
        await self._send(first_part(data, self._sender, self._room))

    async def answer(self) -> bytes:
        """The message that the other side answers with; meanwhile it gets what it asks for.

        Raises the error that the other side tells.
        """
        while True:
            packet = await self._receive()
            match packet:
                case Message():
                    return await self.assemble(packet)
                case Want():
                    await self._give(packet)

    async def serve(self) -> None:
        """Give out parts of what was sent until the last of them is on its way.

        With contents, until that of one attachment is. Ends when the other side falls silent.
        """
        done = self._outgoing is None and len(self._sent) <= self._room
        while not done:
            packet = await self._receive()
            if isinstance(packet, Want):
                done = await self._give(packet) and (
                    packet.source is not None or self._outgoing is None
                )

    async def assemble(self, first: Message) -> bytes:
        """A message from its first part on."""
        assembly = Assembly(first)
        while not assembly.complete:
            assembly.add(await self._part(None, assembly.offset))
        return assembly.message()

    async def content(self, index: int, name: str) -> AsyncGenerator[bytes, None]:
        """The content of an attachment of a revision in the message that came, from the other
        side."""
        source = Source(index, name, self._openings)
        self._openings += 1
        offset, end = 0, False
        while not end:
            part = await self._part(source, offset)
            if not part.data and not part.end:
                raise WireError(f"{self.where}: an empty part")
            offset += len(part.data)
            end = part.end
            if part.data:
                yield part.data

    async def close(self) -> None:
        if self._outgoing is not None:
            await self._outgoing.close()

    async def _part(self, source: Source | None, offset: int) -> Part:
        await self._send(Want(self._sender, source, offset))
        while True:
            packet = await self._receive()
            if isinstance(packet, Part) and packet.offset == offset:
                return packet

    async def _give(self, want: Want) -> bool:
        """Send what is asked for, unless that is long past; whether it was the last part."""
        try:
            part: Part | None
            if want.source is None:
                part = later_part(self._sent, self._sender, want.offset, self._room)
            elif self._outgoing is None:
                raise NotFoundError("no contents go with this message")
            else:
                part = await self._outgoing.part(want.source, want.offset)
        except EdgeAgentError as error:
            await self._send(Failed(self._sender, to_fault(error)))
            if not isinstance(error, NotFoundError):
                raise
            return True
        if part is None:
            return False
        await self._send(part)
        return part.end

    async def _receive(self) -> Packet:
        if self._packets.empty():
            async with self._waiting():
                packet = await self._next()
        else:
            packet = self._packets.get_nowait()
        if isinstance(packet, Failed):
            raise from_fault(self.where, packet.fault)
        if isinstance(packet, EdgeAgentError):
            raise packet
        return packet

    async def _next(self) -> Packet | EdgeAgentError:
        try:
            async with asyncio.timeout(self._patience):
                return await self._packets.get()
        except TimeoutError:
            raise ConnectError(f"{self.where} does not answer; it is tried again") from None


class _Outgoing:
    """Contents of attachments, cut into parts, each read once and from its beginning to its end."""

    def __init__(self, contents: Contents, sender: str, room: int) -> None:
        self._contents = contents
        self._sender = sender
        self._room = room
        self._source: Source | None = None
        self._pieces: AsyncGenerator[bytes, None] | None = None
        self._rest = bytearray()
        self._last: Part | None = None

    async def part(self, source: Source, offset: int) -> Part | None:
        """The part at `offset`, which is the last one given or the one after it; None for others.

        Raises NotFoundError, and what reading the content raises.
        """
        if self._source is None or source.opening > self._source.opening:
            await self.close()
            self._source, self._pieces = source, self._contents(source)
            self._rest.clear()
            self._last = None
        if source != self._source:
            return None
        last = self._last
        if last is not None and last.offset == offset:
            return last
        if offset != (0 if last is None else last.offset + len(last.data)):
            return None
        # One byte more than is sent tells whether there is an end.
        while self._pieces is not None and len(self._rest) <= self._room:
            piece = await anext(self._pieces, None)
            if piece is None:
                await self.close()
            else:
                self._rest += piece
        data = bytes(self._rest[: self._room])
        del self._rest[: self._room]
        self._last = Part(self._sender, offset, data, not self._rest)
        return self._last

    async def close(self) -> None:
        if self._pieces is not None:
            async with aclosing(self._pieces):
                self._pieces = None
