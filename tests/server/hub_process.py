"""A hub in a process of its own, whose memory can be looked at."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hub:
    url: str
    pid: int

    def resident(self) -> int:
        """The highest resident memory of the process since the start or `forget`, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def forget(self) -> None:
        """From now on only what is resident now or later counts."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@asynccontextmanager
async def hub(folder: Path) -> AsyncIterator[Hub]:
    """A hub with its databases in `folder`, on a free port."""
    command = ["-m", "agent", "hub", "--data", str(folder), "--listen", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        found = re.search(rb"http://[\d.:]+", await process.stdout.readline())
        assert found is not None
        yield Hub(found[0].decode(), process.pid)
    finally:
        process.terminate()
        await process.wait()
