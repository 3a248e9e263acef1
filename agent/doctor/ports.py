"""Serial ports: whether they are there, and whether the agent may use them."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from agent.config import DeviceConfig
from agent.doctor.account import Account
from agent.doctor.finding import Finding, Level
from agent.errors import PortError
from agent.sensors.port_users import users_of
from agent.sensors.ports import find_path, is_network

_USE = os.R_OK | os.W_OK
_RESTART = "sudo systemctl restart edge-agent"


def port(device: DeviceConfig, account: Account, process: int | None) -> Sequence[Finding]:
    """Of one device. Does not open the port, which might reset what is plugged in."""
    subject = f"device {device.name!r}"

    def found(level: Level, text: str, mend: str | None = None) -> Sequence[Finding]:
        return [Finding("port", subject, level, text, mend)]

    if is_network(device.port):
        return found(Level.OK, f"{device.port} is on the network, and not looked for")
    try:
        path = find_path(device.port)
        status = Path(path).stat()
    except PortError as error:
        return found(Level.ERROR, str(error), "edge-agent ports")
    except OSError as error:
        text = f"{path} cannot be found ({error.strerror}); is the device plugged in?"
        return found(Level.ERROR, text, "edge-agent ports")
    if not stat.S_ISCHR(status.st_mode):
        return found(Level.ERROR, f"{path} is not a serial port", "edge-agent ports")
    if not account.may(status, _USE):
        return found(Level.ERROR, *_permission(path, status, account))
    others = {pid: name for pid, name in users_of(path).items() if pid != process}
    if others:
        pid, name = next(iter(others.items()))
        text = f"{path} is in use by {name} (process {pid})"
        # It talks to everything that could be a modem.
        modems = "sudo systemctl disable --now ModemManager"
        return found(Level.ERROR, text, modems if name == "ModemManager" else f"sudo kill {pid}")
    return found(Level.OK, f"{path} may be used by user {account.name!r}")


def _permission(path: str, status: os.stat_result, account: Account) -> tuple[str, str]:
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    text = f"user {account.name!r} may not use {path}"
    granted = status.st_mode >> 3 & _USE == _USE
    if granted and status.st_gid in account.members:
        return f"{text}, since it joined the group {group} after the agent was started", _RESTART
    if granted and status.st_gid != 0:
        mend = f"sudo usermod -aG {group} {account.name} && {_RESTART}"
        return f"{text}, which takes the group {group}", mend
    # Joining root's group is no cure, and joining a group that may not write is none either.
    rule = f'KERNEL=="{Path(path).resolve().name}", GROUP="dialout", MODE="0660"'
    file = "/etc/udev/rules.d/60-edge-agent.rules"
    return (
        f"{text}: no group may write it",
        f"echo '{rule}' | sudo tee -a {file} && sudo udevadm control --reload && "
        f"sudo udevadm trigger && sudo usermod -aG dialout {account.name}",
    )
