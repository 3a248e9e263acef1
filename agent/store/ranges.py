"""The table `ranges`: digests of ranges of documents, see `agent/documents/ranges.py`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from agent.documents.ranges import Range, Span
from agent.store.schema import RANGES_PURGES, RANGES_SEQ


class Ranges:
    """The table, within a transaction of the writer."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def replace(self, span: Span, ranges: Sequence[Range]) -> None:
        """The ranges that begin in a span are these now."""
        start, end = span
        if end is None:
            self._db.execute("DELETE FROM ranges WHERE start >= ?", (start,))
        else:
            self._db.execute("DELETE FROM ranges WHERE start >= ? AND start < ?", (start, end))
        self._db.executemany("INSERT INTO ranges (start, count, digest) VALUES (?, ?, ?)", ranges)

    def note(self, seq: int, purges: int) -> None:
        """All changes up to a sequence are in them, as are so many purged documents."""
        self._db.executemany(
            "INSERT INTO meta (key, value) VALUES (?1, ?2) "
            "ON CONFLICT (key) DO UPDATE SET value = ?2",
            [(RANGES_SEQ, seq), (RANGES_PURGES, purges)],
        )
