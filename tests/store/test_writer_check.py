"""Whether a store's writer gets on, which systemd's watchdog hangs on."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

from agent.store.store import Store
from agent.store.transaction import Transaction
from tests.patience import PATIENCE


async def test_a_writer_that_hangs_shows(store: Store) -> None:
    go_on = threading.Event()

    def hang(_: Transaction) -> None:
        go_on.wait()

    hanging = asyncio.create_task(store.write(hang))
    checking = asyncio.create_task(store.check())
    done, _ = await asyncio.wait({checking}, timeout=2.5)
    assert not done
    go_on.set()
    await asyncio.wait_for(checking, PATIENCE)
    await hanging


async def test_a_writer_with_long_work_gets_on(store: Store) -> None:
    done = threading.Event()
    working = asyncio.create_task(store.write(_count_until(done)))
    try:
        await asyncio.wait_for(store.check(), PATIENCE)
        assert not working.done()
    finally:
        done.set()
    await working


async def test_threads_that_wait_for_the_network_keep_no_store_from_being_looked_at(
    store: Store,
) -> None:
    """Names are looked up in asyncio's own, and there are few of them."""
    answered = threading.Event()
    loop = asyncio.get_running_loop()
    asking = [loop.run_in_executor(None, answered.wait) for _ in range(100)]
    try:
        await asyncio.wait_for(store.check(), PATIENCE)
    finally:
        answered.set()
    await asyncio.gather(*asking)


async def test_what_goes_wrong_when_nobody_waits_any_more_is_not_logged(store: Store) -> None:
    """As when a replication is stopped while its checkpoint meets another one."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    go_on = threading.Event()
    holding = asyncio.create_task(store.write(lambda _: go_on.wait()))
    refused = asyncio.create_task(store.put_local("x", "0-7", "{}"))  # there is none
    await asyncio.sleep(0.05)
    refused.cancel()
    await asyncio.wait({refused})
    go_on.set()
    await holding
    await store.put_local("x", None, "{}")
    del refused
    gc.collect()
    assert told == []


def _count_until(done: threading.Event) -> Callable[[Transaction], None]:
    numbers = (
        "WITH RECURSIVE numbers(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM numbers LIMIT 300000)"
        " SELECT count(*) FROM numbers"
    )

    def work(transaction: Transaction) -> None:
        while not done.is_set():
            transaction._db.execute(numbers).fetchone()

    return work
