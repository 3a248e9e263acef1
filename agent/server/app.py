"""The application: which path and method lead to which handler.

Source: CouchDB documentation, "API Reference".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeAlias, TypeVar
from urllib.parse import unquote

from aiohttp import web

from agent.documents.selector import SelectorError
from agent.errors import (
    DocumentError,
    EdgeAgentError,
    NotFoundError,
    RequestError,
    StoreError,
    StoreWriteError,
    TooLargeError,
)
from agent.server import (
    all_docs,
    attachments,
    bulk,
    changes,
    conflicts,
    copying,
    databases,
    design,
    documents,
    find,
    indexes,
    local,
    pages,
    ranges,
    readings,
    replication,
    security,
    server,
    session,
)
from agent.server.access import Access, needed
from agent.server.access import changes as changes_something
from agent.server.answers import error_answer
from agent.server.attachments import AttachmentCall
from agent.server.call import Call, DatabaseCall, DocumentCall
from agent.server.hooks import hook_methods
from agent.server.service import Hook, Outlooks, Replications, Service, Status
from agent.store.databases import Databases
from agent.store.store import Store

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024 * 1024
"""Bytes of a request's body, after decompression, that are accepted unless said otherwise."""

MAX_ATTACHMENT = 1024**3
"""Bytes of an attachment, as it is sent, that are accepted unless said otherwise; CouchDB's own."""

_CallT = TypeVar("_CallT", bound=Call)
_Methods: TypeAlias = Mapping[str, Callable[[_CallT], Awaitable[web.StreamResponse]]]

# HEAD is wherever GET is.
_SERVER: Mapping[str, _Methods[Call]] = {
    "": {"GET": server.welcome},
    "_active_tasks": {"GET": replication.active_tasks},
    "_all_dbs": {"GET": databases.all_dbs},
    "_dbs_info": {"GET": databases.dbs_info, "POST": databases.dbs_info_of},
    "_metrics": {"GET": server.metrics},
    "_replicate": {"POST": replication.replicate},
    "_session": {"GET": session.get, "POST": session.login, "DELETE": session.logout},
    "_status": {"GET": server.status},
    "_up": {"GET": server.up},
    "_uuids": {"GET": server.uuids},
}
_DATABASE: Mapping[str, _Methods[DatabaseCall]] = {
    "": {"GET": databases.info, "POST": documents.post},
    "_all_docs": {"GET": all_docs.all_docs, "POST": all_docs.all_docs},
    "_bulk_docs": {"POST": bulk.bulk_docs},
    "_bulk_get": {"POST": bulk.bulk_get},
    "_changes": {"GET": changes.changes, "POST": changes.changes},
    "_compact": {"POST": databases.compact},
    "_conflicts": {"GET": conflicts.listed},
    "_design_docs": {"GET": all_docs.design_docs, "POST": all_docs.design_docs},
    "_ensure_full_commit": {"POST": databases.ensure_full_commit},
    "_explain": {"POST": find.explain},
    "_find": {"POST": find.find},
    "_index": {"GET": indexes.get, "POST": indexes.post},
    "_local_docs": {"GET": all_docs.local_docs, "POST": all_docs.local_docs},
    "_missing_revs": {"POST": bulk.missing_revs},
    "_purge": {"POST": databases.purge},
    "_purged_infos_limit": {
        "GET": databases.purged_infos_limit,
        "PUT": databases.set_purged_infos_limit,
    },
    "_ranges": {"POST": ranges.ranges},
    "_resolutions": {"GET": conflicts.resolutions},
    "_resolve": {"POST": conflicts.resolve},
    "_revs_diff": {"POST": bulk.revs_diff},
    "_revs_limit": {"GET": databases.revs_limit, "PUT": databases.set_revs_limit},
    "_security": {"GET": security.get, "PUT": security.put},
    "_sensors": {"GET": readings.sensors},
    "_series": {"GET": readings.series},
    "_view_cleanup": {"POST": databases.view_cleanup},
}
_QUERIES: Mapping[str, _Methods[DatabaseCall]] = {
    "_all_docs": {"POST": all_docs.all_docs_queries},
    "_design_docs": {"POST": all_docs.design_docs_queries},
    "_local_docs": {"POST": all_docs.local_docs_queries},
}
_DOCUMENT: _Methods[DocumentCall] = {
    "GET": documents.get,
    "PUT": documents.put,
    "DELETE": documents.delete,
    "COPY": copying.copy,
}
_ATTACHMENT: _Methods[AttachmentCall] = {
    "GET": attachments.get,
    "PUT": attachments.put,
    "DELETE": attachments.delete,
}
_LOCAL: _Methods[DocumentCall] = {"GET": local.get, "PUT": local.put, "DELETE": local.delete}


