"""Checkpoints: what two replication logs agree on."""

from __future__ import annotations

import asyncio
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.documents.revision import first_revision
from agent.peers.local import LocalPeer
from agent.peers.peer import START
from agent.replication.checkpoint import (
    Counts,
    Log,
    common_entry,
    replication_id,
)
from agent.replication.clones import PROCESS, Others
from agent.replication.witnesses import DatabaseRecreatedError
from agent.store.store import Store
from agent.store.transaction import Transaction

COUNTS = Counts(1, 1, 1, 1, 0)


def entry(session: str, seq: Any, when: str = "2026-01-01T00:00:00.000Z") -> dict[str, Any]:
    return {"session_id": session, "recorded_seq": seq, "end_time": when}


def log_of(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"session_id": entries[0]["session_id"], "history": list(entries)}


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (None, None, START),
        (log_of(entry("a", 5)), None, START),
        (None, log_of(entry("a", 5)), START),
        (log_of(entry("a", 5)), log_of(entry("a", 5)), 5),
        (log_of(entry("b", "9-x"), entry("a", 5)), log_of(entry("b", "9-x")), "9-x"),
        # The source was restored from a backup: it never heard of session b.
        (log_of(entry("a", 5)), log_of(entry("b", 9), entry("a", 5)), 5),
        # The target was restored from a backup.
        (log_of(entry("b", 9), entry("a", 5)), log_of(entry("a", 5)), 5),
        # One was recreated and has been replicated with somebody else's session.
        (log_of(entry("a", 5)), log_of(entry("c", 7)), START),
        # A crash between the two writes: only the target has the newer sequence.
        (log_of(entry("a", 5)), log_of(entry("a", 8)), 5),
        ({"history": "rubbish"}, log_of(entry("a", 5)), START),
        ({"history": [1, {"session_id": 4}]}, log_of(entry("a", 5)), START),
    ],
)
def test_the_newest_common_session_counts(source: Any, target: Any, expected: Any) -> None:
    found = common_entry(source, target)
    assert (START if found is None else found["recorded_seq"]) == expected


async def test_log_is_written_to_both_sides_and_found_again(tmp_path: Path) -> None:
    a, b = await Store.open(tmp_path / "a"), await Store.open(tmp_path / "b")
    source, target = LocalPeer(a), LocalPeer(b)
    log = await Log.open(source, target)
    assert log.start_seq == START
    await log.write(3, COUNTS)
    await log.write(7, COUNTS)
    again = await Log.open(source, target)
    assert again.start_seq == 7
    assert again.last_confirmed is not None
    await again.write(9, COUNTS)
    stored = await source.get_local(log.id)
    assert stored is not None
    assert [item["recorded_seq"] for item in stored["history"]] == [9, 7]
    assert stored["source_last_seq"] == 9
    # The other direction is another replication.
    assert (await Log.open(target, source)).start_seq == START
    await asyncio.gather(a.close(), b.close())


async def test_a_log_keeps_at_most_fifty_sessions(tmp_path: Path) -> None:
    a, b = await Store.open(tmp_path / "a"), await Store.open(tmp_path / "b")
    source, target = LocalPeer(a), LocalPeer(b)
    for seq in range(1, 56):
        await (await Log.open(source, target)).write(seq, COUNTS)
    stored = await target.get_local(replication_id(source, target))
    assert stored is not None
    assert len(stored["history"]) == 50
    await asyncio.gather(a.close(), b.close())


async def test_a_log_that_changed_meanwhile_is_overwritten(tmp_path: Path) -> None:
    a, b = await Store.open(tmp_path / "a"), await Store.open(tmp_path / "b")
    source, target = LocalPeer(a), LocalPeer(b)
    first, second = await Log.open(source, target), await Log.open(source, target)
    await first.write(3, COUNTS)
    await second.write(4, COUNTS)
    assert (await Log.open(source, target)).start_seq == 4
    await asyncio.gather(a.close(), b.close())


async def test_the_replication_id_depends_on_the_databases(tmp_path: Path) -> None:
    a, b = await Store.open(tmp_path / "a"), await Store.open(tmp_path / "b")
    await a.graft([first_revision("x", {})])
    ids = {
        replication_id(LocalPeer(a), LocalPeer(b)),
        replication_id(LocalPeer(b), LocalPeer(a)),
    }
    assert len(ids) == 2
    await a.close()
    reopened = await Store.open(tmp_path / "a")
    assert replication_id(LocalPeer(reopened), LocalPeer(b)) in ids
    await asyncio.gather(reopened.close(), b.close())


async def test_a_target_restored_from_a_backup_is_filled_again(tmp_path: Path) -> None:
    """One session on both sides, but the target is back at an older checkpoint of it."""
    a, b = await Store.open(tmp_path / "a"), await Store.open(tmp_path / "b")
    source, target = LocalPeer(a), LocalPeer(b)
    log = await Log.open(source, target)
    await log.write(3, COUNTS)
    backup = await target.get_local(log.id)
    assert backup is not None
    await log.write(7, COUNTS)
    present = await target.get_local(log.id)
    assert present is not None
    await target.put_local(log.id, {**backup, "_rev": present["_rev"]})
    assert (await Log.open(source, target)).start_seq == 3
    await asyncio.gather(a.close(), b.close())


