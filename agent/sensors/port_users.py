"""Who has a serial port open, found out without opening it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_PTYS = range(136, 144)
"""Major device numbers of pseudo-terminals, which each file system of them numbers by itself."""


def users_of(path: str) -> dict[int, str]:
    """The processes that have a device file open or locked: their ids and programs.

    A process of somebody else is seen only when it locks the port, as the agent does, or by root.
    Reads /proc; blocks.
    """
    try:
        status = Path(path).stat()
    except OSError:
        return {}
    lock = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    found = {*_lockers(lock), *_openers(status)}
    return {process: _program(process) for process in sorted(found)}


def _lockers(lock: str) -> Iterator[int]:
    """Source: proc_locks(5)."""
    for line in (_PROC / "locks").read_text("ascii").splitlines():
        fields = line.split()
        if lock in fields:
            yield int(fields[-4])


def _openers(device: os.stat_result) -> Iterator[int]:
    for process in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    found = descriptor.stat()
                    if stat.S_ISCHR(found.st_mode) and _is_same(found, device):
                        yield int(process.name)
                        break


def _is_same(first: os.stat_result, second: os.stat_result) -> bool:
    """Whether two device files are the same device; there may be files of it in many places."""
    if os.major(first.st_rdev) in _PTYS and first.st_dev != second.st_dev:
        return False
    return first.st_rdev == second.st_rdev


def _program(process: int) -> str:
    try:
        return (_PROC / str(process) / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return "?"
