"""Records and drops until it is killed: `python -m tests.replication.retaining_process FILE`.

Prints the number of each reading that is durable; begins after the number that is given.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from agent.errors import StoreWriteError
from agent.replication.retention import Options, Retention
from agent.store.store import Store
from tests.replication.retaining import START, Confirmed, reading

BUDGET = 600_000
BATCH = 20
PADDING = "x" * 300


async def main() -> None:
    store = await Store.open(Path(sys.argv[1]))
    number = int(sys.argv[2])
    options = Options(BUDGET, sys.argv[3])  # type: ignore[arg-type]
    retention = Retention(store, options, [Confirmed(0)], clock=lambda: START.timestamp() + 1e6)
    await retention.load()

    async def retain() -> None:
        while True:
            await retention.once()
            await asyncio.sleep(0)

    retaining = asyncio.create_task(retain())
    while not retaining.done():
        numbers = range(number, number + BATCH)
        try:
            await store.graft([reading(n, note=PADDING) for n in numbers])
        except StoreWriteError:  # faster than what is dropped
            await asyncio.sleep(0.01)
            continue
        number += BATCH
        os.write(1, f"{number}\n".encode())
    await retaining


if __name__ == "__main__":
    asyncio.run(main())
