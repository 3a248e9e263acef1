"""What is told of the latest commit from memory is what reading the store would tell."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agent.documents.revision import Rev, Revision
from agent.store.changes import ChangesPage, changes_after
from agent.store.lookup import revisions_of, revs_diff
from agent.store.store import Store
from agent.store.transaction import Transaction
from tests.store.helpers import edit, put, reading, revision

_LIMIT = 100


async def _fresh(store: Store) -> None:
    await store.graft([reading(1), reading(2)])


async def _many(store: Store) -> None:
    await store.graft([reading(number) for number in range(10, 30)])


async def _large(store: Store) -> None:
    await store.graft([reading(3), revision("large", "a", body=f'{{"a":"{"x" * 70_000}"}}')])


async def _newer_revision(store: Store) -> None:
    await store.graft([revision("x", "a")])
    await store.graft([revision("x", "b", "a", body='{"n":1}'), reading(4)])


async def _conflict(store: Store) -> None:
    await store.graft([revision("x", "b", "a"), revision("x", "c", "a"), revision("y", "a")])


async def _twice_in_one_commit(store: Store) -> None:
    def operation(transaction: Transaction) -> None:
        [rev] = transaction.edit([edit("x", n=1)])
        transaction.graft([reading(5)])
        transaction.edit([edit("x", rev, n=2)])

    await store.write(operation)


async def _deletion(store: Store) -> None:
    rev = await put(store, "x")
    await put(store, "x", rev, _deleted=True)


async def _taken_back(store: Store) -> None:
    def operation(transaction: Transaction) -> None:
        transaction.graft([reading(6)])
        raise ValueError

    failing, _ = await asyncio.gather(
        store.write(operation), store.graft([reading(7)]), return_exceptions=True
    )
    assert isinstance(failing, ValueError)


async def _purge(store: Store) -> None:
    await store.graft([revision("x", "a"), revision("y", "a"), revision("y", "b")])
    await store.purge({"x": [Rev(1, "a")], "y": [Rev(1, "b")]})


async def _all_purged(store: Store) -> None:
    await store.graft([revision("x", "a")])
    await store.purge({"x": [Rev(1, "a")]})


async def _retired(store: Store) -> None:
    await store.graft([reading(8), reading(9)])
    await store.write(lambda transaction: transaction.retire([store.update_seq]))


async def _no_change(store: Store) -> None:
    await store.graft([reading(1)])
    await store.put_local("x", None, "{}")


@pytest.mark.parametrize(
    "write",
    [
        *(_fresh, _many, _large, _newer_revision, _conflict, _twice_in_one_commit),
        *(_deletion, _taken_back, _purge, _all_purged, _retired, _no_change),
    ],
)
async def test_it_is_what_reading_would_tell(
    store: Store, write: Callable[[Store], Awaitable[None]]
) -> None:
    await store.graft([reading(0), revision("z", "a")])
    await write(store)
    for since in range(store.update_seq + 1):
        told = await store.changes(since, limit=_LIMIT)
        shared = await store.recent_changes(since, limit=_LIMIT, bodies=True)
        read = await asyncio.to_thread(store._reader.query, changes_after, since, limit=_LIMIT)
        assert _content(told) == _content(shared) == _content(read)
        wanted = [(document.id, [str(document.rev)]) for document in read.documents]
        assert await store.revisions(wanted) == await _read(store, wanted)
        assert await store.revs_diff(dict(wanted)) == {}
    for gone in ([("x", ["1-a"])], [("y", ["1-b"])], [("z", ["1-a", "1-b"])]):
        assert await store.revisions(gone) == await _read(store, gone)
        missing = await asyncio.to_thread(store._reader.query, revs_diff, dict(gone))
        assert await store.revs_diff(dict(gone)) == missing


async def _read(
    store: Store, wanted: list[tuple[str, list[str]]]
) -> list[list[tuple[str, Revision | None]]]:
    return await asyncio.to_thread(store._reader.query, revisions_of, wanted)


def _content(page: ChangesPage) -> tuple[object, ...]:
    return page.documents, page.last_seq, page.pending, page.complete


async def test_who_follows_does_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(store, "_reader")
    for number in range(1, 4):
        since = store.update_seq
        await store.graft([reading(number), revision("x", *map(str, range(number, 0, -1)))])
        page, same = await asyncio.gather(
            store.changes(since, limit=2), store.recent_changes(since, limit=2, bodies=False)
        )
        assert page is same  # so that what is made of it is shared
        assert [document.id for document in page.documents] == [reading(number).id, "x"]
        [[(_, found)], _] = await store.revisions(
            [(document.id, [str(document.rev)]) for document in page.documents]
        )
        assert found == reading(number)
        assert await store.revs_diff({"x": [f"{number}-{number}"]}) == {}
        assert (await store.changes(page.last_seq, limit=2)).documents == []


@pytest.mark.parametrize("write", [_many, _large])
async def test_it_keeps_little(store: Store, write: Callable[[Store], Awaitable[None]]) -> None:
    since = store.update_seq
    await write(store)
    assert store._latest.changes(since, _LIMIT) is None


async def test_a_short_page_is_read(store: Store) -> None:
    await store.graft([reading(1), reading(2)])
    page = await store.changes(0, limit=1)
    assert (len(page.documents), page.last_seq, page.pending) == (1, 1, 1)