def make_app(
    databases: Databases,
    *,
    access: Access | None = None,
    status: Status | None = None,
    replications: Replications | None = None,
    outlooks: Outlooks | None = None,
    hooks: Mapping[str, Hook] | None = None,
    uuid: str | None = None,
    max_body: int = MAX_BODY,
    max_attachment: int = MAX_ATTACHMENT,
) -> web.Application:
    """CouchDB's HTTP API over `databases`, which the caller closes after the application.

    `access` says who may do what; without it everybody is an administrator.
    `status` answers `GET /_status`, the agent's own account of itself; `replications` does what
    `_replicate` asks for; `outlooks` knows what policies do about conflicts; `hooks`, by name, are
    those of `_hooks`. `uuid` names the server in
    `GET /`; clients that see one use it, not the URL, to recognise their checkpoints, so it must
    stay the same across restarts. `max_body` and `max_attachment` are in bytes.
    """
    service = Service(
        databases,
        status,
        uuid,
        asyncio.Event(),
        access or Access(),
        max_attachment,
        replications,
        outlooks,
        hooks or {},
    )
    app = web.Application(client_max_size=max_body, middlewares=[_errors])

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await _dispatch(Call(service, request))
        finally:
            service.bodies.release(request)

    async def close(_: web.Application) -> None:
        service.closing.set()
        databases.wake()

    app.router.add_route("*", r"/{path:[\s\S]*}", handle)
    app.on_response_prepare.append(service.access.finish)
    app.on_shutdown.append(close)
    return app


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answers with CouchDB's form of an error, aiohttp's own refusals included."""
    try:
        return await handler(request)
    except EdgeAgentError as error:
        return _refusal(request, error)
    except SelectorError as error:  # of what shows only on documents
        return _refusal(request, RequestError(400, error.error, str(error)))
    except web.HTTPRequestEntityTooLarge:
        return error_answer(TooLargeError("the request entity is too large"))
    except web.HTTPException as error:
        word = (error.reason or "error").lower().replace(" ", "_")
        return error_answer(RequestError(error.status, word, error.reason or word))
    except ConnectionError:
        return web.Response()  # the client has gone, nobody is left to answer
    except web.RequestPayloadError:  # compressed badly, or cut off
        return error_answer(RequestError(400, "bad_request", "the request's body is damaged"))
    except Exception:  # a mistake in this program: the next request is served all the same
        log.exception("%s %s failed", request.method, request.path)
        reason = "this is a bug; the log has more"
        return _refusal(request, RequestError(500, "internal_server_error", reason))


def _refusal(request: web.Request, error: EdgeAgentError) -> web.Response:
    """The answer that an error is; where another one has begun, that one is cut off instead."""
    if request.writer.output_size and request.transport is not None:
        request.transport.abort()
    return error_answer(error)


async def _dispatch(call: Call) -> web.StreamResponse:
    _check_headers(call.request)
    access = call.service.access
    preflight = access.preflight(call.request)
    if preflight is not None:
        return preflight
    segments = _segments(call.request.rel_url.raw_path)
    need = needed(call.request.method, segments)
    user = await access.admit(call.request)
    access.require_server(need, user)
    if not segments or (len(segments) == 1 and segments[0] in _SERVER):
        return await _run(_SERVER[segments[0] if segments else ""], call)
    if segments[0] == pages.PATH:
        return await pages.dashboard(call.request)
    if segments[0] == "_scheduler":
        return await _run({"GET": partial(replication.scheduler, path=segments[1:])}, call)
    if segments[0] == "_hooks":
        return await _run(hook_methods(segments[1:]), call)
    name, rest = segments[0], segments[1:]
    if not rest and call.request.method in ("PUT", "DELETE"):
        handler = databases.create if call.request.method == "PUT" else databases.delete
        return await handler(call, name)
    if name == replication.DATABASE and call.request.method in ("POST", "PUT"):
        await call.service.databases.ensure(name)  # as if it had always been there
    with call.service.databases.using(name):
        store = await _open(call.service.databases, name)
        changing = changes_something(call.request.method, segments)
        access.require_database(need, user, store, changes=changing)
        try:
            return await _dispatch_in(DatabaseCall(call.service, call.request, name, store), rest)
        except (StoreError, StoreWriteError):
            if store.closed and not call.service.closing.is_set():
                raise _no_database(name) from None  # deleted while the request was dealt with
            raise


async def _dispatch_in(call: DatabaseCall, rest: list[str]) -> web.StreamResponse:
    """Design and local documents may be given as two segments, or as one with %2F."""
    if not rest:
        return await _run(_DATABASE[""], call, more="DELETE,PUT")
    if len(rest) == 1 and rest[0] in _DATABASE:
        return await _run(_DATABASE[rest[0]], call)
    if len(rest) == 2 and rest[1] == "queries" and rest[0] in _QUERIES:
        return await _run(_QUERIES[rest[0]], call)
    if len(rest) == 2 and rest[0] == "_compact":
        compact: _Methods[DatabaseCall] = {"POST": partial(databases.compact_views, design=rest[1])}
        return await _run(compact, call)
    if rest[0] == "_index":
        return await _run(_index_methods(rest[1:]), call)
    if rest[0] == "_temp_view":
        raise design.temporary_view()
    if rest[0] in ("_design", "_local") and len(rest) > 1:
        rest = [f"{rest[0]}/{rest[1]}", *rest[2:]]
    if len(rest) == 2 and rest[0].startswith("_design/") and rest[1] == "_info":
        return await _run({"GET": partial(design.info, id=rest[0])}, call)
    if len(rest) > 1 and rest[0].startswith("_design/") and rest[1] in design.HANDLERS:
        raise await design.refusal(call, rest[0], *rest[1:3])
    document = DocumentCall(call.service, call.request, call.name, call.store, rest[0])
    if rest[0] == "_local" or rest[0].startswith("_local/"):
        if rest[0] in ("_local", "_local/"):
            raise RequestError(400, "bad_request", "Invalid _local document id.")
        if len(rest) > 1:
            raise RequestError(400, "bad_request", "_local documents do not accept attachments.")
        return await _run(_LOCAL, document)
    if len(rest) > 1:
        attachment = AttachmentCall(
            call.service, call.request, call.name, call.store, rest[0], "/".join(rest[1:])
        )
        return await _run(_ATTACHMENT, attachment)
    return await _run(_DOCUMENT, document)


def _index_methods(rest: list[str]) -> _Methods[DatabaseCall]:
    """What paths below `_index` have: `_bulk_delete`, and single indexes. Raises NotFoundError."""
    if rest == ["_bulk_delete"]:
        return {"POST": indexes.bulk_delete}
    if len(rest) == 4 and rest[0] == "_design":
        rest = rest[1:]
    if len(rest) != 3:
        raise NotFoundError("no such path")
    ddoc, kind, name = rest
    return {"DELETE": partial(indexes.delete, ddoc=ddoc, kind=kind, name=name)}


async def _run(methods: _Methods[_CallT], call: _CallT, *, more: str = "") -> web.StreamResponse:
    method = call.request.method
    handler = methods.get("GET" if method == "HEAD" else method)
    if handler is None:
        names = {*methods, *(["HEAD"] if "GET" in methods else []), *more.split(",")} - {""}
        allow = ",".join(sorted(names))
        raise RequestError(
            405, "method_not_allowed", f"Only {allow} allowed", allow=allow.replace(",", ", ")
        )
    return await handler(call)


async def _open(databases: Databases, name: str) -> Store:
    try:
        return await databases.get(name)
    except DocumentError:  # a name that no database can have
        raise _no_database(name) from None


def _no_database(name: str) -> NotFoundError:
    return NotFoundError(f"{name}: no such database", reason="Database does not exist.")


def _check_headers(request: web.Request) -> None:
    """Raises RequestError for a header that is no text, and so cannot be stored or sent back."""
    try:
        for _, value in request.raw_headers:
            value.isascii() or value.decode()
    except UnicodeDecodeError:
        raise RequestError(400, "bad_request", "a header is not UTF-8") from None


def _segments(raw_path: str) -> list[str]:
    """The decoded segments of a path; empty ones do not count. Raises RequestError."""
    try:
        segments = [unquote(part, errors="strict") for part in raw_path.split("/") if part]
    except UnicodeDecodeError:
        raise RequestError(400, "bad_request", "invalid_url_encoding") from None
    if any(0xD800 <= ord(letter) <= 0xDFFF for part in segments for letter in part):
        raise RequestError(400, "bad_request", "invalid_url_encoding")
    return segments
