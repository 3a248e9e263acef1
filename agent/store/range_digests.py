"""Digests of ranges of a store's documents, by which it is compared with other databases.

They cost nothing while documents are written. Whoever asks for them has them brought up to date
first: only ranges with documents that have changed since are read again.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from agent.documents.ranges import EVERYTHING, Builder, Leaves, Range, Span, coarser, within
from agent.documents.tree import RevTree
from agent.store.schema import PURGE_SEQ, RANGES_PURGES, RANGES_SEQ, SEQ_FLOOR
from agent.store.store import Store
from agent.store.transaction import Transaction

_PAGE = 5000
"""Documents that one query reads, in some 20 ms."""


class _Known(NamedTuple):
    """`ranges` of the finest level hold the changes up to `seq`; `newest` is the store's newest
    sequence. `purges` have been made, other than `noted` where some came afterwards."""

    ranges: list[Range]
    seq: int
    newest: int
    purges: int
    noted: int


async def ranges(store: Store, level: int, spans: Sequence[Span]) -> list[list[Range]]:
    """The ranges of a level in each span, which has to begin where such a range does.

    Raises StoreError.
    """
    finest = await _up_to_date(store)
    return [coarser(within(finest, span), level) for span in spans]


async def leaves(store: Store, span: Span, limit: int) -> list[Leaves]:
    """The leaf revisions of the first documents in a span, tombstones included, by id.

    Raises StoreError.
    """
    return await store.query(partial(_leaves, span=span, limit=min(limit, _PAGE)))


async def _up_to_date(store: Store) -> list[Range]:
    known = await store.query(_known)
    if known.seq == known.newest and known.purges == known.noted:
        return known.ranges
    if not known.ranges or known.purges != known.noted:
        dirty = [EVERYTHING]
    else:
        dirty = await _dirty(store, known)
    made = [(span, await _scan(store, span)) for span in dirty]

    def keep(transaction: Transaction) -> None:
        for span, fresh in made:
            transaction.ranges.replace(span, fresh)
        transaction.ranges.note(known.newest, known.purges)

    await store.write(keep)
    return (await store.query(_known)).ranges


async def _dirty(store: Store, known: _Known) -> list[Span]:
    """The ranges in which documents have changed; neighbours are one span."""
    starts = [item.start for item in known.ranges]
    touched: set[int] = set()
    seq = known.seq
    while changed := await store.query(partial(_changed, after=seq)):
        touched.update(bisect_right(starts, id) - 1 for _, id in changed)
        seq = changed[-1][0]
    spans: list[Span] = []
    for place in sorted(touched):
        start, end = starts[place], starts[place + 1] if place + 1 < len(starts) else None
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, end))
    return spans


async def _scan(store: Store, span: Span) -> list[Range]:
    builder = Builder(span[0])
    start, end = span
    while page := await store.query(partial(_leaves, span=(start, end), limit=_PAGE)):
        await store.examine(_add, builder, page)
        start = page[-1].id + "\0"  # the next id that there can be
    builder.finish()
    return builder.ranges


def _add(builder: Builder, page: Sequence[Leaves]) -> None:
    for document in page:
        builder.add(document)


def _known(db: sqlite3.Connection) -> _Known:
    keys = (RANGES_SEQ, RANGES_PURGES, PURGE_SEQ, SEQ_FLOOR)
    meta = dict(db.execute("SELECT key, value FROM meta WHERE key IN (?, ?, ?, ?)", keys))
    newest = db.execute("SELECT coalesce(max(seq), 0) FROM docs").fetchone()[0]
    rows = db.execute("SELECT start, count, digest FROM ranges ORDER BY start")
    return _Known(
        [Range(*row) for row in rows],
        meta.get(RANGES_SEQ, 0),
        max(newest, meta.get(SEQ_FLOOR, 0)),
        meta.get(PURGE_SEQ, 0),
        meta.get(RANGES_PURGES, 0),
    )


def _changed(db: sqlite3.Connection, *, after: int) -> list[tuple[int, str]]:
    sql = "SELECT seq, id FROM docs WHERE seq > ? ORDER BY seq LIMIT ?"
    return db.execute(sql, (after, _PAGE)).fetchall()


def _leaves(db: sqlite3.Connection, *, span: Span, limit: int) -> list[Leaves]:
    start, end = span
    sql = "SELECT id, gen || '-' || hash, tree FROM docs WHERE id >= ?"
    rows = (
        db.execute(f"{sql} ORDER BY id LIMIT ?", (start, limit))
        if end is None
        else db.execute(f"{sql} AND id < ? ORDER BY id LIMIT ?", (start, end, limit))
    )
    return [Leaves(id, (rev,) if tree is None else _sorted(tree)) for id, rev, tree in rows]


def _sorted(tree: bytes) -> tuple[str, ...]:
    return tuple(sorted(map(str, RevTree.decode(tree).leaves())))
