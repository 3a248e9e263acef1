"""The record of the conflicts that were resolved here: in `meta`, bounded, and not replicated."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

KEPT = 10_000
"""Entries; older ones go. One has about 300 bytes."""

RESOLUTION = "resolution:"
"""What the keys of entries in `meta` begin with; a number of 16 digits follows."""

_BEHIND = "resolution;"
"""The first key behind them."""


class Record:
    """The record within a transaction of the writer."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def add(self, entries: Sequence[str]) -> None:
        """Append entries, JSON texts, and drop the oldest ones."""
        if not entries:
            return
        last = self._db.execute(
            "SELECT key FROM meta WHERE key > ? AND key < ? ORDER BY key DESC LIMIT 1",
            (RESOLUTION, _BEHIND),
        ).fetchone()
        first = 1 if last is None else _number(last[0]) + 1
        self._db.executemany(
            "INSERT INTO meta (key, value) VALUES (?, ?)",
            [(_key(first + place), text) for place, text in enumerate(entries)],
        )
        kept_from = _key(max(0, first + len(entries) - KEPT))
        self._db.execute("DELETE FROM meta WHERE key > ? AND key < ?", (RESOLUTION, kept_from))


def read_record(
    db: sqlite3.Connection, limit: int, *, after: int | None = None, descending: bool = False
) -> list[tuple[int, str]]:
    """Entries with their numbers, the oldest first, or the newest; `after` continues."""
    low, high = RESOLUTION, _BEHIND
    if after is not None:
        low, high = (low, _key(after)) if descending else (_key(after), high)
    rows = db.execute(
        "SELECT key, value FROM meta WHERE key > ? AND key < ? "  # noqa: S608
        f"ORDER BY key {'DESC' if descending else 'ASC'} LIMIT ?",
        (low, high, limit),
    )
    return [(_number(key), text) for key, text in rows]


def _key(number: int) -> str:
    return f"{RESOLUTION}{number:016}"


def _number(key: str) -> int:
    return int(key.removeprefix(RESOLUTION))
