"""`edge-agent bridge`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from agent.bridge import Bridge, bridge_for
from agent.cli.broker import broker_from, broker_options
from agent.cli.options import password_from
from agent.config import parse_listen
from agent.process import run_until_signalled

_LISTEN = "127.0.0.1:5985"


@click.command()
@broker_options(required=True)
@click.option(
    "--upstream",
    "upstreams",
    required=True,
    multiple=True,
    metavar="URL",
    help="A database that gateways reach by its name: http(s)://[USER[:PASSWORD]@]HOST/NAME; "
    "repeatable.",
)
@click.option(
    "--upstream-password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The password for the user in the upstream's URL.",
)
@click.option(
    "--upstream-password-env",
    metavar="NAME",
    help="The environment variable that has it, instead.",
)
@click.option(
    "--upstream-ca-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The authorities (PEM) that may have signed the upstream's certificate.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default=_LISTEN,
    show_default=True,
    help="Where edge-agent status asks; a loopback address. Port 0 takes a free one.",
)
def bridge_command(
    broker: str,
    upstreams: tuple[str, ...],
    upstream_password_file: Path | None,
    upstream_password_env: str | None,
    upstream_ca_file: Path | None,
    listen: str,
    **options: Any,
) -> None:
    """Run a bridge: gateways on an MQTT broker replicate with CouchDB or Cloudant through it.

    It keeps nothing, so several may share the work (the same --group), and any may end at any time.
    """
    password = password_from(upstream_password_file, upstream_password_env)
    bridge = bridge_for(
        broker_from(broker=broker, **options),
        upstreams,
        password=password,
        ca_file=upstream_ca_file,
        listen=parse_listen(listen),
    )
    asyncio.run(run_until_signalled(bridge, _ready))


def _ready(bridge: Bridge) -> None:
    assert bridge.server is not None  # noqa: S101
    click.echo(f"listening on {bridge.server.url} (serving {', '.join(bridge.names)})")
