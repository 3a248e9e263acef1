"""Which documents a replication carries.

Source: CouchDB documentation, "Replication > Replicator Database > Selecting documents" and "Mango
Selectors > Selector Syntax".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agent.documents.revision import canonical


class Selection(msgspec.Struct, frozen=True):
    """All documents, those that a Mango selector matches, or those with certain ids.

    A selector looks at each leaf revision. A tombstone has only the members that it was written
    with: one made by DELETE has none, so that no selector on members matches it and the deletion
    is not passed on. `winning_revs_only` leaves conflicts behind.
    """

    selector: Mapping[str, Any] | None = None
    doc_ids: tuple[str, ...] | None = None
    winning_revs_only: bool = False

    def key(self) -> str:
        """A text that is the same for the same selection only; empty for all documents."""
        parts: dict[str, Any] = {}
        if self.selector is not None:
            parts["selector"] = self.selector
        if self.doc_ids is not None:
            parts["doc_ids"] = sorted(set(self.doc_ids))
        if self.winning_revs_only:
            parts["winning_revs_only"] = True
        return canonical(parts).decode() if parts else ""


EVERYTHING = Selection()
