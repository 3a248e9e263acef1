"""Contents of attachments in a store's file: once, complete, and no longer than needed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

from agent.documents.attachment import Absent, Attachment, Inline, Uploaded, inline
from agent.documents.revision import Revision
from agent.peers.local import LocalPeer
from agent.store.store import Store
from agent.store.transaction import Edit
from tests.store.helpers import get, rows

LARGE = bytes(range(253)) * 20_000


async def write(store: Store, id: str, *attachments: Attachment, parent: object = None) -> None:
    edit = Edit(id, parent, False, "{}", b"{}", attachments)  # type: ignore[arg-type]
    assert await store.edit([edit]) != [None]


async def upload(store: Store, data: bytes) -> Attachment:
    upload = store.upload()
    for start in range(0, len(data), 100_000):
        await upload.write(data[start : start + 100_000])
    return await upload.finish("f", "x/y")


async def read(store: Store, id: str, **part: int) -> bytes:
    [attachment] = (await get(store, id)).revision().attachments
    return b"".join([piece async for piece in store.content(attachment.content, **part)])


def stored(path: Path) -> tuple[int, int, int]:
    """Blobs, chunks and bytes of content."""
    sql = "SELECT (SELECT count(*) FROM blobs), count(*), coalesce(sum(length(data)), 0)"
    [found] = rows(path, f"{sql} FROM chunks")
    counts: tuple[int, int, int] = found
    return counts


async def test_short_content_comes_with_its_document(store: Store) -> None:
    assert isinstance((await upload(store, b"short")).content, Inline)
    assert stored(store.path) == (0, 0, 0)


async def test_content_is_stored_once_however_it_comes(store: Store) -> None:
    for id in ("a", "b"):
        attachment = await upload(store, LARGE)
        assert isinstance(attachment.content, Uploaded)
        await write(store, id, attachment)
    await write(store, "c", inline("f", "x/y", LARGE))
    assert stored(store.path) == (1, 20, len(LARGE))
    for id in ("a", "b", "c"):
        assert await read(store, id) == LARGE
    assert await read(store, "a", start=262_143, end=600_001) == LARGE[262_143:600_001]


async def test_what_was_uploaded_for_a_conflict_can_be_dropped(store: Store) -> None:
    await write(store, "a")
    attachment = await upload(store, LARGE)
    assert await store.edit([Edit("a", None, False, "{}", b"{}", (attachment,))]) == [None]
    await store.discard([attachment.content])
    assert stored(store.path) == (0, 0, 0)


async def test_what_was_kept_cannot_be_dropped(store: Store) -> None:
    attachment = await upload(store, LARGE)
    await write(store, "a", attachment)
    await store.discard([attachment.content])
    assert await read(store, "a") == LARGE


async def test_an_upload_that_is_dropped_twice_leaves_others_alone(store: Store) -> None:
    first = await upload(store, LARGE)
    await store.discard([first.content])
    second = await upload(store, LARGE)
    await store.discard([first.content])
    await write(store, "a", second)
    assert await read(store, "a") == LARGE


async def test_content_stays_when_who_stores_it_is_cancelled(store: Store, tmp_path: Path) -> None:
    """The revision is stored all the same, since the writer has it; so must be what it needs."""
    source = await Store.open(tmp_path / "source.sqlite")
    await write(source, "a", inline("f", "x/y", LARGE))
    peer, target = LocalPeer(source), LocalPeer(store)
    [revision] = await peer.fetch([("a", [str((await get(source, "a")).rev)])])
    assert isinstance(revision, Revision)
    busy = threading.Event()
    queued = asyncio.Event()
    graft = store.graft

    async def watched(revisions: Sequence[Revision]) -> object:
        waiting = asyncio.create_task(store.write(lambda _: busy.wait(10)))
        storing = asyncio.create_task(graft(revisions))
        await asyncio.sleep(0)
        queued.set()
        await waiting
        return await storing

    store.graft = watched  # type: ignore[method-assign, assignment]
    storing = asyncio.create_task(target.store([revision], peer.attachment))
    await queued.wait()
    storing.cancel()
    await asyncio.sleep(0)
    busy.set()
    await asyncio.wait({storing})
    assert storing.cancelled()
    assert await read(store, "a") == LARGE
    await source.close()


async def test_what_a_crash_left_is_removed_at_the_start(store: Store) -> None:
    await write(store, "a", inline("f", "x/y", b"kept"))
    await upload(store, LARGE)
    assert stored(store.path)[0] == 2
    await store.close()
    again = await Store.open(store.path)
    assert stored(store.path) == (1, 1, 4)
    assert await read(again, "a") == b"kept"
    await again.close()


async def test_compaction_removes_what_no_revision_has(store: Store) -> None:
    await write(store, "a", inline("f", "x/y", LARGE), inline("g", "x/y", b"kept"))
    document = await get(store, "a")
    stub = Attachment("g", "x/y", 0, "", 0, Absent.STUB)
    await write(store, "a", stub, parent=document.rev)
    going_on = await upload(store, LARGE[1:])
    size = (await store.info()).file_size
    await store.start_compaction()
    assert stored(store.path)[:2] == (2, 1 + -(-len(LARGE[1:]) // 262_144))
    assert await read(store, "a") == b"kept"
    await write(store, "b", going_on)  # what is being uploaded stays
    assert await read(store, "b") == LARGE[1:]
    assert (await store.info()).file_size < size


async def test_a_document_that_is_rewritten_keeps_what_is_attached(store: Store) -> None:
    await write(store, "a", await upload(store, LARGE))
    assert await store.write(lambda within: within.rewrite("a", lambda body: body | {"x": 1}))
    found = await get(store, "a")
    assert (found.rev.generation, found.body) == (2, '{"x":1}')
    assert await read(store, "a") == LARGE
    assert stored(store.path) == (1, 20, len(LARGE))
    # What is to stay as it is, is gone or never was gets no revision.
    assert not await store.write(lambda within: within.rewrite("a", lambda _: None))
    await store.edit([Edit("a", found.rev, True, "{}", b"{}")])
    for id in ("a", "b"):
        assert not await store.write(lambda within, id=id: within.rewrite(id, dict))
    assert (await get(store, "a")).rev.generation == 3
