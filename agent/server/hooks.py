"""`_hooks`: the documents that hooks have given up, and what is to become of them.

What hooks do is part of `_status`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from aiohttp import web

from agent.errors import NotFoundError, RequestError
from agent.server.answers import answer
from agent.server.call import Call
from agent.server.service import Hook

_ROWS = 100
"""Documents that are listed unless `limit` says otherwise."""


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request: ids of documents, or all."""

    ids: Annotated[list[str], msgspec.Meta(max_length=10_000)] | None = None
    all: bool = False


def hook_methods(path: Sequence[str]) -> Mapping[str, Callable[[Call], Awaitable[web.Response]]]:
    """What a path below `_hooks` has. Raises NotFoundError."""
    match list(path):
        case [name, "dead"]:
            return {"GET": partial(_dead, name=name)}
        case [name, "retry"]:
            return {"POST": partial(_retry, name=name)}
        case [name, "drop"]:
            return {"POST": partial(_drop, name=name)}
        case [name, "skip"]:
            return {"POST": partial(_skip, name=name)}
    raise NotFoundError("no such path")


async def _dead(call: Call, name: str) -> web.Response:
    """GET /_hooks/{hook}/dead: options limit, skip."""
    letters = _hook(call, name).dead()
    limit, skip = call.number("limit"), call.number("skip") or 0
    offset = min(skip, len(letters))
    end = offset + (_ROWS if limit is None else limit)
    return answer({"total_rows": len(letters), "offset": offset, "dead": letters[offset:end]})


async def _retry(call: Call, name: str) -> web.Response:
    """POST /_hooks/{hook}/retry: {"ids": [...]} or {"all": true}"""
    ids = await _ids(call)
    hook = _hook(call, name)
    return answer({"ok": True, "retried": hook.retry(ids)}, status=202)


async def _drop(call: Call, name: str) -> web.Response:
    """POST /_hooks/{hook}/drop: as retry"""
    ids = await _ids(call)
    hook = _hook(call, name)
    return answer({"ok": True, "dropped": await hook.drop(ids)})


async def _skip(call: Call, name: str) -> web.Response:
    """POST /_hooks/{hook}/skip: {}"""
    call.require_json()
    await call.json(dict[str, Any])
    if not _hook(call, name).skip():
        raise RequestError(409, "conflict", "The hook is not held up by a single document.")
    return answer({"ok": True}, status=202)


def _hook(call: Call, name: str) -> Hook:
    try:
        return call.service.hooks[name]
    except KeyError:
        raise NotFoundError(f"{name}: no such hook", reason="no such hook") from None


async def _ids(call: Call) -> list[str] | None:
    call.require_json()
    asked = await call.json(_Asked)
    if (asked.ids is not None) == asked.all:
        raise RequestError(400, "bad_request", 'Give either "ids" or "all": true.')
    return asked.ids
