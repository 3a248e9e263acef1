"""`edge-agent init`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_type_hints
from urllib.parse import urlsplit

import click
import msgspec
from msgspec import Struct

from agent.cli.config_text import Answers, DeviceAnswer, RemoteAnswer, config_text
from agent.cli.files import replace_file
from agent.cli.options import config_option
from agent.cli.ports import Row, describe, describe_line, find_rows, probe_rows, said, state
from agent.cli.user import user_table
from agent.config import (
    DEFAULT_LISTEN,
    AgentConfig,
    DeviceConfig,
    RemoteConfig,
    UserConfig,
    parse_listen,
)
from agent.config_explain import hint
from agent.config_file import check_text
from agent.durable import make_folder
from agent.errors import ConfigError, PortError
from agent.sensors.probe import Attempt, Heard, listen, listening_adapters
from agent.server.http import is_loopback
from agent.server.passwords import hash_password
from firmware_adapters import Reading

_REMOTE = "cloud"
_NONE = "none"


@click.command()
@config_option
@click.option(
    "--yes",
    is_flag=True,
    help="Ask nothing: take what is proposed, and each device that is heard on a free port.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=3.0,
    show_default=True,
    help="How long to listen to the ports in each way; four times as long for the first reading.",
)
def init_command(config_path: Path, yes: bool, seconds: float) -> None:
    """Make a configuration file by a few questions, and show a first reading."""
    _check_place(config_path)
    if config_path.exists():
        if yes:
            raise ConfigError(
                f"{config_path}: there is such a file; name another one with --config, or remove it"
            )
        click.confirm(f"{config_path} is there already; replace it?", abort=True)
    interview = Interview(config_path, yes=yes, seconds=seconds)
    answers = interview.answers()
    text = config_text(answers)
    check_text(text, config_path)
    try:
        make_folder(config_path.parent)
    except OSError as error:
        raise ConfigError(f"{config_path.parent}: cannot be made ({error.strerror})") from error
    if interview.password is not None:
        replace_file(interview.password.file, interview.password.text + "\n")
    replace_file(config_path, text)
    click.echo(f"{config_path}: written")
    for device in answers.devices:
        click.echo(asyncio.run(_proof(device, 4 * seconds)))
    if not answers.devices:
        click.echo("no device yet: plug one in, see edge-agent ports --probe, and add a [[device]]")
    click.echo(f"next: edge-agent run --config {config_path}")


def _check_place(path: Path) -> None:
    """Before anybody answers questions in vain."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not path.is_file()):
        raise ConfigError(
            f"{path}: cannot be written by this user; use sudo, or name another file with --config"
        )


async def _proof(device: DeviceAnswer, seconds: float) -> str:
    """The first reading, or what is missing."""
    attempt = Attempt(device.baud, device.line, {device.adapter: {}})
    try:
        heard = await listen(device.port, attempt, seconds)
    except PortError as error:
        return f"{device.name}: no reading: {error}"
    if heard is None:
        line = describe_line(device.baud, device.line)
        return (
            f"{device.name}: no reading in {seconds:g} s; check that the device is on, wired and "
            f"speaks {device.adapter} at {line}"
        )
    if isinstance(heard.said, Reading):
        return f"{device.name}: first reading: {describe(heard.said)}"
    return f"{device.name}: it speaks {device.adapter}, without a value yet: {heard.said.detail}"


class Password(msgspec.Struct, frozen=True):
    """What belongs in a file of its own."""

    file: Path
    text: str


