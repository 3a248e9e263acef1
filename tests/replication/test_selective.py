"""Replications of some of the documents only: by a selector, or by ids."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.documents.revision import Rev, Revision, canonical
from agent.errors import PermanentError
from agent.peers.local import LocalPeer
from agent.replication.checkpoint import replication_id
from agent.replication.replicator import Replicator
from agent.replication.selection import Selection
from agent.store.store import Store
from agent.store.transaction import Edit
from tests.patience import until

READINGS = Selection({"type": "reading"})


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    a, b = await Store.open(tmp_path / "a.sqlite"), await Store.open(tmp_path / "b.sqlite")
    yield a, b
    await asyncio.gather(a.close(), b.close())


async def write(
    store: Store, id: str, rev: Rev | None = None, *, deleted: bool = False, **body: Any
) -> Rev:
    text = msgspec.json.encode(body).decode()
    [written] = await store.edit([Edit(id, rev, deleted, text, canonical(body))])
    assert written is not None
    return written


async def write_many(store: Store, prefix: str, count: int, **body: Any) -> None:
    edits = []
    for number in range(count):
        doc = {**body, "value": number}
        text = msgspec.json.encode(doc).decode()
        edits.append(Edit(f"{prefix}{number}", None, False, text, canonical(doc)))
    await store.edit(edits)


async def ids(store: Store) -> set[str]:
    page = await store.changes(0, limit=10_000)
    return {document.id for document in page.documents}


async def copy(source: Store, target: Store, selection: Selection, **options: Any) -> Replicator:
    replicator = Replicator(LocalPeer(source), LocalPeer(target), selection=selection, **options)
    await replicator.run()
    return replicator


async def test_only_what_the_selector_matches_is_carried(stores: tuple[Store, Store]) -> None:
    a, b = stores
    await write_many(a, "r", 250, type="reading")  # more than one page with bodies
    await write_many(a, "c", 250, type="config")
    await copy(a, b, Selection({"type": "reading", "value": {"$gte": 100}}))
    assert await ids(b) == {f"r{number}" for number in range(100, 250)}


async def test_only_the_named_documents_are_carried(stores: tuple[Store, Store]) -> None:
    a, b = stores
    for id in ("a", "b", "c", "_design/d"):
        await write(a, id)
    await copy(a, b, Selection(doc_ids=("b", "_design/d", "none")))
    assert await ids(b) == {"b", "_design/d"}


async def test_no_ids_are_no_documents(stores: tuple[Store, Store]) -> None:
    a, b = stores
    await write(a, "a")
    await copy(a, b, Selection(doc_ids=()))
    assert await ids(b) == set()


async def test_a_tombstone_is_carried_only_if_the_selector_matches_it(
    stores: tuple[Store, Store],
) -> None:
    a, b = stores
    bare = await write(a, "bare", type="reading")
    full = await write(a, "full", type="reading")
    await copy(a, b, READINGS)
    await write(a, "bare", bare, deleted=True)
    await write(a, "full", full, deleted=True, type="reading")
    await copy(a, b, READINGS)
    left, gone = await b.get("bare"), await b.get("full")
    assert left is not None
    assert not left.deleted
    assert gone is not None
    assert gone.deleted
    await copy(a, b, Selection({"$or": [{"type": "reading"}, {"_deleted": True}]}))
    left = await b.get("bare")
    assert left is not None
    assert left.deleted


async def test_each_leaf_is_looked_at_for_itself(stores: tuple[Store, Store]) -> None:
    a, b = stores
    await a.graft(
        [
            Revision("x", 1, ("b",), False, '{"type":"config"}'),
            Revision("x", 1, ("a",), False, '{"type":"reading"}'),
        ]
    )
    await copy(a, b, READINGS)
    carried = await b.get("x")
    assert carried is not None
    assert carried.leaves() == [Rev(1, "a")]


async def test_winners_only(stores: tuple[Store, Store]) -> None:
    a, b = stores
    await a.graft([Revision("x", 1, (hash,), False, "{}") for hash in ("a", "c", "b")])
    await copy(a, b, Selection(winning_revs_only=True))
    carried = await b.get("x")
    assert carried is not None
    assert carried.leaves() == [Rev(1, "c")]


async def test_the_checkpoint_passes_what_is_left_out(stores: tuple[Store, Store]) -> None:
    a, b = stores
    await write(a, "r", type="reading")
    await write_many(a, "c", 600, type="config")
    first = await copy(a, b, READINGS)
    assert first.progress.confirmed_seq == a.update_seq
    assert first.progress.pending == 0
    again = await copy(a, b, READINGS)
    assert again.checkpoint is not None
    assert again.checkpoint.start_seq == a.update_seq


async def test_a_followed_filter_keeps_up_with_what_is_left_out(
    stores: tuple[Store, Store],
) -> None:
    a, b = stores
    replicator = Replicator(LocalPeer(a), LocalPeer(b), continuous=True, selection=READINGS)
    task = asyncio.create_task(replicator.run())

    async def caught_up() -> bool:
        return replicator.progress.confirmed_seq == a.update_seq

    await write(a, "c", type="config")
    await until(caught_up)
    assert await ids(b) == set()
    await write(a, "r", type="reading")
    await until(caught_up)
    assert await ids(b) == {"r"}
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_another_selection_starts_from_the_beginning(stores: tuple[Store, Store]) -> None:
    a, b = stores
    await write(a, "r", type="reading")
    await write(a, "c", type="config")
    await copy(a, b, READINGS)
    await copy(a, b, Selection({"type": "config"}))
    assert await ids(b) == {"r", "c"}


async def test_the_id_depends_on_the_selection_and_not_on_its_spelling(
    stores: tuple[Store, Store],
) -> None:
    peers = [LocalPeer(store) for store in stores]
    different = [
        Selection(),
        Selection({}),
        Selection({"a": 1}),
        Selection({"a": 2}),
        Selection(doc_ids=()),
        Selection(doc_ids=("a", "b")),
        Selection(winning_revs_only=True),
    ]
    assert len({replication_id(*peers, selection) for selection in different}) == len(different)
    for one, same in (
        (Selection({"a": 1, "b": 2}), Selection({"b": 2, "a": 1})),
        (Selection(doc_ids=("b", "a", "a")), Selection(doc_ids=("a", "b"))),
        (Selection(), Selection(None, None)),
    ):
        assert replication_id(*peers, one) == replication_id(*peers, same)


async def test_a_selector_that_is_none_is_a_permanent_error(stores: tuple[Store, Store]) -> None:
    with pytest.raises(PermanentError, match="selector"):
        await copy(*stores, Selection({"a": {"$nonsense": 1}}))
    with pytest.raises(PermanentError, match="selector"):
        await copy(*stores, Selection({"a": {"$regex": "("}}))


async def test_a_start_that_is_given_stands_in_for_the_checkpoint(
    stores: tuple[Store, Store],
) -> None:
    a, b = stores
    await write(a, "old")
    after = a.update_seq
    await write(a, "new")
    await copy(a, b, Selection(), since_seq=after)
    assert await ids(b) == {"new"}


async def test_without_checkpoints_nothing_is_written_and_all_is_checked_again(
    stores: tuple[Store, Store],
) -> None:
    a, b = stores
    await write(a, "x")
    for _ in range(2):
        replicator = await copy(a, b, Selection(), use_checkpoints=False)
        assert replicator.progress.missing_checked == 1
    id = replication_id(LocalPeer(a), LocalPeer(b))
    assert await a.get_local(id) is None
    assert await b.get_local(id) is None
