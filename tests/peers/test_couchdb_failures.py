"""CouchPeer and answers that no server should give.

What works against a real server is in test_couchdb_client.py.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from agent.documents.revision import Revision
from agent.errors import (
    ConnectError,
    EdgeAgentError,
    NotCouchDBError,
    RemoteBusyError,
    TooLargeError,
)
from agent.peers import changes_feed, couchdb_documents
from agent.peers.changes_feed import FeedMode
from agent.peers.peer import START, WriteResult
from tests.peers.pouchdb_server import PouchDBServer
from tests.peers.stand_ins import Handler, Serve, answering, answering_json
from tests.peers.test_couchdb_client import ALL, LEFT, named

# --- changes --------------------------------------------------------------------------------------


def row(n: int) -> dict[str, Any]:
    return {"seq": f"{n}-g1AAA", "id": f"d{n}", "changes": [{"rev": "1-a"}, {"rev": "1-b"}]}


async def test_opaque_sequences_are_handed_back_as_they_came(serve: Serve) -> None:
    """Stands in for Cloudant, whose sequences are strings, and for BigCouch, with arrays."""
    asked = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.query["since"])
        assert request.query["style"] == "all_docs"
        answers = {"0": "2-g+/=", "2-g+/=": [3, "x y"], '[3,"x y"]': [3, "x y"]}
        results = [] if asked[-1].startswith("[") else [row(1), row(2)]
        return web.json_response({"results": results, "last_seq": answers[asked[-1]]})

    peer = await serve(handler)
    batches = [batch async for batch in peer.changes(START, follow=False, limit=2)]
    assert asked == ["0", "2-g+/=", '[3,"x y"]']
    assert [batch.last_seq for batch in batches] == ["2-g+/=", [3, "x y"], [3, "x y"]]
    assert batches[0].changes[0].revs == ("1-a", "1-b")


async def test_pending_tells_that_there_is_more(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        n = int(request.query["since"])
        return web.json_response({"results": [row(n)], "last_seq": n + 1, "pending": 2 - n})

    peer = await serve(handler)
    batches = [batch async for batch in peer.changes(START, follow=False, limit=9)]
    assert [batch.pending for batch in batches] == [2, 1, 0]


def feed(*pieces: bytes | float, pages: Any = None) -> Handler:
    """Answers pages with `pages` and a feed with `pieces`; a number is a wait in seconds."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.query["feed"] == "normal":
            return web.json_response(pages or {"results": [], "last_seq": 0})
        assert request.headers["Accept-Encoding"] == "identity"
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            if isinstance(piece, bytes):
                await response.write(piece)
            else:
                await asyncio.sleep(piece)
        return response

    return handler


async def test_lines_are_taken_together_as_they_have_arrived(serve: Serve) -> None:
    lines = b"".join(
        b'{"seq":%d,"id":"d%d","changes":[{"rev":"1-a"}]}\n' % (n, n) for n in range(5)
    )
    pieces: list[bytes | float] = [
        b"\n",
        lines[:-10],
        0.2,
        lines[-10:],
        b"\n\n",
        0.2,
        lines[:50],
        30.0,
    ]
    peer = await serve(feed(*pieces))
    got = []
    async with aclosing(peer.changes(START, follow=True, limit=3)) as batches:
        async for batch in batches:
            got.append(([change.id for change in batch.changes], batch.last_seq, batch.pending))
            if len(got) == 5:
                break
    assert got == [
        ([], 0, 0),  # the pages
        (["d0", "d1", "d2"], 2, None),
        (["d3"], 3, None),  # a part of another line had arrived
        (["d4"], 4, 0),
        (["d0"], 0, None),
    ]


@pytest.mark.parametrize("mode", ["continuous", "longpoll"])
async def test_a_feed_that_falls_silent_is_given_up(serve: Serve, mode: FeedMode) -> None:
    peer = await serve(feed(b"\n", 0.1, b"\n", 0.1, b"\n", 3600.0), feed=mode, heartbeat=0.2)
    async with aclosing(peer.changes(START, follow=True, limit=3)) as batches:
        await anext(batches)
        started = time.monotonic()
        with pytest.raises(ConnectError, match="does not answer"):
            await anext(batches)
    assert 0.6 < time.monotonic() - started < 30  # with the default heartbeat: 75 s


