"""What memory a large attachment takes, up and down.

The server has seen smaller ones before; then its highest resident memory so far may grow. It is a
new hub in every round, and a client that reads and writes in pieces. Nothing stands beside it:
pouchdb-server would take 4 GiB for this.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import shutil
import time
from dataclasses import dataclass

from scripts.benchmarks.harness import BenchError, Options, Row, Target
from scripts.benchmarks.http_client import Connection, connected
from scripts.benchmarks.processes import peak_mib, running_agent
from scripts.benchmarks.servers import DATABASE

MEGABYTES = 100
QUICK_MEGABYTES = 4
TARGET = Target(at_most=16.0)

_MEGABYTE = 1_000_000
_WARM = 1
_PIECE = 65536


@dataclass(frozen=True, slots=True)
class _Sample:
    """MiB by which the peak has grown after the upload, and after both; megabytes a second."""

    up: float
    down: float
    up_rate: float
    down_rate: float


async def run(options: Options) -> list[Row]:
    size = QUICK_MEGABYTES if options.quick else MEGABYTES
    data = random.Random(7).randbytes(size * _MEGABYTE)
    digest = hashlib.sha256(data).digest()

    samples = []
    for number in range(options.rounds):
        options.note(f"round {number + 1} of {options.rounds}")
        folder = options.folder / str(number)
        async with running_agent("hub", "--data", str(folder), "--listen", "127.0.0.1:0") as hub:
            url = f"{hub.url}/{DATABASE}"
            samples.append(await asyncio.to_thread(_measure, url, hub.pid, data, digest))
        await asyncio.to_thread(shutil.rmtree, folder)

    def row(what: str, unit: str, field: str, target: Target | None = None) -> Row:
        return Row(what, unit, [getattr(sample, field) for sample in samples], target=target)

    return [
        row(f"memory for {size} MB up", "MiB", "up", TARGET),
        row("  up and down", "MiB", "down", TARGET),
        row("  up", "MB/s", "up_rate"),
        row("  down", "MB/s", "down_rate"),
    ]


def _measure(url: str, pid: int, data: bytes, digest: bytes) -> _Sample:
    with connected(url) as connection:
        connection.create()
        small = data[: _WARM * _MEGABYTE]
        _upload(connection, "small", small)
        _download(connection, "small", hashlib.sha256(small).digest())
        before = peak_mib(pid)
        started = time.perf_counter()
        _upload(connection, "large", data)
        uploaded, up = time.perf_counter(), peak_mib(pid)
        _download(connection, "large", digest)
        downloaded, down = time.perf_counter(), peak_mib(pid)
    size = len(data) / _MEGABYTE
    return _Sample(
        up - before, down - before, size / (uploaded - started), size / (downloaded - uploaded)
    )


def _upload(connection: Connection, id: str, data: bytes) -> None:
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(data))}
    connection.request("PUT", f"{id}/file", io.BytesIO(data), headers=headers).read()


def _download(connection: Connection, id: str, digest: bytes) -> None:
    sha = hashlib.sha256()
    response = connection.request("GET", f"{id}/file", headers={"Accept": "*/*"})
    while piece := response.read(_PIECE):
        sha.update(piece)
    if sha.digest() != digest:
        raise BenchError("the attachment came back different")
