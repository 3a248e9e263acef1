"""The changes feed: normal, longpoll, continuous and eventsource.

Source: CouchDB documentation, "API Reference > Databases > Changes > /{db}/_changes" and "Changes
Feeds". Sequences are strings (`store/sequences.py`).

Followers are many, and nearly all of them want the same thing at the same moment: what was just
written. They share one read of it (`Store.recent_changes`) and the text of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

import msgspec
from aiohttp import web

from agent.documents.revision import Rev
from agent.server.answers import Stream, json_text
from agent.server.attached import write_document
from agent.server.call import DatabaseCall
from agent.server.changes_options import Options, options_of
from agent.server.edits import JsonObject
from agent.server.render import conflicts, rendered
from agent.store import sequences
from agent.store.changes import ChangesPage
from agent.store.selecting import matching_leaves
from agent.store.stored import StoredDocument

_PAGE = 1000
"""Rows that are in memory at once, at most: large documents make smaller pages."""

_LOOKED_UP = 100
"""Up to so many `doc_ids` are looked up, as in CouchDB; for more the whole feed is read."""

_NOTICE = 5.0
"""Seconds within which a client that has gone is noticed."""


class _Frame(msgspec.Struct, frozen=True):
    """What a feed has around its rows and between them; the sequence joins the parts of `end`."""

    start: str = ""
    end: tuple[str, ...] = ("",)
    between: str = ""
    heartbeat: str = "\n"


_ONCE = _Frame(between=",\n")
_LINES = _Frame(end=("\n",))
_EVENTS = _Frame("data: ", ("\nid: ", "\n\n"), heartbeat="event: heartbeat\ndata: \n\n")
_FRAMES = {"normal": _ONCE, "longpoll": _ONCE, "continuous": _LINES, "eventsource": _EVENTS}
_EVENT_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


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
        "_frame",
        "_ids",
        "_last_row",
        "_left",
        "_looks",
        "_options",
        "_pending",
        "_sent",
        "_separator",
        "_seq",
        "_store",
        "_suffix",
        "stream",
    )

    def __init__(self, call: DatabaseCall, options: Options) -> None:
        self._frame = _FRAMES[options.feed]
        headers = _EVENT_HEADERS if self._frame is _EVENTS else None
        self.stream = Stream(call.request, headers=headers)
        self._separator = ""
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
            self._frame,
            options.all_leaves,
            options.include_docs,
            options.conflicts,
            options.show.encoding_info,
        )
        self._last_row = monotonic()
        ids = options.filter.ids if options.filter is not None else None
        self._ids = list(ids) if ids is not None and len(ids) <= _LOOKED_UP else None

    async def once(self, *, wait: bool) -> web.StreamResponse:
        """One JSON object; with `wait` it comes once there is a row, or nothing to wait for."""
        await self.stream.write('{"results":[\n')
        while not self._ending():
            await self._next()
            if not self._at_end:
                continue
            if self._sent or not wait or not await self._more():
                break
        last = self._sequence(self._seq)
        await self.stream.write(f'\n],\n"last_seq":{last},"pending":{self._pending}}}\n')
        return await self.stream.finish()

    async def follow(self) -> web.StreamResponse:
        """A line (or an event) for each row as it comes; lines end with one for `last_seq`."""
        while not self._ending():
            await self._next()
            if self._at_end and (self._left == 0 or not await self._more()):
                break
        if self._frame is not _EVENTS:
            last = self._sequence(self._seq)
            await self.stream.write(f'{{"last_seq":{last},"pending":{self._pending}}}\n')
        return await self.stream.finish()

    def _sequence(self, number: int) -> str:
        """As JSON."""
        return f'"{number}{self._suffix}"'

    async def _next(self) -> None:
        """Write the rows of the next page; `_at_end`: no more there for now, or allowed."""
        options = self._options
        page = await self._page()
        texts = page.rendered.setdefault(self._looks, {})
        contents = options.include_docs and options.show.data
        before = self._left
        rows: list[str] = []
        for document in page.documents:
            leaves = None if options.filter is None else await self._passing(document)
            if leaves is None or leaves:
                if contents and document.encoded_attachments:
                    await self._write(rows)
                    await self._write_with_contents(document, leaves)
                    rows.clear()
                else:
                    rows.append(self._text_of_row(texts, document, leaves))
                self._left -= 1
                if not self._left:
                    self._seq = document.seq
                    break
        else:
            self._seq = page.last_seq
        await self._write(rows)
        if self._left < before:
            self._last_row = monotonic()
        if options.descending:
            self._before = self._seq
        self._pending = page.pending
        if options.filter is not None and self._left == 0:
            self._pending = await self._store.pending(self._seq)
        self._at_end = self._left == 0 or page.complete

    async def _page(self) -> ChangesPage:
        """What comes next, as much of it as fits in memory."""
        options = self._options
        bodies = options.include_docs
        if self._ids is not None:
            page = await self._store.changes_of(
                self._ids,
                self._seq,
                descending=options.descending,
                before=self._before,
                bodies=bodies,
            )
            if page.complete:
                self._ids = None
            return page
        limit = _PAGE
        if options.filter is None:
            limit = min(limit, self._left)
        else:
            bodies = bodies or options.filter.reads_bodies
        if options.descending:
            return await self._store.changes(
                self._seq, limit=limit, descending=True, before=self._before, bodies=bodies
            )
        return await self._store.recent_changes(self._seq, limit=limit, bodies=bodies)

    async def _passing(self, document: StoredDocument) -> Sequence[Rev] | None:
        """The leaves that the filter lets pass; None for all that the style asks for."""
        options = self._options
        assert options.filter is not None  # noqa: S101
        selector = options.filter.selector
        if selector is None or not options.all_leaves or document.encoded_tree is None:
            accepts = options.filter.accepts
            slow = options.filter.slow
            passes = await self._store.examine(accepts, document) if slow else accepts(document)
            return None if passes else ()
        [leaves] = await matching_leaves(self._store, [document], selector)
        return leaves

    async def _write(self, rows: Sequence[str]) -> None:
        if rows:
            await self.stream.write(self._separator + self._frame.between.join(rows))
            self._separator = self._frame.between

    async def _write_with_contents(
        self, document: StoredDocument, leaves: Sequence[Rev] | None
    ) -> None:
        """Write a row piece by piece: the contents of attachments may be large."""
        options = self._options
        seq, _ = self._next_sequence(document)
        row = _row(document, options, seq, leaves)
        await self.stream.write(f'{self._separator}{self._frame.start}{row},"doc":')
        self._separator = self._frame.between
        await write_document(
            self.stream,
            self._store,
            document.revision(),
            options.show,
            members=conflicts(document) if options.conflicts else None,
        )
        await self.stream.write("}" + seq.join(self._frame.end))

    def _text_of_row(
        self,
        texts: dict[tuple[int, bool], str],
        document: StoredDocument,
        leaves: Sequence[Rev] | None,
    ) -> str:
        """A row as the feed has it; those who share the page and its looks share the text."""
        seq, shown = self._next_sequence(document)
        if leaves is not None:
            return self._text(document, seq, leaves)
        key = (document.seq, shown)
        text = texts.get(key)
        if text is None:
            text = texts[key] = self._text(document, seq)
        return text

    def _next_sequence(self, document: StoredDocument) -> tuple[str, bool]:
        """The sequence of the next row as JSON, and whether it is shown: otherwise it is null."""
        self._sent += 1
        shown = self._sent % self._options.seq_interval == 0
        return self._sequence(document.seq) if shown else "null", shown

    def _text(self, document: StoredDocument, seq: str, leaves: Sequence[Rev] | None = None) -> str:
        options = self._options
        row = _row(document, options, seq, leaves)
        if options.include_docs:
            doc = rendered(
                document.revision(),
                members=conflicts(document) if options.conflicts else None,
                encoding_info=options.show.encoding_info,
            )
            row += f',"doc":{doc}'
        return f"{self._frame.start}{row}}}{seq.join(self._frame.end)}"

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
                await self.stream.write(self._frame.heartbeat)
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


def _row(document: StoredDocument, options: Options, seq: str, leaves: Sequence[Rev] | None) -> str:
    """A row but for the document and the closing brace. `seq` is JSON. `leaves` are the revisions
    that the row tells of, where it is not all that the style asks for."""
    if leaves is None:
        leaves = document.leaves() if options.all_leaves else (document.rev,)
    revs = ",".join([f'{{"rev":{json_text(str(leaf))}}}' for leaf in leaves])
    text = f'{{"seq":{seq},"id":{json_text(document.id)},"changes":[{revs}]'
    return text + ',"deleted":true' if document.deleted else text
