"""Pages of large documents end before they have all that was asked for, and say so."""

from __future__ import annotations

import pytest

from agent.documents.revision import Revision
from agent.peers.local import LocalPeer
from agent.store.store import Store
from agent.store.stored import PAGE_BYTES, StoredDocument
from tests.store.helpers import put

IDS = ["a", "b", "c", "d", "e"]
BODY = f'{{"text":"{"x" * (PAGE_BYTES // 3)}"}}'  # three of them exceed a page
LARGE = f'{{"text":"{"x" * (3 * PAGE_BYTES)}"}}'


@pytest.fixture
async def filled(store: Store) -> Store:
    for id in IDS:
        await store.graft([Revision(id, 1, ("a",), False, BODY)])
    return store


def ids(documents: list[StoredDocument]) -> str:
    return "".join(document.id for document in documents)


async def test_changes(filled: Store) -> None:
    first = await filled.changes(0, limit=9)
    assert (ids(first.documents), first.last_seq, first.pending) == ("abc", 3, 2)
    assert not first.complete
    second = await filled.changes(3, limit=9)
    assert (ids(second.documents), second.pending, second.complete) == ("de", 0, True)
    bare = await filled.changes(0, limit=9, bodies=False)
    assert (ids(bare.documents), bare.complete) == ("abcde", True)


async def test_changes_that_end_where_a_page_does(filled: Store) -> None:
    page = await filled.changes(2, limit=9)
    assert (ids(page.documents), page.pending, page.complete) == ("cde", 0, False)
    page = await filled.changes(page.last_seq, limit=9)
    assert (page.documents, page.last_seq, page.complete) == ([], 5, True)


async def test_newest_changes_first(filled: Store) -> None:
    page = await filled.changes(0, limit=9, descending=True)
    assert (ids(page.documents), page.complete) == ("edc", False)
    page = await filled.changes(0, limit=9, descending=True, before=page.last_seq)
    assert (ids(page.documents), page.complete) == ("ba", True)


async def test_changes_of_some_documents(filled: Store) -> None:
    wanted = ["e", "x", "a", "d", "c"]
    page = await filled.changes_of(wanted, 0)
    assert (ids(page.documents), page.last_seq, page.pending) == ("acd", 4, 1)
    assert not page.complete
    page = await filled.changes_of(wanted, page.last_seq)
    assert (ids(page.documents), page.complete) == ("e", True)
    page = await filled.changes_of(["a"], 0)
    assert (page.last_seq, page.complete) == (5, True)  # the others have been passed over
    page = await filled.changes_of(wanted, 0, descending=True)
    assert (ids(page.documents), page.complete) == ("edc", False)
    page = await filled.changes_of(wanted, 0, descending=True, before=page.last_seq)
    assert (ids(page.documents), page.complete) == ("a", True)
    page = await filled.changes_of(wanted, 0, bodies=False)
    assert (ids(page.documents), page.complete) == ("acde", True)


@pytest.mark.parametrize("descending", [False, True])
async def test_all_docs(filled: Store, descending: bool) -> None:
    order = "edcba" if descending else "abcde"
    first = await filled.all_docs(limit=9, descending=descending)
    assert (ids(first.documents), first.complete) == (order[:3], False)
    second = await filled.all_docs(
        start=order[2], inclusive_start=False, limit=9, descending=descending
    )
    assert (ids(second.documents), second.complete) == (order[3:], True)


async def test_documents_by_their_ids(filled: Store) -> None:
    found = await filled.first_documents(["e", "x", "a", "d", "c"])
    assert list(found) == ["e", "x", "a", "d"]
    assert found["x"] is None
    assert [doc.body == BODY for doc in found.values() if doc is not None] == [True] * 3
    found = await filled.first_documents(["e", "x", "a", "d", "c"], bodies=False)
    assert len(found) == 5


async def test_local_documents(store: Store) -> None:
    for id in IDS:
        await store.put_local(id, None, BODY)
    page = await store.locals(limit=9)
    assert (ids(page.documents), page.complete) == ("abc", False)
    page = await store.locals(start="c", inclusive_start=False, limit=9)
    assert (ids(page.documents), page.complete) == ("de", True)


async def test_a_document_larger_than_a_page_ends_it(store: Store) -> None:
    for id, body in [("a", BODY), ("b", LARGE), ("c", BODY)]:
        await store.graft([Revision(id, 1, ("a",), False, body)])
    page = await store.all_docs(limit=9)
    assert ids(page.documents) == "ab"
    page = await store.all_docs(start="b", limit=9)
    assert (ids(page.documents), page.complete) == ("b", False)


async def test_a_selector_sees_all_pages(filled: Store) -> None:
    await filled.graft([Revision("f", 1, ("a",), False, '{"n":1}')])
    feed = LocalPeer(filled).changes(0, follow=False, limit=100, selector={"n": 1})
    batches = [batch async for batch in feed]
    assert [len(batch.changes) for batch in batches] == [0, 1]
    assert batches[-1].last_seq == 6


@pytest.mark.parametrize(("body", "reads"), [("{}", 1), (BODY, 2)])
async def test_only_small_pages_are_kept_for_others(store: Store, body: str, reads: int) -> None:
    await store.graft([Revision("a", 1, ("a",), False, body)])
    pages = [await store.recent_changes(0, limit=9, bodies=True) for _ in range(2)]
    assert len({id(page) for page in pages}) == reads


async def test_urgent_documents_are_found_in_the_order_of_their_changes(store: Store) -> None:
    for number in range(6):
        await put(store, f"d{number}", urgent=number % 2 == 0, n=number)
    await put(store, "nested", alarm={"urgent": True})
    await put(store, "quoted", text='"urgent":true')
    await put(store, "word", urgent="true")
    first = await store.documents(["d0"])
    await put(store, "d0", first["d0"].rev, urgent=True, n=7)
    found = await store.urgent(0, limit=10)
    assert [document.id for document in found] == ["d2", "d4", "nested", "d0"]
    assert await store.count_urgent(0) == 4
    [second, *_] = found
    assert [document.id for document in await store.urgent(second.seq, limit=1)] == ["d4"]
    assert await store.count_urgent(second.seq) == 3
    assert await store.urgent(store.update_seq, limit=10) == []
