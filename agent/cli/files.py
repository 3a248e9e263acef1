"""Writes files that may hold secrets."""

from __future__ import annotations

import os
from pathlib import Path

from agent.durable import sync_folder
from agent.errors import ConfigError


def replace_file(path: Path, text: str) -> None:
    """Replace a file as one step, with the rights that it had; a new one is its owner's alone.

    A new one that root makes in a folder of some group, such as that of a service's settings,
    may be read by that group. Raises ConfigError.
    """
    target = path.resolve()  # where a symbolic link leads
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                _take_rights(target, descriptor)
                file.flush()
                os.fsync(descriptor)
            part.replace(target)
            sync_folder(target.parent)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}); nothing was changed"
        ) from error


def _take_rights(target: Path, descriptor: int) -> None:
    try:
        old = target.stat()
    except FileNotFoundError:
        group = target.parent.stat().st_gid
        if os.geteuid() == 0 and group != 0:
            os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, 0o640)
        return
    os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, old.st_mode & 0o7777)
