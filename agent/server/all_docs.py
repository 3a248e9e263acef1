"""`_all_docs`: documents in the order of their ids.

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
from agent.server.answers import Stream, json_text
from agent.server.call import DatabaseCall
from agent.server.edits import JsonObject
from agent.server.render import conflicts, rendered
from agent.store.reader import StoredDocument
from agent.store.store import Store

_PAGE = 1000
_PAGE_WITH_DOCS = 100
"""Rows that are in memory at once."""

_COUNTED_OFFSET = 100_000
"""Counting the rows before the first one reads all of them; in a larger database `offset` is null,
as it is in CouchDB's answer to `keys`."""

_FLAGS = ("descending", "include_docs", "conflicts", "update_seq")
_NUMBERS = ("limit", "skip")
_KEYS = ("key", "keys", "startkey", "endkey")
_SYNONYMS = {"start_key": "startkey", "end_key": "endkey"}


class _Bound(Enum):
    """Where a key that is no string stands among the ids, in CouchDB's order of JSON values."""

    BELOW = 0
    ABOVE = 1


_Key: TypeAlias = str | _Bound


@dataclass(slots=True)
class _Options:
    key: Any = msgspec.UNSET
    keys: Any = msgspec.UNSET
    startkey: Any = msgspec.UNSET
    endkey: Any = msgspec.UNSET
    inclusive_end: bool = True
    descending: bool = False
    include_docs: bool = False
    conflicts: bool = False
    update_seq: bool = False
    limit: int | None = None
    skip: int = 0


async def all_docs(call: DatabaseCall) -> web.StreamResponse:
    """GET or POST /{db}/_all_docs; in a POST every option may be in the body.

    Options: key, keys, startkey, endkey, inclusive_end, descending, skip, limit, include_docs,
    conflicts, update_seq. Raises RequestError.
    """
    options = _from_query(call)
    if call.request.method == "POST":
        call.require_json()
        _from_body(options, await call.json(JsonObject))
    stream = Stream(call.request)
    if call.request.method == "HEAD":
        return await stream.finish()
    info = await call.store.info()
    pages: AsyncIterator[list[str]]
    if options.keys is not msgspec.UNSET:
        offset, pages = None, _by_keys(call.store, options)
    else:
        scan = _Range.of(options)
        offset = await scan.offset(call.store, info.doc_count)
        pages = scan.pages(call.store, options)
    await stream.write(f'{{"total_rows":{info.doc_count},"offset":{json_text(offset)}')
    if options.update_seq:
        await stream.write(f',"update_seq":{info.update_seq}')
    await stream.write(',"rows":[')
    separator = "\n"
    async for rows in pages:
        await stream.write(separator + ",\n".join(rows))
        separator = ",\n"
    await stream.write("\n]}\n")
    return await stream.finish()


