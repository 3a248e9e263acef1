"""The configuration file, TOML: read and checked.

Every mistake is reported with the file, the key, what was expected and an example.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent.config import Config, HubConfig, RemoteConfig, ServerConfig, UserConfig, parse_listen
from agent.config_conflicts import check_order, check_policy
from agent.config_explain import explain, hint
from agent.config_hooks import check_hook
from agent.config_lines import with_line
from agent.config_login import Login
from agent.errors import ConfigError

_FileT = TypeVar("_FileT", Config, HubConfig)


_OF_A_GATEWAY = frozenset({"agent", "clock", "device", "remote", "retention"})


def load(path: Path) -> Config:
    """Read and check a configuration file. Raises ConfigError, one line.

    Relative paths in it are taken from the folder that the file is in.
    """
    config = _load(path, Config)
    with _located(path):
        _check(config, path)
    config.agent.data = str(path.parent / config.agent.data)
    for entry in (*config.remote, *config.telemetry, *config.hook):
        entry.take_files_from(path.parent)
    return config


def load_either(path: Path) -> Config | HubConfig:
    """The file of a gateway or of a hub, which has none of the former's tables."""
    return load(path) if _parsed(_text(path), path).keys() & _OF_A_GATEWAY else load_hub(path)


def load_hub(path: Path) -> HubConfig:
    """As `load`, the file of a hub: `[server]`, `[[user]]` and `[[hook]]`."""
    config = _load(path, HubConfig)
    for hook in config.hook:
        hook.take_files_from(path.parent)
    return config


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors that show only when a loaded configuration is used begin with its file, too."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(_with_line(f"{path}: {error}", path)) from error


@contextmanager
def _located(path: Path) -> Iterator[None]:
    """Errors end with the line, where there is one."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(_with_line(str(error), path)) from error


def _with_line(message: str, path: Path) -> str:
    try:
        return with_line(message, _text(path))
    except ConfigError:  # a file that is not there yet
        return message


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
    raw = _parsed(_text(path), path)
    with _located(path):
        config = _converted(raw, path, kind)
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
    _check_names(config, "hook", path)
    _check_names(config, "conflict", path)
    with naming(path):
        for hook in config.hook:
            check_hook(hook, of_hub=kind is HubConfig)
        for entry in config.conflict:
            check_policy(entry, of_hub=kind is HubConfig)
        own = config.agent.database if isinstance(config, Config) else None
        check_order(config.conflict, own)
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
    except (ValueError, RecursionError):  # which tomllib does not make its own
        text = "a number has thousands of digits, or something is nested too deeply"
        raise ConfigError(f"{path}: {text}; take it out") from None


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
            'anyone into one; give it to somebody with roles = ["_admin"], or with edge-agent user '
            "add NAME --role _admin"
        )
    if "*" in server.cors_origins and not users:
        raise ConfigError(
            f'{path}: server.cors_origins = ["*"] without a user would open all data to every web '
            "page; add one with edge-agent user add, or name the origins, for example "
            'cors_origins = ["http://localhost:8080"]'
        )


def _check(config: Config, path: Path) -> None:
    """What the types cannot say."""
    for table in ("device", "remote", "telemetry"):
        _check_names(config, table, path)
    ports: dict[str, str] = {}
    for device in config.device:
        other = ports.setdefault(device.port, device.name)
        if other != device.name:
            raise ConfigError(
                f"{path}: device {device.name!r}: the port {device.port} is that of "
                f"{other!r} already; each device needs its own"
            )
        if device.clock and config.clock.trust == "system":
            raise ConfigError(
                f'{path}: device {device.name!r}: clock is of no use with trust = "system" in '
                "[clock]; keep one"
            )
        if device.rs485 and "://" in device.port:
            raise ConfigError(
                f"{path}: device {device.name!r}: rs485 is for ports of this machine; take it out, "
                "a converter on the network switches its driver by itself"
            )
    for remote in config.remote:
        _check_selections(remote, path)
        _check_required(remote, path)
        _check_transport(remote, path)
        _check_login(remote, path)
    for telemetry in config.telemetry:
        _check_login(telemetry, path)
        if telemetry.interval is not None and telemetry.backlog:
            raise ConfigError(
                f"{path}: {telemetry.label}: interval and backlog exclude each other, as a backlog "
                "is all readings; keep one"
            )


def _check_names(config: Config | HubConfig, table: str, path: Path) -> None:
    seen: dict[str, int] = {}
    for number, entry in enumerate(getattr(config, table), 1):
        first = seen.setdefault(entry.name, number)
        if first != number:
            raise ConfigError(
                f"{path}: {table}.name (in [[{table}]] number {number}): the name {entry.name!r} "
                f"is used twice, number {first} has it already; each needs its own, for example "
                f'name = "{entry.name}-2"'
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
        if given and remote.verify_interval is not None:
            raise ConfigError(
                f"{path}: remote {remote.name!r}: verify_interval is of no use with {given[0]}, "
                "by which both sides differ on purpose; take one of them out"
            )


def _check_required(remote: RemoteConfig, path: Path) -> None:
    if not remote.required and remote.direction == "pull":
        raise ConfigError(
            f'{path}: remote {remote.name!r}: required is of no use with direction = "pull"; '
            "take it out"
        )


def _check_transport(remote: RemoteConfig, path: Path) -> None:
    """A key that would do nothing is a mistake."""
    http = remote.url.startswith("http")
    useless = [] if http else ["auth"] * (remote.auth != "auto")
    useless += [] if http else ["feed"] * (remote.feed != "continuous")
    if http:
        useless += [key for key in ("client_certificate", "client_key") if getattr(remote, key)]
    if useless:
        raise ConfigError(
            f"{path}: remote {remote.name!r}: {useless[0]} is only for "
            f"{'an MQTT broker' if http else 'HTTP'}; take it out"
        )


def _check_login(login: Login, path: Path) -> None:
    where = f"{path}: {login.label}"
    given = [
        key
        for key in ("password", "password_file", "password_env")
        if getattr(login, key) is not None
    ]
    if len(given) > 1:
        raise ConfigError(
            f"{where}: {' and '.join(given)} exclude each other; keep one, for example "
            "password_file"
        )
    if given and login.user is None:
        raise ConfigError(f'{where}: {given[0]} needs a user, for example user = "gateway-1"')
    if login.client_key is not None and login.client_certificate is None:
        raise ConfigError(
            f"{where}: client_key needs client_certificate, "
            f"expected {hint([login.table, 0, 'client_certificate'], Config)}"
        )
