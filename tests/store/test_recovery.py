"""Rows that can be read and are wrong: whatever they say, the copy can be opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cbor2
import pytest

from agent.documents.revision import Revision
from agent.documents.tree import RevTree
from agent.store.connection import marker, open_writer
from agent.store.databases import Databases
from agent.store.raw_pages import Row
from agent.store.recovery import Recovered, recover
from agent.store.store import Store
from tests.store.helpers import put

NESTED = '{"a":' * 100_000 + "1" + "}" * 100_000
SOUND = (None, "a", 1, "x", 0, 0, "{}", None)


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_writer(tmp_path / "copy.sqlite", create=True)) as made:
        yield made


def test_each_bit_of_a_tree_may_be_wrong(copy: sqlite3.Connection) -> None:
    tree = RevTree.of(Revision("a", 3, ("z", "y", "x"), False, "{}")).encode()
    assert recover([Row(1, (None, "a", 3, "z", 0, 0, "{}", tree))], copy) == Recovered(1, 0)
    for bit in range(len(tree) * 8):
        damaged = bytearray(tree)
        damaged[bit // 8] ^= 1 << bit % 8
        row = Row(bit + 2, (None, f"d{bit}", 3, "z", 0, 0, "{}", bytes(damaged)))
        recover([row], copy)


@pytest.mark.timeout(60)  # before what goes in a circle fills the memory
def test_a_tree_that_goes_in_a_circle_comes_to_an_end(copy: sqlite3.Connection) -> None:
    nodes = [(1, "x", 0, False), (2, "y", 1, False), (1, "x", 1, False), (3, "z", 2, False)]
    row = Row(1, (None, "a", 3, "z", 0, 0, "{}", cbor2.dumps(nodes)))
    assert recover([row], copy) == Recovered(0, 1)


@pytest.mark.parametrize(
    ("row", "refused"),
    [
        (Row(2, (None, "b", 1, "x", 0, None, "{}", None)), 1),
        (Row(2**40, (None, bytes(32), 5)), 0),
        (Row(-1, (None, bytes(32), 5)), 0),
        (Row(None, ("resolution:x", "{}")), 0),
        (Row(None, ("seq_floor", 2**60)), 0),
        (Row(2, (None, "b", 1, "x", 0, 0, NESTED, None)), 1),
        (Row(2, (None, "b", 1, "x", 0, 0, "{}", None, NESTED)), 1),
        (Row(None, ("setting:x", NESTED)), 0),
        (Row(None, ("x", 1, NESTED)), 0),
    ],
)
def test_a_row_that_is_wrong_harms_no_other(
    copy: sqlite3.Connection, row: Row, refused: int
) -> None:
    assert recover([Row(1, SOUND), row], copy) == Recovered(1, refused)
    assert copy.execute("SELECT count(*) FROM meta WHERE key LIKE 'resolution:%'").fetchone() == (
        0,
    )
    assert copy.execute("SELECT value FROM meta WHERE key = 'seq_floor'").fetchone() == (1,)


def test_of_two_documents_with_one_sequence_both_are_there(copy: sqlite3.Connection) -> None:
    """One of them has a damaged one; nothing tells which."""
    found = [
        Row(seq, (None, id, 1, "x", 0, 0, "{}", None)) for seq, id in [(1, "a"), (2, "b"), (1, "c")]
    ]
    assert recover([*found, found[0]], copy) == Recovered(3, 0)
    assert copy.execute("SELECT seq, id FROM docs ORDER BY seq").fetchall() == [
        (1, "a"),
        (2, "b"),
        (3, "c"),
    ]


def test_a_sequence_is_not_used_twice(copy: sqlite3.Connection) -> None:
    recover([Row(1, SOUND), Row(None, ("seq_floor", 500))], copy)
    assert copy.execute("SELECT value FROM meta WHERE key = 'seq_floor'").fetchone() == (500,)


def test_how_many_documents_there_were_is_known_if_it_can_be_read(
    copy: sqlite3.Connection,
) -> None:
    counts = [Row(None, ("doc_count", 7)), Row(None, ("doc_del_count", 2))]
    assert recover([Row(1, SOUND), *counts], copy) == Recovered(1, 0, 9)
    found = copy.execute("SELECT key, value FROM meta WHERE key LIKE 'doc_%' ORDER BY key")
    assert found.fetchall() == [("doc_count", 1), ("doc_del_count", 0)]


def test_a_side_whose_document_is_lost_is_a_document(copy: sqlite3.Connection) -> None:
    leaf, inner = ("a", 2, "y", 0, 1, '{"v":2}'), ("a", 1, "x", 0, 0, '{"v":1}')
    assert recover([Row(1, leaf), Row(2, inner)], copy) == Recovered(1, 0)
    assert copy.execute("SELECT id, gen, hash, body FROM docs").fetchall() == [
        ("a", 2, "y", '{"v":2}')
    ]
    assert copy.execute("SELECT count(*) FROM revisions").fetchone() == (0,)


def aside_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("db.sqlite.damaged-*"))


async def test_each_damaged_file_is_kept_however_soon_the_next_comes(tmp_path: Path) -> None:
    """Also where the lock says that there was a WAL, which the copy does not have."""
    path = tmp_path / "db.sqlite"
    databases = Databases(tmp_path)
    await put(await databases.create("db"), "a")
    await databases.close()
    for number in range(1, 3):
        lock = tmp_path / "db.sqlite.lock"
        lock.write_bytes(lock.read_bytes().replace(b"store\n     \n", b"store\nopen \n"))
        marker(path).write_text("malformed")
        store = await Store.open(path, salvage=True)
        assert await store.get("a") is not None
        await store.close()
        heads = [file.read_bytes()[:15] for file in aside_of(tmp_path)]
        assert heads == [b"SQLite format 3"] * number
