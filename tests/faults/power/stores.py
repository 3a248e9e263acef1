"""What a store goes through while it is recorded, and what has to be there after a power cut.

A scenario has three parts, which share a folder: `prepare` makes what is there before, `work` runs
under the recorder and marks what was acknowledged, `check` gets the folder as a power cut has left
it.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import sqlite3
import tempfile
from collections import defaultdict
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from agent.documents.floors import RETENTION
from agent.documents.revision import Rev, Revision, canonical, first_revision
from agent.store import blobs, writer
from agent.store.connection import mark_damaged
from agent.store.databases import Databases
from agent.store.retention import Record, Retained, by_seq
from agent.store.salvage import files_aside, salvaged
from agent.store.store import Store
from agent.store.transaction import Edit
from tests.faults.power.record import Marks
from tests.faults.site import Contents, contents
from tests.store.fixtures.make import fill
from tests.store.helpers import put, revision

DATABASE = "db"
MALFORMED = "database disk image is malformed"
MARKED = "it was found while it was open"
GONE = "it is gone"
_PADDING = "x" * 200
_NOW = "2026-01-02T00:00:00.000000Z"
_PAGE = 4096
_IN_WAL = range(300, 320)
_FIXTURES = Path(__file__).parents[2] / "store" / "fixtures"


def data(folder: Path) -> Path:
    """The folder of the databases."""
    return folder / "data"


def file(folder: Path) -> Path:
    return data(folder) / f"{DATABASE}.sqlite"


class Client:
    """Writes to a store, and marks what was acknowledged."""

    def __init__(self, store: Store, marks: Marks, name: str, seed: int = 0) -> None:
        self.store = store
        self.name = name
        self._marks = marks
        self._chance = random.Random(f"{name} {seed}")
        self._turn = 0

    async def readings(self, count: int) -> list[Revision]:
        """Write so many at once."""
        made = []
        for _ in range(count):
            self._turn += 1
            made.append(_reading(self.name, self._turn))
        await self.graft(made)
        return made

    async def graft(self, revisions: list[Revision]) -> None:
        await self.store.graft(revisions)
        self._marks.add("revs", [[each.id, str(each.rev)] for each in revisions])
        self._marks.add("seq", self.store.update_seq)

    async def edits(self, turns: int) -> None:
        """One document again and again, one that is deleted and comes back, a conflict, and a
        checkpoint."""
        rev: Rev | None = None
        local = None
        for turn in range(turns):
            rev = await put(self.store, f"{self.name}:edited", rev, n=turn, padding=_PADDING)
            self._marks.add("revs", [[f"{self.name}:edited", str(rev)]])
            branch = revision(f"{self.name}:clash", f"{turn:x}", "0", body=f'{{"n":{turn}}}')
            await self.graft([branch])
            gone = await put(self.store, f"{self.name}:gone:{turn}", n=turn)
            await put(self.store, f"{self.name}:gone:{turn}", gone, _deleted=True)
            self._marks.add("deleted", f"{self.name}:gone:{turn}")
            local = await self.store.put_local(self.name, local, f'{{"n":{turn}}}')
            self._marks.add("local", self.name, turn)

    async def mixed(self, turns: int) -> None:
        """Batches of readings of any size."""
        for _ in range(turns):
            await self.readings(self._chance.randint(1, 30))

    async def attach(self, turns: int) -> None:
        """Contents of a few bytes up to some chunks, some of them replaced."""
        rev: Rev | None = None
        for turn in range(turns):
            content = self._chance.randbytes(self._chance.choice((10, 5000, 300_000, 700_000)))
            upload = self.store.upload()
            for start in range(0, len(content), 100_000):
                await upload.write(content[start : start + 100_000])
            attachment = await upload.finish("f", "x/y")
            id = f"{self.name}:attached:{turn // 2}"
            parent = rev if turn % 2 else None
            (rev,) = await self.store.edit([_edit(id, parent, turn, attachment)])
            assert rev is not None
            self._marks.add("attached", id, str(rev), hashlib.sha256(content).hexdigest())


def _reading(device: str, number: int) -> Revision:
    """In the order of ids as in that of sequences."""
    time = f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}.000000Z"
    return first_revision(
        f"{device}:t:{time}:{number:010}",
        {
            "type": "reading",
            "device": device,
            "sensor": "t",
            "time": time,
            "value": number,
            "padding": _PADDING,
        },
    )


def _edit(id: str, parent: Rev | None, turn: int, attachment: Any) -> Edit:
    body = {"n": turn}
    return Edit(id, parent, False, canonical(body).decode(), canonical(body), (attachment,))


def hurry() -> None:
    """What comes after megabytes comes after some kilobytes: checkpoints, and chunks of uploads."""
    writer._WAL_BYTES = 96 * 1024
    blobs._PIECE = blobs.CHUNK


# --- preparing -------------------------------------------------------------------------


async def nothing(folder: Path) -> None:
    """The agent makes it all."""


async def older(folder: Path, *, version: int) -> None:
    data(folder).mkdir()
    shutil.copyfile(_FIXTURES / f"v{version}.sqlite", file(folder))


async def damaged(folder: Path) -> None:
    data(folder).mkdir()
    store = await Store.open(file(folder))
    await fill(store)
    await store.graft([_reading("dev", number) for number in range(600)])
    await store.put_local("state", None, '{"kept":true}')
    await store.close()
    _damage(file(folder), 3)
    await asyncio.to_thread(mark_damaged, file(folder), MALFORMED)


async def gone(folder: Path) -> None:
    """What a check of the file system may leave: no store, and a WAL that belonged to it."""
    data(folder).mkdir()
    path, wal = file(folder), file(folder).with_name(f"{DATABASE}.sqlite-wal")
    store = await Store.open(path)
    await store.graft([_reading("dev", number) for number in range(300)])
    await store.give_back()  # so that the WAL has only some pages
    await store.graft([_reading("dev", number) for number in _IN_WAL])
    left = await asyncio.to_thread(wal.read_bytes)
    await store.close()
    path.unlink()
    await asyncio.to_thread(wal.write_bytes, left)


def _damage(path: Path, pages: int) -> None:
    chance = random.Random(pages)
    with path.open("r+b") as opened:
        for _ in range(pages):
            opened.seek(chance.randrange(8, path.stat().st_size // _PAGE) * _PAGE)
            opened.write(chance.randbytes(_PAGE))


# --- working ---------------------------------------------------------------------------


async def write(folder: Path, marks: Marks) -> None:
    """From the folder that is made on, with a stop and a new start in between."""
    for start in range(2):
        databases = Databases(data(folder))
        store = await databases.ensure(DATABASE)
        marks.add("made")
        clients = [Client(store, marks, f"c{start}{n}", start) for n in range(4)]
        await asyncio.gather(*(client.mixed(8) for client in clients[1:]), clients[0].edits(12))
        await clients[0].readings(1000)
        await databases.close()


async def attach(folder: Path, marks: Marks) -> None:
    databases = Databases(data(folder))
    store = await databases.ensure(DATABASE)
    clients = [Client(store, marks, f"c{n}") for n in range(3)]
    await asyncio.gather(clients[0].attach(8), clients[1].mixed(8), clients[2].edits(4))
    await databases.close()


async def compact(folder: Path, marks: Marks) -> None:
    """Old bodies go, replaced attachments and unused pages, while others write."""
    databases = Databases(data(folder))
    store = await databases.ensure(DATABASE)
    clients = [Client(store, marks, f"c{n}") for n in range(3)]
    await asyncio.gather(clients[0].attach(4), clients[1].edits(20), clients[2].mixed(5))
    for turn in range(2):
        more = Client(store, marks, f"more{turn}")
        await asyncio.gather(store.start_compaction(), more.mixed(8))
    await databases.close()


async def retain(folder: Path, marks: Marks) -> None:
    """Readings are deleted and the space is given back, while others come."""
    databases = Databases(data(folder))
    store = await databases.ensure(DATABASE)
    client, other = (Client(store, marks, name) for name in ("dev", "other"))
    retained = Retained(store)
    await retained.load()
    for turn in range(4):
        await client.readings(120)
        found = await store.query(partial(by_seq, after=0, until=store.update_seq))
        found = [each for each in found if each.readings and each.device == "dev"][:90]
        ids = [each.id for each in found]
        marks.add("retiring", ids)
        reason = "drop-oldest" if turn % 2 else None
        await asyncio.gather(
            retained.delete(found, reason, now=_NOW),  # type: ignore[arg-type]
            other.mixed(3),
        )
        marks.add("retired", ids)
        await asyncio.gather(store.give_back(), other.mixed(3))
    await databases.close()


async def migrate(folder: Path, marks: Marks) -> None:
    marks.add("revs", await asyncio.to_thread(_leaves, file(folder)))
    await write(folder, marks)


async def salvage(folder: Path, marks: Marks) -> None:
    """A damaged store is set aside; what can be read of it is to be found ever after."""
    for turn in range(2):
        with tempfile.TemporaryDirectory() as elsewhere:
            shutil.copytree(data(folder), Path(elsewhere) / "data")
            there = Databases(Path(elsewhere) / "data")
            await there.get(DATABASE)
            await there.close()
            readable = _leaves(Path(elsewhere) / "data" / f"{DATABASE}.sqlite")
        marks.add("readable", readable)
        databases = Databases(data(folder))
        store = await databases.get(DATABASE)
        await Client(store, marks, f"new{turn}").mixed(6)
        # Found while it runs, as by a reader; nothing is damaged, so nothing may go.
        marks.add("damaged")
        await asyncio.to_thread(mark_damaged, file(folder), MALFORMED)
        await databases.close()


def _leaves(path: Path) -> list[list[str]]:
    return [[id, rev] for id, revs in contents(path).leaves.items() for rev in revs]


async def delete(folder: Path, marks: Marks) -> None:
    """Databases come and go."""
    databases = Databases(data(folder))
    for turn in range(4):
        store = await databases.create(DATABASE)
        marks.add("created", turn)
        await Client(store, marks, f"c{turn}").mixed(3)
        marks.add("deleting", turn)
        if turn % 2:
            await asyncio.to_thread(mark_damaged, store.path, MALFORMED)
        await databases.delete(DATABASE)
        marks.add("deleted database", turn)
    await databases.close()


# --- checking --------------------------------------------------------------------------


class Told:
    """The marks, by kind."""

    def __init__(self, marks: list[Any]) -> None:
        self._marks: defaultdict[str, list[list[Any]]] = defaultdict(list)
        for kind, *rest in marks:
            self._marks[kind].append(rest)

    def of(self, kind: str) -> list[list[Any]]:
        return self._marks[kind]

    def last(self, kind: str) -> Any:
        """What the last one of a kind tells; None without any."""
        return self._marks[kind][-1][0] if self._marks[kind] else None

    def revisions(self) -> set[tuple[str, str]]:
        return {
            (id, rev)
            for kind in ("revs", "readable")
            for (revs,) in self.of(kind)
            for id, rev in revs
        }

    def ids(self, kind: str) -> set[str]:
        return {id for (ids,) in self.of(kind) for id in ids}


async def check(folder: Path, marks: list[Any], *, damage: tuple[str, ...] = ()) -> None:
    """The store opens by itself, whole; all that was acknowledged is there; it goes on.

    `damage` is what was wrong with it before, and the only reasons for which it may be set aside.
    """
    told = Told(marks)
    databases = Databases(data(folder))
    if told.of("made"):
        store = await databases.get(DATABASE)
    else:
        store = await databases.ensure(DATABASE)
    done = await salvaged(store)
    assert done is None or done.reason in damage, done
    aside = await asyncio.to_thread(files_aside, data(folder), "*")
    assert len(aside) <= bool(damage) + len(told.of("damaged")), "a sound store was set aside"
    newest = store.update_seq
    assert damage or newest >= (told.last("seq") or 0), "sequences would be used twice"
    for id, rev, digest in told.of("attached"):
        await _check_attached(store, id, rev, digest)
    for name, turn in dict(told.of("local")).items():
        found = await store.get_local(name)
        assert found is not None, name
        assert msgspec.json.decode(found[1])["n"] >= turn
    await put(store, "after the power cut")
    assert store.update_seq == newest + 1
    await databases.close()
    await asyncio.to_thread(_check_contents, file(folder), told)


async def check_gone(folder: Path, marks: list[Any]) -> None:
    """As `check`; what the WAL had is there, too."""
    await check(folder, marks, damage=(GONE, MARKED))
    found = await asyncio.to_thread(contents, file(folder))
    assert {_reading("dev", number).id for number in _IN_WAL} <= found.leaves.keys()


async def _check_attached(store: Store, id: str, rev: str, digest: str) -> None:
    """Its content, unless a later revision has replaced it."""
    document = await store.get(id)
    assert document is not None, id
    if str(document.rev) == rev:
        [attachment] = document.revision().attachments
        content = b"".join([piece async for piece in store.content(attachment.content)])
        assert hashlib.sha256(content).hexdigest() == digest, id
    else:
        assert document.rev.generation > Rev.parse(rev).generation, id


def _check_contents(path: Path, told: Told) -> None:
    found = contents(path)
    going, gone = told.ids("retiring"), told.ids("retired")
    missing = [pair for pair in told.revisions() - found.known if pair[0] not in going]
    assert missing == [], f"{len(missing)} acknowledged revisions are lost: {sorted(missing)[:3]}"
    for (id,) in told.of("deleted"):
        assert found.leaves[id][found.winners[id]].deleted, id
    assert gone.isdisjoint(found.winners), "what was deleted is there again"
    _check_order(path, told)
    if going:
        _check_retained(path, told, found)


def _check_order(path: Path, told: Told) -> None:
    """Of documents that were written once, sequences are in the order of writing."""
    with closing(sqlite3.connect(path)) as db:
        numbers = dict(db.execute("SELECT id, seq FROM docs WHERE tree IS NULL"))
    by_client = defaultdict(list)
    for (revs,) in told.of("revs"):
        for id, _ in revs:
            if ":t:" in id and id in numbers:
                by_client[id.partition(":")[0]].append(numbers[id])
    assert all(seqs == sorted(seqs) for seqs in by_client.values())


def _check_retained(path: Path, told: Told, found: Contents) -> None:
    """A deletion is there as a whole, with its floor and its gap, or not at all."""
    for (ids,) in told.of("retiring"):
        assert len(found.winners.keys() & set(ids)) in (0, len(ids))
    there = told.ids("retiring") - found.winners.keys()
    with closing(sqlite3.connect(path)) as db:
        row = db.execute("SELECT body FROM local WHERE id = ?", (RETENTION,)).fetchone()
    record = msgspec.json.decode(row[0], type=Record) if row else Record()
    sensor = record.sensors.get("dev:t:")
    assert (sensor.floor if sensor else "") == max(there, default="")
    assert (sensor.deleted + sensor.dropped if sensor else 0) == len(there)
    gaps = [doc["count"] for id, doc in found.documents().items() if id.startswith("gap:dev:t:")]
    assert sum(gaps) == (sensor.dropped if sensor else 0)


async def check_deleted(folder: Path, marks: list[Any]) -> None:
    """A database that is gone stays away; one that is there is whole."""
    told = Told(marks)
    created, going, gone = (told.last(kind) for kind in ("created", "deleting", "deleted database"))
    databases = Databases(data(folder))
    if created is not None and created != going:
        store = await databases.get(DATABASE)  # nobody has asked for its deletion
        expected = {(id, rev) for id, rev in told.revisions() if id.startswith(f"c{created}:")}
        assert await store.missing({id: [rev] for id, rev in expected}) == {}
    elif created is not None and created == gone:
        names = await databases.names()
        if names:  # the next one was being made
            store = await databases.get(DATABASE)
            assert (await store.info()).doc_count == 0
    store = await databases.ensure(DATABASE)
    assert going != gone or await salvaged(store) is None, "nothing was damaged"
    await put(store, "after the power cut")
    await databases.close()
    await asyncio.to_thread(contents, file(folder))
