"""A bad radio link: IP packets are lost, late and slow, and the kernel's TCP has to cope with it.

A network device (TUN) whose far end is this program. It has the address `near`; what is sent to
`far` arrives here, and goes back to `near` as if `far` had sent it, when it is its turn, or never.
So what listens on `near` is reached at `far`, over the link. The device vanishes with the program.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import struct
import subprocess
from types import TracebackType
from typing import Self

_TUN = "/dev/net/tun"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_BUFFERED = 8.0
"""Seconds' worth of packets that the link's modem holds; what comes then is lost."""


def can_make_wires() -> bool:
    """Whether this process may make network devices."""
    return os.geteuid() == 0 and os.access(_TUN, os.W_OK)


class Wire:
    """The link. All of its properties may be changed while it is in use."""

    def __init__(self, seed: int) -> None:
        number = os.getpid() % 2**14 * 4
        # 198.18.0.0/15 is for tests of networks (RFC 2544).
        net = f"198.18.{number >> 8}"
        self.near = f"{net}.{(number & 255) + 1}"
        self.far = f"{net}.{(number & 255) + 2}"
        self.loss = 0.0
        """The part of the packets that is lost, 0 to 1."""
        self.delay = 0.0
        """Seconds from one end to the other."""
        self.bits_per_second: float | None = None
        """Both directions share it."""
        self.passed = 0
        self.lost = 0
        self._chance = random.Random(seed)
        self._free_at = 0.0
        self._device = -1

    async def __aenter__(self) -> Self:
        name = f"wire{os.getpid()}"[:15]
        self._device = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
        try:
            request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(self._device, _TUNSETIFF, request)
            for words in (
                ["address", "add", f"{self.near}/30", "dev", name],
                ["link", "set", name, "up"],
            ):
                await asyncio.to_thread(
                    subprocess.run, ["ip", *words], check=True, capture_output=True
                )
        except BaseException:
            os.close(self._device)
            raise
        asyncio.get_running_loop().add_reader(self._device, self._read)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._device)
        os.close(self._device)
        self._device = -1

    def _read(self) -> None:
        packet = os.read(self._device, 65536)
        if packet[0] >> 4 != 4:
            return  # IPv6 looks for neighbours
        loop = asyncio.get_running_loop()
        due = loop.time()
        if self.bits_per_second is not None:
            begins = max(self._free_at, due)
            if begins - due > _BUFFERED:
                self.lost += 1
                return
            due = self._free_at = begins + 8 * len(packet) / self.bits_per_second
        if self._chance.random() < self.loss:
            self.lost += 1
            return
        self.passed += 1
        # Addresses change places; the checksums stay right, since they are sums.
        back = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
        loop.call_at(due + self.delay, self._send, back)

    def _send(self, packet: bytes) -> None:
        if self._device >= 0:
            os.write(self._device, packet)
