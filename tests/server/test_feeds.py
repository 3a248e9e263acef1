"""Live feeds: longpoll and continuous, how they wait, and how they end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.patience import PATIENCE, until
from tests.server.api import Api, number_in, numbered, running

PROMPT = 45.0
"""Seconds: less than after which a feed looks again by itself."""


@pytest.fixture(autouse=True)
def only_news_wake_a_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time-out is a minute, unless it is told another one."""
    monkeypatch.setattr("agent.server.changes._NOTICE", 2 * PROMPT)


async def waiting(api: Api, count: int = 1) -> None:
    """Wait until so many feeds wait for the next change."""
    store = await api.databases.get("db")
    await until(lambda: len(store._waiting) >= count)


async def longpoll(api: Api, query: str = "") -> Any:
    answer = await api.get(f"/db/_changes?feed=longpoll&{query}")
    assert answer.status == 200
    return numbered(answer.json)


async def lines(answer: Any) -> list[str]:
    """The lines that are left until the end."""
    text: str = (await answer.content.read()).decode()
    assert text.endswith("\n")
    return text.lstrip("\n").splitlines()


async def test_longpoll_answers_at_once_when_there_is_something(api: Api) -> None:
    await api.write("a")
    body = await longpoll(api)
    assert [row["id"] for row in body["results"]] == ["a"]
    assert body["last_seq"] == 1


async def test_longpoll_waits_for_the_next_change(api: Api) -> None:
    await api.write("a")
    feed = asyncio.ensure_future(longpoll(api, "since=now"))
    await waiting(api)
    assert not feed.done()
    await api.write("b")
    body = await asyncio.wait_for(feed, PROMPT)
    assert [row["id"] for row in body["results"]] == ["b"]
    assert (body["last_seq"], body["pending"]) == (2, 0)


async def test_longpoll_goes_on_waiting_for_what_the_filter_wants(api: Api) -> None:
    async def filtered() -> Any:
        path = "/db/_changes?feed=longpoll&filter=_doc_ids"
        return (await api.post(path, {"doc_ids": ["c"]})).json

    feed = asyncio.ensure_future(filtered())
    for id in ("a", "b"):
        await api.write(id)
        await asyncio.sleep(0.15)  # in which it would end
    assert not feed.done()
    await api.write("c")
    body = await asyncio.wait_for(feed, PROMPT)
    assert [row["id"] for row in body["results"]] == ["c"]


@pytest.mark.parametrize("feed", ["longpoll", "continuous"])
async def test_timeout(api: Api, feed: str) -> None:
    await api.write("a")
    start = monotonic()
    answer = await api.get(f"/db/_changes?feed={feed}&since=1&timeout=200")
    assert 0.19 <= monotonic() - start < 50  # and not the default, a minute
    expected = {"last_seq": 1, "pending": 0}
    assert numbered(answer.json) == (
        expected if feed == "continuous" else {"results": [], **expected}
    )


@pytest.mark.parametrize("feed", ["longpoll", "continuous"])
async def test_heartbeats_are_line_breaks_and_outlive_the_timeout(api: Api, feed: str) -> None:
    query = f"feed={feed}&since=now&heartbeat=30&timeout=50"
    async with api.open("GET", f"/db/_changes?{query}") as answer:
        if feed == "longpoll":
            assert await answer.content.readline() == b'{"results":[\n'
        for _ in range(5):
            line = await asyncio.wait_for(answer.content.readline(), PROMPT)
            assert line == b"\n"
        await api.write("a")
        line = b"\n"
        while line == b"\n":
            line = await asyncio.wait_for(answer.content.readline(), PROMPT)
        assert json.loads(line.rstrip(b",\n"))["id"] == "a"


async def test_heartbeat_true_means_the_default(api: Api) -> None:
    feed = asyncio.ensure_future(longpoll(api, "heartbeat=true"))
    await waiting(api)
    await api.write("a")
    assert (await asyncio.wait_for(feed, PROMPT))["last_seq"] == 1


async def test_continuous_gives_changes_as_they_come(api: Api) -> None:
    await api.write("a")
    path = "/db/_changes?feed=continuous&include_docs=true&heartbeat=5000"
    async with api.open("GET", path) as answer:
        for id in ("a", "b", "c"):
            if id != "a":
                await api.write(id, v=id)
            row = json.loads(await asyncio.wait_for(answer.content.readline(), PROMPT))
            assert row["id"] == id
            assert row["doc"]["_id"] == id


async def test_continuous_ends_with_its_limit(api: Api) -> None:
    for id in ("a", "b", "c"):
        await api.write(id)
    async with api.open("GET", "/db/_changes?feed=live&limit=2") as answer:
        *rows, end = map(json.loads, await lines(answer))
    assert [row["id"] for row in rows] == ["a", "b"]
    assert numbered(end) == {"last_seq": 2, "pending": 1}


async def test_many_feeds_get_every_change(api: Api) -> None:
    async def follow() -> list[str]:
        path = "/db/_changes?feed=continuous&limit=50"
        async with api.open("GET", path) as answer:
            *rows, _ = map(json.loads, await lines(answer))
        return [row["id"] for row in rows]

    feeds = [asyncio.ensure_future(follow()) for _ in range(10)]
    await waiting(api, 10)
    expected = [str(number) for number in range(50)]
    for id in expected:
        await api.write(id)
    assert await asyncio.gather(*feeds) == [expected] * 10


