"""Checks that bytes are CBOR of the plain kind that devices send, before they are decoded.

CBOR from an untrusted wire can ask for huge allocations, recursion, regular expressions or
big numbers. Which of those a decoder refuses differs between the versions of the library, so
nothing but the plain subset reaches it.
"""

from __future__ import annotations

from firmware_adapters.fields import MAX_DEPTH, MalformedError

MAX_ITEMS = 256

_UNSIGNED, _NEGATIVE, _TEXT, _ARRAY, _MAP, _SIMPLE = 0, 1, 3, 4, 5, 7
_FALSE_TRUE_NULL_FLOATS = frozenset({20, 21, 22, 25, 26, 27})


def check_subset(data: bytes) -> int:
    """Return how many items `data` holds, map keys and the outermost item included.

    It must be exactly one item made of integers, text, true, false, null, floats, and arrays
    and maps of those: of definite length, maps with text keys, nested at most MAX_DEPTH deep,
    at most MAX_ITEMS in all. Raises MalformedError otherwise. Text is not checked for UTF-8.
    """
    scan = _Scan(data)
    scan.item(MAX_DEPTH)
    if scan.position != len(data):
        raise MalformedError("bytes after the end of the CBOR item")
    return scan.items


class _Scan:
    """Steps over items; `position` is the next byte. Encoding: RFC 8949, section 3."""

    def __init__(self, data: bytes) -> None:
        self.position = 0
        self.items = 0
        self._data = data

    def item(self, depth: int, *, text_only: bool = False) -> None:
        self.items += 1
        if self.items > MAX_ITEMS:
            raise MalformedError(f"more than {MAX_ITEMS} CBOR items")
        head = self._take(1)[0]
        major, minor = head >> 5, head & 31
        argument = self._argument(minor)
        if text_only and major != _TEXT:
            raise MalformedError("a CBOR map with a key that is not text")
        if major == _TEXT:
            self._take(argument)
        elif major in (_ARRAY, _MAP):
            if depth == 0:
                raise MalformedError(f"CBOR nested more than {MAX_DEPTH} deep")
            for _ in range(argument):
                if major == _MAP:
                    self.item(depth - 1, text_only=True)
                self.item(depth - 1)
        elif major == _SIMPLE:
            if minor not in _FALSE_TRUE_NULL_FLOATS:
                raise MalformedError("a CBOR simple value without a meaning")
        elif major not in (_UNSIGNED, _NEGATIVE):
            raise MalformedError(f"CBOR major type {major} is not used in frames")

    def _argument(self, minor: int) -> int:
        if minor < 24:
            return minor
        if minor > 27:
            raise MalformedError("CBOR of indefinite length")
        return int.from_bytes(self._take(1 << (minor - 24)), "big")

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self.position:
            raise MalformedError("CBOR that ends too early")
        taken = self._data[self.position : self.position + size]
        self.position += size
        return taken
