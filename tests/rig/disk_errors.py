"""A disk that reports errors, for processes that are started with `environment`."""

from __future__ import annotations

import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("disk_errors.c")


class DiskErrors:
    """Compiled with gcc. Nothing fails until `set`."""

    def __init__(self, folder: Path) -> None:
        self._rules = folder / "rules"
        self._rules.touch()
        library = folder / "disk_errors.so"
        command = ["gcc", "-shared", "-fPIC", "-O2", "-o", library, _SOURCE, "-ldl"]
        subprocess.run(command, check=True)
        self.environment = {"LD_PRELOAD": str(library), "DISK_ERRORS": str(self._rules)}

    def set(self, *rules: str) -> None:
        """Rules such as `fsync -wal`: the call, and the end of the path. Calls are read, write,
        fsync, and stall for an fsync that does not end."""
        new = self._rules.with_name("new")
        new.write_text("".join(f"{rule}\n" for rule in rules))
        new.rename(self._rules)