class Interview:
    """The questions. With `yes` each has the answer that is proposed."""

    def __init__(self, config_path: Path, *, yes: bool, seconds: float) -> None:
        self.password: Password | None = None
        """The remote's; set by `answers`."""
        self._path = config_path
        self._yes = yes
        self._seconds = seconds

    def answers(self) -> Answers:
        """Ask. Raises click.Abort."""
        system = self._path.is_relative_to("/etc")
        name = self._ask(
            "Name of this gateway", AgentConfig(data="").name, _valid(AgentConfig, "name")
        )
        data = self._ask(
            "Folder for the data",
            "/var/lib/edge-agent" if system else "data",
            _valid(AgentConfig, "data"),
        )
        listen_at = self._ask("Address for HTTP, HOST:PORT", DEFAULT_LISTEN, _address)
        users = [] if is_loopback(parse_listen(listen_at)[0]) else [self._administrator()]
        return Answers(name, data, listen_at, self._devices(), self._remote(), users)

    def _ask(self, text: str, default: str, check: Callable[[str], str]) -> str:
        if self._yes:
            return default
        answer: str = click.prompt(text, default=default, value_proc=check)
        return answer

    def _administrator(self) -> str:
        click.echo("Others can reach that address, so it needs an administrator who logs in.")
        name = click.prompt("Name of the administrator", value_proc=_valid(UserConfig, "name"))
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        return user_table(name, hash_password(password), ["_admin"])

    def _devices(self) -> list[DeviceAnswer]:
        rows = find_rows((), {})
        free = [row for row in rows if row.usable]
        if free and (
            self._yes
            or click.confirm(
                f"Listen to {', '.join(row.port.path for row in free)}, to find out what speaks "
                "there? It may reset boards.",
                default=True,
            )
        ):
            asyncio.run(probe_rows(free, self._seconds, ask=False, bar=True))
        if self._yes:
            heard = [(row, row.heard) for row in free if row.heard is not None]
            return [
                DeviceAnswer(f"device-{n}", row.name, found.adapter, found.baud, found.line)
                for n, (row, found) in enumerate(heard, 1)
            ]
        return self._chosen_devices(rows)

    def _chosen_devices(self, rows: Sequence[Row]) -> list[DeviceAnswer]:
        for number, row in enumerate(rows, 1):
            about = " ".join(filter(None, [row.port.path, row.port.description]))
            found = said(row) if row.heard or row.error else state(row)
            click.echo(f"  {number}  {row.name} ({about}): {found}")
        speaking = [str(number) for number, row in enumerate(rows, 1) if row.heard]
        devices: list[DeviceAnswer] = []
        while True:
            chosen = self._port(rows, speaking.pop(0) if speaking else _NONE)
            if chosen is None:
                return devices
            if any(device.port == chosen[0] for device in devices):
                click.echo("That port is another device's already.")
                continue
            check = _other_than([device.name for device in devices], _valid(DeviceConfig, "name"))
            name = self._ask("Name of the device", f"device-{len(devices) + 1}", check)
            devices.append(self._device(name, *chosen))

    def _port(self, rows: Sequence[Row], default: str) -> tuple[str, Heard | None] | None:
        """The name of a port, and what was heard on it; None when there is no more."""
        numbered = {str(number): row for number, row in enumerate(rows, 1)}
        text = f"Port of a device: a number from above, another port, or {_NONE}"
        answer = self._ask(text, default, _valid(DeviceConfig, "port"))
        if answer == _NONE:
            return None
        if answer in numbered:
            return numbered[answer].name, numbered[answer].heard
        return answer, self._heard_on(answer)

    def _heard_on(self, port: str) -> Heard | None:
        try:
            [row] = find_rows([port], {})
        except PortError as error:
            click.echo(str(error))
            return None
        text = f"Listen to it ({state(row)})? That may reset the board."
        if not click.confirm(text, default=row.usable):
            return None
        asyncio.run(probe_rows([row], self._seconds, ask=False, bar=True))
        click.echo(said(row))
        return row.heard

    def _device(self, name: str, port: str, heard: Heard | None) -> DeviceAnswer:
        if heard is not None:
            return DeviceAnswer(name, port, heard.adapter, heard.baud, heard.line)
        click.echo("Other adapters need settings, or a package: see docs/adapters.")
        adapters = listening_adapters()
        adapter = click.prompt("Adapter", default="cbor-frames", type=click.Choice(adapters))
        baud = self._ask("Baud rate", "115200", _valid(DeviceConfig, "baud"))
        return DeviceAnswer(name, port, adapter, int(baud))

    def _remote(self) -> RemoteAnswer | None:
        text = f"Remote database, http(s)://HOST[:PORT]/DATABASE, or {_NONE}"
        url = self._ask(text, _NONE, _remote_url)
        if url == _NONE:
            return None
        user = self._ask(f"User there, or {_NONE}", _NONE, str)
        if user == _NONE:
            return RemoteAnswer(_REMOTE, url)
        file = self._path.with_name(f"{_REMOTE}.password")
        if file.exists():
            click.confirm(f"{file} is there already; replace it?", abort=True)
        password = click.prompt("Password", hide_input=True)
        self.password = Password(file, password)
        return RemoteAnswer(_REMOTE, url, user, file.name)


def _valid(kind: type[Struct], key: str) -> Callable[[str], str]:
    """A check of an answer that will stand under `key` in a table of that kind."""
    wanted = get_type_hints(kind, include_extras=True)[key]

    def check(text: str) -> str:
        try:
            msgspec.convert(text, wanted, strict=False)
        except msgspec.ValidationError:
            raise click.BadParameter(f"expected {hint([key], kind)}") from None
        return text

    return check


def _other_than(taken: Sequence[str], check: Callable[[str], str]) -> Callable[[str], str]:
    def other(text: str) -> str:
        if text in taken:
            raise click.BadParameter(f"{text} is taken already")
        return check(text)

    return other


def _address(text: str) -> str:
    try:
        parse_listen(text)
    except ConfigError:
        raise click.BadParameter("expected HOST:PORT, for example 127.0.0.1:5984") from None
    return text


def _remote_url(text: str) -> str:
    if text == _NONE:
        return text
    if "@" in urlsplit(text).netloc:
        raise click.BadParameter("user and password are asked for after the URL; leave them out")
    return _valid(RemoteConfig, "url")(text)