async def test_a_feed_that_ends_goes_on_from_its_last_seq(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_feed, "_SHORTEST_FEED", 0.2)
    asked = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.query["feed"] == "normal":
            return web.json_response({"results": [], "last_seq": "5-x", "pending": 0})
        asked.append(request.query["since"])
        if len(asked) == 3:
            line = '{"seq":"7-x","id":"d","changes":[{"rev":"2-a"}],"deleted":true}\n'
            return web.Response(text=line + '{"last_seq":"8-x","pending":0}\n')
        return web.Response(text='\n{"last_seq":"6-x","pending":0}\n')

    peer = await serve(handler)
    started = time.monotonic()
    async with aclosing(peer.changes(START, follow=True, limit=3)) as batches:
        await anext(batches)
        batch = await anext(batches)
    assert asked == ["5-x", "6-x", "6-x"]
    assert time.monotonic() - started > 0.35  # it does not ask in a tight loop
    assert (batch.last_seq, batch.pending, batch.changes[0].deleted) == ("8-x", 0, True)


@pytest.mark.parametrize(
    ("pieces", "kind", "words"),
    [
        ([b'{"error":"timeout","reason":"shard"}\n'], RemoteBusyError, "timeout: shard"),
        ([b"<html>\n"], NotCouchDBError, "cannot be read .<html>"),
        ([b"{}\n"], NotCouchDBError, "cannot be read"),
        ([b'{"seq":1}\n'], NotCouchDBError, "cannot be read"),
        ([b"[" * 5000 + b"\n"], NotCouchDBError, "cannot be read"),
        ([b"\n"], ConnectError, "cut the changes feed off"),
        ([b'{"seq":1,"id":'], ConnectError, "cut the changes feed off"),
        ([b"x" * 70_000], TooLargeError, "line of more than"),
    ],
)
async def test_a_feed_that_goes_wrong(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    pieces: list[bytes],
    kind: type[EdgeAgentError],
    words: str,
) -> None:
    monkeypatch.setattr(changes_feed, "_LONGEST_LINE", 60_000)
    peer = await serve(feed(*pieces))
    async with aclosing(peer.changes(START, follow=True, limit=3)) as batches:
        await anext(batches)
        with pytest.raises(kind, match=words):
            await anext(batches)


async def test_a_page_with_a_row_without_an_id(serve: Serve) -> None:
    peer = await serve(answering_json({"results": [{"seq": 1, "changes": []}], "last_seq": 1}))
    with pytest.raises(NotCouchDBError, match="cannot be read"):
        await anext(peer.changes(START, follow=False, limit=3))


# --- documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 405, 501, 400])
async def test_without_bulk_get_documents_are_fetched_one_by_one(
    serve: Serve, shared_pouchdb_server: PouchDBServer, status: int
) -> None:
    """A real server behind a proxy that does not know _bulk_get and no long URLs."""
    asked = []

    async with aiohttp.ClientSession() as session:

        async def proxy(request: web.Request) -> web.Response:
            asked.append(request.raw_path)
            if request.path.endswith("_bulk_get"):
                return web.json_response({"error": "not_found", "reason": "missing"}, status=status)
            if len(request.raw_path) > 120:
                return web.Response(status=414)
            url = URL(shared_pouchdb_server.url + request.raw_path, encoded=True)
            async with session.request(
                request.method,
                url,
                data=await request.read(),
                headers={"Content-Type": "application/json", "Accept": "application/json"},
            ) as response:
                return web.json_response(await response.json(), status=response.status)

        peer = await serve(proxy, path=f"/no-bulk-get-{status}")
        await peer.create()
        await peer.store(ALL)
        for _ in range(2):
            wanted = [*named(ALL), ("z", ["1-z"])]
            wanted[0][1].append("7-unknown")
            assert sorted(await peer.fetch(wanted), key=repr) == sorted(ALL, key=repr)
        bulk = [path for path in asked if "_bulk_get" in path]
        assert len(bulk) == (2 if status == 400 else 1)
        assert any(path.startswith(f"/no-bulk-get-{status}/_design/d?") for path in asked)
        many = [f"1-{n:032}" for n in range(200)]
        assert await peer.fetch([("x", ["2-bb", *many])]) == [LEFT]
        long = "9-" + "a" * 120
        (refused,) = await peer.fetch([("x", [long])])
        assert refused == WriteResult("x", long, "request_uri_too_long", "The URL is too long")


def bulk_get(*items: tuple[str, Any]) -> Handler:
    return answering_json({"results": [{"id": id, "docs": [item]} for id, item in items]})


