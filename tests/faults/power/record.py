"""Runs a program under recorder.c, and reads what was recorded."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

_SOURCE = Path(__file__).with_name("recorder.c")
_OPTIONS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
_HEADER = struct.Struct("=IIQq")

LOG, FOLDER = "POWER_LOG", "POWER_FOLDER"
"""The variables that tell the recorder where its log and the files are."""

CREATE, FOLDER_MADE, WRITE, TRUNCATE, SYNC, SYNC_ALL, RENAME, LINK, UNLINK, MARK = "cmwtsSrluk"


@dataclass(frozen=True, slots=True)
class Event:
    """Something done to a file. `number` is an offset or a size in bytes, `data` bytes or names."""

    kind: str
    inode: int
    number: int
    data: bytes

    @property
    def names(self) -> list[str]:
        """Paths below the folder: one, or the old and the new one."""
        return self.data.decode().split("\0")


def missing_compiler() -> str | None:
    """What to install before anything can be recorded, or None."""
    return None if shutil.which("gcc") else "gcc is missing (Debian packages gcc and libc6-dev)"


def recorder(folder: Path) -> Path:
    """The recorder, compiled into a folder."""
    library = folder / "recorder.so"
    subprocess.run(["gcc", *_OPTIONS, "-o", library, _SOURCE], check=True)
    return library


def environment(library: Path, folder: Path, log: Path) -> Mapping[str, str]:
    """What makes a program record all that it does to files in a folder, which is there already."""
    return {
        "LD_PRELOAD": str(library),
        FOLDER: str(folder.resolve()),
        LOG: str(log.resolve()),
    }


class Marks:
    """Notes down in the log what somebody has been told, after they were told."""

    def __init__(self, log: Path) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    @classmethod
    def of_this_process(cls) -> Marks:
        """In the log of the recorder under which this process runs."""
        return cls(Path(os.environ[LOG]))

    def add(self, *told: Any) -> None:
        """Anything that JSON can hold."""
        data = msgspec.json.encode(told)
        os.write(self._log, _HEADER.pack(len(data), ord(MARK), 0, 0) + data)

    def close(self) -> None:
        os.close(self._log)


def read(log: Path) -> list[Event]:
    """All that was recorded, in its order; a record that a kill has cut short is not."""
    return list(_read(log.read_bytes()))


def _read(data: bytes) -> Iterator[Event]:
    place = 0
    while place + _HEADER.size <= len(data):
        length, kind, inode, number = _HEADER.unpack_from(data, place)
        place += _HEADER.size
        if place + length <= len(data):
            yield Event(chr(kind), inode, number, data[place : place + length])
        place += length
