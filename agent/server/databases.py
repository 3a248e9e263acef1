"""Databases: create, describe, delete.

Source: CouchDB documentation, "API Reference > Databases".
"""

from __future__ import annotations

from aiohttp import web

from agent.errors import DocumentError, NotFoundError, RequestError
from agent.server.answers import answer
from agent.server.call import Call, DatabaseCall
from agent.store import schema


async def create(call: Call, name: str) -> web.Response:
    """PUT /{db}. 412 when it exists, 400 for a name that is not allowed."""
    try:
        await call.service.databases.create(name)
    except DocumentError as error:
        raise RequestError(400, "illegal_database_name", str(error)) from None
    return answer({"ok": True}, status=201, headers={"Location": call.url(name)})


async def delete(call: Call, name: str) -> web.Response:
    """DELETE /{db}"""
    if "rev" in call.request.query:
        raise RequestError(
            400,
            "bad_request",
            "You tried to DELETE a database with a ?rev= parameter. "
            "Did you mean to DELETE a document instead?",
        )
    try:
        await call.service.databases.delete(name)
    except DocumentError:  # a name that no database can have
        raise NotFoundError(
            f"{name}: no such database", reason="Database does not exist."
        ) from None
    return answer({"ok": True})


async def info(call: DatabaseCall) -> web.Response:
    """GET /{db}. Sizes are in bytes; `update_seq` is a number, `instance_start_time` a string."""
    facts = await call.store.info()
    return answer(
        {
            "db_name": call.name,
            "purge_seq": 0,
            "update_seq": facts.update_seq,
            "sizes": dict.fromkeys(("file", "external", "active"), facts.file_size),
            "props": {},
            "doc_del_count": facts.doc_del_count,
            "doc_count": facts.doc_count,
            "disk_format_version": schema.SCHEMA_VERSION,
            "compact_running": False,
            "cluster": dict.fromkeys("qnwr", 1),
            "instance_start_time": facts.instance_start_time,
        }
    )


async def ensure_full_commit(call: DatabaseCall) -> web.Response:
    """POST /{db}/_ensure_full_commit. Writes are durable when they are answered, so: nothing."""
    call.require_json()
    return answer({"ok": True, "instance_start_time": call.store.instance_start_time}, status=201)
