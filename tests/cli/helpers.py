"""Stores and servers for the tests of the command line, in their simplest form."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import sqlite3
import ssl
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from agent.cli.main import main
from agent.documents.revision import Revision, first_revision
from agent.store.store import Store
from tests.agents import Finished
from tests.patience import PATIENCE


def make_store(path: Path, revisions: Iterable[Revision] = ()) -> Path:
    """A store file that no process has open."""

    path.parent.mkdir(exist_ok=True)

    async def make() -> None:
        store = await Store.open(path)
        await store.graft(list(revisions))
        await store.close()

    asyncio.run(make())
    return path


def documents(count: int, name: str = "doc") -> list[Revision]:
    return [first_revision(f"{name}:{number}", {"n": number}) for number in range(count)]


def query(path: Path, sql: str) -> list[Any]:
    """What is in a store's file, also while another process has it open."""
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def request(method: str, url: str, body: Any = None) -> Any:
    """The JSON that a server on this machine answers with; raises for a status from 400 on."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(asked, timeout=PATIENCE) as response:
        return json.load(response)


def in_process(*arguments: object, answers: str = "", width: int | None = None) -> Finished:
    """Run `edge-agent` to its end without a process of its own, which is faster.

    `answers` is what somebody types, `width` that of the terminal.
    """
    environment = None if width is None else {"COLUMNS": str(width)}
    result = CliRunner().invoke(
        main, [*map(str, arguments)], answers, environment, prog_name="edge-agent"
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Finished(result.exit_code, result.stdout, result.stderr)


@contextlib.contextmanager
def serving(handler: Any, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A web server on a thread; yields its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that give up
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
