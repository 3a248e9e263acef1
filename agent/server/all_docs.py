"""`_all_docs`, `_design_docs` and `_local_docs`: documents in the order of their ids.

Source: CouchDB documentation, "API Reference > Databases > Bulk > /{db}/_all_docs".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import msgspec
from aiohttp import web

from agent.errors import RequestError
from agent.server.all_docs_options import Options, from_query, with_members
from agent.server.all_docs_source import AllDocs, DesignDocs, LocalDocs, Source
from agent.server.answers import Stream, json_text
from agent.server.attached import with_contents
from agent.server.call import DatabaseCall
from agent.server.edits import JsonObject
from agent.server.render import conflicts, rendered
from agent.store import sequences
from agent.store.reader import StoredDocument
from agent.store.store import Store

_PAGE = 1000
_PAGE_WITH_DOCS = 100
"""Rows that are in memory at once."""

_COUNTED_OFFSET = 100_000
"""Counting the rows before the first one reads all of them; in a larger database `offset` is null,
as it is in CouchDB's answer to `keys`."""


class _Bound(Enum):
    """Where a key that is no string stands among the ids, in CouchDB's order of JSON values."""

    BELOW = 0
    ABOVE = 1


_Key: TypeAlias = str | _Bound


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
    pages: AsyncIterator[list[str]]
    newest = sequences.text_of(store, store.update_seq)
    total = await source.total()
    if options.keys is not msgspec.UNSET:
        offset, pages = None, _by_keys(store, source, options)
    else:
        scan = _Range.of(options, source.prefix)
        offset = await scan.offset(source, total)
        pages = scan.pages(store, source, options)
    await stream.write(f'{{"total_rows":{json_text(total)},"offset":{json_text(offset)}')
    if options.update_seq:
        # Null where CouchDB does not tell it: for `keys`, and for local documents.
        known = options.keys is msgspec.UNSET and total is not None
        await stream.write(f',"update_seq":{json_text(newest if known else None)}')
    await stream.write(',"rows":[')
    separator = "\n"
    async for rows in pages:
        await stream.write(separator + ",\n".join(rows))
        separator = ",\n"
    await stream.write("\n]}")


async def _by_keys(store: Store, source: Source, options: Options) -> AsyncIterator[list[str]]:
    """A row for each key, in their order; one that is no document's has an error."""
    keys = options.keys[::-1] if options.descending else options.keys
    end = None if options.limit is None else options.skip + options.limit
    keys = keys[options.skip : end]
    size = _page_size(options)
    for start in range(0, len(keys), size):
        page = keys[start : start + size]
        found = await source.find(list({key for key in page if isinstance(key, str)}))
        yield [await _row_of_key(store, key, found, options) for key in page]


@dataclass(frozen=True, slots=True)
class _Range:
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
                at_start = (await source.find([self.start])).get(self.start)
                there = at_start is not None and not at_start.deleted
                before = total - before - there
        return min(before + self.skip, total)

    async def pages(
        self, store: Store, source: Source, options: Options
    ) -> AsyncIterator[list[str]]:
        left = self.limit
        start, skip = self.start, self.skip
        last: str | None = None
        while not self.empty and left != 0:
            size = _page_size(options)
            if left is not None:
                size = min(size, left)
            # A further page begins with the last row of the one before, if that is still there.
            page = await source.page(
                start=start,
                end=self.end,
                inclusive_end=self.inclusive_end,
                descending=self.descending,
                skip=skip,
                limit=size if last is None else size + 1,
                bodies=options.include_docs,
            )
            page = page[1:] if page and page[0].id == last else page[:size]
            if page:
                yield [await _row(store, document, options) for document in page]
            if len(page) < size:
                return
            if left is not None:
                left -= size
            start = last = page[-1].id
            skip = 0


def _page_size(options: Options) -> int:
    if options.include_docs and options.attachments:
        return 1
    return _PAGE_WITH_DOCS if options.include_docs else _PAGE


async def _row_of_key(
    store: Store, key: Any, found: Mapping[str, StoredDocument], options: Options
) -> str:
    document = found.get(key) if isinstance(key, str) else None
    if document is None:
        return f'{{"key":{json_text(key)},"error":"not_found"}}'
    return await _row(store, document, options)


async def _row(store: Store, document: StoredDocument, options: Options) -> str:
    id = json_text(document.id)
    value = f'"rev":{json_text(str(document.rev))}'
    if document.deleted:
        value += ',"deleted":true'
    doc = ""
    if options.include_docs:
        doc = ',"doc":null'
        if not document.deleted:
            extra = conflicts(document) if options.conflicts else None
            revision = document.revision()
            if options.attachments and revision.attachments:
                revision = await with_contents(store, revision, options.show)
            text = rendered(revision, members=extra, encoding_info=options.att_encoding_info)
            doc = f',"doc":{text}'
    return f'{{"id":{id},"key":{id},"value":{{{value}}}{doc}}}'


def _key(value: Any) -> _Key | None:
    if value is msgspec.UNSET or isinstance(value, str):
        return None if value is msgspec.UNSET else value
    return _Bound.ABOVE if isinstance(value, list | dict) else _Bound.BELOW
