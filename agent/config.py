"""The configuration file: one TOML file, checked into typed structs.

Every mistake is reported with the file, the key, what was expected and an example. Secrets may
stand in a file or an environment variable instead of here.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from agent.config_explain import explain, hint
from agent.errors import ConfigError

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
DEFAULT_LISTEN = "127.0.0.1:5984"

_DATABASE = r"^[a-z][a-z0-9_$()+/-]*$"

Name = Annotated[
    str,
    Meta(
        pattern=_NAME,
        description="letters, digits, '_', '.' and '-', at most 64",
        examples=["greenhouse-1"],
    ),
]
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
Seconds = Annotated[
    float,
    Meta(
        gt=0,
        le=86_400,
        description="a number of seconds above 0 and at most 86400, a day",
        examples=[30],
    ),
]


class AgentConfig(Struct, forbid_unknown_fields=True):
    """`[agent]`: who this gateway is and where it keeps its data."""

    data: Annotated[
        str, Meta(min_length=1, description="a folder", examples=["/var/lib/edge-agent"])
    ]
    name: Name = msgspec.field(default_factory=lambda: _host_name())
    database: Annotated[
        str,
        Meta(
            pattern=_DATABASE,
            max_length=60,
            description="a database name: lower-case letters, digits and _$()+/-, at most 60",
            examples=["edge"],
        ),
    ] = "edge"


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
                pattern=r"^(_admin|[^_\s\ud800-\udfff][^\x00-\x1f\x7f\ud800-\udfff]{0,127})$",
                description="role names; '_admin' administers the server",
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
            min_length=1,
            description="the path of a serial port",
            examples=["/dev/serial/by-id/usb-FTDI_FT232R_A1B2C3-if00-port0"],
        ),
    ]
    adapter: Annotated[
        str, Meta(min_length=1, description="a firmware adapter", examples=["cbor-frames"])
    ]
    baud: Annotated[
        int, Meta(gt=0, le=20_000_000, description="a baud rate", examples=[115200])
    ] = 115200


class RemoteConfig(Struct, forbid_unknown_fields=True):
    """`[[remote]]`: a database elsewhere that is replicated with."""

    name: Name
    url: Annotated[
        str,
        Meta(
            pattern=r"^https?://[^/]+/.+",
            description="http(s)://HOST[:PORT]/DATABASE",
            examples=["https://cloud.example.org:6984/edge"],
        ),
    ]
    direction: Annotated[
        Literal["both", "push", "pull"],
        Meta(description="'both', 'push' or 'pull'", examples=["both"]),
    ] = "both"
    user: Annotated[str, Meta(description="a user name", examples=["gateway-1"])] | None = None
    password: Annotated[str, Meta(description="a password", examples=["..."])] | None = None
    password_file: (
        Annotated[
            str,
            Meta(description="a file that holds the password", examples=["/etc/edge-agent/cloud"]),
        ]
        | None
    ) = None
    password_env: (
        Annotated[
            str,
            Meta(
                description="an environment variable that holds the password",
                examples=["CLOUD_PASSWORD"],
            ),
        ]
        | None
    ) = None
    auth: Annotated[
        Literal["auto", "basic", "cookie"],
        Meta(
            description="'auto' (cookie where the server has sessions), 'basic' or 'cookie'",
            examples=["auto"],
        ),
    ] = "auto"
    ca_file: (
        Annotated[
            str,
            Meta(
                description="a PEM file with the authority that signed the remote's certificate",
                examples=["/etc/edge-agent/ca.pem"],
            ),
        ]
        | None
    ) = None
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
    push_selector: Selector | None = None
    pull_selector: Selector | None = None
    push_doc_ids: DocIds | None = None
    pull_doc_ids: DocIds | None = None
    heartbeat: Seconds = 30.0
    checkpoint_interval: Seconds = 10.0
    retry_cap: Seconds = 60.0

    def secret(self) -> str | None:
        """The password, from wherever it is kept. Raises ConfigError."""
        if self.password_file is not None:
            try:
                return Path(self.password_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "not UTF-8 text"
                raise ConfigError(
                    f"remote {self.name!r}: password_file {self.password_file} cannot be read "
                    f"({reason}); make it, readable by this user"
                ) from error
        if self.password_env is not None:
            try:
                return os.environ[self.password_env]
            except KeyError:
                raise ConfigError(
                    f"remote {self.name!r}: the environment variable {self.password_env} "
                    "(password_env) is not set; set it, or use password_file"
                ) from None
        return self.password


class Config(Struct, forbid_unknown_fields=True):
    """The whole file."""

    agent: AgentConfig
    server: ServerConfig = msgspec.field(default_factory=ServerConfig)
    user: list[UserConfig] = []
    device: list[DeviceConfig] = []
    remote: list[RemoteConfig] = []


class HubConfig(Struct, forbid_unknown_fields=True):
    """The whole file of a hub."""

    server: ServerConfig = msgspec.field(default_factory=ServerConfig)
    user: list[UserConfig] = []


_FileT = TypeVar("_FileT", Config, HubConfig)


_OF_A_GATEWAY = frozenset({"agent", "device", "remote"})


def load(path: Path) -> Config:
    """Read and check a configuration file. Raises ConfigError, one line.

    Relative paths in it are taken from the folder that the file is in.
    """
    config = _load(path, Config)
    _check(config, path)
    config.agent.data = str(path.parent / config.agent.data)
    for remote in config.remote:
        if remote.password_file is not None:
            remote.password_file = str(path.parent / remote.password_file)
        if remote.ca_file is not None:
            remote.ca_file = str(path.parent / remote.ca_file)
    return config


def load_either(path: Path) -> Config | HubConfig:
    """The file of a gateway or of a hub, which has none of the former's tables."""
    return load(path) if _parsed(_text(path), path).keys() & _OF_A_GATEWAY else load_hub(path)


