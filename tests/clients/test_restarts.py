"""Followers of changes, unmodified, while the hub is stopped and started again."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ibmcloudant.features.changes_follower import ChangesFollower

from tests.clients.conftest import ADMIN, Hub, running_hub
from tests.clients.test_ibmcloudant import connected, listening
from tests.clients.test_node_clients import HERE, environment
from tests.patience import when_true
from tests.peers.node import node_program

DB = "followed"


@contextmanager
def in_node(hub: Hub, client: str) -> Iterator[list[str]]:
    """The ids of the changes that a follower in Node.js has seen."""
    seen: list[str] = []
    with subprocess.Popen(
        [node_program(), HERE / "follow.mjs", client, DB],
        env=environment(hub),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        lines = process.stdout
        assert lines is not None

        def listen() -> None:
            for id in map(str.strip, lines):
                if id not in seen:  # it may tell of a change more than once
                    seen.append(id)

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield seen
        finally:
            process.stdin.close()
            thread.join()


@contextmanager
def in_python(hub: Hub) -> Iterator[list[str]]:
    """The ids of the changes that the follower of the Python SDK has seen."""
    with connected(hub, ADMIN) as client:
        follower = ChangesFollower(client, db=DB, since="0")
        # By then the hub has ended, and with it the request that is under way.
        with listening(follower, release=lambda: None) as seen:
            yield seen


def test_followers_go_on_when_the_hub_is_back(tmp_path: Path, free_port: int) -> None:
    with ExitStack() as followers:
        with running_hub(tmp_path, port=free_port) as hub, connected(hub, ADMIN) as client:
            client.put_database(db=DB)
            client.post_document(db=DB, document={"_id": "before"})
            seen = {
                "nano": followers.enter_context(in_node(hub, "nano")),
                "cloudant": followers.enter_context(in_node(hub, "cloudant")),
                "ibmcloudant": followers.enter_context(in_python(hub)),
            }
            when_true(lambda: all(ids == ["before"] for ids in seen.values()))
        with running_hub(tmp_path, port=free_port) as hub, connected(hub, ADMIN) as client:
            client.post_document(db=DB, document={"_id": "after"})
            when_true(lambda: all(ids == ["before", "after"] for ids in seen.values()))
