"""What a power cut leaves, and that nothing a program does to its files is missed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.power import record
from tests.faults.power.disk import SECTOR, Disk, Tree
from tests.faults.power.record import Event, environment, read

OLD, NEW = b"o" * 4 * SECTOR, b"n" * 4 * SECTOR
CUTS = 300


def event(kind: str, inode: int = 0, number: int = 0, data: bytes | str = b"") -> Event:
    return Event(kind, inode, number, data.encode() if isinstance(data, str) else data)


class Story:
    """A folder in which things happen, and what power cuts leave of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._inode = folder.stat().st_ino
        self._events: list[Event] = []

    def made(self, name: str, inode: int) -> Story:
        return self.then(record.CREATE, inode, data=name)

    def then(self, kind: str, inode: int = 0, number: int = 0, data: bytes | str = b"") -> Story:
        self._events.append(event(kind, inode, number, data))
        return self

    def names_synced(self) -> Story:
        return self.then(record.SYNC, self._inode)

    def ends(self) -> list[Tree]:
        """What many power cuts leave, at the end."""
        disk = Disk(self._folder)
        for each in self._events:
            disk.follow(each)
        chance = random.Random(1)
        return [disk.after_power_cut(chance) for _ in range(CUTS)]

    def contents(self) -> set[bytes]:
        """All that the file "f" holds after one of them."""
        found = [end["f"] for end in self.ends()]
        return {each for each in found if isinstance(each, bytes)}


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A durable file "f" of some sectors."""
    story = Story(tmp_path).made("f", 1).then(record.WRITE, 1, 0, OLD)
    return story.then(record.SYNC, 1).names_synced()


def test_what_was_synced_is_there(story: Story) -> None:
    assert story.contents() == {OLD}
    assert story.then(record.WRITE, 1, 0, NEW).then(record.SYNC, 1).contents() == {NEW}
    assert story.then(record.TRUNCATE, 1, 9).then(record.SYNC_ALL).contents() == {NEW[:9]}


def test_a_write_is_torn_at_sectors_and_nowhere_else(story: Story) -> None:
    found = story.then(record.WRITE, 1, 0, NEW).contents()
    assert {OLD, NEW} < found
    sectors = {each[at : at + SECTOR] for each in found for at in range(0, len(each), SECTOR)}
    assert sectors == {OLD[:SECTOR], NEW[:SECTOR]}
    assert len(found) == 2**4


def test_a_sector_never_goes_back_behind_what_it_shares_with_a_later_write(story: Story) -> None:
    story.then(record.WRITE, 1, 0, b"1" * 10).then(record.WRITE, 1, 10, b"2" * 10)
    starts = {each[:20] for each in story.contents()}
    assert starts == {b"o" * 20, b"1" * 10 + b"o" * 10, b"1" * 10 + b"2" * 10}


def test_a_size_is_one_that_was_and_what_was_never_written_is_zero(story: Story) -> None:
    found = story.then(record.WRITE, 1, 6 * SECTOR, NEW[:SECTOR]).contents()
    gap = bytes(2 * SECTOR)
    assert found == {OLD, OLD + gap + NEW[:SECTOR], OLD + gap + bytes(SECTOR)}


def test_a_name_is_durable_with_its_folder_not_with_its_file(story: Story) -> None:
    story.made("g", 2).then(record.WRITE, 2, 0, NEW).then(record.SYNC, 2)
    found = [end.get("g") for end in story.ends()]
    assert set(found) == {None, NEW}
    assert all(end.get("g") == NEW for end in story.names_synced().ends())


def test_a_rename_is_whole_and_may_lead_to_nothing(story: Story) -> None:
    story.made("part", 2).then(record.WRITE, 2, 0, NEW).then(record.RENAME, data="part\0f")
    ends = story.ends()
    assert {OLD, b"", NEW} < {end["f"] for end in ends}
    assert not any("part" in end and end["f"] != OLD for end in ends)


def test_later_changes_of_a_name_come_after_earlier_ones(story: Story) -> None:
    story.then(record.UNLINK, data="f").made("f", 2).then(record.WRITE, 2, 0, NEW)
    story.then(record.SYNC, 2).then(record.LINK, data="f\0g")
    ends = story.ends()
    assert {end.get("f") for end in ends} == {OLD, None, NEW}
    assert {end.get("g") for end in ends} == {None, NEW}


def test_a_folder_that_is_not_durable_takes_its_files_along(story: Story) -> None:
    story.then(record.FOLDER_MADE, 3, data="new").made("new/g", 4).then(record.SYNC, 4)
    ends = story.then(record.SYNC, 3).ends()
    assert [end["new"] for end in ends if "new" in end].count({"g": b""}) > 0
    assert any("new" not in end for end in ends)


# --- the recorder ----------------------------------------------------------------------

PROGRAM = """
import os, subprocess, sys
os.chdir(sys.argv[1])
os.mkdir("a"); os.makedirs("b/c"); os.mkdir("gone"); os.rmdir("gone")
with open("a/x", "w") as file:
    file.write("one " * 3000)
