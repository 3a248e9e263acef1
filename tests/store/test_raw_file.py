"""SQLite's format, read without SQLite: what SQLite has written, and whatever else."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.store.raw_file import RawFile
from agent.store.raw_pages import FRAME_HEADER, PAGE_SIZE, WAL_HEADER, _checksum

INTEGERS = st.integers(-(2**63), 2**63 - 1)
VALUES = st.one_of(
    st.none(),
    INTEGERS,
    st.integers(-2, 2),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=("Cs",))),
    st.binary(),
    st.integers(0, 9000).map(lambda size: "é" * size),
    st.integers(0, 20000).map(bytes),
)
ROWS = st.dictionaries(INTEGERS, st.tuples(VALUES, VALUES, VALUES), max_size=30)
KEYED = st.dictionaries(st.integers(0, 3000).map(lambda size: "k" * size), VALUES, max_size=30)

FAST = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


_OF_A_FRAME = (0, 7, 10, 20, FRAME_HEADER, 2000, FRAME_HEADER + PAGE_SIZE - 1)
"""Places in the number of its page, the size of the file, salts, checksum, and the page."""


def write(path: Path, rows: dict[int, tuple[object, ...]], keyed: dict[str, object]) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE numbered (n INTEGER PRIMARY KEY, a, b, c)")
        db.execute("CREATE TABLE keyed (k TEXT PRIMARY KEY, v) WITHOUT ROWID")
        insert = "INSERT INTO numbered VALUES (?, ?, ?, ?)"
        db.executemany(insert, [(n, *values) for n, values in rows.items()])
        db.executemany("INSERT INTO keyed VALUES (?, ?)", keyed.items())


@FAST
@given(ROWS, KEYED)
def test_what_sqlite_has_written_is_read(
    tmp_path: Path, rows: dict[int, tuple[object, ...]], keyed: dict[str, object]
) -> None:
    path = tmp_path / "file"
    write(path, rows, keyed)
    with RawFile(path) as file:
        found = list(file.rows())
    numbered = {row.rowid: row.values[1:] for row in found if len(row.values) == 4}
    assert numbered == rows
    assert {row.values for row in found if row.rowid is None} == set(keyed.items())


@FAST
@given(ROWS, KEYED, st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=40))))
def test_whatever_is_damaged_it_comes_to_an_end(
    tmp_path: Path,
    rows: dict[int, tuple[object, ...]],
    keyed: dict[str, object],
    damage: list[tuple[float, bytes]],
) -> None:
    path = tmp_path / "file"
    write(path, rows, keyed)
    content = bytearray(path.read_bytes())
    for part, data in damage:
        place = int(part * (len(content) - 1))
        content[place : place + len(data)] = data
    path.write_bytes(content)
    with RawFile(path) as file:
        assert sum(1 for _ in file.rows()) < len(content)


def test_a_wal_counts_as_far_as_it_does_for_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path, {}, {})
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for n in range(5):
            db.execute("INSERT INTO numbered VALUES (?, ?, 0, 0)", (n, "x" * 9000))
        content, wal = path.read_bytes(), path.with_name("file-wal").read_bytes()
    seen = set()
    for number, cut in enumerate(range(0, len(wal) + 1, 1500)):
        copy = tmp_path / f"copy{number}"
        copy.write_bytes(content)
        copy.with_name(f"{copy.name}-wal").write_bytes(wal[: len(wal) - cut])
        with RawFile(copy) as file:
            found = sum(len(row.values) == 4 for row in file.rows())
            assert not file.wal_is_damaged  # the last transaction was not finished
        with closing(sqlite3.connect(copy)) as db:
            assert db.execute("SELECT count(*) FROM numbered").fetchone() == (found,)
        seen.add(found)
    assert seen == {0, 1, 2, 3, 4, 5}


def test_of_a_damaged_wal_what_comes_after_the_damage_is_read(tmp_path: Path) -> None:
    """It had been synced, unlike a last transaction; SQLite leaves it out and says nothing."""
    path, copy = tmp_path / "file", tmp_path / "copy"
    write(path, {}, {})
    ends = []
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for n in range(5):
            db.execute("INSERT INTO numbered VALUES (?, ?, 0, 0)", (n, "x" * 9000))
            ends.append(path.with_name("file-wal").stat().st_size)
        content, wal = path.read_bytes(), path.with_name("file-wal").read_bytes()
    copy.write_bytes(content)
    frame = FRAME_HEADER + PAGE_SIZE
    places = [*range(0, WAL_HEADER, 3)]
    places += [start + n for start in range(WAL_HEADER, len(wal), frame) for n in _OF_A_FRAME]
    for place in places:
        damaged = bytearray(wal)
        damaged[place] ^= 0x11
        copy.with_name("copy-wal").write_bytes(damaged)
        with RawFile(copy) as file:
            found = {row.rowid for row in file.rows() if len(row.values) == 4}
            told = file.wal_is_damaged
        # The last one may have been under way, and what its beginning goes on from has to be right.
        hit = sum(end <= place for end in ends)
        commit = ends[3] - frame
        unknown = commit <= place < ends[3] or commit - PAGE_SIZE - 8 <= place < commit - PAGE_SIZE
        assert told == (hit < 4 and not unknown), place
        if told:
            assert found >= {*range(5)} - {hit}, place
        else:
            assert found == {*range(hit)}, place


def test_a_wal_that_says_there_are_billions_of_pages_comes_to_an_end(tmp_path: Path) -> None:
    """As SQLite writes it after it has followed a damaged number of a page."""
    path = tmp_path / "file"
    write(path, {}, {})
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for n in range(5):
            db.execute("INSERT INTO numbered VALUES (?, ?, 0, 0)", (n, "x" * 9000))
        content, wal = path.read_bytes(), bytearray(path.with_name("file-wal").read_bytes())
    before, last = (len(wal) - each * (FRAME_HEADER + PAGE_SIZE) for each in (2, 1))
    words = ">" if wal[3] & 1 else "<"
    struct.pack_into(">I", wal, last + 4, 2**32 - 1)
    sums = _checksum(wal[last : last + 8], struct.unpack_from(">II", wal, before + 16), words)
    sums = _checksum(wal[last + FRAME_HEADER :], sums, words)
    struct.pack_into(">II", wal, last + 16, *sums)
    path.write_bytes(content)
    path.with_name("file-wal").write_bytes(wal)
    with RawFile(path) as file:
        assert sum(len(row.values) == 4 for row in file.rows()) == 5
