"""Ports for servers that tests start."""

from __future__ import annotations

import os
import random
import socket

import pytest

# Below the range that Linux takes the ports of outgoing connections from (32768 and up), so that
# no connection grabs the port between the moment it is found and the moment the server listens.
# Tests run side by side, and each of those who run them has a range of its own for the same reason.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = range(20_000 + _WORKER % 12 * 1_000, 21_000 + _WORKER % 12 * 1_000)
_TRIES = 100
_random = random.SystemRandom()  # hypothesis seeds the usual one


def find_free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on."""
    for _ in range(_TRIES):
        port = _random.choice(_PORTS)
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
