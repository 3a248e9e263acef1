"""SQLite's file format, read without SQLite: the rows of each page by itself, the WAL's pages.

A b-tree of which a page is damaged leads nowhere below it, and without the schema it cannot even
be found; the leaves are whole all the same. Nothing here trusts a byte: what makes no sense is left
out. Pure; sections in brackets are those of https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias

Value: TypeAlias = int | float | str | bytes | None

PAGE_SIZE = 4096
"""Of every store; nothing at the end of a page is reserved."""

MAGIC = b"SQLite format 3\0"
WAL_HEADER = 32
FRAME_HEADER = 24

_FILE_HEADER = 100
_PAGE_HEADER, _CELL_HEADER = 8, 10
"""Bytes of a table's leaf page, and about those of a row in it, with the pointer to it [1.6]."""

_INDEX_INTERIOR, _INDEX_LEAF, _TABLE_LEAF = 2, 10, 13
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Bytes of the serial types that are integers [2.1]."""

_WAL_MAGIC = 0x377F0682  # or one more, which tells the order of bytes in its checksums

_BEGIN_NO_ROWS = frozenset((2, 3, 4))
"""Kinds of pages in a pointer map [1.8]: free ones, and those where long rows go on."""

_LAST_KIND = 5
_ENTRY = 5
"""Bytes of an entry in a pointer map."""


class Row(NamedTuple):
    """A row of a table, or an entry of an index or of a table without rowids: `rowid` is None."""

    rowid: int | None
    values: tuple[Value, ...]


def is_sound(header: bytes) -> bool:
    """Whether the first page begins as that of a store, apart from its numbers [1.3]."""
    if len(header) < _FILE_HEADER or not header.startswith(MAGIC):
        return False
    (size,) = struct.unpack_from(">H", header, 16)
    schema_format, _, _, encoding = struct.unpack_from(">IIII", header, 44)
    return (
        (size, header[20]) == (PAGE_SIZE, 0)
        and set(header[18:20]) <= {1, 2}
        and header[21:24] == bytes((64, 32, 32))
        and 1 <= schema_format <= 4
        and encoding == 1
    )


def numbers(header: bytes) -> tuple[int, int]:
    """The application id, and the user's version, which is the schema's."""
    (version,) = struct.unpack_from(">i", header, 60)
    (application,) = struct.unpack_from(">I", header, 68)
    return application, version


# --- pages ---------------------------------------------------------------------------------


def rows(page: bytes, number: int, read: Callable[[int], bytes | None]) -> Iterator[Row]:
    """The rows of one page, from 1 on, of which everything is readable.

    `read` returns another page, where a long row goes on, or None.
    """
    start = _FILE_HEADER if number == 1 else 0
    kind = page[start]
    if kind not in (_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR):
        return
    (count,) = struct.unpack_from(">H", page, start + 3)
    pointers = start + (12 if kind == _INDEX_INTERIOR else 8)
    if pointers + 2 * count > PAGE_SIZE:
        return
    for place in struct.unpack_from(f">{count}H", page, pointers):
        try:
            yield _cell(page, place, kind, read)
        except (IndexError, ValueError, struct.error):
            continue


def _cell(page: bytes, place: int, kind: int, read: Callable[[int], bytes | None]) -> Row:
    """[1.6]. Raises IndexError, ValueError and struct.error if it is damaged."""
    if kind == _INDEX_INTERIOR:
        place += 4
    length, place = _varint(page, place)
    rowid: int | None = None
    if kind == _TABLE_LEAF:
        rowid, place = _varint(page, place)
        rowid -= (rowid >> 63) << 64
    here = _stored_here(length, table=kind == _TABLE_LEAF)
    if place + here > PAGE_SIZE:
        raise ValueError("a cell is beyond its page")
    payload = page[place : place + here]
    if here < length:
        (onward,) = struct.unpack_from(">I", page, place + here)
        payload = _whole(payload, length, onward, read)
    return Row(rowid, _record(payload))


def _stored_here(length: int, *, table: bool) -> int:
    """How much of a payload is in the page itself [1.6]."""
    most = PAGE_SIZE - 35 if table else (PAGE_SIZE - 12) * 64 // 255 - 23
    if length <= most:
        return length
    least = (PAGE_SIZE - 12) * 32 // 255 - 23
    rest = least + (length - least) % (PAGE_SIZE - 4)
    return rest if rest <= most else least


def row_size(length: int) -> int:
    """Bytes of the file that a table's row with such a payload takes among others that are as long:
    with what is left of a page that has no room for another one."""
    here = _stored_here(length, table=True)
    further = -(-(length - here) // (PAGE_SIZE - 4))
    in_a_page = (PAGE_SIZE - _PAGE_HEADER) // (here + _CELL_HEADER)
    return PAGE_SIZE * further + PAGE_SIZE // in_a_page


def _whole(begun: bytes, length: int, onward: int, read: Callable[[int], bytes | None]) -> bytes:
    """A payload with what is in further pages [1.7]."""
    parts, missing, been = [begun], length - len(begun), set()
    while missing > 0:
        further = None if onward in been else read(onward)
        if further is None:
            raise ValueError("a row goes on in a page that is not there")
        been.add(onward)
        parts.append(further[4 : 4 + min(missing, PAGE_SIZE - 4)])
        missing -= len(parts[-1])
        (onward,) = struct.unpack_from(">I", further)
    return b"".join(parts)


def _record(payload: bytes) -> tuple[Value, ...]:
    """[2.1]; a text that is not UTF-8 is damage."""
    end, place = _varint(payload, 0)
    if end > len(payload):
        raise ValueError("a row's head is longer than the row")
    values: list[Value] = []
    at = end
    while place < end:
        kind = payload[place]
        if kind < 0x80:
            place += 1
        else:
            kind, place = _varint(payload, place)
        if kind >= 12:
            after = at + (kind - 12) // 2
            piece = payload[at:after]
            values.append(piece.decode() if kind % 2 else piece)
            at = after
        elif kind in _INTEGERS:
            after = at + _INTEGERS[kind]
            values.append(int.from_bytes(payload[at:after], "big", signed=True))
            at = after
        elif kind == 0:
            values.append(None)
        elif kind in (8, 9):
            values.append(kind - 8)
        elif kind == 7:
            values.append(struct.unpack_from(">d", payload, at)[0])
            at += 8
        else:
            raise ValueError("a column of no kind")
    if at != len(payload):
        raise ValueError("a row's head does not fit the row")
    return tuple(values)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number of 64 bits, without sign, and where it ends. Raises IndexError."""
    value = 0
    for _ in range(8):
        byte = data[place]
        place += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place
    return value << 8 | data[place], place + 1


