"""Which leaf revisions of documents a selector matches.

CouchDB looks at each leaf by itself where a changes feed tells of all of them, so a conflict whose
winner does not match may have other leaves that do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from agent.documents.revision import Rev, Revision
from agent.documents.selector import Selector
from agent.documents.wire import document_text
from agent.store.reader import StoredDocument
from agent.store.store import Store


async def matching_leaves(
    store: Store, documents: Sequence[StoredDocument], selector: Selector
) -> list[list[Rev]]:
    """For each document, which were read with their bodies, its leaves that match."""
    leaves: list[list[Revision]] = []
    for document in documents:
        revisions = [document.revision()]
        others = [str(rev) for rev in document.leaves()[1:]]
        if others:
            [found] = await store.revisions([(document.id, others)])
            revisions += [revision for _, revision in found if revision is not None]
        leaves.append(revisions)

    def matching() -> list[list[Rev]]:
        return [
            [revision.rev for revision in revisions if selector.matches(_as_json(revision))]
            for revisions in leaves
        ]

    return await asyncio.to_thread(matching)


def _as_json(revision: Revision) -> dict[str, Any]:
    return msgspec.json.decode(document_text(revision, revisions=False), type=dict[str, Any])
