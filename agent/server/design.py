"""What design documents have in CouchDB that needs JavaScript: refused, with what to use instead.

Design documents themselves are documents like others, and are replicated.
Source: CouchDB documentation, "API Reference > Design Documents".
"""

from __future__ import annotations

from agent.errors import EdgeAgentError, NotFoundError, RequestError
from agent.server.call import DatabaseCall
from agent.store.find import as_json

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


async def refusal(
    call: DatabaseCall, id: str, handler: str, name: str | None = None
) -> EdgeAgentError:
    """The error to raise: NotFoundError where CouchDB, too, finds no such function."""
    document = await call.store.get(id)
    if document is None or document.deleted:
        return NotFoundError(
            f"{id}: no such document", reason="missing" if document is None else "deleted"
        )
    functions = as_json(document).get(_MEMBERS.get(handler, ""))
    if handler in _MEMBERS and (not isinstance(functions, dict) or name not in functions):
        missing = {"_view": "missing_named_view"}.get(handler, f"missing {_MEMBERS[handler][:-1]}")
        return NotFoundError(f"{id}: no such function", reason=missing)
    return RequestError(501, "not_implemented", _INSTEAD[handler])


def temporary_view() -> RequestError:
    """The error to raise for /{db}/_temp_view."""
    return RequestError(501, "not_implemented", _INSTEAD["_view"])
