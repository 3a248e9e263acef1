"""Runs the real pouchdb-server, a CouchDB look-alike. Of use to tests and to scripts."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.patience import PATIENCE
from tests.peers.node import PACKAGES, node_program
from tests.rig.network import find_free_port

STOP_LIMIT = 5.0
_PROGRAM = PACKAGES / "pouchdb-server" / "bin" / "pouchdb-server"
# It is from 2019 and leaves failed promises alone, which today's Node.js takes as a reason to end.
_NODE_OPTIONS = "--unhandled-rejections=warn"
_STARTED = "pouchdb-server has started on"


class PouchDBServer:
    """One pouchdb-server, which keeps its databases in a folder, or in memory.

    It can be stopped or killed and started again: the port stays, and so do the databases in a
    folder. Each method has a twin that ends in `_now`, which blocks, for use without a loop.
    """

    def __init__(
        self, directory: Path, *, in_memory: bool = False, port: int | None = None
    ) -> None:
        self.directory = directory
        self.in_memory = in_memory
        self.port = find_free_port() if port is None else port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        return None if self._process is None else self._process.pid

    @property
    def log(self) -> str:
        """What the server has printed since it was first started."""
        path = self._log_path
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def _log_path(self) -> Path:
        return self.directory / "output.txt"

    async def start(self) -> None:
        """Starts the server and returns once it answers."""
        await asyncio.to_thread(self.start_now)

    async def stop(self) -> None:
        """Asks the server to end, and ends it if it does not. No effect if it does not run."""
        await asyncio.to_thread(self.stop_now)

    async def kill(self) -> None:
        """Ends the server as a crash would. No effect if it does not run."""
        await asyncio.to_thread(self.kill_now)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start_now(self) -> None:
        if self._process is not None:
            raise RuntimeError("pouchdb-server is running already")
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [node_program(), str(_PROGRAM), "--no-color", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--dir", str(self.directory)]
        command += ["--config", str(self.directory / "config.json")]
        if self.in_memory:
            command.append("--in-memory")
        printed_before = len(self.log)
        with self._log_path.open("ab") as log:
            # A session of its own, so that ending it can end nothing else.
            self._process = subprocess.Popen(
                command,
                cwd=self.directory,
                env={**os.environ, "NODE_OPTIONS": _NODE_OPTIONS},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_it_answers(self._process, printed_before)
        except BaseException:
            self.kill_now()
            raise

    def stop_now(self) -> None:
        process = self._process
        if process is None:
            return
        _signal_group(process, signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.kill_now()
        self._process = None

    def kill_now(self) -> None:
        if self._process is not None:
            _signal_group(self._process, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes], printed_before: int) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if process.poll() is not None:
                raise RuntimeError(f"pouchdb-server ended while starting:\n{self.log}")
            # The log tells it from another server that has the port.
            if _STARTED in self.log[printed_before:] and self._answers():
                return
            time.sleep(0.05)
        raise TimeoutError(f"pouchdb-server did not answer in {PATIENCE:.0f} s:\n{self.log}")

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/_all_dbs")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # Until it is waited for, a process that has ended keeps its id, so this hits nobody else.
    if process.poll() is None:
        os.killpg(process.pid, number)


@pytest.fixture
async def pouchdb_server(tmp_path: Path) -> AsyncIterator[PouchDBServer]:
    """A pouchdb-server of the test's own, on LevelDB."""
    async with PouchDBServer(tmp_path / "pouchdb-server") as server:
        yield server


@pytest.fixture(scope="session")
def shared_pouchdb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PouchDBServer]:
    """One pouchdb-server, in memory, for all tests: give each database a name of its own."""
    server = PouchDBServer(tmp_path_factory.mktemp("pouchdb-server"), in_memory=True)
    server.start_now()
    try:
        yield server
    finally:
        server.stop_now()
