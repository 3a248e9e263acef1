"""Options for a hub or a bridge that serves databases on an MQTT broker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agent.cli.options import password_from
from agent.config import host_name
from agent.errors import ConfigError
from agent.peers.mqtt_topics import DEFAULT_GROUP, parse_broker_url
from agent.peers.urls import Credentials

if TYPE_CHECKING:
    from agent.server.mqtt import Broker

_CommandT = TypeVar("_CommandT", bound=Callable[..., Any])

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


def broker_options(*, required: bool) -> Callable[[_CommandT], _CommandT]:
    """The options, which the command passes on to `broker_from`."""
    options = [
        click.option(
            "--broker",
            metavar="URL",
            required=required,
            help="Serve on an MQTT broker: mqtt(s) or ws(s)://[USER[:PASSWORD]@]HOST[/PREFIX].",
        ),
        click.option(
            "--broker-password-file",
            type=_file,
            metavar="FILE",
            help="The password for the user in the broker's URL.",
        ),
        click.option(
            "--broker-password-env",
            metavar="NAME",
            help="The environment variable that has it, instead.",
        ),
        click.option(
            "--broker-ca-file",
            type=_file,
            metavar="FILE",
            help="The authorities (PEM) that may have signed the broker's certificate.",
        ),
        click.option(
            "--broker-certificate",
            type=_file,
            metavar="FILE",
            help="A certificate (PEM) by which the broker knows this client.",
        ),
        click.option(
            "--broker-key",
            type=_file,
            metavar="FILE",
            help="The certificate's private key (PEM), where it is not in the same file.",
        ),
        click.option(
            "--group",
            metavar="NAME",
            default=DEFAULT_GROUP,
            show_default=True,
            help="All that serve the same databases divide the requests among them by this name.",
        ),
        click.option("--name", metavar="NAME", help="The name in topics.  [default: the host's]"),
    ]

    def decorate(command: _CommandT) -> _CommandT:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def broker_from(
    *,
    broker: str,
    broker_password_file: Path | None,
    broker_password_env: str | None,
    broker_ca_file: Path | None,
    broker_certificate: Path | None,
    broker_key: Path | None,
    group: str,
    name: str | None,
) -> Broker:
    """What the options mean. Raises ConfigError."""
    from agent.peers.mqtt_tls import TlsFiles
    from agent.server.mqtt import Broker

    url, credentials = parse_broker_url(broker)
    password = password_from(broker_password_file, broker_password_env)
    if password is not None:
        if credentials is None:
            raise ConfigError("a password for the broker needs a user in the broker's URL")
        credentials = Credentials(credentials.user, password)
    if not group or any(letter in "+#/" for letter in group):
        raise ConfigError("--group: a name without + # /, for example --group edge-sync")
    tls = TlsFiles(broker_ca_file, broker_certificate, broker_key)
    return Broker(url, credentials, tls, name or host_name(), group)
