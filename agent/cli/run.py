"""`edge-agent run` and `edge-agent hub`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from agent.cli.options import config_option
from agent.config import load
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
    default="127.0.0.1:5984",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to serve HTTP; port 0 takes a free one.",
)
def hub_command(data: Path, listen: str) -> None:
    """Run a hub: a CouchDB-compatible server for gateways and clients to replicate with."""
    asyncio.run(run_until_signalled(Agent(data, listen), _ready))


def _ready(agent: Agent) -> None:
    assert agent.server is not None  # noqa: S101
    click.echo(f"listening on {agent.server.url} (data in {agent.databases.folder})")
