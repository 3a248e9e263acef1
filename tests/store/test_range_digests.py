"""Digests of ranges, kept up to date in a store that goes on changing."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.documents.ranges import EVERYTHING, FINEST, Builder, Leaves, Range
from agent.documents.revision import Rev
from agent.store import range_digests
from agent.store.store import Store
from tests.store.helpers import put, reading, revision


async def made_anew(store: Store) -> list[Range]:
    builder = Builder("")
    start = ""
    while page := await range_digests.leaves(store, (start, None), 100):
        for document in page:
            builder.add(document)
        start = page[-1].id + "\0"
    builder.finish()
    return builder.ranges


async def kept(store: Store) -> list[Range]:
    (found,) = await range_digests.ranges(store, FINEST, [EVERYTHING])
    return found


async def test_they_follow_every_kind_of_change(store: Store) -> None:
    assert await kept(store) == []
    await store.graft([reading(number) for number in range(3000)])
    ranges = await kept(store)
    assert ranges == await made_anew(store)
    assert len(ranges) > 5
    # In the middle, before all, after all, and one that begins a range.
    for id in ("dev:temp:00000500", "a", "z"):
        await put(store, id, str((await made(store, id)).revs[0]) if id[0] == "d" else None, n=1)
        before, ranges = ranges, await kept(store)
        assert ranges == await made_anew(store) != before
    begins = ranges[3].start
    rev = (await made(store, begins)).revs[0]
    await put(store, begins, rev, _deleted=True)
    assert await kept(store) == await made_anew(store)
    await store.graft([revision("x", "b", "a"), revision("x", "c", "a")])
    assert await made(store, "x") == Leaves("x", ("2-b", "2-c"))
    ranges = await kept(store)
    assert ranges == await made_anew(store)
    await store.purge({begins: [Rev.parse(rev) for rev in (await made(store, begins)).revs]})
    assert await kept(store) == await made_anew(store) != ranges
    assert begins not in {item.start for item in await kept(store)}


async def made(store: Store, id: str) -> Leaves:
    (found,) = await range_digests.leaves(store, (id, id + "\0"), 1)
    return found


async def test_only_what_changed_is_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.graft([reading(number) for number in range(6000)])
    await kept(store)
    read = 0

    class Counting(Builder):
        def add(self, leaves: Leaves) -> None:
            nonlocal read
            read += 1
            super().add(leaves)

    monkeypatch.setattr(range_digests, "Builder", Counting)
    await kept(store)
    assert read == 0
    await store.graft([reading(6000)])
    await kept(store)
    assert 0 < read < 3000


async def test_they_outlive_the_process(path: Path) -> None:
    store = await Store.open(path)
    await store.graft([reading(number) for number in range(2000)])
    ranges = await kept(store)
    await store.close()
    store = await Store.open(path)
    await store.graft([reading(number) for number in range(2000, 2100)])
    assert await kept(store) == await made_anew(store) != ranges
    await store.close()


async def test_two_stores_with_the_same_documents_have_the_same(
    store: Store, tmp_path: Path
) -> None:
    other = await Store.open(tmp_path / "other.sqlite")
    numbers = range(2000)
    await store.graft([reading(number) for number in numbers])
    for begin in reversed(range(0, 2000, 500)):
        await other.graft([reading(number) for number in range(begin, begin + 500)])
        await kept(other)
    assert await kept(store) == await kept(other)
    await other.close()
