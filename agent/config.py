"""The configuration as typed structs: what keys there are, and what they may be.

`config_file.py` reads them from a file. Secrets may stand in files or environment variables.
"""

from __future__ import annotations

import re
import socket
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from agent.config_clock import ClockConfig
from agent.config_conflicts import ConflictConfig
from agent.config_hooks import HookConfig
from agent.config_login import Login
from agent.config_retention import RetentionConfig
from agent.config_sensors import SensorConfig
from agent.config_types import DatabaseName, Name, Seconds
from agent.errors import ConfigError

DEFAULT_LISTEN = "127.0.0.1:5984"

_PORT = (
    r"^(?!usb:|serial:|[a-z0-9]+://)[^\x00]+\Z"
    r"|^serial:\S.*\Z"
    r"|^usb:([0-9a-fA-F]{4}:[0-9a-fA-F]{4}|\d+-\d+(\.\d+)*(:\d+\.\d+)?)\Z"
    r"|^(socket://[^/\s@]+:\d{1,5}|rfc2217://[^/\s@]+:\d{1,5}/?(\?\S+)?)\Z"
)

Selector = Annotated[
    dict[str, Any],
    Meta(
        description="a Mango selector: what is replicated in that direction",
        examples=[{"type": "reading"}],
    ),
]
DocIds = Annotated[
    list[Annotated[str, Meta(min_length=1)]],
    Meta(
        description="ids of the documents that are replicated in that direction",
        examples=[["setpoints", "schedule"]],
    ),
]


class AgentConfig(Struct, forbid_unknown_fields=True):
    """`[agent]`: who this gateway is and where it keeps its data."""

    data: Annotated[
        str, Meta(min_length=1, description="a folder", examples=["/var/lib/edge-agent"])
    ]
    name: Name = msgspec.field(default_factory=lambda: host_name())
    database: DatabaseName = "edge"
    commit_interval: Annotated[
        float,
        Meta(
            ge=0,
            le=60,
            description="seconds between writes of readings to the disk, at most 60; 0: at once",
            examples=[1],
        ),
    ] = 0.0


class ServerConfig(Struct, forbid_unknown_fields=True):
    """`[server]`: the CouchDB-compatible HTTP server."""

    listen: Annotated[
        str, Meta(description="HOST:PORT", examples=["127.0.0.1:5984"], min_length=1)
    ] = DEFAULT_LISTEN
    tls_certificate: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="a PEM file with the server's certificate and those that signed it",
                examples=["/etc/edge-agent/server.pem"],
            ),
        ]
        | None
    ) = None
    tls_key: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="a PEM file with the certificate's private key",
                examples=["/etc/edge-agent/server.key"],
            ),
        ]
        | None
    ) = None
    cors_origins: list[
        Annotated[
            str,
            Meta(
                pattern=r"^(\*|https?://[^/\s*]+)$",
                description="origins of web pages, without a path, or '*'",
                examples=[["https://app.example.org"]],
            ),
        ]
    ] = []
    session_timeout: Annotated[
        int,
        Meta(ge=10, le=31_536_000, description="whole seconds from 10 on", examples=[600]),
    ] = 600


