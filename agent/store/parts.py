"""Parts of documents that are not finished: small rows, appended, that the document replaces."""

from __future__ import annotations

import sqlite3


class Parts:
    """The table `parts`, within a transaction of the writer."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def append(self, device: str, document: str, body: str) -> None:
        """Keep a part of a device's document; `body` is JSON."""
        self._db.execute(
            "INSERT INTO parts (device, document, body) VALUES (?, ?, ?)",
            (device, document, body),
        )

    def drop(self, document: str) -> None:
        """Forget a document's parts. There are few rows in all: no index is worth its writes."""
        self._db.execute("DELETE FROM parts WHERE document = ?", (document,))


def read_parts(db: sqlite3.Connection, device: str) -> list[tuple[str, str]]:
    """A device's parts of documents, in order: the documents' ids, and bodies."""
    sql = "SELECT document, body FROM parts WHERE device = ? ORDER BY place"
    return db.execute(sql, (device,)).fetchall()


def devices_with_parts(db: sqlite3.Connection) -> list[str]:
    """The devices that have parts of documents."""
    return [name for (name,) in db.execute("SELECT DISTINCT device FROM parts")]
