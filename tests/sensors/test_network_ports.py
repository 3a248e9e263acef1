"""Ports at the other end of a network: a plain TCP device, and pyserial's own RFC 2217 server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import socket
import threading
import tty
from collections.abc import AsyncIterator, Iterator

import pytest
import serial
from serial import rfc2217

from agent.backoff import Backoff
from agent.sensors.link import SerialLink
from agent.sensors.opening import LineFormat
from tests.patience import until
from tests.rig.network import find_free_port

EVERY_BYTE = bytes(range(256)) * 4


@contextlib.asynccontextmanager
async def running(link: SerialLink, received: bytearray) -> AsyncIterator[None]:
    task = asyncio.create_task(link.run(received.extend, lambda: None))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Converter:
    """A converter from TCP to a serial line, whose device sends back what it gets, or nothing."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self.got = bytearray()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                self.got += data
                if not self._silent:
                    writer.write(data)
        writer.close()


async def test_a_plain_tcp_port() -> None:
    converter = Converter()
    server = await asyncio.start_server(converter.serve, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    received = bytearray()
    link = SerialLink(f"socket://127.0.0.1:{port}", backoff=Backoff(0.01, 0.05))
    async with server, running(link, received):
        await until(lambda: link.state == "open")
        await link.write(EVERY_BYTE)
        await until(lambda: received == EVERY_BYTE)
        assert converter.got == EVERY_BYTE

        converter.writers[0].close()  # it was switched off, and on again
        await until(lambda: link.opens == 2)
        await link.write(b"again")
        await until(lambda: received.endswith(b"again"))
    assert received == EVERY_BYTE + b"again"


async def test_a_converter_that_is_away_is_waited_for() -> None:
    port = find_free_port()
    link = SerialLink(f"socket://127.0.0.1:{port}", backoff=Backoff(0.01, 0.05))
    async with running(link, bytearray()):
        await until(lambda: link.last_error)
        assert link.last_error == (
            f"socket://127.0.0.1:{port}: Connection refused; "
            "check the address, and that the converter is on"
        )
        server = await asyncio.start_server(Converter().serve, "127.0.0.1", port)
        async with server:
            await until(lambda: link.state == "open")


class Line(serial.Serial):
    """A pseudo-terminal has no modem lines."""

    cts = dsr = ri = cd = False

    def _update_dtr_state(self) -> None:
        pass

    def _update_rts_state(self) -> None:
        pass


class Rfc2217Server:
    """Serves one client after the other, with a pseudo-terminal for a serial line."""

    def __init__(self) -> None:
        self.device, line = pty.openpty()
        tty.setraw(line)
        self.line = Line(os.ttyname(line), timeout=0.05)
        os.close(line)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rfc2217://127.0.0.1:{self._listener.getsockname()[1]}"
        self.client: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """What pyserial's PortManager calls."""
        assert self.client is not None
        with contextlib.suppress(OSError):
            self.client.sendall(data)

    def hang_up(self) -> None:
        assert self.client is not None
        self.client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.line.close()
        os.close(self.device)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.client, _ = self._listener.accept()
                manager = rfc2217.PortManager(self.line, self)
                gone = threading.Event()
                reader = threading.Thread(target=self._carry, args=(manager, gone))
                reader.start()
                with self.client, contextlib.suppress(ConnectionError):
                    while data := self.client.recv(1024):
                        self.line.write(b"".join(manager.filter(data)))
                gone.set()
                reader.join()

    def _carry(self, manager: rfc2217.PortManager, gone: threading.Event) -> None:
        while not gone.is_set():
            data = self.line.read(self.line.in_waiting or 1)
            if data:
                self.write(b"".join(manager.escape(data)))


@pytest.fixture
def server() -> Iterator[Rfc2217Server]:
    server = Rfc2217Server()
    yield server
    server.close()


# pyserial's client names its threads in an old way.
@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")
async def test_a_port_behind_rfc_2217(server: Rfc2217Server) -> None:
    received = bytearray()
    line = LineFormat(stop_bits=2)  # a pseudo-terminal refuses a parity
    link = SerialLink(server.url, 19200, line=line, backoff=Backoff(0.01, 0.05))
    async with running(link, received):
        await until(lambda: link.state == "open")
        assert (server.line.baudrate, server.line.stopbits) == (19200, 2)
        os.write(server.device, EVERY_BYTE)  # with 0xFF, which Telnet doubles
        await until(lambda: len(received) >= len(EVERY_BYTE))
        assert received == EVERY_BYTE
        await link.write(EVERY_BYTE)
        sent = bytearray()
        while len(sent) < len(EVERY_BYTE):
            sent += await asyncio.to_thread(os.read, server.device, 4096)
        assert sent == EVERY_BYTE

        server.hang_up()
        await until(lambda: link.opens == 2)
        os.write(server.device, b"again")
        await until(lambda: received.endswith(b"again"))


@pytest.mark.filterwarnings("ignore:set(Daemon|Name):DeprecationWarning")
async def test_what_does_not_speak_rfc_2217_says_so() -> None:
    server = await asyncio.start_server(Converter(silent=True).serve, "127.0.0.1")
    url = f"rfc2217://127.0.0.1:{server.sockets[0].getsockname()[1]}?timeout=0.2"
    link = SerialLink(url, backoff=Backoff(0.01, 0.05))
    async with server, running(link, bytearray()):
        await until(lambda: link.last_error)
    assert link.last_error == (
        f"{url}: Remote does not seem to support RFC2217 or BINARY mode; "
        "check the address, and that the converter is on"
    )
