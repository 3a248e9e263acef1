"""Documents as selectors see them, and which leaf revisions of them a selector matches.

CouchDB looks at each leaf by itself where a changes feed tells of all of them, so a conflict whose
winner does not match may have other leaves that do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from agent.documents.revision import Rev, Revision
from agent.documents.selector import Selector, SelectorError
from agent.documents.wire import document_text
from agent.errors import DocumentError
from agent.store.store import Store
from agent.store.stored import StoredDocument

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


async def matching_leaves(
    store: Store, documents: Sequence[StoredDocument], selector: Selector
) -> list[list[Rev]]:
    """For each document, which were read with their bodies, its leaves that match.

    Raises StoreError, and DocumentError when `$regex` takes too long on one of them.
    """
    winners = await matching(store, selector, [document.revision() for document in documents])
    leaves: list[list[Rev]] = []
    for document, matches in zip(documents, winners, strict=True):
        found = [document.rev] if matches else []
        for rev in document.leaves()[1:]:  # one by one: together they may be large
            [[(_, leaf)]] = await store.revisions([(document.id, [str(rev)])])
            if leaf is not None and await matching(store, selector, [leaf]) == [True]:
                found.append(rev)
        leaves.append(found)
    return leaves


async def matching(store: Store, selector: Selector, revisions: Sequence[Revision]) -> list[bool]:
    """Whether each of these revisions matches.

    Raises StoreError, and DocumentError when `$regex` takes too long on one of them.
    """

    def found() -> list[bool]:
        return [selector.matches(_as_json(revision)) for revision in revisions]

    try:
        return await store.examine(found)
    except SelectorError as error:
        raise DocumentError(str(error)) from None


def as_json(document: StoredDocument) -> dict[str, Any]:
    """A document as selectors see it."""
    if document.encoded_attachments is not None:
        return _as_json(document.revision())
    head: dict[str, Any] = {"_id": document.id, "_rev": str(document.rev)}
    if document.deleted:
        head["_deleted"] = True
    return head | _decode_object(document.body)


def _as_json(revision: Revision) -> dict[str, Any]:
    return _decode_object(document_text(revision, revisions=False))
