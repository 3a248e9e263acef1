"""Files that cannot be used, and disks that fail: one clear line, and nothing lost."""

# ruff: noqa: ASYNC240 - the files are small, and nothing else runs in these tests' loops

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import StoreDamagedError, StoreError, StoreFilesError, StoreWriteError
from agent.store.connection import look_at, marker, open_writer
from agent.store.store import Store
from tests.doctor.examined import tmpfs
from tests.store.helpers import edit, opened, put, reading, revision, rows

NOBODY = 65534


async def refusal(path: Path) -> str:
    """What opening says; the message is one line that begins with the file."""
    with pytest.raises(StoreError) as caught:
        await Store.open(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert caught.value.path == str(path)
    return message.removeprefix(f"{path}: ")


# --- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"just text\n" * 200, random.Random(1).randbytes(8192), b"SQLite format 4\0"],
    ids=["text", "noise", "nearly"],
)
async def test_not_sqlite(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert await refusal(path) == (
        "not a store (no SQLite file); give another path or move the file away"
    )
    assert path.read_bytes() == content


async def test_another_programs_sqlite_file(path: Path) -> None:
    with opened(path) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
        connection.execute("INSERT INTO users VALUES ('somebody')")
        connection.commit()
    before = path.read_bytes()
    assert await refusal(path) == "an SQLite file of another program; give another path"
    assert path.read_bytes() == before


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    store = await Store.open(path)
    await put(store, "x")
    await store.close()


async def test_a_damaged_file(path: Path) -> None:
    store = await Store.open(path)
    await store.graft([reading(number) for number in range(500)])
    await store.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 20 * 4096)
    message = await refusal(path)
    assert message.startswith("the file is damaged (")
    assert "start the agent again: it sets the file aside and copies what can be read" in message


async def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    message = await refusal(tmp_path)
    assert message == "a folder; name the file of a store in it"


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "no" / "db.sqlite"
    assert await refusal(path) == (
        f"the folder {path.parent} does not exist; make it, or give another path"
    )


async def test_a_refused_file_can_be_opened_once_it_is_put_right(path: Path) -> None:
    """No lock, no connection is left from the first try."""
    path.write_bytes(b"x" * 1000)
    await refusal(path)
    path.unlink()
    store = await Store.open(path)
    await store.close()


# --- permissions ---------------------------------------------------------------------------


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Root may write to everything: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that everybody can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


async def _store_in(folder: Path) -> Path:
    path = folder / "db.sqlite"
    store = await Store.open(path)
    await store.graft([reading(1)])
    await store.close()
    return path


async def test_a_read_only_file(public_folder: Path) -> None:
    path = await _store_in(public_folder)
    path.chmod(0o444)
    (public_folder / "db.sqlite.lock").chmod(0o666)
    before = path.read_bytes()
    with as_ordinary_user():
        message = await refusal(path)
    assert message == "is read-only; give this user the right to write to it (and to its folder)"
    assert path.read_bytes() == before


