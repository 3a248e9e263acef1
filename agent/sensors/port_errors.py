"""Says why a serial port cannot be used, and what to do about it."""

from __future__ import annotations

import errno
import grp
import re
import stat
import termios
from pathlib import Path

_BUSY = frozenset({errno.EBUSY, errno.EWOULDBLOCK, errno.EAGAIN})
_ABSENT = frozenset({errno.ENOENT, errno.ENXIO, errno.ENODEV})
_REFUSED = frozenset({errno.EACCES, errno.EPERM})


def explain_failure(path: str, error: Exception) -> str:
    """Return one line: the port, what is wrong with it, and what to do.

    `path` is a device file or, for a port on a network, a URL. `error` is what opening the port
    raised: OSError (pyserial's errors are that), termios.error or, for a baud rate, ValueError.
    Looks at the device file, so call it where blocking is allowed.
    """
    if isinstance(error, ValueError):
        advice = "check the baud rate, the parity and rs485"
        return f"{path}: the port refuses its settings ({error}); {advice}"
    if "://" in path:
        return f"{path}: {_network_reason(error)}; check the address, and that the converter is on"
    number = _errno(error)
    if number in _ABSENT:
        return f"{path}: no such port; is the device plugged in, and the path right?"
    if number in _REFUSED:
        return f"{path}: permission denied; {_permission_advice(path)}"
    if number in _BUSY:
        return f"{path}: another program has the port open; stop it, or give it another port"
    if number == errno.ENOTTY:
        return f"{path}: not a serial port; check the path"
    return f"{path}: {error}; check the device and its cable"


def _network_reason(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__context__
    # pyserial's own texts end with the state of everything.
    return re.split(r": | \[", str(error))[0]


def _errno(error: Exception) -> int | None:
    # pyserial hides a termios.error's number in the text, but keeps the error as the context.
    cause: BaseException | None = error
    while cause is not None:
        number = cause.args[0] if isinstance(cause, termios.error) and cause.args else None
        if number is None:
            number = getattr(cause, "errno", None)
        if isinstance(number, int):
            return number
        cause = cause.__context__
    return None


def _permission_advice(path: str) -> str:
    try:
        status = Path(path).stat()
        group = grp.getgrgid(status.st_gid).gr_name
    except (OSError, KeyError):
        return "run the agent as a user that may read and write it"
    # Joining root's group is no cure, and joining a group that may not write is none either.
    if status.st_gid == 0 or not status.st_mode & stat.S_IWGRP:
        return (
            "let a group read and write it with a udev rule, and the agent's user join that group"
        )
    return (
        f"add the agent's user to the group {group!r} "
        f"(sudo usermod -aG {group} USER), then start the agent again"
    )