@pytest.mark.parametrize("feed", ["longpoll", "continuous"])
async def test_feeds_end_when_the_database_is_deleted(api: Api, feed: str) -> None:
    await api.write("a")
    path = f"/db/_changes?feed={feed}&since=1&heartbeat=60000"
    request = asyncio.ensure_future(api.get(path))
    await waiting(api)
    await api.delete("/db")
    answer = await asyncio.wait_for(request, PROMPT)
    assert number_in(answer.json["last_seq"]) == 1


@pytest.mark.parametrize("feed", ["longpoll", "continuous"])
async def test_feeds_end_properly_when_the_server_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feed: str
) -> None:
    monkeypatch.setattr("agent.server.http._GRACE", 2 * PATIENCE)  # for what does not end by itself
    async with running(tmp_path) as api:
        await api.put("/db")
        await api.write("a")
        path = f"/db/_changes?feed={feed}&since=1&heartbeat=60000"
        request = asyncio.ensure_future(api.get(path))
        await waiting(api)
        async with asyncio.timeout(PROMPT):
            await api.server.close()
            answer = await request
    assert number_in(answer.json["last_seq"]) == 1


async def test_a_client_that_leaves_ends_its_feed(api: Api) -> None:
    store = await api.databases.get("db")
    async with api.open("GET", "/db/_changes?feed=continuous&heartbeat=20") as answer:
        assert await answer.content.readline() == b"\n"
        assert store._waiting
        answer.close()
    await until(lambda: not store._waiting)


# --- eventsource -----------------------------------------------------------------------


async def event(answer: Any) -> list[str]:
    """The lines of the next event."""
    found: list[str] = []
    while True:
        line = (await asyncio.wait_for(answer.content.readline(), PROMPT)).decode()
        if line != "\n":
            found.append(line.rstrip("\n"))
        elif found:
            return found


async def test_eventsource(api: Api) -> None:
    await api.write("a")
    async with api.open("GET", "/db/_changes?feed=eventsource&heartbeat=5000") as answer:
        assert answer.content_type == "text/event-stream"
        for seq, id in enumerate("abc", 1):
            if id != "a":
                await api.write(id)
            data, event_id = await event(answer)
            row = json.loads(data.removeprefix("data: "))
            assert (row["id"], number_in(row["seq"])) == (id, seq)
            assert event_id == f'id: "{row["seq"]}"'


async def test_heartbeats_of_an_eventsource_are_events(api: Api) -> None:
    async with api.open("GET", "/db/_changes?feed=eventsource&heartbeat=30") as answer:
        for _ in range(3):
            assert await event(answer) == ["event: heartbeat", "data: "]


async def test_an_eventsource_goes_on_from_its_last_event(api: Api) -> None:
    for id in "abc":
        await api.write(id)
    path = "/db/_changes?feed=eventsource&since=0&timeout=50"
    text = (await api.get(path)).text
    *_, second, third, rest = text.split("\n\n")
    assert (second.count('"id":"b"'), third.count('"id":"c"'), rest) == (1, 1, "")
    for last in ("2", second.rpartition("id: ")[2]):
        answer = await api.get(path, headers={"Last-Event-ID": last})
        assert answer.text == f"{third}\n\n"


# --- many ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 0), (100_000, 2)],
    ids=["what is in memory is not read", "once with bodies, once without"],
)
async def test_followers_share_one_read(
    api: Api, monkeypatch: pytest.MonkeyPatch, size: int, expected: int
) -> None:
    store = await api.databases.get("db")
    reads = 0
    changes = store.changes

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal reads
        reads += 1
        return await changes(*args, **options)

    monkeypatch.setattr(store, "changes", counted)

    async def follow(query: str) -> Any:
        path = f"/db/_changes?feed=continuous&since=now&limit=1{query}"
        async with api.open("GET", path) as answer:
            return json.loads((await lines(answer))[0])

    plain = [asyncio.ensure_future(follow("")) for _ in range(40)]
    whole = [asyncio.ensure_future(follow("&include_docs=true")) for _ in range(40)]
    await waiting(api, 80)
    reads = 0
    await api.write("a", v=1, text="x" * size)
    rows = await asyncio.wait_for(asyncio.gather(*plain), PROMPT)
    docs = await asyncio.wait_for(asyncio.gather(*whole), PROMPT)
    assert reads == expected
    assert all(row == rows[0] and "doc" not in row for row in rows)
    assert all(row["doc"]["v"] == 1 for row in docs)


async def test_a_follower_that_leaves_takes_nothing_from_the_others(api: Api) -> None:
    feeds = [asyncio.ensure_future(longpoll(api, "since=now")) for _ in range(6)]
    await waiting(api, 6)
    write = asyncio.ensure_future(api.write("a"))
    for feed in feeds[:3]:
        feed.cancel()
    await write
    answers = await asyncio.wait_for(asyncio.gather(*feeds[3:]), PROMPT)
    assert [[row["id"] for row in answer["results"]] for answer in answers] == [["a"]] * 3