# --- which pages are in use ----------------------------------------------------------------


MAPS_EVERY = PAGE_SIZE // _ENTRY + 1
"""Page 2 is a pointer map, and each one so many pages after the last [1.8]."""


def unused(page: bytes) -> frozenset[int] | None:
    """Of the pages after this pointer map, counted from 0, those that begin no rows.

    A free page still has the rows that were deleted. None if this is no pointer map: not every
    file has one, and it may be damaged.
    """
    kinds = page[0 : PAGE_SIZE // _ENTRY * _ENTRY : _ENTRY]
    if not kinds[0] or max(kinds) > _LAST_KIND:
        return None
    return frozenset(place for place, kind in enumerate(kinds) if kind in _BEGIN_NO_ROWS)


# --- the WAL -------------------------------------------------------------------------------


class Committed(NamedTuple):
    """What a WAL holds [4.2]: which frame, from 0 on, has the latest committed content of which
    page, and how many pages the file has after the last commit, 0 without one: what lies behind
    them was given back. `damaged`: something of a transaction was synced and is wrong.
    """

    frames: dict[int, int]
    pages: int
    damaged: bool


def committed(header: bytes, frames: Iterable[bytes]) -> Committed:
    """Frames are as long as a page and FRAME_HEADER.

    For SQLite those count that come before the first one whose checksum is wrong: as a rule of a
    transaction that was never finished. But no transaction is begun before the one before it is on
    the disk. So where the checksum of a frame after the end of a transaction goes on from there,
    that one had been finished, and what is wrong before it is damage.
    """
    is_wal = _is_wal(header)
    words = ">" if is_wal and header[3] & 1 else "<"
    salts = header[16:24] if is_wal else b""
    before = header[24:32]
    found: dict[int, int] = {}
    waiting: dict[int, int] = {}
    pages = ended = 0
    damaged, certain = False, is_wal
    for place, frame in enumerate(frames):
        salts = salts or frame[8:16]
        follows = frame[8:16] == salts and _follows(frame, before, words)
        if follows and ended and not certain:
            found |= waiting
            waiting.clear()
            pages, damaged, certain = ended, True, True
        certain = certain and follows
        number, size = struct.unpack_from(">II", frame)
        if follows:
            waiting[number] = place
        if size and certain:  # the transaction is complete, and the file has so many pages
            found |= waiting
            waiting.clear()
            pages = size
        ended, before = size if follows else 0, frame[16:24]
    return Committed(found, pages, damaged)


def _is_wal(header: bytes) -> bool:
    """Whether a WAL of a store begins so [4.1]."""
    if len(header) < WAL_HEADER:
        return False
    magic, _, size = struct.unpack_from(">III", header)
    words = ">" if magic & 1 else "<"
    return (magic & ~1, size) == (_WAL_MAGIC, PAGE_SIZE) and struct.unpack_from(
        ">II", header, 24
    ) == _checksum(header[:24], (0, 0), words)


def _follows(frame: bytes, before: bytes, words: str) -> bool:
    """Whether a frame's checksum goes on from the one before it."""
    sums = _checksum(frame[:8], struct.unpack(">II", before), words)
    return struct.unpack_from(">II", frame, 16) == _checksum(frame[FRAME_HEADER:], sums, words)


def _checksum(data: bytes, sums: tuple[int, int], words: str) -> tuple[int, int]:
    first, second = sums
    for even, odd in struct.iter_unpack(f"{words}II", data):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