@pytest.mark.parametrize("sessions", [1, 2])
async def test_a_target_restored_during_a_run_ends_it(tmp_path: Path, sessions: int) -> None:
    """What it had confirmed is not there any more, though no request has failed."""
    a, b = await Store.open(tmp_path / "a"), await Store.open(tmp_path / "b")
    source, target = LocalPeer(a), LocalPeer(b)
    log = await Log.open(source, target)
    await log.write(3, COUNTS)
    backup = await target.get_local(log.id)
    assert backup is not None
    if sessions == 2:
        log = await Log.open(source, target)
    await log.write(7, COUNTS)
    await b.write(lambda transaction: transaction.locals.put(log.id, "0-2", encoded(backup)))
    with pytest.raises(DatabaseRecreatedError, match="restored from a backup"):
        await log.write(9, COUNTS)
    assert (await Log.open(source, target)).start_seq == 3
    await asyncio.gather(a.close(), b.close())


async def test_a_restored_log_that_was_only_on_its_own_side_is_an_older_one(
    tmp_path: Path,
) -> None:
    """A process was killed between the two sides of its first checkpoint; then the backup was
    made. Its session is in no log of ours, but it was there when we began."""
    a, b = await Store.open(tmp_path / "a"), await Store.open(tmp_path / "b")
    source, target = LocalPeer(a), LocalPeer(b)
    log = await Log.open(source, target)
    await log.write(3, COUNTS)
    killed = await Log.open(source, target)
    await target.put_local(log.id, {**killed.note(5, COUNTS), "_rev": "0-1"})
    backup = await target.get_local(log.id)
    assert backup is not None
    log = await Log.open(source, target)
    await log.write(7, COUNTS)
    await b.write(lambda transaction: transaction.locals.put(log.id, "0-3", encoded(backup)))
    with pytest.raises(DatabaseRecreatedError, match="restored from a backup"):
        await log.write(9, COUNTS)
    assert (await Log.open(source, target)).start_seq == 3
    await asyncio.gather(a.close(), b.close())


async def test_a_later_backup_after_an_earlier_one_is_no_other_agents_log(tmp_path: Path) -> None:
    """The first one restored was too old. The second one is of a history that did not go on."""
    a, b = await Store.open(tmp_path / "a"), await Store.open(tmp_path / "b")
    source, target, others = LocalPeer(a), LocalPeer(b), Others()
    backups = []
    log = await Log.open(source, target, others=others)
    for seq in (3, 5, 7):
        await log.write(seq, COUNTS)
        backups.append(await target.get_local(log.id) or {})
    for number, backup in enumerate(backups[:2]):
        log = await Log.open(source, target, others=others)
        await log.write(9 + number, COUNTS)
        await b.write(partial(restored, log.id, encoded(backup)))
        with pytest.raises(DatabaseRecreatedError, match="restored from a backup"):
            await log.write(20, COUNTS)
    assert (await Log.open(source, target)).start_seq == 3
    await asyncio.gather(a.close(), b.close())


def restored(id: str, text: str, transaction: Transaction) -> None:
    transaction.locals.overwrite(id, 1, text)


def encoded(log: dict[str, Any]) -> str:
    return msgspec.json.encode({key: log[key] for key in log if key != "_rev"}).decode()


async def test_a_checkpoint_that_has_gone_is_not_written_again(tmp_path: Path) -> None:
    """The target was made again between two checkpoints: it must not be believed to be full."""
    a, b = await Store.open(tmp_path / "a"), await Store.open(tmp_path / "b")
    log = await Log.open(LocalPeer(a), LocalPeer(b))
    await log.write(3, COUNTS)
    await b.write(lambda transaction: transaction.locals.overwrite(log.id, 1, None))
    with pytest.raises(DatabaseRecreatedError):
        await log.write(4, COUNTS)
    assert await b.get_local(log.id) is None
    await asyncio.gather(a.close(), b.close())


async def test_a_copy_of_a_store_is_no_help(tmp_path: Path) -> None:
    a = await Store.open(tmp_path / "a")
    await a.close()
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes())
    a, b = await Store.open(tmp_path / "a"), await Store.open(tmp_path / "b")
    await (await Log.open(LocalPeer(a), LocalPeer(b))).write(3, COUNTS)
    assert (await Log.open(LocalPeer(b), LocalPeer(a))).start_seq == START
    await asyncio.gather(a.close(), b.close())


async def test_sessions_of_a_copied_store_are_not_believed(tmp_path: Path) -> None:
    """Two stores with one identity replicate with one target, in turns, and start again."""
    store, target = await Store.open(tmp_path / "a"), await Store.open(tmp_path / "b")
    await (await Log.open(LocalPeer(store), LocalPeer(target))).write(3, COUNTS)
    await store.close()
    shutil.copy(tmp_path / "a", tmp_path / "copy")
    ours, theirs = await Store.open(tmp_path / "a"), await Store.open(tmp_path / "copy")
    copied = await Log.open(LocalPeer(theirs), LocalPeer(target))
    await copied.write(9, COUNTS)
    await (await Log.open(LocalPeer(ours), LocalPeer(target))).write(4, COUNTS)
    await copied.write(12, COUNTS)
    assert (await Log.open(LocalPeer(ours), LocalPeer(target))).start_seq == 3
    await asyncio.gather(ours.close(), theirs.close(), target.close())


def test_a_clone_is_who_comes_between_twice() -> None:
    others = Others()
    for process in (None, PROCESS, PROCESS, "predecessor", "clone"):
        others.met(process, "somewhere")
        assert others.seen is None
    others.met("clone", "somewhere")
    assert others.seen is not None
