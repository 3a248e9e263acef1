"""`edge-agent run` and `edge-agent hub`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from agent.cli.options import config_option
from agent.config import DEFAULT_LISTEN, HubConfig, load, load_hub
from agent.runtime import Agent, run_until_signalled


@click.command()
@config_option
def run_command(config_path: Path) -> None:
    """Run the agent: record the devices, replicate with the remotes, serve HTTP.

    Ends in order, with nothing lost, at SIGTERM or Ctrl-C.
    """
    asyncio.run(run_until_signalled(Agent.from_config(load(config_path)), _ready))


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
    help="A file with [[user]] tables (edge-agent user add makes them) and a [server] table.",
)
def hub_command(data: Path, listen: str | None, config_path: Path | None) -> None:
    """Run a hub: a CouchDB-compatible server for gateways and clients to replicate with.

    Without users it listens on loopback only, and everybody on this machine is an administrator.
    """
    config = HubConfig() if config_path is None else load_hub(config_path)
    if listen is not None:
        config.server.listen = listen
    asyncio.run(run_until_signalled(Agent(data, config.server, config.user), _ready))


def _ready(agent: Agent) -> None:
    assert agent.server is not None  # noqa: S101
    click.echo(f"listening on {agent.server.url} (data in {agent.databases.folder})")
