"""CouchDB's `_changes`, in pages and as an endless feed.

Source: CouchDB documentation, "API Reference > Databases > /{db}/_changes" and "Changes Feeds".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal

import msgspec

from agent.errors import ConnectError, NotCouchDBError, RemoteBusyError, TooLargeError
from agent.peers.http import HttpClient
from agent.peers.http_errors import one_line
from agent.peers.peer import Change, ChangeBatch, Seq

FeedMode = Literal["continuous", "longpoll"]
"""How new changes are waited for. Behind proxies that hold answers back only longpoll works."""

_LONGEST_LINE = 8 * 1024 * 1024
_MISSED_HEARTBEATS = 2.5
_SHORTEST_FEED = 1.0  # seconds; feeds that end sooner are not asked for again at once

_PASSED_OVER = 60.0
"""Seconds after which a filtered feed is left for a page: a feed does not tell what it leaves out,
so the sequence to go on from would stay behind for as long as nothing matches."""


class FeedFilter(msgspec.Struct, frozen=True):
    """A filter that the server has built in, and the request's body that goes with it."""

    name: str
    body: bytes

    @classmethod
    def of(
        cls, selector: Mapping[str, Any] | None, doc_ids: Sequence[str] | None
    ) -> FeedFilter | None:
        """The filter `_selector` or `_doc_ids`; None where everything is wanted."""
        if selector is not None:
            return cls("_selector", msgspec.json.encode({"selector": selector}))
        if doc_ids is not None:
            return cls("_doc_ids", msgspec.json.encode({"doc_ids": doc_ids}))
        return None


class _LeafRow(msgspec.Struct):
    rev: str


class _Row(msgspec.Struct):
    """A line of a continuous feed: a change, the feed's end, or an error."""

    id: str | None = None
    seq: Any = None
    changes: list[_LeafRow] = []
    deleted: bool = False
    last_seq: Any = None
    pending: int | None = None
    error: str | None = None
    reason: str | None = None


class _Page(msgspec.Struct):
    results: list[_Row]
    last_seq: Any
    pending: int | None = None


_row_decoder = msgspec.json.Decoder(_Row)


