"""Ports for servers that tests start."""

from __future__ import annotations

import random
import socket

import pytest

# Below the range that Linux takes the ports of outgoing connections from (32768 and up), so that
# no connection grabs the port between the moment it is found and the moment the server listens.
_PORTS = range(20_000, 32_768)
_TRIES = 100


def find_free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on."""
    for _ in range(_TRIES):
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free TCP port was found in {_TRIES} tries")


@pytest.fixture
def free_port() -> int:
    """A free port on the loopback interface."""
    return find_free_port()