async def test_a_read_only_folder(public_folder: Path) -> None:
    path = await _store_in(public_folder)
    path.chmod(0o666)
    (public_folder / "db.sqlite.lock").unlink()
    public_folder.chmod(0o555)
    with as_ordinary_user():
        message = await refusal(path)
    public_folder.chmod(0o777)
    assert message == (
        "cannot be opened for writing (Permission denied); "
        "check the permissions and that the file system is not read-only"
    )


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, in memory."""
    mount = shutil.which("mount")
    if mount is None:
        pytest.skip("there is no `mount` to make a small file system with")
    folder.mkdir()
    command = [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small file system needs the right to mount one: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily: when the test has failed, its store may still be open.
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "3m") as folder:
        yield folder


async def test_a_read_only_file_system(disk: Path) -> None:
    path = await _store_in(disk)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)  # noqa: ASYNC221
    message = await refusal(path)
    assert message == (
        "cannot be opened for writing (Read-only file system); "
        "check the permissions and that the file system is not read-only"
    )


# --- disks ---------------------------------------------------------------------------------


async def _fill(store: Store, first: int) -> tuple[list[str], str]:
    """Write until it fails; what was acknowledged, and the message."""
    acknowledged: list[str] = []
    padding = "x" * 5000
    for number in range(first, first + 100_000, 10):
        batch = [reading(number + step, padding=padding) for step in range(10)]
        calls = [store.graft(batch[:5]), store.graft(batch[5:])]
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result, part in zip(results, (batch[:5], batch[5:]), strict=True):
            if not isinstance(result, BaseException):
                acknowledged += [each.id for each in part]
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            assert all(isinstance(error, StoreWriteError) for error in errors)
            return acknowledged, str(errors[0])
    pytest.fail("nothing limited the store")


async def _check_failed_writes(store: Store, acknowledged: list[str]) -> None:
    """Everything acknowledged is there, nothing else is, and nothing new is half done."""
    await asyncio.gather(
        *(store.graft([reading(777_777, padding="y" * 3_000_000)]) for _ in range(3)),
        store.edit([edit("large", padding="y" * 3_000_000)]),
        return_exceptions=True,
    )
    page = await store.changes(0, limit=100_000, bodies=False)
    assert [each.id for each in page.documents] == acknowledged
    info = await store.info()
    assert info.doc_count == len(acknowledged) == store.update_seq == info.update_seq


async def _check_recovered(store: Store, path: Path, acknowledged: list[str]) -> None:
    await store.graft([reading(888_888)])
    await put(store, "after")
    assert await store.put_local("x", None, "{}") == "0-1"
    await store.close()
    expected = [*acknowledged, reading(888_888).id, "after"]
    assert rows(path, "SELECT id FROM docs ORDER BY seq") == expected
    assert rows(path, "PRAGMA integrity_check") == ["ok"]


async def test_a_full_disk(disk: Path) -> None:
    filler = disk / "filler"
    filler.write_bytes(b"x" * 1_000_000)
    path = disk / "db.sqlite"
    store = await Store.open(path)
    acknowledged, message = await _fill(store, 0)
    assert message == f"{path}: the disk is full; free some space"
    assert len(acknowledged) > 50
    await _check_failed_writes(store, acknowledged)
    filler.unlink()
    await _check_recovered(store, path, acknowledged)


async def test_a_disk_that_is_full_at_the_start(disk: Path) -> None:
    path = await _store_in(disk)
    (disk / "db.sqlite.lock").unlink()
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()
    # First there is no room for the lock file, then none for what SQLite needs.
    for beside in (path.with_name("db.sqlite.lock"), path):
        with pytest.raises((StoreError, StoreWriteError)) as caught:
            await Store.open(path)
        assert str(caught.value) == f"{beside}: the disk is full; free some space"
        os.truncate(filler, filler.stat().st_size - 4096)
    filler.unlink()
    store = await Store.open(path)
    assert await store.get(reading(1).id) is not None
    await store.close()


async def test_what_a_power_cut_left_on_a_full_disk_can_be_opened(disk: Path) -> None:
    """What is in the WAL is there, and can be replicated before there is room."""
    path = await _store_in(disk)
    store = await Store.open(path)
    await store.graft([reading(2)])
    cut = disk / "cut"
    cut.mkdir()
    for beside in ("", "-wal", "-shm", ".lock"):
        shutil.copy(f"{path}{beside}", cut)
    await store.close()
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 1024)
    store = await Store.open(cut / path.name)
    assert await store.get(reading(2).id) is not None
    with pytest.raises(StoreWriteError, match="the disk is full"):
        await store.graft([reading(n) for n in range(3, 1000)])
    await store.close()


async def test_a_store_that_fills_up(store: Store, path: Path) -> None:
    """The same without a small disk: SQLite reports it in the middle of a statement."""

    def limit(pages: int) -> None:
        store._writer._db.execute(f"PRAGMA max_page_count = {pages}")

    await store.write(lambda _: limit(100))
    acknowledged, message = await _fill(store, 0)
    assert message == f"{path}: the disk is full; free some space"
    await _check_failed_writes(store, acknowledged)
    # Outside of any write: a write would begin by failing.
    store._writer._db.execute("PRAGMA max_page_count = 100000")
    await _check_recovered(store, path, acknowledged)


async def test_a_disk_that_reports_errors(store: Store, path: Path) -> None:
    await store.graft([reading(1)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        acknowledged, message = await _fill(store, 10)
        await _check_failed_writes(store, [reading(1).id, *acknowledged])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert message == (
        f"{path}: the disk reports an error (SQLITE_IOERR_WRITE); "
        "check the card and the system's log"
    )
    await _check_recovered(store, path, [reading(1).id, *acknowledged])


async def test_a_file_that_another_program_has_locked(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_shortly() -> None:
        store._writer._db.execute("PRAGMA busy_timeout = 50")

    await store.write(lambda _: wait_shortly())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreWriteError) as caught:
            await store.graft([reading(1)])
        other.execute("ROLLBACK")
    assert str(caught.value) == (
        f"{path}: locked by another program; close what else writes to the file"
    )
    assert await store.graft([reading(1)]) == [True]


async def test_reading_a_damaged_file_names_the_damage(store: Store, path: Path) -> None:
    await store.graft([revision(f"doc{number}", "a", "b") for number in range(3000)])
    await store.close()
    store = await Store.open(path)
    with path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"\xff" * 60 * 4096)
    with pytest.raises(StoreError, match=r"the file is damaged \(.*\); start the agent again"):
        await store.changes(0, limit=5000)
    # The writer meets the damage as well, and goes on answering.
    for _ in range(2):
        with pytest.raises(StoreError, match="the file is damaged"):
            await store.graft([revision(f"doc{number}", "c", "b") for number in range(3000)])
    await store.close()


@pytest.mark.parametrize("in_order", [True, False])
def test_an_error_in_the_look_at_a_store_is_no_damage(path: Path, in_order: bool) -> None:
    with contextlib.closing(open_writer(path, create=True)) as connection:
        look_at(connection, path, in_order=in_order)
        connection.set_progress_handler(lambda: 1, 1)
        with pytest.raises(StoreError, match="interrupted") as caught:
            look_at(connection, path, in_order=in_order)
    assert not isinstance(caught.value, StoreDamagedError)
    assert not marker(path).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
async def test_a_store_that_is_opened_on_a_full_disk_says_so(tmp_path: Path) -> None:
    """SQLite calls it an error of the disk: what it cannot write is not the file itself."""
    with tmpfs(tmp_path / "card") as folder:
        path = folder / "a.sqlite"
        await (await Store.open(path)).close()
        with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        with pytest.raises(StoreWriteError, match=r"the disk is full; free some space$"):
            await Store.open(path)
        (folder / "filler").unlink()
        await (await Store.open(path)).close()


async def test_too_many_open_files_say_so(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "a.sqlite")
    await store.close()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    said = set()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(5):
            with pytest.raises(StoreFilesError) as caught:
                await Store.open(tmp_path / "a.sqlite")
            said.add(str(caught.value))
            os.close(taken.pop())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for file in taken:
            os.close(file)
    assert said == {
        f"{tmp_path}/a.sqlite: too many files are open in this process; raise its limit "
        "(ulimit -n, or LimitNOFILE= in the systemd unit)"
    }
