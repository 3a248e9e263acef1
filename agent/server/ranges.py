"""Digests of ranges of documents, for comparing databases: "/{db}/_ranges". Ours, not CouchDB's."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from agent.documents.ranges import COARSEST, FINEST, Span
from agent.server.answers import answer
from agent.server.call import DatabaseCall
from agent.store import range_digests

_MOST_SPANS = 1000
_MOST_LEAVES = 2000


class _Asked(msgspec.Struct, forbid_unknown_fields=True):
    """`level` 0 asks for the documents of one span, `limit` of them at most; no span at all asks
    whether there is such a thing."""

    level: Annotated[int, Meta(ge=0, le=COARSEST)]
    spans: Annotated[list[Span], Meta(max_length=_MOST_SPANS)]
    limit: Annotated[int, Meta(ge=1)] = _MOST_LEAVES


async def ranges(call: DatabaseCall) -> web.Response:
    """POST /{db}/_ranges: `{"level", "spans": [[start, end or null], ...]}` to
    `{"ranges": [[[start, count, digest], ...], ...]}`, the ranges of that level in each span.

    With the level 0, `{"leaves": [[id, [rev, ...]], ...]}`: the documents of the first span.
    """
    call.require_json()
    asked = await call.json(_Asked)
    if asked.level == 0 and asked.spans:
        limit = min(asked.limit, _MOST_LEAVES)
        return answer({"leaves": await range_digests.leaves(call.store, asked.spans[0], limit)})
    found = await range_digests.ranges(call.store, max(asked.level, FINEST), asked.spans)
    return answer(
        {
            "ranges": [
                [(item.start, item.documents, item.digest.hex()) for item in part] for part in found
            ]
        }
    )