class ChangesFeed:
    """Reads the changes of the database at `path`. `heartbeat` is in seconds.

    While it waits for changes, 2.5 heartbeats without a byte mean that the connection is dead.
    """

    def __init__(self, http: HttpClient, path: str, *, mode: FeedMode, heartbeat: float) -> None:
        self._http = http
        self._path = path
        self._mode = mode
        self._heartbeat = heartbeat
        self._silence = heartbeat * _MISSED_HEARTBEATS

    async def read(
        self, since: Seq, *, follow: bool, limit: int, filter: FeedFilter | None = None
    ) -> AsyncGenerator[ChangeBatch, None]:
        """As `Peer.changes`.

        A continuous feed does not tell how much is still to come: there `pending` is 0 when
        nothing more had arrived yet.
        """
        caught_up = False
        while not caught_up or follow:
            started = time.monotonic()
            # With a filter there is a page between any two feeds: see _PASSED_OVER.
            batch: ChangeBatch | None = None
            while (not caught_up or filter) and (batch is None or batch.pending != 0):
                batch = await self._page(since, limit, "normal", filter)
                since = batch.last_seq
                yield batch
            caught_up = True
            if follow:
                async with aclosing(self._new(since, limit, filter)) as batches:
                    async for batch in batches:
                        since = batch.last_seq
                        if batch.changes:
                            yield batch
                await asyncio.sleep(max(0.0, started + _SHORTEST_FEED - time.monotonic()))

    def _new(
        self, since: Seq, limit: int, filter: FeedFilter | None
    ) -> AsyncGenerator[ChangeBatch, None]:
        """What one feed gives, from its opening to its end."""
        if self._mode == "continuous":
            return self._continuous(since, limit, filter)
        return self._longpoll(since, limit, filter)

    async def _longpoll(
        self, since: Seq, limit: int, filter: FeedFilter | None
    ) -> AsyncGenerator[ChangeBatch, None]:
        # Another one follows at once, not after a pause, while there are changes.
        batch: ChangeBatch | None = None
        while batch is None or batch.changes:
            try:
                async with asyncio.timeout(None if filter is None else _PASSED_OVER):
                    batch = await self._page(since, limit, "longpoll", filter)
            except TimeoutError:
                return
            since = batch.last_seq
            yield batch

    async def _page(
        self, since: Seq, limit: int, feed: str, filter: FeedFilter | None
    ) -> ChangeBatch:
        answer = await self._http.request(
            "GET" if filter is None else "POST",
            self._path,
            query={**self._query(since, feed, filter), "limit": str(limit)},
            body=None if filter is None else filter.body,
            silence=self._silence if feed == "longpoll" else None,
            unbuffered=feed == "longpoll",
        )
        page = answer.json(_Page)
        changes = tuple([_change(row, self._http.where) for row in page.results])
        pending = page.pending
        if not changes or (pending is None and len(changes) < limit):
            pending = 0  # servers that do not tell it give a short page last
        return ChangeBatch(changes, page.last_seq, pending)

    async def _continuous(
        self, since: Seq, limit: int, filter: FeedFilter | None
    ) -> AsyncGenerator[ChangeBatch, None]:
        opened = time.monotonic()
        async with self._http.stream(
            self._path,
            query=self._query(since, "continuous", filter),
            body=None if filter is None else filter.body,
            silence=self._silence,
        ) as read:
            lines = _Lines(self._http.where)
            while data := await read():
                changes: list[Change] = []
                for line in lines.split(data):
                    row = _parse(line, self._http.where)
                    if row.id is None:
                        yield ChangeBatch(tuple(changes), row.last_seq, row.pending)
                        return
                    if len(changes) == limit:
                        yield ChangeBatch(tuple(changes), since)
                        changes = []
                    changes.append(_change(row, self._http.where))
                    since = row.seq
                if changes:
                    yield ChangeBatch(tuple(changes), since, 0 if lines.empty else None)
                if filter is not None and time.monotonic() - opened >= _PASSED_OVER:
                    return
        raise ConnectError(f"{self._http.where} cut the changes feed off; open it again")

    def _query(self, since: Seq, feed: str, filter: FeedFilter | None) -> dict[str, str]:
        return {
            **({} if filter is None else {"filter": filter.name}),
            "feed": feed,
            "style": "all_docs",
            "since": since if isinstance(since, str) else msgspec.json.encode(since).decode(),
            # Also for pages: a server may search long before it finds the first change.
            "heartbeat": str(max(1, round(self._heartbeat * 1000))),
        }


class _Lines:
    """Cuts a stream of bytes into lines; empty ones, the heartbeats, are left out."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._rest: list[bytes] = []
        self._size = 0

    @property
    def empty(self) -> bool:
        """Whether there is no part of a line left."""
        return not self._rest

    def split(self, data: bytes) -> Iterator[bytes]:
        *whole, rest = data.split(b"\n")
        for line in whole:
            if self._rest:
                line = b"".join([*self._rest, line])
                self._rest, self._size = [], 0
            if line.strip():
                yield line
        if rest:
            self._rest.append(rest)
            self._size += len(rest)
        if self._size > _LONGEST_LINE:
            raise TooLargeError(
                f"{self._where} sent a line of more than {_LONGEST_LINE >> 20} MiB in its changes "
                "feed; check which document has that many conflicts"
            )


def _parse(line: bytes, where: str) -> _Row:
    try:
        row = _row_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _nonsense(where, line) from None
    if row.error is not None:
        raise RemoteBusyError(
            f"{where} ended the changes feed ({one_line(row.error)}: {one_line(row.reason)}); try "
            "again later"
        )
    if row.id is None and row.last_seq is None:
        raise _nonsense(where, line)
    return row


def _change(row: _Row, where: str) -> Change:
    if row.id is None:
        raise _nonsense(where, msgspec.json.encode(row))
    return Change(row.seq, row.id, tuple([leaf.rev for leaf in row.changes]), row.deleted)


def _nonsense(where: str, line: bytes) -> NotCouchDBError:
    shown = one_line(line[:80].decode(errors="replace"))
    return NotCouchDBError(
        f"{where} sent a changes feed that cannot be read ({shown}); check the URL"
    )
