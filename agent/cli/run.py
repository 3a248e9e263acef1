"""`edge-agent run` and `edge-agent hub`."""

from __future__ import annotations

import asyncio
import os
import pwd
from pathlib import Path
from typing import Any

import click

from agent.cli.broker import broker_from, broker_options
from agent.cli.options import config_option
from agent.config import DEFAULT_LISTEN, HubConfig
from agent.config_file import load, load_hub, naming
from agent.conflict_policies import policies_for
from agent.errors import PermanentError
from agent.process import run_until_signalled
from agent.runtime import Agent


@click.command()
@config_option
def run_command(config_path: Path) -> None:
    """Run the agent: record the devices, replicate with the remotes, serve HTTP.

    Ends in order, with nothing lost, at SIGTERM or Ctrl-C.
    """
    config = load(config_path)
    with naming(config_path):
        _serve(Agent.from_config(config))


@click.command()
@click.option(
    "--data",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of the databases; made if it is missing.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help=f"Where to serve HTTP; port 0 takes a free one.  [default: {DEFAULT_LISTEN}]",
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file with a [server] table, [[user]] (edge-agent user add makes them), [[hook]] and "
    "[[conflict]].",
)
@broker_options(required=False)
def hub_command(
    data: Path, listen: str | None, config_path: Path | None, broker: str | None, **options: Any
) -> None:
    """Run a hub: a CouchDB-compatible server for gateways and clients to replicate with.

    Without users it listens on loopback only, and everybody on this machine is an administrator.
    With --broker its databases are served over MQTT, too; the broker says who may use them there.
    """
    config = HubConfig() if config_path is None else load_hub(config_path)
    if listen is not None:
        config.server.listen = listen
    if broker is None and any(options[key] for key in options if key.startswith("broker_")):
        raise click.UsageError("the options for a broker need --broker URL")
    on_broker = None if broker is None else broker_from(broker=broker, **options)
    if config_path is not None:
        with naming(config_path):
            policies_for(config.conflict)
    _serve(
        Agent(
            data,
            config.server,
            config.user,
            broker=on_broker,
            hooks=config.hook,
            conflicts=config.conflict,
        )
    )


def _serve(agent: Agent) -> None:
    _check_user(agent.databases.folder)
    # The stores are for this user only: among them is `_replicator`, with the passwords of remotes.
    # `edge-agent replicate` leaves that to the umask, since its user names the file.
    os.umask(0o077)
    asyncio.run(run_until_signalled(agent, _ready))


def _check_user(folder: Path) -> None:
    """Raises PermanentError for root, among the data of a user who could not use what root makes
    there. One that has no name here, as in a container, is left to root."""
    try:
        owner = folder.stat().st_uid
        name = pwd.getpwuid(owner).pw_name
    except (OSError, KeyError):
        return
    if os.geteuid() == 0 != owner:
        raise PermanentError(
            f"{folder}: these are the data of the user {name}, who could not use what root makes "
            f"there; run this as {name}: runuser -u {name} -- edge-agent ..."
        )


def _ready(agent: Agent) -> None:
    assert agent.server is not None  # noqa: S101
    click.echo(f"listening on {agent.server.url} (data in {agent.databases.folder})")
