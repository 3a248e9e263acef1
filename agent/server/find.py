"""Mango: `_find` and `_explain`.

Source: CouchDB documentation, "API Reference > Databases > /{db}/_find" and "/{db}/_explain".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import msgspec
from aiohttp import web

from agent.documents.collation import sort_key
from agent.documents.conditions import Compare, RegexTime
from agent.documents.fields import project
from agent.errors import RequestError
from agent.server.answers import Stream, answer, json_text
from agent.server.call import DatabaseCall
from agent.server.edits import JsonObject
from agent.server.find_options import FindOptions, bookmark_of, find_options
from agent.store.find import FindPage, Position
from agent.store.planner import Plan, PlanError, fields_of, indexable_fields, plan
from agent.store.stored import PAGE_BYTES

_MAX = "<MAX>"
_REGEX_SECONDS = 10.0
"""Of processor time, for all regular expressions of a query."""

_MANY_EXAMINED = 10
_TOO_MANY_EXAMINED = (
    "The number of documents examined is high in proportion to the number of results returned. "
    "Consider adding a more specific index to improve this."
)


async def find(call: DatabaseCall) -> web.StreamResponse:
    """POST /{db}/_find: the documents that a selector matches.

    Options: selector, limit (25), skip, sort, fields, use_index, allow_fallback, bookmark,
    conflicts, execution_stats; r, update, stable and stale have no meaning in a database of one
    node whose indexes are always up to date. `total_docs_examined` counts what had to be read:
    what SQLite has passed over in an index is not among it. Raises RequestError, and SelectorError
    when `$regex` takes too long, on one document or on all together.
    """
    call.require_json()
    options = find_options(await call.json(JsonObject))
    chosen = _plan(call, options)
    started = perf_counter()
    last: Position | None = options.after
    returned = examined = 0
    stream = Stream(call.request, collected=PAGE_BYTES)  # a page is in memory anyway
    await stream.write('{"docs":[')
    separator = "\r\n"
    if options.limit and not options.selector.nothing:
        async for page, rows in _pages(call, chosen, options):
            examined += page.examined
            returned += len(rows)
            if rows:
                last = page.last
                await stream.write(separator + ",\r\n".join(rows))
                separator = ",\r\n"
    bookmark = options.bookmark if last is None or last is options.after else bookmark_of(last)
    await stream.write(f'\r\n],\r\n"bookmark": {json_text(bookmark)}')
    if options.execution_stats:
        stats = {
            "total_keys_examined": 0,
            "total_docs_examined": examined,
            "total_quorum_docs_examined": 0,
            "results_returned": returned,
            "execution_time_ms": round((perf_counter() - started) * 1000, 3),
        }
        await stream.write(f',\r\n"execution_stats": {json_text(stats)}')
    warnings = list(chosen.warnings)
    if examined > _MANY_EXAMINED * max(returned, 1):
        warnings.append(_TOO_MANY_EXAMINED)
    if warnings:
        await stream.write(f',\r\n"warning": {json_text(chr(10).join(warnings))}')
    await stream.write("}\r\n")
    return await stream.finish()


async def explain(call: DatabaseCall) -> web.Response:
    """POST /{db}/_explain: how `_find` would answer the same request. Raises RequestError."""
    call.require_json()
    options = find_options(await call.json(JsonObject))
    chosen = _plan(call, options)
    selector = options.selector
    names = options.given["fields"]
    shown = {name: value for name, value in options.given.items() if name != "selector"}
    shown["sort"] = dict(options.sort)
    candidates = [
        {
            "index": index.to_json(),
            "analysis": {
                "usable": usable,
                "reasons": [{"name": reason}],
                "ranking": ranking,
                "covering": None if index.special else False,
            },
        }
        for ranking, (index, usable, reason) in enumerate(chosen.candidates, start=1)
    ]
    bounded = indexable_fields(selector)
    hints = {
        "type": "json",
        "indexable_fields": bounded,
        "unindexable_fields": sorted(fields_of(selector.root) - set(bounded)),
    }
    return answer(
        {
            "dbname": call.name,
            "index": chosen.index.to_json(),
            "partitioned": False,
            "selector": selector.to_json(),
            "opts": shown,
            "limit": options.limit,
            "skip": options.skip,
            "fields": names,
            "index_candidates": candidates,
            "selector_hints": [hints],
            "mrargs": _view_arguments(chosen, options),
            "covering": False,
        }
    )


def _plan(call: DatabaseCall, options: FindOptions) -> Plan:
    try:
        chosen = plan(
            call.store.indexes,
            options.selector,
            sort=options.sort,
            use_index=options.use_index,
            allow_fallback=options.allow_fallback,
        )
    except PlanError as error:
        raise RequestError(400, error.error, str(error)) from None
    if options.after is not None and len(options.after.keys) != len(chosen.index.sorted_by):
        # A bookmark of another query, or from before the indexes changed.
        raise RequestError(
            400, "invalid_bookmark", f"Invalid bookmark value: {json_text(options.bookmark)}"
        )
    return chosen


async def _pages(
    call: DatabaseCall, chosen: Plan, options: FindOptions
) -> AsyncIterator[tuple[FindPage, list[str]]]:
    """Pages of documents, with the texts of those that are to be shown.

    Raises ConnectionError once the client has gone.
    """
    skip, left = options.skip, options.limit
    after = options.after
    read = partial(_texts, options=options)
    time = RegexTime(_REGEX_SECONDS)
    while left:
        if call.request.transport is None:
            raise ConnectionResetError
        page, texts = await call.store.find(
            chosen,
            read,
            after=after,
            limit=skip + left,
            conflicts=options.conflicts,
            time=time,
        )
        rows = texts[skip:]
        skip -= len(texts) - len(rows)
        left -= len(rows)
        yield page, rows
        after = page.after
        if after is None:
            return


def _texts(page: FindPage, options: FindOptions) -> list[str]:
    fields = options.fields
    if fields is None:
        return page.texts
    return [json_text(project(msgspec.json.decode(text), fields)) for text in page.texts]


def _view_arguments(chosen: Plan, options: FindOptions) -> dict[str, Any]:
    """The range of keys, as CouchDB's view engine would have it."""
    lows: list[Any] = []
    highs: list[Any] = []
    for comparisons in chosen.ranges:
        low = _bound(comparisons, ("$gt", "$gte", "$eq"), lowest=False)
        if low is None:
            break
        lows.append(low.argument)
    for comparisons in chosen.ranges:
        high = _bound(comparisons, ("$lt", "$lte", "$eq"), lowest=True)
        if high is None:
            break
        highs.append(high.argument)
    start: Any = lows
    end: Any = [*highs, _MAX]
    if chosen.index.special:
        start, end = (lows or [None])[0], (highs or [_MAX])[0]
    if chosen.descending:
        start, end = end, start
    return {
        "include_docs": True,
        "view_type": "map",
        "reduce": False,
        "partition": None,
        "start_key": start,
        "end_key": end,
        "direction": "rev" if chosen.descending else "fwd",
        "stable": options.given["stable"] or options.given["stale"],
        "update": options.given["update"] and not options.given["stale"],
        "conflicts": True if options.conflicts else "undefined",
    }


def _bound(
    comparisons: Sequence[Compare], operators: Sequence[str], *, lowest: bool
) -> Compare | None:
    bounds = [one for one in comparisons if one.operator in operators]
    if not bounds:
        return None
    bounds.sort(key=lambda one: sort_key(one.argument))
    return bounds[0] if lowest else bounds[-1]
