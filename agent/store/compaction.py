"""Compaction: old bodies go, and the file shrinks.

The rule is simple and CouchDB's: what is no leaf of its document's tree loses its body; the tree
remembers the revision. Live leaves, conflicts and tombstones stay, and so do the common ancestors
of the conflicts that there are, since a merge, by a policy or by hand, needs them. Where policies
say so, the last few ancestors of each document stay for conflicts to come.

It works in small steps, each a write like any other: writers and readers go on in between.
"""

from __future__ import annotations

from functools import partial

from agent.store.transaction import Transaction
from agent.store.writer import Writer

_ROWS = 1000
_PAGES = 500
"""In one step: some milliseconds, and 2 MB of the WAL."""


async def compact(writer: Writer, *, keep: int = 0) -> None:
    """Compact a store through its writer; `keep` so many generations. Raises StoreWriteError.

    Cancelled or failed, it leaves a sound store that is compacted in part.
    """
    after: int | None = 0
    while after is not None:
        after = await writer.run(partial(_drop_old_bodies, after=after, keep=keep))
    await writer.run(_remove_unreferenced)
    await give_back(writer)


async def give_back(writer: Writer, *, keep: int = 0) -> None:
    """Give unused pages back to the file system, but `keep` of them; the WAL, too.

    Raises StoreWriteError.
    """
    release = partial(_release_pages, keep=keep)
    unused, left = None, await writer.run(release)
    while left > keep and left != unused:  # a file may be unable to give pages back
        unused, left = left, await writer.run(release)
    await writer.shrink()


def _drop_old_bodies(transaction: Transaction, *, after: int, keep: int) -> int | None:
    return transaction.rows.drop_old_bodies(after, _ROWS, keep=keep)


def _remove_unreferenced(transaction: Transaction) -> int:
    return transaction.blobs.remove_unreferenced()


def _release_pages(transaction: Transaction, *, keep: int) -> int:
    return transaction.release_pages(_PAGES, keep=keep)
