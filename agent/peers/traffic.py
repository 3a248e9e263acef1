"""Counts what crosses a link; that to an HTTP server with TLS and HTTP's own heads."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class Traffic(msgspec.Struct):
    """Bytes since the start, over all connections."""

    sent: int = 0
    received: int = 0


class CountedSocket(socket.socket):
    """A socket whose bytes are counted as asyncio sends and receives them.

    Below TLS, so these are the bytes that a TCP connection carries.
    """

    def __init__(self, family: int, kind: int, protocol: int, traffic: Traffic) -> None:
        super().__init__(family, kind, protocol)
        self._traffic = traffic

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        sent = super().send(data, flags)
        self._traffic.sent += sent
        return sent

    def sendmsg(self, buffers: Iterable[ReadableBuffer], /, *rest: Any) -> int:
        sent = super().sendmsg(buffers, *rest)
        self._traffic.sent += sent
        return sent

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        self._traffic.received += len(data)
        return data

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        received = super().recv_into(buffer, nbytes, flags)
        self._traffic.received += received
        return received
