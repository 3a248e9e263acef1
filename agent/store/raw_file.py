"""A store's file and its WAL, read page by page without SQLite: see `raw_pages`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.store.raw_pages import (
    FRAME_HEADER,
    MAPS_EVERY,
    PAGE_SIZE,
    WAL_HEADER,
    Row,
    committed,
    rows,
    unused,
)


class RawFile:
    """All that can be read of a file and its WAL, whatever is damaged, also of either alone.

    Nothing is written; blocking.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError where there is a file that cannot be opened."""
        self._file = _opened(path)
        self._wal = _opened(path.with_name(path.name + "-wal"))
        self._frames: dict[int, int] = {}
        """The latest frame of each page, in the WAL."""
        self.wal_is_damaged = False
        """SQLite would leave out what was committed, and not say so."""
        self._count = 0 if self._file is None else os.fstat(self._file).st_size // PAGE_SIZE
        if self._wal is not None:
            self._find_frames(self._wal)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for file in (self._file, self._wal):
            if file is not None:
                os.close(file)

    def rows(self) -> Iterator[Row]:
        """Every row of every page that is in use, those of indexes among them, in no order."""
        pointer_map, skipped = 0, frozenset[int]()
        for number in self._numbers():
            place = (number - 2) % MAPS_EVERY  # after a pointer map
            if number - place != pointer_map:
                pointer_map, skipped = number - place, frozenset()
            if place - 1 in skipped:
                continue
            page = self.page(number)
            if page is None:
                continue
            if place == 0 and (found := unused(page)) is not None:
                skipped = found
                continue
            yield from rows(page, number, self.page)

    def _numbers(self) -> Iterator[int]:
        """Of the pages that are there. A damaged head can say that there are billions, and what was
        written after that believes it."""
        in_file = 0 if self._file is None else os.fstat(self._file).st_size // PAGE_SIZE
        yield from range(1, min(in_file, self._count) + 1)
        yield from sorted(number for number in self._frames if in_file < number <= self._count)

    def page(self, number: int) -> bytes | None:
        """None where there is none, or none can be read."""
        frame = self._frames.get(number)
        if frame is not None and self._wal is not None:
            place = WAL_HEADER + frame * (FRAME_HEADER + PAGE_SIZE) + FRAME_HEADER
            return self._read(self._wal, place, PAGE_SIZE)
        if self._file is None or not 0 < number <= self._count:
            return None
        return self._read(self._file, (number - 1) * PAGE_SIZE, PAGE_SIZE)

    def _find_frames(self, wal: int) -> None:
        def frames() -> Iterator[bytes]:
            size, place = FRAME_HEADER + PAGE_SIZE, WAL_HEADER
            while frame := self._read(wal, place, size):
                yield frame
                place += size

        header = self._read(wal, 0, WAL_HEADER)
        if header is not None:
            self._frames, pages, self.wal_is_damaged = committed(header, frames())
            self._count = pages or self._count

    @staticmethod
    def _read(file: int, place: int, size: int) -> bytes | None:
        """None for less than that, and where the disk reports an error."""
        try:
            data = os.pread(file, size, place)
        except OSError:
            return None
        return data if len(data) == size else None


def _opened(path: Path) -> int | None:
    """None where there is no such file."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
