"""Mango's indexes: `_index`. They are defined by design documents, as in CouchDB.

Source: CouchDB documentation, "API Reference > Databases > /{db}/_index".
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from aiohttp import web

from agent.errors import ConflictError, NotFoundError, RequestError
from agent.server.answers import answer
from agent.server.call import DatabaseCall
from agent.server.edits import JsonObject, edit_from_doc, parsed
from agent.server.find_options import IndexOptions, bulk_delete_ids, index_options
from agent.store.mango_index import LANGUAGE, PREFIX
from agent.store.selecting import as_json
from agent.store.stored import StoredDocument

_sorted_json = msgspec.json.Encoder(order="sorted").encode


async def get(call: DatabaseCall) -> web.Response:
    """GET /{db}/_index, with limit and skip."""
    indexes = [index.to_json() for index in call.store.indexes]
    limit = _parameter(call, "limit", default=len(indexes), least=1)
    skip = _parameter(call, "skip", default=0, least=0)
    return answer({"total_rows": len(indexes), "indexes": indexes[skip : skip + limit]})


async def post(call: DatabaseCall) -> web.Response:
    """POST /{db}/_index: define an index. Raises RequestError."""
    call.require_json()
    options = index_options(await call.json(JsonObject))
    made_up = _made_up_name(options)
    name = made_up if options.name is None else options.name
    id = PREFIX + (options.ddoc or made_up).removeprefix(PREFIX)
    document = await call.store.get(id)
    doc = _design(document)
    view = {
        "map": {
            "fields": dict(options.fields),
            "partial_filter_selector": options.partial_filter.to_json(),
        },
        "reduce": "_count",
        "options": {"def": options.definition},
    }
    result = "exists"
    views = doc.get("views")
    views = views if isinstance(views, dict) else {}
    if views.get(name) != view:
        result = "created"
        await _write(call, id, document, {**doc, "views": {**views, name: view}})
    return answer({"result": result, "id": id, "name": name})


async def delete(call: DatabaseCall, ddoc: str, kind: str, name: str) -> web.Response:
    """DELETE /{db}/_index/{ddoc}/{type}/{name}. Raises NotFoundError, RequestError."""
    id = PREFIX + ddoc.removeprefix(PREFIX)
    named = [
        index.name
        for index in call.store.indexes
        if index.ddoc == id and index.name == name and kind == "json"
    ]
    if not named:
        raise NotFoundError("no such index")
    await _remove(call, id, name)
    return answer({"ok": True})


async def bulk_delete(call: DatabaseCall) -> web.Response:
    """POST /{db}/_index/_bulk_delete: the index of each of these design documents."""
    call.require_json()
    success: list[dict[str, Any]] = []
    fail: list[dict[str, Any]] = []
    for given in bulk_delete_ids(await call.json(JsonObject)):
        id = PREFIX + given.removeprefix(PREFIX)
        names = [index.name for index in call.store.indexes if index.ddoc == id]
        if len(names) != 1:
            fail.insert(0, {"id": id, "error": "not_found"})
            continue
        await _remove(call, id, names[0])
        success.insert(0, {"id": id, "ok": True})
    return answer({"success": success, "fail": fail})


async def _remove(call: DatabaseCall, id: str, name: str) -> None:
    """Take an index out of its design document, which goes when nothing else is in it."""
    document = await call.store.get(id)
    doc = _design(document)
    views = {key: view for key, view in doc.get("views", {}).items() if key != name}
    doc = {key: value for key, value in doc.items() if key != "views"}
    if views:
        doc["views"] = views
    if {key for key in doc if not key.startswith("_")} == {"language"} and not views:
        doc = {"_deleted": True}
    await _write(call, id, document, doc)


def _design(document: StoredDocument | None) -> dict[str, Any]:
    """The design document that is there, or a new one. Raises RequestError."""
    if document is None or document.deleted:
        return {"language": LANGUAGE}
    doc = as_json(document)
    if doc.get("language") != LANGUAGE:
        raise RequestError(
            400,
            "invalid_ddoc_lang",
            f"Existing design doc has an invalid language: {doc.get('language')}",
        )
    return doc


async def _write(
    call: DatabaseCall, id: str, document: StoredDocument | None, doc: dict[str, Any]
) -> None:
    parent = None if document is None or document.deleted else document.rev
    edit = parsed(lambda given: edit_from_doc(given, id, parent), doc)
    [written] = await call.store.edit([edit])
    if written is None:
        raise ConflictError("the design document was changed at the same time")


def _made_up_name(options: IndexOptions) -> str:
    """A name that depends on all that was asked for, so that asking again finds the index."""
    return hashlib.sha1(_sorted_json(options.given), usedforsecurity=False).hexdigest()


def _parameter(call: DatabaseCall, name: str, *, default: int, least: int) -> int:
    text = call.request.query.get(name)
    if text is None:
        return default
    try:
        value = int(text) if len(text) < 19 else -1
    except ValueError:
        value = -1
    if value < least:
        raise RequestError(
            500, "invalid_list_index_params", "Index parameter ranges: limit > 1, skip > 0"
        )
    return value
