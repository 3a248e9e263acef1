"""What a body may take of memory: parsed, a few bytes may become a hundred times as many."""

from __future__ import annotations

import asyncio
import gzip
import io
import time
from typing import Any

import pytest

from agent.documents.revision import first_revision
from agent.errors import RemoteBusyError
from agent.peers.couchdb import CouchPeer
from agent.server import bodies
from tests.server.api import Answer, Api

MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}


async def send(api: Api, method: str, path: str, body: bytes) -> Answer:
    return await api.request(method, path, data=io.BytesIO(body), headers=JSON)


def many(item: bytes, count: int) -> bytes:
    return b",".join([item] * count)


@pytest.mark.parametrize(
    "body",
    [
        b'{"docs":[{"a":[' + many(b"{}", 600_000) + b"]}]}",
        b'{"docs":[{"a":[' + many(b"0", 1_000_100) + b"]}]}",
        b'{"docs":[{"a":[' + many(b'"\\",\\""', 1_000_100) + b"]}]}",
        b'{"docs":["' + b"," * 1_000_100 + b'",' + b'""' * 3_000_000 + b"]}",
    ],
    ids=["objects", "numbers", "texts", "texts with nothing between"],
)
async def test_a_body_of_too_many_values_is_refused(api: Api, body: bytes) -> None:
    answer = await send(api, "POST", "/db/_bulk_docs", body)
    assert answer.status == 413
    assert answer.json == {
        "error": "too_large",
        "reason": "the request has more than 1,000,000 values; send less",
    }


async def test_commas_in_a_text_are_no_values(api: Api) -> None:
    text = '\\"1,2,[3],{' * 400_000
    data = f'{{"table":"{text}"}}'.encode()
    assert (await send(api, "PUT", "/db/x", data)).status == 201
    assert (await api.get("/db/x")).json["table"].count(",") == 1_200_000


async def test_a_text_that_is_not_closed_takes_no_time(api: Api) -> None:
    """Looked through from each of its quotes, this would take an hour of the processor."""
    body = b'{"a":"' + b'\\"' * 400_000 + b"," * 1_000_100
    assert (await send(api, "POST", "/db/_find", body)).status == 400


async def test_too_many_documents_at_once(api: Api) -> None:
    body = b'{"docs":[' + many(b"{}", 50_001) + b"]}"
    answer = await send(api, "POST", "/db/_bulk_docs", body)
    assert (answer.status, answer.json["reason"]) == (413, "more than 50,000 documents; send less")
    assert (await api.get("/db")).json["doc_count"] == 0


@pytest.mark.parametrize(
    ("path", "size"),
    [("/db/_revs_diff", 16 * MIB), ("/db/_all_docs", 4 * MIB), ("/db/_find", 4 * MIB)],
)
async def test_what_writes_nothing_has_a_smaller_limit(api: Api, path: str, size: int) -> None:
    answer = await send(api, "POST", path, b" " * (size + 1) + b"{}")
    assert answer.status == 413
    assert (await send(api, "POST", path, b" " * (size - 99) + b"{}")).status != 413


async def test_all_bodies_together_have_a_limit(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_HELD", 3 * MIB)
    body = b'{"text":"' + b"x" * (2 * MIB) + b'"}'
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly():  # type: ignore[no-untyped-def]
        yield body[:-100]
        begun.set()
        await go_on.wait()
        yield body[-100:]

    first = asyncio.create_task(api.request("PUT", "/db/a", data=slowly(), headers=JSON))
    await begun.wait()
    while (answer := await send(api, "PUT", "/db/b", body)).status == 201:
        body = body.replace(b"{", b"{ ")  # what was sent may not have arrived yet
    assert answer.status == 503
    assert answer.json["reason"] == "other requests take all the room; try again later"
    assert 1 <= int(answer.headers["Retry-After"]) <= 5
    peer = CouchPeer.from_url(f"{api.url}/db")
    with pytest.raises(RemoteBusyError) as refused:
        await peer.store([first_revision("d", {"text": "x" * (2 * MIB)})])
    await peer.close()
    assert refused.value.retry_after in range(1, 6)
    go_on.set()
    assert (await first).status == 201
    assert (await send(api, "PUT", "/db/c", b'{"text":""}')).status == 201


async def test_what_small_bodies_unpack_to_is_bounded_too(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is known how much that is: a thousandth of it comes over the network."""
    under_way, most = 0, 0

    def decompressed(*arguments: Any) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            time.sleep(0.01)  # so that others come meanwhile
            return unpack(*arguments)
        finally:
            under_way -= 1

    unpack = bodies._decompressed
    monkeypatch.setattr(bodies, "_decompressed", decompressed)
    body = gzip.compress(b'{"text":"' + b"x" * MIB + b'"}')
    headers = {**JSON, "Content-Encoding": "gzip"}
    sent = (api.request("PUT", f"/db/{n}", data=body, headers=headers) for n in range(8))
    assert {answer.status for answer in await asyncio.gather(*sent)} == {201}
    assert most == 1


async def test_large_bodies_have_their_turn(api: Api) -> None:
    """More than are dealt with at the same time; one that fails gives its turn back."""
    good = b'{"text":"' + b"x" * (2 * MIB) + b'"}'
    bad = good[:-1]
    for _ in range(2):
        answers = await asyncio.gather(
            *(send(api, "PUT", f"/db/{n}", bad if n % 2 else good) for n in range(8))
        )
        assert {answer.status for answer in answers[1::2]} == {400}
        assert {answer.status for answer in answers[::2]} <= {201, 409}
