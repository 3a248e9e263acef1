"""The `_local` documents, which are not replicated: checkpoints, and what the agent remembers.

Source: CouchDB documentation, "API Reference > Local (non-replicating) Documents".
"""

from __future__ import annotations

import sqlite3

from agent.errors import ConflictError
from agent.store.stored import sound


class Locals:
    """The table `local`, within a transaction of the writer."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def put(self, id: str, rev: str | None, body: str) -> str:
        """Write `_local/{id}`; `rev` is its present revision, `0-N`. Returns the new one.

        Raises ConflictError.
        """
        return self.overwrite(id, self._check(id, rev), body)

    def overwrite(self, id: str, rev: int, body: str | None) -> str:
        """Write `_local/{id}` whatever is there, as CouchDB's API does; None deletes it.

        The new revision follows on `rev`, the number that the client believes in.
        """
        if body is None:
            self._db.execute("DELETE FROM local WHERE id = ?", (id,))
            return "0-0"
        self._db.execute(
            "INSERT INTO local (id, rev, body) VALUES (?1, ?2, ?3) "
            "ON CONFLICT (id) DO UPDATE SET rev = ?2, body = ?3",
            (id, rev + 1, body),
        )
        return f"0-{rev + 1}"

    def _check(self, id: str, rev: str | None) -> int:
        row = self._db.execute("SELECT rev FROM local WHERE id = ?", (id,)).fetchone()
        current = row[0] if row else 0
        if rev != (f"0-{current}" if row else None):
            raise ConflictError("Document update conflict.")
        return int(current)


def read_local(db: sqlite3.Connection, id: str) -> tuple[str, str] | None:
    """The revision and the body (JSON text) of `_local/{id}`."""
    row = db.execute("SELECT rev, body FROM local WHERE id = ?", (id,)).fetchone()
    return (f"0-{row[0]}", sound(row[1])) if row else None
