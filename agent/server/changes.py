"""The changes feed: normal, longpoll, continuous and eventsource.

Source: CouchDB documentation, "API Reference > Databases > Changes > /{db}/_changes" and "Changes
Feeds". Sequences are strings (`store/sequences.py`).

Followers are many, and nearly all of them want the same thing at the same moment: what was just
written. They share one read of it (`Store.recent_changes`) and the text of its rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from time import monotonic

from aiohttp import web

from agent.documents.revision import Rev, Revision
from agent.server.answers import Stream, json_text
from agent.server.attached import with_contents
from agent.server.call import DatabaseCall
from agent.server.changes_options import Options, options_of
from agent.server.edits import JsonObject
from agent.server.render import conflicts, rendered
from agent.store import sequences
from agent.store.reader import ChangesPage, StoredDocument
from agent.store.selecting import matching_leaves

_PAGE = 1000
_PAGE_WITH_DOCS = 100
"""Rows that are in memory at once."""

_PAGE_WITH_CONTENTS = 1
"""The same where attachments go with the documents."""

_LOOKED_UP = 100
"""Up to so many `doc_ids` are looked up, as in CouchDB; for more the whole feed is read."""

_NOTICE = 5.0
"""Seconds within which a client that has gone is noticed."""

_EVENTS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


async def changes(call: DatabaseCall) -> web.StreamResponse:
    """GET or POST /{db}/_changes

    Options: feed, since, last-event-id, limit, descending, style, include_docs, conflicts,
    attachments, att_encoding_info, seq_interval, heartbeat, timeout, filter (`_doc_ids`, whose ids
    are in the body of a POST or in the query, `_selector`, whose selector is in the body, and
    `_design`).
    """
    body: JsonObject = {}
    if call.request.method == "POST":
        call.require_json()
        if call.request.can_read_body:
            body = await call.json(JsonObject)
    options = await options_of(call, body)
    feed = _Feed(call, options)
    if call.request.method == "HEAD":
        return await feed.stream.finish()
    if options.feed in ("continuous", "eventsource"):
        return await feed.follow()
    return await feed.once(wait=options.feed == "longpoll")


class _Feed:
    """One answer to _changes, page by page: neither the store nor the memory is held."""

    __slots__ = (
        "_at_end",
        "_before",
        "_call",
        "_events",
        "_ids",
        "_last_row",
        "_left",
        "_looks",
        "_options",
        "_pending",
        "_sent",
        "_seq",
        "_store",
        "_suffix",
        "stream",
    )

    def __init__(self, call: DatabaseCall, options: Options) -> None:
        self._events = options.feed == "eventsource"
        self.stream = Stream(call.request, headers=_EVENTS if self._events else None)
        self._call = call
        self._store = call.store
        self._suffix = sequences.suffix(call.store)
        self._options = options
        self._seq = options.since
        self._before: int | None = None
        self._left = options.limit
        self._sent = 0
        self._pending = 0
        self._at_end = False
        self._looks = (
            self._events,
            options.all_leaves,
            options.include_docs,
            options.conflicts,
            options.show,
        )
        self._last_row = monotonic()
        ids = options.filter.ids if options.filter is not None else None
        self._ids = ids if ids is not None and len(ids) <= _LOOKED_UP else None

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
        last = self._sequence(self._seq)
        await self.stream.write(f'\n],\n"last_seq":{last},"pending":{self._pending}}}\n')
        return await self.stream.finish()

    async def follow(self) -> web.StreamResponse:
        """A line (or an event) for each row as it comes; lines end with one for `last_seq`."""
        while not self._ending():
            rows = await self._next()
            if self._events:
                await self.stream.write("".join(rows))
            elif rows:
                await self.stream.write("\n".join(rows) + "\n")
            if self._at_end and (self._left == 0 or not await self._more()):
                break
        if not self._events:
            last = self._sequence(self._seq)
            await self.stream.write(f'{{"last_seq":{last},"pending":{self._pending}}}\n')
        return await self.stream.finish()

    def _sequence(self, number: int) -> str:
        """As JSON."""
        return f'"{number}{self._suffix}"'

    async def _next(self) -> list[str]:
        """The rows of the next page; sets `_at_end` when there are no more for now, or allowed."""
        options = self._options
        page, complete = await self._page()
        texts = page.rendered.setdefault(self._looks, {})
        rows = []
        for document in page.documents:
            leaves = None if options.filter is None else await self._passing(document)
            if leaves is None or leaves:
                rows.append(await self._row(texts, document, leaves))
                if len(rows) == self._left:
                    self._seq = document.seq
                    break
        else:
            self._seq = page.last_seq
        if rows:
            self._last_row = monotonic()
            self._left -= len(rows)
        if options.descending:
            self._before = self._seq
        self._pending = page.pending
        if options.filter is not None and self._left == 0:
            self._pending = await self._store.pending(self._seq)
        self._at_end = self._left == 0 or complete
        return rows

    async def _page(self) -> tuple[ChangesPage, bool]:
        """What comes next, and whether that is all there is for now."""
        options = self._options
        if self._ids is not None:
            ids, self._ids = self._ids, None
            return await self._looked_up(ids), True
        bodies = options.include_docs
        size = _PAGE_WITH_DOCS if bodies else _PAGE
        if bodies and options.show.data:
            size = _PAGE_WITH_CONTENTS
        if options.filter is None:
            size = min(size, self._left)
        else:
            bodies = bodies or options.filter.reads_bodies
        if options.descending:
            page = await self._store.changes(
                self._seq, limit=size, descending=True, before=self._before, bodies=bodies
            )
        else:
            page = await self._store.recent_changes(self._seq, limit=size, bodies=bodies)
        return page, len(page.documents) < size

    async def _looked_up(self, ids: Iterable[str]) -> ChangesPage:
        """The changes of a few documents, without reading those of all others."""
        newest = self._store.update_seq
        found = await self._store.documents(list(ids))
        descending = self._options.descending
        documents = [doc for doc in found.values() if descending or doc.seq > self._seq]
        documents.sort(key=lambda document: document.seq, reverse=descending)
        if descending:
            last = documents[-1].seq if documents else self._seq
        else:
            last = max([newest, *(document.seq for document in documents)])
        return ChangesPage(documents, last, 0)

    async def _passing(self, document: StoredDocument) -> Sequence[Rev] | None:
        """The leaves that the filter lets pass; None for all that the style asks for."""
        options = self._options
        assert options.filter is not None  # noqa: S101
        selector = options.filter.selector
        if selector is None or not options.all_leaves or document.encoded_tree is None:
            accepts = options.filter.accepts
            slow = options.filter.slow
            passes = await asyncio.to_thread(accepts, document) if slow else accepts(document)
            return None if passes else ()
        [leaves] = await matching_leaves(self._store, [document], selector)
        return leaves

    async def _row(
        self,
        texts: dict[tuple[int, bool], str],
        document: StoredDocument,
        leaves: Sequence[Rev] | None,
    ) -> str:
        """A row as the feed has it; those who share the page and its looks share the text."""
        options = self._options
        self._sent += 1
        shown = self._sent % options.seq_interval == 0
        seq = self._sequence(document.seq) if shown else "null"
        if options.include_docs and options.show.data and document.encoded_attachments:
            revision = await with_contents(self._store, document.revision(), options.show)
            return self._text(document, seq, leaves, revision)
        if leaves is not None:
            return self._text(document, seq, leaves)
        key = (document.seq, shown)
        text = texts.get(key)
        if text is None:
            text = texts[key] = self._text(document, seq)
        return text

    def _text(
        self,
        document: StoredDocument,
        seq: str,
        leaves: Sequence[Rev] | None = None,
        revision: Revision | None = None,
    ) -> str:
        text = _row(document, self._options, seq, leaves, revision)
        return f"data: {text}\nid: {seq}\n\n" if self._events else text

    async def _more(self) -> bool:
        """Wait until there is a change; False when the feed is to end."""
        options = self._options
        if options.descending:
            return False  # it starts with the newest change: there is nothing to wait for
        if not self.stream.begun and not self._sent and options.feed != "longpoll":
            await self.stream.write("\n")  # as CouchDB: the client sees that the feed has begun
        await self.stream.flush()
        due = monotonic() + options.heartbeat if options.heartbeat is not None else None
        deadline = self._last_row + options.timeout
        while not self._ending():
            if self._store.update_seq > self._seq:
                return True
            now = monotonic()
            if due is None and now >= deadline:
                return False
            if due is not None and now >= due:
                await self.stream.write("event: heartbeat\ndata: \n\n" if self._events else "\n")
                await self.stream.flush()
                due = now + (options.heartbeat or 0.0)
            left = (deadline if due is None else due) - now
            await self._store.wait_a_while(self._seq, min(left, _NOTICE))
        return False

    def _ending(self) -> bool:
        """The server stops, the database was deleted, or the client has gone."""
        return (
            self._call.service.closing.is_set()
            or self._store.closed
            or self._call.request.transport is None
        )


def _row(
    document: StoredDocument,
    options: Options,
    seq: str,
    leaves: Sequence[Rev] | None,
    revision: Revision | None,
) -> str:
    """`seq` is JSON. `leaves` are the revisions that the row tells of, where it is not all that the
    style asks for. `revision` stands in for the document's, which is made without contents."""
    if leaves is None:
        leaves = document.leaves() if options.all_leaves else (document.rev,)
    revs = ",".join([f'{{"rev":{json_text(str(leaf))}}}' for leaf in leaves])
    text = f'{{"seq":{seq},"id":{json_text(document.id)},"changes":[{revs}]'
    if document.deleted:
        text += ',"deleted":true'
    if options.include_docs:
        extra = conflicts(document) if options.conflicts else None
        doc = rendered(
            revision or document.revision(),
            members=extra,
            encoding_info=options.show.encoding_info,
        )
        text += f',"doc":{doc}'
    return text + "}"
