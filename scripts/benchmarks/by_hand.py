"""The query of the find benchmark by hand: SQL, rows to JSON text, and no more.

As a program, a server that answers with it: what HTTP and threads take alone.
    python -m scripts.benchmarks.by_hand STORE
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import msgspec
from aiohttp import web

_INDEX = (
    "CREATE INDEX by_hand ON docs (json_extract(body, '$.sensor'), json_extract(body, '$.time'))"
)
_SELECT = (
    "SELECT id, gen, hash, body FROM docs "
    "WHERE json_extract(body, '$.sensor') = ? AND json_extract(body, '$.time') >= ? "
    "ORDER BY json_extract(body, '$.time') LIMIT ?"
)
_text = msgspec.json.Encoder().encode


def make_index(path: Path) -> None:
    """Give a store file the index for this query, and take those of the agent away."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        names = db.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'index' AND name GLOB 'find_*'"
        ).fetchall()
        for (name,) in names:
            db.execute(f'DROP INDEX "{name}"')
        db.execute(_INDEX)


def open_by_hand(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)


def query(db: sqlite3.Connection, sensor: str, since: str, limit: int) -> bytes:
    """The first `limit` readings of a sensor from a time on, as `_find` would answer."""
    rows = db.execute(_SELECT, (sensor, since, limit))
    docs = [
        f'{{"_id":{_text(id).decode()},"_rev":"{generation}-{digest}",{body[1:]}'
        for id, generation, digest, body in rows
    ]
    return f'{{"docs":[{",".join(docs)}]}}'.encode()


async def _serve(path: Path) -> None:
    with closing(open_by_hand(path)) as db:

        async def handle(request: web.Request) -> web.Response:
            asked = msgspec.json.decode(await request.read())
            body = await asyncio.to_thread(query, db, *asked)
            return web.Response(body=body, content_type="application/json")

        app = web.Application()
        app.router.add_post("/bench/query", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
