"""Names that outlast a power cut: a file's is durable once its folder was synced, see fsync(2)."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk. Blocks. Raises OSError.

    Does nothing where that cannot be asked for: a folder that this user may not read, or a file
    system that knows no such thing.
    """
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        finally:
            os.close(descriptor)


def sync_file(file: Path) -> None:
    """Returns when what a file holds is on the disk. Blocks. Raises OSError."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder, and those above it, if they are missing. Blocks. Raises OSError."""
    missing = [each for each in folder.parents if not each.exists()]
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    # Also if it was there: whoever made it may have been killed before this.
    for each in (folder, *missing):
        sync_folder(each.parent)
