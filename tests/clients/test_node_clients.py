"""The clients for Node.js, unmodified, with a real hub.

Their tests are programs for Node.js in the files beside this one; here each file is one test.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import ADMIN, MEMBER, Hub
from tests.patience import PATIENCE
from tests.peers.node import node_program
from tests.server.accounts import password_of

HERE = Path(__file__).resolve().parent


def environment(hub: Hub) -> dict[str, str]:
    """What packages.mjs looks for."""
    users = {"admin": ADMIN, "member": MEMBER}
    told = {who: {"name": name, "password": password_of(name)} for who, name in users.items()}
    return {**os.environ, "HUB": json.dumps({"url": hub.url, **told})}


@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("*.test.mjs")))
def test_client(hub: Hub, file: str) -> None:
    done = subprocess.run(
        [node_program(), "--test-reporter=spec", HERE / file],
        env=environment(hub),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
