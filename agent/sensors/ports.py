"""Which serial ports there are, and which of them a name means.

`[[device]] port` is one of

- the path of a device file, or a name below /dev/serial/by-id;
- `usb:VID:PID`, in hexadecimal; `serial:NUMBER`, the serial number of a USB device;
- `usb:1-1.2`, where it is plugged in: the bus and the hubs' ports, as the kernel names them; a
  device with several ports needs the interface as well, `usb:1-1.2:1.0`;
- `socket://HOST:PORT` or `rfc2217://HOST:PORT`, a port at the other end of a network.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from serial.tools import list_ports  # type: ignore[import-untyped]

from agent.errors import PortError

BY_ID = Path("/dev/serial/by-id")

_USB_ID = re.compile(r"usb:([0-9a-fA-F]{4}):([0-9a-fA-F]{4})")
_LISTED = ("usb:", "serial:")
_NETWORK = ("socket://", "rfc2217://")


class PortInfo(msgspec.Struct, frozen=True):
    """A port of this machine. What is not known is None; all but the path and the description are
    known of USB devices only."""

    path: str
    description: str
    by_id: str | None = None
    vid: int | None = None
    pid: int | None = None
    serial: str | None = None
    location: str | None = None

    @property
    def usb_id(self) -> str | None:
        """VID:PID in hexadecimal."""
        return None if self.vid is None or self.pid is None else f"{self.vid:04x}:{self.pid:04x}"

    def names(self) -> Iterator[str]:
        """What the port may be called, the most lasting name first; others may share it."""
        if self.serial:
            yield f"serial:{self.serial}"
        if self.usb_id:
            yield f"usb:{self.usb_id}"
        if self.location:
            yield f"usb:{self.location}"
        yield self.path

    def answers_to(self, name: str) -> bool:
        """Whether `name` means this port, or this one among others."""
        if _USB_ID.fullmatch(name):
            return name.lower() == f"usb:{self.usb_id}"
        # A location without the interface means all ports of the device there.
        location = f"usb:{self.location}"
        return name in self.names() or (
            self.location is not None and location.startswith(f"{name}:")
        )


def is_network(name: str) -> bool:
    """Whether the port is at the other end of a network."""
    return name.startswith(_NETWORK)


def local_ports() -> list[PortInfo]:
    """The serial ports of this machine, in the order of their names. Reads /sys and /dev; opens no
    port, which might reset the device on it. Pseudo-terminals are not among them."""
    by_id = {str(link.resolve()): link.name for link in BY_ID.glob("*")}
    return [
        PortInfo(
            path=found.device,
            description=found.product or "",
            by_id=by_id.get(found.device),
            vid=found.vid,
            pid=found.pid,
            serial=found.serial_number or None,
            location=found.location,
        )
        for found in sorted(list_ports.comports())
    ]


def find_path(name: str) -> str:
    """The path of the device file that `name` means at the moment, which may be absent.

    Not for ports on a network. Blocks. Raises PortError when no port answers to a name that has
    to be looked up, or several do.
    """
    if name.startswith(_LISTED):
        return choose(name, local_ports()).path
    return name if "/" in name else str(BY_ID / name)


def choose(name: str, ports: Sequence[PortInfo]) -> PortInfo:
    """The one port among all `ports` that a name means. Raises PortError."""
    found = [port for port in ports if port.answers_to(name)]
    if not found:
        raise PortError(
            f"{name}: no such port; is the device plugged in? edge-agent ports lists what there is"
        )
    if len(found) > 1:
        ways_out = " or ".join(lasting_name(port, ports) for port in found)
        raise PortError(f"{name}: {len(found)} ports are called that; write {ways_out}")
    return found[0]


def lasting_name(port: PortInfo, ports: Sequence[PortInfo]) -> str:
    """A name that no other of `ports` has, and that still means the device after a restart."""
    taken = Counter(name for other in ports for name in other.names())
    return next((name for name in port.names() if taken[name] == 1), port.path)
