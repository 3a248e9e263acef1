"""Bytes that are nearly right: what was kept, damaged in the ways that parsers fall for."""

from __future__ import annotations

import random
from collections.abc import Sequence

_LONGEST = 20_000

# What means something in one format or another, or lies at the edge of a number's range.
_TOKENS: Sequence[bytes] = (
    *(bytes([n]) for n in (0, 1, 10, 13, 0x16, 0x1F, 0x5F, 0x7F, 0x80, 0x9F, 0xBF, 0xFB, 0xFF)),
    b"\xff\xff\xff\xff",
    b"\x1b\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"\xed\xa0\x80",
    "\u0661\u00b2\ud7ff\ufffe".encode(),
    b'"',
    b"'",
    b"\\",
    b"\\ud800",
    b"{",
    b"[" * 2000,
    b'{"a":' * 2000,
    b"\x81" * 300,
    b"(" * 200,
    b"0" * 5000,
    b"9" * 400,
    b"1e999",
    b"-0",
    b"NaN",
    b"null",
    b"true",
    b"9223372036854775808",
    b"0x",
    b"%00",
    b"%",
    b"=",
    b";",
    b",",
    b"&",
    b"\r\n",
    b"\r\n\r\n",
    b"--",
    b"*",
    b"$",
    b"/",
    b"@",
    b"//",
    b":",
)


def mutated(corpus: Sequence[bytes], chance: random.Random) -> bytes:
    """One of the corpus with one to six kinds of damage."""
    data = chance.choice(corpus)
    for _ in range(chance.randint(1, 6)):
        data = _damaged(data, corpus, chance)[:_LONGEST]
    return data


def _damaged(data: bytes, corpus: Sequence[bytes], chance: random.Random) -> bytes:
    at = chance.randint(0, len(data))
    end = min(len(data), at + chance.choice((1, 1, 2, 4, 16, 200)))
    match chance.randrange(8):
        case 0:
            return (
                data[:at]
                + bytes(byte ^ 1 << chance.randrange(8) for byte in data[at:end])
                + (data[end:])
            )
        case 1:
            return data[:at] + data[end:]
        case 2:
            return data[:end] + data[at:end] * chance.choice((1, 2, 50)) + data[end:]
        case 3:
            return data[:at] + chance.choice(_TOKENS) + data[at:]
        case 4:
            return data[:at] + chance.choice(_TOKENS) + data[end:]
        case 5:
            return data[:at] + chance.randbytes(end - at) + data[end:]
        case 6:
            other = chance.choice(corpus)
            return data[:at] + other[chance.randint(0, len(other)) :]
        case _:
            return data[:at]