async def _by_keys(store: Store, options: _Options) -> AsyncIterator[list[str]]:
    """A row for each key, in their order; one that is no document's has an error."""
    keys = options.keys[::-1] if options.descending else options.keys
    end = None if options.limit is None else options.skip + options.limit
    keys = keys[options.skip : end]
    for start in range(0, len(keys), _PAGE_WITH_DOCS):
        page = keys[start : start + _PAGE_WITH_DOCS]
        found = await store.documents(list({key for key in page if isinstance(key, str)}))
        yield [_row_of_key(key, found, options) for key in page]


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
    def of(cls, options: _Options) -> _Range:
        first = _key(options.startkey)
        last = _key(options.endkey)
        inclusive = options.inclusive_end
        if options.key is not msgspec.UNSET:
            first = last = _key(options.key)
            inclusive = True
        low, high = (last, first) if options.descending else (first, last)
        if isinstance(low, str) and isinstance(high, str) and low > high:
            raise RequestError(
                400,
                "query_parse_error",
                "No rows can match your key range, reverse your start_key and end_key or set "
                f"{{descending={'false' if options.descending else 'true'}}}",
            )
        return cls(
            low is _Bound.ABOVE or high is _Bound.BELOW,
            first if isinstance(first, str) else None,
            last if isinstance(last, str) else None,
            inclusive,
            options.descending,
            options.skip,
            options.limit,
        )

    async def offset(self, store: Store, total: int) -> int | None:
        """How many rows of the whole database come before the first one of this range."""
        before = 0
        if self.start is not None:
            if total > _COUNTED_OFFSET:
                return None
            before = await store.rank(self.start)
            if self.descending:
                at_start = await store.get(self.start)
                there = at_start is not None and not at_start.deleted
                before = total - before - there
        return min(before + self.skip, total)

    async def pages(self, store: Store, options: _Options) -> AsyncIterator[list[str]]:
        left = self.limit
        start, skip = self.start, self.skip
        last: str | None = None
        while not self.empty and left != 0:
            size = _PAGE_WITH_DOCS if options.include_docs else _PAGE
            if left is not None:
                size = min(size, left)
            # A further page begins with the last row of the one before, if that is still there.
            page = await store.all_docs(
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
                yield [_row(document, options) for document in page]
            if len(page) < size:
                return
            if left is not None:
                left -= size
            start = last = page[-1].id
            skip = 0


def _row_of_key(key: Any, found: Mapping[str, StoredDocument], options: _Options) -> str:
    document = found.get(key) if isinstance(key, str) else None
    if document is None:
        return f'{{"key":{json_text(key)},"error":"not_found"}}'
    return _row(document, options)


def _row(document: StoredDocument, options: _Options) -> str:
    id = json_text(document.id)
    value = f'"rev":{json_text(str(document.rev))}'
    if document.deleted:
        value += ',"deleted":true'
    doc = ""
    if options.include_docs:
        doc = ',"doc":null'
        if not document.deleted:
            extra = conflicts(document) if options.conflicts else None
            doc = f',"doc":{rendered(document.revision(), members=extra)}'
    return f'{{"id":{id},"key":{id},"value":{{{value}}}{doc}}}'


def _key(value: Any) -> _Key | None:
    if value is msgspec.UNSET or isinstance(value, str):
        return None if value is msgspec.UNSET else value
    return _Bound.ABOVE if isinstance(value, list | dict) else _Bound.BELOW


# --- options ---------------------------------------------------------------------------


def _from_query(call: DatabaseCall) -> _Options:
    options = _Options()
    for name in call.request.query:
        known = _SYNONYMS.get(name, name)
        if known in _KEYS:
            setattr(options, known, call.json_parameter(name))
        elif known in _NUMBERS:
            setattr(options, known, call.number(name))
        elif known in _FLAGS:
            setattr(options, known, call.flag(name))
        elif known == "inclusive_end":
            options.inclusive_end = call.request.query[name] != "false"
    _check_keys(options)
    return options


def _from_body(options: _Options, body: JsonObject) -> None:
    for name, value in body.items():
        known = _SYNONYMS.get(name, name)
        if known in _NUMBERS:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**18:
                raise RequestError(
                    400,
                    "query_parse_error",
                    f"Invalid value for positive integer parameter: {name}",
                )
        elif known in _FLAGS or known == "inclusive_end":
            if not isinstance(value, bool):
                raise RequestError(
                    400, "query_parse_error", f"Invalid boolean parameter: {json_text(value)}"
                )
        elif known not in _KEYS:
            continue
        setattr(options, known, value)
    _check_keys(options)


def _check_keys(options: _Options) -> None:
    if options.keys is None:
        options.keys = msgspec.UNSET
    if options.keys is msgspec.UNSET:
        return
    if not isinstance(options.keys, list):
        raise RequestError(400, "bad_request", "`keys` parameter must be an array.")
    ranges = (options.key, options.startkey, options.endkey)
    if any(value is not msgspec.UNSET for value in ranges):
        raise RequestError(
            400,
            "query_parse_error",
            "`keys` is incompatible with `key`, `start_key` and `end_key`",
        )
