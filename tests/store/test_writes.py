"""How much goes to the disk: cards wear out."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.store.store import Store
from agent.store.writer import Writer
from tests.store.helpers import reading, rows

_FRAME = 4096 + 24
"""Bytes of the WAL that a changed page takes."""

_COUNT = 2000


def written() -> int:
    """Bytes that this process has written to files."""
    for line in Path("/proc/self/io").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "wchar":
            return int(value)
    raise AssertionError("the kernel does not count them")


def frames(store: Store) -> int:
    """Pages in the WAL, as nothing has been carried over to the file yet."""
    return store.path.with_name(store.path.name + "-wal").stat().st_size // _FRAME


async def full(store: Store) -> None:
    await store.graft([reading(number, text="x" * 200) for number in range(_COUNT)])
    await store.give_back()  # which empties the WAL


async def test_a_write_costs_what_it_appends_to_the_wal(store: Store) -> None:
    """Also where it changes pages that a savepoint might have to bring back, hundreds of them."""
    await full(store)
    before = written()
    await store.graft([reading(number, other=True) for number in range(_COUNT, 0, -10)])
    appended = frames(store) * _FRAME
    assert appended > 100_000
    assert written() - before < appended * 1.2


async def test_unused_space_goes_in_few_steps(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await full(store)
    await store.write(lambda transaction: transaction.retire(range(1, _COUNT - 10)))
    (unused,) = rows(path, "PRAGMA freelist_count")
    assert unused > 100
    commits = 0
    commit = Writer._commit

    def counted(writer: Writer, items: object) -> None:
        nonlocal commits
        commits += 1
        commit(writer, items)  # type: ignore[arg-type]

    monkeypatch.setattr(Writer, "_commit", counted)
    await store.give_back(keep=20 * 4096)
    assert rows(path, "PRAGMA freelist_count") == [20]
    assert commits <= 3
