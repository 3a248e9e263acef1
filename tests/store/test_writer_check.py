"""Whether a store's writer gets on, which systemd's watchdog hangs on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from agent.store.store import Store
from agent.store.transaction import Transaction

LONGEST = 20.0
"""Seconds that anything may take; only so that a test cannot hang."""


async def test_a_writer_that_hangs_shows(store: Store) -> None:
    go_on = threading.Event()

    def hang(_: Transaction) -> None:
        go_on.wait()

    hanging = asyncio.create_task(store.write(hang))
    checking = asyncio.create_task(store.check())
    done, _ = await asyncio.wait({checking}, timeout=2.5)
    assert not done
    go_on.set()
    await asyncio.wait_for(checking, LONGEST)
    await hanging


async def test_a_writer_with_long_work_gets_on(store: Store) -> None:
    done = threading.Event()
    working = asyncio.create_task(store.write(_count_until(done)))
    try:
        await asyncio.wait_for(store.check(), LONGEST)
        assert not working.done()
    finally:
        done.set()
    await working


def _count_until(done: threading.Event) -> Callable[[Transaction], None]:
    numbers = (
        "WITH RECURSIVE numbers(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM numbers LIMIT 300000)"
        " SELECT count(*) FROM numbers"
    )

    def work(transaction: Transaction) -> None:
        while not done.is_set():
            transaction._db.execute(numbers).fetchone()

    return work
