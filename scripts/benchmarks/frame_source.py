"""A device in a process of its own, that sends frames of 32 bytes as fast as it is told.

    python -m scripts.benchmarks.frame_source DESCRIPTOR COUNT RATE

writes COUNT frames to a descriptor, RATE of them in a second; 0: as fast as they are taken. It
prints by how many seconds it was behind in the end: a port takes no more than is read from it.
"""

from __future__ import annotations

import binascii
import os
import struct
import sys
import time

from cobs import cobs  # type: ignore[import-untyped]

FRAME_SIZE = 32
SENSOR = "torque"
_EVERY = 0.01  # seconds


def frames(first: int, count: int) -> bytes:
    """Frames with these sequence numbers, as docs/firmware.md describes them."""
    made = []
    for number in range(first, first + count):
        head = b"\xa3aq\x1a" + struct.pack(">I", number) + b"ab\x1a\x07\x5b\xcd\x15"
        payload = head + b"ar\xa1ftorque\x19" + struct.pack(">H", 20_000 + number % 5000)
        made.append(cobs.encode(payload + struct.pack(">H", binascii.crc_hqx(payload, 0xFFFF))))
    return b"\0".join(made) + b"\0"


def send(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def main(descriptor: int, count: int, rate: int) -> float:
    """Returns how many seconds it is behind."""
    if not rate:
        send(descriptor, frames(0, count))
        return 0.0
    started = time.monotonic()
    sent = 0
    while sent < count:
        due = min(count, int((time.monotonic() - started) * rate) + 1)
        send(descriptor, frames(sent, due - sent))
        sent = due
        time.sleep(_EVERY)
    return time.monotonic() - started - count / rate


if __name__ == "__main__":
    print(main(*map(int, sys.argv[1:])))
