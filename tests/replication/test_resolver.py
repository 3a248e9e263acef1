"""The resolver on real stores: what it writes, what it leaves, and what does not hold it up."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.documents.attachment import inline
from agent.documents.conflict import MOST_ROUNDS
from agent.documents.policies import (
    UNDECIDED,
    Best,
    Keep,
    Newest,
    Policy,
    PolicyContext,
    Python,
    Rule,
    ThreeWay,
)
from agent.documents.revision import Rev
from agent.documents.selector import parse_selector
from agent.replication.conflicts import Counts, Resolver
from agent.store.databases import Databases
from agent.store.store import Store
from tests.patience import PATIENCE, until
from tests.store.helpers import get, put, revision, rows


def policy(rule: Rule | None, name: str = "p", ancestors: int = 0, **selector: Any) -> Policy:
    return Policy(name, parse_selector(selector), rule, ancestors)


def python(function: Any) -> Python:
    return Python(function, PolicyContext("", "db", "p", {}), needs_base=False)


@pytest.fixture
async def databases(tmp_path: Path) -> AsyncIterator[Databases]:
    databases = Databases(tmp_path)
    yield databases
    await databases.close()


@pytest.fixture
async def store(databases: Databases) -> Store:
    return await databases.create("db")


async def conflict(store: Store, id: str, *bodies: dict[str, Any], base: Any = None) -> Rev:
    """Edits of one revision, the winner first; returns that revision."""
    first = await put(store, id, **(base or {}))
    for letter, body in zip("zyx", bodies, strict=False):
        text = msgspec.json.encode(body).decode()
        await store.graft([revision(id, letter, first.hash, body=text)])
    return first


async def caught_up(databases: Databases, store: Store, *policies: Policy) -> Resolver:
    resolver = Resolver(databases, "db", policies)
    await resolver.catch_up(store)
    return resolver


async def body(store: Store, id: str) -> Any:
    return msgspec.json.decode((await get(store, id)).body)


@asynccontextmanager
async def running(resolver: Resolver) -> AsyncIterator[None]:
    task = asyncio.create_task(resolver.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_merge_costs_two_revisions_and_keeping_the_winner_one(
    databases: Databases, store: Store
) -> None:
    await conflict(store, "m", {"t": 1, "a": 2}, {"t": 1, "b": 2}, base={"t": 1})
    await conflict(store, "w", {"a": 2}, {"b": 2})
    before = await store.get("m"), await store.get("w")
    policies = [policy(ThreeWay(), "m", t=1), policy(Keep(Best()), "w")]
    resolver = await caught_up(databases, store, *policies)
    assert (await store.info()).conflict_count == 0
    assert await body(store, "m") == {"t": 1, "a": 2, "b": 2}
    assert await body(store, "w") == {"a": 2}
    made = [
        len((await get(store, id)).tree()) - len(old.tree())
        for id, old in zip("mw", before, strict=True)
        if old is not None
    ]
    assert made == [2, 1]
    assert resolver.counts == {"m": Counts(resolved=1), "w": Counts(resolved=1)}


async def test_two_sides_that_resolve_at_once_make_the_same_revisions(tmp_path: Path) -> None:
    trees = []
    for side in ("one", "other"):
        databases = Databases(tmp_path / side)
        store = await databases.create("db")
        await conflict(store, "a", {"v": 1, "x": 1}, {"v": 2, "y": 1}, {"z": 1}, base={"v": 0})
        await caught_up(databases, store, policy(ThreeWay(Best())))
        document = await get(store, "a")
        trees.append((document.tree(), document.body))
        await databases.close()
    assert trees[0] == trees[1]


async def test_each_resolution_is_on_record_and_the_record_is_bounded(
    databases: Databases, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = await conflict(store, "a", {"v": 1}, {"w": 2})
    await caught_up(databases, store, policy(ThreeWay(), "setpoints"))
    [(number, text)] = await store.resolutions(limit=10)
    entry = msgspec.json.decode(text)
    assert entry.pop("time").endswith("Z")
    assert (number, entry) == (
        1,
        {
            "id": "a",
            "rev": str((await get(store, "a")).rev),
            "leaves": ["2-z", "2-y"],
            "base": str(base),
            "by": "policy setpoints",
        },
    )
    monkeypatch.setattr("agent.store.record.KEPT", 3)
    for id in "bcdef":
        await conflict(store, id, {"v": 1}, {"w": 2})
    await caught_up(databases, store, policy(ThreeWay(), "setpoints"))
    assert [number for number, _ in await store.resolutions(limit=10)] == [4, 5, 6]
    info = await store.info()
    await store.close()
    assert info.doc_count == 6


async def test_what_cannot_be_decided_is_left_and_the_others_are_not_held_up(
    databases: Databases, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def unreliable(base: Any, leaves: list[dict[str, Any]], context: PolicyContext) -> Any:
        calls.append(context.id)
        match context.id:
            case "raises":
                raise ValueError("no idea")
            case "cancelled":
                raise asyncio.CancelledError
            case "rubbish":
                return {"_id": "x"}
            case "large":
                return {"x": "y" * 8_000_001}
            case "undecided":
                return UNDECIDED
        return {"v": "ok"}

    for id in ("good", "large", "raises", "rubbish", "undecided", "cancelled"):
        await conflict(store, id, {"v": 1}, {"v": 2})
    resolver = await caught_up(databases, store, policy(python(unreliable)))
    assert await body(store, "good") == {"v": "ok"}
    assert (await store.info()).conflict_count == 5
    assert resolver.counts["p"] == Counts(resolved=1, undecided=1, failed=4)
    outlooks = {}
    for found in (await store.conflicts_by_id("", limit=10)).conflicts:
        outlooks[found.id] = resolver.outlook(found)
        assert [leaf.body for leaf in found.leaves] == [{"v": 1}, {"v": 2}]
    assert outlooks["raises"] == ("p", "failed", "ValueError: no idea")
    assert outlooks["undecided"][1] == "undecided"
    assert outlooks["rubbish"][1] == outlooks["large"][1] == outlooks["cancelled"][1] == "failed"
    assert "no idea" in caplog.text or "_id" in caplog.text or "8000000" in caplog.text
    # Nothing is asked again before its leaves are others.
    await resolver.catch_up(store)
    assert len(calls) == 6
    await put(store, "raises", "2-z", v=3)
    await resolver.catch_up(store)
    assert calls[6:] == ["raises"]


async def test_conflicts_that_take_long_to_read_are_read_one_by_one(
    databases: Databases, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.store.conflicts._PAGE_SECONDS", 0)
    for id in "abc":
        await conflict(store, id, {"v": 1}, {"v": 2})
    page = await store.conflicts_after(0, limit=10)
    assert ([each.id for each in page.conflicts], page.complete) == (["a"], False)
    resolver = await caught_up(databases, store, policy(Keep(Best())))
    assert resolver.counts == {"p": Counts(resolved=3)}


async def test_manual_and_unmatched_conflicts_wait(databases: Databases, store: Store) -> None:
    await conflict(store, "m", {"t": 1}, {"t": 2})
    await conflict(store, "n", {}, {"x": 2})
    manual = policy(None, "people", t={"$exists": True})
    resolver = await caught_up(databases, store, manual)
    found = (await store.conflicts_by_id("", limit=10)).conflicts
    states = [resolver.outlook(each)[:2] for each in found]
    assert states == [("people", "waiting"), (None, "waiting")]
    assert resolver.counts == {"people": Counts()}


async def test_new_conflicts_are_found_at_once_and_those_of_before_a_start_too(
    databases: Databases, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.replication.conflicts._LONGEST_WAIT", 2 * PATIENCE)
    await conflict(store, "before", {"a": 1}, {"b": 1})
    resolver = Resolver(databases, "db", [policy(ThreeWay())])

    async def none() -> bool:
        return (await store.info()).conflict_count == 0

    async with running(resolver):
        await until(none)
        for number in range(3):
            await conflict(store, f"d{number}", {"a": 1}, {"b": 1})
            await until(none)
            assert await body(store, f"d{number}") == {"a": 1, "b": 1}
        # One whose leaves become others, while it stays in conflict: decided anew.
        await conflict(store, "clash", {"v": 1}, {"v": 2})
        await until(lambda: _true(resolver.counts["p"].undecided == 1))
        await put(store, "clash", "2-y", v=1)
        await until(none)


async def _true(value: bool) -> bool:
    return value


async def test_a_database_that_is_deleted_and_made_again(
    databases: Databases, store: Store
) -> None:
    resolver = Resolver(databases, "db", [policy(Keep(Best()), ancestors=7)])
    async with running(resolver):
        for _ in range(2):
            made = await databases.ensure("db")
            await conflict(made, "a", {"a": 1}, {"b": 1})

            async def resolved(made: Store = made) -> bool:
                return (await made.info()).conflict_count == 0

            await until(resolved)
            assert made.ancestors_kept == 7
            await databases.delete("db")


async def test_a_time_in_the_future_is_decided_when_it_has_come(
    databases: Databases, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.replication.conflicts._LONGEST_WAIT", 2 * PATIENCE)
    now = 1_000.0
    resolver = Resolver(databases, "db", [policy(Keep(Newest(("at",), 60)))], clock=lambda: now)
    await conflict(store, "a", {"at": 1}, {"at": 2_000})
    async with running(resolver):
        await until(lambda: _true(resolver.counts["p"].undecided == 1))
        now = (
            2_000.0  # the clock was set; that is noticed with the next conflict or within a minute
        )
        await conflict(store, "b", {"at": 1}, {"at": 2})

        async def none() -> bool:
            return (await store.info()).conflict_count == 0

        await until(none)
    assert await body(store, "a") == {"at": 2_000}


async def test_an_edit_that_overtakes_a_decision_is_decided_anew(
    databases: Databases, store: Store
) -> None:
    await conflict(store, "a", {"n": 1}, {"m": 1})
    loop = asyncio.get_running_loop()
    made = 0

    def slow(base: Any, leaves: list[dict[str, Any]], context: PolicyContext) -> Any:
        nonlocal made
        made += 1
        if made == 1:  # somebody edits the winner while this is at work
            asyncio.run_coroutine_threadsafe(put(store, "a", "2-z", n=2), loop).result(PATIENCE)
        return {name: value for leaf in leaves for name, value in leaf.items() if name[0] != "_"}

    resolver = Resolver(databases, "db", [policy(python(slow))])
    async with running(resolver):

        async def none() -> bool:
            return (await store.info()).conflict_count == 0

        await until(none)
        await until(lambda: _true(resolver.counts["p"].resolved == 1))
    assert await body(store, "a") == {"n": 2, "m": 1}
    assert made == 2
    assert len(await store.resolutions(limit=10)) == 1


async def test_a_tombstone_that_comes_late_tells_how_to_merge(
    databases: Databases, store: Store
) -> None:
    """Elsewhere 2-l went into 3-m; somebody who did not know that has edited 2-l once more."""
    base = (await put(store, "a", v=0)).hash
    await store.graft([revision("a", "m", "w", base, body='{"v":1,"w":1}')])
    await store.graft([revision("a", "l", base, body='{"v":1}')])
    await store.graft([revision("a", "n", "l", base, body='{"v":2}')])
    resolver = await caught_up(databases, store, policy(ThreeWay()))
    assert resolver.counts["p"].undecided == 1
    mark = '{"resolved_to":"3-m"}'
    await store.graft([revision("a", "t", "l", base, body=mark, deleted=True)])
    await resolver.catch_up(store)
    assert await body(store, "a") == {"v": 2, "w": 1}
    assert (await store.info()).conflict_count == 0


async def test_it_is_said_that_a_policy_takes_long(
    databases: Databases,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("agent.replication.conflicts._PATIENCE", 0.05)
    returns = threading.Event()

    def slow(base: Any, leaves: list[dict[str, Any]], context: PolicyContext) -> Any:
        returns.wait(2 * PATIENCE)
        return {"v": 3}

    await conflict(store, "a", {"v": 1}, {"v": 2})
    resolver = Resolver(databases, "db", [policy(python(slow))])
    async with running(resolver):
        await until(lambda: _true("whether a function of a package hangs" in caplog.text))
        assert resolver.stuck
        returns.set()

        async def resolved() -> bool:
            return (await store.info()).conflict_count == 0

        await until(resolved)
        assert not resolver.stuck
    assert await body(store, "a") == {"v": 3}


async def test_attachments_of_both_sides_are_merged(databases: Databases, store: Store) -> None:
    first = await put(store, "a")
    for letter, name in (("z", "one"), ("y", "other")):
        attachment = inline(name, "text/plain", name.encode())
        each = revision("a", letter, first.hash).with_attachments([attachment])
        await store.graft([each])
    await caught_up(databases, store, policy(ThreeWay()))
    attachments = (await get(store, "a")).revision().attachments
    assert sorted(each.name for each in attachments) == ["one", "other"]
    await store.start_compaction()
    for each in attachments:
        pieces = [piece async for piece in store.content(each.content)]
        assert b"".join(pieces) == each.name.encode()


async def test_sides_that_never_agree_are_stopped(tmp_path: Path) -> None:
    """A policy that returns something else each time, on two sides."""
    counter = 0

    def whim(*_: Any) -> dict[str, Any]:
        nonlocal counter
        counter += 1
        return {"v": counter}

    sides = []
    for name in ("one", "other"):
        databases = Databases(tmp_path / name)
        store = await databases.create("db")
        sides.append((databases, store, Resolver(databases, "db", [policy(python(whim))])))
    first = await put(sides[0][1], "a")
    for letter in "zy":
        await sides[0][1].graft([revision("a", letter, first.hash)])
    for _ in range(3 * MOST_ROUNDS):
        for (_, source, _), (_, target, _) in (sides, sides[::-1]):
            leaves = [str(leaf) for leaf in (await get(source, "a")).leaves()]
            [found] = await source.revisions([("a", leaves)])
            await target.graft([each for _, each in found if each is not None])
        await asyncio.gather(*(resolver.catch_up(store) for _, store, resolver in sides))
    assert counter <= 3 * MOST_ROUNDS
    for databases, store, resolver in sides:
        [left] = (await store.conflicts_by_id("", limit=10)).conflicts
        _, state, reason = resolver.outlook(left)
        assert state == "failed"
        assert reason is not None
        assert "same policy" in reason
        await databases.close()


async def test_sides_that_agree_are_not_stopped_however_often_a_document_is_in_conflict(
    databases: Databases, store: Store
) -> None:
    resolver = Resolver(databases, "db", [policy(Keep(Best()))])
    path = [(await put(store, "a")).hash]
    for number in range(2 * MOST_ROUNDS):
        for letter in "zy":  # both sides have edited the winner
            await store.graft([revision("a", f"{letter}{number}", *path)])
        await resolver.catch_up(store)
        path.insert(0, f"z{number}")
        document = await get(store, "a")
        assert (document.rev.hash, document.conflicts) == (f"z{number}", 0)


async def test_compaction_keeps_the_ancestors_that_a_merge_may_need(
    databases: Databases, store: Store, tmp_path: Path
) -> None:
    store.ancestors_kept = 2
    revs = [await put(store, "a", n=0)]
    for number in range(1, 6):
        revs.append(await put(store, "a", revs[-1], n=number))
    old = await put(store, "old", n=0)
    for branch in "zy":  # in conflict, with an ancestor that is far behind
        path = [f"{branch}{number}" for number in range(5, 0, -1)] + [old.hash]
        await store.graft([revision("old", *path, body=f'{{"{branch}":1}}')])
    await store.start_compaction()
    kept = rows(
        tmp_path / "db.sqlite", "SELECT id, gen FROM revisions WHERE NOT leaf ORDER BY 1, 2"
    )
    assert kept == [("a", 4), ("a", 5), ("old", 1)]
    # A late edit of an ancestor that was kept, and one of an ancestor that was not.
    await store.graft([revision("a", "x", *revision_path(revs, 4), body='{"late":1,"n":3}')])
    resolver = await caught_up(databases, store, policy(ThreeWay(), ancestors=2))
    assert await body(store, "a") == {"n": 5, "late": 1}
    assert await body(store, "old") == {"z": 1, "y": 1}
    assert resolver.counts["p"].resolved == 2
    await store.graft([revision("a", "y", *revision_path(revs, 2), body='{"late":2}')])
    await resolver.catch_up(store)
    [left] = (await store.conflicts_by_id("a", limit=1)).conflicts
    _, state, reason = resolver.outlook(left)
    assert (state, "not kept here" in (reason or "")) == ("undecided", True)
    store.ancestors_kept = 0
    await store.start_compaction()
    assert rows(tmp_path / "db.sqlite", "SELECT 1 FROM revisions WHERE NOT leaf") == []


def revision_path(revs: list[Rev], generation: int) -> list[str]:
    """The hashes from that generation back."""
    return [rev.hash for rev in reversed(revs[:generation])]


async def test_conflicts_are_announced(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await conflict(store, "a", {"v": 1}, {"v": 2})
        await put(store, "a", "2-z", v=5)  # no new one
        await put(store, "b")
    [record] = [each for each in caplog.records if "come into conflict" in each.message]
    assert record.message.endswith(": 1")
    assert store.conflicts_seen == 2
