"""The changes feed: normal, longpoll and continuous.

Source: CouchDB documentation, "API Reference > Databases > Changes > /{db}/_changes" and "Changes
Feeds". A sequence is a number here, that of the document's row in the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeAlias

from aiohttp import web

from agent.errors import RequestError
from agent.server.answers import Stream, json_text
from agent.server.call import DatabaseCall
from agent.server.edits import JsonObject
from agent.server.render import conflicts, rendered
from agent.store.reader import StoredDocument

_PAGE = 1000
_PAGE_WITH_DOCS = 100
"""Rows that are in memory at once."""

_NOTICE = 5.0
"""Seconds within which a client that has gone is noticed."""

_DEFAULT_WAIT = 60_000
_LONGEST_WAIT = 24 * 3600 * 1000
_NO_LIMIT = 10**18

_Filter: TypeAlias = Callable[[StoredDocument], bool]


@dataclass(frozen=True, slots=True)
class _Options:
    """`heartbeat` and `timeout` are in seconds; with a heartbeat there is no timeout."""

    feed: str
    since: int
    limit: int
    descending: bool
    all_leaves: bool
    include_docs: bool
    conflicts: bool
    heartbeat: float | None
    timeout: float
    filter: _Filter | None


async def changes(call: DatabaseCall) -> web.StreamResponse:
    """GET or POST /{db}/_changes

    Options: feed, since, limit, descending, style, include_docs, conflicts, heartbeat, timeout,
    filter (`_doc_ids`, whose ids are in the body of a POST, and `_design`).
    """
    body: JsonObject = {}
    if call.request.method == "POST":
        call.require_json()
        if call.request.can_read_body:
            body = await call.json(JsonObject)
    options = _parse(call, body)
    feed = _Feed(call, options)
    if call.request.method == "HEAD":
        return await feed.stream.finish()
    if options.feed == "continuous":
        return await feed.continuous()
    return await feed.once(wait=options.feed == "longpoll")


class _Feed:
    """One answer to _changes, page by page: neither the store nor the memory is held."""

    def __init__(self, call: DatabaseCall, options: _Options) -> None:
        self.stream = Stream(call.request)
        self._call = call
        self._store = call.store
        self._options = options
        self._seq = options.since
        self._before: int | None = None
        self._left = options.limit
        self._pending = 0
        self._at_end = False
        self._last_row = monotonic()

    async def once(self, *, wait: bool) -> web.StreamResponse:
        """One JSON object; with `wait` it comes once there is a row, or nothing to wait for."""
        await self.stream.write('{"results":[\n')
        separator = ""
        while not self._ending():
            rows = await self._next()
            if rows:
                await self.stream.write(separator + ",\n".join(rows))
                separator = ",\n"
            if not self._at_end:
                continue
            if separator or not wait or not await self._more():
                break
        await self.stream.write(f'\n],\n"last_seq":{self._seq},"pending":{self._pending}}}\n')
        return await self.stream.finish()

    async def continuous(self) -> web.StreamResponse:
        """A line for each row as it comes, and `last_seq` in the last line."""
        while not self._ending():
            rows = await self._next()
            await self.stream.write("".join([f"{row}\n" for row in rows]))
            if self._at_end and (self._left == 0 or not await self._more()):
                break
        await self.stream.write(f'{{"last_seq":{self._seq},"pending":{self._pending}}}\n')
        return await self.stream.finish()

    async def _next(self) -> list[str]:
        """The rows of the next page; sets `_at_end` when there are no more for now, or allowed."""
        options = self._options
        size = _PAGE_WITH_DOCS if options.include_docs else _PAGE
        if options.filter is None:
            size = min(size, self._left)
        page = await self._store.changes(
            self._seq,
            limit=size,
            descending=options.descending,
            before=self._before,
            bodies=options.include_docs,
        )
        rows = []
        for document in page.documents:
            self._seq = document.seq
            if options.filter is None or options.filter(document):
                rows.append(_row(document, options))
                if len(rows) == self._left:
                    break
        if rows:
            self._last_row = monotonic()
            self._left -= len(rows)
        if options.descending:
            self._before = self._seq
        self._pending = page.pending
        if options.filter is not None and self._left == 0:
            self._pending = await self._store.pending(self._seq)
        self._at_end = self._left == 0 or len(page.documents) < size
        return rows

    async def _more(self) -> bool:
        """Wait until there is a change; False when the feed is to end."""
        options = self._options
        if options.descending:
            return False  # it starts with the newest change: there is nothing to wait for
        await self.stream.flush()
        deadline = self._last_row + options.timeout
        beat = monotonic() + (options.heartbeat or 0.0)
        change = asyncio.ensure_future(self._store.wait(self._seq))
        closing = asyncio.ensure_future(self._call.service.closing.wait())
        try:
            while not self._ending():
                now = monotonic()
                due = deadline if options.heartbeat is None else beat
                if now >= due and options.heartbeat is None:
                    return False
                if now >= due:
                    await self.stream.write("\n")
                    await self.stream.flush()
                    beat = due = now + (options.heartbeat or 0.0)
                await asyncio.wait(
                    (change, closing),
                    timeout=min(due - now, _NOTICE),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if change.done() and not self._ending():
                    return True
            return False
        finally:
            change.cancel()
            closing.cancel()

    def _ending(self) -> bool:
        """The server stops, the database was deleted, or the client has gone."""
        return (
            self._call.service.closing.is_set()
            or self._store.closed
            or self._call.request.transport is None
        )


def _row(document: StoredDocument, options: _Options) -> str:
    leaves = document.leaves() if options.all_leaves else (document.rev,)
    revs = ",".join([f'{{"rev":{json_text(str(leaf))}}}' for leaf in leaves])
    text = f'{{"seq":{document.seq},"id":{json_text(document.id)},"changes":[{revs}]'
    if document.deleted:
        text += ',"deleted":true'
    if options.include_docs:
        extra = conflicts(document) if options.conflicts else None
        text += f',"doc":{rendered(document.revision(), members=extra)}'
    return text + "}"


# --- options ---------------------------------------------------------------------------


def _parse(call: DatabaseCall, body: JsonObject) -> _Options:
    query = call.request.query
    feed = query.get("feed", "normal")
    feed = "continuous" if feed == "live" else feed
    if feed not in ("normal", "longpoll", "continuous"):
        raise RequestError(
            400, "bad_request", "Supported `feed` types: normal, continuous, live, longpoll"
        )
    style = query.get("style", "main_only")
    if style not in ("main_only", "all_docs"):
        raise RequestError(400, "bad_request", "`style` must be main_only or all_docs")
    limit = call.number("limit")
    timeout = call.number("timeout")
    return _Options(
        feed=feed,
        since=_since(call),
        limit=_NO_LIMIT if limit is None else max(limit, 1),
        descending=call.flag("descending"),
        all_leaves=style == "all_docs",
        include_docs=call.flag("include_docs"),
        conflicts=call.flag("conflicts"),
        heartbeat=_heartbeat(call),
        timeout=min(_DEFAULT_WAIT if timeout is None else timeout, _LONGEST_WAIT) / 1000,
        filter=_filter(query.get("filter"), body),
    )


def _since(call: DatabaseCall) -> int:
    """A number, bare or as a JSON string. Raises RequestError."""
    text = call.request.query.get("since", "0")
    newest = call.store.update_seq
    if text == "now":
        return newest
    text = text.removeprefix('"').removesuffix('"')
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise RequestError(400, "bad_request", "Malformed sequence supplied in 'since' parameter.")
    # A sequence from the future is that of another database, such as this one before it was
    # deleted and made again. As in a CouchDB cluster that starts from the beginning: whatever
    # the client has of it already it will recognise, but it must not miss what it has not.
    return int(text) if int(text) <= newest else 0


def _heartbeat(call: DatabaseCall) -> float | None:
    text = call.request.query.get("heartbeat")
    if text in (None, "false"):
        return None
    milliseconds = _DEFAULT_WAIT if text == "true" else call.number("heartbeat")
    if not milliseconds:
        raise RequestError(
            400,
            "bad_request",
            "The heartbeat value should be a positive integer (in milliseconds).",
        )
    return min(milliseconds, _LONGEST_WAIT) / 1000


def _filter(name: str | None, body: JsonObject) -> _Filter | None:
    if not name:
        return None
    if name == "_design":
        return lambda document: document.id.startswith("_design/")
    if name == "_doc_ids":
        ids: Any = body.get("doc_ids")
        if not isinstance(ids, list):
            raise RequestError(400, "bad_request", "`doc_ids` filter parameter is not a list.")
        wanted = frozenset(id for id in ids if isinstance(id, str))
        return lambda document: document.id in wanted
    if name in ("_selector", "_view") or "/" in name:
        raise RequestError(501, "not_implemented", f"The filter {name} is not supported")
    raise RequestError(
        400, "bad_request", "filter parameter must be of the form `designname/filtername`"
    )
