"""What the latest commit has changed, in memory: who follows a store does not read it.

Everybody who waits for a change asks for the same few documents, right after the commit that wakes
them, and the way to a reader's thread and back takes longer than what is done about a reading.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from agent.documents.revision import Revision
from agent.store.changes import ChangesPage
from agent.store.stored import COLUMNS, filled

_MOST: Final = 16
"""Changes; of a commit with more nothing is kept. Those who follow read them page by page."""

_MOST_BYTES: Final = 16 * 1024

_AFTER: Final = f"SELECT {COLUMNS} FROM docs WHERE seq > ? ORDER BY seq"  # noqa: S608


class Latest:
    """All changes after a sequence, as they stand after the latest commit."""

    def __init__(self, since: int, page: ChangesPage) -> None:
        self._since = since
        self._page = page
        self._by_id = {document.id: document for document in page.documents}

    @classmethod
    def nothing(cls, seq: int) -> Latest:
        """All that is known is that nothing comes after `seq`."""
        return cls(seq, ChangesPage([], seq, pending=0, complete=True, size=0))

    @classmethod
    def read(cls, db: sqlite3.Connection, since: int, seq: int) -> Latest:
        """What a transaction has changed: sequences after `since`, up to `seq`."""
        if since < seq <= since + _MOST:
            rows = db.execute(_AFTER, (since,))
            documents, size = filled(rows, _MOST_BYTES)
            if size <= _MOST_BYTES:
                return cls(since, ChangesPage(documents, seq, pending=0, complete=True, size=size))
        return cls.nothing(seq)

    def changes(self, since: int, limit: int) -> ChangesPage | None:
        """As `changes_after`; None where that has to be asked."""
        page = self._page
        if not self._since <= since <= page.last_seq or limit < len(page.documents):
            return None
        if since == self._since:
            return page  # one for all who ask: they share what they make of it
        later = [document for document in page.documents if document.seq > since]
        return replace(page, documents=later, rendered={})

    def revisions(
        self, wanted: Sequence[tuple[str, Sequence[str]]]
    ) -> list[list[tuple[str, Revision | None]]] | None:
        """As `revisions_of`; None where that has to be asked for any of them."""
        found: list[list[tuple[str, Revision | None]]] = []
        for id, revs in wanted:
            document = self._by_id.get(id)
            if document is None or list(revs) != [str(document.rev)]:
                return None
            found.append([(revs[0], document.revision())])
        return found
