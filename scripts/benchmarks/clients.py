"""Clients that replicate a database of theirs with a server's, and what that takes them."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
from yarl import URL

from agent.documents.revision import Revision
from scripts.benchmarks.harness import BenchError
from scripts.benchmarks.processes import AGENT, cpu_seconds, peak_mib, run_measured
from scripts.benchmarks.readings import BATCH
from scripts.benchmarks.servers import DATABASE
from tests.peers.pouch import Pouch


@dataclass(frozen=True, slots=True)
class Done:
    """What a replication took: seconds for all of it, the client's processor time and peak."""

    seconds: float
    cpu: float
    peak: float


class Client(Protocol):
    async def push(self, url: str, folder: Path) -> Done:
        """Replicate all the readings from a database in `folder` to the one at `url`."""

    async def pull(self, url: str, folder: Path) -> Done:
        """Replicate all the readings from the database at `url` to a new one in `folder`."""


class EdgeAgent:
    """`edge-agent replicate`, a process for each replication.

    Its processor time includes the start of the process; its seconds do not.
    """

    def __init__(self, template: Path, count: int) -> None:
        """`template` is a store file with `count` readings."""
        self._template = template
        self._count = count

    async def push(self, url: str, folder: Path) -> Done:
        store = folder / "client.sqlite"
        await asyncio.to_thread(shutil.copy, self._template, store)
        place, options = self._remote(url, folder, "--target-password-file")
        return await self._replicate([str(store), place, *options], folder)

    async def pull(self, url: str, folder: Path) -> Done:
        place, options = self._remote(url, folder, "--source-password-file")
        return await self._replicate([place, str(folder / "client.sqlite"), *options], folder)

    def _remote(self, url: str, folder: Path, option: str) -> tuple[str, list[str]]:
        """The address without the password, which the process list would show."""
        address = URL(url)
        if address.password is None:
            return url, []
        secret = folder / "password"
        secret.touch(0o600)
        secret.write_text(address.password)
        return str(address.with_password(None)), [option, str(secret)]

    async def _replicate(self, arguments: Sequence[str], folder: Path) -> Done:
        command = [*AGENT, "replicate", *arguments, "--create-target", "--json"]
        ended = await asyncio.to_thread(run_measured, command, folder)
        result = msgspec.json.decode(ended.output)
        if result["docs_written"] != self._count or not result["ok"]:
            raise BenchError(f"edge-agent replicated {result['docs_written']} of {self._count}")
        return Done(result["seconds"], ended.cpu, ended.peak)


class PouchClient:
    """PouchDB on LevelDB in Node.js, a process for each replication, started before it begins."""

    def __init__(self, template: Path, count: int) -> None:
        """`template` becomes a folder with all the readings, see `make_template`."""
        self._template = template
        self._count = count
        self.batch_size: dict[str, int] = {}
        """By direction, where PouchDB's own is not the best."""

    async def make_template(self, revisions: Sequence[Revision]) -> None:
        async with _Pouch() as pouch:
            database = await pouch.open(DATABASE, directory=self._template)
            for start in range(0, len(revisions), BATCH):
                docs = [
                    {
                        "_id": revision.id,
                        "_rev": str(revision.rev),
                        **msgspec.json.decode(revision.body),
                    }
                    for revision in revisions[start : start + BATCH]
                ]
                await database.bulk_docs(docs, new_edits=False)
            await database.close()

    async def push(self, url: str, folder: Path) -> Done:
        await asyncio.to_thread(shutil.copytree, self._template, folder / "client")
        return await self._replicate("push", url, folder)

    async def pull(self, url: str, folder: Path) -> Done:
        return await self._replicate("pull", url, folder)

    async def _replicate(self, direction: str, url: str, folder: Path) -> Done:
        options = {}
        if direction in self.batch_size:
            options["batch_size"] = self.batch_size[direction]
        async with _Pouch() as pouch:
            database = await pouch.open(DATABASE, directory=folder / "client")
            replicate = database.replicate_to if direction == "push" else database.replicate_from
            before, started = cpu_seconds(pouch.pid), time.perf_counter()
            result = await replicate(url, **options)
            seconds = time.perf_counter() - started
            done = Done(seconds, cpu_seconds(pouch.pid) - before, peak_mib(pouch.pid))
        if result["docs_written"] != self._count:
            raise BenchError(f"PouchDB replicated {result['docs_written']} of {self._count}")
        return done


class _Pouch(Pouch):
    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid
