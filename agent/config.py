"""The configuration file: one TOML file, checked into typed structs.

Every mistake is reported with the file, the key, what was expected and an example. Secrets may
stand in a file or an environment variable instead of here.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from agent.errors import ConfigError

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_DATABASE = r"^[a-z][a-z0-9_$()+/-]*$"

Name = Annotated[
    str,
    Meta(
        pattern=_NAME,
        description="letters, digits, '_', '.' and '-', at most 64",
        examples=["greenhouse-1"],
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
    ] = "127.0.0.1:5984"


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
    device: list[DeviceConfig] = []
    remote: list[RemoteConfig] = []


def load(path: Path) -> Config:
    """Read and check a configuration file. Raises ConfigError, one line.

    Relative paths in it are taken from the folder that the file is in.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name the right one with --config") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_explain(str(error), raw)}") from error
    _check(config, path)
    config.agent.data = str(path.parent / config.agent.data)
    for remote in config.remote:
        if remote.password_file is not None:
            remote.password_file = str(path.parent / remote.password_file)
        if remote.ca_file is not None:
            remote.ca_file = str(path.parent / remote.ca_file)
    return config


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


def _check(config: Config, path: Path) -> None:
    """What the types cannot say."""
    try:
        parse_listen(config.server.listen)
    except ConfigError as error:
        raise ConfigError(f"{path}: server.{error}") from None
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


# --- explaining ------------------------------------------------------------------------


def _explain(message: str, raw: dict[str, Any]) -> str:
    """msgspec's message in terms of the file: the key, what was expected, an example."""
    problem, _, place = message.partition(" - at `$")
    keys = re.findall(r"\.([^.\[\]`]+)|\[(\d+)\]", place)
    steps = [int(index) if index else name for name, index in keys]
    unknown = re.search(r"unknown field `(.*)`", problem)
    if unknown:
        return _explain_unknown(steps, unknown[1])
    missing = re.search(r"missing required field `(.*)`", problem)
    if missing:
        steps.append(missing[1])
        return f"{_shown(steps)} is missing; expected {_hint(steps)}"
    # Never the value of a secret.
    value = re.sub(r"(//)?[^'\"]*@", r"\1***@", repr(_value_at(raw, steps)))
    given = "" if steps[-1] == "password" else f" = {value}"
    return f"{_shown(steps)}{given} is not allowed; expected {_hint(steps)}"


def _explain_unknown(steps: list[str | int], key: str) -> str:
    struct = _type_at(steps)
    fields = [field.name for field in msgspec.structs.fields(struct)] if struct else []
    shown = _shown([*steps, key])
    close = difflib.get_close_matches(key, fields, n=1, cutoff=0.6)
    if close:
        hint = _hint([*steps, close[0]])
        return f"{shown}: unknown key; did you mean {close[0]}? Expected {hint}"
    return f"{shown}: unknown key; expected one of: {', '.join(fields)}"


def _shown(steps: list[str | int]) -> str:
    """A place in the file as people count: `remote.url (in the 1st [[remote]])`."""
    names = ".".join(step for step in steps if isinstance(step, str))
    numbers = [step for step in steps if isinstance(step, int)]
    if not numbers:
        return names
    return f"{names} (in [[{steps[0]}]] number {numbers[0] + 1})"


def _value_at(raw: Any, steps: list[str | int]) -> Any:
    for step in steps:
        raw = raw[step]
    return raw


def _hint(steps: list[str | int]) -> str:
    """What belongs at a place in the file, with an example."""
    found = _type_at(steps)
    key = steps[-1]
    meta = _meta(found)
    if meta is not None and meta.examples:
        example = msgspec.json.encode(meta.examples[0]).decode()
        return f"{meta.description}, for example {key} = {example}"
    if isinstance(found, type) and issubclass(found, Struct):
        return f"a table [{key}]" if len(steps) == 1 else f"a table [[{steps[0]}]]"
    if get_origin(found) is list:
        return f"tables that begin with [[{key}]]"
    return str(key)


def _type_at(steps: list[str | int]) -> Any:
    """The annotation at a place in the file; None where there is none."""
    found: Any = Config
    for step in steps:
        if isinstance(step, int):
            found = get_args(found)[0] if get_origin(found) is list else None
        elif isinstance(found, type) and issubclass(found, Struct):
            found = get_type_hints(found, include_extras=True).get(step)
        else:
            return None
    return found


def _meta(annotation: Any) -> Meta | None:
    if get_origin(annotation) is Annotated:
        return next((item for item in get_args(annotation) if isinstance(item, Meta)), None)
    for part in get_args(annotation):
        meta = _meta(part)
        if meta is not None:
            return meta
    return None


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64].lstrip("-._")
    return name or "gateway"
