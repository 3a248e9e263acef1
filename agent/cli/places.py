"""Databases as commands name them: by the path of a store, or by a URL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from agent.cli.options import ca_file_option, read_password
from agent.errors import ConfigError, NotFoundError
from agent.peers.couchdb import CouchPeer
from agent.peers.local import LocalPeer
from agent.peers.mqtt_topics import is_mqtt
from agent.peers.peer import Peer
from agent.store.store import Store

_CommandT = TypeVar("_CommandT", bound=Callable[..., Any])


def place_options(command: _CommandT) -> _CommandT:
    """--source-password-file, --target-password-file and --ca-file."""
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    for option in (
        ca_file_option,
        click.option(
            "--target-password-file",
            type=file,
            metavar="FILE",
            help="The password for the user in TARGET.",
        ),
        click.option(
            "--source-password-file",
            type=file,
            metavar="FILE",
            help="The password for the user in SOURCE, where the process list does not show it.",
        ),
    ):
        command = option(command)
    return command


@contextlib.asynccontextmanager
async def opened(
    place: str,
    password_file: Path | None,
    ca_file: Path | None,
    *,
    create: bool = False,
    or_else: str = "",
) -> AsyncIterator[Peer]:
    """`or_else`: what helps besides another path where there is no store, such as ", or ...".

    Raises ConfigError, NotFoundError, StoreError.
    """
    if "://" in place:
        password = None
        if password_file is not None:
            password = await asyncio.to_thread(read_password, password_file)
        peer = _remote(place, password, ca_file)
        try:
            yield peer
        finally:
            await peer.close()
    elif "@" in place:
        # Not shown: what stands before the @ may be a password.
        raise ConfigError("a URL has to begin with http:// or https://")
    else:
        try:
            store = await Store.open(Path(place), create=create)
        except NotFoundError as error:
            raise NotFoundError(f"{error}; check the path{or_else}") from None
        try:
            yield LocalPeer(store)
        finally:
            await store.close()


def _remote(url: str, password: str | None, ca_file: Path | None) -> Peer:
    if is_mqtt(url):
        from agent.peers.mqtt import MqttPeer
        from agent.peers.mqtt_tls import TlsFiles

        return MqttPeer.from_url(url, password=password, tls=TlsFiles(ca_file))
    return CouchPeer.from_url(url, password=password, ca_file=ca_file)
