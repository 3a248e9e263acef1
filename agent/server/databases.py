"""Databases: create, describe, delete, and what is said about one as a whole.

Source: CouchDB documentation, "API Reference > Databases", and "Server > /_all_dbs, /_dbs_info".
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from agent.errors import DocumentError, NotFoundError, RequestError
from agent.server.answers import Stream, answer, json_text
from agent.server.call import Call, DatabaseCall, parse_rev
from agent.server.edits import JsonObject
from agent.store import schema, sequences
from agent.store.store import Store

_MOST_NAMES = 100
"""Databases in a POST to _dbs_info."""

_MOST_PURGED = 100
_MOST_PURGED_REVS = 1000
"""Documents and revisions in one _purge."""

_LARGEST_LIMIT = 2**31 - 1
_PURGED_INFOS = 1000


async def all_dbs(call: Call) -> web.Response:
    """GET /_all_dbs: the names, sorted.

    Options: key, start_key, end_key, inclusive_end, descending, skip, limit.
    """
    return answer(await _names(call))


async def dbs_info(call: Call) -> web.StreamResponse:
    """GET /_dbs_info, with the options of _all_dbs: `[{"key": name, "info": {...}}, ...]`."""
    return await _infos(call, await _names(call))


async def dbs_info_of(call: Call) -> web.StreamResponse:
    """POST /_dbs_info: `{"keys": [name, ...]}`; what is no database has an error."""
    call.require_json()
    names = (await call.json(JsonObject)).get("keys")
    if names is None:
        raise RequestError(400, "bad_request", "`keys` member must exist.")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RequestError(400, "bad_request", "`keys` member must be an array of strings.")
    if len(names) > _MOST_NAMES:
        raise RequestError(
            400, "bad_request", f"The number of names exceeds the limit of {_MOST_NAMES}"
        )
    return await _infos(call, names)


async def _infos(call: Call, names: list[str]) -> web.StreamResponse:
    databases = call.service.databases
    stream = Stream(call.request)
    separator = "["
    for name in names:
        try:
            with databases.using(name):
                facts = await _facts(name, await databases.get(name))
            await stream.write(f"{separator}{json_text({'key': name, 'info': facts})}")
        except (NotFoundError, DocumentError):
            await stream.write(f"{separator}{json_text({'key': name, 'error': 'not_found'})}")
        separator = ","
    await stream.write("]\n" if names else "[]\n")
    return await stream.finish()


async def _names(call: Call) -> list[str]:
    names = await call.service.databases.names()
    descending = call.flag("descending")
    if descending:
        names.reverse()
    start = _name_parameter(call, "start_key", "startkey")
    end = _name_parameter(call, "end_key", "endkey")
    key = _name_parameter(call, "key")
    if key is not None:
        start = end = key
    inclusive = call.request.query.get("inclusive_end") != "false"
    if start is not None:
        names = [name for name in names if (name <= start if descending else name >= start)]
    if end is not None:
        names = [name for name in names if (name >= end if descending else name <= end)]
        if not inclusive:
            names = [name for name in names if name != end]
    skip = call.number("skip") or 0
    limit = call.number("limit")
    return names[skip : None if limit is None else skip + limit]


def _name_parameter(call: Call, *synonyms: str) -> str | None:
    for name in synonyms:
        value = call.json_parameter(name)
        if value is not msgspec.UNSET:
            if not isinstance(value, str):
                raise RequestError(400, "query_parse_error", f"`{name}` must be a string")
            return value
    return None


async def create(call: Call, name: str) -> web.Response:
    """PUT /{db}. 412 when it exists, 400 for a name that is not allowed.

    `q`, `n`, `placement` and `partitioned=false` are about clusters; there is one copy here.
    """
    for parameter, lowest in (("q", 1), ("n", 1)):
        text = call.request.query.get(parameter)
        if text is not None and not (text.isascii() and text.isdigit() and int(text) >= lowest):
            raise RequestError(
                400,
                "bad_request",
                f"The value of {parameter} should be an integer greater than or equal to {lowest}.",
            )
    partitioned = call.request.query.get("partitioned", "false")
    if partitioned not in ("true", "false"):
        raise RequestError(400, "bad_request", "`partitioned` parameter must be a boolean")
    if partitioned == "true":
        raise RequestError(501, "not_implemented", "Partitioned databases are not supported")
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
            "You tried to DELETE a database with a ?=rev parameter. "
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
    """GET /{db}. Sizes are in bytes; `purge_seq` is a number, `update_seq` and
    `instance_start_time` are strings."""
    return answer(await _facts(call.name, call.store))


async def _facts(name: str, store: Store) -> JsonObject:
    facts = await store.info()
    return {
        "db_name": name,
        "purge_seq": facts.purge_seq,
        "update_seq": sequences.text_of(store, facts.update_seq),
        "sizes": {
            "file": facts.file_size,
            "external": facts.active_size,
            "active": facts.active_size,
        },
        "props": {},
        "doc_del_count": facts.doc_del_count,
        "doc_count": facts.doc_count,
        "disk_format_version": schema.SCHEMA_VERSION,
        "compact_running": store.compacting,
        "cluster": dict.fromkeys("qnwr", 1),
        "instance_start_time": facts.instance_start_time,
    }


async def ensure_full_commit(call: DatabaseCall) -> web.Response:
    """POST /{db}/_ensure_full_commit. Writes are durable when they are answered, so: nothing."""
    call.require_json()
    return answer({"ok": True, "instance_start_time": call.store.instance_start_time}, status=201)


async def compact(call: DatabaseCall) -> web.Response:
    """POST /{db}/_compact: starts it; `compact_running` in the description says how long."""
    call.require_json()
    call.store.start_compaction()
    return answer({"ok": True}, status=202)


async def compact_views(call: DatabaseCall, design: str) -> web.Response:
    """POST /{db}/_compact/{ddoc}. There are no view files, so: nothing, but 404 without it."""
    call.require_json()
    await call.live_document(f"_design/{design}")
    return answer({"ok": True}, status=202)


async def view_cleanup(_: DatabaseCall) -> web.Response:
    """POST /{db}/_view_cleanup. There are no view files, so: nothing."""
    return answer({"ok": True}, status=202)


async def revs_limit(call: DatabaseCall) -> web.Response:
    """GET /{db}/_revs_limit: a number of generations."""
    return answer(call.store.revs_limit)


async def set_revs_limit(call: DatabaseCall) -> web.Response:
    """PUT /{db}/_revs_limit: for documents that are written from now on."""
    await call.store.set_revs_limit(await _limit(call, "`revs_limit` must be positive integer"))
    return answer({"ok": True})


async def purged_infos_limit(call: DatabaseCall) -> web.Response:
    """GET /{db}/_purged_infos_limit"""
    return answer(call.store.setting("purged_infos_limit") or _PURGED_INFOS)


async def set_purged_infos_limit(call: DatabaseCall) -> web.Response:
    """PUT /{db}/_purged_infos_limit. It is kept; no account of single purges is."""
    limit = await _limit(call, "`purge_infos_limit` must be positive integer")
    await call.store.set_setting("purged_infos_limit", limit)
    return answer({"ok": True})


async def _limit(call: DatabaseCall, reason: str) -> int:
    limit: Any = await call.json(object)
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 < limit <= _LARGEST_LIMIT:
        raise RequestError(400, "bad_request", reason)
    return limit


async def purge(call: DatabaseCall) -> web.Response:
    """POST /{db}/_purge: `{id: [rev, ...]}` to `{"purge_seq": null, "purged": {id: [rev, ...]}}`.

    Only leaves can be purged; other revisions are passed over.
    """
    call.require_json()
    asked = await call.json(dict[str, list[str]])
    if len(asked) > _MOST_PURGED:
        raise RequestError(400, "bad_request", "Exceeded maximum number of documents.")
    if sum(map(len, asked.values())) > _MOST_PURGED_REVS:
        raise RequestError(400, "bad_request", "Exceeded maximum number of revisions.")
    revs = {id: [parse_rev(rev) for rev in texts] for id, texts in asked.items()}
    purged = await call.store.purge(revs)
    return answer(
        {"purge_seq": None, "purged": {id: list(map(str, revs)) for id, revs in purged.items()}},
        status=201,
    )
