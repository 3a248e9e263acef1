"""Stores with much in them, and ways to damage their files."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from agent.store.salvage import SALVAGED, Salvage
from agent.store.store import Store
from tests.mqtt.site import contents
from tests.store.fixtures.make import fill
from tests.store.helpers import reading

PAGE = 4096
COUNT = 4000


_made: dict[int, tuple[dict[str, bytes], dict[str, object]]] = {}
"""By the count of readings: the files, by what follows the store's name, and what is in it."""


async def make(path: Path, *, count: int = COUNT) -> dict[str, object]:
    """A store with readings, histories and conflicts; returns what is in it. Those with the same
    count are copies of one."""
    path.parent.mkdir(exist_ok=True)
    if count not in _made:
        store = await Store.open(path)
        await fill(store)
        await store.graft([reading(number, value=number) for number in range(count)])
        await store.put_local("state", None, '{"kept":true}')
        found = await contents(store)
        await store.close()
        _made[count] = _files(path), found
    files, found = _made[count]
    for suffix, content in files.items():
        leave(path.with_name(path.name + suffix), content)
    return dict(found)


def _files(path: Path) -> dict[str, bytes]:
    files = path.parent.glob(f"{path.name}*")
    return {file.name.removeprefix(path.name): file.read_bytes() for file in files}


def damage(path: Path, pages: list[int]) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE)
            file.write(random.Random(page).randbytes(PAGE))


def strew(path: Path, chance: random.Random, count: int) -> None:
    """Single bytes that are wrong."""
    with path.open("r+b") as file:
        for _ in range(count):
            file.seek(chance.randrange(path.stat().st_size))
            file.write(chance.randbytes(1))


def misplace(path: Path, chance: random.Random, count: int, size: int) -> None:
    """What belongs elsewhere in the file."""
    with path.open("r+b") as file:
        places = range(path.stat().st_size // size)
        for _ in range(count):
            file.seek(chance.choice(places) * size)
            content = file.read(size)
            file.seek(chance.choice(places) * size)
            file.write(content)


def kind_of(path: Path, page: int) -> int:
    """The first byte of a page, counted from 0."""
    with path.open("rb") as file:
        file.seek(page * PAGE)
        return file.read(1)[0]


def leave(path: Path, content: bytes | None) -> None:
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


def pages_of(path: Path) -> int:
    return path.stat().st_size // PAGE


def told(path: Path) -> Salvage:
    ((body,),) = rows_of(path, f"SELECT body FROM local WHERE id = '{SALVAGED}'")
    return msgspec.json.decode(body, type=Salvage)


def rows_of(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()
