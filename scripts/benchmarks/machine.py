"""What a figure depends on besides the program: said with every result."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

_SYNCS = 50


def describe(folder: Path) -> dict[str, Any]:
    """The machine, its versions, its load, and how long its disk takes to make 4 KiB durable."""
    return {
        "processors": os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "fsync_ms": round(_fsync_milliseconds(folder / "fsync"), 2),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def _fsync_milliseconds(path: Path) -> float:
    took = []
    with path.open("wb", buffering=0) as file:
        for _ in range(_SYNCS):
            file.write(bytes(4096))
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - started)
    path.unlink()
    return statistics.median(took) * 1000
