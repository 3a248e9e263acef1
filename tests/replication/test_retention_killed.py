"""kill -9 while readings are dropped: what is missing is in a gap, and counted once."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest

from agent.replication.retention import Options, Retention
from agent.store.store import Store
from tests.replication.retaining import Confirmed, bodies, counted, reading
from tests.replication.retaining_process import BATCH
from tests.store.helpers import rows

SEED = 20260801
KILLS = 6


async def recorded_until_killed(path: Path, number: int, when_full: str, lines: int) -> int:
    """How many readings were durable when the process was killed, after so many lines."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.replication.retaining_process"),
        *(path, str(number), when_full),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    for _ in range(lines):
        number = int(await process.stdout.readline())
    process.kill()
    rest = (await process.stdout.read()).split()
    await process.wait()
    return int(rest[-1]) if rest else number


@pytest.mark.parametrize("when_full", ["drop-oldest", "thin"])
async def test_killed_while_dropping(tmp_path: Path, when_full: str) -> None:
    chance = random.Random(SEED)
    path = tmp_path / "edge.sqlite"
    number = 0
    for _ in range(KILLS):
        number = await recorded_until_killed(path, number, when_full, chance.randint(20, 150))
        left = bodies(path)
        there, gone = counted(left)
        # The batch that was under way may be stored, too.
        assert there["temp"] + gone["temp"] in (number, number + BATCH)
        number = there["temp"] + gone["temp"]
        assert reading(number - 1).id in left
        assert rows(path, "PRAGMA integrity_check") == ["ok"]
    assert gone["temp"] > 0
    store = await Store.open(path)
    kept = Retention(store, Options(10**9), [Confirmed(0)])
    await kept.load()
    assert kept.retained.dropped == gone["temp"]
    await store.close()