async def test_errors_of_single_documents(serve: Serve) -> None:
    """The shapes are CouchDB's; `not_found` is the only one that means gone."""

    def error(word: str) -> dict[str, Any]:
        return {"error": {"id": "x", "rev": "1-a", "error": word, "reason": "why"}}

    wanted = [("x", ["1-a"])]
    peer = await serve(bulk_get(("x", error("not_found"))))
    assert await peer.fetch(wanted) == []
    peer = await serve(bulk_get(("x", error("forbidden"))))
    assert await peer.fetch(wanted) == [WriteResult("x", "1-a", "forbidden", "why")]
    peer = await serve(bulk_get(("x", error("timeout"))))
    with pytest.raises(RemoteBusyError, match=r"document 'x' \(timeout: why\); try again"):
        await peer.fetch(wanted)
    peer = await serve(bulk_get(("x", {})))
    with pytest.raises(NotCouchDBError, match="neither gave nor refused document 'x'"):
        await peer.fetch(wanted)
    peer = await serve(bulk_get())
    with pytest.raises(NotCouchDBError, match="left 1 of 1 revisions unanswered"):
        await peer.fetch(wanted)


@pytest.mark.parametrize(
    ("body", "status", "results"),
    [
        ([], 201, [None, None]),
        ([], 202, [None, None]),
        (
            [{"id": "x", "rev": "2-cc", "error": "forbidden", "reason": "no"}],
            201,
            [None, "forbidden"],
        ),
        ([{"id": "x", "error": "forbidden", "reason": "no"}], 201, ["forbidden", "forbidden"]),
        ([{"ok": True, "id": "x", "rev": "2-bb"}, {"ok": True, "id": "x"}], 201, [None, None]),
    ],
)
async def test_results_of_writing(
    serve: Serve, body: Any, status: int, results: list[str | None]
) -> None:
    peer = await serve(answering_json(body, status=status))
    written = await peer.store(ALL[:2])
    assert [(result.rev, result.error) for result in written] == [
        ("2-bb", results[0]),
        ("2-cc", results[1]),
    ]


async def test_results_of_writing_that_cannot_be_believed(serve: Serve) -> None:
    peer = await serve(answering_json([{"id": "x", "error": "internal_server_error"}], status=201))
    with pytest.raises(RemoteBusyError, match="out of order for document 'x'"):
        await peer.store([LEFT])
    peer = await serve(answering_json([{"id": "q", "error": "forbidden"}], status=201))
    with pytest.raises(NotCouchDBError, match="refused document 'q', which was not sent"):
        await peer.store([LEFT])


async def test_an_answer_that_is_too_large(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def text(size: int) -> str:
        return '{"results":[{"id":"x","docs":[{"ok":{"_id":"x","_rev":"1-a","v":"%s"}}]}]}' % (
            "v" * size
        )

    monkeypatch.setattr(couchdb_documents, "ANSWER_LIMIT", 400_000)
    monkeypatch.setattr(couchdb_documents, "_ONE_DOCUMENT_LIMIT", 800_000)
    many = bulk_get(*[(f"d{n}", {"ok": {"_id": f"d{n}", "_rev": "1-a"}}) for n in range(3000)])
    peer = await serve(many)  # long enough to be decoded in a thread
    assert len(await peer.fetch([(f"d{n}", ["1-a"]) for n in range(3000)])) == 3000
    for size, revs in ((500_000, ["1-a", "1-b"]), (900_000, ["1-a"])):
        peer = await serve(answering(text=text(size)))
        with pytest.raises(TooLargeError, match="ask for less at once"):
            await peer.fetch([("x", revs)])
    peer = await serve(answering(text=text(500_000)))
    (found,) = await peer.fetch([("x", ["1-a"])])
    assert isinstance(found, Revision)
    assert len(found.body) == 500_008

    async def compressed(_: web.Request) -> web.Response:
        response = web.Response(text=text(50_000_000))
        response.enable_compression(web.ContentCoding.gzip)
        return response

    peer = await serve(compressed)  # 50 MB in 50 KB
    with pytest.raises(TooLargeError):
        await peer.fetch([("x", ["1-a"])])


async def test_a_server_without_ensure_full_commit_is_asked_for_its_info(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path.endswith("_ensure_full_commit"):
            return web.json_response({"error": "not_found", "reason": "missing"}, status=404)
        return web.json_response({"update_seq": 1, "instance_start_time": 1234})

    peer = await serve(handler)
    assert await peer.ensure_full_commit() == "1234"
    peer = await serve(answering_json({"ok": True, "instance_start_time": "0"}, status=201))
    assert await peer.ensure_full_commit() == "0"


def test_ids_are_quoted_as_one_segment() -> None:
    assert couchdb_documents.document_path("a/b?&") == quote("a/b?&", safe="")
    assert couchdb_documents.document_path("_design/a/b") == "_design/a%2Fb"