class UserConfig(Struct, forbid_unknown_fields=True):
    """`[[user]]`: somebody who may log in to the server."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[^\s:_\ud800-\udfff][^\x00-\x1f\x7f:\ud800-\udfff]{0,127}$",
            description="a user name: no colon, no '_' or blank at the beginning, at most 128",
            examples=["gateway-1"],
        ),
    ]
    password_hash: Annotated[
        str,
        Meta(
            pattern=r"^(\$scrypt\$|-pbkdf2)",
            description="what edge-agent user add printed",
            examples=["$scrypt$ln=14,r=8,p=5$..."],
        ),
    ]
    roles: list[
        Annotated[
            str,
            Meta(
                pattern=r"^(_admin|_reader|[^_\s\ud800-\udfff][^\x00-\x1f\x7f\ud800-\udfff]{0,127})$",
                description="role names; '_admin' administers the server, '_reader' only reads",
                examples=[["_admin"]],
            ),
        ]
    ] = []

    def __repr__(self) -> str:
        """Without the hash."""
        return f"UserConfig(name={self.name!r}, roles={self.roles!r})"


class DeviceConfig(Struct, forbid_unknown_fields=True):
    """`[[device]]`: something on a serial port that sends readings."""

    name: Name
    port: Annotated[
        str,
        Meta(
            pattern=_PORT,
            description=(
                "a port's path, its name in /dev/serial/by-id, serial:NUMBER, usb:VID:PID, "
                "usb:LOCATION (1-1.2), socket://HOST:PORT or rfc2217://HOST:PORT"
            ),
            examples=["/dev/serial/by-id/usb-FTDI_FT232R_A1B2C3-if00-port0"],
        ),
    ]
    adapter: Annotated[
        str, Meta(min_length=1, description="a firmware adapter", examples=["cbor-frames"])
    ]
    baud: Annotated[
        int, Meta(gt=0, le=20_000_000, description="a baud rate", examples=[115200])
    ] = 115200
    data_bits: Annotated[Literal[7, 8], Meta(description="7 or 8", examples=[8])] = 8
    parity: Annotated[
        Literal["none", "even", "odd"],
        Meta(description="'none', 'even' or 'odd'", examples=["even"]),
    ] = "none"
    stop_bits: Annotated[Literal[1, 2], Meta(description="1 or 2", examples=[1])] = 1
    rs485: Annotated[
        bool,
        Meta(
            description="true: RTS switches the line's driver on while something is sent",
            examples=[True],
        ),
    ] = False
    commands: Annotated[
        bool,
        Meta(
            description="false: the device is sent no settings, whatever its document desires",
            examples=[False],
        ),
    ] = True
    settings: Annotated[
        dict[str, Any],
        Meta(
            description="a table [device.settings] with the firmware adapter's settings",
            examples=[{"version": "5"}],
        ),
    ] = {}
    clock: Annotated[
        bool,
        Meta(
            description="true: the agent takes the time from it, as of a GPS receiver",
            examples=[True],
        ),
    ] = False
    sensor: list[SensorConfig] = []


class RemoteConfig(Login, forbid_unknown_fields=True):
    """`[[remote]]`: a database elsewhere that is replicated with."""

    table = "remote"

    url: Annotated[
        str,
        Meta(
            pattern=r"^(https?|mqtts?|wss?)://[^/]+/.+",
            description="http(s)://HOST[:PORT]/DATABASE, or mqtt(s):// or ws(s):// over a broker",
            examples=["https://cloud.example.org:6984/edge"],
        ),
    ]
    direction: Annotated[
        Literal["both", "push", "pull"],
        Meta(description="'both', 'push' or 'pull'", examples=["both"]),
    ] = "both"
    auth: Annotated[
        Literal["auto", "basic", "cookie"],
        Meta(
            description="'auto' (cookie where the server has sessions), 'basic' or 'cookie'",
            examples=["auto"],
        ),
    ] = "auto"
    create: Annotated[
        bool, Meta(description="true: make the database when it is missing", examples=[True])
    ] = False
    feed: Annotated[
        Literal["continuous", "longpoll"],
        Meta(
            description="'continuous', or 'longpoll' where a proxy holds streams back",
            examples=["longpoll"],
        ),
    ] = "continuous"
    required: Annotated[
        bool,
        Meta(
            description="false: retention need not wait until this remote has what it deletes",
            examples=[False],
        ),
    ] = True
    push_selector: Selector | None = None
    pull_selector: Selector | None = None
    push_doc_ids: DocIds | None = None
    pull_doc_ids: DocIds | None = None
    heartbeat: Seconds = 30.0
    checkpoint_interval: Seconds = 10.0
    retry_cap: Seconds = 60.0
    verify_interval: (
        Annotated[
            float,
            Meta(
                ge=1,
                le=31_536_000,
                description="seconds between verifications, from 1 to 31536000, a year",
                examples=[86_400],
            ),
        ]
        | None
    ) = None
    bytes_per_day: (
        Annotated[
            int,
            Meta(
                ge=100_000,
                le=10**15,
                description="bytes over the link in a day, both directions together, from 100000",
                examples=[5_000_000],
            ),
        ]
        | None
    ) = None


class TelemetryConfig(Login, forbid_unknown_fields=True):
    """`[[telemetry]]`: an MQTT broker on which the devices' readings are published for others."""

    table = "telemetry"

    url: Annotated[
        str,
        Meta(
            pattern=r"^(mqtts?|wss?)://[^/]+",
            description="mqtt(s):// or ws(s)://HOST[:PORT][/PREFIX]",
            examples=["mqtt://broker.example.org"],
        ),
    ]
    qos: Annotated[Literal[0, 1], Meta(description="0 or 1", examples=[1])] = 0
    retain: Annotated[
        bool,
        Meta(description="false: the broker does not keep the latest readings", examples=[False]),
    ] = True
    interval: Seconds | None = None
    backlog: Annotated[
        bool,
        Meta(
            description="true: what was recorded during an outage is published afterwards",
            examples=[True],
        ),
    ] = False
    home_assistant: (
        bool
        | Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$",
                description="true, or the prefix of topics where Home Assistant looks for devices",
                examples=[True],
            ),
        ]
    ) = False
    heartbeat: Seconds = 30.0


class Config(Struct, forbid_unknown_fields=True):
    """The whole file."""

    agent: AgentConfig
    server: ServerConfig = msgspec.field(default_factory=ServerConfig)
    user: list[UserConfig] = []
    device: list[DeviceConfig] = []
    remote: list[RemoteConfig] = []
    telemetry: list[TelemetryConfig] = []
    conflict: list[ConflictConfig] = []
    clock: ClockConfig = msgspec.field(default_factory=ClockConfig)
    hook: list[HookConfig] = []
    retention: RetentionConfig | None = None


class HubConfig(Struct, forbid_unknown_fields=True):
    """The whole file of a hub."""

    server: ServerConfig = msgspec.field(default_factory=ServerConfig)
    user: list[UserConfig] = []
    conflict: list[ConflictConfig] = []
    hook: list[HookConfig] = []


def parse_listen(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[IPv6]:PORT` in its parts. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(
            f'listen = {text!r}: expected HOST:PORT, for example listen = "127.0.0.1:5984"'
        )
    return host, int(port)


def host_name() -> str:
    """This machine's name, as far as it can name a gateway."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64].lstrip("-._")
    return name or "gateway"
