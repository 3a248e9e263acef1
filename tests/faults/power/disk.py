"""What is on a disk after a power cut: a function of what was done, of the moment, and of chance.

What was synced before the moment is there. Of everything else anything may be:

- of a file each sector is as it was when the file was last synced, or as any write since has left
  it; sectors come in any order, since drives reorder;
- its size is one of those that it has had since; what was never written in between is zero;
- a truncation has happened or not;
- names are durable once their folder was synced, and not before, however long ago the file itself
  was. Of the changes of names since, any may have happened, each as a whole, and in their order as
  far as they are about the same name: ext4 without its favours to careless programs.

Source: fsync(2), and what file systems promise besides, which is nothing that is common to all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from tests.faults.power import record
from tests.faults.power.record import Event

SECTOR = 512

Tree: TypeAlias = "dict[str, bytes | Tree]"
"""A folder: files and folders by name."""


@dataclass(frozen=True, slots=True)
class _Write:
    offset: int
    data: bytes

    @property
    def sectors(self) -> range:
        return range(self.offset // SECTOR, -(-(self.offset + len(self.data)) // SECTOR))

    def piece(self, sector: int) -> tuple[int, bytes]:
        """What belongs to a sector, and where it begins in the file."""
        start = max(self.offset, sector * SECTOR)
        return start, self.data[start - self.offset : (sector + 1) * SECTOR - self.offset]


@dataclass(frozen=True, slots=True)
class _Truncation:
    size: int


@dataclass(eq=False, slots=True)
class _File:
    """What is durable, and what was done since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[_Write | _Truncation] = field(default_factory=list)

    def sync(self) -> None:
        _apply(self.durable, self.pending)
        self.pending = []

    def now(self) -> bytes:
        content = bytearray(self.durable)
        _apply(content, self.pending)
        return bytes(content)

    def after(self, chance: random.Random) -> bytes:
        """What a power cut leaves."""
        content = bytearray(self.durable)
        fate = chance.choice(_FATES) if self.pending else _nothing
        fate(content, self.pending, chance)
        return bytes(content)


@dataclass(eq=False, slots=True)
class _Folder:
    durable: dict[str, _Node] = field(default_factory=dict)
    now: dict[str, _Node] = field(default_factory=dict)


_Node: TypeAlias = _File | _Folder
_Name: TypeAlias = tuple[_Folder, str]


@dataclass(eq=False, slots=True)
class _Change:
    """Of one name, or of two at once."""

    names: list[tuple[_Folder, str, _Node | None]]
    unsynced: set[int]
    """The folders that have not been synced since, by `id`."""

    def keys(self) -> set[tuple[int, str]]:
        return {(id(folder), name) for folder, name, _ in self.names}


class Disk:
    """A folder's disk, which follows what a program does."""

    def __init__(self, folder: Path) -> None:
        """As a folder is now, all of it durable."""
        self.marks: list[Any] = []
        """What somebody has been told so far."""
        self._root = _Folder()
        self._inodes: dict[int, _Node] = {folder.stat().st_ino: self._root}
        self._changes: list[_Change] = []
        self._take(folder, self._root)

    def _take(self, path: Path, folder: _Folder) -> None:
        for entry in path.iterdir():
            if entry.name.endswith("-shm"):
                continue
            node: _Node
            if entry.is_dir():
                node = _Folder()
                self._take(entry, node)
            else:
                node = _File(bytearray(entry.read_bytes()))
            self._inodes[entry.stat().st_ino] = node
            folder.durable[entry.name] = folder.now[entry.name] = node

    # --- what happens ------------------------------------------------------------------

    def follow(self, event: Event) -> None:
        """Take one event."""
        match event.kind:
            case record.WRITE:
                self._file(event).pending.append(_Write(event.number, event.data))
            case record.TRUNCATE:
                self._file(event).pending.append(_Truncation(event.number))
            case record.SYNC:
                self._sync(self._inodes.get(event.inode))
            case record.SYNC_ALL:
                for node in list(self._inodes.values()):
                    self._sync(node)
            case record.CREATE | record.FOLDER_MADE:
                node = _File() if event.kind == record.CREATE else _Folder()
                self._inodes[event.inode] = node
                self._change((event.names[0], node))
            case record.UNLINK:
                self._change((event.names[0], None))
            case record.LINK:
                self._change((event.names[1], self._find(event.names[0])))
            case record.RENAME:
                old, new = event.names
                self._change((old, None), (new, self._find(old)))
            case record.MARK:
                self.marks.append(msgspec.json.decode(event.data))
            case _:
                raise ValueError(event.kind)

    def _file(self, event: Event) -> _File:
        node = self._inodes[event.inode]
        assert isinstance(node, _File)
        return node

    def _place(self, path: str) -> _Name:
        *parents, name = path.split("/")
        folder: _Node = self._root
        for parent in parents:
            assert isinstance(folder, _Folder)
            folder = folder.now[parent]
        assert isinstance(folder, _Folder)
        return folder, name

    def _find(self, path: str) -> _Node:
        folder, name = self._place(path)
        return folder.now[name]

    def _change(self, *names: tuple[str, _Node | None]) -> None:
        change = _Change([(*self._place(path), node) for path, node in names], set())
        change.unsynced = {id(folder) for folder, _, _ in change.names}
        for folder, name, node in change.names:
            _enter(folder.now, name, node)
        self._changes.append(change)

    def _sync(self, node: _Node | None) -> None:
        if isinstance(node, _File):
            node.sync()
        elif node is not None:
            for change in self._changes:
                change.unsynced.discard(id(node))
            wanted: set[tuple[int, str]] = set()
            durable = []
            for change in reversed(self._changes):  # with what came before under the same names
                if not change.unsynced or change.keys() & wanted:
                    wanted |= change.keys()
                    durable.append(change)
            for change in reversed(durable):
                for folder, name, entry in change.names:
                    _enter(folder.durable, name, entry)
                self._changes.remove(change)

    # --- what is left ------------------------------------------------------------------

    def now(self) -> Tree:
        """What programs see, and what is left of a folder whose power was not cut."""
        return _tree(self._root, lambda folder: folder.now, _File.now)

    def after_power_cut(self, chance: random.Random) -> Tree:
        """What may be there after a power cut at this moment."""
        if chance.random() < 0.25:  # the drive had time for nothing
            return _tree(self._root, lambda folder: folder.durable, lambda f: bytes(f.durable))
        left: dict[int, dict[str, _Node]] = {}
        lost: set[tuple[int, str]] = set()
        share = chance.choice((0.3, 0.5, 0.7, 1.0))
        for change in self._changes:
            if chance.random() >= share or change.keys() & lost:
                lost |= change.keys()
                continue
            for folder, name, node in change.names:
                entries = left.setdefault(id(folder), dict(folder.durable))
                _enter(entries, name, node)
        return _tree(
            self._root,
            lambda folder: left.get(id(folder), folder.durable),
            lambda file: file.after(chance),
        )


