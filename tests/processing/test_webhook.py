"""A hook and a real HTTP receiver: what arrives, in which order, and what becomes of failures."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.documents.revision import first_revision
from agent.processing.dead_letters import DeadLetters
from agent.processing.hook import State
from agent.store.store import Store
from tests.patience import until
from tests.processing.hooks import documents, hooked, opened, write
from tests.processing.receiver import Receiver, receiving
from tests.server.certificates import self_signed


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def test_what_a_receiver_gets(receiver: Receiver, tmp_path: Path) -> None:
    async with opened(tmp_path) as (databases, store):
        rev = await write(store, "a/\u00e9", type="alarm", value=3.5)
        await write(store, "b", type="reading")
        async with hooked(databases, url=receiver.url, selector={"type": "alarm"}) as hook:
            await until(lambda: len(receiver.calls) == 1)
            await until(lambda: hook.state is State.LIVE)
            gone = await write(store, "a/\u00e9", rev, deleted=True, type="alarm")
            await until(lambda: hook.processed == 2)
            assert await hook.pending() == 0
    first, second = receiver.calls
    assert first.json == {
        "hook": "test",
        "database": "edge",
        "key": f"test:1-{store.incarnation}",
        "seq": f"1-{store.incarnation}",
        "id": "a/\u00e9",
        "rev": str(rev),
        "deleted": False,
        "doc": {"_id": "a/\u00e9", "_rev": str(rev), "type": "alarm", "value": 3.5},
    }
    assert first.headers["Content-Type"] == "application/json"
    assert first.headers["Idempotency-Key"] == f'"test:1-{store.incarnation}"'
    assert "Authorization" not in first.headers
    assert (second.json["deleted"], second.json["rev"]) == (True, str(gone))
    assert second.json["doc"]["_deleted"] is True


async def test_all_of_them_in_order_and_none_twice(receiver: Receiver, tmp_path: Path) -> None:
    expected = documents(250)
    async with opened(tmp_path) as (databases, store):
        await store.graft(expected[:200])
        async with hooked(databases, url=receiver.url) as hook:
            await store.graft(expected[200:])
            await until(lambda: hook.processed == 250)
        async with hooked(databases, url=receiver.url) as again:
            await until(lambda: again.state is State.LIVE)
    assert receiver.taken == [revision.id for revision in expected]


async def test_what_comes_while_a_new_hook_starts_counts(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has been told that the agent runs writes at once."""
    load, written = DeadLetters.load, asyncio.Event()

    async def load_late(letters: DeadLetters, store: Store) -> None:
        await written.wait()
        await load(letters, store)

    monkeypatch.setattr(DeadLetters, "load", load_late)
    async with opened(tmp_path) as (databases, store):
        await write(store, "before")
        async with hooked(databases, url=receiver.url, start="now"):
            await write(store, "at once")
            written.set()
            await write(store, "later")
            await until(lambda: "later" in receiver.taken)
    assert receiver.taken == ["at once", "later"]


async def test_a_batch_is_an_array(receiver: Receiver, tmp_path: Path) -> None:
    async with opened(tmp_path) as (databases, store):
        await store.graft(documents(25))
        async with hooked(databases, url=receiver.url, batch=10):
            await until(lambda: len(receiver.taken) == 25)
    assert [len(call.json) for call in receiver.calls] == [10, 10, 5]
    assert len({call.headers["Idempotency-Key"] for call in receiver.calls}) == 3


