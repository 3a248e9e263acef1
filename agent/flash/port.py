"""Which port a board is on, and whether it may be had."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from agent.errors import FlashError, PortError
from agent.flash.boards import Board
from agent.sensors.port_errors import explain_failure
from agent.sensors.port_users import users_of
from agent.sensors.ports import PortInfo, find_path, is_network, lasting_name, local_ports


def find_port(board: Board, name: str | None) -> tuple[str, str]:
    """The name of a board's port for a configuration, and the device file or URL that it is.

    `name` is one as `ports` has them; without one the board is looked for. Reads /sys and /proc,
    opens nothing. Raises FlashError, PortError.
    """
    if name is None:
        listed = local_ports()
        port = _only(board, listed)
        name, path = lasting_name(port, listed), port.path
    else:
        path = name if is_network(name) else find_path(name)
    if not is_network(path):
        _check_free(path)
    return name, path


def _only(board: Board, listed: list[PortInfo]) -> PortInfo:
    usb = [port for port in listed if port.usb_id is not None]
    candidates = [port for port in usb if port.usb_id in board.usb_ids] or usb
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise FlashError(
            "no board is plugged in by USB, as far as this machine can see; check the cable, or "
            "name the port with --port (edge-agent ports lists them)"
        )
    ways_out = " or ".join(_described(port, listed) for port in candidates)
    raise FlashError(f"{len(candidates)} ports may be the board's; write --port {ways_out}")


def _described(port: PortInfo, listed: list[PortInfo]) -> str:
    name = lasting_name(port, listed)
    return f"{name} ({port.description})" if port.description else name


def _check_free(path: str) -> None:
    """Raises PortError for a port that is not there or not ours, FlashError for one in use."""
    if not Path(path).exists():
        raise PortError(explain_failure(path, FileNotFoundError(errno.ENOENT, "")))
    if not os.access(path, os.R_OK | os.W_OK):
        raise PortError(explain_failure(path, PermissionError(errno.EACCES, "")))
    users = users_of(path)
    if users:
        who = ", ".join(f"{program} (process {process})" for process, program in users.items())
        raise FlashError(
            f"{path}: {who} uses it; stop that first (the agent: sudo systemctl stop edge-agent, "
            "or Ctrl-C where it runs)"
        )
