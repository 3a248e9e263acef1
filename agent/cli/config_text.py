"""The configuration file that `edge-agent init` writes, with comments; no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from agent.sensors.opening import LineFormat


class DeviceAnswer(msgspec.Struct, frozen=True):
    """A device: what it is called and how it is spoken with."""

    name: str
    port: str
    adapter: str
    baud: int
    line: LineFormat = msgspec.field(default_factory=LineFormat)


class RemoteAnswer(msgspec.Struct, frozen=True):
    """A database elsewhere. `password_file` is relative to the configuration file."""

    name: str
    url: str
    user: str | None = None
    password_file: str | None = None


class Answers(msgspec.Struct, frozen=True):
    """What a gateway is to be; `users` are whole tables of the file."""

    name: str
    data: str
    listen: str
    devices: Sequence[DeviceAnswer] = ()
    remote: RemoteAnswer | None = None
    users: Sequence[str] = ()


def config_text(answers: Answers) -> str:
    """The TOML of a configuration file."""
    parts = [
        "# The edge sync agent's configuration.\n"
        "# Check it with edge-agent config check, run it with edge-agent run.",
        "[agent]\n"
        f"name = {_toml(answers.name)}  # who this gateway is\n"
        f"data = {_toml(answers.data)}  # the folder of the databases; relative to this file\n"
        'database = "edge"  # where the readings go',
        "# The CouchDB-compatible server. Anything but loopback needs a user that may log in:\n"
        "# edge-agent user add NAME --role _admin --config FILE\n"
        f"[server]\nlisten = {_toml(answers.listen)}",
        "# What time it is the kernel says (NTP), a remote over TLS, or a GPS receiver. Where the\n"
        "# machine's clock is right at any time, and nobody says so, as in a container:\n"
        '# [clock]\n# trust = "system"',
        *(table.strip() for table in answers.users),
        *(device_table(device) for device in answers.devices),
    ]
    if not answers.devices:
        parts.append(
            "# A device on a serial port; edge-agent ports --probe finds out what to write.\n"
            '# [[device]]\n# name = "greenhouse"\n# port = "/dev/ttyUSB0"\n'
            '# adapter = "json-lines"\n# baud = 115200'
        )
    if answers.remote is not None:
        parts.append(_remote(answers.remote))
    else:
        parts.append(
            "# A database elsewhere, CouchDB, Cloudant or another agent.\n"
            '# [[remote]]\n# name = "cloud"\n# url = "https://couchdb.example.org:6984/edge"\n'
            '# user = "gateway-1"\n# password_file = "cloud.password"'
        )
    return "\n\n".join(parts) + "\n"


def device_table(device: DeviceAnswer) -> str:
    """The `[[device]]` of a device."""
    line = device.line
    lines = [
        "[[device]]",
        f"name = {_toml(device.name)}  # the readings' ids begin with it",
        f"port = {_toml(device.port)}",
        f"adapter = {_toml(device.adapter)}  # what it speaks",
        f"baud = {device.baud}",
    ]
    usual = LineFormat()
    for key in ("data_bits", "parity", "stop_bits"):
        if getattr(line, key) != getattr(usual, key):
            lines.append(f"{key} = {_toml(getattr(line, key))}")
    return "\n".join(lines)


def _remote(remote: RemoteAnswer) -> str:
    lines = [
        "[[remote]]",
        f"name = {_toml(remote.name)}",
        f"url = {_toml(remote.url)}",
        'direction = "both"  # or "push", or "pull"',
        "create = true  # make the database there if it is missing",
    ]
    if remote.user is not None:
        lines.append(f"user = {_toml(remote.user)}")
    if remote.password_file is not None:
        lines.append(f"password_file = {_toml(remote.password_file)}  # relative to this file")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """JSON's strings and numbers are TOML's, too."""
    return msgspec.json.encode(value).decode()
