"""`_all_docs`, `_design_docs` and `_local_docs`: documents in the order of their ids.

Source: CouchDB documentation, "API Reference > Databases > Bulk > /{db}/_all_docs".
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import Enum
from typing import Any, TypeAlias

import msgspec
from aiohttp import web

from agent.errors import RequestError
from agent.server.all_docs_options import Options, from_query, with_members
from agent.server.all_docs_source import AllDocs, DesignDocs, LocalDocs, Source
from agent.server.answers import Stream, json_text
from agent.server.attached import write_document
from agent.server.call import DatabaseCall
from agent.server.edits import JsonObject
from agent.server.render import conflicts, rendered
from agent.store import sequences
from agent.store.store import Store
from agent.store.stored import StoredDocument

_PAGE = 1000
"""Rows that are in memory at once, at most: large documents make smaller pages."""

_COUNTED_OFFSET = 100_000
"""Counting the rows before the first one reads all of them; in a larger database `offset` is null,
as it is in CouchDB's answer to `keys`."""


class _Bound(Enum):
    """Where a key that is no string stands among the ids, in CouchDB's order of JSON values."""

    BELOW = 0
    ABOVE = 1


_Key: TypeAlias = str | _Bound
_Page: TypeAlias = list[tuple[Any, StoredDocument | None]]
"""Keys (JSON values) and their documents, None where there is none."""


async def all_docs(call: DatabaseCall) -> web.StreamResponse:
    """GET or POST /{db}/_all_docs; in a POST every option may be in the body.

    Options: key, keys, startkey, endkey, inclusive_end, descending, skip, limit, include_docs,
    conflicts, attachments, att_encoding_info, update_seq. Raises RequestError.
    """
    return await _one(call, AllDocs(call.store))


async def design_docs(call: DatabaseCall) -> web.StreamResponse:
    """GET or POST /{db}/_design_docs, with the options of _all_docs."""
    return await _one(call, DesignDocs(call.store))


async def local_docs(call: DatabaseCall) -> web.StreamResponse:
    """GET or POST /{db}/_local_docs, with the options of _all_docs."""
    return await _one(call, LocalDocs(call.store))


async def all_docs_queries(call: DatabaseCall) -> web.StreamResponse:
    """POST /{db}/_all_docs/queries: `{"queries": [options, ...]}` to `{"results": [...]}`."""
    return await _several(call, AllDocs(call.store))


async def design_docs_queries(call: DatabaseCall) -> web.StreamResponse:
    """POST /{db}/_design_docs/queries"""
    return await _several(call, DesignDocs(call.store))


async def local_docs_queries(call: DatabaseCall) -> web.StreamResponse:
    """POST /{db}/_local_docs/queries"""
    return await _several(call, LocalDocs(call.store))


async def _one(call: DatabaseCall, source: Source) -> web.StreamResponse:
    options = from_query(call)
    if call.request.method == "POST":
        call.require_json()
        options = with_members(options, await call.json(JsonObject))
    stream = Stream(call.request)
    if call.request.method == "HEAD":
        return await stream.finish()
    await _write(stream, call.store, source, options)
    await stream.write("\n")
    return await stream.finish()


async def _several(call: DatabaseCall, source: Source) -> web.StreamResponse:
    call.require_json()
    queries = (await call.json(JsonObject)).get("queries")
    if queries is None:
        raise RequestError(400, "bad_request", "POST body must include `queries` parameter.")
    if not isinstance(queries, list) or not all(isinstance(query, dict) for query in queries):
        raise RequestError(400, "bad_request", "`queries` parameter must be an array of objects.")
    given = from_query(call)
    several = [with_members(given, query) for query in queries]
    stream = Stream(call.request)
    await stream.write('{"results":[')
    for number, options in enumerate(several):
        await stream.write(",\n" if number else "\n")
        await _write(stream, call.store, source, options)
    await stream.write("\n]}\n")
    return await stream.finish()


async def _write(stream: Stream, store: Store, source: Source, options: Options) -> None:
    """The object that answers one query."""
    pages: AsyncIterator[_Page]
    newest = sequences.text_of(store, store.update_seq)
    total = await source.total()
    if options.keys is not msgspec.UNSET:
        offset, pages = None, _by_keys(source, options)
    else:
        scan = _Range.of(options, source.prefix)
        offset = await scan.offset(source, total)
        pages = scan.pages(source, bodies=options.include_docs)
    await stream.write(f'{{"total_rows":{json_text(total)},"offset":{json_text(offset)}')
    if options.update_seq:
        # Null where CouchDB does not tell it: for `keys`, and for local documents.
        known = options.keys is msgspec.UNSET and total is not None
        await stream.write(f',"update_seq":{json_text(newest if known else None)}')
    await stream.write(',"rows":[')
    separator = "\n"
    contents = options.include_docs and options.attachments
    async for page in pages:
        for key, document in page:
            if document is None:
                await stream.write(f'{separator}{{"key":{json_text(key)},"error":"not_found"}}')
            elif contents and document.encoded_attachments and not document.deleted:
                await stream.write(separator)
                await _write_with_contents(stream, store, document, options)
            else:
                await stream.write(separator + _row(document, options))
            separator = ",\n"
    await stream.write("\n]}")


