"""Ranges of a database's documents and their digests, by which two databases are compared.

A range begins with a document whose id's hash ends in some number of zero bits, and ends before the
next such document. As ids alone say where ranges begin, databases with the same documents have the
same ranges, in whatever order the documents came, and one document more or less changes the ranges
around it only. A range of the next level is some ranges of the level below: equal parts of two
databases are passed over with one digest, and what differs is found in a few steps. It is a Merkle
tree whose shape depends on nothing but its leaves ("prolly tree").
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

FINEST = 1
"""The level of the smallest ranges."""

COARSEST = 7
"""So that level 7 is one range of up to 2^32 documents or so."""

_DOCUMENTS_BITS = 8
"""256 documents in a range of the finest level, on average."""
_LEVEL_BITS = 4
"""16 ranges of one level in one of the next."""

DIGEST_SIZE = 16
"""Bytes."""

Span: TypeAlias = tuple[str, str | None]
"""From an id to before another one; None is the end of all."""

EVERYTHING: Span = ("", None)


class Range(NamedTuple):
    """Documents from the id `start` on: how many, and a digest of their leaf revisions."""

    start: str
    documents: int
    digest: bytes


class Leaves(NamedTuple):
    """A document's leaf revisions, sorted as texts."""

    id: str
    revs: tuple[str, ...]


def height(id: str) -> int:
    """The highest level of which a range begins with this id; 0 if none does."""
    number = int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "big")
    zeros = (number & -number).bit_length() - 1 if number else 64
    if zeros < _DOCUMENTS_BITS:
        return 0
    return min(FINEST + (zeros - _DOCUMENTS_BITS) // _LEVEL_BITS, COARSEST)


def level_for(documents: int) -> int:
    """A level of which so many documents are a few ranges."""
    ranges = max(1, documents >> _DOCUMENTS_BITS)
    return min(FINEST + (ranges.bit_length() - 1) // _LEVEL_BITS, COARSEST)


class Builder:
    """Makes ranges of the finest level of documents that are added in the order of their ids."""

    def __init__(self, start: str) -> None:
        """The first range begins at `start`, whatever its hash."""
        self.ranges: list[Range] = []
        self._start = start
        self._count = 0
        self._hash = _new()

    def add(self, leaves: Leaves) -> None:
        if leaves.id != self._start and height(leaves.id):
            self.finish()
            self._start, self._count, self._hash = leaves.id, 0, _new()
        self._count += 1
        # Neither an id nor a revision can have a zero byte and a line feed in that order after it.
        self._hash.update("\0\n".join((leaves.id, *leaves.revs, "\0")).encode())

    def finish(self) -> None:
        """The range that documents were added to is complete."""
        self.ranges.append(Range(self._start, self._count, self._hash.digest()))


def coarser(finest: Iterable[Range], level: int) -> list[Range]:
    """Ranges of a level, made of consecutive ones of the finest level."""
    if level == FINEST:
        return list(finest)
    made: list[Range] = []
    start, count, digest = None, 0, _new()
    for item in finest:
        if start is not None and height(item.start) >= level:
            made.append(Range(start, count, digest.digest()))
            start, count, digest = None, 0, _new()
        if start is None:
            start = item.start
        count += item.documents
        digest.update(item.digest)
    if start is not None:
        made.append(Range(start, count, digest.digest()))
    return made


def within(finest: Sequence[Range], span: Span) -> Sequence[Range]:
    """Those that begin in a span. `finest` is sorted."""
    start, end = span
    first = bisect_left(finest, start, key=_start)
    last = len(finest) if end is None else bisect_left(finest, end, key=_start)
    return finest[first:last]


def different(here: Sequence[Range], there: Sequence[Range], span: Span) -> Iterator[Span]:
    """The parts of a span in which two sides differ, between ids at which ranges of both begin."""
    ours, theirs = {item.start for item in here}, {item.start for item in there}
    common = sorted({span[0], *(ours & theirs)})
    for start, end in zip(common, [*common[1:], span[1]], strict=True):
        part = (start, end)
        if list(within(here, part)) != list(within(there, part)):
            yield part


def joined(here: Sequence[Leaves], there: Sequence[Leaves]) -> Iterator[tuple[str, Leaves, Leaves]]:
    """Documents whose leaves differ, each side's without revisions where it lacks the document."""
    ours, theirs = dict(here), dict(there)
    for id in sorted(ours.keys() | theirs.keys()):
        left, right = ours.get(id, ()), theirs.get(id, ())
        if left != right:
            yield id, Leaves(id, left), Leaves(id, right)


def _start(item: Range) -> str:
    return item.start


def _new() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=DIGEST_SIZE)