with open("a/x", "a") as file:
    file.write("two")
with open("a/x", "r+b", buffering=0) as file:
    file.seek(7); file.write(b"three")
descriptor = os.open("b/c/y", os.O_RDWR | os.O_CREAT)
os.pwrite(descriptor, b"four", 5000)
os.writev(descriptor, [b"five", b"", b"six"])
os.pwritev(descriptor, [b"seven", b"eight"], 100)
os.write(os.dup(descriptor), b"nine")
os.fsync(descriptor); os.fdatasync(descriptor)
os.ftruncate(descriptor, 3000)
os.posix_fallocate(descriptor, 0, 6000)
folder = os.open("b", os.O_RDONLY)
os.close(os.open("z", os.O_WRONLY | os.O_CREAT, dir_fd=folder))
os.rename("z", "w", src_dir_fd=folder, dst_dir_fd=folder)
os.link("a/x", "a/same"); os.unlink("a/x"); os.replace("a/same", "b/w")
os.truncate("b/w", 100)
open("b/w", "r+").close(); open("a/empty", "w").close(); open("a/empty", "w").close()
open("it-shm", "w").write("left out")
commands = "cp -a b copy; mv copy/w copy/v; mv copy kept; "
commands += "truncate -s 4000 kept/v; rm -r a/empty; sync -f kept; install -m 600 b/w i"
subprocess.run(["bash", "-ec", commands], check=True)
"""


@pytest.fixture
def recorded(library: Path, tmp_path: Path) -> Callable[[str], tuple[Disk, Disk]]:
    """Runs a program on a folder: what was there before and then recorded, and what is there."""

    def run(program: str) -> tuple[Disk, Disk]:
        folder, log = tmp_path / "folder", tmp_path / "log"
        folder.mkdir()
        (folder / "before").write_bytes(OLD)
        disk = Disk(folder)
        subprocess.run(
            [sys.executable, "-c", program, folder],
            env={**os.environ, **environment(library, folder, log)},
            check=True,
            stderr=subprocess.DEVNULL,
        )
        for each in read(log):
            disk.follow(each)
        return disk, Disk(folder)

    return run


def test_everything_is_recorded(recorded: Callable[[str], tuple[Disk, Disk]]) -> None:
    replayed, there = recorded(PROGRAM + "os.pwrite(os.open('before', os.O_RDWR), b'!', 5)")
    now = there.now()
    assert replayed.now() == now
    assert now["before"] == OLD[:5] + b"!" + OLD[6:]
    assert now["kept"] == {"c": {"y": (now["b"]["c"])["y"]}, "v": now["kept"]["v"]}  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    "bypass",
    [
        "import mmap; f = open('before', 'r+b'); mmap.mmap(f.fileno(), 0)",
        "f = open('before', 'r+b'); os.sendfile(f.fileno(), os.open('/dev/zero', 0), 0, 9)",
    ],
    ids=["memory", "sendfile"],
)
def test_what_cannot_be_recorded_ends_the_program(
    recorded: Callable[[str], tuple[Disk, Disk]], bypass: str
) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        recorded(f"import os, sys; os.chdir(sys.argv[1]); {bypass}")