async def _by_keys(source: Source, options: Options) -> AsyncIterator[_Page]:
    """The keys in their order, each with its document."""
    keys = options.keys[::-1] if options.descending else options.keys
    end = None if options.limit is None else options.skip + options.limit
    keys = keys[options.skip : end]
    start = 0
    while start < len(keys):
        asked = keys[start : start + _PAGE]
        ids = [key for key in asked if isinstance(key, str)]
        found = await source.find(ids, bodies=options.include_docs)
        page: _Page = []
        for key in asked:
            if not isinstance(key, str):
                page.append((key, None))
            elif key in found:
                page.append((key, found[key]))
            else:
                break  # what was found is a page already
        yield page
        start += len(page)


class _Range(msgspec.Struct, frozen=True):
    """The ids from `start` to `end`; None where there is no bound."""

    empty: bool
    start: str | None
    end: str | None
    inclusive_end: bool
    descending: bool
    skip: int
    limit: int | None

    @classmethod
    def of(cls, options: Options, prefix: str) -> _Range:
        """The range that `options` mean among ids that begin with `prefix`."""
        first = _key(options.startkey)
        last = _key(options.endkey)
        inclusive = options.inclusive_end
        if options.key is not msgspec.UNSET:
            first = last = _key(options.key)
            inclusive = True
        low, high = (last, first) if options.descending else (first, last)
        empty = low is _Bound.ABOVE or high is _Bound.BELOW
        lowest = low if isinstance(low, str) else None
        highest = high if isinstance(high, str) else None
        if lowest is not None and highest is not None and lowest > highest:
            empty = True  # of a view's index CouchDB refuses to read such a range
        if prefix:
            behind = prefix[:-1] + chr(ord(prefix[-1]) + 1)
            empty = empty or (lowest or prefix) >= behind or (highest or prefix) < prefix
            lowest = max(lowest or prefix, prefix)
            highest = min(highest or behind, behind)
        return cls(
            empty,
            highest if options.descending else lowest,
            lowest if options.descending else highest,
            inclusive,
            options.descending,
            options.skip,
            options.limit,
        )

    async def offset(self, source: Source, total: int | None) -> int | None:
        """How many of all rows come before the first one of this range."""
        if total is None:
            return None
        before = 0
        if self.start is not None:
            if total > _COUNTED_OFFSET:
                return None
            before = await source.rank(self.start)
            if self.descending:
                at_start = (await source.find([self.start], bodies=False))[self.start]
                there = at_start is not None and not at_start.deleted
                before = total - before - there
        return min(before + self.skip, total)

    async def pages(self, source: Source, *, bodies: bool) -> AsyncIterator[_Page]:
        left = self.limit
        start, skip = self.start, self.skip
        first = True
        while not self.empty and left != 0:
            page = await source.page(
                start=start,
                inclusive_start=first,
                end=self.end,
                inclusive_end=self.inclusive_end,
                descending=self.descending,
                skip=skip,
                limit=_PAGE if left is None else min(_PAGE, left),
                bodies=bodies,
            )
            yield [(document.id, document) for document in page.documents]
            if page.complete:
                return
            if left is not None:
                left -= len(page.documents)
            start, skip, first = page.documents[-1].id, 0, False


async def _write_with_contents(
    stream: Stream, store: Store, document: StoredDocument, options: Options
) -> None:
    """Write a row piece by piece: the contents of attachments may be large."""
    await stream.write(_head(document) + ',"doc":')
    members = conflicts(document) if options.conflicts else None
    await write_document(stream, store, document.revision(), options.show, members=members)
    await stream.write("}")


def _row(document: StoredDocument, options: Options) -> str:
    if not options.include_docs:
        return _head(document) + "}"
    if document.deleted:
        return _head(document) + ',"doc":null}'
    doc = rendered(
        document.revision(),
        members=conflicts(document) if options.conflicts else None,
        encoding_info=options.att_encoding_info,
    )
    return f'{_head(document)},"doc":{doc}}}'


def _head(document: StoredDocument) -> str:
    """A row but for the document and the closing brace."""
    id = json_text(document.id)
    value = f'"rev":{json_text(str(document.rev))}'
    if document.deleted:
        value += ',"deleted":true'
    return f'{{"id":{id},"key":{id},"value":{{{value}}}'


def _key(value: Any) -> _Key | None:
    if value is msgspec.UNSET or isinstance(value, str):
        return None if value is msgspec.UNSET else value
    return _Bound.ABOVE if isinstance(value, list | dict) else _Bound.BELOW
