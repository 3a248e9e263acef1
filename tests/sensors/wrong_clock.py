"""A system clock that is wrong, for the processes that are started with its environment.

Their monotonic clock is the machine's. It is libfaketime's work (Debian package faketime).
"""

from __future__ import annotations

import os
import time
from pathlib import Path


class WrongClock:
    """`ahead` of the machine's by so many seconds, behind it where that is negative."""

    def __init__(self, file: Path, ahead: float) -> None:
        self._file = file
        self.set(ahead)

    @classmethod
    def in_1970(cls, file: Path) -> WrongClock:
        """One of a machine without a battery, switched on five seconds ago."""
        return cls(file, 5 - time.time())

    def set(self, ahead: float) -> None:
        """Set it anew, while processes run; they see it within a second."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead:+.3f}")
        new.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        return {
            "LD_PRELOAD": os.fspath(library),
            "FAKETIME_TIMESTAMP_FILE": os.fspath(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
