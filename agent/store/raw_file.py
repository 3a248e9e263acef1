"""A store's file and its WAL, read page by page without SQLite: see `raw_pages`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.store.raw_pages import (
    FRAME_HEADER,
    WAL_HEADER,
    Row,
    committed,
    layout_of,
    maps_every,
    rows,
    unused,
    wal_layout,
)


class RawFile:
    """All that can be read of a file, whatever is damaged. Nothing is written; blocking."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._wal: int | None = None
        self._frames: dict[int, int] = {}
        self._layout = layout_of(self._read(self._file, 0, 100) or b"")
        try:
            self._wal = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            pass
        else:
            self._find_frames(self._wal)
        size = os.fstat(self._file).st_size // self._layout.page_size
        self._count = max(size, *self._frames, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        os.close(self._file)
        if self._wal is not None:
            os.close(self._wal)

    def rows(self) -> Iterator[Row]:
        """Every row of every page that is in use, those of indexes among them, in no order."""
        every = maps_every(self._layout)
        skipped: frozenset[int] = frozenset()
        for number in range(1, self._count + 1):
            place = (number - 2) % every
            if number > 1 and place and place - 1 in skipped:
                continue
            page = self._page(number)
            if page is None:
                continue
            if number > 1 and not place:
                found = unused(page, self._layout)
                skipped = found or frozenset()
                if found is not None:
                    continue
            yield from rows(page, number, self._layout, self._page)

    def _page(self, number: int) -> bytes | None:
        """None where there is none, or none can be read."""
        size = self._layout.page_size
        frame = self._frames.get(number)
        if frame is not None and self._wal is not None:
            place = WAL_HEADER + frame * (FRAME_HEADER + size) + FRAME_HEADER
            return self._read(self._wal, place, size)
        if not 0 < number <= self._count:
            return None
        return self._read(self._file, (number - 1) * size, size)

    def _find_frames(self, wal: int) -> None:
        header = self._read(wal, 0, WAL_HEADER) or b""
        layout = wal_layout(header)
        if layout is None:
            return
        if layout.page_size != self._layout.page_size:
            self._layout = layout  # the file's own header is damaged

        def frames() -> Iterator[bytes]:
            size, place = FRAME_HEADER + layout.page_size, WAL_HEADER
            while frame := self._read(wal, place, size):
                yield frame
                place += size

        self._frames = committed(header, frames())

    @staticmethod
    def _read(file: int, place: int, size: int) -> bytes | None:
        """None for less than that, and where the disk reports an error."""
        try:
            data = os.pread(file, size, place)
        except OSError:
            return None
        return data if len(data) == size else None
