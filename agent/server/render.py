"""The text of documents in answers, with the underscore members that were asked for.

Source: CouchDB documentation, "API Reference > Documents > GET /{db}/{docid}".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.documents.revision import Rev, Revision
from agent.documents.tree import RevTree
from agent.documents.wire import document_text
from agent.server.answers import json_text
from agent.store.store import Store
from agent.store.stored import StoredDocument


def rendered(
    revision: Revision,
    *,
    revisions: bool = False,
    members: Mapping[str, Any] | None = None,
    encoding_info: bool = False,
) -> str:
    """The JSON text of a document; `members` are added, with an underscore before their names."""
    text = document_text(revision, revisions=revisions, encoding_info=encoding_info)
    if not members:
        return text
    added = "".join(f',"_{name}":{json_text(value)}' for name, value in members.items())
    return f"{text.rstrip()[:-1]}{added}}}"


def conflicts(document: StoredDocument) -> dict[str, list[str]]:
    """`_conflicts` for `rendered`: the live leaves besides the winner, if there are any."""
    if not document.conflicts:
        return {}
    tree = document.tree()
    live = [str(leaf) for leaf in tree.leaves()[1:] if not tree.is_deleted(leaf)]
    return {"conflicts": live}


def deleted_conflicts(document: StoredDocument) -> dict[str, list[str]]:
    """`_deleted_conflicts` for `rendered`: deleted leaves besides the winner."""
    if document.encoded_tree is None:
        return {}
    tree = document.tree()
    deleted = [str(leaf) for leaf in tree.leaves()[1:] if tree.is_deleted(leaf)]
    return {"deleted_conflicts": deleted} if deleted else {}


async def revs_info(
    store: Store, tree: RevTree, revision: Revision
) -> dict[str, list[dict[str, str]]]:
    """`_revs_info` for `rendered`: of each revision of the history, whether its body is here."""
    revs = [Rev(revision.generation - step, digest) for step, digest in enumerate(revision.path)]
    [found] = await store.revisions([(revision.id, [str(rev) for rev in revs])])
    return {
        "revs_info": [
            {"rev": text, "status": _status(tree.is_deleted(rev), body is not None)}
            for rev, (text, body) in zip(revs, found, strict=True)
        ]
    }


def _status(deleted: bool, here: bool) -> str:
    if deleted:
        return "deleted"
    return "available" if here else "missing"