def _enter(entries: dict[str, _Node], name: str, node: _Node | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


def _tree(
    folder: _Folder,
    entries: Callable[[_Folder], dict[str, _Node]],
    content: Callable[[_File], bytes],
) -> Tree:
    return {
        name: content(node) if isinstance(node, _File) else _tree(node, entries, content)
        for name, node in entries(folder).items()
    }


# --- the fates of a file ---------------------------------------------------------------


def _apply(content: bytearray, done: Iterable[_Write | _Truncation]) -> None:
    for each in done:
        if isinstance(each, _Truncation):
            _resize(content, each.size)
        else:
            _put(content, each.offset, each.data)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        _resize(content, offset)
    content[offset : offset + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


_Pending: TypeAlias = Sequence[_Write | _Truncation]


def _nothing(content: bytearray, pending: _Pending, chance: random.Random) -> None:
    """None of it has reached the disk."""


def _everything(content: bytearray, pending: _Pending, chance: random.Random) -> None:
    _apply(content, pending)


def _in_order(content: bytearray, pending: _Pending, chance: random.Random) -> None:
    """All up to one write, of which some sectors are there."""
    last = chance.randrange(len(pending))
    _apply(content, pending[:last])
    _any_sectors(content, pending[last : last + 1], chance)


def _any_sectors(content: bytearray, pending: _Pending, chance: random.Random) -> None:
    """Each sector as some write has left it, in any of the sizes that the file has had."""
    sizes = [len(content)]
    touched: dict[int, int] = {}
    for each in pending:
        if isinstance(each, _Truncation):
            sizes.append(each.size)
        else:
            sizes.append(max(sizes[-1], each.offset + len(each.data)))
            for sector in each.sectors:
                touched[sector] = touched.get(sector, 0) + 1
    left = {sector: chance.randint(0, writes) for sector, writes in touched.items()}
    for each in pending:
        if isinstance(each, _Truncation):
            if chance.random() < 0.5:
                _resize(content, each.size)
            continue
        for sector in each.sectors:
            if left[sector]:
                left[sector] -= 1
                _put(content, *each.piece(sector))
    _resize(content, chance.choice(sizes))


_FATES = (_nothing, _everything, _in_order, _any_sectors)


# --- moments ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cut:
    """A power cut: after how many events, what had been told by then, and what is left."""

    moment: int
    marks: list[Any]
    left: Tree


_NAMING = record.CREATE + record.FOLDER_MADE + record.RENAME + record.LINK + record.UNLINK


def cuts(disk: Disk, events: Sequence[Event], chance: random.Random, count: int) -> Iterator[Cut]:
    """So many power cuts: at any moment, right after somebody was told something, where a name has
    just changed, or after a rename, which is seldom and the most delicate.

    `disk` follows: when a cut is taken, it is at the cut's moment.
    """
    choices = [
        range(len(events) + 1),
        *(
            [number + 1 for number, event in enumerate(events) if event.kind in kinds]
            for kinds in (record.MARK, _NAMING, record.RENAME)
        ),
    ]
    moments = sorted(chance.choice(chance.choice(choices) or choices[0]) for _ in range(count))
    done = 0
    for moment in moments:
        for event in events[done:moment]:
            disk.follow(event)
        done = moment
        yield Cut(moment, list(disk.marks), disk.after_power_cut(chance))


def lay_out(tree: Tree, folder: Path) -> None:
    """Make a folder with these contents."""
    folder.mkdir(parents=True)
    for name, content in tree.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            lay_out(content, folder / name)
