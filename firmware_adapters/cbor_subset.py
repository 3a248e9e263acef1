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
_CUT = "CBOR that ends too early"


def check_subset(data: bytes) -> int:
    """Return how many items `data` holds, map keys and the outermost item included.

    It must be exactly one item made of integers, text, true, false, null, floats, and arrays
    and maps of those: of definite length, maps with text keys, nested at most MAX_DEPTH deep,
    at most MAX_ITEMS in all. Raises MalformedError otherwise. Text is not checked for UTF-8.
    """
    # A fast device sends thousands of frames a second: one loop, without a call for each item.
    # Encoding: RFC 8949, section 3.
    size = len(data)
    position = items = 0
    left, in_map = 1, False  # of the innermost array or map; of a map, keys and values
    outer: list[tuple[int, bool]] = []
    while True:
        while not left:
            if not outer:
                if position != size:
                    raise MalformedError("bytes after the end of the CBOR item")
                return items
            left, in_map = outer.pop()
        items += 1
        if items > MAX_ITEMS:
            raise MalformedError(f"more than {MAX_ITEMS} CBOR items")
        if position >= size:
            raise MalformedError(_CUT)
        head = data[position]
        position += 1
        major, minor = head >> 5, head & 31
        argument = minor
        if minor >= 24:
            if minor > 27:
                raise MalformedError("CBOR of indefinite length")
            end = position + (1 << (minor - 24))
            if end > size:
                raise MalformedError(_CUT)
            argument = int.from_bytes(data[position:end], "big")
            position = end
        if in_map and not left % 2 and major != _TEXT:
            raise MalformedError("a CBOR map with a key that is not text")
        left -= 1
        if major == _TEXT:
            position += argument
            if position > size:
                raise MalformedError(_CUT)
        elif major in (_ARRAY, _MAP):
            if len(outer) == MAX_DEPTH:
                raise MalformedError(f"CBOR nested more than {MAX_DEPTH} deep")
            outer.append((left, in_map))
            left, in_map = (2 * argument, True) if major == _MAP else (argument, False)
        elif major == _SIMPLE:
            if minor not in _FALSE_TRUE_NULL_FLOATS:
                raise MalformedError("a CBOR simple value without a meaning")
        elif major not in (_UNSIGNED, _NEGATIVE):
            raise MalformedError(f"CBOR major type {major} is not used in frames")
