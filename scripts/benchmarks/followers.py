"""How soon 1,000 followers of one database hear of a write, and what memory they take.

Each follower is a connection of its own to a hub, with `_changes?feed=continuous`. The moment that
counts is when the last of them has the new row, from when the request to write was sent. The
memory is the server's resident one once they have all heard of the writes, less what it had before
they came, for each follower. The followers share one process, which does nothing with what it gets
but count rows, and share the processors with the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from yarl import URL

from scripts.benchmarks.harness import BenchError, Options, Row, Target
from scripts.benchmarks.http_client import connected
from scripts.benchmarks.processes import cpu_seconds, resident_mib, running_agent
from scripts.benchmarks.servers import DATABASE

FOLLOWERS = 1_000
QUICK_FOLLOWERS = 50
WRITES = 5
TARGET = Target(at_most=500.0)
MEMORY_TARGET = Target(at_most=40.0)

_AT_ONCE = 50
_SPARE_FILES = 100
_LONGEST_WAIT = 120.0
_PAUSE = 0.2


@dataclass(frozen=True, slots=True)
class _Sample:
    """Milliseconds until the last, and until half of the followers were informed; KiB of memory
    and the server's processor milliseconds for a write, both for each follower."""

    last: float
    median: float
    memory: float
    cpu: float


async def run(options: Options) -> list[Row]:
    count = QUICK_FOLLOWERS if options.quick else FOLLOWERS
    _allow_files(count + _SPARE_FILES)

    samples = []
    for number in range(options.rounds):
        options.note(f"round {number + 1} of {options.rounds}")
        data = str(options.folder / str(number))
        async with running_agent("hub", "--data", data, "--listen", "127.0.0.1:0") as hub:
            samples.append(await _measure(f"{hub.url}/{DATABASE}", hub.pid, count))

    def row(what: str, unit: str, field: str, target: Target | None = None) -> Row:
        return Row(what, unit, [getattr(sample, field) for sample in samples], target=target)

    return [
        row(f"a write until {count:,} followers have it", "ms", "last", TARGET),
        row("  until half of them have it", "ms", "median"),
        row("  server's memory for each of them", "KiB", "memory", MEMORY_TARGET),
        row("  server's processor time for each, a write", "ms", "cpu"),
    ]


async def _measure(url: str, pid: int, count: int) -> _Sample:
    with connected(url) as connection:
        await asyncio.to_thread(connection.create)
        # What the first request of a kind takes is not the followers'.
        for number in range(WRITES):
            await asyncio.to_thread(connection.read, "PUT", f"before-{number}", b'{"value":1}')
        since = (await asyncio.to_thread(connection.ask, "GET"))["update_seq"]
        before = resident_mib(pid)
        async with _following(url, since, count) as group:
            samples = []
            cpu = cpu_seconds(pid)
            for number in range(WRITES):
                await asyncio.sleep(_PAUSE)
                arrived = group.expect(number + 1)
                started = time.perf_counter()
                await asyncio.to_thread(connection.read, "PUT", f"doc-{number}", b'{"value":1}')
                moments = await arrived
                samples.append([(moment - started) * 1000 for moment in moments])
            cpu = cpu_seconds(pid) - cpu
            grown = resident_mib(pid) - before
    return _Sample(
        last=statistics.median(max(sample) for sample in samples),
        median=statistics.median(statistics.median(sample) for sample in samples),
        memory=grown * 1024 / count,
        cpu=cpu * 1000 / WRITES / count,
    )


class _Group:
    """All followers, and when each has got how many rows."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._rows = 0
        self._moments: list[float] = []
        self._done: asyncio.Future[list[float]] | None = None
        self.answered = asyncio.Semaphore(0)

    async def _wait(self, done: asyncio.Future[list[float]]) -> list[float]:
        try:
            return await asyncio.wait_for(done, _LONGEST_WAIT)
        except TimeoutError:
            raise BenchError(f"{len(self._moments)} of {self._count} followers heard") from None

    def expect(self, rows: int) -> asyncio.Task[list[float]]:
        """The moments at which the followers have that many rows each."""
        self._rows = rows
        self._moments = []
        self._done = asyncio.get_running_loop().create_future()
        return asyncio.ensure_future(self._wait(self._done))

    def has(self, rows: int) -> None:
        """A follower has now so many rows."""
        if rows == self._rows:
            self._moments.append(time.perf_counter())
            if len(self._moments) == self._count and self._done is not None:
                self._done.set_result(self._moments)


class _Follower(asyncio.Protocol):
    def __init__(self, group: _Group, request: bytes) -> None:
        self._group = group
        self._request = request
        self._answered = False
        self._rows = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._answered:
            self._answered = True
            self._group.answered.release()
        rows = data.count(b'"seq"')
        if rows:
            self._rows += rows
            self._group.has(self._rows)


@contextlib.asynccontextmanager
async def _following(url: str, since: object, count: int) -> AsyncIterator[_Group]:
    """Followers that wait for the first change after `since`."""
    address = URL(url)
    path = f"{address.raw_path}/_changes?feed=continuous&heartbeat=30000&since={since}"
    request = f"GET {path} HTTP/1.1\r\nHost: {address.authority}\r\n\r\n".encode()
    host, port = address.host or "", address.port or 0
    group = _Group(count)
    loop = asyncio.get_running_loop()
    transports: list[asyncio.Transport] = []
    try:
        for start in range(0, count, _AT_ONCE):
            made = await asyncio.gather(
                *(
                    loop.create_connection(lambda: _Follower(group, request), host, port)
                    for _ in range(min(_AT_ONCE, count - start))
                )
            )
            transports += [transport for transport, _ in made]
        async with asyncio.timeout(_LONGEST_WAIT):
            for _ in range(count):
                await group.answered.acquire()
        yield group
    finally:
        for transport in transports:
            transport.abort()


def _allow_files(count: int) -> None:
    """For this process, and for the servers that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            raise BenchError(f"only {hard} files may be open here (ulimit -Hn), not {count}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