def load_hub(path: Path) -> HubConfig:
    """As `load`, the file of a hub: `[server]` and `[[user]]`."""
    return _load(path, HubConfig)


def check_user(name: str, roles: Sequence[str]) -> None:
    """Raises ConfigError unless a user of that name and with those roles can be configured."""
    raw = {"name": name, "password_hash": "$scrypt$", "roles": list(roles)}
    try:
        msgspec.convert(raw, UserConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(explain(str(error), raw, UserConfig)) from None


def check_text(text: str, path: Path) -> None:
    """Raises ConfigError unless a gateway's or a hub's file could be just that text."""
    raw = _parsed(text, path)
    if "agent" in raw:
        _check(_converted(raw, path, Config), path)
    else:
        _converted(raw, path, HubConfig)


def _load(path: Path, kind: type[_FileT]) -> _FileT:
    config = _converted(_parsed(_text(path), path), path, kind)
    for key in ("tls_certificate", "tls_key"):
        file = getattr(config.server, key)
        if file is not None:
            setattr(config.server, key, str(path.parent / file))
    return config


def _converted(raw: dict[str, Any], path: Path, kind: type[_FileT]) -> _FileT:
    try:
        config = msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {explain(str(error), raw, kind)}") from error
    _check_access(config.server, config.user, path)
    return config


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name the right one with --config") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


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


def _check_access(server: ServerConfig, users: list[UserConfig], path: Path) -> None:
    """What the types cannot say of who may use the server."""
    try:
        parse_listen(server.listen)
    except ConfigError as error:
        raise ConfigError(f"{path}: server.{error}") from None
    for given, missing in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")):
        if getattr(server, given) is not None and getattr(server, missing) is None:
            raise ConfigError(
                f"{path}: server.{given} needs server.{missing}, "
                f"expected {hint(['server', missing], Config)}"
            )
    names = [user.name for user in users]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"{path}: user: the name {name!r} is used twice; remove one of the two tables"
            )
    if users and not any("_admin" in user.roles for user in users):
        raise ConfigError(
            f"{path}: user: nobody has the role _admin, so nobody could make a database or let "
            'anyone into one; give it to somebody, for example roles = ["_admin"]'
        )
    if "*" in server.cors_origins and not users:
        raise ConfigError(
            f'{path}: server.cors_origins = ["*"] without a user would open all data to every web '
            "page; add one with edge-agent user add, or name the origins, for example "
            'cors_origins = ["http://localhost:8080"]'
        )


def _check(config: Config, path: Path) -> None:
    """What the types cannot say."""
    for table, entries in (("device", config.device), ("remote", config.remote)):
        seen: set[str] = set()
        for entry in entries:
            if entry.name in seen:
                raise ConfigError(
                    f"{path}: {table}: the name {entry.name!r} is used twice; "
                    "each needs its own, for example "
                    f'name = "{entry.name}-2"'
                )
            seen.add(entry.name)
    ports: dict[str, str] = {}
    for device in config.device:
        other = ports.setdefault(device.port, device.name)
        if other != device.name:
            raise ConfigError(
                f"{path}: device {device.name!r}: the port {device.port} is that of "
                f"{other!r} already; each device needs its own"
            )
    for remote in config.remote:
        _check_selections(remote, path)
        given = [
            key
            for key in ("password", "password_file", "password_env")
            if getattr(remote, key) is not None
        ]
        if len(given) > 1:
            raise ConfigError(
                f"{path}: remote {remote.name!r}: {' and '.join(given)} exclude each other; "
                "keep one, for example password_file"
            )
        if given and remote.user is None:
            raise ConfigError(
                f"{path}: remote {remote.name!r}: {given[0]} needs a user, for example "
                'user = "gateway-1"'
            )


def _check_selections(remote: RemoteConfig, path: Path) -> None:
    for direction, other in (("push", "pull"), ("pull", "push")):
        given = [
            key
            for key in (f"{direction}_selector", f"{direction}_doc_ids")
            if getattr(remote, key) is not None
        ]
        if len(given) > 1:
            raise ConfigError(
                f"{path}: remote {remote.name!r}: {' and '.join(given)} exclude each other; "
                "keep one"
            )
        if given and remote.direction == other:
            raise ConfigError(
                f"{path}: remote {remote.name!r}: {given[0]} is of no use with "
                f'direction = "{other}"; take it out, or write direction = "both"'
            )


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64].lstrip("-._")
    return name or "gateway"