async def test_log_in_and_signature(receiver: Receiver, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("shared secret\n")
    async with opened(tmp_path / "data") as (databases, store):
        await store.graft(documents(1))
        basic = {"user": "gateway", "password": "sesame", "signing_key_file": str(key_file)}
        async with hooked(databases, url=receiver.url, **basic):
            await until(lambda: len(receiver.calls) == 1)
        token = {"name": "other", "auth": "bearer", "password": "token-1"}
        async with hooked(databases, url=receiver.url, **token):
            await until(lambda: len(receiver.calls) == 2)
    first, second = receiver.calls
    assert first.headers["Authorization"] == "Basic " + base64.b64encode(b"gateway:sesame").decode()
    digest = hmac.new(b"shared secret", first.body, hashlib.sha256).hexdigest()
    assert first.headers["X-Hub-Signature-256"] == f"sha256={digest}"
    assert second.headers["Authorization"] == "Bearer token-1"
    assert "X-Hub-Signature-256" not in second.headers


async def test_over_tls(tmp_path: Path) -> None:
    certificate, key = await asyncio.to_thread(self_signed, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    receiver = Receiver()
    await receiver.start(context)
    url = receiver.url.replace("http:", "https:")
    async with opened(tmp_path / "data") as (databases, store):
        await store.graft(documents(1))
        async with hooked(databases, url=url, retry_cap=60) as untrusting:
            await until(lambda: untrusting.state is State.FAILED)
            assert "certificate does not verify" in (untrusting.last_error or "")
            assert not receiver.calls
        async with hooked(databases, url=url, ca_file=str(certificate)):
            await until(lambda: len(receiver.taken) == 1)
    await receiver.stop()


# --- failures --------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
async def test_a_receiver_that_is_out_of_order_holds_all(
    status: int, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answer = lambda _: status
    async with opened(tmp_path) as (databases, store):
        await store.graft(documents(3))
        async with hooked(databases, url=receiver.url, attempts=2) as hook:
            await until(lambda: len(receiver.calls) >= 6)
            assert {*(id for call in receiver.calls for id in call.ids)} == {"doc:0"}
            assert hook.dead() == []
            assert f"is busy or out of order ({status} no)" in (hook.last_error or "")
            assert "hidden" not in (hook.last_error or "")
            receiver.answer = lambda _: 200
            await until(lambda: receiver.taken == ["doc:0", "doc:1", "doc:2"])
            await until(lambda: hook.processed == 3)
            assert hook.last_error is None
            assert hook.failures >= 6
            assert hook.dead() == []
    keys = {call.headers["Idempotency-Key"] for call in receiver.calls if call.ids == ["doc:0"]}
    assert len(keys) == 1


async def test_a_receiver_that_is_away_is_shown_and_waited_for(tmp_path: Path) -> None:
    receiver = Receiver()
    async with opened(tmp_path) as (databases, store):
        await store.graft(documents(2))
        async with hooked(databases, url=receiver.url) as hook:
            await until(lambda: hook.failures >= 3)
            await until(lambda: hook.state is State.WAITING)
            assert hook.retry_at is not None
            assert "cannot be reached" in (hook.last_error or "")
            assert await hook.pending() == 2
            await receiver.start()
            await until(lambda: receiver.taken == ["doc:0", "doc:1"])
    await receiver.stop()


async def test_what_a_receiver_asks_to_wait_is_waited(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answer = lambda _: (503, {"Retry-After": "1000"})
    async with opened(tmp_path) as (databases, store):
        await store.graft(documents(1))
        async with hooked(databases, url=receiver.url) as hook:
            begun = time.time()
            await until(lambda: hook.state is State.WAITING)
            assert hook.retry_at is not None
            assert hook.retry_at >= begun + 1000
            receiver.answer = lambda _: 200
            hook.retry(None)  # somebody knows better
            await until(lambda: receiver.taken == ["doc:0"])


@pytest.mark.parametrize("status", [400, 409, 413, 422])
async def test_a_document_that_is_refused_does_not_hold_up_the_rest(
    status: int, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answer = lambda change: status if change["id"] == "doc:1" else 200
    async with opened(tmp_path) as (databases, store):
        await store.graft(documents(3))
        async with hooked(databases, url=receiver.url) as hook:
            await until(lambda: receiver.taken == ["doc:0", "doc:2"])
            assert len(receiver.calls) == 3
            [letter] = hook.dead()
            assert (letter["id"], letter["attempts"]) == ("doc:1", 1)
            assert letter["rev"] == receiver.calls[1].json["rev"]
            assert f"refuses this ({status} no)" in letter["error"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "check the hook's user and password"),
        (403, "check the hook's user and password"),
        (404, "check the hook's url"),
        (410, "check the hook's url"),
        (302, "redirects"),
    ],
)
async def test_what_is_wrong_with_the_hook_is_no_fault_of_a_document(
    status: int, words: str, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answer = lambda _: (status, {"Location": "/elsewhere"} if status == 302 else {})
    async with opened(tmp_path) as (databases, store):
        await store.graft(documents(2))
        async with hooked(databases, url=receiver.url) as hook:
            await until(lambda: hook.state is State.FAILED)
            assert words in (hook.last_error or "")
            assert hook.dead() == []
            receiver.answer = lambda _: 200
            await until(lambda: receiver.taken == ["doc:0", "doc:1"])


async def test_the_one_that_is_to_blame_in_a_batch_is_found(
    receiver: Receiver, tmp_path: Path
) -> None:
    def answer(changes: list[dict[str, Any]]) -> int:
        return 422 if any(change["id"] == "doc:17" for change in changes) else 200

    receiver.answer = answer
    async with opened(tmp_path) as (databases, store):
        await store.graft(documents(40))
        async with hooked(databases, url=receiver.url, batch=20) as hook:
            await until(lambda: len(receiver.taken) == 39)
            await until(lambda: hook.state is State.LIVE)
            assert [letter["id"] for letter in hook.dead()] == ["doc:17"]
    assert receiver.taken == [f"doc:{number}" for number in range(40) if number != 17]
    assert len(receiver.calls) < 25


# --- dead letters ----------------------------------------------------------------------


async def test_dead_letters_survive_and_can_be_tried_again(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answer = lambda change: 422 if change["doc"]["n"] < 3 else 200
    async with opened(tmp_path) as (databases, store):
        await store.graft(documents(4))
        async with hooked(databases, url=receiver.url) as hook:
            await until(lambda: hook.processed == 1)
            before = hook.dead()
    async with (
        opened(tmp_path) as (databases, store),
        hooked(databases, url=receiver.url) as hook,
    ):
        await until(lambda: hook.state is State.LIVE)
        assert hook.dead() == before
        assert [letter["id"] for letter in before] == ["doc:0", "doc:1", "doc:2"]
        assert await hook.drop(["doc:1", "none"]) == 1
        receiver.answer = lambda change: 422 if change["id"] == "doc:2" else 200
        assert hook.retry(None) == 2
        await until(lambda: [(e["id"], e["attempts"]) for e in hook.dead()] == [("doc:2", 2)])
        assert hook.last_error is None  # it waits for nothing
    assert receiver.taken == ["doc:3", "doc:0"]
    async with (
        opened(tmp_path) as (databases, store),
        hooked(databases, url=receiver.url) as hook,
    ):
        await until(lambda: hook.state is State.LIVE)
        assert [letter["id"] for letter in hook.dead()] == ["doc:2"]


async def test_what_is_forgotten_is_not_tried_again_after_all(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answer = lambda _: 422
    async with opened(tmp_path) as (databases, store):
        await store.graft(documents(2))
        async with hooked(databases, url=receiver.url, retry_cap=0.1) as hook:
            await until(lambda: len(hook.letters) == 2)
            receiver.answer = lambda change: 200 if change["id"] == "later" else 503
            hook.retry(None)
            await until(lambda: hook.state is State.WAITING)  # for doc:0; doc:1 has its turn next
            assert await hook.drop(None) == 2
            await write(store, "later")
            await until(lambda: hook.processed == 1)
            assert hook.last_error is None
    assert receiver.taken == ["later"]
    assert "doc:1" not in [id for call in receiver.calls if call.status == 503 for id in call.ids]


async def test_what_is_forgotten_during_a_call_is_not_given_up_again(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answer = lambda _: 422
    async with opened(tmp_path) as (databases, store):
        await store.graft(documents(1))
        async with hooked(databases, url=receiver.url) as hook:
            await until(lambda: len(hook.letters) == 1)
            forgetting: list[asyncio.Task[int]] = []

            def refused(change: Any) -> int:
                if change["id"] == "later":
                    return 200
                forgetting.append(asyncio.create_task(hook.drop(None)))
                return 422

            receiver.answer = refused
            hook.retry(None)
            await until(lambda: forgetting)
            assert await forgetting[0] == 1
            await write(store, "later")
            await until(lambda: hook.processed == 1)
            assert hook.dead() == []


async def test_a_later_change_that_goes_through_settles_it(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answer = lambda change: 200 if change["doc"].get("good") else 422
    async with opened(tmp_path) as (databases, store):
        rev = await write(store, "order", good=False)
        async with hooked(databases, url=receiver.url) as hook:
            await until(lambda: len(hook.letters) == 1)
            await write(store, "order", rev, good=True)
            await until(lambda: hook.processed == 1)
            assert hook.dead() == []


async def test_a_full_list_holds_the_hook_and_loses_nothing(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.processing.dead_letters.MOST", 3)
    receiver.answer = lambda _: 422
    async with opened(tmp_path) as (databases, store):
        await store.graft(documents(6))
        async with hooked(databases, url=receiver.url) as hook:
            await until(lambda: "wait to be looked at" in (hook.last_error or ""))
            await until(lambda: hook.state is State.FAILED)
            assert await hook.pending() == 3
            # What is out of order is no reason to put a document aside, here either.
            receiver.answer = lambda _: 503
            hook.retry([])
            await until(lambda: "out of order" in (hook.last_error or ""))
            receiver.answer = lambda _: 422
            assert await hook.drop(["doc:0"]) == 1
            await until(lambda: [e["id"] for e in hook.dead()] == ["doc:1", "doc:2", "doc:3"])
            receiver.answer = lambda _: 200
            hook.retry(None)
            await until(lambda: hook.processed == 5)
            assert hook.dead() == []
    assert {*receiver.taken} == {"doc:1", "doc:2", "doc:3", "doc:4", "doc:5"}


async def test_a_document_that_breaks_the_receiver_can_be_skipped(
    receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answer = lambda change: 500 if change["id"] == "doc:0" else 200
    async with opened(tmp_path) as (databases, store):
        await store.graft(documents(2))
        async with hooked(databases, url=receiver.url, retry_cap=60) as hook:
            await until(hook.skip)
            await until(lambda: receiver.taken == ["doc:1"])
            assert [letter["id"] for letter in hook.dead()] == ["doc:0"]
            await until(lambda: hook.state is State.LIVE)
            assert not hook.skip()


# --- where it begins -------------------------------------------------------------------


async def test_now_leaves_out_what_was_there(receiver: Receiver, tmp_path: Path) -> None:
    async with opened(tmp_path) as (databases, store):
        await write(store, "before")
        async with hooked(databases, url=receiver.url, start="now") as hook:
            await until(lambda: hook.state is State.LIVE)
        await write(store, "meanwhile")
        async with hooked(databases, url=receiver.url, start="now"):
            await write(store, "after")
            await until(lambda: len(receiver.taken) == 2)
    assert receiver.taken == ["meanwhile", "after"]


async def test_a_database_that_is_made_again_is_begun_again(
    receiver: Receiver, tmp_path: Path
) -> None:
    async with opened(tmp_path) as (databases, store):
        await write(store, "old", n=1)
        async with hooked(databases, url=receiver.url, start="now") as hook:
            await until(lambda: hook.state is State.LIVE)
            receiver.answer = lambda _: 422
            await write(store, "refused", n=1)
            await until(lambda: len(hook.letters) == 1)
            await databases.delete("edge")
            await until(lambda: hook.state is State.STARTING)
            assert await hook.pending() is None
            receiver.answer = lambda _: 200
            new = await databases.create("edge")
            await write(new, "new", n=1)
            await until(lambda: receiver.taken == ["new"])
            assert hook.dead() == []


@pytest.mark.parametrize("body", ['{"seq":"2-00000000"}', '{"seq":"x"}', '{"seq":[]}'])
async def test_a_checkpoint_of_another_database_skips_nothing(
    body: str, receiver: Receiver, tmp_path: Path
) -> None:
    async with opened(tmp_path) as (databases, store):
        await store.graft(documents(3))
        await store.put_local("hook:test", None, body)
        async with hooked(databases, url=receiver.url, start="now") as hook:
            await until(lambda: hook.processed == 3)
    assert receiver.taken == ["doc:0", "doc:1", "doc:2"]


async def test_deleted_while_it_waits_for_the_receiver(receiver: Receiver, tmp_path: Path) -> None:
    receiver.answer = lambda _: (503, {"Retry-After": "1000"})
    async with opened(tmp_path) as (databases, store):
        await write(store, "old")
        async with hooked(databases, url=receiver.url, retry_cap=60) as hook:
            await until(lambda: hook.state is State.WAITING)
            await databases.delete("edge")
            await until(lambda: hook.state is State.STARTING)


async def test_a_slow_pattern_is_put_down_to_its_document(
    receiver: Receiver, tmp_path: Path
) -> None:
    async with opened(tmp_path) as (databases, store):
        await store.graft(
            [
                first_revision("bad", {"text": "a" * 60 + "b"}),
                first_revision("good", {"text": "a"}),
            ]
        )
        selector = {"text": {"$regex": "^(a|aa)+$"}}
        async with hooked(databases, url=receiver.url, selector=selector) as hook:
            await until(lambda: receiver.taken == ["good"])
            assert [letter["id"] for letter in hook.dead()] == ["bad"]
            assert "takes too long" in hook.dead()[0]["error"]
