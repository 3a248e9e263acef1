"""What is below design documents: facts on their indexes, and what in CouchDB needs JavaScript,
which is refused with what to use instead.

Design documents themselves are documents like others, and are replicated.
Source: CouchDB documentation, "API Reference > Design Documents".
"""

from __future__ import annotations

from hashlib import blake2b

from aiohttp import web

from agent.documents.revision import canonical
from agent.errors import EdgeAgentError, NotFoundError, RequestError
from agent.server.answers import answer
from agent.server.call import DatabaseCall
from agent.store.selecting import as_json

_INSTEAD = {
    "_view": "Map/reduce views in JavaScript are not run here; "
    "create an index with POST /{db}/_index and query it with POST /{db}/_find (Mango)",
    "_show": "Show functions in JavaScript are not run here; "
    "GET the document, or select its fields with POST /{db}/_find (Mango)",
    "_list": "List functions in JavaScript are not run here; "
    "query with POST /{db}/_find (Mango) and format the answer in the client",
    "_update": "Update functions in JavaScript are not run here; "
    "find documents with POST /{db}/_find (Mango) and write them with POST /{db}/_bulk_docs",
    "_rewrite": "Rewrites are not run here; "
    "use the database's own paths, and POST /{db}/_find (Mango) for queries",
}
_MEMBERS = {"_view": "views", "_show": "shows", "_list": "lists", "_update": "updates"}

HANDLERS = frozenset(_INSTEAD)
"""The second segment of paths below a design document that lead here."""


async def info(call: DatabaseCall, id: str) -> web.Response:
    """GET /{db}/_design/{ddoc}/_info.

    Mango's indexes are kept up to date by every write and lie in the database's own file, so
    nothing waits, and no size is told. `signature` changes with the definitions.
    """
    document = await call.live_document(id)
    doc = as_json(document)
    facts = await call.store.info()
    return answer(
        {
            "name": id.removeprefix("_design/"),
            "view_index": {
                "signature": blake2b(canonical(doc.get("views", {})), digest_size=16).hexdigest(),
                "language": doc.get("language", "javascript"),
                "sizes": dict.fromkeys(("file", "external", "active"), 0),
                "updates_pending": dict.fromkeys(("minimum", "preferred", "total"), 0),
                "updater_running": False,
                "compact_running": False,
                "waiting_commit": False,
                "waiting_clients": 0,
                "update_seq": facts.update_seq,
                "purge_seq": facts.purge_seq,
                "collator_versions": [],
            },
        }
    )


async def refusal(
    call: DatabaseCall, id: str, handler: str, name: str | None = None
) -> EdgeAgentError:
    """The error to raise: NotFoundError where CouchDB, too, finds no such function.

    Raises NotFoundError if there is no such design document.
    """
    functions = as_json(await call.live_document(id)).get(_MEMBERS.get(handler, ""))
    if handler in _MEMBERS and (not isinstance(functions, dict) or name not in functions):
        missing = {"_view": "missing_named_view"}.get(handler, f"missing {_MEMBERS[handler][:-1]}")
        return NotFoundError(f"{id}: no such function", reason=missing)
    return RequestError(501, "not_implemented", _INSTEAD[handler])


def temporary_view() -> RequestError:
    """The error to raise for /{db}/_temp_view."""
    return RequestError(501, "not_implemented", _INSTEAD["_view"])
