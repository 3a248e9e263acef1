"""A large attachment up and down, through a process of its own: its memory stays flat."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

PIECE = bytes(range(256)) * 1024
PIECES = 400  # 100 MiB
MOST = 16 * 1024 * 1024


def resident(pid: int) -> int:
    """The highest resident memory of a process so far, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def pieces(start: int = 0) -> AsyncIterator[bytes]:
    for number in range(start, PIECES):
        yield number.to_bytes(4, "big") + PIECE[4:]


async def digest(content: AsyncIterator[bytes]) -> str:
    sha = hashlib.sha256()
    async for piece in content:
        sha.update(piece)
    return sha.hexdigest()


async def test_100_mb_up_and_down(tmp_path: Path) -> None:
    command = ["-m", "agent", "hub", "--data", str(tmp_path), "--listen", "127.0.0.1:0"]
    hub = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert hub.stdout is not None
        found = re.search(rb"http://[\d.:]+", await hub.stdout.readline())
        assert found is not None
        async with aiohttp.ClientSession(found[0].decode()) as session:
            await (await session.put("/db")).read()
            await (await session.put("/db/first/f", data=io.BytesIO(PIECE * 16))).read()
            await (await session.get("/db/first/f")).read()
            before = resident(hub.pid)
            answer = await session.put("/db/a/f", data=pieces())
            assert answer.status == 201, await answer.text()
            up = resident(hub.pid) - before
            answer = await session.get("/db/a/f")
            received = await digest(answer.content.iter_chunked(65536))
            down = resident(hub.pid) - before
        assert received == await digest(pieces())
        assert max(up, down) <= MOST, (up, down)
    finally:
        hub.terminate()
        await hub.wait()
