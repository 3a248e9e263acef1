"""Makes and reads CBOR frames independently of the code under test.

The CRC is computed bit by bit from its definition, and COBS is written from its paper; only
CBOR itself is the library's.
"""

from __future__ import annotations

from typing import Any

import cbor2


def crc16(data: bytes) -> int:
    """CRC-16/CCITT-FALSE; its check value, for b"123456789", is 0x29B1."""
    crc = 0xFFFF
    for byte in data:
        for bit in range(7, -1, -1):
            feedback = (crc >> 15) ^ (byte >> bit & 1)
            crc = (crc << 1 & 0xFFFF) ^ (0x1021 if feedback else 0)
    return crc


def stuff(data: bytes) -> bytes:
    """COBS: each block is a count and up to 254 bytes without zero."""
    out = b""
    for run in data.split(b"\0"):
        while len(run) >= 254:
            out += b"\xff" + run[:254]
            run = run[254:]
            if not run:
                break
        else:
            out += bytes([len(run) + 1]) + run
            continue
        # A full block stands for no zero; one that follows needs a block of its own.
        out += b"\x01"
    # A last full block needs nothing after it.
    tail = data.rsplit(b"\0", 1)[-1]
    return out[:-1] if tail and len(tail) % 254 == 0 else out


def unstuff(frame: bytes) -> bytes | None:
    """Undo `stuff`; None if a block ends too early."""
    out = b""
    while frame:
        count = frame[0]
        if count > len(frame):
            return None
        out += frame[1:count]
        frame = frame[count:]
        if frame and count < 255:
            out += b"\0"
    return out


def frame_bytes(payload: bytes) -> bytes:
    """One frame around any payload."""
    return stuff(payload + crc16(payload).to_bytes(2, "big")) + b"\0"


def frame(message: Any) -> bytes:
    """One frame around any value, encoded as CBOR."""
    return frame_bytes(cbor2.dumps(message))


def accepted_payloads(stream: bytes) -> list[bytes]:
    """The payloads between zeros whose CRC holds, by chance or not."""
    payloads = []
    for piece in stream.split(b"\0")[:-1]:
        content = unstuff(piece)
        if content and len(content) > 2 and crc16(content[:-2]) == int.from_bytes(content[-2:]):
            payloads.append(content[:-2])
    return payloads
