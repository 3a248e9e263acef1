"""Opens a serial port, wherever it is, as a descriptor that is read and written without waiting.

The descriptor of a port of this machine and of a plain TCP connection is what the system gives.
RFC 2217 is pyserial's, which has threads of its own and no descriptor: two more threads carry its
bytes to and from a pair of sockets.
"""

from __future__ import annotations

import contextlib
import socket
import termios
import threading
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import msgspec
import serial.rs485  # type: ignore[import-untyped]

from agent.errors import PortError
from agent.sensors.port_errors import explain_failure
from agent.sensors.ports import find_path, is_network

_PARITIES = {
    "none": serial.PARITY_NONE,
    "even": serial.PARITY_EVEN,
    "odd": serial.PARITY_ODD,
}
_CONNECT_TIMEOUT = 5.0
_QUIET_SECONDS, _PROBES = 30, 3  # then TCP asks whether the other end is still there, so often
_LONGEST_READ = 1.0  # pyserial may miss that the connection has ended while it waits
_PIECE = 4096


class LineFormat(msgspec.Struct, frozen=True):
    """How bytes travel: the number of bits, their parity, and whether the driver of an RS-485
    line is switched on (by RTS) while something is sent. There is no flow control."""

    data_bits: Literal[7, 8] = 8
    parity: Literal["none", "even", "odd"] = "none"
    stop_bits: Literal[1, 2] = 1
    rs485: bool = False


class OpenPort(Protocol):
    """An open port. Its descriptor does not block; a read of nothing says that the port is gone."""

    def fileno(self) -> int: ...

    def close(self) -> None:
        """Blocks, until the device took what was written at the most. Raises OSError and
        termios.error."""


def open_port(name: str, baud: int, line: LineFormat) -> OpenPort:
    """Find, open and configure the port that `name` means, see `ports`. Blocks. Raises PortError.

    Nobody else who asks for it gets it meanwhile. At the end of a TCP connection `baud` and `line`
    mean nothing.
    """
    path = name if is_network(name) else find_path(name)
    try:
        if path.startswith("socket://"):
            return _open_socket(path)
        if path.startswith("rfc2217://"):
            return _Rfc2217Port(path, baud, line)
        return _open_local(path, baud, line)
    except (OSError, termios.error, ValueError) as error:
        reason = explain_failure(path, error)
        raise PortError(reason if path == name else f"{name}: {reason}") from error


def _options(baud: int, line: LineFormat) -> dict[str, Any]:
    return {
        "baudrate": baud,
        "bytesize": line.data_bits,
        "parity": _PARITIES[line.parity],
        "stopbits": line.stop_bits,
    }


def _open_local(path: str, baud: int, line: LineFormat) -> OpenPort:
    # With this inter-byte timeout pyserial sets VMIN to 1. A read then returns nothing
    # only when the port is gone; with 0, "no data yet" would look the same.
    port = serial.Serial(path, exclusive=True, inter_byte_timeout=0, **_options(baud, line))
    try:
        _leave_dtr_raised(port.fd)
        if line.rs485:
            port.rs485_mode = serial.rs485.RS485Settings()
    except (OSError, termios.error, ValueError):
        port.close()
        raise
    opened: OpenPort = port
    return opened


def _leave_dtr_raised(descriptor: int) -> None:
    """Raises termios.error."""
    settings = termios.tcgetattr(descriptor)
    settings[2] &= ~termios.HUPCL
    termios.tcsetattr(descriptor, termios.TCSANOW, settings)


def _open_socket(url: str) -> OpenPort:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), _CONNECT_TIMEOUT)
    _notice_silence(connection)
    connection.setblocking(False)
    return connection


def _notice_silence(connection: socket.socket) -> None:
    """A converter that lost its power says no goodbye, and a device may be silent for long."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _QUIET_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _QUIET_SECONDS // _PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)


class _Rfc2217Port:
    """A port behind RFC 2217 (Telnet with serial settings), as a pair of sockets."""

    def __init__(self, url: str, baud: int, line: LineFormat) -> None:
        """Raises OSError, ValueError."""
        options = _options(baud, line)
        self._serial: Any = serial.serial_for_url(url, timeout=_LONGEST_READ, **options)
        _notice_silence(self._serial._socket)  # it has no public name
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._carriers = [
            threading.Thread(target=carry, name=f"{url} {carry.__name__}", daemon=True)
            for carry in (self._from_device, self._to_device)
        ]
        for carrier in self._carriers:
            carrier.start()

    def fileno(self) -> int:
        return self._near.fileno()

    def close(self) -> None:
        self._hang_up()
        self._serial.close()
        for carrier in self._carriers:
            carrier.join()
        self._near.close()
        self._far.close()

    def _from_device(self) -> None:
        with contextlib.suppress(OSError):
            while True:  # until a read fails: with a time-out, one of nothing means nothing
                data = self._serial.read(1)
                data += self._serial.read(self._serial.in_waiting)
                # As on any port, what nobody reads in time is lost.
                with contextlib.suppress(BlockingIOError):
                    self._far.send(data, socket.MSG_DONTWAIT)
        self._hang_up()

    def _to_device(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._far.recv(_PIECE):
                self._serial.write(data)
        self._hang_up()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._far.shutdown(socket.SHUT_RDWR)
